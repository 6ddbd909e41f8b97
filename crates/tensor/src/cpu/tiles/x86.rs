//! Tiles of x86-64: f32 with AVX2 and AVX-512, bf16 with AVX512-BF16.

use super::super::bf16;
use super::pack::pack_f32;
use super::{Kernel, Lanes, Rows, Scale, Strided, Target, tile};
use std::arch::x86_64::*;

/// f32 with AVX2 and FMA: 12 of 16 registers hold sums.
pub(in super::super) struct Avx2;
/// f32 with AVX-512: 24 of 32 registers hold sums.
pub(in super::super) struct Avx512;
/// Pairs of bf16 with AVX512-BF16.
pub(in super::super) struct Avx512Bf16;

impl Avx2 {
    /// Whether this processor has the instructions.
    pub(in super::super) fn present() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
}

impl Avx512 {
    /// Whether this processor has the instructions.
    pub(in super::super) fn present() -> bool {
        Avx2::present() && is_x86_feature_detected!("avx512f")
    }
}

/// [`Lanes`] of f32 from one set of instructions.
macro_rules! f32_lanes {
    ($lanes:ident, $vector:ident x $width:literal: $zero:ident, $load:ident, $splat:ident, $fma:ident, $mul:ident, $store:ident) => {
        impl Lanes for $lanes {
            type Sums = $vector;
            type Vector = $vector;
            const WIDTH: usize = $width;
            #[inline(always)]
            unsafe fn zero() -> $vector {
                // SAFETY: passed on to the caller.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn load(x: *const u32) -> $vector {
                // SAFETY: passed on to the caller.
                unsafe { $load(x.cast()) }
            }
            #[inline(always)]
            unsafe fn splat(x: *const u32) -> $vector {
                // SAFETY: passed on to the caller.
                unsafe { $splat(*x.cast()) }
            }
            #[inline(always)]
            unsafe fn dot(sums: $vector, a: $vector, b: $vector) -> $vector {
                // SAFETY: passed on to the caller.
                unsafe { $fma(a, b, sums) }
            }
            #[inline(always)]
            unsafe fn write(sums: $vector, alpha: f32, beta: f32, to: *mut f32) {
                // SAFETY: passed on to the caller.
                unsafe {
                    let scaled = $mul(sums, $splat(alpha));
                    let sum = match beta == 0.0 {
                        true => scaled,
                        false => $fma($splat(beta), $load(to), scaled),
                    };
                    $store(to, sum);
                }
            }
        }
    };
}
#[rustfmt::skip]
f32_lanes!(Avx2, __m256 x 8:
    _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_storeu_ps);
#[rustfmt::skip]
f32_lanes!(Avx512, __m512 x 16:
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_storeu_ps);

