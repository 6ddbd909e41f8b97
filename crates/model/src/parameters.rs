//! The parameters of a model: names and shapes as in the Hugging Face checkpoint, values on the device.
//!
//! Linear weights are held `[out, in]`; GPT-2's checkpoints store them the other way round (`Conv1D`), so such
//! a parameter is transposed on the way in and out. Each parameter belongs to one *group* (embedding, a
//! block's attention or MLP, norms, head) for the geometry, and knows whether weight decay applies (as in
//! transformers' Trainer: not to biases and norm weights).

use crate::error::ModelError;
use crate::lora::Adapter;
use crate::weights::{StoredDtype, Weights, save_safetensors};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use std::path::Path;
use unbraid_tensor::Backend;

/// Index of a parameter in its [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// How matrices are held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In the backend's own precision: what is trained must be.
    #[default]
    Float32,
    /// Rounded to bfloat16, half the memory, for weights that stay as they are.
    Bfloat16,
}

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

/// What a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// The model itself.
    Base,
    /// A low-rank adapter.
    Adapter,
    /// What a run trains beside the model (the token mask), saved with it but no part of it.
    Extra,
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
    /// What it belongs to.
    pub kind: ParamKind,
    /// Factor on the run's learning rate.
    pub learning_rate_factor: f64,
}

impl ParamSpec {
    /// Whether this is the weight of a linear map inside a block: what a low-rank adapter can attach to.
    pub fn adaptable(&self) -> bool {
        self.kind == ParamKind::Base && self.shape.len() == 2 && self.group.starts_with("layers.")
    }

    /// (d_out, d_in) of a matrix, as held here.
    pub fn out_in(&self) -> (usize, usize) {
        match (&self.shape[..], self.transposed) {
            (&[d_in, d_out], true) => (d_out, d_in),
            (&[d_out, d_in], false) => (d_out, d_in),
            (shape, _) => unreachable!("only matrices are asked for this, not {shape:?}"),
        }
    }

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
            kind: ParamKind::Base,
            learning_rate_factor: 1.0,
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
    trainable: Vec<bool>,
    storage: Storage,
    /// The adapter of each weight that has one, by the weight's number.
    adapters: Vec<Option<Adapter>>,
    /// The adapter of a table as it is looked up, which as a head may have another.
    lookup: Option<(ParamId, Adapter)>,
    adapters_on: bool,
    /// Parameters trained whole beside an adapter, with the value that is not in use: the frozen one while
    /// adapters are on, the trained one while they are off.
    copies: Vec<(ParamId, B::Buffer)>,
}

impl<B: Backend> Parameters<B> {
    /// `values` in the order of `specs`, matrices held as `storage` says.
    pub(crate) fn new(specs: Vec<ParamSpec>, values: Vec<B::Buffer>, storage: Storage) -> Self {
        Parameters {
            storage,
            trainable: vec![true; specs.len()],
            adapters: vec![None; specs.len()],
            lookup: None,
            adapters_on: true,
            copies: Vec::new(),
            specs,
            values,
        }
    }

    /// Whether training changes a parameter: all of a model's own, or the adapter's alone.
    pub fn is_trainable(&self, id: ParamId) -> bool {
        self.trainable[id.0]
    }

