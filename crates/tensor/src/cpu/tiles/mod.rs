//! Matrix products of our own (Goto & van de Geijn 2008): both operands are packed in panels of [`Kernel::ROWS`] rows of A and
//! [`Kernel::COLS`] columns of B, and a tile of C stays in registers while k goes by.
//!
//! B is packed once and shared; blocks of rows of A are tasks of their own, so that threads of unequal speed end together. The tile
//! and the loops are written once over [`Lanes`]: the instructions of a processor (`x86.rs`), or plain arrays with which the
//! tests run them on any. Every element of C is the same sum in the same order, however C lies on tiles and threads.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "there the tests alone use the tiles")
)]

mod pack;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use super::matmul::RawMat;
use pack::{Buffer, pack_block};
pub(super) use pack::{Panels, Strided};
use rayon::prelude::*;
use std::cell::RefCell;

/// Packed panels of B hold about this many elements (16 MiB), or 512 columns where k is large.
const BAND: usize = 1 << 22;
/// With so few columns, rows of A are read where they lie.
const FEW_COLUMNS: usize = 32;
/// Numbers that are a multiple of this apart share a set of the first cache, which keeps [`WAYS`] lines of each set.
const SET: usize = 1024;
const WAYS: usize = 8;
/// The largest tile.
const LARGEST: usize = 12 * 32;
/// Multiply-adds that are worth waking other threads for.
const WORTH_SHARING: usize = 48 * 48 * 256;

/// The vector operations of a tile. Packed elements are 32 bits wide: an f32, or two neighbours along k in bf16.
///
/// # Safety
/// The processor must have the instructions, and pointers must be valid for [`Lanes::WIDTH`] elements (`splat`: one).
pub(super) trait Lanes {
    /// Sums of one vector of C.
    type Sums: Copy;
    /// Packed elements.
    type Vector: Copy;
    /// Elements of a vector.
    const WIDTH: usize;
    /// Zeros.
    unsafe fn zero() -> Self::Sums;
    /// Neighbours from memory.
    unsafe fn load(x: *const u32) -> Self::Vector;
    /// One element everywhere.
    unsafe fn splat(x: *const u32) -> Self::Vector;
    /// sums + a·b.
    unsafe fn dot(sums: Self::Sums, a: Self::Vector, b: Self::Vector) -> Self::Sums;
    /// `to` ← α·sums + β·to; β = 0 does not read `to`.
    unsafe fn write(sums: Self::Sums, alpha: f32, beta: f32, to: *mut f32);
}

/// A tile of C and how its operands are packed.
pub(super) trait Kernel {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile: one vector or two.
    const COLS: usize;
    /// Neighbours along k in one packed element.
    const STEP: usize;
    /// Packed elements along k between two writes of C: a panel of B this deep stays in the first cache, most of it where that
    /// is 32 KiB and tiles are of AVX-512.
    const DEPTH: usize;
    /// A block of A is at most so many rows: it stays in the second cache, and the panels of B are read once for all of them.
    const BLOCK: usize;

    /// Packs a panel of A: `width` lanes (rows of A) of `k` numbers into `to` `[k/STEP, ROWS]`; missing lanes and a missing last
    /// neighbour become zeros.
    ///
    /// # Safety
    /// Every number of the lanes must be valid, and the processor must have the kernel's instructions.
    unsafe fn pack_rows(x: Strided, width: usize, k: usize, to: &mut [u32]);
    /// Packs a panel of B, whose lanes are columns, into `[k/STEP, COLS]`.
    ///
    /// # Safety
    /// As [`Kernel::pack_rows`].
    unsafe fn pack_cols(x: Strided, width: usize, k: usize, to: &mut [u32]);
    /// C's tile ← α·(A's panel · B's panel) + β·C.
    ///
    /// # Safety
    /// `a` and `b` must hold `depth` times ROWS and COLS elements, `c` a whole tile that is nobody else's; the processor must have
    /// the kernel's instructions.
    unsafe fn tile(depth: usize, a: *const u32, b: *const u32, scale: Scale, c: Target);
    /// The same of ROWS lanes of A where they lie, for kernels of a STEP of 1: right for an A that meets few columns, which packing
    /// would cost as much as the product does.
    ///
    /// # Safety
    /// As [`Kernel::tile`]; `a` must be valid for ROWS lanes of `depth` numbers.
    unsafe fn tile_in_place(depth: usize, a: Strided, b: *const u32, scale: Scale, c: Target);
}

