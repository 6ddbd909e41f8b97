//! The report of an experiment of the paper (arXiv 2410.13828, §3.3 and §4.2): `report.html` and the table of claims for
//! the terminal.
//!
//! ```text
//! results.json ─ results ─┬─ claims ────────────────────────────┬─ terminal (lines of text)
//!                         ├─ outcome (estimates) ─ judged ──────┘
//!                         ├─ curves, cases, directions, judged ─┬─ page
//! token heat maps ────────┴─ tokens ────────────────────────────┘
//! ```
//!
//! `results.json` is rewritten after each arm, so every part shows the arms that are there and leaves out what they
//! lack. Means over seeds are plain averages at equal steps; each seed's line stands thin behind them. Claims are
//! judged by whoever wrote the file; nothing is judged anew here.

mod cases;
mod claims;
mod curves;
mod directions;
mod estimate;
mod judged;
mod outcome;
mod page;
mod results;
mod terminal;
mod tokens;

use std::path::Path;

use crate::error::Result;
use crate::page::Page;

pub use page::write_experiment_report;
pub use results::is_experiment;
pub use terminal::experiment_summary;

/// The page of an experiment, before it is written.
pub(crate) fn whole_page(dir: &Path) -> Result<Page> {
    page::whole(dir)
}
