//! `unbraid report DIR…`: which page the given directories make, written as HTML or as one SVG for each panel.
//!
//! One run, one diagnosis or one experiment makes its own page, several runs or diagnoses a comparison. A run and a
//! diagnosis have no figure in common, so a mixture is an error; so is an experiment among others.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{ReportError, Result};
use crate::page::Page;
use crate::record::RunRecord;
use crate::write::write_atomically;
use crate::{compare, compare_diagnoses, diagnosis, experiment, run_page, svg, theory};

/// Writes `report.html` about `dirs` (output directories of `unbraid train`, `unbraid diagnose` or `unbraid
/// reproduce`) and gives its path.
///
/// It is written into `output_dir`, by default the directory itself for one and the current one for several; missing
/// directories are made. The file is replaced atomically; the same records in the same order give the same bytes.
///
/// # Errors
/// [`ReportError::NoRuns`] for an empty list, [`ReportError::Mixed`] for runs among diagnoses,
/// [`ReportError::SeriesToCompare`] and [`ReportError::ExperimentToCompare`] for a series of checkpoints or an experiment
/// among several; otherwise as [`write_run_report`](crate::write_run_report),
/// [`write_diagnosis_report`](crate::write_diagnosis_report) and
/// [`write_experiment_report`](crate::write_experiment_report).
pub fn write_report(dirs: &[PathBuf], output_dir: Option<&Path>) -> Result<PathBuf> {
    let page = page(dirs)?;
    let home = home(dirs, output_dir);
    fs::create_dir_all(&home).map_err(ReportError::io("create", &home))?;
    let path = home.join("report.html");
    write_atomically(&path, &page.render())?;
    Ok(path)
}

/// Writes the figures of the same page as standalone SVG files, `<figure id>-<panel>.svg` each, and gives their paths.
///
/// White ground, colours and dashes for print, text as text; title and command are in the file. They are written into
/// `output_dir`, by default `figures` in the place where [`write_report`] would write; missing directories are made.
///
/// # Errors
/// As [`write_report`].
pub fn write_figures(dirs: &[PathBuf], output_dir: Option<&Path>) -> Result<Vec<PathBuf>> {
    let page = page(dirs)?;
    let dir = output_dir.map_or_else(|| home(dirs, None).join("figures"), Path::to_path_buf);
    let figures: Vec<_> = page.figures.iter().chain(&page.extras.later).collect();
    svg::write(&figures, &dir)
}

fn home(dirs: &[PathBuf], output_dir: Option<&Path>) -> PathBuf {
    match (output_dir, dirs) {
        (Some(dir), _) => dir.to_path_buf(),
        (None, [one]) => one.clone(),
        (None, _) => PathBuf::from("."),
    }
}

fn page(dirs: &[PathBuf]) -> Result<Page> {
    if let Some(dir) = dirs.iter().find(|dir| experiment::is_experiment(dir)) {
        return match dirs {
            [dir] => experiment::whole_page(dir),
            _ => Err(ReportError::ExperimentToCompare { dir: dir.clone() }),
        };
    }
    if let [dir] = dirs
        && theory::is_theory(dir)
    {
        return theory::whole_page(dir);
    }
    let is_diagnosis = |dir: &PathBuf| diagnosis::is_diagnosis(dir);
    let a_run = dirs.iter().find(|dir| !is_diagnosis(dir));
    let a_diagnosis = dirs.iter().find(|dir| is_diagnosis(dir));
    match (dirs, a_run, a_diagnosis) {
        (_, Some(run), Some(diagnosis)) => {
            // A directory that is neither is the mistake to name.
            RunRecord::read(run)?;
            Err(ReportError::Mixed {
                run: run.clone(),
                diagnosis: diagnosis.clone(),
            })
        }
        ([], _, _) => Err(ReportError::NoRuns),
        ([dir], None, _) => diagnosis::whole_page(dir),
        ([dir], _, _) => Ok(run_page::page(&RunRecord::read(dir)?)),
        (_, None, _) => compare_diagnoses::page(dirs),
        _ => compare::page(dirs),
    }
}
