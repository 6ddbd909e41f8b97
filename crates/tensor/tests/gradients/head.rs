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
    softcap: Option<f64>,
}

/// None, and one that bends the logits (up to 4 in size) a lot.
const CAPS: [Option<f64>; 2] = [None, Some(1.3)];

fn head(softcap: Option<f64>) -> Head {
    let mut random = Random::new(11);
    let (h, mut w) = (random.values(M * D), random.values(V * D));
    NaiveBackend.scale(2.0, &mut w);
    let targets = vec![6, 0, 3, 3, 1];
    let (_, lse) = NaiveBackend.head_logps(&h, &w, &targets, softcap, M, D, V);
    Head {
        h,
        w,
        lse,
        targets,
        seeds: random.values(M),
        coefficients: random.values(M),
        softcap,
    }
}

fn arguments(x: &Head) -> HeadBackward<'_, NaiveBackend> {
    HeadBackward {
        h: &x.h,
        w: &x.w,
        lse: &x.lse,
        softcap: x.softcap,
        logits: None,
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
    let (h, w) = (h.to_vec(), w.to_vec());
    let (logps, _) = NaiveBackend.head_logps(&h, &w, &x.targets, x.softcap, M, D, V);
    inner(&logps, factor)
}

#[test]
fn states_and_weight_with_seeds_and_coefficients() {
    let before = Random::new(12).values(V * D);
    for (softcap, weighted) in CAPS.into_iter().flat_map(|c| [(c, false), (c, true)]) {
        let x = head(softcap);
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
    let mut x = head(None);
    x.seeds[2] = 0.0;
    let mut dh = poison(&NaiveBackend, M * D);
    NaiveBackend.head_backward(&mut HeadBackward {
        dh: Some(&mut dh),
        ..arguments(&x)
    });
    assert!(dh[2 * D..3 * D].iter().all(|&x| x == 0.0));
    assert!(dh[..2 * D].iter().all(|&x| x != 0.0));
}

#[test]
fn log_squares_and_capped_log_probs_by_hand() {
    // Logits (ln 2, 0) have probabilities 2/3 and 1/3, whose squares sum to 5/9.
    let (b, h, w) = (NaiveBackend, vec![1.0], vec![2f64.ln(), 0.0]);
    let (_, lse) = b.head_logps(&h, &w, &vec![0], None, 1, 1, 2);
    let squares = b.head_log_squares(&h, &w, &lse, None, 1, 1, 2);
    assert!((squares[0] - (5f64 / 9.0).ln()).abs() < 1e-15);
    // A cap of c leaves 0 and makes z into c·tanh(z/c): log-odds of the two tokens.
    let (logps, lse) = b.head_logps(&h, &w, &vec![0], Some(0.5), 1, 1, 2);
    let z = 0.5 * (2f64.ln() / 0.5).tanh();
    assert!((logps[0] - (z - (z.exp() + 1.0).ln())).abs() < 1e-15);
    let p = 1.0 / (1.0 + (-z).exp());
    let squares = b.head_log_squares(&h, &w, &lse, Some(0.5), 1, 1, 2);
    assert!((squares[0] - (p * p + (1.0 - p) * (1.0 - p)).ln()).abs() < 1e-15);
}
