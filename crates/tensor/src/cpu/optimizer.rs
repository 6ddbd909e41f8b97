//! Optimizer steps: one sweep over a parameter with its gradient and state.

use super::simd::{PIECE, lane_sum, lane_sum_2, rows_per_piece, simd};
use crate::arguments::{Adafactor, Adamw};
use rayon::prelude::*;

pub(super) fn adamw(s: &Adamw, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let correction1 = 1.0 - s.beta1.powf(s.step as f64);
    let correction2 = 1.0 - s.beta2.powf(s.step as f64);
    let (beta1, beta2) = (s.beta1 as f32, s.beta2 as f32);
    let (rest1, rest2) = ((1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
    let step_size = (s.learning_rate / correction1) as f32;
    let root2 = (1.0 / correction2.sqrt()) as f32;
    let keep = (1.0 - s.learning_rate * s.weight_decay) as f32;
    let (epsilon, grad_scale) = (s.epsilon as f32, s.grad_scale as f32);
    param
        .par_chunks_mut(PIECE)
        .zip(grad.par_chunks(PIECE))
        .zip(m.par_chunks_mut(PIECE))
        .zip(v.par_chunks_mut(PIECE))
        .for_each(|(((param, grad), m), v)| {
            simd!(|| {
                for (((p, g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
                    let g = g * grad_scale;
                    *m = beta1 * *m + rest1 * g;
                    *v = beta2 * *v + rest2 * g * g;
                    *p = *p * keep - step_size * *m / ((*v).sqrt() * root2 + epsilon);
                }
            });
        });
}

pub(super) fn sgd(
    learning_rate: f32,
    weight_decay: f32,
    grad_scale: f32,
    param: &mut [f32],
    grad: &[f32],
    momentum: Option<(f32, &mut [f32])>,
) {
    let pieces = param.par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
    match momentum {
        None => pieces.for_each(|(param, grad)| {
            simd!(|| {
                for (p, g) in param.iter_mut().zip(grad) {
                    *p -= learning_rate * (grad_scale * g + weight_decay * *p);
                }
            });
        }),
        Some((mu, buffer)) => {
            pieces
                .zip(buffer.par_chunks_mut(PIECE))
                .for_each(|((param, grad), buffer)| {
                    simd!(|| {
                        for ((p, g), b) in param.iter_mut().zip(grad).zip(buffer) {
                            *b = mu * *b + grad_scale * g + weight_decay * *p;
                            *p -= learning_rate * *b;
                        }
                    });
                });
        }
    }
}

pub(super) fn lion(
    learning_rate: f32,
    keep: f32,
    (beta1, rest1): (f32, f32),
    (beta2, rest2): (f32, f32),
    grad_scale: f32,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
) {
    param
        .par_chunks_mut(PIECE)
        .zip(grad.par_chunks(PIECE))
        .zip(m.par_chunks_mut(PIECE))
        .for_each(|((param, grad), m)| {
            simd!(|| {
                for ((p, g), m) in param.iter_mut().zip(grad).zip(m) {
                    let g = g * grad_scale;
                    let mixed = beta1 * *m + rest1 * g;
                    let size = if mixed == 0.0 { 0.0 } else { learning_rate };
                    *p = *p * keep - size.copysign(mixed);
                    *m = beta2 * *m + rest2 * g;
                }
            });
        });
}

/// Adafactor cuts a matrix into at most this many runs of rows, whatever the number of threads.
const RUNS: usize = 64;

/// See [`crate::Backend::adafactor`]. Three sweeps over the gradient: its row and column means of squares, the mean
/// square of the update (u_ij = g_ij·√(mean R / (R_i·C_j))), the update.
pub(super) fn adafactor(
    s: &Adafactor,
    rows: usize,
    cols: usize,
    param: &mut [f32],
    grad: &[f32],
    row_state: &mut [f32],
    col_state: &mut [f32],
) {
    assert_eq!((param.len(), grad.len()), (rows * cols, rows * cols));
    assert_eq!((row_state.len(), col_state.len()), (rows, cols));
    if rows * cols == 0 {
        return;
    }
    let beta2 = s.beta2();
    let run = rows_per_piece(cols).max(rows.div_ceil(RUNS));
    let moved = |old: f32, mean: f64| {
        (beta2 * f64::from(old) + (1.0 - beta2) * (s.grad_scale.powi(2) * mean + s.epsilon)) as f32
    };
    let partial: Vec<Vec<f64>> = row_state
        .par_chunks_mut(run)
        .zip(grad.par_chunks(run * cols))
        .map(|(row_state, grad)| {
            let mut sums = vec![0f64; cols];
            simd!(|| {
                for (state, g) in row_state.iter_mut().zip(grad.chunks_exact(cols)) {
                    let sum = lane_sum(g, |g| f64::from(g).powi(2));
                    *state = moved(*state, sum / cols as f64);
                    for (sum, &g) in sums.iter_mut().zip(g) {
                        *sum += f64::from(g).powi(2);
                    }
                }
            });
            sums
        })
        .collect();
    for (j, state) in col_state.iter_mut().enumerate() {
        let sum = partial.iter().map(|sums| sums[j]).sum::<f64>();
        *state = moved(*state, sum / rows as f64);
    }
    let row_mean = row_state.iter().map(|&r| f64::from(r)).sum::<f64>() / rows as f64;
    let row_factor = |r: f32| s.grad_scale * (row_mean / f64::from(r)).sqrt();
    let col_factors: Vec<f64> = col_state
        .iter()
        .map(|&c| 1.0 / f64::from(c).sqrt())
        .collect();
    let squares: Vec<f64> = row_state
        .par_chunks(run)
        .zip(grad.par_chunks(run * cols))
        .map(|(row_state, grad)| {
            let mut total = 0.0;
            simd!(|| {
                for (&r, g) in row_state.iter().zip(grad.chunks_exact(cols)) {
                    let sum = lane_sum_2(g, &col_factors, |g, c: f64| (f64::from(g) * c).powi(2));
                    total += row_factor(r).powi(2) * sum;
                }
            });
            total
        })
        .collect();
    let rate = s.rate(squares.iter().sum::<f64>() / (rows * cols) as f64);
    let keep = (1.0 - s.learning_rate * s.weight_decay) as f32;
    let col_factors: Vec<f32> = col_factors.iter().map(|&c| c as f32).collect();
    param
        .par_chunks_mut(run * cols)
        .zip(grad.par_chunks(run * cols))
        .zip(row_state.par_chunks(run))
        .for_each(|((param, grad), row_state)| {
            simd!(|| {
                let both = param.chunks_exact_mut(cols).zip(grad.chunks_exact(cols));
                for ((p, g), &r) in both.zip(row_state) {
                    let factor = (rate * row_factor(r)) as f32;
                    for j in 0..cols {
                        p[j] = p[j] * keep - factor * col_factors[j] * g[j];
                    }
                }
            });
        });
}

/// See [`crate::Backend::adafactor_vector`].
pub(super) fn adafactor_vector(s: &Adafactor, param: &mut [f32], grad: &[f32], state: &mut [f32]) {
    assert_eq!((param.len(), state.len()), (grad.len(), grad.len()));
    let beta2 = s.beta2();
    let update = |g: f32, state: f32| s.grad_scale * f64::from(g) / f64::from(state).sqrt();
    let squares: Vec<f64> = state
        .par_chunks_mut(PIECE)
        .zip(grad.par_chunks(PIECE))
        .map(|(state, grad)| {
            simd!(|| {
                for (state, &g) in state.iter_mut().zip(grad) {
                    let square = (s.grad_scale * f64::from(g)).powi(2) + s.epsilon;
                    *state = (beta2 * f64::from(*state) + (1.0 - beta2) * square) as f32;
                }
                lane_sum_2(grad, state, |g, s| update(g, s).powi(2))
            })
        })
        .collect();
    let rate = s.rate(squares.iter().sum::<f64>() / grad.len() as f64);
    let keep = (1.0 - s.learning_rate * s.weight_decay) as f32;
    param
        .par_chunks_mut(PIECE)
        .zip(grad.par_chunks(PIECE))
        .zip(state.par_chunks(PIECE))
        .for_each(|((param, grad), state)| {
            simd!(|| {
                for ((p, &g), &v) in param.iter_mut().zip(grad).zip(state) {
                    *p = *p * keep - (rate * update(g, v)) as f32;
                }
            });
        });
}
