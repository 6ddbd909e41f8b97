//! Optimizer steps: one sweep over a parameter with its gradient and state.

use super::simd::{PIECE, simd};
use crate::backend::Adamw;
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
            simd(|| {
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
            simd(|| {
                for (p, g) in param.iter_mut().zip(grad) {
                    *p -= learning_rate * (grad_scale * g + weight_decay * *p);
                }
            });
        }),
        Some((mu, buffer)) => {
            pieces
                .zip(buffer.par_chunks_mut(PIECE))
                .for_each(|((param, grad), buffer)| {
                    simd(|| {
                        for ((p, g), b) in param.iter_mut().zip(grad).zip(buffer) {
                            *b = mu * *b + grad_scale * g + weight_decay * *p;
                            *p -= learning_rate * *b;
                        }
                    });
                });
        }
    }
}
