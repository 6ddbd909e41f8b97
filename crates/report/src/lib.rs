//! Reports from run records: HTML pages with figures, comparisons, and a summary for the terminal.
//!
//! Everything here is a pure function of the files that a run or a diagnosis wrote; no model is opened, no clock is
//! read, so the same records give the same page byte for byte.
//!
//! ```text
//! metrics.jsonl ─ record ─┬─ verdict ──────────────────┬─ terminal  (lines of text)
//! run.yaml ─ method ──────┤                            │
//! token_mask.jsonl ───────┼─ run_page ─┬─ publish ─ page            (figures: a description in JSON + numbers in CSV)
//! gram.jsonl ─────────────┤  compare ──┤             └─ svg          (the same figures, a file for each panel)
//! predictions.jsonl ──────┘            │
//! a diagnosis' files ─ diagnosis, compare_diagnoses
//! results.json ─ experiment
//! ```
//!
//! A page is one file: styles, scripts and the charting library (see `assets/README.md`) are inside, and a
//! content-security policy forbids it to load anything. A figure's numbers exist once in the page, as the CSV that
//! the reader can save; chart and table are both drawn from that text, so they cannot disagree with it.
//!
//! Beside it, [`EventWriter`] writes the same rows for TensorBoard while a run goes on.
//!
//! Left out: anything that needs a model.

mod attribution;
mod compare;
mod compare_diagnoses;
mod compare_figures;
mod diagnosis;
mod error;
mod experiment;
mod figure;
mod gram_split;
mod jsonl;
mod method;
mod page;
mod predictions;
mod publish;
mod record;
mod run_figures;
mod run_page;
mod settings;
mod svg;
mod tensorboard;
mod terminal;
mod theory;
mod token_mask;
mod verdict;
mod write;

pub use compare::write_comparison;
pub use diagnosis::{
    diagnosis_verdict, is_diagnosis, is_series, write_diagnosis_report, write_series_report,
};
pub use error::{ReportError, Result};
pub use experiment::{experiment_summary, is_experiment, write_experiment_report};
pub use publish::{write_figures, write_report};
pub use run_page::write_run_report;
pub use tensorboard::{EventWriter, tensorboard_tag};
pub use terminal::terminal_summary;
pub use theory::{is_theory, theory_summary, write_theory_report};
