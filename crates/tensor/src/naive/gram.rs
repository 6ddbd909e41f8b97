//! Inner products of weight gradients from the gradients themselves.

use crate::layout::Span;

/// One cluster's matrix, see [`crate::Backend::linear_grams`].
pub(super) fn linear_gram(
    (a, d_in): (&[f64], usize),
    (g, d_out): (&[f64], usize),
    probes: &[&[Span]],
) -> Vec<f64> {
    let gradient = |spans: &&[Span]| {
        let mut own = vec![0.0; d_out * d_in];
        for span in *spans {
            for r in 0..span.len {
                let (g, a) = (&g[(span.grad + r) * d_out..], &a[(span.act + r) * d_in..]);
                for o in 0..d_out {
                    for i in 0..d_in {
                        own[o * d_in + i] += g[o] * a[i];
                    }
                }
            }
        }
        own
    };
    let own: Vec<Vec<f64>> = probes.iter().map(gradient).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    own.iter()
        .flat_map(|x| own.iter().map(move |y| dot(x, y)))
        .collect()
}
