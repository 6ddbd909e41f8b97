//! Buffers that are reused instead of returned to the device.
//!
//! A dropped buffer goes to a shelf keyed by size and serves the next request of at least half its size: allocation on a
//! device waits for it. Contents are stale on reuse. Everything runs in order on one stream, so a buffer may be handed out
//! again while operations that use it are still to come.

use crate::device::Device;
use crate::error::Failure;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A device and the memory that is free on it.
pub(crate) struct Pool {
    pub device: Arc<dyn Device>,
    shelf: Mutex<BTreeMap<usize, Vec<u64>>>,
}

/// A piece of device memory that returns to its pool.
pub(crate) struct Memory {
    pub address: u64,
    bytes: usize,
    pool: Arc<Pool>,
}

impl Pool {
    pub(crate) fn new(device: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Pool {
            device,
            shelf: Mutex::default(),
        })
    }

    /// Memory for `len` elements of `size` bytes, contents unspecified.
    pub(crate) fn take(self: &Arc<Self>, len: usize, size: usize) -> Memory {
        let wanted = (len * size).max(1);
        // In steps of an eighth of the power of two, so that lengths that vary a little share.
        let step = (wanted.next_power_of_two() / 16).max(256);
        let bytes = wanted.next_multiple_of(step);
        let (address, bytes) = match self.find(bytes) {
            Some(found) => found,
            None => (self.allocate(bytes), bytes),
        };
        Memory {
            address,
            bytes,
            pool: Arc::clone(self),
        }
    }

    fn find(&self, bytes: usize) -> Option<(u64, usize)> {
        let mut shelf = self.shelf.lock().ok()?;
        let (&size, _) = shelf
            .range(bytes..=2 * bytes)
            .find(|(_, v)| !v.is_empty())?;
        let address = shelf.get_mut(&size)?.pop()?;
        Some((address, size))
    }

    /// From the device; where it has no more, everything on the shelf goes back first.
    fn allocate(&self, bytes: usize) -> u64 {
        for last in [false, true] {
            match self.device.allocate(bytes) {
                Ok(Some(address)) => return address,
                Ok(None) if !last => self.clear(),
                Ok(None) => break,
                Err(failure) => failure.raise(),
            }
        }
        let mib = bytes as f64 / f64::from(1 << 20);
        Failure(format!(
            "the GPU's memory does not hold {mib:.1} MiB more\nhint: a smaller batch or --max-length, gradient checkpointing or LoRA need less; --device cpu uses main memory"
        ))
        .raise()
    }

    fn clear(&self) {
        if let Ok(mut shelf) = self.shelf.lock() {
            for address in std::mem::take(&mut *shelf).into_values().flatten() {
                self.device.free(address);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Ok(mut shelf) = self.pool.shelf.lock() {
            shelf.entry(self.bytes).or_default().push(self.address);
        }
    }
}

/// An array of f32 on a device, or a frozen one of bf16.
pub struct CudaBuffer {
    pub(crate) memory: Memory,
    pub(crate) len: usize,
    pub(crate) half: bool,
}

impl CudaBuffer {
    /// Address of the elements, which must be f32.
    pub(crate) fn read(&self) -> u64 {
        assert!(
            !self.half,
            "a bf16 buffer holds a frozen weight: this operation reads f32"
        );
        self.memory.address
    }

    /// Address of the elements, to be written.
    pub(crate) fn write(&mut self) -> u64 {
        assert!(
            !self.half,
            "a bf16 buffer holds a frozen weight: it cannot be written"
        );
        self.memory.address
    }
}

/// An array of `u32` on a device, with a copy on the host.
pub struct CudaIndex {
    pub(crate) memory: Memory,
    pub(crate) host: Vec<u32>,
}
