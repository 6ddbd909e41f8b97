//! The three ways against the naive backend, on probes with a shared prompt, without rows, and of one row.
//!
//! Tolerance 2e-6 of √(K_pp K_qq): sums of a few hundred f32 products.

use super::{Way, linear_grams};
use crate::layout::Span;
use crate::{Backend, NaiveBackend};
use rand::{RngExt, SeedableRng};

fn values(n: usize, rng: &mut rand_chacha::ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn span(act: usize, grad: usize, len: usize) -> Span {
    Span { act, grad, len }
}

#[test]
fn all_ways_agree_with_the_naive_backend() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
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
    for (d_in, d_out) in [(3, 8), (33, 5), (64, 300)] {
        let (a, g) = (values(25 * d_in, &mut rng), values(120 * d_out, &mut rng));
        let (pool, naive) = (Default::default(), NaiveBackend);
        let want = {
            let (a, g) = (naive.upload(&a), naive.upload(&g));
            naive.linear_grams(&a, &g, &clusters, d_in, d_out)
        };
        for way in [
            Some(Way::Ghost),
            Some(Way::Projected),
            Some(Way::Formed),
            None,
        ] {
            let got = linear_grams(&pool, (&a, d_in), (&g, d_out), &clusters, way);
            for (c, (got, want)) in got.iter().zip(&want).enumerate() {
                let n = clusters[c].len();
                for (i, (&x, &y)) in got.iter().zip(want).enumerate() {
                    let scale = (want[i / n * (n + 1)] * want[i % n * (n + 1)]).sqrt();
                    assert!(
                        (x - y).abs() <= 2e-6 * scale,
                        "{way:?} {d_in}×{d_out} cluster {c} entry {i}: {x} against {y}"
                    );
                    assert_eq!(x, got[i % n * n + i / n], "symmetric");
                }
            }
        }
    }
}

#[test]
fn the_cheapest_way_depends_on_the_shapes() {
    let way = |lens: &[usize], shared: bool, (d_in, d_out): (usize, usize)| {
        let mut at = 0;
        let probes: Vec<Vec<Span>> = lens
            .iter()
            .map(|&len| {
                let act = if shared { 0 } else { at };
                let own = vec![span(act, at, len)];
                at += len;
                own
            })
            .collect();
        let probes: Vec<&[Span]> = probes.iter().map(|p| &p[..]).collect();
        super::ProbeSizes::of(&probes).way(d_in, d_out)
    };
    // A preference pair; a heat map of 60 tokens; an adapter's narrow map; a batch of 32 long responses.
    assert_eq!(way(&[150, 180], false, (576, 1536)), Way::Ghost);
    assert_eq!(way(&[100; 60], true, (576, 1536)), Way::Projected);
    assert_eq!(way(&[150, 180], false, (576, 16)), Way::Formed);
    assert_eq!(way(&[400; 32], false, (576, 1536)), Way::Formed);
}
