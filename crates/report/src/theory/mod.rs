//! The report of a check of the theory: `report.html` and the table for the terminal, both from `theory.json`.
//!
//! ```text
//! theory.json ─ record ─┬─ terminal (lines of text)
//!                       ├─ tables ──┬─ page
//!                       └─ figures ─┘
//! ```
//!
//! Whether a statement holds is judged by whoever wrote the file; nothing is judged anew here.

mod figures;
mod page;
mod record;
mod tables;
mod terminal;

pub use page::write_theory_report;
pub use record::is_theory;
pub use terminal::theory_summary;

pub(crate) use page::whole as whole_page;
