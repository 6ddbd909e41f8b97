//! Attention on our own tiles, for segments of more than a few rows.
//!
//! A task is one key/value head with all the query heads that share it. Their rows are *stacked*: row s is head s % per of the
//! segment's row s / per, so that keys and values are packed once for all of them. Of a block's scores only the tiles that some
//! row sees are computed; probabilities and their gradients are read by the next product where they lie, not packed.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "there no processor has tiles")
)]

mod products;

use super::super::matmul;
use super::super::simd::{Shared, simd};
#[cfg(target_arch = "x86_64")]
use super::super::tiles::x86::{Avx2, Avx512};
use super::super::tiles::{Kernel, Panels, Strided, prefetch};
use super::{BLOCK, Inputs, Keys, Outputs, before, exponentials, score_gradient};
use crate::layout::AttentionSegment;
use std::ops::Range;

/// Fewer stacked rows are not worth packing keys for.
const WORTH_PACKING: usize = 24;
/// Stacked rows of a forward task: enough to share the packing, few enough that one long sequence keeps several threads busy.
const PART: usize = 16 * BLOCK;

/// Rows of a head lie a whole row of all heads apart, further than processors look ahead by themselves: so many rows before a
/// row is needed it is asked for.
const AHEAD: usize = 8;

/// Asks for the lines of a row of `head` numbers, which may lie outside its buffer.
fn ask_for(row: *const f32, head: usize) {
    for i in (0..head).step_by(16) {
        prefetch(row.wrapping_add(i));
    }
}

/// A key/value head of one segment.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) segment: &'a AttentionSegment,
    pub(super) kv: usize,
}

/// What a thread keeps between tasks.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys or values of the path, one below the other.
    path: Vec<f32>,
    keys: Panels,
    values: Panels,
    key_rows: Panels,
    queries: Stack,
    d_out: Stack,
    pub(super) p: Vec<f32>,
    pub(super) ds: Vec<f32>,
    mixed: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Stacked rows of a block: as they are, as left and as right operand.
#[derive(Default)]
struct Stack {
    rows: Vec<f32>,
    left: Panels,
    right: Panels,
}

/// Some stacked rows with the keys that they see.
struct Block {
    rows: Range<usize>,
    /// Path position of the path's first packed key.
    origin: usize,
    /// Path position of the scores' first column, a whole number of panels behind `origin`.
    base: usize,
    /// Behind the last position that a row sees.
    end: usize,
    /// From one row of scores to the next: a tile of keys that begins below `end` lies inside.
    stride: usize,
}

impl Block {
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tiles of rows.
    fn tiles<K: Kernel>(&self) -> usize {
        self.len().div_ceil(K::ROWS)
    }

    /// Floats of the scores.
    fn size<K: Kernel>(&self) -> usize {
        self.tiles::<K>() * K::ROWS * self.stride
    }
}

impl<'a> Task<'a> {
    /// Whether there are enough rows, and tiles.
    pub(super) fn tiled(&self) -> bool {
        matmul::tiled() && self.rows() >= WORTH_PACKING
    }

    /// The stacked rows, in as many parts as there are tasks of the forward.
    pub(super) fn parts(self) -> impl Iterator<Item = (Self, Range<usize>)> {
        let rows = self.rows();
        let each = if self.tiled() { PART } else { rows.max(1) };
        (0..rows)
            .step_by(each)
            .map(move |start| (self, start..(start + each).min(rows)))
    }

    /// Query heads.
    fn per(&self) -> usize {
        self.inputs.shape.heads / self.inputs.shape.kv_heads
    }

    /// Stacked rows.
    fn rows(&self) -> usize {
        self.segment.own.len * self.per()
    }

    /// The segment's row and the head of a stacked row.
    fn row(&self, s: usize) -> (usize, usize) {
        (s / self.per(), self.kv * self.per() + s % self.per())
    }

    /// Path positions that stacked rows see between them.
    fn seen(&self, rows: Range<usize>) -> Range<usize> {
        let position = |s: usize| before(self.segment) + s / self.per();
        self.inputs.shape.first_seen(position(rows.start))..position(rows.end - 1) + 1
    }

    fn block<K: Kernel>(&self, rows: Range<usize>, origin: usize) -> Block {
        let seen = self.seen(rows.clone());
        let base = origin + (seen.start - origin) / K::COLS * K::COLS;
        Block {
            rows,
            origin,
            base,
            end: seen.end,
            // An odd number of lines: rows below each other share no set of the cache.
            stride: (seen.end - base + K::ROWS).next_multiple_of(K::COLS) | 16,
        }
    }

