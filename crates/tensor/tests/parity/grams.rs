//! Inner products of weight gradients of linear maps, from clusters of probes.

use crate::common::{Random, compare};
use unbraid_tensor::{Backend, NaiveBackend, Span};

fn span(act: usize, grad: usize, len: usize) -> Span {
    Span { act, grad, len }
}

fn grams<B: Backend>(b: &B, clusters: &[Vec<&[Span]>], d_in: usize, d_out: usize) -> Vec<Vec<f64>> {
    let mut random = Random::new(60);
    let a = b.upload_f64(&random.values(25 * d_in));
    let g = b.upload_f64(&random.values(120 * d_out));
    b.linear_grams(&a, &g, clusters, d_in, d_out)
}

/// Probes with a shared prompt, without rows, of one row, and many over the same rows; widths for which either way is the
/// cheaper. Errors are measured against √(K_pp K_qq): an inner product may cancel.
#[test]
fn probes_of_all_kinds() {
    // Activation rows: a prompt of 7, completions of 5 and 9; a second tree of 4 rows behind.
    let tokens: Vec<Vec<Span>> = (1..=5)
        .map(|i| vec![span(0, 40 + 12 * i, 7), span(7, 47 + 12 * i, i)])
        .collect();
    let pair = vec![
        vec![span(0, 0, 7), span(7, 7, 5)],
        vec![span(0, 12, 7), span(12, 19, 9)],
    ];
    let lonely = vec![vec![span(21, 28, 4)], vec![], vec![span(24, 32, 1)]];
    let clusters: Vec<Vec<&[Span]>> = [&pair, &lonely, &tokens]
        .iter()
        .map(|c| c.iter().map(|p| &p[..]).collect())
        .collect();
    for (d_in, d_out) in [(3, 8), (33, 5), (64, 300), (300, 4)] {
        let naive = grams(&NaiveBackend, &clusters, d_in, d_out);
        let fast = grams(&*crate::FAST, &clusters, d_in, d_out);
        for (c, (naive, fast)) in naive.iter().zip(&fast).enumerate() {
            let n = clusters[c].len();
            let relative = |gram: &[f64]| {
                let scale = |i: usize| (naive[i / n * (n + 1)] * naive[i % n * (n + 1)]).sqrt();
                let values = (0..n * n).map(|i| gram[i] / scale(i).max(1e-30));
                vec![("gram", values.collect())]
            };
            let case = format!("{d_in}×{d_out}, cluster {c}");
            compare(&case, &relative(naive), &relative(fast), 2e-6);
            for i in 0..n * n {
                assert_eq!(fast[i], fast[i % n * n + i / n], "{case}: symmetric");
            }
        }
    }
}
