//! Buffers that are reused instead of returned to the system.
//!
//! A training step allocates and frees the same few gigabytes every time; asking the system each time costs a
//! page fault per 4 KiB. A dropped buffer goes to a shelf keyed by capacity and serves the next request of at least half
//! its size. A request that nothing on the shelf is right for makes room before it asks the system: first goes one buffer
//! that would have served half of it, whose work the new one takes over, then the largest ones, until buffers in use and
//! on the shelf together are no more than were in use at one time before. So batches of changing sizes leave nothing of
//! their past behind. Contents are stale on reuse (always initialised memory, never undefined).
//!
//! A buffer may instead hold a frozen weight as bf16. Operations that read weights ask for [`CpuBuffer::floats`], the
//! part they need, widened into a pooled scratch buffer; every other access is a mistake of the caller and panics.

use super::rules::{KEPT_AT_MOST, SMALLEST_POOLED, capacity};
use super::simd::{PIECE, simd};
use crate::bf16;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range, RangeInclusive};
use std::sync::{Arc, Mutex};

/// The shelf of free buffers.
#[derive(Default)]
pub struct Pool {
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    by_capacity: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Floats on the shelf.
    floats: usize,
    /// Floats of pooled buffers in use, by capacity, and the most there were.
    used: usize,
    most_used: usize,
}

enum Data {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

/// An array of f32 that returns to its backend's pool when dropped, or a frozen one of bf16.
pub struct CpuBuffer {
    data: Data,
    pool: Arc<Pool>,
}

/// Part of a buffer as f32: borrowed where it lies, or widened from bf16.
pub(super) enum Floats<'a> {
    Borrowed(&'a [f32]),
    Widened(CpuBuffer),
}

impl Deref for Floats<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Floats::Borrowed(x) => x,
            Floats::Widened(x) => x,
        }
    }
}

/// A buffer of `len` floats, contents unspecified.
pub(super) fn take(pool: &Arc<Pool>, len: usize) -> CpuBuffer {
    let mut data = pool.find(len).unwrap_or_else(|| vec![0.0; capacity(len)]);
    if data.len() < len {
        data.resize(len, 0.0);
    }
    data.truncate(len);
    CpuBuffer {
        data: Data::F32(data),
        pool: Arc::clone(pool),
    }
}

/// `data` rounded to bf16.
pub(super) fn take_bf16(pool: &Arc<Pool>, data: &[f32]) -> CpuBuffer {
    let mut halves = vec![0; data.len()];
    let pieces = halves.par_chunks_mut(PIECE).zip(data.par_chunks(PIECE));
    pieces.for_each(|(to, from)| {
        simd!(|| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = bf16::round(from);
            }
        });
    });
    CpuBuffer {
        data: Data::Bf16(halves),
        pool: Arc::clone(pool),
    }
}

/// Widens a run of bf16.
#[inline(always)]
pub(super) fn widen(from: &[u16], to: &mut [f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = bf16::widen(from);
    }
}

impl CpuBuffer {
    /// Number of elements, of either kind.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::F32(x) => x.len(),
            Data::Bf16(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bf16 elements, if it holds those.
    pub(super) fn halves(&self) -> Option<&[u16]> {
        match &self.data {
            Data::F32(_) => None,
            Data::Bf16(x) => Some(x),
        }
    }

    /// A scratch buffer of `len` floats from the same pool.
    pub(super) fn scratch(&self, len: usize) -> CpuBuffer {
        take(&self.pool, len)
    }

    /// The elements in `range` as f32.
    pub(super) fn floats(&self, range: Range<usize>) -> Floats<'_> {
        match &self.data {
            Data::F32(x) => Floats::Borrowed(&x[range]),
            Data::Bf16(x) => {
                let from = &x[range];
                let mut to = self.scratch(from.len());
                let pieces = to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
                pieces.for_each(|(to, from)| simd!(|| widen(from, to)));
                Floats::Widened(to)
            }
        }
    }
}