    /// Path positions that a tile of the block's rows sees.
    fn seen_by_tile<K: Kernel>(&self, block: &Block, tile: usize) -> Range<usize> {
        let first = block.rows.start + tile * K::ROWS;
        self.seen(first..(first + K::ROWS).min(block.rows.end))
    }

    /// Columns of the scores that stacked row `s` sees.
    fn visible(&self, block: &Block, s: usize) -> Range<usize> {
        let seen = self.seen(s..s + 1);
        seen.start - block.base..seen.end - block.base
    }

    /// See [`Inputs::drop`]; `x` is stacked row `s` of the block's scores.
    fn drop(&self, block: &Block, s: usize, visible: &Range<usize>, x: &mut [f32]) {
        let keys = Keys {
            from: block.base,
            to: block.end,
        };
        self.inputs
            .drop(self.segment, self.row(s), keys, visible, x);
    }

    /// Path positions `origin..end` of keys or values, one below the other.
    fn gather(&self, x: &[f32], path: Keys, to: &mut Vec<f32>) {
        let (width, head) = (self.inputs.shape.kv_width(), self.inputs.shape.head_dim);
        to.clear();
        for (_, span) in path.runs(self.segment) {
            for row in span.act..span.act + span.len {
                let at = row * width + self.kv * head;
                ask_for(x.as_ptr().wrapping_add(at + AHEAD * width), head);
                to.extend_from_slice(&x[at..][..head]);
            }
        }
    }

    /// Stacked rows of queries, or of gradients of the output: `first` is the row of the segment's first.
    fn stack(&self, x: &[f32], first: usize, rows: Range<usize>, to: &mut Vec<f32>) {
        let (width, head) = (self.inputs.shape.q_width(), self.inputs.shape.head_dim);
        to.clear();
        for s in rows {
            let (row, h) = self.row(s);
            let at = (first + row) * width + h * head;
            ask_for(
                x.as_ptr().wrapping_add(at + AHEAD / self.per() * width),
                head,
            );
            to.extend_from_slice(&x[at..][..head]);
        }
    }

    /// Adds or writes stacked rows, `to` of whose segment's first is row `first`.
    ///
    /// # Safety
    /// The rows, in the columns of this task's heads, must lie inside `to` and be this task's alone.
    unsafe fn unstack(
        &self,
        stacked: &[f32],
        width: usize,
        rows: Range<usize>,
        (to, first): (Shared, usize),
        write: impl Fn(usize, &[f32], &mut [f32]),
    ) {
        let (q_width, head) = (self.inputs.shape.q_width(), self.inputs.shape.head_dim);
        for (i, (s, from)) in rows.zip(stacked.chunks_exact(width)).enumerate() {
            let (row, h) = self.row(s);
            let at = to.at((first + row) * q_width + h * head);
            ask_for(at.wrapping_add(AHEAD / self.per() * q_width), head);
            // SAFETY: passed on to the caller.
            let to = unsafe { std::slice::from_raw_parts_mut(at, head) };
            write(i, &from[..head], to);
        }
    }

    /// Outputs and log Σ exp of some stacked rows of a tiled task.
    ///
    /// # Safety
    /// `out` and `lse` must hold the query rows, in the columns of this task's heads nobody else's, and the inputs every row that
    /// the segment names.
    pub(super) unsafe fn forward(
        &self,
        part: Range<usize>,
        scratch: &mut Scratch,
        to: (Shared, Shared),
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on to the caller; a tiled task's processor has AVX2.
        unsafe {
            match Avx512::present() {
                true => self.forward_on::<Avx512>(part, scratch, to),
                false => self.forward_on::<Avx2>(part, scratch, to),
            }
        }
    }

    /// Adds a tiled task's gradients.
    ///
    /// # Safety
    /// As [`Task::forward`], for the gradients' rows.
    pub(super) unsafe fn backward(&self, o: Outputs<'_>, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on to the caller; a tiled task's processor has AVX2.
        unsafe {
            match Avx512::present() {
                true => self.backward_on::<Avx512>(o, scratch),
                false => self.backward_on::<Avx2>(o, scratch),
            }
        }
    }