    /// Numbers of the trainable parameters.
    pub fn trainable(&self) -> impl Iterator<Item = ParamId> + '_ {
        let trained = self.trainable.iter().enumerate().filter(|(_, t)| **t);
        trained.map(|(i, _)| ParamId(i))
    }

    /// Number of trainable elements.
    pub fn trainable_count(&self) -> usize {
        self.trainable().map(|id| self.specs[id.0].len()).sum()
    }

    /// Adds a trainable parameter beside the model's own.
    pub fn push(&mut self, spec: ParamSpec, value: B::Buffer) -> ParamId {
        self.specs.push(spec);
        self.values.push(value);
        self.trainable.push(true);
        self.adapters.push(None);
        ParamId(self.specs.len() - 1)
    }

    /// The adapter of a weight, when there is one and adapters are on.
    pub fn adapter(&self, weight: ParamId) -> Option<Adapter> {
        self.adapters[weight.0].filter(|_| self.adapters_on)
    }

    pub(crate) fn set_adapter(&mut self, weight: ParamId, adapter: Adapter) {
        self.adapters[weight.0] = Some(adapter);
    }

    /// The adapter of a table as it is looked up, when there is one and adapters are on.
    pub fn lookup_adapter(&self, table: ParamId) -> Option<Adapter> {
        let (adapted, adapter) = self.lookup?;
        (self.adapters_on && adapted == table).then_some(adapter)
    }

    pub(crate) fn set_lookup_adapter(&mut self, table: ParamId, adapter: Adapter) {
        self.lookup = Some((table, adapter));
    }

    /// The table's adapter, which it then has no more.
    pub(crate) fn take_lookup_adapter(&mut self) -> Option<(ParamId, Adapter)> {
        self.lookup.take()
    }

    /// Hands one weight's adapter to another of the same shape.
    pub(crate) fn move_adapter(&mut self, from: ParamId, to: ParamId) {
        self.adapters[to.0] = self.adapters[from.0].take();
    }

    /// Adds a copy of a parameter of the base under another name and group, trainable if the base is.
    pub(crate) fn copy_base(
        &mut self,
        backend: &B,
        id: ParamId,
        name: &str,
        group: &str,
    ) -> ParamId {
        let spec = ParamSpec {
            name: name.into(),
            group: group.into(),
            ..self.specs[id.0].clone()
        };
        let value = backend.upload(&backend.download(&self.values[id.0]));
        let trained = self.trainable[id.0];
        let copy = self.push(spec, value);
        self.trainable[copy.0] = trained;
        copy
    }

    /// Holds a parameter in the backend's own precision, whatever it was held in.
    pub(crate) fn widen(&mut self, backend: &B, id: ParamId) {
        self.values[id.0] = backend.upload(&backend.download(&self.values[id.0]));
    }

    /// Every adapter with its weight; afterwards there is none, and what is left is trainable again.
    pub(crate) fn take_adapters(&mut self) -> Vec<(ParamId, Adapter)> {
        let taken = self.adapters.iter_mut().enumerate();
        let taken = taken.filter_map(|(i, slot)| Some((ParamId(i), slot.take()?)));
        let taken = taken.collect();
        self.copies.clear();
        self.trainable.fill(true);
        for (i, spec) in self.specs.iter().enumerate() {
            self.trainable[i] = spec.kind != ParamKind::Adapter;
        }
        taken
    }

    pub(crate) fn freeze_base(&mut self) {
        for (i, spec) in self.specs.iter().enumerate() {
            self.trainable[i] = spec.kind != ParamKind::Base;
        }
    }

    /// Trains a parameter of the base whole, keeping its present value for when adapters are off.
    pub(crate) fn train_copy(&mut self, backend: &B, id: ParamId) {
        if !self.trainable[id.0] {
            let data = backend.download(&self.values[id.0]);
            let trained = backend.upload(&data);
            let frozen = std::mem::replace(&mut self.values[id.0], trained);
            self.copies.push((id, frozen));
            self.trainable[id.0] = true;
        }
    }

    pub(crate) fn switch_adapters(&mut self, on: bool) {
        if std::mem::replace(&mut self.adapters_on, on) != on {
            for (id, other) in &mut self.copies {
                std::mem::swap(&mut self.values[id.0], other);
            }
        }
    }
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
    /// Reads every parameter from a checkpoint; one that it lacks under its own name may have `other_name`.
    ///
    /// # Errors
    /// A missing tensor, a wrong shape, or a value that is not finite, with the tensor's name.
    pub fn load(
        backend: &B,
        specs: Vec<ParamSpec>,
        weights: &Weights,
        storage: Storage,
        other_name: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self, ModelError> {
        let mut values = Vec::with_capacity(specs.len());
        for spec in &specs {
            let present = |name: &&str| weights.shape(name).is_some();
            let other = match weights.shape(&spec.name) {
                None => other_name(&spec.name).filter(present),
                Some(_) => None,
            };
            let name = other.unwrap_or(&spec.name);
            let mut data = weights.read_f32(name, &spec.shape)?;
            if spec.transposed {
                data = transpose(&data, spec.shape[0], spec.shape[1]);
            }
            let matrix = spec.shape.len() == 2;
            values.push(match storage {
                Storage::Bfloat16 if matrix => backend.upload_bf16(&data),
                _ => backend.upload(&data),
            });
        }
        Ok(Parameters::new(specs, values, storage))
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
        Parameters::new(specs, values, Storage::Float32)
    }

    /// One parameter in the checkpoint's orientation.
    pub fn export(&self, backend: &B, id: ParamId) -> Cow<'_, [f32]> {
        let (spec, data) = (&self.specs[id.0], backend.view(&self.values[id.0]));
        if spec.transposed {
            transpose(&data, spec.shape[1], spec.shape[0]).into()
        } else {
            data
        }
    }

    /// Writes the model's own parameters as `model.safetensors` (sharded when large) into `dir`.
    ///
    /// # Errors
    /// What the file system refuses, with the path; nothing half-written stays under the final name.
    pub fn save(&self, backend: &B, dir: &Path, dtype: StoredDtype) -> Result<(), ModelError> {
        let own: Vec<ParamId> = self.of_kind(ParamKind::Base).collect();
        let describe = |id: &ParamId| {
            let spec = &self.specs[id.0];
            (spec.name.clone(), spec.shape.clone())
        };
        let tensors: Vec<(String, Vec<usize>)> = own.iter().map(describe).collect();
        let fetch = |i: usize| Ok(self.export(backend, own[i]));
        save_safetensors(dir, &tensors, fetch, dtype, MAX_SHARD_BYTES)
    }

    /// Numbers of the parameters of one kind.
    pub fn of_kind(&self, kind: ParamKind) -> impl Iterator<Item = ParamId> + '_ {
        let matching = self.specs.iter().enumerate();
        let matching = matching.filter(move |(_, s)| s.kind == kind);
        matching.map(|(i, _)| ParamId(i))
    }

    /// Sets a parameter from values in the checkpoint's orientation.
    pub fn import(&mut self, backend: &B, id: ParamId, data: &[f32]) {
        let spec = &self.specs[id.0];
        self.values[id.0] = if spec.transposed {
            backend.upload(&transpose(data, spec.shape[0], spec.shape[1]))
        } else {
            backend.upload(data)
        };
    }

    /// Total number of elements.
    pub fn count(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// How the matrices are held, for what depends on the last digits.
    pub fn storage(&self) -> Storage {
        self.storage
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
