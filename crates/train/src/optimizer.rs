//! Optimizers over all trainable parameters, equal to PyTorch's (Adafactor: transformers') step by step.
//!
//! State lies in buffers by parameter; a checkpoint holds them under `<parameter>.<buffer>` in
//! `optimizer.safetensors`, with f32 copies of the trained parameters (`<parameter>.master`) where the model's own
//! file is in a narrower type. Weight decay spares biases and norm weights.
//! Tested in `tests/optimizers.rs`.

use crate::error::TrainError;
use serde::Serialize;
use std::path::Path;
use unbraid_model::weights::{StoredDtype, Weights, save_safetensors_file};
use unbraid_model::{Gradients, ParamId, ParamSpec, Parameters};
use unbraid_tensor::{Adafactor, Adamw, Backend};

/// Which optimizer, with its hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), as `torch.optim.AdamW`.
    AdamW {
        /// Decay of the gradient's mean.
        beta1: f64,
        /// Decay of the gradient's mean square.
        beta2: f64,
        /// Added to the root of the mean square.
        epsilon: f64,
    },
    /// Gradient descent, with momentum when it is not 0, as `torch.optim.SGD`: weight decay is added to the gradient.
    Sgd {
        /// Momentum.
        momentum: f64,
    },
    /// Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) as transformers' Trainer calls it: `scale_parameter=False,
    /// relative_step=False`, no first moment. A matrix's second moment is one number for each row and each column.
    Adafactor,
    /// Lion (Chen et al. 2023, arXiv 2302.06675): one buffer, steps of the same size everywhere.
    Lion {
        /// Share of the momentum in the direction of a step.
        beta1: f64,
        /// Decay of the momentum.
        beta2: f64,
    },
}

impl OptimizerKind {
    /// Buffers of one parameter: name and shape. Adafactor factors matrices, as transformers does.
    fn buffers(self, spec: &ParamSpec) -> Vec<(&'static str, Vec<usize>)> {
        let whole = || held_shape(spec);
        match self {
            OptimizerKind::AdamW { .. } => vec![("exp_avg", whole()), ("exp_avg_sq", whole())],
            OptimizerKind::Sgd { momentum: 0.0 } => Vec::new(),
            OptimizerKind::Sgd { .. } => vec![("momentum_buffer", whole())],
            OptimizerKind::Lion { .. } => vec![("exp_avg", whole())],
            OptimizerKind::Adafactor => match whole()[..] {
                [rows, cols] => vec![
                    ("exp_avg_sq_row", vec![rows]),
                    ("exp_avg_sq_col", vec![cols]),
                ],
                _ => vec![("exp_avg_sq", whole())],
            },
        }
    }
}

/// The shape of a parameter as it is held: a matrix that the model's file holds transposed is `[out, in]` here.
pub(crate) fn held_shape(spec: &ParamSpec) -> Vec<usize> {
    match spec.shape[..] {
        [rows, cols] if spec.transposed => vec![cols, rows],
        _ => spec.shape.clone(),
    }
}

/// Adafactor's constants, transformers' defaults.
const DECAY_RATE: f64 = -0.8;
const EPSILON: f64 = 1e-30;
const CLIP_THRESHOLD: f64 = 1.0;

/// An optimizer's settings and state.
pub struct Optimizer<B: Backend> {
    pub(crate) kind: OptimizerKind,
    pub(crate) weight_decay: f64,
    pub(crate) step: u64,
    /// For each parameter its buffers, as [`OptimizerKind`] lists them; none for a frozen one.
    pub(crate) state: Vec<Vec<B::Buffer>>,
}

impl<B: Backend> Optimizer<B> {
    /// An optimizer with zero state for the parameters that have a gradient.
    pub fn new(
        backend: &B,
        kind: OptimizerKind,
        weight_decay: f64,
        params: &Parameters<B>,
        gradients: &Gradients<B>,
    ) -> Self {
        let zeros = |(_, shape): (_, Vec<usize>)| backend.zeros(shape.iter().product());
        let state = params
            .specs
            .iter()
            .zip(&gradients.values)
            .map(|(spec, gradient)| match gradient {
                Some(_) => kind.buffers(spec).into_iter().map(zeros).collect(),
                None => Vec::new(),
            })
            .collect();
        Optimizer {
            kind,
            weight_decay,
            step: 0,
            state,
        }
    }

    /// Adafactor's hyper-parameters in this step.
    pub(crate) fn adafactor(
        step: u64,
        learning_rate: f64,
        weight_decay: f64,
        grad_scale: f64,
    ) -> Adafactor {
        Adafactor {
            learning_rate,
            decay_rate: DECAY_RATE,
            epsilon: EPSILON,
            clip_threshold: CLIP_THRESHOLD,
            weight_decay,
            step,
            grad_scale,
        }
    }

