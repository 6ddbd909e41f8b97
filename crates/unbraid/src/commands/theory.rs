//! `unbraid theory`: the paper's theorems, predicted against computed.

use super::{End, end_with, output};
use crate::cli::TheoryConfig;
use anyhow::{Result, bail};
use serde::Serialize;
use unbraid_model::weights::write_file_atomic;
use unbraid_theory::TheoryRecord;

/// What `theory.json` holds beside the record.
#[derive(Serialize)]
struct File<'a> {
    /// The command that made it.
    command: String,
    /// Version of the program.
    unbraid: &'static str,
    /// What disagrees beyond tolerance.
    disagreements: &'a [String],
    #[serde(flatten)]
    record: &'a TheoryRecord,
}

/// Checks the theory; fails where predicted and computed values disagree, after everything has been written.
pub(super) fn run(config: &TheoryConfig) -> Result<End> {
    let dir = &config.output_dir;
    output::prepare_dir(dir, config.overwrite_output_dir)?;
    let record = unbraid_theory::check(config.seed, config.instances);
    let disagreements = record.disagreements();
    let file = File {
        command: output::command_line(),
        unbraid: env!("CARGO_PKG_VERSION"),
        disagreements: &disagreements,
        record: &record,
    };
    let json = serde_json::to_string_pretty(&file)? + "\n";
    write_file_atomic(&dir.join("theory.json"), json.as_bytes())?;
    let report = unbraid_report::write_theory_report(dir);
    say!("{}", unbraid_report::theory_summary(dir)?);
    if let Ok(path) = &report {
        say!("report: {}", path.display());
    }
    if config.json {
        output::print(&json)?;
    }
    if !disagreements.is_empty() {
        bail!(
            "predicted and computed values disagree\n{}",
            disagreements.join("\n")
        );
    }
    end_with(End::Done, report)
}
