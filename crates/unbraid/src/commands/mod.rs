//! One file per command: what to load, what to call, what to write and say.
//!
//! People's output goes to stderr, data to stdout. Long work listens to Ctrl-C between batches.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what was asked.
    Done,
    /// The user stopped it; what it had is saved.
    Interrupted,
}

/// Tells whether Ctrl-C was pressed. A second press ends the program at once.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn install() -> Self {
        let interrupt = Interrupt::default();
        let flag = Arc::clone(&interrupt.0);
        let handler = move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("stopping after this step; press Ctrl-C again to stop at once");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("note: Ctrl-C will stop without saving: {error}");
        }
        interrupt
    }

    /// Whether the user wants to stop.
    pub(crate) fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
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
    let interrupt = Interrupt::install();
    device::guarded(|| {
        pool.install(|| match command {
            Command::Train(config) => train::run(&config, &interrupt),
            Command::Sft(config) => sft::run(&config, &interrupt),
            Command::Score(config) => score::run(&config, &interrupt),
            Command::Diagnose(config) => diagnose::run(&config, &interrupt),
            Command::Generate(config) => generate::run(&config, &interrupt),
            Command::Merge(config) => merge::run(&config),
            Command::Inspect(config) => inspect::run(&config),
            Command::Objectives(config) => objectives::run(&config),
            Command::Plan(config) => plan::run(&config),
            Command::Report(config) => report::run(&config),
            Command::Data(what) => data::run(&what),
            Command::Theory(config) => theory::run(&config),
            Command::Reproduce(what) => reproduce::run(&what, &interrupt),
            Command::Demo(config) => demo::run(&config, &interrupt),
        })
    })
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
