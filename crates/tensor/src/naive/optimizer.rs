//! Optimizer steps, element by element.

use crate::arguments::{Adafactor, Adamw};

/// See [`crate::Backend::adamw`].
pub(super) fn adamw(s: &Adamw, param: &mut [f64], grad: &[f64], m: &mut [f64], v: &mut [f64]) {
    let correction1 = 1.0 - s.beta1.powi(s.step as i32);
    let correction2 = 1.0 - s.beta2.powi(s.step as i32);
    for i in 0..param.len() {
        let g = grad[i] * s.grad_scale;
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
        let direction = (m[i] / correction1) / ((v[i] / correction2).sqrt() + s.epsilon);
        param[i] -= s.learning_rate * (s.weight_decay * param[i] + direction);
    }
}

/// See [`crate::Backend::sgd`].
pub(super) fn sgd(
    learning_rate: f64,
    weight_decay: f64,
    grad_scale: f64,
    param: &mut [f64],
    grad: &[f64],
    mut momentum: Option<(f64, &mut [f64])>,
) {
    for i in 0..param.len() {
        let mut g = grad_scale * grad[i] + weight_decay * param[i];
        if let Some((mu, buffer)) = momentum.as_mut() {
            buffer[i] = *mu * buffer[i] + g;
            g = buffer[i];
        }
        param[i] -= learning_rate * g;
    }
}

/// See [`crate::Backend::lion`].
pub(super) fn lion(
    [learning_rate, weight_decay, beta1, beta2, grad_scale]: [f64; 5],
    param: &mut [f64],
    grad: &[f64],
    m: &mut [f64],
) {
    for i in 0..param.len() {
        let g = grad_scale * grad[i];
        let mixed = beta1 * m[i] + (1.0 - beta1) * g;
        let sign = if mixed == 0.0 { 0.0 } else { mixed.signum() };
        param[i] -= learning_rate * (weight_decay * param[i] + sign);
        m[i] = beta2 * m[i] + (1.0 - beta2) * g;
    }
}

/// See [`crate::Backend::adafactor`]. R and C are the moving means of g² + ε over rows and columns; the second
/// moment of element (i, j) is estimated as R_i·C_j / mean(R).
pub(super) fn adafactor(
    s: &Adafactor,
    rows: usize,
    cols: usize,
    param: &mut [f64],
    grad: &[f64],
    row_state: &mut [f64],
    col_state: &mut [f64],
) {
    if rows * cols == 0 {
        return;
    }
    let beta2 = s.beta2();
    let g = |i: usize, j: usize| s.grad_scale * grad[i * cols + j];
    for (i, state) in row_state[..rows].iter_mut().enumerate() {
        let mean = (0..cols).map(|j| g(i, j).powi(2) + s.epsilon).sum::<f64>() / cols as f64;
        *state = beta2 * *state + (1.0 - beta2) * mean;
    }
    for (j, state) in col_state[..cols].iter_mut().enumerate() {
        let mean = (0..rows).map(|i| g(i, j).powi(2) + s.epsilon).sum::<f64>() / rows as f64;
        *state = beta2 * *state + (1.0 - beta2) * mean;
    }
    let row_mean = row_state[..rows].iter().sum::<f64>() / rows as f64;
    let update: Vec<f64> = (0..rows * cols)
        .map(|at| {
            let (i, j) = (at / cols, at % cols);
            g(i, j) / (row_state[i] * col_state[j] / row_mean).sqrt()
        })
        .collect();
    apply(s, param, &update);
}

/// See [`crate::Backend::adafactor_vector`].
pub(super) fn adafactor_vector(s: &Adafactor, param: &mut [f64], grad: &[f64], state: &mut [f64]) {
    let beta2 = s.beta2();
    let mut update = Vec::new();
    for (state, grad) in state.iter_mut().zip(grad) {
        let g = s.grad_scale * grad;
        *state = beta2 * *state + (1.0 - beta2) * (g * g + s.epsilon);
        update.push(g / state.sqrt());
    }
    apply(s, param, &update);
}

/// Decay, then the update with its root mean square clipped.
fn apply(s: &Adafactor, param: &mut [f64], update: &[f64]) {
    let mean_square = update.iter().map(|u| u * u).sum::<f64>() / update.len() as f64;
    let rate = s.rate(mean_square);
    for (p, u) in param.iter_mut().zip(update) {
        *p -= s.learning_rate * s.weight_decay * *p;
        *p -= rate * u;
    }
}
