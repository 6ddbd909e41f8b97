//! From words and a recipe to one checked configuration.
//!
//! A setting on the command line replaces the recipe's of the same key; both go, as `--key=value`, through one clap
//! parse, whose defaults are the third source. Each value is first tried alone, so that a wrong one is reported with the
//! file and line that it came from. Tested in `tests/cli_recipe.rs` and `tests/cli_options.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::builder::ArgPredicate;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _};

use super::Parsed;
use super::argv::{self, Words};
use super::check;
use super::commands::{Cli, NO_DATA, NO_MODEL, SHOWN_IN_PLAN};
use super::compat::{self, Rule};
use super::error::{CliError, Place};
use super::mixture;
use super::recipe::{self, Setting, Value};
use crate::redact;

/// Commands that take a recipe.
const RECIPE_COMMANDS: &[&str] = &["train", "sft", "diagnose", "plan"];

/// Key of `run.yaml` under which a run records versions and fingerprints; skipped when the file is used as a recipe.
const RUN_RECORD: &str = "unbraid";

/// Options that a recipe may give as a mapping.
const MAPPINGS: &[&str] = &["lr_scheduler_kwargs", "optim_args"];

/// The clap definition of the whole command line, as the rest of this module needs it.
pub(super) fn definition() -> clap::Command {
    let root = Cli::command().max_term_width(100);
    let names: Vec<String> = root
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    names.iter().fold(root, |root, name| {
        root.mut_subcommand(name, |command| complete(command, name))
    })
}

/// What the derived definition of one command lacks.
fn complete(command: clap::Command, name: &str) -> clap::Command {
    if command.has_subcommands() {
        let nested: Vec<String> = command
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        return nested.iter().fold(command, |command, nested| {
            command.mut_subcommand(nested, |c| complete(c, &format!("{name} {nested}")))
        });
    }
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::HelpShort)
        .help("Print help");
    let command = command
        .mut_args(|arg| present(arg, name))
        .disable_help_flag(true)
        .arg(help.help_heading(None::<&str>));
    let command = match name {
        "sft" => command.mut_arg("learning_rate", |arg| arg.default_value("2e-5")),
        "reproduce sentiment" => {
            command.mut_arg("output_dir", |arg| arg.default_value("unbraid-sentiment"))
        }
        "reproduce objectives" => {
            command.mut_arg("output_dir", |arg| arg.default_value("unbraid-objectives"))
        }
        "diagnose" => command.mut_arg("model_name_or_path", |arg| {
            // A series of checkpoints names its models itself.
            arg.required(false)
                .required_unless_present("checkpoints")
                .default_value_if("checkpoints", ArgPredicate::IsPresent, NO_MODEL)
        }),
        // Nothing is written, and lengths may be given in a data set's place.
        "plan" => command
            .mut_arg("output_dir", |arg| arg.required(false).default_value("."))
            .mut_arg("json", |arg| {
                arg.help("Print the plan as JSON on stdout: memory, work and times, and what would spare memory")
            })
            .mut_arg("dataset_name", |arg| {
                arg.required(false)
                    .default_value(NO_DATA)
                    .hide_default_value(true)
            }),
        _ => command,
    };
    if !RECIPE_COMMANDS.contains(&name) {
        return command;
    }
    command
        .args(recipe_args())
        .override_usage(format!("unbraid {name} [RECIPE.yaml] [OPTIONS]"))
        .after_help(format!(
            "Needed, here or in the recipe: {}.\n\
             Options may be spelled as in TRL (--learning_rate 1e-6, --bf16 True). Options of TRL and\n\
             transformers that have no effect here are accepted and named in a note.",
            needed(name)
        ))
}

/// What a command with a recipe must be given.
fn needed(name: &str) -> &'static str {
    match name {
        "plan" => "--model-name-or-path (--model), and --dataset-name (--dataset) or --pairs",
        _ => "--model-name-or-path, --dataset-name, --output-dir",
    }
}

/// Where the recipe is named. Its value never reaches the configuration.
fn recipe_args() -> [Arg; 2] {
    let positional = Arg::new("recipe")
        .value_name("RECIPE.yaml")
        .help_heading(None::<&str>);
    [
        positional.help("YAML file of the options below, in snake_case; an option given here replaces the recipe's"),
        Arg::new("config").long("config").value_name("RECIPE.yaml").hide(true),
    ]
}

