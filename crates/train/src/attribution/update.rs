//! The optimizer's update taken apart, coordinate by coordinate.
//!
//! Δθ = −f ⊙ ∇ℓ + momentum + decay + rounding, with f the factor by which the optimizer turns the loss's gradient of this
//! step into movement (its rate, clipping, metric P and share in the moment). All sums are in f64, over slices of a
//! parameter, so that any backend can do it in bounded memory.

use super::Taken;
use crate::optimizer::{Optimizer, OptimizerKind, held_shape};
use crate::snapshot::Snapshot;
use std::collections::BTreeMap;
use unbraid_model::{Gradients, Parameters};
use unbraid_tensor::{Adafactor, Backend};

/// Coordinates that are looked at together.
const SLICE: usize = 1 << 18;

/// Sums over coordinates for the probes' chosen and rejected side.
pub(crate) type Both = [f64; 2];

/// What a step was made of, besides whose gradient it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UpdateSplit {
    /// ⟨ḡ, −f ⊙ ∇ℓ⟩: this step's gradient, all its parts together.
    pub gradient: Both,
    /// ⟨ḡ, momentum⟩: gradients of earlier steps.
    pub momentum: Both,
    /// ⟨ḡ, decay⟩.
    pub decay: Both,
    /// ⟨ḡ, Δθ − the computed update⟩.
    pub rounding: Both,
    /// ⟨ḡ, Δθ⟩ by parameter group.
    pub groups: BTreeMap<String, Both>,
    /// ⟨ḡ, −η c ∇ℓ⟩: what plain gradient descent with the same rate and clipping would have done.
    pub plain: Both,
}

/// A step that was taken.
pub(crate) struct Applied<'a, B: Backend> {
    pub backend: &'a B,
    /// Parameters after it.
    pub params: &'a Parameters<B>,
    /// Parameters before it.
    pub before: &'a Snapshot<B>,
    /// ∇ℓ, before clipping.
    pub gradient: &'a Gradients<B>,
    /// The first moment before it, where the optimizer needs it.
    pub moment: Option<&'a [Option<B::Buffer>]>,
    pub taken: Taken,
}

/// One slice of a parameter, in f64.
struct Slice {
    before: Vec<f64>,
    after: Vec<f64>,
    gradient: Vec<f64>,
}

/// How one coordinate's update came about.
#[derive(Clone, Copy)]
struct Coordinate {
    /// f: the step moved by −f·∂ℓ.
    factor: f64,
    momentum: f64,
}

/// Copies a run of a buffer to the host.
fn part<B: Backend>(b: &B, buffer: &B::Buffer, at: usize, len: usize) -> Vec<f64> {
    let mut run = b.empty(len);
    b.copy_2d(buffer, at, len, &mut run, 0, len, 1, len);
    b.download_f64(&run)
}

impl<B: Backend> Optimizer<B> {
    /// A copy of the first moment where the one after a step does not tell it: Lion's is another mixture.
    pub(crate) fn copy_of_moment(&self, b: &B) -> Option<Vec<Option<B::Buffer>>> {
        let OptimizerKind::Lion { .. } = self.kind else {
            return None;
        };
        let copy = |state: &Vec<B::Buffer>| {
            let moment = state.first()?;
            let len = b.len(moment);
            let mut copy = b.empty(len);
            b.copy_2d(moment, 0, len, &mut copy, 0, len, 1, len);
            Some(copy)
        };
        Some(self.state.iter().map(copy).collect())
    }

