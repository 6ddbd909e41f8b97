//! A series of checkpoints: `series.jsonl`, a row for each, as geometry against steps (the paper's Figure 4a for any
//! run), and in a few lines for the terminal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::for_each_line;
use super::record::{Case, directory_name};
use super::summary::Summary;
use crate::error::{ReportError, Result};
use crate::figure::{Cell, Figure, Kind, Panel, Role, Series as Line, Table};
use crate::page::{self, Extras, Page, escape, four_digits};
use crate::run_page::tile;
use crate::settings::Settings;
use crate::write::write_atomically;

/// Columns of the page's numbers, beside `checkpoint` and `step`.
const KEYS: [&str; 14] = [
    "grad_cosine",
    "grad_cosine_median",
    "grad_norm_chosen",
    "grad_norm_rejected",
    "grad_inner",
    "chosen_logps",
    "rejected_logps",
    "reward_margin",
    "ideal",
    "both_fall",
    "both_rise",
    "other",
    "change_chosen",
    "change_rejected",
];

/// Writes `report.html` into the directory of a series of diagnoses and gives its path: cosine, norms, log-probs and cases
/// against the checkpoints' steps.
///
/// Reads `series.jsonl` (an object per checkpoint: `step`, `checkpoint`, means over the pairs, shares of cases) and, when
/// present, `run.yaml` and `summary.json`. The file is replaced atomically.
///
/// # Errors
/// As [`write_diagnosis_report`](crate::write_diagnosis_report).
pub fn write_series_report(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("report.html");
    write_atomically(&path, &whole(dir)?.render())?;
    Ok(path)
}

/// The page before it is written.
pub(crate) fn whole(dir: &Path) -> Result<Page> {
    Ok(Series::read(dir)?.page())
}

/// One checkpoint.
#[derive(Debug)]
struct Checkpoint {
    step: u64,
    name: String,
    values: BTreeMap<String, f64>,
}

/// The series as its files tell it.
#[derive(Debug)]
pub(crate) struct Series {
    dir: PathBuf,
    rows: Vec<Checkpoint>,
    summary: Summary,
    settings: Settings,
    notes: Vec<String>,
}

