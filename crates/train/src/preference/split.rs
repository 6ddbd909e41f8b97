//! Whose gradients a response's predicted change comes from.

use serde::Serialize;

/// The first-order change of one response's log-prob under plain gradient descent on a batch, in its parts: the sum
/// Σ_j c_j K_ij of SPEC's batch Gram matrix taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ChangeSplit {
    /// From the response's own gradient, rate · c_i K_ii.
    pub own: f64,
    /// From the other response of its pair.
    pub partner: f64,
    /// From all other pairs of the batch.
    pub others: f64,
    /// All of it.
    pub total: f64,
}

/// Splits every response's change, in nats for this `rate` (learning rate times clipping).
///
/// `matrix` is K `[2B, 2B]`, row-major, with pair i's chosen response in row 2i and its rejected one in row 2i + 1;
/// `coefficients` are c `[2B]`: +d_w for chosen, −d_l for rejected, each times its loss's share in the step's.
pub fn split_changes(matrix: &[f64], coefficients: &[f64], rate: f64) -> Vec<ChangeSplit> {
    let n = coefficients.len();
    let split = |(i, row): (usize, &[f64])| {
        let part = |j: usize| rate * coefficients[j] * row[j];
        let (own, partner) = (part(i), part(i ^ 1));
        let others = (0..n).filter(|j| j / 2 != i / 2).map(part).sum();
        ChangeSplit {
            own,
            partner,
            others,
            total: own + partner + others,
        }
    };
    matrix
        .chunks_exact(n.max(1))
        .enumerate()
        .map(split)
        .collect()
}
