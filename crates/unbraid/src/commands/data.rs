//! `unbraid data …`: data sets made from raw material.

use super::End;
use crate::cli::DataCommand;
use anyhow::{Result, bail};

/// Makes a data set.
pub(super) fn run(_what: &DataCommand) -> Result<End> {
    bail!("work in progress")
}
