//! Help texts, compared with `tests/fixtures/help`. After a wanted change: `UPDATE_HELP=1 cargo test -p unbraid --test cli_help`.

use std::path::Path;

use unbraid::cli::{CliError, parse};

fn shown(words: &[&str]) -> String {
    match parse(["unbraid"].iter().chain(words).map(Into::into)) {
        Err(error @ CliError::Show(_)) => {
            assert_eq!(error.exit_code(), 0);
            error.to_string()
        }
        other => panic!("{words:?} shows no text: {other:?}"),
    }
}

#[test]
fn help_is_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/help");
    let commands = [
        "",
        "train",
        "sft",
        "score",
        "diagnose",
        "generate",
        "merge",
        "inspect",
        "objectives",
        "plan",
        "report",
        "theory",
        "data sentiment",
        "reproduce sentiment",
        "reproduce objectives",
        "demo",
    ];
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let text = shown(&words);
        let file = folder.join(format!(
            "{}.txt",
            if command.is_empty() {
                "unbraid"
            } else {
                command
            }
        ));
        if std::env::var_os("UPDATE_HELP").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let recorded = std::fs::read_to_string(&file).unwrap_or_default();
        // Lines break at the terminal's width, so words are compared, not lines.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&text), words(&recorded), "{}", file.display());
    }
}

#[test]
fn help_is_found_in_every_usual_way() {
    assert_eq!(shown(&["train", "-h"]), shown(&["help", "train"]));
    assert_eq!(
        shown(&["train", "--bf16", "--help"]),
        shown(&["train", "--help"])
    );
    assert_eq!(shown(&["help"]), shown(&["--help"]));
    assert_eq!(
        shown(&["--version"]),
        concat!("unbraid ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn help_lists_nothing_that_is_not_built() {
    let train = shown(&["train", "--help"]);
    for (option, built) in [
        ("--gram-every", true),
        ("--update-every", true),
        ("--use-peft", true),
        ("--remedy", true),
        ("--learning-rate", true),
        ("--geometry", true),
    ] {
        // Remove a line here when its option is built.
        assert_eq!(train.contains(option), built, "{option}");
    }
}
