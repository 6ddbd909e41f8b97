//! `--export-filtered`: the rows worth keeping, as they stand in the data set.

use super::data::Data;
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use unbraid_diagnose::{SummaryBuilder, quantile, sorted};

/// Which rows are kept.
pub(super) struct Filter<'a> {
    /// A number of the rows.
    pub field: &'a str,
    /// Up to this quantile of it.
    pub keep_below: f64,
}

/// Writes the rows whose `field` is at or below its quantile, all or nothing, and says how many.
pub(super) fn export(
    path: &Path,
    filter: &Filter<'_>,
    rows: &SummaryBuilder,
    data: &Data<'_>,
) -> Result<()> {
    let column: Vec<(usize, f64)> = rows.column(filter.field).collect();
    let values: Vec<f64> = column.iter().map(|(_, value)| *value).collect();
    let limit = quantile(&sorted(&values), filter.keep_below);
    let limit = limit.with_context(|| format!("no row has a {} to filter by", filter.field))?;
    let kept = column.iter().filter(|(_, value)| *value <= limit);
    let kept: HashSet<usize> = kept.map(|(index, _)| *index).collect();

    let temporary = beside(path);
    let written = write(&temporary, is_compressed(path), &kept, data)
        .and_then(|()| Ok(fs::rename(&temporary, path)?));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the error that led here is on its way
    }
    written.with_context(|| format!("cannot write {}", path.display()))?;
    say!(
        "kept {} of {} pairs, those with {} of at most {limit:.6}: {}",
        kept.len(),
        rows.pairs(),
        filter.field,
        path.display()
    );
    Ok(())
}

/// A hidden name in the same directory.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn is_compressed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

fn write(path: &Path, compressed: bool, kept: &HashSet<usize>, data: &Data<'_>) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let file = if compressed {
        let mut out = GzEncoder::new(file, Compression::default());
        write_rows(&mut out, kept, data)?;
        out.finish()?
    } else {
        let mut out = file;
        write_rows(&mut out, kept, data)?;
        out
    };
    let file = file.into_inner().map_err(|error| error.into_error())?;
    Ok(file.sync_all()?)
}

fn write_rows(out: &mut impl Write, kept: &HashSet<usize>, data: &Data<'_>) -> Result<()> {
    for (index, row) in data.whole_rows()?.enumerate() {
        let row = row?;
        if kept.contains(&index) {
            let columns = row.columns.context("all columns were asked for")?;
            serde_json::to_writer(&mut *out, &columns)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}
