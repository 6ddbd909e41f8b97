//! How many bytes the CPU backend's buffers keep resident: its pool (`crates/tensor/src/cpu/pool.rs`), with sizes in
//! place of memory.
//!
//! The rules are the pool's: capacities in steps of an eighth of their power of two; a dropped buffer serves the next
//! request of at least half its size or makes way for one of at most twice its size; a request that nothing fits makes
//! room until no more is held than was in use at one time; at most 4 GiB stay on the shelf. Memory from the system is
//! untouched until it is written, so what counts is the longest use of each buffer, not its capacity. Change this file
//! with the pool; `bench/plan_check.py` shows when the two part.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use unbraid_tensor::cpu::rules::{KEPT_AT_MOST, SMALLEST_POOLED, capacity};

/// Bytes of a float.
pub(crate) const FLOAT: u64 = 4;

/// A buffer of the pool: what it could hold, and how much of it was ever written, in floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) capacity: usize,
    pub(crate) touched: usize,
}

/// The pool and the bytes of everything that was taken from it.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    by_capacity: BTreeMap<usize, Vec<usize>>,
    shelved: usize,
    /// Floats of pooled buffers in use, by capacity, and the most there were.
    used: usize,
    most_used: usize,
    /// Bytes of buffers in use.
    live: u64,
    /// Bytes in use or on the shelf.
    resident: u64,
    /// Largest `live` and `resident`, scratch outside the pool included, since the last mark.
    peaks: (u64, u64),
}

impl Shelf {
    /// A buffer of `len` floats.
    pub(crate) fn take(&mut self, len: usize) -> Block {
        let block = match self.find(len) {
            Some(block) => block,
            None => Block {
                capacity: capacity(len),
                touched: 0,
            },
        };
        let touched = block.touched.max(len);
        self.resident += (touched - block.touched) as u64 * FLOAT;
        self.live += len as u64 * FLOAT;
        self.see(0);
        Block { touched, ..block }
    }

    fn find(&mut self, len: usize) -> Option<Block> {
        if capacity(len) < SMALLEST_POOLED {
            return None;
        }
        let found = self.pop(len..=2 * len, false);
        self.used += found.map_or(capacity(len), |block| block.capacity);
        self.most_used = self.most_used.max(self.used);
        if found.is_none() {
            self.release(len / 2..=len - 1);
            while self.used + self.shelved > self.most_used && self.release(0..=usize::MAX) {}
        }
        found
    }

    /// Returns the largest block with a capacity in `range` to the system, if there is one.
    fn release(&mut self, range: RangeInclusive<usize>) -> bool {
        let block = self.pop(range, true);
        self.resident -= block.map_or(0, |block| block.touched as u64 * FLOAT);
        block.is_some()
    }

    /// The smallest block with a capacity in `range`, or the largest.
    fn pop(&mut self, range: RangeInclusive<usize>, largest: bool) -> Option<Block> {
        let mut fitting = self.by_capacity.range_mut(range);
        let some = |(_, blocks): &(&usize, &mut Vec<usize>)| !blocks.is_empty();
        let (&capacity, blocks) = match largest {
            true => fitting.rfind(some)?,
            false => fitting.find(some)?,
        };
        let touched = blocks.pop()?;
        self.shelved -= capacity;
        Some(Block { capacity, touched })
    }

    /// Takes back a buffer that was used with `len` floats.
    pub(crate) fn give(&mut self, block: Block, len: usize) {
        self.live -= len as u64 * FLOAT;
        let pooled = block.capacity >= SMALLEST_POOLED;
        if pooled {
            self.used -= block.capacity;
        }
        if pooled && self.shelved + block.capacity <= KEPT_AT_MOST {
            self.shelved += block.capacity;
            let blocks = self.by_capacity.entry(block.capacity).or_default();
            blocks.push(block.touched);
        } else {
            self.resident -= block.touched as u64 * FLOAT;
        }
    }

    /// Counts memory that is not pooled.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.live += bytes;
        self.resident += bytes;
        self.see(0);
    }

    /// Memory of [`Shelf::add`] is returned.
    pub(crate) fn remove(&mut self, bytes: u64) {
        self.live -= bytes;
        self.resident -= bytes;
    }

    /// Notes that an operation needs `scratch` bytes of its own for a moment.
    pub(crate) fn see(&mut self, scratch: u64) {
        let (live, resident) = &mut self.peaks;
        *live = (*live).max(self.live + scratch);
        *resident = (*resident).max(self.resident + scratch);
    }

    /// Bytes in use.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Bytes in use or on the shelf.
    pub(crate) fn resident(&self) -> u64 {
        self.resident
    }

    /// The largest (in use, resident) since the last call.
    pub(crate) fn mark(&mut self) -> (u64, u64) {
        let peaks = self.peaks;
        self.peaks = (self.live, self.resident);
        peaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_rounded_and_only_what_is_written_counts() {
        let mut shelf = Shelf::default();
        // 100,000 lies below 2¹⁷, whose sixteenth is 8,192: 13 of them.
        let block = shelf.take(100_000);
        assert_eq!(block.capacity, 106_496);
        assert_eq!(shelf.resident(), 400_000);
        shelf.give(block, 100_000);
        assert_eq!((shelf.live(), shelf.resident()), (0, 400_000));
        // Served from the shelf; the part beyond the first use is written now.
        let again = shelf.take(105_000);
        assert_eq!(again.capacity, 106_496);
        assert_eq!(shelf.resident(), 420_000);
        // Less than half: a buffer of its own.
        let other = shelf.take(50_000);
        assert_eq!(shelf.resident(), 620_000);
        shelf.give(again, 105_000);
        shelf.give(other, 50_000);
        assert_eq!(shelf.mark(), (620_000, 620_000));
        assert_eq!(shelf.mark(), (0, 620_000));
    }

    #[test]
    fn small_buffers_are_returned() {
        let mut shelf = Shelf::default();
        let block = shelf.take(100);
        shelf.give(block, 100);
        assert_eq!(shelf.resident(), 0);
    }
}
