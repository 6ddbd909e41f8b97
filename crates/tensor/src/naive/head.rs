//! The language-model head with log-softmax, row by row.
//!
//! log p(y | h) = h·w_y − lse, lse = log Σ_v exp(h·w_v). Row s with seed c_s has output gradient
//! G_s = c_s (onehot(y_s) − softmax(h_s wᵀ)), so dh_s = G_s w and dw += G_sᵀ h_s. With a soft cap the logits are
//! z' = cap·tanh(z/cap) and each element of G_s takes the factor dz'/dz = 1 − (z'/cap)².

use super::NaiveBackend;
use crate::arguments::HeadBackward;
use std::ops::Range;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Logits of one row, capped.
fn logits(h: &[f64], w: &[f64], softcap: Option<f64>, d: usize, v: usize) -> Vec<f64> {
    (0..v)
        .map(|t| {
            let z = dot(h, &w[t * d..][..d]);
            softcap.map_or(z, |cap| cap * (z / cap).tanh())
        })
        .collect()
}

/// See [`crate::Backend::head_logps`].
pub(super) fn logps(
    h: &[f64],
    w: &[f64],
    targets: &[u32],
    softcap: Option<f64>,
    m: usize,
    d: usize,
    v: usize,
) -> (Vec<f64>, Vec<f64>) {
    (0..m)
        .map(|i| {
            let z = logits(&h[i * d..][..d], w, softcap, d, v);
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
            (z[targets[i] as usize] - lse, lse)
        })
        .unzip()
}

/// See [`crate::Backend::head_log_squares`].
pub(super) fn log_squares(
    h: &[f64],
    w: &[f64],
    lse: &[f64],
    softcap: Option<f64>,
    m: usize,
    d: usize,
    v: usize,
) -> Vec<f64> {
    (0..m)
        .map(|i| {
            let z = logits(&h[i * d..][..d], w, softcap, d, v);
            let squares = z.iter().map(|z| (z - lse[i]).exp().powi(2));
            squares.sum::<f64>().ln()
        })
        .collect()
}

/// Output gradient G_s of one scored row, `[V]`.
fn output_gradient(args: &HeadBackward<'_, NaiveBackend>, s: usize) -> Vec<f64> {
    let h = &args.h[s * args.d..][..args.d];
    let z = logits(h, args.w, args.softcap, args.d, args.v);
    let slope = |z: f64| args.softcap.map_or(1.0, |cap| 1.0 - (z / cap).powi(2));
    let gradient = |(t, &z): (usize, &f64)| {
        let hit = if args.targets[s] as usize == t {
            1.0
        } else {
            0.0
        };
        args.seeds[s] * (hit - (z - args.lse[s]).exp()) * slope(z)
    };
    z.iter().enumerate().map(gradient).collect()
}

/// See [`crate::Backend::head_backward`].
pub(super) fn backward(args: &mut HeadBackward<'_, NaiveBackend>) -> Vec<f64> {
    let (m, d, v) = (args.m, args.d, args.v);
    let g: Vec<Vec<f64>> = (0..m).map(|s| output_gradient(args, s)).collect();
    if let Some(dh) = args.dh.as_deref_mut() {
        for s in 0..m {
            for j in 0..d {
                dh[s * d + j] = (0..v).map(|t| g[s][t] * args.w[t * d + j]).sum();
            }
        }
    }
    if let Some(dw) = args.dw.as_deref_mut() {
        for s in 0..m {
            let c = args.coefficients.map_or(1.0, |c| c[s]);
            for t in 0..v {
                for j in 0..d {
                    dw[t * d + j] += c * g[s][t] * args.h[s * d + j];
                }
            }
        }
    }
    let h = args.h;
    let inner = |p: &Range<usize>, q: &Range<usize>| -> f64 {
        let mut sum = 0.0;
        for s in p.clone() {
            for t in q.clone() {
                sum += dot(&g[s], &g[t]) * dot(&h[s * d..][..d], &h[t * d..][..d]);
            }
        }
        sum
    };
    args.inner.iter().map(|(p, q)| inner(p, q)).collect()
}

/// See [`crate::Backend::head_direction`].
pub(super) fn direction(args: &HeadBackward<'_, NaiveBackend>, direction: &[f64]) -> Vec<f64> {
    let d = args.d;
    let row = |s: usize| -> f64 {
        let h = &args.h[s * d..][..d];
        let gradient = output_gradient(args, s).into_iter().enumerate();
        gradient
            .map(|(t, g)| g * dot(h, &direction[t * d..][..d]))
            .sum()
    };
    (0..args.m).map(row).collect()
}

/// See [`crate::Backend::tied_inner`].
pub(super) fn tied_inner(
    g: &[f64],
    ids: &[u32],
    p: Range<usize>,
    head: &HeadBackward<'_, NaiveBackend>,
    q: Range<usize>,
) -> f64 {
    let d = head.d;
    let mut sum = 0.0;
    for s in q {
        let output = output_gradient(head, s);
        for t in p.clone() {
            sum += output[ids[t] as usize] * dot(&g[t * d..][..d], &head.h[s * d..][..d]);
        }
    }
    sum
}
