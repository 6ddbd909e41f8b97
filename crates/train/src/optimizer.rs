//! Optimizers over all trainable parameters, equal to PyTorch's step by step.

use unbraid_model::{Gradients, Parameters};
use unbraid_tensor::{Adamw, Backend};

/// Which optimizer, with its hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// Gradient descent, with momentum when it is not 0, as `torch.optim.SGD`.
    Sgd {
        /// Momentum.
        momentum: f64,
    },
}

/// An optimizer's settings and state.
pub struct Optimizer<B: Backend> {
    kind: OptimizerKind,
    weight_decay: f64,
    step: u64,
    /// For each parameter its state buffers: (mean, mean square) for AdamW, (momentum) for SGD.
    state: Vec<Vec<B::Buffer>>,
}

impl<B: Backend> Optimizer<B> {
    /// An optimizer with zero state for the parameters that have a gradient.
    pub fn new(
        backend: &B,
        kind: OptimizerKind,
        weight_decay: f64,
        gradients: &Gradients<B>,
    ) -> Self {
        let buffers = match kind {
            OptimizerKind::AdamW { .. } => 2,
            OptimizerKind::Sgd { momentum } => usize::from(momentum != 0.0),
        };
        let state = gradients
            .values
            .iter()
            .map(|g| match g {
                Some(g) => (0..buffers)
                    .map(|_| backend.zeros(backend.len(g)))
                    .collect(),
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

    /// One step with `gradients · grad_scale`. Weight decay spares biases and norm weights.
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
            let weight_decay = if params.specs[i].decay {
                self.weight_decay
            } else {
                0.0
            };
            let value = &mut params.values[i];
            match (self.kind, &mut self.state[i][..]) {
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
                        weight_decay,
                        step: self.step,
                        grad_scale,
                    };
                    backend.adamw(&step, value, gradient, m, v);
                }
                (OptimizerKind::Sgd { momentum }, state) => {
                    let momentum = state.first_mut().map(|buffer| (momentum, buffer));
                    backend.sgd(
                        learning_rate,
                        weight_decay,
                        grad_scale,
                        value,
                        gradient,
                        momentum,
                    );
                }
                (OptimizerKind::AdamW { .. }, _) => {
                    unreachable!("AdamW has two buffers a parameter")
                }
            }
        }
    }
}
