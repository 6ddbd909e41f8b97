//! What can go wrong when a report is made.

use std::io;
use std::path::{Path, PathBuf};

/// Why a report could not be made. Damage inside the records (a cut last line, a value that is no number) is no
/// error: it is listed on the page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The directory has no `metrics.jsonl`.
    #[error(
        "`{}` is not a run: it holds no metrics.jsonl\nhint: give an output directory of `unbraid train` or `unbraid diagnose`",
        dir.display()
    )]
    NotARun {
        /// The directory that was given.
        dir: PathBuf,
    },
    /// The file exists, yet no line of it is a logged step.
    #[error(
        "`{}` holds no logged step ({unreadable} unreadable lines)\nhint: a run that ends before its first log leaves \
         nothing to show; lower `logging_steps`",
        path.display()
    )]
    NoSteps {
        /// The metrics file.
        path: PathBuf,
        /// Lines that are not JSON objects with a `step`.
        unreadable: usize,
    },
    /// The directory holds no file of a diagnosis.
    #[error(
        "`{}` is not a diagnosis: it holds none of geometry.jsonl, proxies.jsonl, series.jsonl\nhint: give the output \
         directory of `unbraid diagnose`",
        dir.display()
    )]
    NotADiagnosis {
        /// The directory that was given.
        dir: PathBuf,
    },
    /// The directory holds no `results.json`.
    #[error(
        "`{}` is not an experiment: it holds no results.json\nhint: give the output directory of `unbraid reproduce`",
        dir.display()
    )]
    NotAnExperiment {
        /// The directory that was given.
        dir: PathBuf,
    },
    /// An experiment's `results.json` cannot be understood.
    #[error(
        "`{}` cannot be used: {why}\nhint: `unbraid reproduce` with the same `--output_dir` goes on with the experiment and \
         writes the file again",
        path.display()
    )]
    DamagedResults {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An experiment was given among several directories.
    #[error(
        "`{}` is an experiment: its page stands alone\nhint: give it to `unbraid report` without other directories",
        dir.display()
    )]
    ExperimentToCompare {
        /// The experiment.
        dir: PathBuf,
    },
    /// The file exists, yet no line of it is a pair (or a checkpoint of a series).
    #[error(
        "`{}` holds no row\nhint: a diagnosis that is stopped before its first pair leaves nothing to show; run it again",
        path.display()
    )]
    NoPairs {
        /// The file of rows.
        path: PathBuf,
    },
    /// A comparison of nothing was asked for.
    #[error("no run to compare\nhint: unbraid report RUN…")]
    NoRuns,
    /// Runs and diagnoses were given together.
    #[error(
        "`{}` is a run and `{}` a diagnosis: they have nothing to compare\nhint: give either runs or diagnoses",
        run.display(),
        diagnosis.display()
    )]
    Mixed {
        /// The first run.
        run: PathBuf,
        /// The first diagnosis.
        diagnosis: PathBuf,
    },
    /// A series of checkpoints was given among several diagnoses.
    #[error(
        "`{}` is a series of diagnoses: only single ones can be compared\nhint: give the directories of its checkpoints",
        dir.display()
    )]
    SeriesToCompare {
        /// The series.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: a verb, for example `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A result with [`ReportError`].
pub type Result<T> = std::result::Result<T, ReportError>;

impl ReportError {
    /// For `map_err`: remembers what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
