//! The book in `docs/src` and the README: links, images, chapters, command lines, formulas, and the map from equations to
//! functions and tests. `mdbook build docs` checks none of these.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use unbraid::cli::{CliError, parse};
use unbraid_objective::{Objective, describe};

/// Everything that is not as it should be, so that one run of the test names all of it.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files below a directory, as paths from it with `/`, sorted.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let path = path.strip_prefix(dir).unwrap();
                found.push(path.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// A Markdown file.
struct Page {
    /// From `docs/src`, or from the repository's root for the README.
    name: String,
    /// Where its relative links start.
    base: PathBuf,
    text: String,
}

fn chapters() -> Vec<Page> {
    let base = root().join("docs/src");
    let names = files(&base).into_iter().filter(|f| f.ends_with(".md"));
    names
        .map(|name| {
            let path = base.join(&name);
            Page {
                text: read(&path),
                base: path.parent().unwrap().to_owned(),
                name,
            }
        })
        .collect()
}

fn readme() -> Page {
    Page {
        name: "README.md".into(),
        base: root(),
        text: read(&root().join("README.md")),
    }
}

impl Page {
    /// (language, lines) of each fenced block.
    fn blocks(&self) -> Vec<(&str, Vec<&str>)> {
        let mut blocks = Vec::new();
        let mut inside = false;
        for line in self.text.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                inside = !inside;
                if inside {
                    blocks.push((language.trim(), Vec::new()));
                }
            } else if inside {
                blocks.last_mut().unwrap().1.push(line);
            }
        }
        assert!(!inside, "{}: a block is not closed", self.name);
        blocks
    }

    /// Lines outside fenced and indented blocks.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut inside = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence && !line.starts_with("    ")
        })
    }

    /// Targets of links and images.
    fn links(&self) -> Vec<String> {
        let mut found = Vec::new();
        for line in self.prose() {
            let text = without_code(line);
            for (at, _) in text.match_indices("](") {
                let target = &text[at + 2..];
                let end = target.find(')').expect("a link is closed on its line");
                found.push(target[..end].to_owned());
            }
        }
        found
    }

    /// Code spans of the prose.
    fn spans(&self) -> Vec<&str> {
        self.prose().flat_map(spans).collect()
    }

    /// Anchors as mdBook derives them from headings.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter_map(|line| {
            let title = line.trim_start_matches('#');
            (title.len() < line.len()).then_some(title.trim())
        });
        let kept = |c: char| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        };
        headings
            .map(|title| title.chars().filter_map(kept).collect())
            .collect()
    }
}

/// What stands between backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[test]
fn links_and_images_resolve_inside_the_book() {
    let mut faults = Faults::default();
    let book = root().join("docs/src").canonicalize().unwrap();
    for page in chapters() {
        for link in page.links() {
            if link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => page.base.join(&page.name),
                path => page.base.join(path),
            };
            // Outside docs/src there is a file in the repository, and none in the book.
            let there = target.canonicalize().is_ok_and(|p| p.starts_with(&book));
            faults.check(there, || {
                format!("{}: {link} is no file of the book", page.name)
            });
            if there && !anchor.is_empty() {
                let to = Page {
                    text: read(&target),
                    name: link.clone(),
                    base: PathBuf::new(),
                };
                faults.check(to.anchors().contains(anchor), || {
                    format!("{}: {link} has no such heading", page.name)
                });
            }
        }
    }
    let page = readme();
    for link in page.links() {
        let outside = link.starts_with("https://");
        faults.check(outside || page.base.join(&link).exists(), || {
            format!("README.md: {link} does not exist")
        });
    }
    faults.none();
}

