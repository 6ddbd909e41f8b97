//! Reports from run records: HTML pages with figures, comparisons, and a summary for the terminal.
//!
//! Everything here is a pure function of the files that a run wrote (`metrics.jsonl`, `run.yaml`,
//! `token_mask.jsonl`, `summary.json`); no model is opened, no clock is read, so the same records give the same page byte for byte.
//!
//! ```text
//! metrics.jsonl ─ record ─┬─ verdict ──────────────┬─ terminal  (lines of text)
//! run.yaml ─ method ──────┤                        │
//! token_mask.jsonl ───────┴─ run_page / compare ── page         (figures: a description in JSON + numbers in CSV)
//! ```
//!
//! A page is one file: styles, scripts and the charting library (see `assets/README.md`) are inside, and a
//! content-security policy forbids it to load anything. A figure's numbers exist once in the page, as the CSV that
//! the reader can save; chart and table are both drawn from that text, so they cannot disagree with it.
//!
//! Beside it, [`EventWriter`] writes the same rows for TensorBoard while a run goes on.
//!
//! Left out: anything that needs a model, and figures of a diagnosis, which come as further `figure::Figure`s.

mod compare;
mod error;
mod figure;
mod method;
mod page;
mod record;
mod run_figures;
mod run_page;
mod settings;
mod tensorboard;
mod terminal;
mod token_mask;
mod verdict;
mod write;

pub use compare::write_comparison;
pub use error::{ReportError, Result};
pub use run_page::write_run_report;
pub use tensorboard::{EventWriter, tensorboard_tag};
pub use terminal::terminal_summary;
