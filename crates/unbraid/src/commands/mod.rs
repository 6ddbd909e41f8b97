//! One file per command: what to load, what to call, what to write and say.
//!
//! People's output goes to stderr ([`crate::say`]), data to stdout. How a signal ends them: [`crate::interrupt`].

/// As `bail!`, for wrong usage: the program exits with 2.
macro_rules! bail_usage {
    ($($message:tt)*) => {
        return Err($crate::commands::usage(format!($($message)*)))
    };
}

mod adapt;
mod cache;
mod data;
mod demo;
mod device;
mod diagnose;
mod generate;
mod inspect;
mod load;
mod lock;
mod merge;
mod objective;
mod objectives;
mod output;
mod plan;
mod progress;
mod report;
mod reproduce;
mod score;
mod sft;
mod theory;
mod tracking;
mod train;
mod training;
mod unpaired;

use crate::cli::{Command, ReproduceCommand};
use anyhow::{Context, Result};
use unbraid_model::Cancel;
use unbraid_report::ReportError;

pub(crate) use crate::interrupt::Interrupt;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what was asked.
    Done,
    /// The user stopped it; what it had is saved.
    Interrupted,
}

/// Runs a command.
///
/// # Errors
/// One message that says what is wrong and where; nothing is left half-written.
pub fn run(command: Command) -> Result<End> {
    let threads = threads(&command);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build()
        .context("cannot start the worker threads")?;
    device::guarded(|| {
        pool.install(|| {
            // A cancelled pass that its command does not catch had nothing to save.
            Cancel::catch(|| dispatch(&command, &Interrupt::of_process()))
                .unwrap_or(Ok(End::Interrupted))
        })
    })
}

fn dispatch(command: &Command, interrupt: &Interrupt) -> Result<End> {
    match command {
        Command::Train(config) => train::run(config, interrupt),
        Command::Sft(config) => sft::run(config, interrupt),
        Command::Score(config) => score::run(config, interrupt),
        Command::Diagnose(config) => diagnose::run(config, interrupt),
        Command::Generate(config) => generate::run(config, interrupt),
        Command::Merge(config) => merge::run(config),
        Command::Inspect(config) => inspect::run(config),
        Command::Objectives(config) => objectives::run(config),
        Command::Plan(config) => plan::run(config),
        Command::Report(config) => report::run(config),
        Command::Data(what) => data::run(what),
        Command::Theory(config) => theory::run(config),
        Command::Reproduce(what) => reproduce::run(what, interrupt),
        Command::Demo(config) => demo::run(config, interrupt),
    }
}

/// An error in full, without secrets: each cause after its context, unless the context already says it.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for link in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = link;
        } else if !text.contains(&link) {
            text = format!("{text}: {link}");
        }
    }
    crate::redact::text(&text)
}

/// Wrong usage that shows only once objective, model or data are known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

/// An error that ends the program with exit code 2.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// 2 for wrong usage that the command line alone does not show (an unknown objective, options that this model cannot
/// have), else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let of_objectives = error.is::<unbraid_objective::ObjectiveError>();
    if of_objectives || error.is::<Usage>() {
        2
    } else {
        1
    }
}

/// The page that a command promises could not be written; everything else was.
#[derive(Debug, thiserror::Error)]
#[error("no report was written: {0}")]
pub(crate) struct NoReport(ReportError);

/// What a command ends with whose work is done: an error where its page could not be written. One that was interrupted says
/// so and will write it when it goes on; a run without a logged step has nothing to show.
pub(crate) fn end_with<T>(end: End, report: unbraid_report::Result<T>) -> Result<End> {
    let Err(error) = report else {
        return Ok(end);
    };
    if end == End::Done && !matches!(error, ReportError::NoSteps { .. }) {
        return Err(NoReport(error).into());
    }
    note!("{}", NoReport(error));
    Ok(end)
}

fn threads(command: &Command) -> Option<usize> {
    match command {
        Command::Train(config) => config.model.threads,
        Command::Sft(config) => config.model.threads,
        Command::Score(config) => config.model.threads,
        Command::Diagnose(config) => config.model.threads,
        Command::Generate(config) => config.model.threads,
        Command::Merge(config) => config.model.threads,
        Command::Plan(config) => config.run.model.threads,
        Command::Demo(config) => config.threads,
        Command::Theory(config) => config.threads,
        Command::Reproduce(what) => match &**what {
            ReproduceCommand::Sentiment(config) => config.options.threads,
            ReproduceCommand::Objectives(config) => config.options.threads,
        },
        Command::Inspect(_) | Command::Objectives(_) | Command::Report(_) | Command::Data(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_the_message_already_names_is_not_repeated() {
        let error = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(error).context("cannot write x: disk on fire");
        assert_eq!(message(&error), "cannot write x: disk on fire");
        let error = anyhow!("no such file").context("--ref-model");
        assert_eq!(message(&error), "--ref-model: no such file");
    }

    #[test]
    fn wrong_usage_is_known_behind_its_context() {
        let error = usage("one without the other");
        assert_eq!(
            (exit_code(&error), &*message(&error)),
            (2, "one without the other")
        );
        assert_eq!(exit_code(&error.context("train")), 2);
        assert_eq!(exit_code(&anyhow!("no such file")), 1);
    }
}