#[test]
fn the_summary_lists_every_chapter_and_every_figure_is_used() {
    let mut faults = Faults::default();
    let chapters = chapters();
    let summary = chapters.iter().find(|p| p.name == "SUMMARY.md").unwrap();
    let listed: BTreeSet<String> = summary.links().into_iter().collect();
    let there = chapters.iter().filter(|p| p.name != "SUMMARY.md");
    let there: BTreeSet<String> = there.map(|p| p.name.clone()).collect();
    assert_eq!(listed, there);

    let used: BTreeSet<String> = chapters.iter().flat_map(Page::links).collect();
    for file in files(&root().join("docs/src")) {
        if !file.ends_with(".md") {
            faults.check(used.contains(&file), || format!("{file} is in no chapter"));
        }
    }
    // A figure is a real run's: its caption names the command.
    for page in &chapters {
        let lines: Vec<&str> = page.text.lines().collect();
        for (i, _) in lines
            .iter()
            .enumerate()
            .filter(|(_, l)| l.starts_with("!["))
        {
            let caption = lines[i + 1..].iter().skip_while(|l| l.is_empty());
            let caption: Vec<&str> = caption.take_while(|l| !l.is_empty()).copied().collect();
            let caption = caption.join(" ");
            faults.check(
                caption.starts_with('*') && caption.contains("`unbraid "),
                || {
                    format!(
                        "{}: {} has no caption with its command",
                        page.name, lines[i]
                    )
                },
            );
        }
    }
    faults.none();
}

/// Commands of a shell block: continued lines joined, comments and lines with `…` left out.
fn commands(lines: &[&str]) -> Vec<String> {
    let mut joined = vec![String::new()];
    for line in lines {
        let current = joined.last_mut().unwrap();
        match line.trim_end().strip_suffix('\\') {
            Some(start) => current.push_str(start),
            None => {
                current.push_str(line);
                joined.push(String::new());
            }
        }
    }
    let code = |line: &String| {
        let comment = line.find(" #").unwrap_or(line.len());
        line[..comment].trim().to_owned()
    };
    let joined = joined.iter().map(code);
    joined
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.contains('…'))
        .collect()
}

/// Words of a command line up to a pipe or a redirection; quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        let word = words.last_mut().unwrap();
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '|' | '>' | ';' | '&') => break,
            (None, c) if c.is_whitespace() => words.push(String::new()),
            (_, c) => word.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The words after the program's name, if it is unbraid; a recipe's path is made absolute.
fn arguments(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let cargo = ["cargo", "run", "--release", "--"];
    let skip = match words.first()?.as_str() {
        "unbraid" => 1,
        program if program.ends_with("/unbraid") => 1,
        _ if words.iter().zip(cargo).filter(|(a, b)| a == b).count() == cargo.len() => cargo.len(),
        _ => return None,
    };
    let absolute = |word: &String| {
        let path = root().join(word);
        if word.ends_with(".yaml") && path.exists() {
            path.to_str().unwrap().to_owned()
        } else {
            word.clone()
        }
    };
    Some(words[skip..].iter().map(absolute).collect())
}

#[test]
fn lines_become_words_by_hand() {
    let block = [
        "unbraid train --a \\",
        "    'b c'   # comment",
        "unbraid train … --x",
        "# nothing",
        "python x.py",
        "target/release/unbraid demo | head > x",
    ];
    let lines = commands(&block);
    let found: Vec<_> = lines.iter().filter_map(|line| arguments(line)).collect();
    assert_eq!(found, [vec!["train", "--a", "b c"], vec!["demo"]]);
    assert_eq!(arguments("cargo run --release -- demo").unwrap(), ["demo"]);
    assert_eq!(arguments("cargo test --workspace --locked"), None);
}

#[test]
fn every_command_line_parses() {
    let mut faults = Faults::default();
    let mut seen = 0;
    for page in chapters().into_iter().chain([readme()]) {
        for (language, lines) in page.blocks() {
            if language != "sh" {
                continue;
            }
            for line in commands(&lines) {
                let Some(arguments) = arguments(&line) else {
                    continue;
                };
                seen += 1;
                let given = std::iter::once("unbraid".to_owned()).chain(arguments);
                match parse(given.map(Into::into)) {
                    Ok(_) | Err(CliError::Show(_)) => {}
                    Err(error) => faults.0.push(format!("{}: {line}\n    {error}", page.name)),
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} command lines were found");
    faults.none();
}

#[test]
fn formulas_are_plain_text_and_paths_exist() {
    let mut faults = Faults::default();
    for page in chapters().into_iter().chain([readme()]) {
        for mark in ["$$", "\\(", "\\[", "\\frac", "\\nabla", "\\sigma"] {
            faults.check(!page.text.contains(mark), || {
                format!(
                    "{}: {mark} is TeX; formulas are written in Unicode",
                    page.name
                )
            });
        }
        for span in page.spans() {
            let ours = ["crates/", "docs/", "bench/", "parity/", "demo/", "recipes/"];
            let path =
                ours.iter().any(|start| span.starts_with(start)) && !span.contains(['*', ' ', '<']);
            // What a reader makes there is not in the repository.
            let made = span.starts_with("bench/venv");
            faults.check(!path || made || root().join(span).exists(), || {
                format!("{}: {span} does not exist", page.name)
            });
        }
    }
    faults.none();
}

/// Cells of the rows below a table's header.
fn table<'a>(page: &'a Page, header: &str) -> Vec<Vec<&'a str>> {
    let rows = page.text.lines().skip_while(|line| *line != header).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        // `\|` is a bar inside a cell.
        let mut cells = vec![];
        let mut start = 1;
        for (at, _) in row.match_indices('|').skip(1) {
            if !row[..at].ends_with('\\') {
                cells.push(row[start..at].trim());
                start = at + 1;
            }
        }
        cells
    })
    .collect()
}

