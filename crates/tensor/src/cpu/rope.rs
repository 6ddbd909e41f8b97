//! Rotary positions.

use super::simd::{rows_per_piece, simd};
use rayon::prelude::*;

/// See [`crate::Backend::rope`].
pub(super) fn rope(
    x: &mut [f32],
    positions: &[u32],
    table: &[f32],
    heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    inverse: bool,
) {
    assert!(rotary_dim <= head_dim && rotary_dim.is_multiple_of(2));
    let (width, half) = (heads * head_dim, rotary_dim / 2);
    let step = rows_per_piece(width);
    let sign = if inverse { -1.0 } else { 1.0 };
    x[..positions.len() * width]
        .par_chunks_mut(width * step)
        .zip(positions.par_chunks(step))
        .for_each(|(x, positions)| {
            simd!(|| {
                for (row, &p) in x.chunks_exact_mut(width).zip(positions) {
                    let (cos, sin) = table[p as usize * rotary_dim..][..rotary_dim].split_at(half);
                    for head in row.chunks_exact_mut(head_dim) {
                        let (a, b) = head[..rotary_dim].split_at_mut(half);
                        for i in 0..half {
                            let s = sign * sin[i];
                            let (u, v) = (a[i], b[i]);
                            a[i] = u * cos[i] - v * s;
                            b[i] = v * cos[i] + u * s;
                        }
                    }
                }
            });
        });
}