    /// One step with `gradients · grad_scale`.
    pub fn step(
        &mut self,
        backend: &B,
        params: &mut Parameters<B>,
        gradients: &Gradients<B>,
        learning_rate: f64,
        grad_scale: f64,
    ) {
        self.step += 1;
        for (i, gradient) in gradients.values.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let spec = &params.specs[i];
            let learning_rate = learning_rate * spec.learning_rate_factor;
            let decay = if spec.decay { self.weight_decay } else { 0.0 };
            let shape = held_shape(spec);
            let (value, state) = (&mut params.values[i], &mut self.state[i][..]);
            let adafactor = Self::adafactor(self.step, learning_rate, decay, grad_scale);
            match (self.kind, state) {
                (
                    OptimizerKind::AdamW {
                        beta1,
                        beta2,
                        epsilon,
                    },
                    [m, v],
                ) => {
                    let step = Adamw {
                        learning_rate,
                        beta1,
                        beta2,
                        epsilon,
                        weight_decay: decay,
                        step: self.step,
                        grad_scale,
                    };
                    backend.adamw(&step, value, gradient, m, v);
                }
                (OptimizerKind::Sgd { momentum }, state) => {
                    let momentum = state.first_mut().map(|buffer| (momentum, buffer));
                    backend.sgd(learning_rate, decay, grad_scale, value, gradient, momentum);
                }
                (OptimizerKind::Adafactor, [rows, cols]) => {
                    let (r, c) = (shape[0], shape[1]);
                    backend.adafactor(&adafactor, r, c, value, gradient, rows, cols);
                }
                (OptimizerKind::Adafactor, [v]) => {
                    backend.adafactor_vector(&adafactor, value, gradient, v);
                }
                (OptimizerKind::Lion { beta1, beta2 }, [m]) => {
                    let (rate, scale) = (learning_rate, grad_scale);
                    backend.lion(rate, decay, beta1, beta2, scale, value, gradient, m);
                }
                (kind, _) => unreachable!("{kind:?} has the buffers that it lists"),
            }
        }
    }

    /// Writes all buffers, and with `masters` the trained parameters, into one file.
    ///
    /// # Errors
    /// What the file system refuses.
    pub(crate) fn save(
        &self,
        backend: &B,
        params: &Parameters<B>,
        path: &Path,
        masters: bool,
    ) -> Result<(), TrainError> {
        let mut tensors = Vec::new();
        let mut sources = Vec::new();
        for (i, (spec, state)) in params.specs.iter().zip(&self.state).enumerate() {
            for (buffer, (name, shape)) in state.iter().zip(self.kind.buffers(spec)) {
                tensors.push((format!("{}.{name}", spec.name), shape));
                sources.push((i, Some(buffer)));
            }
            if masters && params.is_trainable(ParamId(i)) {
                tensors.push((format!("{}.master", spec.name), spec.shape.clone()));
                sources.push((i, None));
            }
        }
        let fetch = |k: usize| {
            let (i, buffer) = sources[k];
            Ok(match buffer {
                Some(buffer) => backend.view(buffer),
                None => params.export(backend, ParamId(i)),
            })
        };
        Ok(save_safetensors_file(
            path,
            &tensors,
            fetch,
            StoredDtype::F32,
        )?)
    }

    /// Reads what [`Optimizer::save`] wrote after `step` steps.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another optimizer or model, with the tensor's name.
    pub(crate) fn restore(
        &mut self,
        backend: &B,
        params: &mut Parameters<B>,
        path: &Path,
        step: u64,
    ) -> Result<(), TrainError> {
        let file = Weights::open(path)?;
        for i in 0..params.specs.len() {
            let spec = &params.specs[i];
            for (buffer, (name, shape)) in self.state[i].iter_mut().zip(self.kind.buffers(spec)) {
                let data = file.read_f32(&format!("{}.{name}", spec.name), &shape)?;
                *buffer = backend.upload(&data);
            }
        }
        restore_masters(backend, params, &file)?;
        self.step = step;
        Ok(())
    }
}

/// Sets the trained parameters to their f32 copies in an optimizer's file, where it has them.
///
/// # Errors
/// A tensor of another shape.
pub(crate) fn restore_masters<B: Backend>(
    backend: &B,
    params: &mut Parameters<B>,
    file: &Weights,
) -> Result<(), TrainError> {
    let trained: Vec<ParamId> = params.trainable().collect();
    for id in trained {
        let spec = &params.specs[id.0];
        let name = format!("{}.master", spec.name);
        if file.shape(&name).is_some() {
            let data = file.read_f32(&name, &spec.shape)?;
            params.import(backend, id, &data);
        }
    }
    Ok(())
}
