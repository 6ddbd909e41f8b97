//! Inner products of probes' weight gradients of one linear map, ⟨G_pᵀA_p, G_qᵀA_q⟩, by the cheapest of three ways.
//!
//! Probe p has T_p rows; together they touch N activation rows. Multiply-adds, with K = AAᵀ `[N, N]`:
//!
//! - [`Way::Ghost`]: Σ_{s,t} K_st (G_p G_qᵀ)_st for each pair of probes: N²·d_in + Σ_{p≤q} T_p T_q·d_out. Few probes of
//!   moderate length (a preference pair).
//! - [`Way::Projected`]: ⟨G_p, K G_q⟩ with K applied to all probes at once: N²·d_in + n·N²·d_out + n·Σ_p T_p·d_out. Many
//!   probes over the same short rows (a token heat map).
//! - [`Way::Formed`]: the gradients themselves, a slice of output rows at a time: Σ_p T_p·d_in·d_out + n²/2·d_in·d_out.
//!   Long sequences, narrow maps (adapters), many probes over different rows (a batch Gram).
//!
//! Products are in f32; sums over rows and slices in f64. The first is the ghost norm of Li et al. 2022 (arXiv
//! 2110.05679, §4), extended to pairs; the second is the same with a factor applied early. All three are compared with the
//! naive backend in `gram_tests.rs`.

use super::elementwise;
use super::matmul::{Parallelism, raw};
use super::pool::{self, CpuBuffer, Pool};
use super::rules::{ProbeSizes, Way};
use super::simd::{lane_sum_2, simd};
use crate::layout::Span;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Sums of products are cut after so many terms and go on in f64.
const TERMS: usize = 1 << 13;

/// Rows whose inner products one task sums.
const ROWS: usize = 16;

/// The linear map's raw material.
struct Map<'a> {
    a: &'a [f32],
    g: &'a [f32],
    d_in: usize,
    d_out: usize,
    probes: &'a [&'a [Span]],
    sizes: ProbeSizes,
    /// Of products that are large enough to be shared.
    parallelism: Parallelism,
}

impl Map<'_> {
    /// First gradient row of probe `p`; its rows follow each other.
    fn first(&self, p: usize) -> usize {
        self.probes[p].first().map_or(0, |s| s.grad)
    }

    /// For every row of the run the smallest run of probes that holds all which reach it.
    fn reaching(&self, rows: &Range<usize>) -> Vec<Range<usize>> {
        let mut reaching: Vec<Option<Range<usize>>> = vec![None; rows.len()];
        for (p, probe) in self.probes.iter().enumerate() {
            for span in *probe {
                let first = span.act - rows.start;
                for run in &mut reaching[first..first + span.len] {
                    let start = run.as_ref().map_or(p, |run| run.start);
                    *run = Some(start..p + 1);
                }
            }
        }
        reaching
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect()
    }

    /// Panics unless every row lies in its buffer and each probe's gradient rows follow each other.
    fn check(&self) {
        for probe in self.probes {
            let mut next = probe.first().map_or(0, |s| s.grad);
            for span in *probe {
                assert_eq!(span.grad, next, "a probe's gradient rows are contiguous");
                next += span.len;
                assert!((span.act + span.len) * self.d_in <= self.a.len());
            }
            assert!(next * self.d_out <= self.g.len());
        }
    }

    /// K = AAᵀ over the run of rows.
    fn row_products(&self, pool: &Arc<Pool>, rows: &Range<usize>) -> CpuBuffer {
        let n = rows.len();
        let mut k = pool::take(pool, n * n);
        let a = self.a[rows.start * self.d_in..].as_ptr();
        // SAFETY: `check` has put the rows inside `a`; k holds n² floats and is ours.
        unsafe {
            let (x, y) = ((a, self.d_in, 1), (a, 1, self.d_in));
            let c = (k.as_mut_ptr(), n);
            raw(n, n, self.d_in, 1.0, x, y, 0.0, c, self.parallelism);
        }
        k
    }
}

