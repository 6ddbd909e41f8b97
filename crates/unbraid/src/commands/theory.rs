//! `unbraid theory`: the paper's theorems, predicted against computed.

use super::End;
use crate::cli::TheoryConfig;
use anyhow::{Result, bail};

/// Checks the theory.
pub(super) fn run(_config: &TheoryConfig) -> Result<End> {
    bail!("work in progress")
}
