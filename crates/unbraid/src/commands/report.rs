//! `unbraid report RUN…`: the page of a run again, or one page comparing several.

use super::End;
use crate::cli::ReportConfig;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;

/// Writes the report that `config` asks for.
pub(super) fn run(config: &ReportConfig) -> Result<End> {
    let path = match (&config.runs[..], &config.output_dir) {
        ([run], None) => unbraid_report::write_run_report(run)?,
        (runs, dir) => {
            let dir = dir.clone().unwrap_or_else(|| PathBuf::from("."));
            super::output::prepare_dir(&dir, true)?;
            unbraid_report::write_comparison(runs, &dir.join("report.html"))?
        }
    };
    let mut summaries = Vec::new();
    for run in &config.runs {
        let summary = unbraid_report::terminal_summary(run)?;
        eprintln!("{summary}");
        summaries.push(json!({ "run": run, "summary": summary }));
    }
    eprintln!("report: {}", path.display());
    if config.json {
        let report = json!({ "report": path, "runs": summaries });
        super::output::print(&format!("{report:#}\n"))?;
    }
    Ok(End::Done)
}
