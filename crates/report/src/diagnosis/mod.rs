//! The report of a diagnosis and of a series of them: `report.html` and a verdict for the terminal.
//!
//! ```text
//! summary.json, geometry.jsonl | proxies.jsonl ─ record, summary ─┬─ findings ─┬─ verdict (lines of text)
//! pairs.jsonl ─ texts ────────────────────────────────────────────┤            │
//! heatmaps/*.json, gram.json ─ heat_map ──────────────────────────┴─ figures, pairs_table ─ page
//! series.jsonl ─ series ────────────────────────────────────────────────────────────────── page
//! ```
//!
//! A pair's case is that of SPEC table 1, decided by the sign of its two first-order changes. Whatever a file lacks is
//! left out of the page; what was damaged is said on it.

mod advice;
mod figures;
mod files;
mod findings;
mod heat_map;
mod page;
mod pairs_table;
mod plane;
mod record;
mod series;
mod statistics;
mod summary;
mod texts;
mod verdict;
mod what_if;

use std::path::Path;

use crate::error::Result;
use crate::page::Page;

pub(crate) use figures::part_name;
pub(crate) use findings::Fit;
pub(crate) use heat_map::HeatMap as TokenMap;
pub(crate) use page::two;
pub(crate) use record::{Case, Diagnosis};
pub(crate) use statistics::{median, quantile};

pub use page::write_diagnosis_report;
pub use series::write_series_report;
pub use verdict::diagnosis_verdict;

/// Whether `dir` is the output of a diagnosis or of a series of them: rows of either (`geometry.jsonl`,
/// `proxies.jsonl`, `series.jsonl`) beside `summary.json` or `run.yaml`.
pub fn is_diagnosis(dir: &Path) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| dir.join(name).is_file());
    any(&["geometry.jsonl", "proxies.jsonl", "series.jsonl"]) && any(&["summary.json", "run.yaml"])
}

/// Whether `dir` is the output of a series of diagnoses, one for each checkpoint.
pub fn is_series(dir: &Path) -> bool {
    dir.join("series.jsonl").is_file()
}

/// The page of a diagnosis or of a series, before it is written.
pub(crate) fn whole_page(dir: &Path) -> Result<Page> {
    if is_series(dir) {
        series::whole(dir)
    } else {
        page::whole(dir)
    }
}