/// Whether Rust source defines a function, type, trait or constant of this name.
fn defines(source: &str, name: &str) -> bool {
    let kinds = ["fn", "struct", "enum", "trait", "const", "static", "type"];
    kinds.iter().any(|kind| {
        let start = format!("{kind} {name}");
        source.match_indices(&start).any(|(at, _)| {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            !source[at + start.len()..].starts_with(word) && !source[..at].ends_with(word)
        })
    })
}

#[test]
fn the_map_points_to_functions_and_tests_that_exist() {
    let mut faults = Faults::default();
    let chapters = chapters();
    let page = chapters.iter().find(|p| p.name == "mathematics.md");
    let rows = table(page.unwrap(), "| what | function | test |");
    assert!(rows.len() > 25, "{} rows were found", rows.len());
    for row in rows {
        let [what, function, test] = row[..] else {
            faults.0.push(format!("not three cells: {row:?}"));
            continue;
        };
        for (kind, cell) in [("function", function), ("test", test)] {
            let mut source: Option<(&str, String)> = None;
            let mut names = 0;
            for span in spans(cell) {
                if span.contains('/') {
                    let text = fs::read_to_string(root().join(span)).unwrap_or_default();
                    faults.check(!text.is_empty(), || format!("{what}: no file {span}"));
                    source = Some((span, text));
                    names = 0;
                    continue;
                }
                names += 1;
                let known = source.as_ref().is_some_and(|(_, text)| defines(text, span));
                faults.check(known, || {
                    let path = source.as_ref().map_or("a path", |(path, _)| path);
                    format!("{what}: {kind} {span} is not in {path}")
                });
            }
            faults.check(names > 0, || format!("{what}: no {kind} is named"));
        }
    }
    faults.none();
}

#[test]
fn definitions_are_whole_words() {
    let source = "pub fn band(gram: Gram) {}\nstruct Case;\nfn evaluate<B: Backend>() {}";
    assert!(
        ["band", "Case", "evaluate"]
            .iter()
            .all(|name| defines(source, name))
    );
    assert!(
        ["ban", "gram", "Cas", "eval"]
            .iter()
            .all(|name| !defines(source, name))
    );
}

/// Every objective has its row, with the formulas of its description.
#[test]
fn objectives_are_described_as_they_are() {
    let mut faults = Faults::default();
    let chapters = chapters();
    let page = chapters.iter().find(|p| p.name == "objectives.md").unwrap();
    for name in Objective::all_names() {
        let about = describe(name).unwrap();
        let start = format!("| `{}` | `{}` | `{}` |", about.name, about.d_w, about.d_l);
        let found = page.text.lines().any(|line| line.starts_with(&start));
        faults.check(found, || format!("no row begins with {start}"));
    }
    faults.none();
}

/// The sentences of the sentiment experiment.
#[test]
fn the_styles_are_those_of_the_book() {
    let chapters = chapters();
    let page = chapters.iter().find(|p| p.name == "sentiment.md").unwrap();
    for style in unbraid_reproduce::Style::ALL {
        let [chosen, rejected] = [true, false].map(|positive| style.completion(positive));
        let row = format!(
            "| `{style}` | `{}` | `{}` |",
            chosen.trim(),
            rejected.trim()
        );
        assert!(page.text.contains(&row), "{row}");
    }
}
