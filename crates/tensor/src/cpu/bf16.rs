//! Matrix products in bf16: operands rounded to eight bits of significand (to nearest, ties to even), products and sums in
//! f32. What is stored stays f32.
//!
//! Products with a narrow weight (adapters) stay in f32: to round and pack the other operand would cost more than the product.
//!
//! Processors with AVX512-BF16 multiply two neighbouring k at once (`vdpbf16ps`): the tile of `tiles` packs them as one `u32`.
//! Without the instructions the operands are rounded and multiplied in f32: the same numbers but for the order of sums,
//! without the speed.

use super::matmul::{Parallelism, RawMat, raw};
use super::simd::simd;
use super::tiles::Strided;
use crate::bf16;

/// Whether this processor multiplies in bf16.
pub(super) fn fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// A product whose weight has a side of at most so many stays in f32.
const NARROW: usize = 16;

/// Whether a product is taken in bf16. The number of tokens has no say, or a row's numbers would depend on the batch around it:
/// tokens are the rows of A where A lies row after row, and what is summed over where it is a transpose.
pub(super) fn rounds((m, n, k): (usize, usize, usize), (_, a_row, _): RawMat) -> bool {
    let inner = if a_row == 1 { m } else { k };
    n.min(inner) > NARROW
}

/// `C ← α·A·B + β·C` with A and B rounded to bf16, unless [`rounds`] says no.
///
/// # Safety
/// As [`raw`].
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: RawMat,
    b: RawMat,
    beta: f32,
    c: (*mut f32, usize),
    parallelism: Parallelism,
) {
    if !rounds((m, n, k), a) {
        // SAFETY: passed on to the caller.
        return unsafe { raw(m, n, k, alpha, a, b, beta, c, parallelism) };
    }
    #[cfg(target_arch = "x86_64")]
    if fast() {
        let job = super::tiles::Job {
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
        unsafe { job.run::<super::tiles::x86::Avx512Bf16>(parallel) };
        return;
    }
    let (rounded_a, rounded_b) = (rounded(a, m, k), rounded((b.0, b.2, b.1), n, k));
    let (a, b) = ((rounded_a.as_ptr(), k, 1), (rounded_b.as_ptr(), 1, k));
    // SAFETY: as above; the rounded copies hold [m, k] and [n, k].
    unsafe { raw(m, n, k, alpha, a, b, beta, c, parallelism) };
}

/// Rows of `x` `[rows, k]` rounded, row-major.
fn rounded((x, row, col): RawMat, rows: usize, k: usize) -> Vec<f32> {
    let mut to = vec![0.0; rows * k];
    for (i, to) in to.chunks_exact_mut(k.max(1)).enumerate() {
        simd!(|| {
            for (j, to) in to.iter_mut().enumerate() {
                // SAFETY: the caller of `product` vouches for every element of its matrices.
                *to = bf16::widen(bf16::round(unsafe { *x.add(i * row + j * col) }));
            }
        });
    }
    to
}

/// Two neighbours along k as the instruction wants them.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    u32::from(bf16::round(even)) | u32::from(bf16::round(odd)) << 16
}

/// [`super::tiles::Kernel::pack_rows`] of pairs.
///
/// # Safety
/// As there.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "there the tests alone use it")
)]
#[inline(always)]
pub(super) unsafe fn pack<const W: usize>(x: Strided, width: usize, k: usize, to: &mut [u32]) {
    // SAFETY: all reads have lane < width and number < k.
    let at = |l: usize, p: usize| unsafe { *x.first.add(l * x.lane + p * x.step) };
    let whole = k / 2;
    if width == W && x.lane == 1 {
        for (p, to) in to.chunks_exact_mut(W).take(whole).enumerate() {
            for (l, to) in to.iter_mut().enumerate() {
                *to = pair(at(l, 2 * p), at(l, 2 * p + 1));
            }
        }
    } else {
        // A run of pairs is rounded at full width before its pairs are spread over the panel.
        let mut run = [0u32; 64];
        for l in 0..W {
            for start in (0..whole).step_by(64) {
                let count = (whole - start).min(64);
                for (i, pair_of) in run[..count].iter_mut().enumerate() {
                    let p = start + i;
                    *pair_of = match l < width {
                        true => pair(at(l, 2 * p), at(l, 2 * p + 1)),
                        false => 0,
                    };
                }
                for (i, &pair_of) in run[..count].iter().enumerate() {
                    to[(start + i) * W + l] = pair_of;
                }
            }
        }
    }
    if k % 2 == 1 {
        for l in 0..W {
            to[whole * W + l] = if l < width {
                pair(at(l, k - 1), 0.0)
            } else {
                0
            };
        }
    }
}
