//! Matrix products through the f32 part of the `gemm` crate (own packing and kernels for AVX-512, AVX2, NEON).

use super::CpuBuffer;
use crate::backend::{Gemm, Mat, MatMut};
pub(super) use gemm_common::Parallelism;

/// See [`crate::Backend::gemm`].
pub(super) fn gemm(
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
    // SAFETY: the three assertions keep every element of A, B and C inside its buffer, and the fourth keeps
    // C's rows from overlapping; C is borrowed mutably, so it aliases neither A nor B.
    unsafe {
        raw(
            s.m,
            s.n,
            s.k,
            s.alpha as f32,
            (
                a.buffer.as_ptr().wrapping_add(a.offset),
                a.row_stride,
                a.col_stride,
            ),
            (
                b.buffer.as_ptr().wrapping_add(b.offset),
                b.row_stride,
                b.col_stride,
            ),
            s.beta as f32,
            (c.buffer.as_mut_ptr().wrapping_add(c.offset), c.row_stride),
            Parallelism::Rayon(0),
        );
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
