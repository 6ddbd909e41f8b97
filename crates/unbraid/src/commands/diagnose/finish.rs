//! What follows from the rows: summary, heat maps, Gram matrix, export, report.

use super::data::Data;
use super::policy::in_group;
use super::resume::{self, GRAM, HEATMAPS, SUMMARY};
use super::setup::Plan;
use crate::commands::device::Machine;
use crate::commands::{Interrupt, output, progress};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unbraid_diagnose::{
    Facts, HeatMap, HeatMapSettings, Named, Summary, SummaryBuilder, TokenCosines, gram_matrix,
    heat_map, walks,
};
use unbraid_model::weights::write_file_atomic;
use unbraid_model::{Cancel, LanguageModel};
use unbraid_preference::{TokenizedPair, TokenizedSequence};
use unbraid_train::{ChangeSplit, split_changes};

/// Takes in every row of a file.
pub(super) fn gather(path: &Path, plan: &Plan) -> Result<SummaryBuilder> {
    let mut rows = SummaryBuilder::new(&plan.judged_by, plan.sweeps.clone());
    resume::read_rows(path, |row| rows.add(&row))?;
    Ok(rows)
}

/// Writes `summary.json`, and the summary as text.
pub(super) fn write_summary(dir: &Path, summary: &Summary) -> Result<String> {
    let text = serde_json::to_string_pretty(summary)? + "\n";
    write_file_atomic(&dir.join(SUMMARY), text.as_bytes())?;
    Ok(text)
}

/// Which maps are drawn, and how much of a pair they show.
pub(super) struct Maps<'a> {
    pub count: usize,
    /// Of each completion; none: [`TOKENS`], or as many as one walk takes.
    pub tokens: Option<usize>,
    pub groups: &'a [String],
}

/// One heat map as its file holds it.
#[derive(Serialize)]
struct MapFile {
    index: usize,
    chosen_tokens: Vec<String>,
    rejected_tokens: Vec<String>,
    #[serde(flatten)]
    all: Cosines,
    chosen_norms: Vec<f64>,
    rejected_norms: Vec<f64>,
    chosen_len: usize,
    rejected_len: usize,
    #[serde(skip_serializing_if = "Named::is_empty")]
    groups: Named<Cosines>,
}

#[derive(Serialize)]
struct Cosines {
    cosine: Vec<Vec<f64>>,
    chosen_self: Vec<Vec<f64>>,
    rejected_self: Vec<Vec<f64>>,
}

impl From<TokenCosines> for Cosines {
    fn from(of: TokenCosines) -> Self {
        Cosines {
            cosine: of.cosine,
            chosen_self: of.chosen_self,
            rejected_self: of.rejected_self,
        }
    }
}

/// The maps that were drawn.
pub(super) struct Drawn {
    pub indices: Vec<usize>,
    /// Of one map, the mean.
    pub seconds: Option<f64>,
    /// False when the user stopped it.
    pub complete: bool,
}

/// Draws the heat maps of the most harmed rows. A map of a long prompt takes many walks over the model, so pairs that need
/// one walk come before others of the first few dozen.
pub(super) fn heat_maps(
    dir: &Path,
    rows: &SummaryBuilder,
    maps: &Maps<'_>,
    (model, data): (&LanguageModel<Machine>, &Data<'_>),
    interrupt: &Interrupt,
) -> Result<Drawn> {
    /// So many candidates for each map.
    const CANDIDATES: usize = 8;
    let mut drawn = Drawn {
        indices: Vec::new(),
        seconds: None,
        complete: true,
    };
    if maps.count == 0 {
        return Ok(drawn); // picking pairs reads the data
    }
    let candidates = rows.most_harmed(maps.count.saturating_mul(CANDIDATES));
    let planned = |pair: TokenizedPair| {
        let settings = settings(maps, model, &pair);
        let walks = walks(model, &pair, &settings);
        (pair, settings, walks)
    };
    let mut pairs: Vec<_> = data.pick(&candidates)?.into_iter().map(planned).collect();
    pairs.sort_by_key(|(_, _, walks)| *walks > 1);
    pairs.truncate(maps.count);
    let folder = dir.join(HEATMAPS);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let total = pairs.iter().map(|(_, _, walks)| walks);
    let bar = progress::bar("heat maps", total.sum::<usize>() as u64);
    let started = Instant::now();
    for (pair, settings, _) in &pairs {
        let on_walk = || {
            bar.inc(1);
            !interrupt.pressed()
        };
        let map = Cancel::catch(|| heat_map(model, pair, settings, on_walk)).flatten();
        let Some(map) = map.filter(|_| !interrupt.pressed()) else {
            drawn.complete = false;
            break;
        };
        let file = map_file(pair, &map, maps.groups, data);
        let path = folder.join(format!("pair-{}.json", pair.index));
        write_file_atomic(&path, &serde_json::to_vec(&file)?)?;
        drawn.indices.push(pair.index);
    }
    bar.finish_and_clear();
    let count = drawn.indices.len() as f64;
    drawn.seconds = (count > 0.0).then(|| started.elapsed().as_secs_f64() / count);
    Ok(drawn)
}

/// Tokens of each completion where the user does not say, and the fewest that a map is drawn for.
const TOKENS: (usize, usize) = (32, 8);

/// How much of a pair its map shows.
fn settings(
    maps: &Maps<'_>,
    model: &LanguageModel<Machine>,
    pair: &TokenizedPair,
) -> HeatMapSettings {
    let of = |max_tokens| HeatMapSettings { max_tokens };
    let fits = |tokens: &usize| walks(model, pair, &of(*tokens)) == 1;
    let (most, fewest) = TOKENS;
    let fitting = || (fewest..=most).rev().find(fits).unwrap_or(fewest);
    of(maps.tokens.unwrap_or_else(fitting))
}

fn map_file(pair: &TokenizedPair, map: &HeatMap, groups: &[String], data: &Data<'_>) -> MapFile {
    let all = map.cosines(|_| true);
    let labels = |sequence: &TokenizedSequence, shown: usize| -> Vec<String> {
        let shown = &sequence.completion()[..shown];
        let label = |id: &u32| data.tokenizer.token_label(*id);
        shown.iter().map(label).collect()
    };
    let of_group = |name: &String| {
        let cosines = map.cosines(|group| in_group(name, group));
        (name.clone(), cosines.into())
    };
    MapFile {
        index: pair.index,
        chosen_tokens: labels(&pair.chosen, map.chosen),
        rejected_tokens: labels(&pair.rejected, map.rejected),
        chosen_norms: all.chosen_norms.clone(),
        rejected_norms: all.rejected_norms.clone(),
        all: all.into(),
        chosen_len: pair.chosen.completion().len(),
        rejected_len: pair.rejected.completion().len(),
        groups: Named(groups.iter().map(of_group).collect()),
    }
}

/// What one response's predicted change is made of, nats per unit of learning rate.
#[derive(Serialize)]
struct Split<'a> {
    response: &'a str,
    #[serde(flatten)]
    change: ChangeSplit,
}

