//! Buffers that are reused instead of returned to the system.
//!
//! A training step allocates and frees the same few gigabytes every time; asking the system each time costs a
//! page fault per 4 KiB. A dropped buffer goes to a shelf keyed by capacity and serves the next request of at
//! least half its size. Contents are stale on reuse (always initialised memory, never undefined).

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Below this many floats the system allocator is fast enough.
const SMALLEST_POOLED: usize = 4096;
/// Buffers kept beyond this total (in floats, 1 GiB) are returned to the system.
const KEPT_AT_MOST: usize = 1 << 28;

/// The shelf of free buffers.
#[derive(Default)]
pub struct Pool {
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    by_capacity: BTreeMap<usize, Vec<Vec<f32>>>,
    floats: usize,
}

/// An array of f32 that returns to its backend's pool when dropped.
pub struct CpuBuffer {
    data: Vec<f32>,
    pool: Arc<Pool>,
}

/// A buffer of `len` floats, contents unspecified.
pub(super) fn take(pool: &Arc<Pool>, len: usize) -> CpuBuffer {
    let mut data = pool.find(len).unwrap_or_else(|| {
        // Capacities in steps of an eighth of their power of two, so that lengths that vary a little share.
        let step = (len.next_power_of_two() / 16).max(16);
        vec![0.0; len.next_multiple_of(step)]
    });
    if data.len() < len {
        data.resize(len, 0.0);
    }
    data.truncate(len);
    CpuBuffer {
        data,
        pool: Arc::clone(pool),
    }
}

impl Pool {
    fn find(&self, len: usize) -> Option<Vec<f32>> {
        if len < SMALLEST_POOLED {
            return None;
        }
        let mut shelf = self.shelf.lock().expect("no panic while the shelf is held");
        let (&capacity, _) = shelf
            .by_capacity
            .range(len..=2 * len)
            .find(|(_, v)| !v.is_empty())?;
        let data = shelf.by_capacity.get_mut(&capacity)?.pop()?;
        shelf.floats -= capacity;
        Some(data)
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        let capacity = self.data.capacity();
        if capacity < SMALLEST_POOLED {
            return;
        }
        if let Ok(mut shelf) = self.pool.shelf.lock()
            && shelf.floats + capacity <= KEPT_AT_MOST
        {
            shelf.floats += capacity;
            let data = std::mem::take(&mut self.data);
            shelf.by_capacity.entry(capacity).or_default().push(data);
        }
    }
}

impl Deref for CpuBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl DerefMut for CpuBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}
