//! The fast backend against the naive oracle, for every operation of the trait: the table in `parity/`.

mod common;
#[path = "parity/table.rs"]
mod table;

use std::sync::LazyLock;
use table::{EXACT, F64_SUM, LENGTHS, POINTWISE, SUM, parity};
use unbraid_tensor::CpuBackend;

/// The backend that is compared with the oracle.
type Fast = CpuBackend;

static FAST: LazyLock<Fast> = LazyLock::new(fresh);

/// Another one, with nothing in its pool.
fn fresh() -> Fast {
    CpuBackend::new()
}