/// Writes the Gram matrix of the first `count` pairs as one batch.
pub(super) fn gram(
    dir: &Path,
    count: usize,
    rows_file: &Path,
    plan: &Plan,
    (model, data): (&LanguageModel<Machine>, &Data<'_>),
) -> Result<()> {
    let mut first: Vec<usize> = Vec::new();
    let mut coefficients: HashMap<usize, [f64; 2]> = HashMap::new();
    resume::read_rows(rows_file, |row| {
        if first.len() < count
            && let Some(outcome) = row.objectives.get(&plan.judged_by)
        {
            first.push(row.index);
            coefficients.insert(row.index, [outcome.d_w, outcome.d_l]);
        }
    })?;
    let pairs = data.pick(&first)?;
    let pairs: Vec<&TokenizedPair> = pairs.iter().collect();
    let matrix = gram_matrix(model, &pairs);
    // The loss is the batch's mean, a row's weight its share of it.
    let batch = pairs.len() as f64;
    let shared = |pair: &&TokenizedPair| {
        let [d_w, d_l] = coefficients[&pair.index];
        [d_w, -d_l].map(|c| c * pair.weight / batch)
    };
    let own: Vec<f64> = pairs.iter().flat_map(shared).collect();
    let sides = ["chosen", "rejected"];
    let order: Vec<String> = first
        .iter()
        .flat_map(|row| sides.map(|side| format!("{row}/{side}")))
        .collect();
    let split = order.iter().zip(split_changes(&matrix, &own, 1.0));
    let split = split.map(|(response, change)| Split { response, change });
    let n = order.len();
    let file = json!({
        "split": split.collect::<Vec<_>>(),
        "order": order,
        "matrix": matrix.chunks_exact(n).collect::<Vec<_>>(),
        "objective": plan.judged_by,
    });
    Ok(write_file_atomic(
        &dir.join(GRAM),
        &serde_json::to_vec(&file)?,
    )?)
}

/// What the summary says of this run, all but how far it came.
pub(super) fn facts(
    plan: &Plan,
    names: (&str, Option<&str>, &str),
    parameters: &str,
    model: &LanguageModel<Machine>,
) -> Facts {
    let (model_name, reference, data) = names;
    let optimizer = match plan.step.optimizer {
        unbraid_train::OptimizerKind::AdamW { .. } => "adamw_torch",
        unbraid_train::OptimizerKind::Sgd { .. } => "sgd",
        unbraid_train::OptimizerKind::Adafactor => "adafactor",
        unbraid_train::OptimizerKind::Lion { .. } => "lion",
    };
    Facts {
        command: output::command_line(),
        model: model_name.to_owned(),
        reference: reference.map(str::to_owned),
        data: data.to_owned(),
        objective: plan.judged_by.clone(),
        parameters: parameters.to_owned(),
        trainable_parameters: model.params.trainable_count(),
        complete: false,
        seconds_per_pair: None,
        heatmap_seconds: None,
        learning_rate: plan.step.learning_rate,
        optimizer: optimizer.to_owned(),
        peak_memory_bytes: peak_memory(),
    }
}

/// The largest resident set of this process so far, where Linux tells.
pub(super) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Writes the report of a diagnosis and says what it found.
pub(super) fn report(
    dir: &Path,
    write: fn(&Path) -> unbraid_report::Result<PathBuf>,
) -> unbraid_report::Result<PathBuf> {
    let written = write(dir);
    if let Ok(verdict) = unbraid_report::diagnosis_verdict(dir) {
        say!("{verdict}");
    }
    written
}