impl Pool {
    fn find(&self, len: usize) -> Option<Vec<f32>> {
        if capacity(len) < SMALLEST_POOLED {
            return None;
        }
        let mut shelf = self.shelf.lock().expect("no panic while the shelf is held");
        let found = shelf.pop(len..=2 * len, false);
        shelf.used += found.as_ref().map_or(capacity(len), Vec::capacity);
        shelf.most_used = shelf.most_used.max(shelf.used);
        if found.is_none() {
            drop(shelf.pop(len / 2..=len - 1, true));
            while shelf.used + shelf.floats > shelf.most_used
                && let Some(largest) = shelf.pop(0..=usize::MAX, true)
            {
                drop(largest);
            }
        }
        found
    }
}

impl Shelf {
    /// Takes the smallest buffer with a capacity in `range`, or the largest.
    fn pop(&mut self, range: RangeInclusive<usize>, largest: bool) -> Option<Vec<f32>> {
        let mut fitting = self.by_capacity.range_mut(range);
        let some = |(_, buffers): &(&usize, &mut Vec<Vec<f32>>)| !buffers.is_empty();
        let (&capacity, buffers) = match largest {
            true => fitting.rfind(some)?,
            false => fitting.find(some)?,
        };
        let data = buffers.pop()?;
        self.floats -= capacity;
        Some(data)
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        let Data::F32(data) = &mut self.data else {
            return;
        };
        let capacity = data.capacity();
        if capacity < SMALLEST_POOLED {
            return;
        }
        if let Ok(mut shelf) = self.pool.shelf.lock() {
            shelf.used -= capacity;
            if shelf.floats + capacity <= KEPT_AT_MOST {
                shelf.floats += capacity;
                let data = std::mem::take(data);
                shelf.by_capacity.entry(capacity).or_default().push(data);
            }
        }
    }
}

impl Deref for CpuBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &self.data {
            Data::F32(x) => x,
            Data::Bf16(_) => {
                panic!("a bf16 buffer holds a frozen weight: this operation reads f32")
            }
        }
    }
}

impl DerefMut for CpuBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.data {
            Data::F32(x) => x,
            Data::Bf16(_) => panic!("a bf16 buffer holds a frozen weight: it cannot be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capacities on the shelf.
    fn shelved(pool: &Arc<Pool>) -> Vec<usize> {
        let shelf = pool.shelf.lock().expect("no panic while the shelf is held");
        let each = shelf.by_capacity.iter();
        each.flat_map(|(&capacity, buffers)| vec![capacity; buffers.len()])
            .collect()
    }

    #[test]
    fn a_larger_buffer_takes_over_from_a_smaller_one() {
        let pool = Arc::new(Pool::default());
        drop([take(&pool, 8192), take(&pool, 20_480), take(&pool, 65_536)]);
        assert_eq!(shelved(&pool), [8192, 20_480, 65_536]);
        // Served by the next larger one of at most twice the size.
        drop(take(&pool, 16_384));
        assert_eq!(shelved(&pool), [8192, 20_480, 65_536]);
        // Nothing fits: 20,480 could have served more than half of it and goes. That leaves 4,096 more than were in use at
        // one time, so the largest goes too; 8,192 stays.
        drop(take(&pool, 24_576));
        assert_eq!(shelved(&pool), [8192, 24_576]);
    }

    #[test]
    fn no_more_is_held_than_was_in_use_at_one_time() {
        let pool = Arc::new(Pool::default());
        let held = |pool: &Arc<Pool>| {
            let shelf = pool.shelf.lock().expect("no panic while the shelf is held");
            shelf.used + shelf.floats
        };
        drop([take(&pool, 65_536), take(&pool, 65_536)]);
        // Neither fits any of these, and neither would have served half of one: the first stands beside one of them.
        let first = take(&pool, 16_384);
        assert_eq!(shelved(&pool), [65_536]);
        let second = take(&pool, 16_384);
        assert_eq!(shelved(&pool), [65_536]);
        let third = take(&pool, 262_144);
        assert!(shelved(&pool).is_empty());
        drop((first, second, third));
        assert_eq!(held(&pool), 2 * 16_384 + 262_144);
        // Small ones are not counted, neither taken nor given.
        drop([take(&pool, 1), take(&pool, 4000), take(&pool, 4096)]);
        assert!(held(&pool) <= 2 * 16_384 + 262_144);
    }
}
