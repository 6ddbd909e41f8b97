//! The page of one experiment: what was run, claims, figures, arms judged.

use std::path::{Path, PathBuf};

use super::results::{Finding, Results, Subject};
use super::{cases, claims, curves, directions, judged, tokens};
use crate::error::Result;
use crate::page::{self, Extras, Page, escape, push};
use crate::run_page::tile;
use crate::write::write_atomically;

/// Writes `report.html` into an experiment's directory and gives its path.
///
/// Reads `results.json` as `unbraid reproduce` writes it after each arm, and the token heat maps that it names. An
/// experiment that goes on makes a page of what is there; what is missing is left out. The file is replaced atomically; the
/// same files give the same bytes.
///
/// # Errors
/// [`ReportError::NotAnExperiment`](crate::ReportError::NotAnExperiment) without `results.json`,
/// [`ReportError::DamagedResults`](crate::ReportError::DamagedResults) when it cannot be understood,
/// [`ReportError::Io`](crate::ReportError::Io) when reading or writing fails.
pub fn write_experiment_report(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write_atomically(&path, &whole(dir)?.render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn whole(dir: &Path) -> Result<Page> {
    let of = &Results::read(dir)?;
    let mut notes = Vec::new();
    if of.arms.is_empty() {
        notes.push("no arm has finished yet: there is nothing to draw".to_string());
    }
    let maps = tokens::figures(of, dir, &mut notes);
    let mut extras = Extras::default();
    let tabbed = maps.iter().map(|figure| figure.id.clone());
    extras.tabs.extend(tabbed.chain(["remedies".to_string()]));
    let cosines = judged::cosines(of);
    let cosines = cosines.map(|html| ("gradients".to_string(), html));
    extras.below.extend(cosines);
    extras.later.extend(judged::figures(of));
    extras.later.extend(curves::remedies(of));
    let mut figures = curves::figures(of);
    figures.extend(maps);
    figures.extend(cases::figure(of));
    figures.extend(directions::figure(of));
    Ok(Page {
        title: title(of.subject()).into(),
        kicker: "Experiment of the paper, run again".into(),
        facts: facts(of),
        stem: match of.subject() {
            Subject::Sentiment => "sentiment".into(),
            Subject::Objectives => "objectives".into(),
        },
        opening_html: opening(of) + &claims::table(&of.claims) + &page::notes(&notes),
        figures,
        sections: judged::section(of).into_iter().collect(),
        sheets_html: String::new(),
        extras,
    })
}

fn title(subject: Subject) -> &'static str {
    match subject {
        Subject::Sentiment => "Sentiment: four sentence styles",
        Subject::Objectives => "Objectives: margin losses on the same pairs",
    }
}

/// Model, size, machine.
fn facts(of: &Results) -> String {
    let size = of
        .parameters
        .map(|count| format!("{} parameters", grouped(count)));
    let version = of
        .version
        .as_ref()
        .map(|version| format!("Unbraid {version}"));
    let parts = [of.model.clone(), size, of.machine.clone(), version];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn opening(of: &Results) -> String {
    // A claim that fails is a finding, nothing to be alarmed at.
    let holds = Finding::Holds.count(&of.claims);
    let mood = match of.claims.len() {
        0 => "still",
        all if all == holds => "good",
        _ => "entangled",
    };
    let sentence = match of.claims.is_empty() {
        true => "No claim has been judged yet.".to_string(),
        false => claims::counted(&of.claims),
    };
    let mut html = format!(
        "<section class=\"verdict {mood}\" aria-label=\"Verdict\"><p class=\"sentence\">{sentence}</p>\n<p class=\"basis\">{}</p></section>\n",
        escape(&story(of))
    );
    html += &tiles(of);
    let lists = [
        ("Departures from the authors’ recipe", &of.deviations),
        ("Facts", &of.facts),
    ];
    for (heading, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
        push(
            &mut html,
            format_args!("<section class=\"notes\"><h2>{heading}</h2><ul>"),
        );
        let items = items.iter();
        items.for_each(|item| push(&mut html, format_args!("<li>{}</li>", with_code(item))));
        html += "</ul></section>\n";
    }
    html
}

/// Text whose `code` stands between backticks, as markup.
fn with_code(text: &str) -> String {
    let pieces: Vec<&str> = text.split('`').collect();
    if pieces.len().is_multiple_of(2) {
        return escape(text);
    }
    let pieces = pieces.into_iter().enumerate();
    let marked = pieces.map(|(at, piece)| match at % 2 {
        0 => escape(piece),
        _ => format!("<code>{}</code>", escape(piece)),
    });
    marked.collect()
}

/// What was run, in plain sentences.
fn story(of: &Results) -> String {
    let paper = "“A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement” (arXiv 2410.13828)";
    let what = match of.subject() {
        Subject::Sentiment => format!(
            "The sentiment experiment of {paper}, §4.2: a model learns to prefer the true label of a tweet to the false one, in \
             sentences that differ by one word and share more or fewer words behind it."
        ),
        Subject::Objectives => format!(
            "The comparison of objectives of {paper}, §3.3: the same model is trained on the same preference pairs with each \
             margin-based objective."
        ),
    };
    let model = of.model.as_deref().unwrap_or("The model");
    let remedied = of.arms.iter().filter(|arm| !arm.is_plain()).count();
    let groups = of.groups();
    let plural = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        more => format!("{more} {one}s"),
    };
    let trained = match (groups.len(), remedied) {
        (0, _) => format!("{model} has not been trained yet."),
        (count, 0) => format!(
            "{model} was trained on {}.",
            plural(count, of.subject().group())
        ),
        (count, more) => format!(
            "{model} was trained on {}, and {} with a remedy or token mask.",
            plural(count, of.subject().group()),
            plural(more, "more time")
        ),
    };
    let seeds = seeds(of);
    let seeds = match &seeds[..] {
        [] => String::new(),
        [only] => {
            format!(" Every arm ran once, with seed {only}: intervals are over held-out pairs.")
        }
        many => format!(" Arms ran with the seeds {}.", joined(many)),
    };
    format!("{what} {trained}{seeds} The figures show pairs that were held out.").replace(
        "trained on",
        match of.subject() {
            Subject::Sentiment => "trained on",
            Subject::Objectives => "trained with",
        },
    )
}

/// All seeds in rising order.
fn seeds(of: &Results) -> Vec<u64> {
    let runs = of.arms.iter().flat_map(|arm| &arm.runs);
    let mut seeds: Vec<u64> = runs.map(|run| run.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

fn joined(numbers: &[u64]) -> String {
    let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

fn tiles(of: &Results) -> String {
    let runs: Vec<_> = of.arms.iter().flat_map(|arm| &arm.runs).collect();
    let mut html = String::from("<dl class=\"tiles\">\n");
    let names = ["Claims that hold", "Claims that do not", "Unclear"];
    for (finding, name) in Finding::ALL.into_iter().zip(names) {
        let count = finding.count(&of.claims);
        html += &tile(name, &count.to_string(), &format!("of {}", of.claims.len()));
    }
    let seconds: f64 = runs.iter().filter_map(|run| run.seconds).sum();
    let time = if seconds > 0.0 {
        spent(seconds)
    } else {
        String::new()
    };
    html += &tile("Training runs", &runs.len().to_string(), &time);
    html + "</dl>\n"
}

/// Seconds as a reader says them.
fn spent(seconds: f64) -> String {
    let minutes = seconds / 60.0;
    match minutes {
        _ if seconds < 100.0 => format!("{seconds:.0} seconds altogether"),
        _ if minutes < 100.0 => format!("{minutes:.0} minutes altogether"),
        _ => format!("{:.1} hours altogether", minutes / 60.0),
    }
}

/// Digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
