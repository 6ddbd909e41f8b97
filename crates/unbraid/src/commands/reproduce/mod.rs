//! `unbraid reproduce …`: the paper's experiments.
//!
//! An arm is an ordinary run of `unbraid train` in a directory of its own, with its `run.yaml`, metrics and page; what
//! is measured of its last model goes to `outcome.json` there, which marks it as done. The same command goes on where it
//! was stopped: finished runs are read, the one that was stopped resumes. The reference's log-probs come from the cache
//! that all runs share.

mod lab;
mod objectives;
mod outcome;
mod sentiment;

use super::{End, Interrupt};
use crate::cli::ReproduceCommand;
use anyhow::Result;

/// Runs an experiment.
pub(super) fn run(what: &ReproduceCommand, interrupt: &Interrupt) -> Result<End> {
    // Passes that measure are cancelled, and training stops by itself.
    let _stops = interrupt.stops_itself();
    match what {
        ReproduceCommand::Sentiment(config) => sentiment::run(config, interrupt),
        ReproduceCommand::Objectives(config) => objectives::run(config, interrupt),
    }
}
