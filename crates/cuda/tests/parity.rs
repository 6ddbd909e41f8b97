//! The case table of the tensor crate (`crates/tensor/tests/parity/`) on the emulated machine: true kernels and true host
//! code, without a GPU. Where there is no C++ compiler it says so and passes.

#[path = "../../tensor/tests/common/mod.rs"]
mod common;
mod emulator;
#[path = "../../tensor/tests/parity/table.rs"]
mod table;

use emulator::Emulator;
use std::io::Write;
use std::sync::{Arc, LazyLock};
use table::{EXACT, F64_SUM, LENGTHS, POINTWISE, SUM, parity};
use unbraid_cuda::{CudaBackend, Device, Precision};

/// The backend that is compared with the oracle.
type Fast = CudaBackend;

static FAST: LazyLock<Fast> = LazyLock::new(fresh);

static MACHINE: LazyLock<Arc<dyn Device>> = LazyLock::new(|| match Emulator::new() {
    Some(emulator) => Arc::new(emulator),
    None => {
        // Not through `eprintln`, whose output the test harness keeps of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "no C++ compiler: the CUDA kernels are not tested here"
        );
        std::process::exit(0);
    }
});

/// Another one, with nothing in its pool. Its chunks of the vocabulary are small, so that there are several.
fn fresh() -> Fast {
    CudaBackend::over(Arc::clone(&MACHINE), Precision::Float32).with_chunks(1 << 14)
}
