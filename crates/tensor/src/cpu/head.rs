//! The language-model head fused with log-softmax, streamed over the vocabulary.
//!
//! The vocabulary goes in chunks small enough that the logits of one chunk `[M, chunk]` stay in cache; the
//! `[M, V]` matrix never exists. Forward: running maximum and sum per row. Backward: the chunk's logits again,
//! turned in place into G = seed·(onehot − softmax), used for dh, dw and the Gram of output gradients
//! (Σ_chunks G Gᵀ, `[rows, rows]`), from which ⟨g_p, g_q⟩ = Σ (G_p G_qᵀ)∘(h_p h_qᵀ) follows without forming a
//! weight gradient. A training step may keep the logits of its few rows, chunk after chunk, for the backward; otherwise that
//! computes them again, one product of the three or four. A bf16 weight is widened a chunk at a time.

use super::matmul::{self, Arithmetic};
use super::pool::Floats;
use super::rules::head_chunk;
use super::simd::{exp, lane_max, lane_sum, lane_sum_2, simd, tanh};
use super::{CpuBackend, CpuBuffer, embedding};
use crate::arguments::HeadBackward;
use rayon::prelude::*;
use std::ops::Range;

/// Chunks of the vocabulary for `m` scored rows, each with its rows of `w`.
fn chunks(
    w: &CpuBuffer,
    m: usize,
    d: usize,
    v: usize,
) -> impl Iterator<Item = (Range<usize>, Floats<'_>)> {
    let width = head_chunk(m, d, v, w.halves().is_some());
    (0..v).step_by(width).map(move |start| {
        let chunk = start..(start + width).min(v);
        let w = w.floats(chunk.start * d..chunk.end * d);
        (chunk, w)
    })
}

/// C `[m, n]` ← α·A·B + β·C for row-major slices, A `[m, k]` or transposed, B `[k, n]` or transposed.
fn product(
    arithmetic: Arithmetic,
    (m, n, k): (usize, usize, usize),
    (a, a_rs, a_cs): (&[f32], usize, usize),
    (b, b_rs, b_cs): (&[f32], usize, usize),
    beta: f32,
    c: &mut [f32],
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!((m - 1) * a_rs + (k - 1) * a_cs < a.len());
    assert!((k - 1) * b_rs + (n - 1) * b_cs < b.len());
    assert!(m * n <= c.len());
    // SAFETY: the assertions keep every element inside its slice; c is borrowed mutably.
    unsafe {
        matmul::product(
            arithmetic,
            (m, n, k),
            1.0,
            (a.as_ptr(), a_rs, a_cs),
            (b.as_ptr(), b_rs, b_cs),
            beta,
            (c.as_mut_ptr(), n),
        );
    }
}

/// Logits of all rows for one chunk of the vocabulary with weight `w`, `[m, chunk]`, not capped yet.
fn logits(
    arithmetic: Arithmetic,
    h: &[f32],
    w: &[f32],
    (m, d, width): (usize, usize, usize),
    z: &mut [f32],
) {
    product(arithmetic, (m, width, d), (h, d, 1), (w, 1, d), 0.0, z);
}

/// Where the logits of one chunk lie among those of all.
fn kept(chunk: &Range<usize>, m: usize) -> Range<usize> {
    m * chunk.start..m * chunk.end
}

/// z ← cap·tanh(z/cap).
#[inline(always)]
pub(super) fn soften(z: &mut [f32], softcap: Option<f64>) {
    if let Some(cap) = softcap {
        let (cap, inverse) = (cap as f32, (1.0 / cap) as f32);
        z.iter_mut().for_each(|z| *z = cap * tanh(*z * inverse));
    }
}

/// dz'/dz = 1 − (z'/cap)² at a capped logit z'; 1 without a cap.
#[inline(always)]
pub(super) fn softening(z: f32, softcap: Option<f64>) -> f32 {
    softcap.map_or(1.0, |cap| {
        let ratio = z / cap as f32;
        1.0 - ratio * ratio
    })
}

