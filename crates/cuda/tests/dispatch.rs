//! The case table of the tensor crate on the CPU through [`AnyBackend`]: dispatch passes every argument on.

#[path = "../../tensor/tests/common/mod.rs"]
mod common;
#[path = "../../tensor/tests/parity/table.rs"]
mod table;

use std::sync::LazyLock;
use table::{EXACT, F64_SUM, LENGTHS, POINTWISE, SUM, parity};
use unbraid_cuda::AnyBackend;
use unbraid_tensor::CpuBackend;

/// The backend that is compared with the oracle.
type Fast = AnyBackend;

static FAST: LazyLock<Fast> = LazyLock::new(fresh);

/// Another one, with nothing in its pool.
fn fresh() -> Fast {
    AnyBackend::Cpu(CpuBackend::new())
}