impl Lanes for Avx512Bf16 {
    type Sums = __m512;
    type Vector = __m512i;
    const WIDTH: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: passed on to the caller.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(x: *const u32) -> __m512i {
        // SAFETY: passed on to the caller.
        unsafe { _mm512_loadu_si512(x.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: *const u32) -> __m512i {
        // SAFETY: passed on to the caller.
        unsafe { _mm512_set1_epi32(*x.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
        // The two vector types are the same 64 bytes.
        // SAFETY: passed on to the caller.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(a);
            let b = std::mem::transmute::<__m512i, __m512bh>(b);
            _mm512_dpbf16_ps(sums, a, b)
        }
    }
    #[inline(always)]
    unsafe fn write(sums: __m512, alpha: f32, beta: f32, to: *mut f32) {
        // SAFETY: passed on to the caller.
        unsafe { Avx512::write(sums, alpha, beta, to) }
    }
}

/// A [`Kernel`] of one set of instructions: its tile and its packing are compiled for them.
macro_rules! kernel {
    ($kernel:ident, $features:literal, $rows:literal x $cols:literal, $step:literal, $depth:literal, $($pack:ident)::+) => {
        impl Kernel for $kernel {
            const ROWS: usize = $rows;
            const COLS: usize = $cols;
            const STEP: usize = $step;
            const DEPTH: usize = $depth;
            unsafe fn pack_rows(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                #[target_feature(enable = $features)]
                unsafe fn pack(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                    // SAFETY: passed on to the caller.
                    unsafe { $($pack)::+::<$rows>(x, width, k, to) }
                }
                // SAFETY: passed on to the caller.
                unsafe { pack(x, width, k, to) }
            }
            unsafe fn pack_cols(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                #[target_feature(enable = $features)]
                unsafe fn pack(x: Strided, width: usize, k: usize, to: &mut [u32]) {
                    // SAFETY: passed on to the caller.
                    unsafe { $($pack)::+::<$cols>(x, width, k, to) }
                }
                // SAFETY: passed on to the caller.
                unsafe { pack(x, width, k, to) }
            }
            unsafe fn tile(depth: usize, a: *const u32, b: *const u32, scale: Scale, c: Target) {
                #[target_feature(enable = $features)]
                unsafe fn compiled(
                    depth: usize,
                    a: *const u32,
                    b: *const u32,
                    scale: Scale,
                    c: Target,
                ) {
                    let (first, row, along) = (a, 1, $rows);
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$kernel, $rows>(depth, Rows { first, row, along }, b, scale, c) }
                }
                const { assert!($cols == 2 * <$kernel as Lanes>::WIDTH) };
                // SAFETY: passed on to the caller.
                unsafe { compiled(depth, a, b, scale, c) }
            }
            unsafe fn tile_in_place(
                depth: usize,
                a: Strided,
                b: *const u32,
                scale: Scale,
                c: Target,
            ) {
                #[target_feature(enable = $features)]
                unsafe fn compiled(
                    depth: usize,
                    a: Strided,
                    b: *const u32,
                    scale: Scale,
                    c: Target,
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$kernel, $rows>(depth, a.into(), b, scale, c) }
                }
                assert_eq!($step, 1, "packed elements are pairs");
                // SAFETY: passed on to the caller.
                unsafe { compiled(depth, a, b, scale, c) }
            }
        }
    };
}
kernel!(Avx2, "avx2,fma", 6 x 16, 1, 320, pack_transposing);
kernel!(Avx512, "avx512f,avx2,fma", 12 x 32, 1, 192, pack_transposing);
kernel!(Avx512Bf16, "avx512f,avx512bf16", 12 x 32, 2, 192, bf16::pack);

/// [`Kernel::pack_rows`] of f32: lanes beside each other are copied, lanes along k transposed eight numbers at a time.
///
/// # Safety
/// As [`Kernel::pack_rows`]; the processor must have AVX.
#[inline(always)]
unsafe fn pack_transposing<const W: usize>(x: Strided, width: usize, k: usize, to: &mut [u32]) {
    if width < W || (x.lane != 1 && x.step != 1) {
        // SAFETY: passed on to the caller.
        unsafe { pack_f32::<W>(x, width, k, to) };
        return;
    }
    assert!(to.len() >= k * W);
    let to = to.as_mut_ptr().cast::<f32>();
    // SAFETY: all reads have lane < W and number < k, all writes are below k·W.
    unsafe {
        if x.lane == 1 {
            for p in 0..k {
                std::ptr::copy_nonoverlapping(x.first.add(p * x.step), to.add(p * W), W);
            }
            return;
        }
        let at = |l: usize, p: usize| x.first.wrapping_add(l * x.lane + p);
        let whole = k / 8 * 8;
        for p in (0..whole).step_by(8) {
            let mut l = 0;
            while l + 8 <= W {
                transpose_8(at(l, p), x.lane, to.add(p * W + l), W);
                l += 8;
            }
            if l + 4 <= W {
                transpose_4(at(l, p), x.lane, to.add(p * W + l), W);
                transpose_4(at(l, p + 4), x.lane, to.add((p + 4) * W + l), W);
                l += 4;
            }
            for l in l..W {
                for i in 0..8 {
                    *to.add((p + i) * W + l) = *at(l, p + i);
                }
            }
        }
        for p in whole..k {
            for l in 0..W {
                *to.add(p * W + l) = *at(l, p);
            }
        }
    }
}

/// Eight numbers of eight lanes, `lane` apart, to eight rows of `w`.
///
/// # Safety
/// All 64 must be valid on both sides; the processor must have AVX.
#[inline(always)]
unsafe fn transpose_8(x: *const f32, lane: usize, to: *mut f32, w: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        // Loops, not `from_fn`: a closure would not be compiled for AVX.
        let mut rows = [_mm256_setzero_ps(); 8];
        for (l, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(x.add(l * lane));
        }
        // Two lanes, then four, then all eight beside each other.
        let (mut twos, mut fours) = ([_mm256_setzero_ps(); 8], [_mm256_setzero_ps(); 8]);
        for i in 0..4 {
            twos[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for half in [0, 4] {
            for i in 0..2 {
                let (x, y) = (twos[half + i], twos[half + i + 2]);
                fours[half + 2 * i] = _mm256_shuffle_ps::<0x44>(x, y);
                fours[half + 2 * i + 1] = _mm256_shuffle_ps::<0xee>(x, y);
            }
        }
        for i in 0..4 {
            let (x, y) = (fours[i], fours[i + 4]);
            _mm256_storeu_ps(to.add(i * w), _mm256_permute2f128_ps::<0x20>(x, y));
            _mm256_storeu_ps(to.add((i + 4) * w), _mm256_permute2f128_ps::<0x31>(x, y));
        }
    }
}

/// Four numbers of four lanes, `lane` apart, to four rows of `w`.
///
/// # Safety
/// All 16 must be valid on both sides.
#[inline(always)]
unsafe fn transpose_4(x: *const f32, lane: usize, to: *mut f32, w: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut rows = [_mm_setzero_ps(); 4];
        for (l, row) in rows.iter_mut().enumerate() {
            *row = _mm_loadu_ps(x.add(l * lane));
        }
        let (low, high) = (
            _mm_unpacklo_ps(rows[0], rows[1]),
            _mm_unpackhi_ps(rows[0], rows[1]),
        );
        let (low_2, high_2) = (
            _mm_unpacklo_ps(rows[2], rows[3]),
            _mm_unpackhi_ps(rows[2], rows[3]),
        );
        _mm_storeu_ps(to, _mm_movelh_ps(low, low_2));
        _mm_storeu_ps(to.add(w), _mm_movehl_ps(low_2, low));
        _mm_storeu_ps(to.add(2 * w), _mm_movelh_ps(high, high_2));
        _mm_storeu_ps(to.add(3 * w), _mm_movehl_ps(high_2, high));
    }
}
