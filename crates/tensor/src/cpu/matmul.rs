//! Matrix products: in bf16 where the backend was made for it (`bf16.rs`), else in f32, by our own tiles where they are
//! the faster (`tiles`) and by the f32 part of the `gemm` crate elsewhere: small and narrow products, processors without AVX2.
//!
//! An operand in bf16 is widened panel by panel, each panel giving its own rows or columns of C: sums are never cut, so
//! the result is that of the widened matrix, but for the order in which a product sums.

use super::pool::widen;
use super::rules::panel_rows;
use super::simd::{rows_per_piece, simd};
#[cfg(target_arch = "x86_64")]
use super::tiles::{
    Job, Kernel,
    x86::{Avx2, Avx512, Avx512Narrow},
};
use super::{CpuBuffer, bf16};
use crate::arguments::{Gemm, Mat, MatMut};
pub(super) use gemm_common::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// From so many rows or columns and so much depth on our own tiles pay, if there are [`NARROW`] of the other.
#[cfg(target_arch = "x86_64")]
const TILED_ROWS: usize = 24;
#[cfg(target_arch = "x86_64")]
const NARROW: usize = 8;
#[cfg(target_arch = "x86_64")]
const TILED_DEPTH: usize = 16;
/// From so much depth on a product of few rows is worth being computed as the transpose.
#[cfg(target_arch = "x86_64")]
const TURNED_DEPTH: usize = 256;

/// In which precision products are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Arithmetic {
    #[default]
    F32,
    /// Operands rounded, sums in f32.
    Bf16,
}

/// Whether this processor has tiles of our own.
pub(super) fn tiled() -> bool {
    #[cfg(target_arch = "x86_64")]
    let present = Avx512::present() || Avx2::present();
    #[cfg(not(target_arch = "x86_64"))]
    let present = false;
    present
}

/// What large f32 products run on. Part of the backend's description, for their bits depend on it.
pub(super) fn describe() -> &'static str {
    if tiled() { "tiles" } else { "gemm" }
}

/// See [`crate::Backend::gemm`].
pub(super) fn gemm(
    arithmetic: Arithmetic,
    s: Gemm,
    a: Mat<'_, CpuBuffer>,
    b: Mat<'_, CpuBuffer>,
    c: MatMut<'_, CpuBuffer>,
) {
    if s.m == 0 || s.n == 0 {
        return;
    }
    let last = |m: &Mat<'_, CpuBuffer>, rows: usize, cols: usize| {
        m.offset + rows.saturating_sub(1) * m.row_stride + cols.saturating_sub(1) * m.col_stride
    };
    assert!(s.k == 0 || last(&a, s.m, s.k) < a.buffer.len());
    assert!(s.k == 0 || last(&b, s.k, s.n) < b.buffer.len());
    assert!(c.offset + (s.m - 1) * c.row_stride + s.n - 1 < c.buffer.len());
    assert!(s.n == 1 || s.m == 1 || c.row_stride >= s.n);
    if b.buffer.halves().is_some() {
        for cols in panels(s.n, s.k) {
            let panel = Panel::new(again(&b).t(), s.k, cols.clone());
            let part = Gemm { n: cols.len(), ..s };
            let c = MatMut {
                offset: c.offset + cols.start,
                row_stride: c.row_stride,
                buffer: &mut *c.buffer,
            };
            gemm(arithmetic, part, again(&a), panel.rows().t(), c);
        }
        return;
    }
    if a.buffer.halves().is_some() {
        for rows in panels(s.m, s.k) {
            let panel = Panel::new(again(&a), s.k, rows.clone());
            let part = Gemm { m: rows.len(), ..s };
            let c = MatMut {
                offset: c.offset + rows.start * c.row_stride,
                row_stride: c.row_stride,
                buffer: &mut *c.buffer,
            };
            gemm(arithmetic, part, panel.rows(), again(&b), c);
        }
        return;
    }
    let a_at = a.buffer.as_ptr().wrapping_add(a.offset);
    let b_at = b.buffer.as_ptr().wrapping_add(b.offset);
    let c_at = c.buffer.as_mut_ptr().wrapping_add(c.offset);
    // SAFETY: the three assertions keep every element of A, B and C inside its buffer, and the fourth keeps
    // C's rows from overlapping; C is borrowed mutably, so it aliases neither A nor B.
    unsafe {
        product(
            arithmetic,
            (s.m, s.n, s.k),
            s.alpha as f32,
            (a_at, a.row_stride, a.col_stride),
            (b_at, b.row_stride, b.col_stride),
            s.beta as f32,
            (c_at, c.row_stride),
        );
    }
}

/// `C ← α·A·B + β·C` on all threads.
///
/// # Safety
/// As [`raw`].
pub(super) unsafe fn product(
    arithmetic: Arithmetic,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: RawMat,
    b: RawMat,
    beta: f32,
    c: (*mut f32, usize),
) {
    let all = Parallelism::Rayon(0);
    // SAFETY: passed on to the caller.
    unsafe {
        match arithmetic {
            Arithmetic::F32 => raw(m, n, k, alpha, a, b, beta, c, all),
            Arithmetic::Bf16 => bf16::product((m, n, k), alpha, a, b, beta, c, all),
        }
    }
}