/// α and β.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) alpha: f32,
    pub(super) beta: f32,
}

/// A tile of C: its first number and its row stride.
#[derive(Clone, Copy)]
pub(super) struct Target(pub(super) *mut f32, pub(super) usize);

/// Asks for a line of C, where the processor can be asked.
#[inline(always)]
pub(super) fn prefetch(x: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, and every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(x.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Where a tile reads A: the first element, from a row to the next, from an element along k to the next.
#[derive(Clone, Copy)]
struct Rows {
    first: *const u32,
    row: usize,
    along: usize,
}

impl From<Strided> for Rows {
    fn from(x: Strided) -> Self {
        Rows {
            first: x.first.cast(),
            row: x.lane,
            along: x.step,
        }
    }
}

/// One packed element along k: the sums of `R` rows, `row` apart, and `V` vectors of columns.
///
/// # Safety
/// As [`Kernel::tile`] with a depth of one.
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const V: usize>(
    mut sums: [[L::Sums; V]; R],
    a: *const u32,
    row: usize,
    b: *const u32,
) -> [[L::Sums; V]; R] {
    // SAFETY: passed on to the caller.
    unsafe {
        // Loops, not `from_fn`: a closure would not be compiled for the kernel's instructions.
        let mut columns = [L::load(b); V];
        for (v, columns) in columns.iter_mut().enumerate().skip(1) {
            *columns = L::load(b.add(v * L::WIDTH));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let row = L::splat(a.add(i * row));
            for (sums, columns) in sums.iter_mut().zip(columns) {
                *sums = L::dot(*sums, row, columns);
            }
        }
    }
    sums
}

/// See [`Kernel::tile`] and [`Kernel::tile_in_place`]; `R` rows, `V` vectors of columns.
///
/// # Safety
/// As those.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize>(
    depth: usize,
    a: Rows,
    mut b: *const u32,
    scale: Scale,
    Target(c, stride): Target,
) {
    let Rows { row, along, .. } = a;
    let mut a = a.first;
    // SAFETY: both operands hold every element below `depth`, and C's tile is whole; the rest is passed on.
    unsafe {
        let mut sums = [[L::zero(); V]; R];
        for i in 0..R {
            for v in 0..V {
                prefetch(c.add(i * stride + v * L::WIDTH));
            }
            prefetch(c.add(i * stride + V * L::WIDTH - 1));
        }
        // Four at a time: what a loop itself costs is one operation in eight of the rest. A may end less than four strides
        // behind its last element.
        for _ in 0..depth / 4 {
            sums = step::<L, R, V>(sums, a, row, b);
            sums = step::<L, R, V>(sums, a.add(along), row, b.add(V * L::WIDTH));
            sums = step::<L, R, V>(sums, a.add(2 * along), row, b.add(2 * V * L::WIDTH));
            sums = step::<L, R, V>(sums, a.add(3 * along), row, b.add(3 * V * L::WIDTH));
            a = a.wrapping_add(4 * along);
            b = b.add(4 * V * L::WIDTH);
        }
        for _ in 0..depth % 4 {
            sums = step::<L, R, V>(sums, a, row, b);
            a = a.wrapping_add(along);
            b = b.add(V * L::WIDTH);
        }
        for (i, sums) in sums.iter().enumerate() {
            let c = c.add(i * stride);
            for (v, sums) in sums.iter().enumerate() {
                L::write(*sums, scale.alpha, scale.beta, c.add(v * L::WIDTH));
            }
        }
    }
}

/// `C ← α·A·B + β·C`: the sizes, the operands and C with its row stride.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    pub(super) a: RawMat,
    pub(super) b: RawMat,
    pub(super) beta: f32,
    pub(super) c: (*mut f32, usize),
}

// SAFETY: tasks read A and B, and write disjoint tiles of C.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

/// Columns `first..first + cols` of B, packed: `[piece of k][panel][element along k][COLS]`.
struct Packed<'a> {
    first: usize,
    cols: usize,
    data: &'a [u32],
}

thread_local! {
    /// The packed columns of B of a product that this thread began, kept between products.
    static SHARED: RefCell<Buffer> = const { RefCell::new(Buffer::EMPTY) };
    /// A thread's packed block of A, kept between products.
    static OWN: RefCell<Buffer> = const { RefCell::new(Buffer::EMPTY) };
}