impl Series {
    /// Reads the files in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("series.jsonl");
        if !path.is_file() {
            return Err(ReportError::NotADiagnosis {
                dir: dir.to_path_buf(),
            });
        }
        let mut rows = Vec::new();
        let mut notes = for_each_line(&path, |line| {
            let row = checkpoint(line);
            let taken = row.is_some();
            rows.extend(row);
            taken
        })?;
        if rows.is_empty() {
            return Err(ReportError::NoPairs { path });
        }
        rows.sort_by_key(|row| row.step);
        derive(&mut rows);
        let settings = Settings::read(&dir.join("run.yaml"))?;
        notes.extend(settings.note.clone());
        Ok(Self {
            dir: dir.to_path_buf(),
            rows,
            // The checkpoints have summaries of their own: this one may be missing.
            summary: Summary::read(dir, &mut Vec::new()),
            settings,
            notes,
        })
    }

    fn first_and_last(&self, key: &str) -> Option<(f64, f64)> {
        let mut values = self
            .rows
            .iter()
            .filter_map(|row| row.values.get(key).copied());
        let first = values.next()?;
        Some((first, values.next_back().unwrap_or(first)))
    }

    /// A few lines for the terminal.
    pub(crate) fn verdict(&self) -> Vec<String> {
        let (first, last) = (&self.rows[0], &self.rows[self.rows.len() - 1]);
        let count = self.rows.len();
        let mut lines = vec![format!(
            "{count} checkpoint{}, step {} to {}{}",
            if count == 1 { "" } else { "s" },
            first.step,
            last.step,
            last.values
                .get("pairs")
                .map_or(String::new(), |pairs| format!(", {pairs} pairs at each"))
        )];
        let quantities = [
            ("gradient cosine, mean", "grad_cosine"),
            ("norm of chosen's gradient", "grad_norm_chosen"),
            ("norm of rejected's", "grad_norm_rejected"),
            ("chosen log-prob, nats", "chosen_logps"),
            ("rejected log-prob, nats", "rejected_logps"),
            ("reward margin", "reward_margin"),
            ("ideal pairs", "ideal"),
            ("both fall", "both_fall"),
            ("both rise", "both_rise"),
        ];
        for (label, key) in quantities {
            let Some((start, end)) = self.first_and_last(key) else {
                continue;
            };
            let share = ["ideal", "both_fall", "both_rise"].contains(&key);
            let text = |value: f64| {
                if share {
                    super::findings::share(value)
                } else if key == "grad_cosine" {
                    format!("{value:.2}")
                } else {
                    four_digits(value)
                }
            };
            lines.push(format!("  {label:<26}{:>9} -> {}", text(start), text(end)));
        }
        lines.extend(
            self.sentence()
                .into_iter()
                .flat_map(|sentence| super::verdict::wrapped(&sentence)),
        );
        lines.push(format!(
            "Report: {}",
            self.dir.join("report.html").display()
        ));
        lines
    }

    /// What became of the log-probs and the cosine.
    fn sentence(&self) -> Option<String> {
        let (first, last) = self.first_and_last("grad_cosine")?;
        let cosine = format!(
            "The mean cosine {} from {first:.2} to {last:.2}",
            match last - first {
                change if change > 0.02 => "rose",
                change if change < -0.02 => "fell",
                _ => "hardly moved,",
            }
        );
        let moved = |key| self.first_and_last(key).map(|(start, end)| end - start);
        let way = |change: f64| if change >= 0.0 { "rose" } else { "fell" };
        Some(match moved("chosen_logps").zip(moved("rejected_logps")) {
            Some((chosen, rejected)) if self.rows.len() > 1 => format!(
                "{cosine}; chosen {} by {} nats and rejected {} by {}.",
                way(chosen),
                four_digits(chosen.abs()),
                way(rejected),
                four_digits(rejected.abs())
            ),
            _ => format!("{cosine}."),
        })
    }

    fn page(&self) -> Page {
        let command = self
            .summary
            .command
            .clone()
            .or_else(|| self.settings.get("command"));
        let setting = |key: &str| self.settings.get(key);
        let model = self
            .summary
            .model
            .clone()
            .or_else(|| setting("checkpoints"))
            .or_else(|| setting("model_name_or_path"));
        let data = self
            .summary
            .data
            .clone()
            .or_else(|| setting("dataset_name"));
        let objective = self
            .summary
            .objective
            .as_ref()
            .map(|name| format!("objective {name}"));
        let facts: Vec<String> = [model, data, objective].into_iter().flatten().collect();
        let sentence = self
            .sentence()
            .unwrap_or_else(|| "No gradients were measured at these checkpoints.".into());
        let mut opening = format!(
            "<section class=\"verdict still\" aria-label=\"Verdict\"><p class=\"sentence\">{}</p></section>\n<dl class=\"tiles\">\n",
            escape(&sentence.replace(" -", " \u{2212}"))
        );
        opening += &tile(
            "Checkpoints",
            &self.rows.len().to_string(),
            &format!(
                "step {} to {}",
                self.rows[0].step,
                self.rows[self.rows.len() - 1].step
            ),
        );
        for (label, key) in [
            ("Gradient cosine, mean", "grad_cosine"),
            ("Chosen log-prob", "chosen_logps"),
            ("Rejected log-prob", "rejected_logps"),
            ("Ideal pairs", "ideal"),
        ] {
            if let Some((start, end)) = self.first_and_last(key) {
                let text = |value: f64| {
                    if key == "ideal" {
                        super::findings::share(value)
                    } else {
                        super::page::two(value)
                    }
                };
                opening += &tile(
                    label,
                    &format!(
                        "{} <span class=\"arrow\">→</span> {}",
                        text(start),
                        text(end)
                    ),
                    "first and last checkpoint",
                );
            }
        }
        opening += "</dl>\n";
        opening += &page::notes(&self.notes);
        let sheets = if self.settings.text.is_empty() {
            String::new()
        } else {
            page::sheet_of_text("Settings of the diagnosis (run.yaml)", &self.settings.text)
        };
        Page {
            title: directory_name(&self.dir),
            kicker: "Diagnosis of a series of checkpoints".into(),
            facts: facts.join(" · "),
            stem: page::stem(&directory_name(&self.dir)),
            opening_html: opening,
            figures: self.figures(command.as_ref()),
            sections: Vec::new(),
            sheets_html: sheets,
            extras: Extras::default(),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.rows.iter().any(|row| row.values.contains_key(key))
    }

    fn panel(&self, title: &str, unit: &str, lines: &[(&str, Role, &str)]) -> Panel {
        let known = lines.iter().filter(|(_, _, key)| self.has(key));
        let series = known.map(|(name, role, key)| Line {
            rows: BTreeMap::new(),
            ..Line::new(name, *role, ("", ""), "step", key)
        });
        Panel {
            series: series.collect(),
            ..Panel::over_steps(title, unit)
        }
    }

    fn figures(&self, command: Option<&String>) -> Vec<Figure> {
        let zero = |panel: Panel| Panel {
            guide: true,
            ..panel
        };
        let cosine = self.panel(
            "Cosine",
            "between chosen and rejected gradient",
            &[
                ("mean", Role::Margin, "grad_cosine"),
                ("median", Role::Plain, "grad_cosine_median"),
            ],
        );
        let norms = self.panel(
            "Norms",
            "mean over the pairs",
            &[
                ("‖g_w‖", Role::Chosen, "grad_norm_chosen"),
                ("‖g_l‖", Role::Rejected, "grad_norm_rejected"),
            ],
        );
        let inner = self.panel(
            "Inner product",
            "mean of ⟨g_w, g_l⟩",
            &[("⟨g_w, g_l⟩", Role::Margin, "grad_inner")],
        );
        let logps = self.panel(
            "Log-probs",
            "of a completion, nats",
            &[
                ("chosen", Role::Chosen, "chosen_logps"),
                ("rejected", Role::Rejected, "rejected_logps"),
            ],
        );
        let change = self.panel(
            "Change since the first checkpoint",
            "nats",
            &[
                ("chosen", Role::Chosen, "change_chosen"),
                ("rejected", Role::Rejected, "change_rejected"),
            ],
        );
        let margin = self.panel(
            "Reward margin",
            "mean over the pairs",
            &[("margin", Role::Margin, "reward_margin")],
        );
        let names = Case::ALL
            .into_iter()
            .take(3)
            .map(|case| (case.name(), case.role(), case.key()));
        let mut names: Vec<_> = names.collect();
        if self
            .rows
            .iter()
            .any(|row| row.values.get("other").is_some_and(|other| *other > 0.0))
        {
            names.push(("still or reversed", Role::Other, "other"));
        }
        let mut cases = self.panel("Cases", "share of the pairs", &names);
        (cases.kind, cases.percent) = (Kind::Stack, true);
        let figures = [
            (
                "geometry",
                "Gradient entanglement against steps",
                "The same pairs measured at every checkpoint. While the cosine stays high, every step that raises chosen raises \
                 rejected with it, or lowers both; the norms decide which of the two gives way (the paper's Figure 4a).",
                vec![zero(cosine), zero(norms), zero(inner)],
            ),
            (
                "log-probs",
                "Log-probs of chosen and rejected",
                "Mean log-prob of a whole completion at every checkpoint, its change since the first, and the reward margin, which can \
                 grow while both fall.",
                vec![logps, zero(change), zero(margin)],
            ),
            (
                "cases",
                "Cases of the pairs",
                "What one small step on a pair alone would do to it at that checkpoint, to first order (the paper's Table 1).",
                vec![cases],
            ),
        ];
        let figures = figures
            .into_iter()
            .map(|(id, title, caption, panels)| Figure {
                id: id.into(),
                title: title.into(),
                caption: caption.into(),
                command: command.cloned(),
                panels: panels
                    .into_iter()
                    .filter(|panel| !panel.series.is_empty())
                    .collect(),
                csv: self.csv(),
            });
        figures.filter(|figure| !figure.panels.is_empty()).collect()
    }

    fn csv(&self) -> String {
        let keys: Vec<&str> = KEYS.into_iter().filter(|key| self.has(key)).collect();
        let mut header = vec!["checkpoint", "step"];
        header.extend(&keys);
        let mut table = Table::with_header(&header);
        for row in &self.rows {
            let mut cells = vec![Cell::Text(row.name.clone()), Cell::Number(row.step as f64)];
            cells.extend(keys.iter().map(|key| {
                row.values
                    .get(*key)
                    .map_or(Cell::Empty, |value| Cell::Number(*value))
            }));
            table.push(&cells);
        }
        table.into_csv()
    }
}

