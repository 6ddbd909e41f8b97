//! Layer norm and root-mean-square norm with their backward.

use super::CpuBuffer;
use super::elementwise::row_of;
use super::pool::Floats;
use super::simd::{lane_sum, lane_sum_2, lane_sum_3, rows_per_piece, simd};
use crate::arguments::NormCache;
use rayon::prelude::*;

pub(super) fn rms_statistics(x: &[f32], eps: f64, rstd: &mut [f32], d: usize) {
    let step = rows_per_piece(d);
    rstd.par_chunks_mut(step)
        .zip(x.par_chunks(d * step))
        .for_each(|(rstd, x)| {
            simd!(|| {
                for (rstd, x) in rstd.iter_mut().zip(x.chunks_exact(d)) {
                    let mean = lane_sum(x, |x| x * x) / d as f32;
                    *rstd = 1.0 / (mean + eps as f32).sqrt();
                }
            });
        });
}

pub(super) fn layer_statistics(x: &[f32], eps: f64, mean: &mut [f32], rstd: &mut [f32], d: usize) {
    let step = rows_per_piece(d);
    rstd.par_chunks_mut(step)
        .zip(mean.par_chunks_mut(step))
        .zip(x.par_chunks(d * step))
        .for_each(|((rstd, mean), x)| {
            simd!(|| {
                for ((rstd, mean), x) in rstd.iter_mut().zip(mean).zip(x.chunks_exact(d)) {
                    let m = lane_sum(x, |x| x) / d as f32;
                    let variance = lane_sum(x, |x| (x - m) * (x - m)) / d as f32;
                    *mean = m;
                    *rstd = 1.0 / (variance + eps as f32).sqrt();
                }
            });
        });
}

/// offset + w, `w` itself when the offset is 0.
pub(super) fn shifted(w: &CpuBuffer, offset: f64) -> Floats<'_> {
    let plain = w.floats(0..w.len());
    if offset == 0.0 {
        return plain;
    }
    let mut sum = w.scratch(w.len());
    for (sum, w) in sum.iter_mut().zip(&plain[..]) {
        *sum = offset as f32 + w;
    }
    Floats::Widened(sum)
}

pub(super) fn apply(
    x: &[f32],
    w: &[f32],
    b: Option<&[f32]>,
    cache: &NormCache<CpuBuffer>,
    y: &mut [f32],
    d: usize,
) {
    let step = rows_per_piece(d);
    y[..x.len()]
        .par_chunks_mut(d * step)
        .zip(x.par_chunks(d * step))
        .enumerate()
        .for_each(|(piece, (y, x))| {
            simd!(|| {
                let both = y.chunks_exact_mut(d).zip(x.chunks_exact(d));
                for (i, (y, x)) in both.enumerate() {
                    let row = piece * step + i;
                    let rstd = cache.rstd[row];
                    let mean = cache.mean.as_ref().map_or(0.0, |m| m[row]);
                    match b {
                        Some(b) => {
                            for j in 0..d {
                                y[j] = (x[j] - mean) * rstd * w[j] + b[j];
                            }
                        }
                        None => {
                            for j in 0..d {
                                y[j] = (x[j] - mean) * rstd * w[j];
                            }
                        }
                    }
                }
            });
        });
}

/// dx += rstd (dx̂ − [mean dx̂] − x̂ mean(dx̂·x̂)), dx̂ = dy·w; the bracket only with a mean (layer norm).
pub(super) fn backward(
    x: &[f32],
    w: &[f32],
    cache: &NormCache<CpuBuffer>,
    rows: Option<&[u32]>,
    dy: &[f32],
    dx: &mut [f32],
    dw_rows: Option<&mut [f32]>,
    d: usize,
) {
    let step = rows_per_piece(d);
    let one = |piece: usize, dy: &[f32], dx: &mut [f32], mut dw: Option<&mut [f32]>| {
        simd!(|| {
            for (i, (dy, dx)) in dy.chunks_exact(d).zip(dx.chunks_exact_mut(d)).enumerate() {
                let row = row_of(rows, piece * step + i);
                let x = &x[row * d..][..d];
                let rstd = cache.rstd[row];
                let mean = cache.mean.as_ref().map_or(0.0, |m| m[row]);
                let along = lane_sum_3(dy, w, x, |dy, w, x| dy * w * (x - mean)) * rstd / d as f32;
                let centre = match cache.mean {
                    Some(_) => lane_sum_2(dy, w, |dy, w| dy * w) / d as f32,
                    None => 0.0,
                };
                for j in 0..d {
                    let xhat = (x[j] - mean) * rstd;
                    dx[j] += rstd * (dy[j] * w[j] - centre - xhat * along);
                }
                if let Some(dw) = dw.as_deref_mut() {
                    let dw = &mut dw[i * d..][..d];
                    for j in 0..d {
                        dw[j] = dy[j] * (x[j] - mean) * rstd;
                    }
                }
            }
        });
    };
    let pieces = dy
        .par_chunks(d * step)
        .zip(dx.par_chunks_mut(d * step))
        .enumerate();
    match dw_rows {
        None => pieces.for_each(|(piece, (dy, dx))| one(piece, dy, dx, None)),
        Some(dw) => pieces
            .zip(dw.par_chunks_mut(d * step))
            .for_each(|((piece, (dy, dx)), dw)| one(piece, dy, dx, Some(dw))),
    }
}
