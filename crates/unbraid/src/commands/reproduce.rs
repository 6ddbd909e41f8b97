//! `unbraid reproduce …`: the paper's experiments.

use super::{End, Interrupt};
use crate::cli::ReproduceCommand;
use anyhow::{Result, bail};

/// Runs an experiment.
pub(super) fn run(_what: &ReproduceCommand, _interrupt: &Interrupt) -> Result<End> {
    bail!("work in progress")
}