/// See [`crate::Backend::linear_grams`]; `way` overrules the choice. Many clusters are shared out among the threads, each
/// done by one; of few, each is done by all.
pub(super) fn linear_grams(
    pool: &Arc<Pool>,
    (a, d_in): (&[f32], usize),
    (g, d_out): (&[f32], usize),
    clusters: &[Vec<&[Span]>],
    way: Option<Way>,
) -> Vec<Vec<f64>> {
    let one = |probes: &Vec<&[Span]>, parallelism: Parallelism| {
        let map = Map {
            a,
            g,
            d_in,
            d_out,
            probes,
            sizes: ProbeSizes::of(probes),
            parallelism,
        };
        map.check();
        match way.unwrap_or_else(|| map.sizes.way(d_in, d_out)) {
            Way::Ghost => ghost(&map, pool),
            Way::Projected => projected(&map, pool),
            Way::Formed => formed(&map, pool),
        }
    };
    if clusters.len() < rayon::current_num_threads() {
        let each = clusters.iter();
        each.map(|c| one(c, Parallelism::Rayon(0))).collect()
    } else {
        let each = clusters.par_iter();
        each.map(|c| one(c, Parallelism::None)).collect()
    }
}

fn ghost(map: &Map<'_>, pool: &Arc<Pool>) -> Vec<f64> {
    let (n, rows) = (map.probes.len(), map.sizes.rows.clone());
    let k = map.row_products(pool, &rows);
    let mut gram = vec![0.0; n * n];
    for p in 0..n {
        for q in p..n {
            let (m, width) = (map.sizes.lens[p], map.sizes.lens[q]);
            let mut products = pool::take(pool, m * width);
            let row = |p: usize| map.g[map.first(p) * map.d_out..].as_ptr();
            let (x, y) = ((row(p), map.d_out, 1), (row(q), 1, map.d_out));
            let c = (products.as_mut_ptr(), width);
            // SAFETY: both probes' rows lie inside `g` (checked); `products` holds m·width floats and is ours.
            unsafe {
                raw(m, width, map.d_out, 1.0, x, y, 0.0, c, map.parallelism);
            }
            let at = |p: usize| {
                let (first, start) = (map.first(p), rows.start);
                let runs = map.probes[p].iter();
                runs.map(move |s| (s.grad - first, s.act - start, s.len))
            };
            let mut inner = 0.0;
            for (i, act, len) in at(p) {
                for r in 0..len {
                    for (j, other, count) in at(q) {
                        let k = &k[(act + r) * rows.len() + other..][..count];
                        let x = &products[(i + r) * width + j..][..count];
                        inner += simd!(|| lane_sum_2(k, x, |k, x| f64::from(k) * f64::from(x)));
                    }
                }
            }
            gram[p * n + q] = inner;
            gram[q * n + p] = inner;
        }
    }
    gram
}

/// A width in steps.
fn slices(width: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width)
        .step_by(step)
        .map(move |start| start..(start + step).min(width))
}

/// Rows lie as `[row][probe][column]`, so that K is applied to all probes in one product; a row is in a run of probes only
/// (those that reach it), and only these enter the inner products.
fn projected(map: &Map<'_>, pool: &Arc<Pool>) -> Vec<f64> {
    let (n, rows) = (map.probes.len(), map.sizes.rows.clone());
    let k = map.row_products(pool, &rows);
    let count = rows.len();
    let reaching = map.reaching(&rows);
    let mut gram = vec![0.0; n * n];
    for columns in slices(map.d_out, map.sizes.projected_slice(map.d_out)) {
        let (width, size) = (columns.len(), n * columns.len());
        let mut left = pool::take(pool, count * size);
        left.par_chunks_mut(size).for_each(|row| row.fill(0.0));
        for (p, probe) in map.probes.iter().enumerate() {
            for span in *probe {
                for r in 0..span.len {
                    let from = (span.grad + r) * map.d_out + columns.start;
                    let to = (span.act - rows.start + r) * size + p * width;
                    left[to..to + width].copy_from_slice(&map.g[from..from + width]);
                }
            }
        }
        let mut right = pool::take(pool, count * size);
        // SAFETY: K is `[count, count]`, both others `[count, size]`; `right` is ours.
        unsafe {
            let (x, y) = ((k.as_ptr(), count, 1), (left.as_ptr(), size, 1));
            let c = (right.as_mut_ptr(), size);
            raw(count, size, count, 1.0, x, y, 0.0, c, map.parallelism);
        }
        let part = |first: usize| {
            let mut sums = vec![0f32; n * n];
            for t in first..(first + ROWS).min(count) {
                let probes = reaching[t].clone();
                if probes.is_empty() {
                    continue;
                }
                let x = left[t * size + probes.start * width..].as_ptr();
                let y = right[t * size..].as_ptr();
                let (m, c) = (probes.len(), sums[probes.start * n..].as_mut_ptr());
                // SAFETY: row t of both, `[n, width]`; `sums` holds n² floats and is this task's alone.
                unsafe {
                    let none = Parallelism::None;
                    let (x, y) = ((x, width, 1), (y, 1, width));
                    raw(m, n, width, 1.0, x, y, 1.0, (c, n), none);
                }
            }
            sums
        };
        let firsts: Vec<usize> = (0..count).step_by(ROWS).collect();
        let parts: Vec<Vec<f32>> = firsts.into_par_iter().map(part).collect();
        for part in parts {
            let sums = gram.iter_mut().zip(part);
            sums.for_each(|(g, x)| *g += f64::from(x));
        }
    }
    // ⟨G_p, K G_q⟩ is symmetric but for rounding.
    for p in 0..n {
        for q in 0..p {
            let mean = 0.5 * (gram[p * n + q] + gram[q * n + p]);
            (gram[p * n + q], gram[q * n + p]) = (mean, mean);
        }
    }
    gram
}