/// See [`crate::Backend::head_logps`].
pub(super) fn logps(
    arithmetic: Arithmetic,
    h: &[f32],
    w: &CpuBuffer,
    targets: &[u32],
    softcap: Option<f64>,
    d: usize,
    v: usize,
    logps: &mut [f32],
    lse: &mut [f32],
    mut keep: Option<&mut [f32]>,
) {
    let m = targets.len();
    let mut running = vec![(f32::NEG_INFINITY, 0f64, 0f32); m]; // maximum, Σ exp(z − maximum), target's logit
    let mut own = Vec::new();
    for (chunk, w) in chunks(w, m, d, v) {
        let z = match &mut keep {
            Some(all) => &mut all[kept(&chunk, m)],
            None => {
                own.resize(m * chunk.len(), 0.0);
                &mut own[..]
            }
        };
        logits(arithmetic, h, &w, (m, d, chunk.len()), z);
        running
            .par_iter_mut()
            .zip(z.par_chunks_mut(chunk.len()))
            .zip(targets)
            .for_each(|(((top, sum, target), z), &y)| {
                simd!(|| {
                    soften(z, softcap);
                    let old = *top;
                    *top = lane_max(z).max(old);
                    let now = *top;
                    *sum *= f64::from(exp(old - now));
                    *sum += f64::from(lane_sum(z, |z| exp(z - now)));
                });
                if chunk.contains(&(y as usize)) {
                    *target = z[y as usize - chunk.start];
                }
            });
    }
    for (i, (top, sum, target)) in running.into_iter().enumerate() {
        let total = f64::from(top) + sum.ln();
        lse[i] = total as f32;
        logps[i] = (f64::from(target) - total) as f32;
    }
}

/// See [`crate::Backend::head_log_squares`]. Σ p² is between 1/V and 1, so no maximum is needed.
pub(super) fn log_squares(
    arithmetic: Arithmetic,
    h: &[f32],
    w: &CpuBuffer,
    lse: &[f32],
    softcap: Option<f64>,
    d: usize,
    v: usize,
    out: &mut [f32],
) {
    let m = out.len();
    let mut sums = vec![0f64; m];
    let mut z = Vec::new();
    for (chunk, w) in chunks(w, m, d, v) {
        z.resize(m * chunk.len(), 0.0);
        logits(arithmetic, h, &w, (m, d, chunk.len()), &mut z);
        sums.par_iter_mut()
            .zip(z.par_chunks_mut(chunk.len()))
            .zip(lse)
            .for_each(|((sum, z), &lse)| {
                simd!(|| {
                    soften(z, softcap);
                    *sum += f64::from(lane_sum(z, |z| exp(2.0 * (z - lse))));
                });
            });
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = sum.ln() as f32;
    }
}

/// See [`crate::Backend::head_backward`].
pub(super) fn backward(
    arithmetic: Arithmetic,
    args: &mut HeadBackward<'_, CpuBackend>,
) -> Vec<f64> {
    let (m, d, v) = (args.m, args.d, args.v);
    let weighted = args.coefficients.map(|c| scaled_rows(args.h, c, d));
    let mut grams: Vec<Vec<f32>> = args
        .inner
        .iter()
        .map(|(p, q)| vec![0.0; p.len() * q.len()])
        .collect();
    let mut g = Vec::new();
    let (lse, seeds, targets) = (&args.lse[..], &args.seeds[..], &args.targets[..]);
    for (chunk, w) in chunks(args.w, m, d, v) {
        let width = chunk.len();
        let before = args.logits.map(|all| &all[kept(&chunk, m)]);
        g.resize(m * width, 0.0);
        if before.is_none() {
            logits(arithmetic, args.h, &w, (m, d, width), &mut g);
        }
        g.par_chunks_mut(width).enumerate().for_each(|(s, g)| {
            match before {
                Some(z) => g.copy_from_slice(&z[s * width..][..width]),
                None => simd!(|| soften(g, args.softcap)),
            }
            let target = (targets[s] as usize).checked_sub(chunk.start);
            output_gradient(g, lse[s], seeds[s], target, args.softcap);
        });
        if let Some(dh) = args.dh.as_deref_mut() {
            let beta = if chunk.start == 0 { 0.0 } else { 1.0 };
            product(
                arithmetic,
                (m, d, width),
                (&g, width, 1),
                (&w, d, 1),
                beta,
                dh,
            );
        }
        if let Some(dw) = args.dw.as_deref_mut() {
            let h = weighted.as_deref().unwrap_or(args.h);
            let dw = &mut dw[chunk.start * d..chunk.end * d];
            product(
                arithmetic,
                (width, d, m),
                (&g, 1, width),
                (h, d, 1),
                1.0,
                dw,
            );
        }
        for ((p, q), gram) in args.inner.iter().zip(&mut grams) {
            let (gp, gq) = (&g[p.start * width..], &g[q.start * width..]);
            let shape = (p.len(), q.len(), width);
            product(
                Arithmetic::F32,
                shape,
                (gp, width, 1),
                (gq, 1, width),
                1.0,
                gram,
            );
        }
    }
    let inner = args.inner.iter().zip(&grams);
    inner
        .map(|((p, q), gram)| weighted_by_states(args.h, d, p, q, gram))
        .collect()
}

