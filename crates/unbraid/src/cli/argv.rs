//! The command line as words: which command, which settings, which other arguments.
//!
//! clap sees only `--kebab-case=value` after this. The splitting is ours because TRL's users type what clap cannot
//! read in one grammar: `--learning_rate`, `--bf16`, `--bf16 True`, `--loss_type a b`, and options of
//! transformers that only a table knows ([`super::compat`]). Nothing is judged here but names.
//! Tested in `tests/cli_options.rs`.

use std::any::TypeId;
use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use super::compat;
use super::error::{CliError, Place};
use super::recipe::{Setting, Value};

/// A command line taken apart.
pub(super) struct Words {
    /// The command's name, or names where it is nested.
    pub(super) path: Vec<String>,
    /// Options in the order given.
    pub(super) settings: Vec<Setting>,
    /// Arguments that are not options.
    pub(super) positionals: Vec<String>,
}

/// How many words belong to an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arity {
    /// `--flag`, `--flag true`, `--flag=true`.
    Flag,
    /// `--option VALUE`, or nothing for its usual value.
    Optional,
    /// `--option VALUE`.
    One,
    /// `--option VALUE VALUE …`.
    Many,
}

/// Takes a command line apart; `args` has the program's name first.
///
/// # Errors
/// [`CliError::Show`] for help and version, and what is wrong with commands and option names.
pub(super) fn split(
    args: impl IntoIterator<Item = OsString>,
    root: &Command,
) -> Result<Words, CliError> {
    let args = args
        .into_iter()
        .skip(1)
        .map(utf8)
        .collect::<Result<Vec<_>, _>>()?;
    let mut rest = args.iter().map(String::as_str).peekable();
    let (path, command) = command(&mut rest, root)?;
    let mut words = Words {
        path,
        settings: Vec::new(),
        positionals: Vec::new(),
    };
    while let Some(word) = rest.next() {
        match word {
            "--" => words.positionals.extend(rest.by_ref().map(str::to_owned)),
            "-h" | "--help" => return Err(show(root, &words.path, word)),
            _ if word.starts_with("--") => {
                let setting = option(word, &mut rest, command, &words.path)?;
                words.settings.push(setting);
            }
            _ if dashed(word) => return Err(unknown(word, command, &words.path)),
            _ => words.positionals.push(word.to_owned()),
        }
    }
    Ok(words)
}

fn utf8(arg: OsString) -> Result<String, CliError> {
    arg.into_string().map_err(|arg| CliError::Unexpected {
        given: format!("{arg:?}"),
        hint: "arguments must be valid UTF-8".into(),
    })
}

/// The command that the first words name.
fn command<'a, 'c>(
    rest: &mut impl Iterator<Item = &'a str>,
    root: &'c Command,
) -> Result<(Vec<String>, &'c Command), CliError> {
    let mut path = Vec::new();
    let mut command = root;
    let mut help = false;
    while command.has_subcommands() {
        match rest.next() {
            None if help => return Err(show(root, &path, "--help")),
            None => return Err(CliError::NoCommand),
            Some("help") if path.is_empty() => help = true,
            Some(word @ ("-h" | "--help" | "-V" | "--version")) => {
                return Err(show(root, &path, word));
            }
            Some(word) => {
                command = command
                    .find_subcommand(word)
                    .ok_or_else(|| unknown_command(word, command))?;
                path.push(word.to_owned());
            }
        }
    }
    if help {
        Err(show(root, &path, "--help"))
    } else {
        Ok((path, command))
    }
}

fn unknown_command(word: &str, command: &Command) -> CliError {
    if word.starts_with('-') {
        let hint = "the command comes first: unbraid COMMAND --option value".into();
        return CliError::Unexpected {
            given: word.into(),
            hint,
        };
    }
    let names = command.get_subcommands().map(Command::get_name);
    let hint = match nearest(word, names) {
        Some(name) => format!("did you mean {name}?"),
        None => "unbraid --help lists the commands".into(),
    };
    CliError::UnknownCommand {
        given: word.into(),
        hint,
    }
}

/// clap's help or version text.
fn show(root: &Command, path: &[String], flag: &str) -> CliError {
    let words = ["unbraid"]
        .into_iter()
        .chain(path.iter().map(String::as_str))
        .chain([flag]);
    match root.clone().try_get_matches_from(words) {
        Err(text) => CliError::Show(text.render().to_string()),
        Ok(_) => unreachable!("clap stops at {flag}"),
    }
}

