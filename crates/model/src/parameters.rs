//! The parameters of a model: names and shapes as in the Hugging Face checkpoint, values on the device.
//!
//! Linear weights are held `[out, in]`; GPT-2's checkpoints store them the other way round (`Conv1D`), so such
//! a parameter is transposed on the way in and out. Each parameter belongs to one *group* (embedding, a
//! block's attention or MLP, norms, head) for the geometry, and knows whether weight decay applies (as in
//! transformers' Trainer: not to biases and norm weights).

use crate::error::ModelError;
use crate::weights::{StoredDtype, Weights, save_safetensors};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use unbraid_tensor::Backend;

/// Index of a parameter in its [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// How a parameter starts when a model is created from a configuration alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f64),
    /// All zeros (biases).
    Zeros,
    /// All ones (norm weights).
    Ones,
}

/// What is fixed about a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Whether the checkpoint's matrix is the transpose of ours.
    pub transposed: bool,
    /// Geometry group: `embedding`, `layers.N.attention`, `layers.N.mlp`, `norms`, `head`.
    pub group: String,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Starting value of a fresh model.
    pub init: Init,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Collects the specifications while a family describes itself.
#[derive(Default)]
pub struct SpecList(pub(crate) Vec<ParamSpec>);

impl SpecList {
    /// A matrix `[out, in]` as checkpoints store it.
    pub fn matrix(&mut self, name: String, shape: [usize; 2], group: &str, std: f64) -> ParamId {
        self.push(name, shape.to_vec(), false, group, true, Init::Normal(std))
    }

    /// A matrix that the checkpoint stores `[in, out]`.
    pub fn conv1d(&mut self, name: String, shape: [usize; 2], group: &str, std: f64) -> ParamId {
        self.push(name, shape.to_vec(), true, group, true, Init::Normal(std))
    }

    /// A norm's weight.
    pub fn norm(&mut self, name: String, len: usize) -> ParamId {
        self.push(name, vec![len], false, "norms", false, Init::Ones)
    }

    /// A bias of a norm or a linear map.
    pub fn bias(&mut self, name: String, len: usize, group: &str) -> ParamId {
        self.push(name, vec![len], false, group, false, Init::Zeros)
    }

    fn push(
        &mut self,
        name: String,
        shape: Vec<usize>,
        transposed: bool,
        group: &str,
        decay: bool,
        init: Init,
    ) -> ParamId {
        self.0.push(ParamSpec {
            name,
            shape,
            transposed,
            group: group.into(),
            decay,
            init,
        });
        ParamId(self.0.len() - 1)
    }
}

/// Names, shapes and values.
pub struct Parameters<B: Backend> {
    /// What is fixed about each parameter.
    pub specs: Vec<ParamSpec>,
    /// The value of each parameter.
    pub values: Vec<B::Buffer>,
}

fn transpose(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for (i, row) in data.chunks_exact(cols).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            out[j * rows + i] = x;
        }
    }
    out
}

impl<B: Backend> Parameters<B> {
    /// Reads every parameter from a checkpoint.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or a value that is not finite, with the tensor's name.
    pub fn load(backend: &B, specs: Vec<ParamSpec>, weights: &Weights) -> Result<Self, ModelError> {
        let mut values = Vec::with_capacity(specs.len());
        for spec in &specs {
            let data = weights.read_f32(&spec.name, &spec.shape)?;
            values.push(if spec.transposed {
                backend.upload(&transpose(&data, spec.shape[0], spec.shape[1]))
            } else {
                backend.upload(&data)
            });
        }
        Ok(Parameters { specs, values })
    }

    /// Fresh parameters drawn from each one's [`Init`].
    pub fn random(backend: &B, specs: Vec<ParamSpec>, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || {
            // Box-Muller: two uniforms make one normal.
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
        };
        let values = specs
            .iter()
            .map(|spec| {
                let data: Vec<f32> = match spec.init {
                    Init::Normal(std) => (0..spec.len()).map(|_| (std * normal()) as f32).collect(),
                    Init::Zeros => vec![0.0; spec.len()],
                    Init::Ones => vec![1.0; spec.len()],
                };
                backend.upload(&data)
            })
            .collect();
        Parameters { specs, values }
    }

    /// One parameter in the checkpoint's orientation.
    pub fn export(&self, backend: &B, id: ParamId) -> Vec<f32> {
        let (spec, data) = (&self.specs[id.0], backend.download(&self.values[id.0]));
        if spec.transposed {
            transpose(&data, spec.shape[1], spec.shape[0])
        } else {
            data
        }
    }

    /// Writes `model.safetensors` (sharded when large) into `dir`.
    ///
    /// # Errors
    /// What the file system refuses, with the path; nothing half-written stays under the final name.
    pub fn save(&self, backend: &B, dir: &Path, dtype: StoredDtype) -> Result<(), ModelError> {
        let tensors: Vec<(String, Vec<usize>)> = self
            .specs
            .iter()
            .map(|s| (s.name.clone(), s.shape.clone()))
            .collect();
        let fetch = |i: usize| Ok(self.export(backend, ParamId(i)));
        save_safetensors(dir, &tensors, fetch, dtype, MAX_SHARD_BYTES)
    }

    /// Total number of elements.
    pub fn count(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// The value of a parameter.
    pub fn get(&self, id: ParamId) -> &B::Buffer {
        &self.values[id.0]
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|s| s.name == name).map(ParamId)
    }
}

/// Shards are at most this large, as transformers writes them.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;
