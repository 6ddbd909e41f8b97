//! Tiles of x86-64: f32 with AVX2 and AVX-512, bf16 with AVX512-BF16.

use super::super::bf16;
use super::pack::pack_f32;
use super::{Kernel, Lanes, Rows, Scale, Strided, Target, tile};
use std::arch::x86_64::*;

/// f32 with AVX2 and FMA: 12 of 16 registers hold sums.
pub(in super::super) struct Avx2;
/// f32 with AVX-512: 24 of 32 registers hold sums.
pub(in super::super) struct Avx512;
/// The same for products of few columns.
pub(in super::super) struct Avx512Narrow;
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
    ($kernel:ident of $lanes:ident, $features:literal, $rows:literal x $cols:literal, $step:literal, $depth:literal, $block:literal, $($pack:ident)::+) => {
        impl Kernel for $kernel {
            const ROWS: usize = $rows;
            const COLS: usize = $cols;
            const STEP: usize = $step;
            const DEPTH: usize = $depth;
            const BLOCK: usize = $block;
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
                const VECTORS: usize = $cols / <$lanes as Lanes>::WIDTH;
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
                    unsafe { tile::<$lanes, $rows, VECTORS>(depth, Rows { first, row, along }, b, scale, c) }
                }
                const { assert!($cols == VECTORS * <$lanes as Lanes>::WIDTH) };
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
                const VECTORS: usize = $cols / <$lanes as Lanes>::WIDTH;
                #[target_feature(enable = $features)]
                unsafe fn compiled(
                    depth: usize,
                    a: Strided,
                    b: *const u32,
                    scale: Scale,
                    c: Target,
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$lanes, $rows, VECTORS>(depth, a.into(), b, scale, c) }
                }
                assert_eq!($step, 1, "packed elements are pairs");
                // SAFETY: passed on to the caller.
                unsafe { compiled(depth, a, b, scale, c) }
            }
        }
    };
}
// Depths and blocks are those that were fastest on Zen 3 (AVX2) and Zen 4 (AVX-512).
kernel!(Avx2 of Avx2, "avx2,fma", 6 x 16, 1, 320, 96, pack_transposing);
kernel!(Avx512 of Avx512, "avx512f,avx2,fma", 12 x 32, 1, 288, 144, pack_transposing);
kernel!(Avx512Narrow of Avx512, "avx512f,avx2,fma", 24 x 16, 1, 288, 144, pack_transposing);
kernel!(Avx512Bf16 of Avx512Bf16, "avx512f,avx512bf16", 12 x 32, 2, 192, 144, pack_pairs);

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
                let mut rows = [_mm256_setzero_ps(); 8];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(at(l + i, p));
                }
                transpose_8(rows, to.add(p * W + l), W);
                l += 8;
            }
            if l + 4 <= W {
                let mut rows = [_mm256_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(at(l + i, p));
                }
                transpose_4(rows, to.add(p * W + l), W);
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

/// [`Kernel::pack_rows`] of pairs in bf16: lanes beside each other two numbers at a time, lanes along k transposed eight pairs at
/// a time. Subnormal numbers become zeros, as in the products themselves.
///
/// # Safety
/// As [`Kernel::pack_rows`]; the processor must have AVX512-BF16.
#[inline(always)]
unsafe fn pack_pairs<const W: usize>(x: Strided, width: usize, k: usize, to: &mut [u32]) {
    let mut done = 0;
    if width == W && (x.lane == 1 || x.step == 1) {
        assert!(to.len() >= k / 2 * W);
        let to = to.as_mut_ptr();
        // SAFETY: all reads have lane < W and number < k, all writes are below k/2·W.
        unsafe {
            if x.lane == 1 {
                done = k / 2;
                for p in 0..done {
                    for l in (0..W).step_by(16) {
                        let mask = !0 >> (16 - (W - l).min(16));
                        let at = x.first.add(2 * p * x.step + l);
                        let even = halves(_mm512_maskz_loadu_ps(mask, at));
                        let odd = halves(_mm512_maskz_loadu_ps(mask, at.add(x.step)));
                        let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
                        let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd);
                        _mm512_mask_storeu_epi32(to.add(p * W + l).cast(), mask, pairs);
                    }
                }
            } else {
                done = k / 16 * 8;
                let at = |l: usize, p: usize| x.first.wrapping_add(l * x.lane + 2 * p);
                for p in (0..done).step_by(8) {
                    for l in (0..W / 8 * 8).step_by(8) {
                        let mut rows = [_mm256_setzero_ps(); 8];
                        for (i, row) in rows.iter_mut().enumerate() {
                            *row = _mm256_castsi256_ps(halves(_mm512_loadu_ps(at(l + i, p))));
                        }
                        transpose_8(rows, to.add(p * W + l).cast(), W);
                    }
                    for l in (W / 8 * 8..W).step_by(4) {
                        let mut rows = [_mm256_setzero_ps(); 4];
                        for (i, row) in rows.iter_mut().enumerate() {
                            *row = _mm256_castsi256_ps(halves(_mm512_loadu_ps(at(l + i, p))));
                        }
                        transpose_4(rows, to.add(p * W + l).cast(), W);
                    }
                }
                const { assert!(W.is_multiple_of(4)) };
            }
        }
    }
    let first = x.first.wrapping_add(2 * done * x.step);
    // SAFETY: passed on to the caller.
    unsafe {
        bf16::pack::<W>(
            Strided { first, ..x },
            width,
            k - 2 * done,
            &mut to[done * W..],
        )
    };
}

/// Sixteen numbers rounded to bf16, to nearest and ties to even.
///
/// # Safety
/// The processor must have AVX512-BF16.
#[inline(always)]
unsafe fn halves(x: __m512) -> __m256i {
    // The two vector types are the same 32 bytes.
    // SAFETY: passed on to the caller.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
}

/// Eight elements of eight lanes to eight rows of `w`. Bits are moved, nothing is computed.
///
/// # Safety
/// All 64 must be valid behind `to`; the processor must have AVX.
#[inline(always)]
unsafe fn transpose_8(rows: [__m256; 8], to: *mut f32, w: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        // Loops, not `from_fn`: a closure would not be compiled for AVX. Two lanes, then four, then all eight beside each other.
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

/// Eight elements of four lanes to eight rows of `w`, as [`transpose_8`].
///
/// # Safety
/// All 32 must be valid behind `to`; the processor must have AVX.
#[inline(always)]
unsafe fn transpose_4(rows: [__m256; 4], to: *mut f32, w: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        let twos = [
            _mm256_unpacklo_ps(rows[0], rows[1]),
            _mm256_unpackhi_ps(rows[0], rows[1]),
            _mm256_unpacklo_ps(rows[2], rows[3]),
            _mm256_unpackhi_ps(rows[2], rows[3]),
        ];
        let fours = [
            _mm256_shuffle_ps::<0x44>(twos[0], twos[2]),
            _mm256_shuffle_ps::<0xee>(twos[0], twos[2]),
            _mm256_shuffle_ps::<0x44>(twos[1], twos[3]),
            _mm256_shuffle_ps::<0xee>(twos[1], twos[3]),
        ];
        for (i, &four) in fours.iter().enumerate() {
            _mm_storeu_ps(to.add(i * w), _mm256_castps256_ps128(four));
            _mm_storeu_ps(to.add((i + 4) * w), _mm256_extractf128_ps::<1>(four));
        }
    }
}
