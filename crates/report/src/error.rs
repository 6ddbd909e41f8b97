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
        "`{}` is not a run: it holds no metrics.jsonl\nhint: give the output directory of `unbraid train`",
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
    /// A comparison of nothing was asked for.
    #[error("no run to compare\nhint: unbraid report RUN…")]
    NoRuns,
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