impl Job {
    /// Computes the product, on all threads if `parallel`.
    ///
    /// # Safety
    /// As [`super::matmul::raw`], and the processor must have the kernel's instructions.
    pub(super) unsafe fn run<K: Kernel>(self, parallel: bool) {
        let parallel = parallel && self.m * self.n * self.k > WORTH_SHARING;
        let mut buffer = SHARED.take();
        let band = (BAND / self.k.max(1)).max(512) / K::COLS * K::COLS;
        for first in (0..self.n).step_by(band) {
            let cols = (self.n - first).min(band);
            let panels = cols.div_ceil(K::COLS);
            let shared = buffer.take(panels * K::COLS * self.k.div_ceil(K::STEP));
            // SAFETY: passed on; the columns lie inside B.
            unsafe { self.pack_band::<K>(first, cols, shared, parallel) };
            let packed = Packed {
                first,
                cols,
                data: shared,
            };
            // SAFETY: passed on; tasks are disjoint tiles of C.
            unsafe { self.tasks::<K>(&packed, parallel) };
        }
        SHARED.set(buffer);
    }

    /// Whether rows of A are read where they lie: where there are few columns, unless a tile's rows drive each other from the cache.
    fn reads_in_place<K: Kernel>(&self) -> bool {
        let (_, row, _) = self.a;
        K::STEP == 1 && self.n <= FEW_COLUMNS && (K::ROWS <= WAYS || row % SET != 0)
    }

    /// Pieces of k between two writes of C: the first number and the count. At least one, so that C is scaled also where k is 0.
    fn pieces<K: Kernel>(&self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.k.div_ceil(K::DEPTH * K::STEP).max(1);
        let depth = self.k.div_ceil(count).next_multiple_of(2 * K::STEP).max(1);
        let k = self.k;
        (0..k.max(1))
            .step_by(depth)
            .map(move |from| (from, (k - from).min(depth)))
    }

    /// Packs columns `first..first + cols` of B.
    ///
    /// # Safety
    /// They must lie inside B; see also [`Job::run`].
    unsafe fn pack_band<K: Kernel>(
        &self,
        first: usize,
        cols: usize,
        to: &mut [u32],
        parallel: bool,
    ) {
        let panels = cols.div_ceil(K::COLS);
        let mut pieces: Vec<((usize, usize), usize, &mut [u32])> = Vec::new();
        let mut rest = to;
        for (from, deep) in self.pieces::<K>() {
            for j in 0..panels {
                let (panel, after) = rest.split_at_mut(deep.div_ceil(K::STEP) * K::COLS);
                pieces.push(((from, deep), j, panel));
                rest = after;
            }
        }
        let pack = |(piece, j, to): &mut ((usize, usize), usize, &mut [u32])| {
            let width = (cols - *j * K::COLS).min(K::COLS);
            // SAFETY: the columns and the piece of k lie inside B.
            unsafe { self.pack_panel::<K>(*piece, first + *j * K::COLS, width, to) };
        };
        match parallel {
            true => pieces.par_iter_mut().with_min_len(4).for_each(pack),
            false => pieces.iter_mut().for_each(pack),
        }
    }

    /// Packs `width` columns of B from `first` on, and of them `deep` numbers from `from` on.
    ///
    /// # Safety
    /// As [`Job::pack_band`].
    unsafe fn pack_panel<K: Kernel>(
        &self,
        (from, deep): (usize, usize),
        first: usize,
        width: usize,
        to: &mut [u32],
    ) {
        let (b, row, col) = self.b;
        let lanes = Strided {
            first: b.wrapping_add(from * row + first * col),
            lane: col,
            step: row,
        };
        // SAFETY: passed on to the caller.
        unsafe { K::pack_cols(lanes, width, deep, to) };
    }