    /// Takes the last step apart along `directions` (ḡ_w, ḡ_l), and leaves f ⊙ ḡ in their place: the directions along
    /// which −∇ℓ's parts are to be measured.
    pub(crate) fn split_update(
        &self,
        applied: &Applied<'_, B>,
        directions: &mut [Gradients<B>; 2],
    ) -> UpdateSplit {
        let b = applied.backend;
        let mut split = UpdateSplit::default();
        for (id, before) in applied.before.values() {
            let i = id.0;
            let Some(gradient) = &applied.gradient.values[i] else {
                continue;
            };
            let spec = &applied.params.specs[i];
            let rate = applied.taken.rate * spec.learning_rate_factor;
            let decay = rate * if spec.decay { self.weight_decay } else { 0.0 };
            let rule = Rule::new(self, applied, i, gradient, rate);
            let group = split.groups.entry(spec.group.clone()).or_default();
            for at in (0..b.len(before)).step_by(SLICE) {
                let len = SLICE.min(b.len(before) - at);
                let slice = Slice {
                    before: part(b, before, at, len),
                    after: part(b, applied.params.get(*id), at, len),
                    gradient: part(b, gradient, at, len),
                };
                let coordinates = rule.coordinates(self, applied, (i, at), &slice);
                for (side, direction) in directions.iter_mut().enumerate() {
                    let Some(buffer) = &mut direction.values[i] else {
                        continue;
                    };
                    let mut g = part(b, buffer, at, len);
                    for (k, (g, c)) in g.iter_mut().zip(&coordinates).enumerate() {
                        let moved = slice.after[k] - slice.before[k];
                        let by_gradient = -c.factor * slice.gradient[k];
                        let by_decay = -decay * slice.before[k];
                        let rest = moved - (by_gradient + c.momentum + by_decay);
                        split.gradient[side] += *g * by_gradient;
                        split.momentum[side] += *g * c.momentum;
                        split.decay[side] += *g * by_decay;
                        split.rounding[side] += *g * rest;
                        split.plain[side] -= *g * rate * applied.taken.scale * slice.gradient[k];
                        group[side] += *g * moved;
                        *g *= c.factor;
                    }
                    b.copy_2d(&b.upload_f64(&g), 0, len, buffer, at, len, 1, len);
                }
            }
        }
        split
    }
}

/// How one parameter's coordinates are moved.
enum Rule {
    /// By the step's gradient alone.
    Plain { factor: f64 },
    /// By the gradient over row and column factors.
    Factored {
        factor: f64,
        rows: Vec<f64>,
        cols: Vec<f64>,
    },
    /// By the gradient over the root of this second moment, in the state's first buffer.
    RootOfState { factor: f64 },
    /// AdamW: step size, (1−β₁), √(1/correction₂), ε.
    Adam {
        step_size: f64,
        rest: f64,
        root: f64,
        epsilon: f64,
    },
    /// SGD with momentum: `coupled` is λ of the decay that went into the buffer.
    Momentum { rate: f64, coupled: f64 },
    /// Lion.
    Sign { rate: f64, beta1: f64 },
}

impl Rule {
    fn new<B: Backend>(
        optimizer: &Optimizer<B>,
        applied: &Applied<'_, B>,
        i: usize,
        gradient: &B::Buffer,
        rate: f64,
    ) -> Self {
        let scale = applied.taken.scale;
        let spec = &applied.params.specs[i];
        match optimizer.kind {
            OptimizerKind::Sgd { momentum: 0.0 } => Rule::Plain {
                factor: rate * scale,
            },
            OptimizerKind::Sgd { .. } => Rule::Momentum {
                rate,
                coupled: if spec.decay {
                    optimizer.weight_decay
                } else {
                    0.0
                },
            },
            OptimizerKind::AdamW {
                beta1,
                beta2,
                epsilon,
            } => {
                let correction = |beta: f64| 1.0 - beta.powf(optimizer.step as f64);
                Rule::Adam {
                    step_size: rate / correction(beta1),
                    rest: 1.0 - beta1,
                    root: (1.0 / correction(beta2)).sqrt(),
                    epsilon,
                }
            }
            OptimizerKind::Lion { beta1, .. } => Rule::Sign { rate, beta1 },
            OptimizerKind::Adafactor => {
                let step = Optimizer::<B>::adafactor(optimizer.step, rate, 0.0, scale);
                let shape = held_shape(spec);
                Self::adafactor(
                    applied.backend,
                    &step,
                    &optimizer.state[i],
                    &shape,
                    gradient,
                )
            }
        }
    }

