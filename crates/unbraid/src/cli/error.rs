//! What can be wrong with a command line or a recipe; every message says what, where and what was expected.

use crate::say;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use crate::redact;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the command line.
    CommandLine,
    /// In a recipe, on this line (the first is 1).
    Recipe {
        /// The recipe's path as given.
        file: PathBuf,
        /// Line of the key.
        line: usize,
    },
}

impl Place {
    /// A setting's name as it is spelled at this place: `--learning-rate` or `learning_rate`.
    pub(super) fn spell(&self, key: &str) -> String {
        match self {
            Self::CommandLine => format!("--{}", key.replace('_', "-")),
            Self::Recipe { .. } => key.to_owned(),
        }
    }
}

/// Empty for the command line, else `FILE:LINE: `, to stand before a message.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => Ok(()),
            Self::Recipe { file, line } => write!(f, "{}:{line}: ", file.display()),
        }
    }
}

/// Why there is no command to run.
#[derive(Debug, Error)]
pub enum CliError {
    /// Help or version text was asked for: not a failure.
    #[error("{0}")]
    Show(String),
    /// No command was named; carries the help text.
    #[error("no command given\nhint: unbraid --help lists the commands")]
    NoCommand,
    /// The first word is not a command.
    #[error("unknown command {given}\nhint: {hint}")]
    UnknownCommand {
        /// The word as given.
        given: String,
        /// Nearest command, or where to find the list.
        hint: String,
    },
    /// An option that the command does not have.
    #[error("unknown option {given} of unbraid {command}\nhint: {hint}")]
    UnknownOption {
        /// The option as given.
        given: String,
        /// The command's name.
        command: String,
        /// Nearest option, or where to find the list.
        hint: String,
    },
    /// A recipe key that nothing knows.
    #[error("{place}unknown key {key}\nhint: {hint}")]
    UnknownKey {
        /// File and line.
        place: Place,
        /// The key as written.
        key: String,
        /// Nearest key, or where to find the list.
        hint: String,
    },
    /// A word that is neither an option nor its value.
    #[error("unexpected argument {given}\nhint: {hint}")]
    Unexpected {
        /// The word as given.
        given: String,
        /// What was expected.
        hint: String,
    },
    /// A value that its option does not take.
    #[error("{place}invalid value {value:?} for {name}: {reason}")]
    InvalidValue {
        /// Where it was written.
        place: Place,
        /// The option or key.
        name: String,
        /// The value as given.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// A value that asks for what does not happen here.
    #[error("{place}{name} = {value} is refused: {reason}\nhint: {hint}")]
    Refused {
        /// Where it was written.
        place: Place,
        /// The option or key.
        name: String,
        /// The value as given.
        value: String,
        /// Why.
        reason: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// An option of one value is given twice on the command line.
    #[error("{name} is given twice: {first}, then {second}\nhint: give it once")]
    GivenTwice {
        /// The option.
        name: String,
        /// The first value.
        first: String,
        /// The second.
        second: String,
    },
    /// A value that means something in TRL but is not built here yet.
    #[error("{place}{name} = {value} is not supported yet\nhint: {hint}")]
    NotSupportedYet {
        /// Where it was written.
        place: Place,
        /// The option or key.
        name: String,
        /// The value as given.
        value: String,
        /// Values that work.
        hint: String,
    },
    /// Something required is absent.
    #[error("missing {what}\nhint: {hint}")]
    Missing {
        /// The options that are absent.
        what: String,
        /// How to give them.
        hint: String,
    },
    /// Options that do not go together.
    #[error("{message}\nhint: {hint}")]
    Conflict {
        /// Which, and why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The recipe cannot be read.
    #[error("cannot read recipe {}: {source}", file.display())]
    RecipeUnreadable {
        /// Its path.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The recipe is not YAML, or not one mapping.
    #[error("{}:{line}:{column}: {reason}", file.display())]
    RecipeSyntax {
        /// Its path.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// A recipe gives a key twice.
    #[error("{place}key {key} is given twice; the first is on line {first}")]
    DuplicateKey {
        /// File and line of the second.
        place: Place,
        /// The key.
        key: String,
        /// Line of the first.
        first: usize,
    },
}

impl CliError {
    /// 0 for help and version, 2 (wrong usage) for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Show(_) => 0,
            _ => 2,
        }
    }

    /// Prints help or version to stdout, an error to stderr (`error: …`, then its `hint: …` line), and gives the exit code.
    pub fn print(&self) -> ExitCode {
        match self {
            Self::Show(text) => {
                if let Err(error) = crate::stdout::print(text) {
                    say::error(&format!("{error:#}"));
                    return ExitCode::FAILURE;
                }
            }
            // A word in the wrong place may be a token that slipped.
            Self::Unexpected { given, .. } | Self::UnknownCommand { given, .. }
                if given.starts_with("hf_") =>
            {
                say::error(&self.to_string().replace(given, redact::MASK));
            }
            error => say::error(&redact::text(&error.to_string())),
        }
        ExitCode::from(self.exit_code())
    }
}