/// How an option looks in the help text.
fn present(arg: Arg, command: &str) -> Arg {
    let arg = if argv::is_flag(&arg) {
        arg.num_args(0..=1)
            .value_name("BOOL")
            .hide_default_value(true)
            .hide_possible_values(true)
    } else {
        arg
    };
    let lora_hidden = matches!(compat::rule(command, "use_peft"), Some(Rule::NotYet(_)))
        && arg.get_help_heading() == Some("LoRA");
    match compat::rule(command, arg.get_id().as_str()) {
        _ if lora_hidden => arg.hide(true),
        _ if command == "plan" && !SHOWN_IN_PLAN.contains(&arg.get_id().as_str()) => arg.hide(true),
        None => arg,
        Some(Rule::NotYet(allowed)) if allowed.len() > 1 => {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let built: Vec<_> = arg
                .get_possible_values()
                .iter()
                .map(|value| value.get_name().to_owned())
                .filter(|value| allowed.contains(&value.as_str()))
                .collect();
            arg.help(format!("{help} [possible values: {}]", built.join(", ")))
                .hide_possible_values(true)
        }
        Some(_) => arg.hide(true),
    }
}

/// A setting that clap will read.
struct Assignment {
    key: String,
    values: Vec<String>,
    list: bool,
}

/// Resolves a command line that was taken apart.
///
/// # Errors
/// Everything in [`CliError`] but help.
pub(super) fn resolve(mut words: Words, root: &clap::Command) -> Result<Parsed, CliError> {
    let name = words.path.join(" ");
    let leaf = words.path.iter().fold(root, |command, name| {
        command
            .find_subcommand(name)
            .expect("the path was found in this definition")
    });
    let recipe = take_recipe(&mut words, &name)?;
    let mut settings = match &recipe {
        Some(file) => from_recipe(file, &words.settings, leaf)?,
        None => Vec::new(),
    };
    once(&words.settings, leaf)?;
    settings.append(&mut words.settings);
    compat::group_by_length(&mut settings)?;
    compat::old_names(&mut settings)?;
    let mixed = match RECIPE_COMMANDS.contains(&name.as_str()) {
        true => mixture::gather(&mut settings)?,
        false => Vec::new(),
    };

    let mut ignored = BTreeSet::new();
    let mut told = Vec::new();
    let mut assignments: Vec<Assignment> = Vec::new();
    let lone = leaf.clone().mut_args(|arg| arg.required(false));
    for setting in settings {
        let Some(new) = classify(&setting, &name, leaf, (&mut ignored, &mut told))? else {
            continue;
        };
        try_alone(&lone, &name, &new, &setting.place)?;
        match assignments
            .iter_mut()
            .find(|earlier| earlier.key == new.key)
        {
            Some(earlier) if new.list => earlier.values.extend(new.values),
            Some(earlier) => *earlier = new,
            None => assignments.push(new),
        }
    }
    let options = assignments.iter().flat_map(Assignment::words);
    let line = ["unbraid".to_owned()]
        .into_iter()
        .chain(words.path)
        .chain(options);
    let line = line.chain(["--".to_owned()]).chain(words.positionals);
    let parsed = root
        .clone()
        .try_get_matches_from(line)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let command = parsed
        .map_err(|error| whole_line(&error, leaf, &name))?
        .command;

    let mut notes = Vec::new();
    if !ignored.is_empty() {
        let keys: Vec<_> = ignored.into_iter().collect();
        notes.push(format!("accepted without effect here: {}", keys.join(", ")));
    }
    notes.append(&mut told);
    notes.extend(mixed);
    notes.append(&mut check::check(&command)?);
    Ok(Parsed { command, notes })
}

impl Assignment {
    /// As `--kebab-case=value`, one word for each value.
    fn words(&self) -> impl Iterator<Item = String> {
        let option = self.key.replace('_', "-");
        self.values
            .iter()
            .map(move |value| format!("--{option}={value}"))
    }
}

/// The recipe's path: the argument that is not an option, or `--config`, TRL's way.
fn take_recipe(words: &mut Words, name: &str) -> Result<Option<PathBuf>, CliError> {
    if !RECIPE_COMMANDS.contains(&name) {
        return Ok(None);
    }
    let mut given = std::mem::take(&mut words.positionals);
    words.settings.retain(|setting| match &setting.value {
        Value::One(file) if setting.key == "config" => {
            given.push(file.clone());
            false
        }
        _ => true,
    });
    match given.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some(file.into())),
        [_, second, ..] => Err(CliError::Unexpected {
            given: second.clone(),
            hint: format!("unbraid {name} takes one recipe; options start with --"),
        }),
    }
}