/// A line as a checkpoint; `None` if it has no step.
fn checkpoint(line: &[u8]) -> Option<Checkpoint> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let object = value.as_object()?;
    let numbers = object
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_f64()?)));
    Some(Checkpoint {
        step: object.get("step")?.as_u64()?,
        name: object
            .get("checkpoint")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string(),
        values: numbers.collect(),
    })
}

/// Changes since the first checkpoint, and the cases that have no share of their own.
fn derive(rows: &mut [Checkpoint]) {
    for side in ["chosen", "rejected"] {
        let key = format!("{side}_logps");
        let Some(start) = rows.iter().find_map(|row| row.values.get(&key).copied()) else {
            continue;
        };
        for row in rows.iter_mut() {
            if let Some(value) = row.values.get(&key).copied() {
                row.values.insert(format!("change_{side}"), value - start);
            }
        }
    }
    for row in rows {
        let shares = ["ideal", "both_fall", "both_rise"].map(|key| row.values.get(key).copied());
        if let [Some(ideal), Some(both_fall), Some(both_rise)] = shares {
            let other = 1.0 - ideal - both_fall - both_rise;
            // What rounding leaves over is not a share of pairs.
            row.values
                .insert("other".into(), if other > 1e-6 { other } else { 0.0 });
        }
    }
}
