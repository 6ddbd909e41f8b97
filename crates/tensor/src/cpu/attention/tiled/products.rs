//! The products of a block: with the path's keys, with its rows, and summed over the block's rows.

use super::super::super::tiles::{Kernel, Panels, Scale, Strided, Target};
use super::super::before;
use super::{Block, Task};

impl Task<'_> {
    /// α times left rows times key panels, where some row of a tile sees some key of a panel; the rest of `scores` keeps
    /// what it held.
    ///
    /// # Safety
    /// The processor must have the kernel's instructions; `left` holds the block's rows, `keys` the path.
    pub(super) unsafe fn scores<K: Kernel>(
        &self,
        block: &Block,
        alpha: f32,
        left: &Panels,
        keys: &Panels,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(block.size::<K>().max(scores.len()), 0.0);
        let tiles: Vec<_> = (0..block.tiles::<K>())
            .map(|tile| self.seen_by_tile::<K>(block, tile))
            .collect();
        for column in (0..block.end - block.base).step_by(K::COLS) {
            let from = block.base + column;
            let b = keys.at((from - block.origin) / K::COLS, 0);
            for (tile, seen) in tiles.iter().enumerate() {
                if from < seen.end && seen.start < from + K::COLS {
                    let c = &mut scores[tile * K::ROWS * block.stride + column..];
                    let c = Target(c.as_mut_ptr(), block.stride);
                    let scale = Scale { alpha, beta: 0.0 };
                    // SAFETY: the panels hold the rows and keys; a tile that begins below `end` lies inside `scores`.
                    unsafe { K::tile(self.inputs.shape.head_dim, left.at(tile, 0), b, scale, c) };
                }
            }
        }
    }

    /// Scores (where a tile sees) times rows of the path: `[rows, head_dim]`, columns rounded up to `width`.
    ///
    /// # Safety
    /// As [`Task::scores`]; `path` holds the path's rows as a right operand.
    pub(super) unsafe fn mix<K: Kernel>(
        &self,
        block: &Block,
        scores: &[f32],
        path: &Panels,
        to: &mut Vec<f32>,
    ) -> usize {
        let width = self.inputs.shape.head_dim.next_multiple_of(K::COLS);
        let tiles = block.tiles::<K>();
        to.resize((tiles * K::ROWS * width).max(to.len()), 0.0);
        // Pieces of the path whose panel stays in the first cache.
        for from in (block.base..block.end).step_by(K::DEPTH) {
            for column in (0..width).step_by(K::COLS) {
                for tile in 0..tiles {
                    let seen = self.seen_by_tile::<K>(block, tile);
                    let part = seen.start.max(from)..seen.end.min(from + K::DEPTH);
                    if part.is_empty() {
                        continue;
                    }
                    let row = tile * K::ROWS;
                    let a = Strided {
                        first: scores[row * block.stride + part.start - block.base..].as_ptr(),
                        lane: block.stride,
                        step: 1,
                    };
                    let b = path.at(column / K::COLS, part.start - block.origin);
                    let beta = if seen.start >= from { 0.0 } else { 1.0 };
                    let scale = Scale { alpha: 1.0, beta };
                    let c = Target(to[row * width + column..].as_mut_ptr(), width);
                    // SAFETY: the tile's rows of scores and of `to` are there, spare ones too.
                    unsafe { K::tile_in_place(part.len(), a, b, scale, c) };
                }
            }
        }
        width
    }

    /// Adds (scores)ᵀ times stacked rows to the path's gradient `[positions, width]`.
    ///
    /// # Safety
    /// As [`Task::scores`]; `right` holds the block's rows as a right operand, `to` the path and a tile more.
    pub(super) unsafe fn collect<K: Kernel>(
        &self,
        block: &Block,
        scores: &[f32],
        right: &Panels,
        to: &mut [f32],
    ) {
        let width = self.inputs.shape.head_dim.next_multiple_of(K::COLS);
        for key in (block.base..block.end).step_by(K::ROWS) {
            // The first row that sees the tile's first key.
            let first = key.saturating_sub(before(self.segment)) * self.per();
            let first = first.saturating_sub(block.rows.start);
            let a = Strided {
                first: scores[first * block.stride + key - block.base..].as_ptr(),
                lane: 1,
                step: block.stride,
            };
            let at = (key - block.origin) * width;
            for column in (0..width).step_by(K::COLS) {
                let (b, depth) = (right.at(column / K::COLS, first), block.len() - first);
                let scale = Scale {
                    alpha: 1.0,
                    beta: 1.0,
                };
                let c = Target(to[at + column..].as_mut_ptr(), width);
                // SAFETY: a tile of keys that begins below `end` lies inside the scores' rows, and inside `to`.
                unsafe { K::tile_in_place(depth, a, b, scale, c) };
            }
        }
    }
}