fn formed(map: &Map<'_>, pool: &Arc<Pool>) -> Vec<f64> {
    let n = map.probes.len();
    let mut gram = vec![0.0; n * n];
    for outputs in slices(map.d_out, map.sizes.formed_slice(map.d_in, map.d_out)) {
        let size = outputs.len() * map.d_in;
        let mut own = pool::take(pool, n * size);
        let form = |p: usize, own: &mut [f32], parallelism: Parallelism| {
            let mut beta = 0.0;
            for span in map.probes[p] {
                let g = map.g[span.grad * map.d_out + outputs.start..].as_ptr();
                let a = map.a[span.act * map.d_in..].as_ptr();
                let (x, y) = ((g, 1, map.d_out), (a, map.d_in, 1));
                let (m, c) = (outputs.len(), (own.as_mut_ptr(), map.d_in));
                // SAFETY: the span's rows lie inside `a` and `g` (checked); `own` holds m·d_in floats, this task's alone.
                unsafe {
                    raw(m, map.d_in, span.len, 1.0, x, y, beta, c, parallelism);
                }
                beta = 1.0;
            }
            if beta == 0.0 {
                own.fill(0.0);
            }
        };
        if n < 8 {
            let each = own.chunks_mut(size).enumerate();
            each.for_each(|(p, own)| form(p, own, map.parallelism));
        } else {
            let each = own.par_chunks_mut(size).enumerate();
            each.for_each(|(p, own)| form(p, own, Parallelism::None));
        }
        match n {
            2 => {
                let (x, y) = own[..2 * size].split_at(size);
                let (xx, yy, xy) = elementwise::gram_and_add(x, y, 0.0, 0.0, None);
                let sums = [xx, xy, xy, yy];
                gram.iter_mut().zip(sums).for_each(|(g, s)| *g += s);
            }
            _ => add_products(&own, &own, n, size, &mut gram),
        }
    }
    gram
}

/// Adds x yᵀ of two `[n, len]` matrices to `gram` `[n, n]`, in f64 after every [`TERMS`] terms.
fn add_products(x: &[f32], y: &[f32], n: usize, len: usize, gram: &mut [f64]) {
    let pieces: Vec<usize> = (0..len).step_by(TERMS).collect();
    let part = |&start: &usize| {
        let k = TERMS.min(len - start);
        let mut c = vec![0f32; n * n];
        let (x, y) = (x[start..].as_ptr(), y[start..].as_ptr());
        let to = (c.as_mut_ptr(), n);
        // SAFETY: columns start..start + k of both `[n, len]` matrices; c holds n² floats and is ours.
        unsafe {
            let none = Parallelism::None;
            raw(n, n, k, 1.0, (x, len, 1), (y, 1, len), 0.0, to, none);
        }
        c
    };
    for group in pieces.chunks(64) {
        let parts: Vec<Vec<f32>> = group.par_iter().map(part).collect();
        for part in parts {
            let sums = gram.iter_mut().zip(part);
            sums.for_each(|(g, x)| *g += f64::from(x));
        }
    }
}

#[cfg(test)]
#[path = "gram_tests.rs"]
mod tests;
