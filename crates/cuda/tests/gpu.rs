//! The case table of the tensor crate on the first GPU. Where there is no driver it says so and passes.
#![allow(
    clippy::disallowed_methods,
    reason = "a test program that ends early says so"
)]

#[path = "../../tensor/tests/common/mod.rs"]
mod common;
#[path = "../../tensor/tests/parity/table.rs"]
mod table;

use std::io::Write;
use std::sync::LazyLock;
use table::{EXACT, F64_SUM, LENGTHS, POINTWISE, SUM, parity};
use unbraid_cuda::{CudaBackend, Precision};

/// The backend that is compared with the oracle.
type Fast = CudaBackend;

static FAST: LazyLock<Fast> = LazyLock::new(fresh);

/// Another one, with nothing in its pool. Its chunks of the vocabulary are small, so that there are several.
fn fresh() -> Fast {
    if !CudaBackend::driver_present() {
        // Not through `eprintln`, whose output the test harness keeps of tests that pass.
        let _ = writeln!(
            std::io::stderr(),
            "no NVIDIA driver: nothing is tested on a GPU here"
        );
        std::process::exit(0);
    }
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let gpu = CudaBackend::open(0, Precision::Float32, Some(cache), &|_| {});
    gpu.expect("there is a driver, so the GPU works")
        .with_chunks(1 << 20)
}
