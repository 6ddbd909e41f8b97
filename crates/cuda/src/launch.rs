//! Launches and transfers, for the operations: arguments by value, shapes of grids, failures raised.

use crate::backend::CudaBackend;
use crate::buffer::{CudaBuffer, CudaIndex, Memory};
use crate::device::Arg;
use crate::error::Failure;

/// Threads of a block.
pub(crate) const BLOCK: usize = 256;

/// Blocks of a launch whose threads walk over their elements.
const MOST_BLOCKS: usize = 4096;

/// Blocks of a sum whose parts are added on the host.
const PARTS: usize = 256;

/// An optional address.
pub(crate) fn or_null(address: Option<u64>) -> Arg {
    Arg::Address(address.unwrap_or(0))
}

/// Sizes as kernels count them.
pub(crate) fn long(n: usize) -> Arg {
    Arg::Long(i64::try_from(n).expect("a size below 2^63"))
}

/// A flag as kernels take it.
pub(crate) fn flag(on: bool) -> Arg {
    Arg::Int(i32::from(on))
}

/// Rounded once.
pub(crate) fn float(x: f64) -> Arg {
    Arg::Float(x as f32)
}

/// A soft cap; 0 stands for none.
pub(crate) fn cap(softcap: Option<f64>) -> Arg {
    float(softcap.unwrap_or(0.0))
}

/// A count as grids take it.
pub(crate) fn blocks(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What is left of a result on the way to a user: its value, or the end of the operation.
pub(crate) fn done<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| failure.raise())
}

impl CudaBackend {
    /// Launches unless the grid is empty.
    pub(crate) fn launch(&self, kernel: &'static str, grid: [usize; 3], args: &[Arg]) {
        if grid.contains(&0) {
            return;
        }
        let grid = grid.map(blocks);
        done(self.pool.device.launch(kernel, grid, BLOCK as u32, args));
    }

    /// For kernels whose threads walk over `n` elements.
    pub(crate) fn each(&self, kernel: &'static str, n: usize, args: &[Arg]) {
        let count = n.div_ceil(BLOCK).min(MOST_BLOCKS);
        self.launch(kernel, [count, 1, 1], args);
    }

    /// Blocks of a sum over `n` elements, a function of `n` alone.
    pub(crate) fn parts(&self, n: usize) -> usize {
        n.div_ceil(4 * BLOCK).clamp(1, PARTS)
    }

    /// Launches a kernel over `n` elements whose blocks leave `width` parts of sums each, and adds these in order. The
    /// parts' address is appended to `args`.
    pub(crate) fn sums<const WIDTH: usize>(
        &self,
        kernel: &'static str,
        n: usize,
        args: &[Arg],
    ) -> [f64; WIDTH] {
        if n == 0 {
            return [0.0; WIDTH];
        }
        let count = self.parts(n);
        let parts = self.pool.take(count * WIDTH, 8);
        let mut args = args.to_vec();
        args.push(Arg::Address(parts.address));
        self.launch(kernel, [count, 1, 1], &args);
        let mut sums = [0.0; WIDTH];
        for part in self.doubles(&parts, count * WIDTH).chunks_exact(WIDTH) {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += x;
            }
        }
        sums
    }

    /// `len` zeros of 8 bytes.
    pub(crate) fn zero_doubles(&self, len: usize) -> Memory {
        let memory = self.pool.take(len, 8);
        done(self.pool.device.zero(memory.address, (len * 8).max(1)));
        memory
    }

    /// The first `len` f64 of a piece of memory.
    pub(crate) fn doubles(&self, memory: &Memory, len: usize) -> Vec<f64> {
        let mut bytes = vec![0; len * 8];
        self.fetch(memory.address, &mut bytes);
        let each = bytes.chunks_exact(8);
        each.map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
            .collect()
    }

    /// Downloads unless there is nothing.
    pub(crate) fn fetch(&self, address: u64, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            done(self.pool.device.download(address, bytes));
        }
    }

    /// `data` in new memory.
    pub(crate) fn store(&self, data: &[u8], size: usize) -> Memory {
        let memory = self.pool.take(data.len() / size, size);
        if !data.is_empty() {
            done(self.pool.device.upload(memory.address, data));
        }
        memory
    }

    /// `data` as an index without a copy on the host.
    pub(crate) fn table(&self, data: &[u32]) -> Memory {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.store(&bytes, 4)
    }

    /// An f32 buffer, contents unspecified.
    pub(crate) fn floats(&self, len: usize) -> CudaBuffer {
        CudaBuffer {
            memory: self.pool.take(len, 4),
            len,
            half: false,
        }
    }
}

/// (address, whether bf16) of a weight.
pub(crate) fn weight(buffer: &CudaBuffer) -> [Arg; 2] {
    [Arg::Address(buffer.memory.address), flag(buffer.half)]
}

/// The address of an f32 buffer that is read.
pub(crate) fn input(buffer: &CudaBuffer) -> Arg {
    Arg::Address(buffer.read())
}

/// The address of a buffer that is written.
pub(crate) fn output(buffer: &mut CudaBuffer) -> Arg {
    Arg::Address(buffer.write())
}

/// The address of an index.
pub(crate) fn index(index: &CudaIndex) -> Arg {
    Arg::Address(index.memory.address)
}
