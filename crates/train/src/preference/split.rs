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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_split_by_hand() {
        // Two pairs, d = (1, 2) and (3, 4), each half of the loss: c = (½, −1, 3/2, −2).
        #[rustfmt::skip]
        let matrix = [
            4.0, 1.0, 2.0, 0.0,
            1.0, 5.0, 0.0, 3.0,
            2.0, 0.0, 6.0, 1.0,
            0.0, 3.0, 1.0, 7.0,
        ];
        let split = split_changes(&matrix, &[0.5, -1.0, 1.5, -2.0], 2.0);
        let numbers = |i: usize| {
            let s = split[i];
            [s.own, s.partner, s.others, s.total]
        };
        // The first chosen: 2·(½·4; −1·1; 3/2·2 − 2·0). The second rejected: 2·(−2·7; 3/2·1; ½·0 − 1·3).
        assert_eq!(numbers(0), [4.0, -2.0, 6.0, 8.0]);
        assert_eq!(numbers(3), [-28.0, 3.0, -6.0, -31.0]);
    }
}