fn again<'a>(x: &Mat<'a, CpuBuffer>) -> Mat<'a, CpuBuffer> {
    Mat { ..*x }
}

/// Runs of a matrix's `n` rows of width `k` that make one panel each.
fn panels(n: usize, k: usize) -> impl Iterator<Item = Range<usize>> {
    let step = panel_rows(k);
    (0..n)
        .step_by(step)
        .map(move |start| start..(start + step).min(n))
}

/// Some rows of a bf16 matrix as f32, kept in the order in which they are stored.
struct Panel {
    data: CpuBuffer,
    row_stride: usize,
    col_stride: usize,
}

impl Panel {
    /// Rows `rows` of `x`, each `k` wide.
    fn new(x: Mat<'_, CpuBuffer>, k: usize, rows: Range<usize>) -> Self {
        let halves = x.buffer.halves().expect("asked for bf16 operands only");
        let mut data = x.buffer.scratch(rows.len() * k);
        let first = x.offset + rows.start * x.row_stride;
        // Runs along the stored order: a row of the matrix, or a column when it is stored transposed.
        let (run, stride) = match x.col_stride == 1 {
            true => (k, x.row_stride),
            false => (rows.len(), x.col_stride),
        };
        assert!(x.col_stride == 1 || x.row_stride == 1, "no unit stride");
        let step = rows_per_piece(run);
        data.par_chunks_mut((run * step).max(1))
            .enumerate()
            .for_each(|(piece, data)| {
                simd!(|| {
                    for (i, to) in data.chunks_exact_mut(run).enumerate() {
                        let from = first + (piece * step + i) * stride;
                        widen(&halves[from..][..run], to);
                    }
                });
            });
        let (row_stride, col_stride) = if x.col_stride == 1 { (k, 1) } else { (1, run) };
        Panel {
            data,
            row_stride,
            col_stride,
        }
    }

    fn rows(&self) -> Mat<'_, CpuBuffer> {
        Mat {
            buffer: &self.data,
            offset: 0,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        }
    }
}

/// A matrix by pointer, row stride and column stride.
pub(super) type RawMat = (*const f32, usize, usize);

/// `C ← α·A·B + β·C` on raw pointers.
///
/// # Safety
/// Every element of the three matrices must be valid, and C must overlap neither A nor B nor what another
/// thread uses.
pub(super) unsafe fn raw(
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: RawMat,
    b: RawMat,
    beta: f32,
    c: (*mut f32, usize),
    parallelism: Parallelism,
) {
    #[cfg(target_arch = "x86_64")]
    if m >= TILED_ROWS && n >= NARROW && k >= TILED_DEPTH {
        let job = Job {
            m,
            n,
            k,
            alpha,
            a,
            b,
            beta,
            c,
        };
        let parallel = !matches!(parallelism, Parallelism::None);
        // SAFETY: passed on to the caller; the instructions are there.
        unsafe {
            if Avx512::present() {
                return match n <= Avx512Narrow::COLS {
                    true => job.run::<Avx512Narrow>(parallel),
                    false => job.run::<Avx512>(parallel),
                };
            }
            if Avx2::present() {
                return job.run::<Avx2>(parallel);
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if tiled() && (NARROW..TILED_ROWS).contains(&m) && n >= TILED_ROWS && k >= TURNED_DEPTH {
        // SAFETY: passed on to the caller.
        return unsafe { turned((m, n, k), alpha, a, b, beta, c, parallelism) };
    }
    let (a, a_row, a_col) = (a.0, a.1 as isize, a.2 as isize);
    let (b, b_row, b_col) = (b.0, b.1 as isize, b.2 as isize);
    // The kernels write columns: C is row-major, so they compute Cᵀ = Bᵀ·Aᵀ.
    // SAFETY: passed on to the caller.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            c.0,
            c.1 as isize,
            1,
            beta != 0.0,
            b,
            b_row,
            b_col,
            a,
            a_row,
            a_col,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The same of few rows, as a product of few columns: what it makes is the transpose.
///
/// # Safety
/// As [`raw`].
#[cfg(target_arch = "x86_64")]
unsafe fn turned(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: RawMat,
    b: RawMat,
    beta: f32,
    (c, stride): (*mut f32, usize),
    parallelism: Parallelism,
) {
    let mut turned = vec![0f32; m * n];
    let (a, b, to) = ((a.0, a.2, a.1), (b.0, b.2, b.1), (turned.as_mut_ptr(), m));
    // SAFETY: passed on to the caller; `turned` is `[n, m]`.
    unsafe { raw(n, m, k, alpha, b, a, 0.0, to, parallelism) };
    for i in 0..m {
        // SAFETY: the caller's row of C.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), n) };
        for (j, c) in row.iter_mut().enumerate() {
            let old = if beta == 0.0 { 0.0 } else { beta * *c };
            *c = old + turned[j * m + i];
        }
    }
}