/// See [`crate::Backend::head_direction`].
pub(super) fn direction(
    arithmetic: Arithmetic,
    args: &HeadBackward<'_, CpuBackend>,
    direction: &CpuBuffer,
) -> Vec<f64> {
    let (m, d, v) = (args.m, args.d, args.v);
    let (lse, seeds, targets) = (&args.lse[..], &args.seeds[..], &args.targets[..]);
    let (mut g, mut moved) = (Vec::new(), Vec::new());
    let mut sums = vec![0f64; m];
    for (chunk, w) in chunks(args.w, m, d, v) {
        let width = chunk.len();
        g.resize(m * width, 0.0);
        moved.resize(m * width, 0.0);
        logits(arithmetic, args.h, &w, (m, d, width), &mut g);
        let along = direction.floats(chunk.start * d..chunk.end * d);
        logits(arithmetic, args.h, &along, (m, d, width), &mut moved);
        let rows = g.par_chunks_mut(width).zip(moved.par_chunks(width));
        rows.zip(&mut sums)
            .enumerate()
            .for_each(|(s, ((g, moved), sum))| {
                let target = (targets[s] as usize).checked_sub(chunk.start);
                simd!(|| soften(g, args.softcap));
                output_gradient(g, lse[s], seeds[s], target, args.softcap);
                *sum += simd!(|| lane_sum_2(g, moved, |g, m| f64::from(g) * f64::from(m)));
            });
    }
    sums
}

/// Replaces a row's capped logits of one chunk by G = seed·(onehot − softmax), times the cap's derivative. `target` counts
/// from the chunk's start and may lie behind its end.
fn output_gradient(
    g: &mut [f32],
    lse: f32,
    seed: f32,
    target: Option<usize>,
    softcap: Option<f64>,
) {
    let target = target.filter(|&t| t < g.len());
    let mut hit = seed;
    simd!(|| match softcap {
        None => {
            for g in g.iter_mut() {
                *g = -seed * exp(*g - lse);
            }
        }
        Some(_) => {
            hit *= target.map_or(0.0, |t| softening(g[t], softcap));
            for g in g.iter_mut() {
                *g = -seed * exp(*g - lse) * softening(*g, softcap);
            }
        }
    });
    if let Some(t) = target {
        g[t] += hit;
    }
}

/// Rows of `h` times their coefficients.
fn scaled_rows(h: &[f32], coefficients: &[f32], d: usize) -> Vec<f32> {
    let mut out = h.to_vec();
    for (row, &c) in out.chunks_exact_mut(d).zip(coefficients) {
        row.iter_mut().for_each(|x| *x *= c);
    }
    out
}

/// Σ_{s∈p, t∈q} gram[s, t]·(h_s·h_t).
fn weighted_by_states(
    h: &[f32],
    d: usize,
    p: &Range<usize>,
    q: &Range<usize>,
    gram: &[f32],
) -> f64 {
    let mut states = vec![0.0; gram.len()];
    let (hp, hq) = (&h[p.start * d..], &h[q.start * d..]);
    product(
        Arithmetic::F32,
        (p.len(), q.len(), d),
        (hp, d, 1),
        (hq, 1, d),
        0.0,
        &mut states,
    );
    simd!(|| lane_sum_2(gram, &states, |g, s| f64::from(g) * f64::from(s)))
}

/// See [`crate::Backend::tied_inner`].
pub(super) fn tied_inner(
    g: &CpuBuffer,
    ids: &[u32],
    p: Range<usize>,
    head: &HeadBackward<'_, CpuBackend>,
    q: Range<usize>,
) -> f64 {
    let d = head.d;
    let (rows, cols) = (q.len(), p.len());
    let mut table = vec![0.0; cols * d];
    embedding::gather(head.w, &ids[p.clone()], &mut table, d, false);
    let h = &head.h[q.start * d..q.end * d];
    let (mut z, mut dots) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
    product(
        Arithmetic::F32,
        (rows, cols, d),
        (h, d, 1),
        (&table, 1, d),
        0.0,
        &mut z,
    );
    simd!(|| soften(&mut z, head.softcap));
    let gp = &g[p.start * d..p.end * d];
    product(
        Arithmetic::F32,
        (rows, cols, d),
        (h, d, 1),
        (gp, 1, d),
        0.0,
        &mut dots,
    );
    let mut total = 0.0;
    for (i, s) in q.enumerate() {
        for (j, t) in p.clone().enumerate() {
            let hit = if head.targets[s] == ids[t] { 1.0 } else { 0.0 };
            let z = z[i * cols + j];
            let output = head.seeds[s] * (hit - exp(z - head.lse[s])) * softening(z, head.softcap);
            total += f64::from(output) * f64::from(dots[i * cols + j]);
        }
    }
    total
}
