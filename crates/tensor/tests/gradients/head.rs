//! The fused head: gradients of the token log-probs, and inner products of gradients never formed.

use super::{check, minus};
use crate::common::{Random, inner, poison};
use unbraid_tensor::{Backend, HeadBackward, NaiveBackend};

const M: usize = 5;
const D: usize = 3;
const V: usize = 7;

struct Head {
    h: Vec<f64>,
    w: Vec<f64>,
    lse: Vec<f64>,
    targets: Vec<u32>,
    seeds: Vec<f64>,
    coefficients: Vec<f64>,
}

fn head() -> Head {
    let mut random = Random::new(11);
    let (h, mut w) = (random.values(M * D), random.values(V * D));
    NaiveBackend.scale(2.0, &mut w);
    let targets = vec![6, 0, 3, 3, 1];
    let (_, lse) = NaiveBackend.head_logps(&h, &w, &targets, M, D, V);
    Head {
        h,
        w,
        lse,
        targets,
        seeds: random.values(M),
        coefficients: random.values(M),
    }
}

fn arguments(x: &Head) -> HeadBackward<'_, NaiveBackend> {
    HeadBackward {
        h: &x.h,
        w: &x.w,
        lse: &x.lse,
        targets: &x.targets,
        seeds: &x.seeds,
        coefficients: None,
        dh: None,
        dw: None,
        inner: &[],
        m: M,
        d: D,
        v: V,
    }
}

/// Σ factor·logp.
fn loss(x: &Head, h: &[f64], w: &[f64], factor: &[f64]) -> f64 {
    let (logps, _) = NaiveBackend.head_logps(&h.to_vec(), &w.to_vec(), &x.targets, M, D, V);
    inner(&logps, factor)
}

#[test]
fn states_and_weight_with_seeds_and_coefficients() {
    let x = head();
    let before = Random::new(12).values(V * D);
    for weighted in [false, true] {
        let (mut dh, mut dw) = (poison(&NaiveBackend, M * D), before.clone());
        NaiveBackend.head_backward(&mut HeadBackward {
            coefficients: weighted.then_some(&x.coefficients),
            dh: Some(&mut dh),
            dw: Some(&mut dw),
            ..arguments(&x)
        });
        let factor: Vec<f64> = match weighted {
            true => (0..M).map(|s| x.seeds[s] * x.coefficients[s]).collect(),
            false => x.seeds.clone(),
        };
        check("h", &dh, &x.h, |h| loss(&x, h, &x.w, &x.seeds));
        check("w", &minus(&dw, &before), &x.w, |w| {
            loss(&x, &x.h, w, &factor)
        });
    }
}

#[test]
fn seeds_of_zero_make_a_row_vanish() {
    let mut x = head();
    x.seeds[2] = 0.0;
    let mut dh = poison(&NaiveBackend, M * D);
    NaiveBackend.head_backward(&mut HeadBackward {
        dh: Some(&mut dh),
        ..arguments(&x)
    });
    assert!(dh[2 * D..3 * D].iter().all(|&x| x == 0.0));
    assert!(dh[..2 * D].iter().all(|&x| x != 0.0));
}