    /// See [`Task::forward`].
    ///
    /// # Safety
    /// As there, and the processor must have the kernel's instructions.
    unsafe fn forward_on<K: Kernel>(
        &self,
        part: Range<usize>,
        scratch: &mut Scratch,
        (out, lse): (Shared, Shared),
    ) {
        let (shape, query) = (self.inputs.shape, self.segment.query);
        let seen = self.seen(part.clone());
        // SAFETY: passed on to the caller.
        unsafe { self.pack::<K>(seen.clone(), scratch, false) };
        for start in part.clone().step_by(BLOCK) {
            let rows = start..(start + BLOCK).min(part.end);
            let block = self.block::<K>(rows.clone(), seen.start);
            self.stack(
                self.inputs.q,
                query,
                rows.clone(),
                &mut scratch.queries.rows,
            );
            // SAFETY: the stack holds the rows; the rest is passed on.
            unsafe {
                scratch.queries.as_left::<K>(shape.head_dim);
                let (left, p) = (&scratch.queries.left, &mut scratch.p);
                self.scores::<K>(&block, shape.scale as f32, left, &scratch.keys, p);
            }
            let mut sums = [0f32; BLOCK];
            for (i, s) in rows.clone().enumerate() {
                let row = &mut scratch.p[i * block.stride..][..block.stride];
                let visible = self.visible(&block, s);
                let tile = self.seen_by_tile::<K>(&block, i / K::ROWS);
                row[tile.start - block.base..visible.start].fill(0.0);
                row[visible.end..tile.end - block.base].fill(0.0);
                let seen = &mut row[visible.clone()];
                let (top, sum) = simd!(|| exponentials(seen, shape.softcap));
                sums[i] = 1.0 / sum;
                self.drop(&block, s, &visible, row);
                let (row, h) = self.row(s);
                // SAFETY: passed on to the caller.
                unsafe { *lse.at((query + row) * shape.heads + h) = top + sum.ln() };
            }
            // SAFETY: passed on to the caller.
            unsafe {
                let mixed = &mut scratch.mixed;
                let width = self.mix::<K>(&block, &scratch.p, &scratch.values, mixed);
                self.unstack(mixed, width, rows, (out, query), |i, from, to| {
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(to, x)| *to = x * sums[i]);
                });
            }
        }
    }

    /// Packs the path's keys and values: keys as columns; values as rows for the forward, as columns for the backward, which also
    /// wants keys as rows.
    ///
    /// # Safety
    /// As [`Task::forward_on`].
    unsafe fn pack<K: Kernel>(&self, seen: Range<usize>, scratch: &mut Scratch, backward: bool) {
        let (n, head) = (seen.len(), self.inputs.shape.head_dim);
        let path = Keys {
            from: seen.start,
            to: seen.end,
        };
        // SAFETY: the gathered rows are `[n, head]`; the rest is passed on.
        unsafe {
            self.gather(self.inputs.k, path, &mut scratch.path);
            scratch
                .keys
                .columns::<K>(by_row(&scratch.path, head), n, head);
            if backward {
                scratch
                    .key_rows
                    .columns::<K>(by_column(&scratch.path, head), head, n);
            }
            self.gather(self.inputs.v, path, &mut scratch.path);
            match backward {
                true => scratch
                    .values
                    .columns::<K>(by_row(&scratch.path, head), n, head),
                false => scratch
                    .values
                    .columns::<K>(by_column(&scratch.path, head), head, n),
            }
        }
    }

    /// See [`Task::backward`].
    ///
    /// # Safety
    /// As there, and the processor must have the kernel's instructions.
    unsafe fn backward_on<K: Kernel>(&self, o: Outputs<'_>, scratch: &mut Scratch) {
        let shape = self.inputs.shape;
        let (head, rows) = (shape.head_dim, self.rows());
        let seen = self.seen(0..rows);
        // SAFETY: passed on to the caller.
        unsafe { self.pack::<K>(seen.clone(), scratch, true) };
        let width = head.next_multiple_of(K::COLS);
        for d in [&mut scratch.dk, &mut scratch.dv] {
            d.clear();
            d.resize((seen.len() + K::ROWS) * width, 0.0);
        }
        for start in (0..rows).step_by(BLOCK) {
            let block = self.block::<K>(start..(start + BLOCK).min(rows), seen.start);
            // SAFETY: passed on to the caller.
            unsafe { self.backward_block::<K>(&block, o, scratch) };
        }
        let path = Keys {
            from: seen.start,
            to: seen.end,
        };
        for (first, span) in path.runs(self.segment) {
            for i in 0..span.len {
                let at = (span.grad + i) * shape.kv_width() + self.kv * head;
                for (d, from) in [(o.dk, &scratch.dk), (o.dv, &scratch.dv)] {
                    ask_for(d.at(at + AHEAD * shape.kv_width()), head);
                    // SAFETY: passed on to the caller.
                    let to = unsafe { std::slice::from_raw_parts_mut(d.at(at), head) };
                    add(to, &from[(first + i) * width..][..head]);
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::backward_on`]; the path is packed.
    unsafe fn backward_block<K: Kernel>(
        &self,
        block: &Block,
        o: Outputs<'_>,
        scratch: &mut Scratch,
    ) {
        let (shape, query, own) = (self.inputs.shape, self.segment.query, self.segment.own.grad);
        let (rows, head) = (block.rows.clone(), shape.head_dim);
        let (queries, d_out) = (&mut scratch.queries, &mut scratch.d_out);
        self.stack(self.inputs.q, query, rows.clone(), &mut queries.rows);
        self.stack(o.d_out, own, rows.clone(), &mut d_out.rows);
        // SAFETY: the stacks hold the block's rows; the rest is passed on.
        unsafe {
            for stack in [&mut *queries, &mut *d_out] {
                stack.as_left::<K>(head);
                stack.as_right::<K>(head);
            }
            let (p, ds) = (&mut scratch.p, &mut scratch.ds);
            self.scores::<K>(block, shape.scale as f32, &queries.left, &scratch.keys, p);
            self.scores::<K>(block, 1.0, &d_out.left, &scratch.values, ds);
        }
        for (i, s) in rows.clone().enumerate() {
            let at = i * block.stride;
            let p = &mut scratch.p[at..][..block.stride];
            let ds = &mut scratch.ds[at..][..block.stride];
            let visible = self.visible(block, s);
            // What the row does not see, but a tile of rows or of keys reads.
            let tile = self.seen_by_tile::<K>(block, i / K::ROWS);
            let read = (tile.end - block.base).max(visible.end + K::ROWS - 1);
            for x in [&mut *p, &mut *ds] {
                x[..visible.start].fill(0.0);
                x[visible.end..read].fill(0.0);
            }
            let (row, h) = self.row(s);
            let lse = o.lse[(query + row) * shape.heads + h];
            self.drop(block, s, &visible, ds);
            let (seen, of_seen) = (&mut p[visible.clone()], &mut ds[visible.clone()]);
            simd!(|| score_gradient(seen, of_seen, lse, shape));
            self.drop(block, s, &visible, p);
        }
        // SAFETY: passed on to the caller.
        unsafe {
            let mixed = &mut scratch.mixed;
            let width = self.mix::<K>(block, &scratch.ds, &scratch.key_rows, mixed);
            self.unstack(mixed, width, rows, (o.dq, own), |_, from, to| add(to, from));
            self.collect::<K>(block, &scratch.ds, &scratch.queries.right, &mut scratch.dk);
            self.collect::<K>(block, &scratch.p, &scratch.d_out.right, &mut scratch.dv);
        }
    }
}

impl Stack {
    /// # Safety
    /// The processor must have the kernel's instructions.
    unsafe fn as_left<K: Kernel>(&mut self, head: usize) {
        let x = by_row(&self.rows, head);
        // SAFETY: the rows are `[n, head]`; the rest is passed on.
        unsafe { self.left.rows::<K>(x, self.rows.len() / head, head) };
    }

    /// # Safety
    /// As [`Stack::as_left`].
    unsafe fn as_right<K: Kernel>(&mut self, head: usize) {
        let x = by_column(&self.rows, head);
        // SAFETY: as above.
        unsafe { self.right.columns::<K>(x, head, self.rows.len() / head) };
    }
}

/// Rows of `head` numbers as lanes.
fn by_row(rows: &[f32], head: usize) -> Strided {
    Strided {
        first: rows.as_ptr(),
        lane: head,
        step: 1,
    }
}

/// Columns of rows of `head` numbers as lanes.
fn by_column(rows: &[f32], head: usize) -> Strided {
    Strided {
        first: rows.as_ptr(),
        lane: 1,
        step: head,
    }
}

fn add(to: &mut [f32], x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
}

#[cfg(test)]
mod tests;
