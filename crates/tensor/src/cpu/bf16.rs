//! Matrix products in bf16: operands rounded to eight bits of significand (to nearest, ties to even), products and sums in
//! f32. What is stored stays f32.
//!
//! Processors with AVX512-BF16 multiply two neighbouring k at once (`vdpbf16ps`). Both operands are packed as pairs along
//! k, one `u32` each, in panels of [`ROWS`] rows of A and [`COLS`] columns of B, and a tile of C stays in registers
//! while k goes by (Goto & van de Geijn 2008). The tile is written once over [`Lanes`]: the instructions, or plain
//! arrays with which the tests run the same packing and loops on any processor. Without the instructions the operands are
//! rounded and multiplied in f32: the same numbers but for the order of sums, without the speed.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "there the tests alone use the tile")
)]

use super::matmul::{Parallelism, RawMat, raw};
use super::simd::simd;
use crate::bf16;
use rayon::prelude::*;
use std::cell::RefCell;

/// Rows of a tile.
const ROWS: usize = 12;
/// Columns of a tile: two vectors of 16.
const COLS: usize = 32;
/// Pairs of k between two writes of C: a panel of B fills 32 KiB.
const PAIRS: usize = 256;
/// Columns of B packed at a time.
const BAND: usize = 2048;
/// Rows of A packed at a time, by one thread.
const BLOCK: usize = 8 * ROWS;

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