    /// Adafactor's factors, and its rate after clipping the update's root mean square.
    fn adafactor<B: Backend>(
        b: &B,
        step: &Adafactor,
        state: &[B::Buffer],
        shape: &[usize],
        gradient: &B::Buffer,
    ) -> Self {
        let inverse_root = |x: f64| 1.0 / x.sqrt();
        let mut rule = match (state, shape) {
            ([rows, cols], [_, _]) => {
                let rows = b.download_f64(rows);
                let mean = rows.iter().sum::<f64>() / rows.len().max(1) as f64;
                Rule::Factored {
                    factor: step.grad_scale,
                    rows: rows.iter().map(|r| (mean / r).sqrt()).collect(),
                    cols: b.download_f64(cols).into_iter().map(inverse_root).collect(),
                }
            }
            _ => Rule::RootOfState {
                factor: step.grad_scale,
            },
        };
        let (len, mut squares) = (b.len(gradient), 0.0);
        for at in (0..len).step_by(SLICE) {
            let g = part(b, gradient, at, SLICE.min(len - at));
            let roots = match &rule {
                Rule::RootOfState { .. } => part(b, &state[0], at, g.len()),
                _ => Vec::new(),
            };
            let update = |k: usize| match &rule {
                Rule::Factored { rows, cols, .. } => {
                    g[k] * rows[(at + k) / cols.len()] * cols[(at + k) % cols.len()]
                }
                _ => g[k] * inverse_root(roots[k]),
            };
            squares += (0..g.len()).map(|k| update(k).powi(2)).sum::<f64>();
        }
        let mean_square = step.grad_scale.powi(2) * squares / len.max(1) as f64;
        let rate = step.rate(mean_square);
        match &mut rule {
            Rule::Factored { factor, .. } | Rule::RootOfState { factor } => *factor *= rate,
            _ => {}
        }
        rule
    }

    fn coordinates<B: Backend>(
        &self,
        optimizer: &Optimizer<B>,
        applied: &Applied<'_, B>,
        (i, at): (usize, usize),
        slice: &Slice,
    ) -> Vec<Coordinate> {
        let b = applied.backend;
        let (g, scale, len) = (&slice.gradient, applied.taken.scale, slice.gradient.len());
        let state = |k: usize| part(b, &optimizer.state[i][k], at, len);
        let alone = |factor: f64| Coordinate {
            factor,
            momentum: 0.0,
        };
        match self {
            Rule::Plain { factor } => vec![alone(*factor); len],
            Rule::Factored { factor, rows, cols } => (at..at + len)
                .map(|k| alone(factor * rows[k / cols.len()] * cols[k % cols.len()]))
                .collect(),
            Rule::RootOfState { factor } => {
                let v = state(0).into_iter();
                v.map(|v| alone(factor / v.sqrt())).collect()
            }
            Rule::Adam {
                step_size,
                rest,
                root,
                epsilon,
            } => {
                let both = state(0).into_iter().zip(state(1)).zip(g);
                both.map(|((m, v), g)| {
                    let step = step_size / (v.sqrt() * root + epsilon);
                    Coordinate {
                        factor: step * rest * scale,
                        momentum: -step * (m - rest * scale * g),
                    }
                })
                .collect()
            }
            Rule::Momentum { rate, coupled } => {
                let buffers = state(0).into_iter().zip(g).zip(&slice.before);
                buffers
                    .map(|((buffer, g), before)| Coordinate {
                        factor: rate * scale,
                        momentum: -rate * (buffer - scale * g - coupled * before),
                    })
                    .collect()
            }
            Rule::Sign { rate, beta1 } => {
                let moments = applied.moment.and_then(|moments| moments[i].as_ref());
                let moments = moments.map_or_else(|| vec![0.0; len], |m| part(b, m, at, len));
                let pairs = moments.into_iter().zip(g);
                pairs
                    .map(|(m, g)| {
                        let (old, new) = (beta1 * m, (1.0 - beta1) * scale * g);
                        let size = (old + new).abs();
                        if size == 0.0 {
                            return alone(0.0);
                        }
                        Coordinate {
                            factor: rate * (1.0 - beta1) * scale / size,
                            momentum: -rate * old / size,
                        }
                    })
                    .collect()
            }
        }
    }
}
