//! `unbraid report DIR…`: the page of a run or of a diagnosis again, one page comparing several, or the figures of
//! either as SVG.

use super::End;
use crate::cli::{ReportConfig, ReportFormat};
use anyhow::Result;
use serde_json::json;

/// Writes the report that `config` asks for.
pub(super) fn run(config: &ReportConfig) -> Result<End> {
    if let Some(dir) = &config.output_dir {
        super::output::prepare_dir(dir, true)?;
    }
    let dir = config.output_dir.as_deref();
    let (written, files) = match config.format {
        ReportFormat::Html => {
            let path = unbraid_report::write_report(&config.runs, dir)?;
            (format!("report: {}", path.display()), vec![path])
        }
        ReportFormat::Svg => {
            let files = unbraid_report::write_figures(&config.runs, dir)?;
            let into = files.first().and_then(|file| file.parent());
            let into = into.map(|dir| format!(" in {}", dir.display()));
            let words = format!("{} drawings{}", files.len(), into.unwrap_or_default());
            (words, files)
        }
    };
    let mut summaries = Vec::new();
    for run in &config.runs {
        let summary = if unbraid_report::is_experiment(run) {
            unbraid_report::experiment_summary(run)?
        } else if unbraid_report::is_theory(run) {
            unbraid_report::theory_summary(run)?
        } else if unbraid_report::is_diagnosis(run) {
            unbraid_report::diagnosis_verdict(run)?
        } else {
            unbraid_report::terminal_summary(run)?
        };
        say!("{summary}");
        summaries.push(json!({ "run": run, "summary": summary }));
    }
    say!("{written}");
    if config.json {
        let report = match config.format {
            ReportFormat::Html => json!({ "report": files[0], "runs": summaries }),
            ReportFormat::Svg => json!({ "figures": files, "runs": summaries }),
        };
        super::output::print(&format!("{report:#}\n"))?;
    }
    Ok(End::Done)
}
