//! Elementwise loops and reductions: bias, axpy, dot products in f64, activations with their derivatives.

use super::simd::{PIECE, exp, lane_sum_2, normal_cdf, rows_per_piece, sigmoid, simd};
use crate::arguments::Gate;
use crate::dropout::Mask;
use rayon::prelude::*;

pub(super) fn fill_zero(x: &mut [f32]) {
    x.par_chunks_mut(16 * PIECE).for_each(|x| x.fill(0.0));
}

pub(super) fn add_bias(bias: &[f32], x: &mut [f32], d: usize) {
    x.par_chunks_mut(d * rows_per_piece(d)).for_each(|piece| {
        simd!(|| {
            for row in piece.chunks_exact_mut(d) {
                for (x, b) in row.iter_mut().zip(bias) {
                    *x += b;
                }
            }
        });
    });
}

pub(super) fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(PIECE)
        .zip(x.par_chunks(PIECE))
        .for_each(|(y, x)| {
            simd!(|| {
                for (y, x) in y.iter_mut().zip(x) {
                    *y += alpha * x;
                }
            });
        });
}

pub(super) fn scale(alpha: f32, x: &mut [f32]) {
    x.par_chunks_mut(PIECE)
        .for_each(|x| simd!(|| x.iter_mut().for_each(|x| *x *= alpha)));
}

/// Sums of the pieces are added in order, so the result does not depend on timing.
fn ordered_sum<const K: usize>(pieces: Vec<[f64; K]>) -> [f64; K] {
    let mut total = [0.0; K];
    for piece in pieces {
        for (t, p) in total.iter_mut().zip(piece) {
            *t += p;
        }
    }
    total
}

pub(super) fn dot(x: &[f32], y: &[f32]) -> f64 {
    let pieces = x
        .par_chunks(PIECE)
        .zip(y.par_chunks(PIECE))
        .map(|(x, y)| simd!(|| [lane_sum_2(x, y, |x, y| f64::from(x) * f64::from(y))]))
        .collect();
    ordered_sum(pieces)[0]
}

/// (Σxx, Σyy, Σxy) in f64 of one piece.
#[inline(always)]
fn gram(x: &[f32], y: &[f32]) -> [f64; 3] {
    const LANES: usize = 16;
    let mut sums = [[0f64; LANES]; 3];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest = xs.remainder().iter().zip(ys.remainder());
    for (x, y) in xs.clone().zip(ys.clone()) {
        for l in 0..LANES {
            let (x, y) = (f64::from(x[l]), f64::from(y[l]));
            sums[0][l] += x * x;
            sums[1][l] += y * y;
            sums[2][l] += x * y;
        }
    }
    let mut total = sums.map(|s| s.iter().sum::<f64>());
    for (&x, &y) in rest {
        let (x, y) = (f64::from(x), f64::from(y));
        total[0] += x * x;
        total[1] += y * y;
        total[2] += x * y;
    }
    total
}

pub(super) fn gram_and_add(
    x: &[f32],
    y: &[f32],
    cx: f32,
    cy: f32,
    sum: Option<&mut [f32]>,
) -> (f64, f64, f64) {
    assert_eq!(x.len(), y.len());
    let pieces = match sum {
        None => x
            .par_chunks(PIECE)
            .zip(y.par_chunks(PIECE))
            .map(|(x, y)| simd!(|| gram(x, y)))
            .collect(),
        Some(sum) => x
            .par_chunks(PIECE)
            .zip(y.par_chunks(PIECE))
            .zip(sum.par_chunks_mut(PIECE))
            .map(|((x, y), sum)| {
                simd!(|| {
                    for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
                        *sum += cx * x + cy * y;
                    }
                    gram(x, y)
                })
            })
            .collect(),
    };
    let [ww, ll, wl] = ordered_sum(pieces);
    (ww, ll, wl)
}

pub(super) fn column_sum(alpha: f32, x: &[f32], d: usize, out: &mut [f32]) {
    simd!(|| {
        for row in x.chunks_exact(d) {
            for (o, x) in out.iter_mut().zip(row) {
                *o += alpha * x;
            }
        }
    });
}

const GELU_C: f32 = 0.797_884_6; // √(2/π)

/// gelu(x) and its derivative; the tanh form as x·σ(2u), u = √(2/π)(x + 0.044715x³), which cancels nowhere.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let u = GELU_C * (x + 0.044715 * x * x * x);
    let s = sigmoid(2.0 * u);
    let slope = GELU_C * (1.0 + 3.0 * 0.044715 * x * x);
    (x * s, s + 2.0 * x * s * (1.0 - s) * slope)
}

#[inline(always)]
fn gelu_erf(x: f32) -> (f32, f32) {
    let cdf = normal_cdf(x);
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    (x * cdf, cdf + x * density)
}

pub(super) fn gelu(x: &[f32], y: &mut [f32], exact: bool) {
    y.par_chunks_mut(PIECE)
        .zip(x.par_chunks(PIECE))
        .for_each(|(y, x)| {
            simd!(|| {
                if exact {
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = gelu_erf(x).0);
                } else {
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = gelu_tanh(x).0);
                }
            });
        });
}

/// The activation row of gradient row `r`.
#[inline(always)]
pub(super) fn row_of(rows: Option<&[u32]>, r: usize) -> usize {
    rows.map_or(r, |rows| rows[r] as usize)
}