/// Reads one `--option` with the words that belong to it.
fn option<'a>(
    word: &str,
    rest: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    command: &Command,
    path: &[String],
) -> Result<Setting, CliError> {
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let key = compat::canonical(&path[0], &name[2..].replace('-', "_")).to_owned();
    let arity = match find(command, &key) {
        Some(arg) => arity(arg),
        None if compat::rule(&path[0], &key).is_some() => Arity::Many,
        None => return Err(unknown(name, command, path)),
    };
    let value = match (inline, arity) {
        (Some(value), Arity::Many) => Value::List(vec![value.to_owned()]),
        (Some(value), _) => Value::One(value.to_owned()),
        (None, Arity::Flag) => {
            // The next word is the flag's, unless it is an option, or may be the recipe.
            let own = |next: &&str| {
                is_bool(next) || !(dashed(next) || is_recipe(next) || takes_words(command))
            };
            let given = rest.next_if(own);
            Value::One(given.unwrap_or("true").to_owned())
        }
        (None, Arity::Optional) => {
            let given = rest.next_if(|next| !next.starts_with("--") && !is_recipe(next));
            Value::One(given.unwrap_or("true").to_owned())
        }
        (None, Arity::One) => match rest.next_if(|next| !next.starts_with("--")) {
            Some(given) => Value::One(given.to_owned()),
            None => return Err(no_value(name)),
        },
        (None, Arity::Many) => {
            let first = rest.next_if(|next| !next.starts_with("--") && !is_recipe(next));
            let mut values: Vec<String> = first.map(str::to_owned).into_iter().collect();
            while let Some(next) =
                first.and_then(|_| rest.next_if(|next| !dashed(next) && !is_recipe(next)))
            {
                values.push(next.to_owned());
            }
            if values.is_empty() {
                // An option that only the table knows may be a bare flag.
                if find(command, &key).is_some() {
                    return Err(no_value(name));
                }
                values.push("true".to_owned());
            }
            Value::List(values)
        }
    };
    Ok(Setting {
        key,
        value,
        place: Place::CommandLine,
    })
}

fn no_value(name: &str) -> CliError {
    CliError::Missing {
        what: format!("value of {name}"),
        hint: format!("{name} VALUE; a value that starts with -- is given as {name}=VALUE"),
    }
}

/// A word for true or false.
fn is_bool(word: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "1", "0"];
    words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Whether a command has arguments that are not options, besides a recipe.
fn takes_words(command: &Command) -> bool {
    command
        .get_positionals()
        .any(|arg| arg.get_id() != "recipe")
}

/// A recipe is never swallowed as one more value: `--report_to none recipe.yaml`.
fn is_recipe(word: &str) -> bool {
    word.ends_with(".yaml") || word.ends_with(".yml") || std::path::Path::new(word).is_file()
}

/// Whether a word looks like an option; `-`, `-1` and `-0.5` do not.
fn dashed(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}

/// The option with this snake_case name.
pub(super) fn find<'c>(command: &'c Command, key: &str) -> Option<&'c Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long().is_some() && arg.get_id() == key)
}

fn arity(arg: &Arg) -> Arity {
    if is_flag(arg) {
        Arity::Flag
    } else if is_list(arg) {
        Arity::Many
    } else if arg
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0)
    {
        Arity::Optional
    } else {
        Arity::One
    }
}

/// Whether an option is a boolean.
pub(super) fn is_flag(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<bool>()
}

/// Whether an option takes a list.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn unknown(given: &str, command: &Command, path: &[String]) -> CliError {
    let key = given.trim_start_matches('-').replace('-', "_");
    let hint = match nearest_key(&key, command) {
        Some(known) => format!("did you mean --{}?", known.replace('_', "-")),
        None => format!("unbraid {} --help lists the options", path.join(" ")),
    };
    CliError::UnknownOption {
        given: given.into(),
        command: path.join(" "),
        hint,
    }
}

/// The option of a command that is nearest to `key`, in snake_case.
pub(super) fn nearest_key(key: &str, command: &Command) -> Option<String> {
    let visible = command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some() && !arg.is_hide_set());
    nearest(key, visible.map(|arg| arg.get_id().as_str()))
}

/// The most similar name, if any is similar at all.
fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}
