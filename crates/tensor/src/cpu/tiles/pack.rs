//! Packing: what a tile reads, in the order in which it reads it.

use super::Kernel;
use std::ops::Range;

/// Lanes to pack: the first number, from a lane to the next, from a number to the next.
#[derive(Clone, Copy)]
pub(in super::super) struct Strided {
    pub(in super::super) first: *const f32,
    pub(in super::super) lane: usize,
    pub(in super::super) step: usize,
}

/// A line of the cache: vectors of packed elements do not straddle two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Packed elements, whose old contents do not matter.
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// No elements yet.
    pub(super) const EMPTY: Self = Buffer(Vec::new());

    /// At least `len` elements.
    pub(super) fn take(&mut self, len: usize) -> &mut [u32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            // Freed first: two at a time would be twice the memory.
            self.0 = Vec::new();
            self.0 = vec![Line([0; 16]); lines];
        }
        // SAFETY: a line is 16 elements, and every one was written when the lines were made.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// A whole operand in packed panels, one after the other, of `depth` elements along k.
#[derive(Default)]
pub(in super::super) struct Panels {
    data: Buffer,
    depth: usize,
    width: usize,
}

impl Panels {
    /// Packs `n` rows of `k` numbers of a left operand.
    ///
    /// # Safety
    /// Every number must be valid, and the processor must have the kernel's instructions.
    pub(in super::super) unsafe fn rows<K: Kernel>(&mut self, x: Strided, n: usize, k: usize) {
        // SAFETY: passed on to the caller.
        unsafe { self.fill(x, n, k, K::ROWS, K::pack_rows) };
    }

    /// Packs `n` columns of `k` numbers of a right operand.
    ///
    /// # Safety
    /// As [`Panels::rows`].
    pub(in super::super) unsafe fn columns<K: Kernel>(&mut self, x: Strided, n: usize, k: usize) {
        // SAFETY: passed on to the caller.
        unsafe { self.fill(x, n, k, K::COLS, K::pack_cols) };
    }

    /// # Safety
    /// As [`Panels::rows`]; `pack` packs panels of `width` lanes.
    unsafe fn fill(
        &mut self,
        x: Strided,
        n: usize,
        k: usize,
        width: usize,
        pack: unsafe fn(Strided, usize, usize, &mut [u32]),
    ) {
        (self.depth, self.width) = (k, width);
        let to = self.data.take(n.next_multiple_of(width) * k);
        for (lane, to) in (0..n)
            .step_by(width)
            .zip(to.chunks_exact_mut((k * width).max(1)))
        {
            let first = x.first.wrapping_add(lane * x.lane);
            // SAFETY: these lanes are among the `n`.
            unsafe { pack(Strided { first, ..x }, (n - lane).min(width), k, to) };
        }
    }

    /// A panel from element `from` of the k on.
    pub(in super::super) fn at(&self, panel: usize, from: usize) -> *const u32 {
        let at = (panel * self.depth + from) * self.width;
        debug_assert!(at <= self.data.0.len() * 16);
        self.data.0.as_ptr().cast::<u32>().wrapping_add(at)
    }
}

/// Packs rows `rows` of a block of A, `[panel][k/STEP][ROWS]`, of `k` numbers each; `x` is the block's first row.
///
/// # Safety
/// As [`Kernel::pack_rows`].
pub(super) unsafe fn pack_block<K: Kernel>(
    x: Strided,
    rows: Range<usize>,
    k: usize,
    to: &mut [u32],
) {
    let size = k.div_ceil(K::STEP) * K::ROWS;
    let whole = match K::STEP == 1 && x.lane == 1 {
        true => rows.end / K::ROWS * K::ROWS,
        false => rows.start,
    };
    // Rows beside each other in memory: one sweep along k, every line read once.
    assert!(whole <= rows.start || whole * k <= to.len());
    for p in 0..k {
        for i in (rows.start..whole).step_by(K::ROWS) {
            // SAFETY: rows `i..i + ROWS` are among the block's, and their panel lies inside `to` (asserted).
            unsafe {
                let from = x.first.add(p * x.step + i).cast();
                let to = to.as_mut_ptr().add(i * k + p * K::ROWS);
                std::ptr::copy_nonoverlapping(from, to, K::ROWS);
            }
        }
    }
    for i in (whole..rows.end).step_by(K::ROWS) {
        let first = x.first.wrapping_add(i * x.lane);
        let to = &mut to[i / K::ROWS * size..][..size];
        // SAFETY: passed on to the caller.
        unsafe { K::pack_rows(Strided { first, ..x }, (rows.end - i).min(K::ROWS), k, to) };
    }
}

/// [`Kernel::pack_rows`] of f32, number by number.
///
/// # Safety
/// As [`Kernel::pack_rows`].
#[inline(always)]
pub(super) unsafe fn pack_f32<const W: usize>(x: Strided, width: usize, k: usize, to: &mut [u32]) {
    for (p, to) in to.chunks_exact_mut(W).take(k).enumerate() {
        for (l, to) in to.iter_mut().enumerate() {
            *to = match l < width {
                // SAFETY: lane and number are below `width` and `k`.
                true => unsafe { (*x.first.add(l * x.lane + p * x.step)).to_bits() },
                false => 0,
            };
        }
    }
}