    /// Every tile of the packed columns.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn tasks<K: Kernel>(&self, packed: &Packed<'_>, parallel: bool) {
        let threads = match parallel {
            true => rayon::current_num_threads(),
            false => 1,
        };
        // As many blocks for one thread as for the next, and their tiles shared out evenly: threads end together.
        let tiles = self.m.div_ceil(K::ROWS).max(1);
        let blocks = tiles.div_ceil(K::BLOCK / K::ROWS).next_multiple_of(threads);
        let blocks = blocks.min(tiles);
        let first_row = |block: usize| (block * tiles / blocks * K::ROWS).min(self.m);
        let panels = packed.cols.div_ceil(K::COLS);
        // Few rows: the columns are shared out too, at the price of packing the rows of A anew for each group.
        let groups = match parallel {
            true => (4 * threads).div_ceil(blocks).min(panels.div_ceil(8)),
            false => 1,
        };
        let each = panels.div_ceil(groups);
        let groups = panels.div_ceil(each);
        let task = |at: usize| {
            let (block, j) = (at / groups, at % groups * each);
            let start = first_row(block);
            let rows = first_row(block + 1) - start;
            // SAFETY: passed on; tasks are disjoint tiles of C.
            unsafe { self.block::<K>(start, rows, j..(j + each).min(panels), packed) };
        };
        match parallel {
            true => (0..blocks * groups)
                .into_par_iter()
                .with_max_len(1)
                .for_each(task),
            false => (0..blocks * groups).for_each(task),
        }
    }

    /// Rows `start..start + rows` of C against some panels of the packed columns.
    ///
    /// # Safety
    /// As [`Job::run`]; no other task may use these tiles of C.
    unsafe fn block<K: Kernel>(
        &self,
        start: usize,
        rows: usize,
        panels: std::ops::Range<usize>,
        packed: &Packed<'_>,
    ) {
        let mut buffer = OWN.take();
        let all = packed.cols.div_ceil(K::COLS) * K::COLS;
        let (a, row, col) = self.a;
        for (from, deep) in self.pieces::<K>() {
            let depth = deep.div_ceil(K::STEP);
            let lanes = |i: usize| Strided {
                first: a.wrapping_add((start + i) * row + from * col),
                lane: row,
                step: col,
            };
            // Rows of whole tiles that are read where they lie.
            let in_place = match self.reads_in_place::<K>() {
                true => rows / K::ROWS * K::ROWS,
                false => 0,
            };
            let own = buffer.take(rows.div_ceil(K::ROWS) * depth * K::ROWS);
            // SAFETY: the rows and the piece of k lie inside A.
            unsafe { pack_block::<K>(lanes(0), in_place..rows, deep, own) };
            let scale = Scale {
                alpha: self.alpha,
                beta: if from == 0 { self.beta } else { 1.0 },
            };
            // A piece begins at a whole packed element.
            let before = from / K::STEP * all;
            for j in panels.clone() {
                let width = (packed.cols - j * K::COLS).min(K::COLS);
                let b = packed.data[before + j * depth * K::COLS..].as_ptr();
                for i in (0..rows).step_by(K::ROWS) {
                    let height = (rows - i).min(K::ROWS);
                    let own = own[i * depth..].as_ptr();
                    let at = (start + i) * self.c.1 + packed.first + j * K::COLS;
                    let c = Target(self.c.0.wrapping_add(at), self.c.1);
                    // SAFETY: both panels are packed to their full size, or A's rows are there; this part of C is this task's.
                    let tile = |c: Target, scale: Scale| unsafe {
                        match i < in_place {
                            true => K::tile_in_place(depth, lanes(i), b, scale, c),
                            false => K::tile(depth, own, b, scale, c),
                        }
                    };
                    match height == K::ROWS && width == K::COLS {
                        true => tile(c, scale),
                        // SAFETY: these rows and columns belong to C.
                        false => unsafe { edge::<K>(tile, scale, c, (height, width)) },
                    }
                }
            }
        }
        OWN.set(buffer);
    }
}

/// A tile of which only `height` rows and `width` columns belong to C: computed beside it.
///
/// # Safety
/// They must belong to C and be nobody else's.
unsafe fn edge<K: Kernel>(
    tile: impl FnOnce(Target, Scale),
    scale: Scale,
    Target(c, stride): Target,
    (height, width): (usize, usize),
) {
    let mut beside = [0f32; LARGEST];
    const { assert!(K::ROWS * K::COLS <= LARGEST) };
    // SAFETY: the rows and columns belong to C; `beside` holds a whole tile.
    unsafe {
        if scale.beta != 0.0 {
            for i in 0..height {
                let row = c.add(i * stride);
                std::ptr::copy_nonoverlapping(row, beside[i * K::COLS..].as_mut_ptr(), width);
            }
        }
        tile(Target(beside.as_mut_ptr(), K::COLS), scale);
        for i in 0..height {
            let row = c.add(i * stride);
            std::ptr::copy_nonoverlapping(beside[i * K::COLS..].as_ptr(), row, width);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