pub(super) fn gelu_backward(x: &[f32], rows: Option<&[u32]>, d: &mut [f32], f: usize, exact: bool) {
    let step = rows_per_piece(f);
    d.par_chunks_mut(f * step)
        .enumerate()
        .for_each(|(piece, d)| {
            simd!(|| {
                for (i, d) in d.chunks_exact_mut(f).enumerate() {
                    let x = &x[row_of(rows, piece * step + i) * f..][..f];
                    if exact {
                        d.iter_mut().zip(x).for_each(|(d, &x)| *d *= gelu_erf(x).1);
                    } else {
                        d.iter_mut().zip(x).for_each(|(d, &x)| *d *= gelu_tanh(x).1);
                    }
                }
            });
        });
}

/// A gate's activation: its value at z, and (d_gate, d_up) of act(z)·u for the gradient dy of that product.
trait Activation {
    fn value(z: f32) -> f32;
    fn backward(z: f32, u: f32, dy: f32) -> (f32, f32);
}

struct Silu;
impl Activation for Silu {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        z * sigmoid(z)
    }
    #[inline(always)]
    fn backward(z: f32, u: f32, dy: f32) -> (f32, f32) {
        let s = sigmoid(z);
        (dy * u * s * (1.0 + z * (1.0 - s)), dy * z * s)
    }
}

struct GeluTanh;
impl Activation for GeluTanh {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        gelu_tanh(z).0
    }
    #[inline(always)]
    fn backward(z: f32, u: f32, dy: f32) -> (f32, f32) {
        let (value, slope) = gelu_tanh(z);
        (dy * u * slope, dy * value)
    }
}

struct GeluErf;
impl Activation for GeluErf {
    #[inline(always)]
    fn value(z: f32) -> f32 {
        gelu_erf(z).0
    }
    #[inline(always)]
    fn backward(z: f32, u: f32, dy: f32) -> (f32, f32) {
        let (value, slope) = gelu_erf(z);
        (dy * u * slope, dy * value)
    }
}

pub(super) fn glu(kind: Gate, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match kind {
        Gate::Silu => glu_by::<Silu>(gate, up, y),
        Gate::GeluTanh => glu_by::<GeluTanh>(gate, up, y),
        Gate::Gelu => glu_by::<GeluErf>(gate, up, y),
    }
}

fn glu_by<A: Activation>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(PIECE)
        .zip(gate.par_chunks(PIECE))
        .zip(up.par_chunks(PIECE))
        .for_each(|((y, gate), up)| {
            simd!(|| {
                for ((y, &z), &u) in y.iter_mut().zip(gate).zip(up) {
                    *y = A::value(z) * u;
                }
            });
        });
}

pub(super) fn glu_backward(
    kind: Gate,
    gate: &[f32],
    up: &[f32],
    rows: Option<&[u32]>,
    d_gate: &mut [f32],
    d_up: &mut [f32],
    f: usize,
) {
    match kind {
        Gate::Silu => glu_backward_by::<Silu>(gate, up, rows, d_gate, d_up, f),
        Gate::GeluTanh => glu_backward_by::<GeluTanh>(gate, up, rows, d_gate, d_up, f),
        Gate::Gelu => glu_backward_by::<GeluErf>(gate, up, rows, d_gate, d_up, f),
    }
}

fn glu_backward_by<A: Activation>(
    gate: &[f32],
    up: &[f32],
    rows: Option<&[u32]>,
    d_gate: &mut [f32],
    d_up: &mut [f32],
    f: usize,
) {
    let step = rows_per_piece(f);
    d_gate
        .par_chunks_mut(f * step)
        .zip(d_up.par_chunks_mut(f * step))
        .enumerate()
        .for_each(|(piece, (d_gate, d_up))| {
            simd!(|| {
                let both = d_gate.chunks_exact_mut(f).zip(d_up.chunks_exact_mut(f));
                for (i, (dg, du)) in both.enumerate() {
                    let row = row_of(rows, piece * step + i) * f;
                    let (gate, up) = (&gate[row..][..f], &up[row..][..f]);
                    for j in 0..f {
                        (dg[j], du[j]) = A::backward(gate[j], up[j], du[j]);
                    }
                }
            });
        });
}

/// `x` and `y` hold the same whole rows of width `d`.
pub(super) fn dropout(
    x: &[f32],
    rows: Option<&[u32]>,
    mask: Mask,
    p: f64,
    y: &mut [f32],
    d: usize,
) {
    let scale = (1.0 / (1.0 - p)) as f32;
    let step = rows_per_piece(d);
    y.par_chunks_mut(d * step)
        .zip(x.par_chunks(d * step))
        .enumerate()
        .for_each(|(piece, (y, x))| {
            simd!(|| {
                // Own copies: what lies behind a reference could change with every write to y, and the loop stays scalar.
                let (mask, scale) = (mask, scale);
                let both = y.chunks_exact_mut(d).zip(x.chunks_exact(d));
                for (i, (y, x)) in both.enumerate() {
                    let row = mask.row(row_of(rows, piece * step + i));
                    for (j, (y, x)) in y.iter_mut().zip(x).enumerate() {
                        let keep = if mask.keeps(row, j) { scale } else { 0.0 };
                        *y = keep * x;
                    }
                }
            });
        });
}
