//! Look-ups and their transposes, and the inner products of look-up gradients.

use super::CpuBuffer;
use super::simd::{Shared, lane_sum_2, rows_per_piece, simd};
use crate::bf16;
use rayon::prelude::*;
use std::ops::Range;

pub(super) fn gather(table: &CpuBuffer, rows: &[u32], out: &mut [f32], d: usize, add: bool) {
    match table.halves() {
        None => gather_rows(rows, out, d, add, |row| &table[row * d..][..d], f32::clone),
        Some(halves) => gather_rows(
            rows,
            out,
            d,
            add,
            |row| &halves[row * d..][..d],
            |&x| bf16::widen(x),
        ),
    }
}

fn gather_rows<'a, T: 'a>(
    rows: &[u32],
    out: &mut [f32],
    d: usize,
    add: bool,
    from: impl Fn(usize) -> &'a [T] + Sync,
    value: impl Fn(&T) -> f32 + Sync,
) {
    let step = rows_per_piece(d);
    out[..rows.len() * d]
        .par_chunks_mut(d * step)
        .zip(rows.par_chunks(step))
        .for_each(|(out, rows)| {
            for (out, &row) in out.chunks_exact_mut(d).zip(rows) {
                let both = out.iter_mut().zip(from(row as usize));
                if add {
                    both.for_each(|(o, x)| *o += value(x));
                } else {
                    both.for_each(|(o, x)| *o = value(x));
                }
            }
        });
}

/// Columns are split among the threads: several x rows may land on one row of `out`, and every element is
/// summed in row order whatever the number of threads.
pub(super) fn scatter_add(
    x: &[f32],
    rows: &[u32],
    coefficients: Option<&[f32]>,
    out: &mut [f32],
    d: usize,
) {
    assert!(x.len() >= rows.len() * d);
    assert!(rows.iter().all(|&row| (row as usize + 1) * d <= out.len()));
    let parts = if rows.len() * d < 1 << 16 {
        1
    } else {
        rayon::current_num_threads().min(d)
    };
    let shared = Shared::new(out);
    (0..parts).into_par_iter().for_each(|part| {
        let (from, to) = (part * d / parts, (part + 1) * d / parts);
        simd!(|| {
            for (r, &row) in rows.iter().enumerate() {
                let c = coefficients.map_or(1.0, |c| c[r]);
                // SAFETY: the row is inside `out` (asserted) and columns from..to belong to this part alone.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(shared.at(row as usize * d + from), to - from)
                };
                for (o, x) in out.iter_mut().zip(&x[r * d + from..r * d + to]) {
                    *o += c * x;
                }
            }
        });
    });
}

/// Row numbers sorted by id, so that equal ids stand together.
fn by_id(ids: &[u32], rows: Range<usize>) -> Vec<(u32, usize)> {
    let mut sorted: Vec<(u32, usize)> = rows.map(|r| (ids[r], r)).collect();
    sorted.sort_unstable();
    sorted
}

/// Rows of one id are summed first: ⟨Σ_t g_t, Σ_u g_u⟩ per id is far cheaper than all pairs for a frequent token.
pub(super) fn lookup_inner(
    g: &[f32],
    ids: &[u32],
    p: Range<usize>,
    q: Range<usize>,
    d: usize,
) -> f64 {
    let (p, q) = (by_id(ids, p), by_id(ids, q));
    let (mut sum_p, mut sum_q) = (vec![0f32; d], vec![0f32; d]);
    let mut total = 0.0;
    for run in p.chunk_by(|a, b| a.0 == b.0) {
        let id = run[0].0;
        let start = q.partition_point(|x| x.0 < id);
        let end = q.partition_point(|x| x.0 <= id);
        if start == end {
            continue;
        }
        add_rows(g, run, d, &mut sum_p);
        add_rows(g, &q[start..end], d, &mut sum_q);
        total += f64::from(simd!(|| lane_sum_2(&sum_p, &sum_q, |p, q| p * q)));
    }
    total
}

fn add_rows(g: &[f32], rows: &[(u32, usize)], d: usize, sum: &mut [f32]) {
    sum.fill(0.0);
    simd!(|| {
        for &(_, r) in rows {
            for (s, x) in sum.iter_mut().zip(&g[r * d..][..d]) {
                *s += x;
            }
        }
    });
}