/// The recipe's settings, less those that the command line gives too.
fn from_recipe(
    file: &Path,
    given: &[Setting],
    leaf: &clap::Command,
) -> Result<Vec<Setting>, CliError> {
    let mut settings: Vec<Setting> = Vec::new();
    for mut setting in recipe::read(file)? {
        setting.key = compat::canonical(leaf.get_name(), &setting.key).to_owned();
        let known = argv::find(leaf, &setting.key).is_some_and(|arg| arg.get_id() != "config");
        if !known
            && setting.key != RUN_RECORD
            && compat::rule(leaf.get_name(), &setting.key).is_none()
        {
            let foreign = compat::of_another_trainer(&setting.key);
            let hint = foreign.unwrap_or_else(|| match argv::nearest_key(&setting.key, leaf) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("unbraid {} --help lists the options", leaf.get_name()),
            });
            return Err(CliError::UnknownKey {
                place: setting.place,
                key: setting.key,
                hint,
            });
        }
        // Two spellings of one key (`torch_dtype`, `dtype`); the one that says nothing gives way.
        let spelled = settings
            .iter()
            .position(|earlier| earlier.key == setting.key);
        match spelled.map(|at| (at, &settings[at].value, &setting.value)) {
            Some((_, _, Value::Null)) => continue,
            Some((at, Value::Null, _)) => {
                settings.remove(at);
            }
            _ => {}
        }
        if let Some(earlier) = settings.iter().find(|earlier| earlier.key == setting.key) {
            let first = match earlier.place {
                Place::Recipe { line, .. } => line,
                Place::CommandLine => 0,
            };
            return Err(CliError::DuplicateKey {
                place: setting.place,
                key: setting.key,
                first,
            });
        }
        settings.push(setting);
    }
    settings.retain(|setting| {
        setting.key != RUN_RECORD && given.iter().all(|other| other.key != setting.key)
    });
    Ok(settings)
}

/// Applies the compatibility table and gives what is left for clap.
fn classify(
    setting: &Setting,
    name: &str,
    leaf: &clap::Command,
    (ignored, told): (&mut BTreeSet<String>, &mut Vec<String>),
) -> Result<Option<Assignment>, CliError> {
    let Setting { key, value, place } = setting;
    let option = argv::find(leaf, key);
    let refused = |value: &str, reason: &str| CliError::InvalidValue {
        place: place.clone(),
        name: place.spell(key),
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    let rule = compat::rule(name, key);
    if let Some(Rule::Told(instead)) = rule {
        if !compat::asks_nothing(key, value) {
            told.push(format!("{key}: {instead}"));
        }
        return Ok(None);
    }
    let (values, was_list) = match value {
        // TRL's "no truncation"; elsewhere null is the default.
        Value::Null if key == "max_length" => (vec!["none".to_owned()], false),
        Value::Null => return Ok(None),
        _ if rule == Some(Rule::Ignored) => {
            if !compat::asks_nothing(key, value) {
                ignored.insert(key.clone());
            }
            return Ok(None);
        }
        Value::One(value) => (vec![value.clone()], false),
        Value::List(values) if values.is_empty() => return Ok(None),
        Value::List(values) => (values.clone(), true),
        Value::Mapping(pairs) if pairs.is_empty() => return Ok(None),
        Value::Mapping(pairs) if rule.is_none() && MAPPINGS.contains(&key.as_str()) => {
            let pairs = pairs.iter().map(|(k, v)| (k.clone(), v.as_str().into()));
            let json: serde_json::Map<String, serde_json::Value> = pairs.collect();
            (vec![serde_json::Value::Object(json).to_string()], false)
        }
        Value::Mapping(_) | Value::Nested | Value::Tree(_) if rule.is_some() => {
            (vec!["{…}".to_owned()], false)
        }
        Value::Mapping(_) | Value::Nested | Value::Tree(_) => {
            return Err(refused("{…}", "expected a plain value or a list of them"));
        }
    };
    let flag = match (option, rule) {
        (Some(option), _) => argv::is_flag(option),
        (None, Some(Rule::NotYet(allowed) | Rule::Refused(allowed, ..))) => {
            allowed.contains(&"true") || allowed.contains(&"false")
        }
        (None, _) => false,
    };
    let values: Vec<String> = values
        .into_iter()
        .map(|value| if flag { boolean(value) } else { value })
        .collect();
    if let Some(Rule::NotYet(allowed)) = rule
        && let Some(value) = values.iter().find(|value| !compat::allows(allowed, value))
    {
        return Err(CliError::NotSupportedYet {
            place: place.clone(),
            name: place.spell(key),
            value: value.clone(),
            hint: match allowed {
                [] => format!("leave {} out", place.spell(key)),
                _ => format!("what works: {}", allowed.join(", ")),
            },
        });
    }
    if let Some(Rule::Refused(allowed, reason, hint)) = rule
        && let Some(value) = values.iter().find(|value| !compat::allows(allowed, value))
    {
        return Err(CliError::Refused {
            place: place.clone(),
            name: place.spell(key),
            value: value.clone(),
            reason,
            hint,
        });
    }
    let Some(option) = option else {
        return Ok(None);
    };
    let list = argv::is_list(option);
    if was_list && !list {
        return Err(refused(
            &values.join(", "),
            "expected one value, found a list",
        ));
    }
    Ok(Some(Assignment {
        key: key.clone(),
        values,
        list,
    }))
}

/// Refuses an option of one value that is given twice, in whatever spelling.
fn once(given: &[Setting], leaf: &clap::Command) -> Result<(), CliError> {
    let words = |value: &Value| match value {
        Value::One(word) => word.clone(),
        Value::List(words) => words.join(" "),
        _ => String::new(),
    };
    for (i, setting) in given.iter().enumerate() {
        if argv::find(leaf, &setting.key).is_some_and(argv::is_list) {
            continue;
        }
        if let Some(first) = given[..i].iter().find(|earlier| earlier.key == setting.key) {
            let (mut first, mut second) = (words(&first.value), words(&setting.value));
            if redact::is_secret(&setting.key) {
                (first, second) = (redact::MASK.to_owned(), redact::MASK.to_owned());
            }
            return Err(CliError::GivenTwice {
                name: setting.place.spell(&setting.key),
                first,
                second,
            });
        }
    }
    Ok(())
}

/// Words for true and false that YAML and Python's argument parsers know.
fn boolean(value: String) -> String {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => "true".into(),
        "false" | "no" | "off" | "0" => "false".into(),
        _ => value,
    }
}

