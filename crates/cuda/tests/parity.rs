//! The case table of the tensor crate (`crates/tensor/tests/parity/`) on the emulated machine: true kernels and true host
//! code, without a GPU. Where there is no C++ compiler it says so and passes.

#[path = "../../tensor/tests/common/mod.rs"]
mod common;
mod emulator;
#[path = "../../tensor/tests/parity/table.rs"]
mod table;

use emulator::{Emulator, Limits};
use std::sync::{Arc, LazyLock};
use table::{EXACT, F64_SUM, LENGTHS, POINTWISE, SUM, parity};
use unbraid_cuda::{AnyBackend, CudaBackend, Device, Precision};

/// The backend that is compared with the oracle.
type Fast = AnyBackend;

static FAST: LazyLock<Fast> = LazyLock::new(fresh);

static MACHINE: LazyLock<Arc<dyn Device>> = LazyLock::new(|| Emulator::or_end(Limits::default()));

/// Another one, with nothing in its pool. Its chunks of the vocabulary are small, so that there are several.
fn fresh() -> Fast {
    let gpu = CudaBackend::over(Arc::clone(&MACHINE), Precision::Float32);
    AnyBackend::Cuda(gpu.with_chunks(1 << 14))
}