/// `C ← α·A·B + β·C` with A and B rounded to bf16.
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
    #[cfg(target_arch = "x86_64")]
    if fast() {
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
        // SAFETY: passed on to the caller; the instructions are there.
        unsafe { job.run(avx512::tile) };
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
        simd(|| {
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

/// Packs `width` lanes (rows of A, columns of B; a lane is `lane` apart from the next) over `k` elements that are `step`
/// apart into `to` `[k/2, W]`; missing lanes and a missing last element become zeros.
///
/// # Safety
/// Every element of the lanes must be valid.
#[inline(always)]
unsafe fn pack<const W: usize>(
    x: *const f32,
    lane: usize,
    step: usize,
    width: usize,
    k: usize,
    to: &mut [u32],
) {
    // SAFETY: all reads have lane < width and element < k.
    let at = |l: usize, p: usize| unsafe { *x.add(l * lane + p * step) };
    let whole = k / 2;
    if width == W && lane == 1 {
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

/// One product, C's tile ← A's panel · B's panel over `pairs` pairs, `[ROWS, COLS]` row-major.
type Tile = unsafe fn(pairs: usize, a: *const u32, b: *const u32, c: &mut [f32; ROWS * COLS]);

/// The vector operations of a tile.
trait Lanes {
    /// 16 sums.
    type Sums: Copy;
    /// 16 pairs.
    type Pairs: Copy;
    /// Zeros.
    fn zero() -> Self::Sums;
    /// 16 pairs from memory.
    ///
    /// # Safety
    /// 16 elements must be valid.
    unsafe fn load(x: *const u32) -> Self::Pairs;
    /// 16 times one pair.
    fn splat(x: u32) -> Self::Pairs;
    /// sums + a_even·b_even + a_odd·b_odd.
    fn dot(sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;
    /// Writes 16 sums.
    fn store(sums: Self::Sums, to: &mut [f32]);
}

/// See [`Tile`].
///
/// # Safety
/// `a` must hold `pairs·ROWS` and `b` `pairs·COLS` elements.
#[inline(always)]
unsafe fn tile<L: Lanes>(pairs: usize, a: *const u32, b: *const u32, c: &mut [f32; ROWS * COLS]) {
    let mut sums = [[L::zero(); 2]; ROWS];
    for p in 0..pairs {
        // SAFETY: p < pairs, so both panels hold these elements.
        let (a, b) = unsafe { (a.add(p * ROWS), b.add(p * COLS)) };
        // SAFETY: as above.
        let columns = unsafe { [L::load(b), L::load(b.add(16))] };
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let row = L::splat(unsafe { *a.add(i) });
            *sums = [
                L::dot(sums[0], row, columns[0]),
                L::dot(sums[1], row, columns[1]),
            ];
        }
    }
    for (sums, c) in sums.iter().zip(c.chunks_exact_mut(16 * 2)) {
        L::store(sums[0], &mut c[..16]);
        L::store(sums[1], &mut c[16..]);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLS, Lanes, ROWS};
    use std::arch::x86_64::*;

    /// AVX512-BF16.
    struct Avx512;

    impl Lanes for Avx512 {
        type Sums = __m512;
        type Pairs = __m512i;
        #[inline(always)]
        fn zero() -> __m512 {
            // SAFETY: used only in `tile` below, whose caller has found the instructions.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(x: *const u32) -> __m512i {
            // SAFETY: used only in `tile` below, whose caller has found the instructions.
            unsafe { _mm512_loadu_si512(x.cast()) }
        }
        #[inline(always)]
        fn splat(x: u32) -> __m512i {
            // SAFETY: used only in `tile` below, whose caller has found the instructions.
            unsafe { _mm512_set1_epi32(x as i32) }
        }
        #[inline(always)]
        fn dot(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
            // The two vector types are the same 64 bytes.
            // SAFETY: used only in `tile` below, whose caller has found the instructions.
            unsafe {
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                let b = std::mem::transmute::<__m512i, __m512bh>(b);
                _mm512_dpbf16_ps(sums, a, b)
            }
        }
        #[inline(always)]
        fn store(sums: __m512, to: &mut [f32]) {
            assert!(to.len() >= 16);
            // SAFETY: used only in `tile` below, whose caller has found the instructions.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sums) }
        }
    }

    /// See [`super::Tile`].
    ///
    /// # Safety
    /// As [`super::tile`]; the processor must have AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn tile(
        pairs: usize,
        a: *const u32,
        b: *const u32,
        c: &mut [f32; ROWS * COLS],
    ) {
        // SAFETY: passed on to the caller.
        unsafe { super::tile::<Avx512>(pairs, a, b, c) }
    }
}

/// One product and its operands.
#[derive(Clone, Copy)]
struct Job {
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: RawMat,
    b: RawMat,
    beta: f32,
    c: (*mut f32, usize),
}

// SAFETY: tasks read A and B, and write disjoint rows of C.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

thread_local! {
    /// A thread's packed block of A, kept between products.
    static PACKED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

impl Job {
    /// # Safety
    /// As [`raw`], and `tile` must be callable on this processor.
    unsafe fn run(self, tile: Tile) {
        let mut packed = Vec::new();
        let depth = PAIRS * 2;
        for first in (0..self.n).step_by(BAND) {
            let cols = (self.n - first).min(BAND);
            // At least once, so that C is scaled also where k is 0.
            for from in (0..self.k.max(1)).step_by(depth) {
                let deep = (self.k - from).min(depth);
                let panel = deep.div_ceil(2) * COLS;
                packed.resize(cols.div_ceil(COLS) * panel, 0);
                packed
                    .par_chunks_mut(panel.max(1))
                    .enumerate()
                    .for_each(|(j, to)| {
                        let width = (cols - j * COLS).min(COLS);
                        // SAFETY: columns and depth lie inside B.
                        unsafe { self.pack_columns(first + j * COLS, width, (from, deep), to) };
                    });
                let beta = if from == 0 { self.beta } else { 1.0 };
                (0..self.m.div_ceil(BLOCK))
                    .into_par_iter()
                    .for_each(|block| {
                        // SAFETY: passed on; blocks are disjoint rows of C.
                        unsafe {
                            self.block(tile, block, (first, cols), (from, deep), &packed, beta)
                        };
                    });
            }
        }
    }

    /// Packs `width` columns of B from `first` on, `deep` rows from `from` on.
    ///
    /// # Safety
    /// They must lie inside B.
    unsafe fn pack_columns(
        &self,
        first: usize,
        width: usize,
        (from, deep): (usize, usize),
        to: &mut [u32],
    ) {
        let (b, row, col) = self.b;
        let b = b.wrapping_add(from * row + first * col);
        // SAFETY: passed on to the caller.
        simd(|| unsafe { pack::<COLS>(b, col, row, width, deep, to) });
    }

    /// Rows `BLOCK·block…` of C against the packed columns.
    ///
    /// # Safety
    /// As [`Job::run`]; no other thread may use these rows of C.
    unsafe fn block(
        self,
        tile: Tile,
        block: usize,
        (first, cols): (usize, usize),
        (from, deep): (usize, usize),
        packed: &[u32],
        beta: f32,
    ) {
        let start = block * BLOCK;
        let rows = (self.m - start).min(BLOCK);
        let pairs = deep.div_ceil(2);
        let mut own = PACKED.take();
        own.resize(rows.div_ceil(ROWS) * pairs * ROWS, 0);
        for (i, to) in own.chunks_exact_mut((pairs * ROWS).max(1)).enumerate() {
            let at = (start + i * ROWS) * self.a.1 + from * self.a.2;
            let height = (rows - i * ROWS).min(ROWS);
            // SAFETY: rows and depth lie inside A.
            simd(|| unsafe {
                pack::<ROWS>(
                    self.a.0.wrapping_add(at),
                    self.a.1,
                    self.a.2,
                    height,
                    deep,
                    to,
                );
            });
        }
        let mut sums = [0.0; ROWS * COLS];
        for j in (0..cols).step_by(COLS) {
            let width = (cols - j).min(COLS);
            let b = packed[j / COLS * pairs * COLS..].as_ptr();
            for i in (0..rows).step_by(ROWS) {
                let height = (rows - i).min(ROWS);
                // SAFETY: both panels are packed to their full size; the rows of C are this task's.
                unsafe {
                    tile(pairs, own[i / ROWS * pairs * ROWS..].as_ptr(), b, &mut sums);
                    let c = self.c.0.add((start + i) * self.c.1 + first + j);
                    add(&sums, (height, width), self.alpha, beta, (c, self.c.1));
                }
            }
        }
        PACKED.set(own);
    }
}

/// C's tile ← α·sums + β·C; β = 0 ignores C's contents.
///
/// # Safety
/// The tile of C must be valid and nobody else's.
unsafe fn add(
    sums: &[f32; ROWS * COLS],
    (height, width): (usize, usize),
    alpha: f32,
    beta: f32,
    (c, stride): (*mut f32, usize),
) {
    for i in 0..height {
        // SAFETY: a row of the tile.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), width) };
        let sums = &sums[i * COLS..][..width];
        simd(|| match beta == 0.0 {
            true => row.iter_mut().zip(sums).for_each(|(c, s)| *c = alpha * s),
            false => row
                .iter_mut()
                .zip(sums)
                .for_each(|(c, s)| *c = alpha * s + beta * *c),
        });
    }
}

#[cfg(test)]
#[path = "bf16_tests.rs"]
mod tests;