/// Tries one option's values, so that a wrong one is reported with its place.
fn try_alone(
    leaf: &clap::Command,
    name: &str,
    assignment: &Assignment,
    place: &Place,
) -> Result<(), CliError> {
    let line = [name.to_owned()].into_iter().chain(assignment.words());
    let error = match leaf.clone().try_get_matches_from(line) {
        // What a whole line needs, one option does not have.
        Err(error) if error.kind() != ErrorKind::MissingRequiredArgument => error,
        _ => return Ok(()),
    };
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => assignment.values.join(", "),
    };
    let reason = match (
        error.get(ContextKind::ValidValue),
        std::error::Error::source(&error),
    ) {
        (Some(ContextValue::Strings(valid)), _) => {
            let built = match compat::rule(name, &assignment.key) {
                Some(Rule::NotYet(allowed)) => valid
                    .iter()
                    .filter(|valid| allowed.contains(&valid.as_str()))
                    .collect(),
                _ => Vec::from_iter(valid),
            };
            format!(
                "expected one of {}",
                built
                    .into_iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        (_, Some(source)) => source.to_string(),
        _ => first_line(&error),
    };
    Err(CliError::InvalidValue {
        place: place.clone(),
        name: place.spell(&assignment.key),
        value,
        reason,
    })
}

/// What clap says of the line as a whole: something is missing, or there is a word too many.
fn whole_line(error: &clap::Error, leaf: &clap::Command, name: &str) -> CliError {
    let words = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(words)) => words.clone(),
        Some(ContextValue::String(word)) => vec![word.clone()],
        _ => Vec::new(),
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<_> = words
                .iter()
                .filter_map(|word| word.split(' ').next())
                .collect();
            let usage = if RECIPE_COMMANDS.contains(&name) {
                "give each as an option, or as a key of the recipe".to_owned()
            } else {
                leaf.clone()
                    .render_usage()
                    .to_string()
                    .replacen("Usage: ", "usage: unbraid ", 1)
            };
            CliError::Missing {
                what: missing.join(", "),
                hint: usage,
            }
        }
        ErrorKind::UnknownArgument => CliError::Unexpected {
            given: words.join(" "),
            hint: format!("options start with --; unbraid {name} --help lists them"),
        },
        _ => CliError::Unexpected {
            given: first_line(error),
            hint: format!("see unbraid {name} --help"),
        },
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
