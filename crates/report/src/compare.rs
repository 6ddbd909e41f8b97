//! One page that compares runs: verdicts side by side, a line per run in each figure (`compare_figures.rs`), and the
//! settings that differ.
//!
//! Runs are compared on one basis: held-out pairs when every run has two evaluations or more, training batches
//! otherwise. Whether the runs saw the same data is not checked here; the table of settings shows it when they did not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{ReportError, Result};
use crate::method::distinct_names;
use crate::page::{self, Page, escape, number, push};
use crate::record::RunRecord;
use crate::settings::quoted;
use crate::verdict::{Basis, Geometry, Trend, judge, percent};
use crate::write::write_atomically;

/// Writes one page that compares `runs` (output directories of `unbraid train`) and gives its path.
///
/// `out` is the file to write; when it is an existing directory, `comparison.html` in it. One run is allowed. The
/// file is replaced atomically; the same records in the same order give the same bytes. Runs of one name are labelled
/// by objective, remedy, mask and adapter, and those of one method stand together.
///
/// # Errors
/// [`ReportError::NoRuns`] for an empty list; otherwise as [`write_run_report`](crate::write_run_report), for the
/// first run that cannot be read.
pub fn write_comparison(runs: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let page = page(runs)?;
    let path = if out.is_dir() {
        out.join("comparison.html")
    } else {
        out.to_path_buf()
    };
    write_atomically(&path, &page.render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn page(runs: &[PathBuf]) -> Result<Page> {
    if runs.is_empty() {
        return Err(ReportError::NoRuns);
    }
    let records = runs
        .iter()
        .map(|dir| RunRecord::read(dir))
        .collect::<Result<Vec<_>>>()?;
    Ok(Comparison::new(records, command(runs)).page())
}

/// The command that compares `dirs`.
pub(crate) fn command(dirs: &[PathBuf]) -> String {
    let words = dirs.iter().map(|dir| quoted(&dir.to_string_lossy()));
    format!("unbraid report {}", words.collect::<Vec<_>>().join(" "))
}

/// Runs side by side.
pub(crate) struct Comparison {
    /// In the order of the page.
    pub(crate) runs: Vec<RunRecord>,
    /// Names, each different from the others.
    pub(crate) names: Vec<String>,
    /// What all are judged on.
    pub(crate) basis: Basis,
    /// The command that makes the page.
    pub(crate) command: String,
}

impl Comparison {
    fn new(mut runs: Vec<RunRecord>, command: String) -> Self {
        group(&mut runs);
        let held_out = runs.iter().all(|run| Basis::of(run) == Basis::HeldOut);
        let basis = if held_out {
            Basis::HeldOut
        } else {
            Basis::Training
        };
        let known = runs.iter().map(|run| {
            let dir = run.dir.display().to_string();
            (run.name(), run.method(), dir)
        });
        Self {
            names: distinct_names(&known.collect::<Vec<_>>()),
            basis,
            command,
            runs,
        }
    }

    fn page(&self) -> Page {
        let count = self.runs.len();
        let title = if count == 1 {
            self.names[0].clone()
        } else {
            format!("{count} runs compared")
        };
        let (figures, thinned) = self.figures();
        let mut notes: Vec<String> = self
            .runs
            .iter()
            .zip(&self.names)
            .flat_map(prefixed_notes)
            .collect();
        if thinned > 1 {
            notes.push(format!("of the longest run one in {thinned} logged steps is shown; its metrics.jsonl has all of them"));
        }
        Page {
            title,
            kicker: "Comparison of training runs".into(),
            facts: format!("figures show {}", self.label()),
            stem: "comparison".into(),
            opening_html: self.table_html() + &page::notes(&notes),
            figures,
            sections: Vec::new(),
            sheets_html: self.settings_html() + &self.commands_html(),
            extras: page::Extras::default(),
        }
    }

    fn table_html(&self) -> String {
        let mut html = format!(
            "<section class=\"sheet\"><h2>Outcome</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
             aria-label=\"Outcome of each run\"><table><caption>First → last, {}; gradients and cases are means over the \
             measured steps</caption><thead><tr>",
            self.label()
        );
        let heads = [
            "run",
            "steps",
            "chosen, nats",
            "rejected, nats",
            "reward margin",
            "accuracy",
            "cosine",
            "both fall",
        ];
        for head in heads {
            push(&mut html, format_args!("<th scope=\"col\">{head}</th>"));
        }
        html += "</tr></thead><tbody>";
        for (run, name) in self.runs.iter().zip(&self.names) {
            let trend =
                |key: &str, show: fn(f64) -> String| arrow(self.basis.trend(run, key), show);
            let geometry = Geometry::of(run);
            let cells = [
                run.last_step().to_string(),
                trend("logps/chosen", number),
                trend("logps/rejected", number),
                trend("rewards/margins", number),
                trend("rewards/accuracies", percent),
                geometry.cosine.map(number).unwrap_or_default(),
                geometry
                    .cases
                    .map(|cases| percent(cases[1]))
                    .unwrap_or_default(),
            ];
            let trained = run
                .method()
                .trained()
                .map(|words| format!("trains {words}"));
            let label = Some(run.method().label()).filter(|label| !label.is_empty());
            let method: Vec<String> = label.into_iter().chain(trained).collect();
            push(
                &mut html,
                format_args!(
                    "<tr><th scope=\"row\" class=\"text\">{}<div class=\"method\">{}</div></th>",
                    escape(name),
                    escape(&method.join(", "))
                ),
            );
            cells
                .iter()
                .for_each(|cell| push(&mut html, format_args!("<td>{}</td>", escape(cell))));
            html += "</tr>";
        }
        html += "</tbody></table></div><ul class=\"verdicts\">";
        for (run, name) in self.runs.iter().zip(&self.names) {
            let verdict = judge(run, self.basis).map(|verdict| verdict.sentence);
            let verdict =
                verdict.unwrap_or_else(|| "neither log-probs nor rewards were logged.".into());
            push(
                &mut html,
                format_args!("<li><b>{}</b>: {}</li>", escape(name), escape(&verdict)),
            );
        }
        html + "</ul></section>\n"
    }

    /// Settings whose value is not the same in all runs.
    fn settings_html(&self) -> String {
        let leaves: Vec<BTreeMap<String, String>> = self
            .runs
            .iter()
            .map(|run| run.settings.leaves().into_iter().collect())
            .collect();
        let mut keys: Vec<&String> = Vec::new();
        for key in leaves.iter().flat_map(BTreeMap::keys) {
            let first = leaves[0].get(key);
            if key != "command"
                && !keys.contains(&key)
                && leaves.iter().any(|run| run.get(key) != first)
            {
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return String::new();
        }
        keys.sort();
        let mut html = String::from(
            "<section class=\"sheet\"><h2>Settings that differ</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
             aria-label=\"Settings that differ\"><table><thead><tr><th scope=\"col\">setting</th>",
        );
        self.names.iter().for_each(|name| {
            push(
                &mut html,
                format_args!("<th scope=\"col\" class=\"text\">{}</th>", escape(name)),
            )
        });
        html += "</tr></thead><tbody>";
        for key in keys {
            push(
                &mut html,
                format_args!("<tr><th scope=\"row\">{}</th>", escape(key)),
            );
            for run in &leaves {
                let value = run.get(key).map_or("–", String::as_str);
                push(
                    &mut html,
                    format_args!("<td class=\"text\">{}</td>", escape(value)),
                );
            }
            html += "</tr>";
        }
        html + "</tbody></table></div></section>\n"
    }

    fn commands_html(&self) -> String {
        let lines = self.runs.iter().zip(&self.names).map(|(run, name)| {
            let command = run
                .command()
                .unwrap_or_else(|| "(not recorded)".to_string());
            format!("# {name}: {}\n{command}\n", run.dir.display())
        });
        page::sheet_of_text(
            "Commands that made the runs",
            &lines.collect::<Vec<_>>().join("\n"),
        )
    }

    /// The basis in words; pairs where runs of both kinds are compared.
    fn label(&self) -> &'static str {
        let pairs = self.runs.iter().find(|run| !run.unpaired());
        self.basis.label(pairs.unwrap_or(&self.runs[0]))
    }

    /// Value of the label column `split` for the basis.
    pub(crate) fn split(&self) -> &'static str {
        if self.basis == Basis::HeldOut {
            "eval"
        } else {
            "train"
        }
    }
}

/// Where runs share a name, their methods tell them apart: then runs of one method stand together, in the order of
/// the first of each.
fn group(runs: &mut [RunRecord]) {
    let names: Vec<String> = runs.iter().map(RunRecord::name).collect();
    if names
        .iter()
        .all(|name| names.iter().filter(|other| *other == name).count() == 1)
    {
        return;
    }
    let mut order: Vec<String> = Vec::new();
    for label in runs.iter().map(|run| run.method().label()) {
        if !order.contains(&label) {
            order.push(label);
        }
    }
    runs.sort_by_cached_key(|run| {
        order
            .iter()
            .position(|label| *label == run.method().label())
    });
}

fn arrow(trend: Option<Trend>, show: fn(f64) -> String) -> String {
    trend
        .map(|trend| format!("{} → {}", show(trend.start), show(trend.end)))
        .unwrap_or_default()
}

fn prefixed_notes((run, name): (&RunRecord, &String)) -> Vec<String> {
    run.notes
        .iter()
        .map(|note| format!("{name}: {note}"))
        .collect()
}
