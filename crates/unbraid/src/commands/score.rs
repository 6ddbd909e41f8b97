//! `unbraid score`: log-probs of pairs under a policy, and under a reference when one is given.

use super::load;
use super::{End, Interrupt, output, progress};
use crate::cli::ScoreConfig;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use unbraid_cuda::Precision;
use unbraid_model::Cancel;
use unbraid_preference::TokenizedPair;
use unbraid_train::{ScoredPair, score_pairs_into};

/// A row of `scores.jsonl`.
#[derive(Serialize)]
struct Row {
    index: usize,
    chosen_logps: f64,
    rejected_logps: f64,
    ref_chosen_logps: Option<f64>,
    ref_rejected_logps: Option<f64>,
    chosen_len: usize,
    rejected_len: usize,
    reward_chosen: Option<f64>,
    reward_rejected: Option<f64>,
    reward_margin: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen_token_logps: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_token_logps: Option<Vec<f64>>,
}

fn row(
    pair: &TokenizedPair,
    policy: &ScoredPair,
    reference: Option<&ScoredPair>,
    config: &ScoreConfig,
) -> Row {
    let reward = |a: f64, r: Option<f64>| r.map(|r| config.beta * (a - r));
    let (ref_chosen, ref_rejected) = (
        reference.map(ScoredPair::chosen),
        reference.map(ScoredPair::rejected),
    );
    let chosen = reward(policy.chosen(), ref_chosen);
    let rejected = reward(policy.rejected(), ref_rejected);
    let tokens = |logps: &Vec<f64>| config.token_logps.then(|| logps.clone());
    Row {
        index: pair.index,
        chosen_logps: policy.chosen(),
        rejected_logps: policy.rejected(),
        ref_chosen_logps: ref_chosen,
        ref_rejected_logps: ref_rejected,
        chosen_len: pair.chosen.completion().len(),
        rejected_len: pair.rejected.completion().len(),
        reward_chosen: chosen,
        reward_rejected: rejected,
        reward_margin: chosen.zip(rejected).map(|(c, r)| c - r),
        chosen_token_logps: tokens(&policy.chosen_token_logps),
        rejected_token_logps: tokens(&policy.rejected_token_logps),
    }
}

/// Scores with one model, showing progress; fewer results than pairs mean that the user stopped.
fn score(
    what: &str,
    source: &load::Source,
    pairs: &[&TokenizedPair],
    interrupt: &Interrupt,
) -> Result<Vec<ScoredPair>> {
    let model = load::model(source)?;
    load::check_fits(&model.config, load::pair_ids(pairs.iter().copied()))?;
    let bar = progress::bar(what, pairs.len() as u64);
    let mut scored = Vec::with_capacity(pairs.len());
    // What was scored before a pass was cancelled counts.
    let _ = Cancel::catch(|| {
        score_pairs_into(&mut scored, &model, pairs, |done| {
            bar.set_position(done as u64);
            !interrupt.pressed()
        });
    });
    bar.finish_and_clear();
    if let Some(i) = scored
        .iter()
        .position(|s| !(s.chosen() + s.rejected()).is_finite())
    {
        bail!(
            "{what}: row {} has log-probs {} and {}, which are not finite",
            pairs[i].index,
            scored[i].chosen(),
            scored[i].rejected()
        );
    }
    Ok(scored)
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Means over the rows; the accuracy is of rewards with a reference, of log-probs without.
fn summary(rows: &[Row]) -> Value {
    let over = |f: fn(&Row) -> Option<f64>| mean(rows.iter().map(f));
    let wins = |r: &Row| {
        let margin = r.reward_margin.unwrap_or(r.chosen_logps - r.rejected_logps);
        Some(f64::from(u8::from(margin > 0.0)))
    };
    json!({
        "pairs": rows.len(),
        "chosen_logps": over(|r| Some(r.chosen_logps)),
        "rejected_logps": over(|r| Some(r.rejected_logps)),
        "ref_chosen_logps": over(|r| r.ref_chosen_logps),
        "ref_rejected_logps": over(|r| r.ref_rejected_logps),
        "chosen_len": over(|r| Some(r.chosen_len as f64)),
        "rejected_len": over(|r| Some(r.rejected_len as f64)),
        "reward_chosen": over(|r| r.reward_chosen),
        "reward_rejected": over(|r| r.reward_rejected),
        "reward_margin": over(|r| r.reward_margin),
        "reward_accuracy": if rows.iter().all(|r| r.reward_margin.is_some()) { over(wins) } else { None },
        "logps_accuracy": over(|r| Some(f64::from(u8::from(r.chosen_logps > r.rejected_logps)))),
    })
}

/// Scores as `config` says.
pub(super) fn run(config: &ScoreConfig, interrupt: &Interrupt) -> Result<End> {
    load::check_machine(&config.model, Precision::Float32)?;
    let path = config.output_dir.join("scores.jsonl");
    if path.exists() && !config.overwrite_output_dir {
        bail!(
            "{} exists\nhint: choose another --output-dir, or say --overwrite-output-dir",
            path.display()
        );
    }
    output::check_dir(&config.output_dir)?;
    let source = load::open(
        &config.model.model_name_or_path,
        config.model.base_model.as_deref(),
    )?;
    let tokenizer = load::source_tokenizer(&source)?;
    let data = &config.data;
    let dataset = load::pairs(
        &data.dataset_name,
        &data.dataset_train_split,
        data,
        &tokenizer,
    )?;
    let pairs: Vec<&TokenizedPair> = dataset.pairs.iter().collect();
    let _stops = interrupt.stops_itself();
    let policy = score("scoring", &source, &pairs, interrupt)?;
    let reference = match &config.ref_model {
        None => None,
        Some(name) => {
            let scored = load::open(name, None)
                .and_then(|source| score("reference", &source, &pairs[..policy.len()], interrupt));
            Some(scored.context("--ref-model")?)
        }
    };
    // A reference pass that was interrupted leaves the rest of the rows without reference.
    let of = |i: usize| reference.as_ref().and_then(|r| r.get(i));
    let rows: Vec<Row> = policy
        .iter()
        .enumerate()
        .map(|(i, p)| row(pairs[i], p, of(i), config))
        .collect();
    output::prepare_dir(&config.output_dir, true)?;
    output::write_jsonl(&path, &rows)?;
    let summary = summary(&rows);
    say(&summary, &path);
    if config.json {
        output::print(&format!("{summary:#}\n"))?;
    }
    let complete = reference.as_ref().map_or(rows.len(), Vec::len);
    Ok(if complete < pairs.len() {
        say!(
            "interrupted: {complete} of {} pairs are complete",
            pairs.len()
        );
        End::Interrupted
    } else {
        End::Done
    })
}

fn say(summary: &Value, path: &std::path::Path) {
    let number = |key: &str| {
        summary[key]
            .as_f64()
            .map_or("–".into(), |x| format!("{x:.4}"))
    };
    say!("{} pairs", summary["pairs"]);
    say!(
        "log-probs  chosen {}  rejected {}  chosen above rejected in {} of pairs",
        number("chosen_logps"),
        number("rejected_logps"),
        number("logps_accuracy")
    );
    if summary["reward_margin"].is_number() {
        say!(
            "rewards    chosen {}  rejected {}  margin {}  accuracy {}",
            number("reward_chosen"),
            number("reward_rejected"),
            number("reward_margin"),
            number("reward_accuracy")
        );
    }
    say!("written to {}", path.display());
}
