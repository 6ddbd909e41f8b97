//! What can go wrong while training.

use std::path::PathBuf;
use unbraid_model::ModelError;
use unbraid_objective::ObjectiveError;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The loss or a log-prob is not a finite number.
    #[error(
        "loss is {loss} at step {step}, from {data} rows {} (0-based)\n\
         hint: the model on disk is untouched{}; lower the learning rate or look at these rows with `unbraid inspect`",
        list(.rows), last_good(.checkpoint.as_ref())
    )]
    NonFiniteLoss {
        /// Optimizer step, 1-based.
        step: u64,
        /// The loss.
        loss: f64,
        /// Which data they belong to: `training` or `evaluation`.
        data: &'static str,
        /// Row numbers of the offending examples.
        rows: Vec<usize>,
        /// The newest checkpoint, if there is one.
        checkpoint: Option<PathBuf>,
    },

    /// The gradient is not finite although the loss is.
    #[error(
        "gradient norm is {norm} at step {step}, from training rows {} (0-based)\n\
         hint: the model on disk is untouched{}; lower the learning rate",
        list(.rows), last_good(.checkpoint.as_ref())
    )]
    NonFiniteGradient {
        /// Optimizer step, 1-based.
        step: u64,
        /// The norm.
        norm: f64,
        /// Row numbers of the step's examples.
        rows: Vec<usize>,
        /// The newest checkpoint, if there is one.
        checkpoint: Option<PathBuf>,
    },

    /// A parameter is not finite, so the model is not worth saving.
    #[error(
        "parameter {name} is not finite after step {step}: the checkpoint is not written\n\
         hint: the model on disk is untouched{}; lower the learning rate",
        last_good(.checkpoint.as_ref())
    )]
    NonFiniteWeights {
        /// Optimizer step, 1-based.
        step: u64,
        /// The parameter.
        name: String,
        /// The newest checkpoint, if there is one.
        checkpoint: Option<PathBuf>,
    },

    /// Nothing to train on.
    #[error("no training examples are left after tokenisation\nhint: {hint}")]
    NoExamples {
        /// What to look at.
        hint: &'static str,
    },

    /// The objective refused its options or inputs.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),

    /// The model could not be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// A file could not be written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A checkpoint cannot be used.
    #[error("{}: this checkpoint is not used: {reason}", .path.display())]
    BadCheckpoint {
        /// Its directory.
        path: PathBuf,
        /// File, what was found and what was expected.
        reason: String,
    },

    /// A checkpoint is whole, but of a run with other settings or data.
    #[error(
        "{}: this checkpoint is of another run: {}\n\
         hint: give the settings that the run was started with (they are in its run.yaml), \
         or start a new run in another directory",
        .path.display(), .differences.join("; ")
    )]
    OtherRun {
        /// Its directory.
        path: PathBuf,
        /// What differs, by name.
        differences: Vec<String>,
    },

    /// There are checkpoints, and none can be used.
    #[error(
        "{}: no checkpoint can be used\n  {}\n\
         hint: start again with --resume-from-checkpoint false --overwrite-output-dir",
        .dir.display(), .reasons.join("\n  ")
    )]
    NoUsableCheckpoint {
        /// The output directory.
        dir: PathBuf,
        /// Why, newest first.
        reasons: Vec<String>,
    },

    /// The metric that is to pick the best checkpoint is not among the evaluation's.
    #[error(
        "metric_for_best_model is {metric}, which the evaluation does not give\n\
         hint: it gives {}", .known.join(", ")
    )]
    NoSuchMetric {
        /// As named.
        metric: String,
        /// Keys of the evaluation's metrics.
        known: Vec<String>,
    },

    /// A file that belongs to the model could not be copied beside it.
    #[error("{0}")]
    Companion(String),
}

fn list(rows: &[usize]) -> String {
    let rows: Vec<String> = rows.iter().map(usize::to_string).collect();
    rows.join(", ")
}

fn last_good(checkpoint: Option<&PathBuf>) -> String {
    checkpoint.map_or(String::new(), |c| {
        format!(", the last good checkpoint is {}", c.display())
    })
}

impl TrainError {
    /// An operating-system error on `path`.
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        TrainError::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}
