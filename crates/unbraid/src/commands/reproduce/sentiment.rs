//! `unbraid reproduce sentiment` (paper §4.2, Figures 3 and 4).

use super::super::{End, Interrupt, data, load, output, usage};
use super::lab::{Lab, put};
use super::outcome::HeldOut;
use crate::cli::{MaxLength, ReproduceSentimentConfig, RowFormat};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use unbraid_model::weights::write_file_atomic;
use unbraid_reproduce::sentiment::{Diagonal, REMEDY_STYLES, SentimentPlan, SmallModel, claims};
use unbraid_reproduce::{
    ArmResult, HeatMapFile, REMEDIES, Recipe, Results, RunResult, Style, TweetSplit,
    preference_rows, remedy, sft_rows,
};
use unbraid_tensor::Backend;
use unbraid_text::Tokenizer;

/// Share of the tweets that no training sees.
const TEST_SHARE: f64 = 0.1;
/// Seed of the split, of pretraining and of SFT: the same for all seeds of preference training, whose runs start from one
/// model and are compared on the same held-out tweets.
const SPLIT_SEED: u64 = 42;
/// Neutral tweets that are kept as held-out text.
const TEXTS: usize = 300;
/// Longest tweet with its judgement, in tokens.
const MAX_LENGTH: MaxLength = MaxLength(Some(128));

/// Runs the experiment.
pub(super) fn run(config: &ReproduceSentimentConfig, interrupt: &Interrupt) -> Result<End> {
    let plan = plan(config);
    let arms = arms(config)?;
    let names = json!({
        "experiment": "sentiment",
        "tweets": config.tweets,
        "model_name_or_path": config.model_name_or_path,
    });
    let split = data::read_tweets(&config.tweets, TEST_SHARE, SPLIT_SEED)?;
    let lab = Lab::open(&config.options, (&names, &plan), interrupt)?;
    data::say_counts(&split);
    let Some(model) = base_model(&lab, config, &plan, &split)? else {
        return Ok(End::Interrupted);
    };
    let tokenizer = load::source_tokenizer(&load::open(&model, None)?)?;
    let mut study = Study {
        results: Results {
            kind: "sentiment".into(),
            command: output::command_line(),
            version: env!("CARGO_PKG_VERSION").into(),
            machine: String::new(),
            model: match &config.model_name_or_path {
                Some(name) => name.clone(),
                None => "GPT-2 pretrained on the tweets".into(),
            },
            parameters: 0,
            deviations: plan.deviations(),
            facts: Vec::new(),
            arms: lab.earlier_arms(),
            claims: Vec::new(),
            heat_maps: Vec::new(),
        },
        lab,
        plan,
        split,
        model,
        tokenizer,
        measured: None,
    };
    study.describe_model()?;
    let total = arms.len() * study.plan.extent.seeds.len();
    let mut count = 0;
    for (style, remedy) in arms {
        let mut runs = Vec::new();
        for seed in study.plan.extent.seeds.clone() {
            count += 1;
            say!("\n== run {count} of {total}: {style}, remedy {remedy}, seed {seed}");
            let Some(run) = study.run(style, &remedy, seed)? else {
                return study.lab.say(&study.results, End::Interrupted);
            };
            runs.push(run);
        }
        study.add(style, &remedy, runs)?;
    }
    study.lab.say(&study.results, End::Done)
}

/// The extent that the options ask for.
fn plan(config: &ReproduceSentimentConfig) -> SentimentPlan {
    let quick = config.options.quick;
    let mut plan = match &config.model_name_or_path {
        Some(_) => SentimentPlan::given(quick),
        None if quick => SentimentPlan::quick(),
        None => SentimentPlan::small(),
    };
    config.options.choose(&mut plan.extent);
    plan.sft_steps = config.sft_steps.unwrap_or(plan.sft_steps);
    plan.sft_rate = config.sft_learning_rate.unwrap_or(plan.sft_rate);
    plan.sft_completion_only = config.sft_completion_only;
    plan
}

/// The arms in their order: plain DPO on every style, then the remedies.
fn arms(config: &ReproduceSentimentConfig) -> Result<Vec<(Style, String)>> {
    let styles = match &config.styles[..] {
        [] => Style::ALL.to_vec(),
        given => given.to_vec(),
    };
    let remedies: Vec<String> = match &config.remedies[..] {
        [] => REMEDIES.map(str::to_owned).to_vec(),
        [none] if none == "none" => Vec::new(),
        given => given.to_vec(),
    };
    if let Some(unknown) = remedies
        .iter()
        .find(|name| !REMEDIES.contains(&name.as_str()))
    {
        return Err(usage(format!(
            "remedies: {unknown} is none of {}, none",
            REMEDIES.join(", ")
        )));
    }
    let plain = styles.iter().map(|&style| (style, "none".to_owned()));
    // Named styles get the remedies whatever they are.
    let judged = styles
        .iter()
        .filter(|style| !config.styles.is_empty() || REMEDY_STYLES.contains(style));
    let treated = judged.flat_map(|&style| remedies.iter().map(move |name| (style, name.clone())));
    Ok(plain.chain(treated).collect())
}

/// The model that is fine-tuned: the one that is given, or one pretrained here; nothing when the user stopped it.
fn base_model(
    lab: &Lab<'_>,
    config: &ReproduceSentimentConfig,
    plan: &SentimentPlan,
    split: &TweetSplit,
) -> Result<Option<String>> {
    if let Some(name) = &config.model_name_or_path {
        return Ok(Some(name.clone()));
    }
    let small = plan
        .small
        .context("a plan without a given model has a small one")?;
    let dir = lab.path("pretrained");
    say!(
        "\n== pretraining a GPT-2 of {} blocks of width {}",
        small.n_layer,
        small.n_embd
    );
    let material = lab.path("pretraining");
    write_material(&material, small, split)?;
    let recipe = small
        .recipe()
        .with("model_name_or_path", material.display())
        .with("init_config", material.join("config.json").display())
        .with("dataset_name", material.join("tweets.jsonl").display())
        .with("seed", SPLIT_SEED);
    let trained = lab.train("sft", "pretrained", &recipe)?;
    Ok(trained.map(|_| dir.display().to_string()))
}

/// Tokenizer, configuration and texts for pretraining: all tweets but the held-out ones.
fn write_material(dir: &Path, small: SmallModel, split: &TweetSplit) -> Result<()> {
    if dir.join("config.json").is_file() {
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let neutral = &split.neutral[..split.neutral.len().saturating_sub(TEXTS)];
    let tweets = split.train.iter().map(|t| t.text.clone());
    let texts: Vec<String> = tweets.chain(neutral.iter().cloned()).collect();
    // The sentences are among the tokenizer's texts (not the model's), so that their words are tokens.
    let sentences = Style::ALL
        .iter()
        .flat_map(|style| sft_rows(&split.train, *style));
    let sentences = sentences.map(|row| row.completion);
    let corpus: Vec<String> = texts.iter().cloned().chain(sentences).collect();
    Tokenizer::train_bpe(corpus.into_iter(), small.vocab_size)?.save(dir)?;
    let rows: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
    output::write_jsonl(&dir.join("tweets.jsonl"), &rows)?;
    let config = format!("{:#}\n", small.config());
    Ok(write_file_atomic(
        &dir.join("config.json"),
        config.as_bytes(),
    )?)
}

/// An experiment under way.
struct Study<'a> {
    lab: Lab<'a>,
    plan: SentimentPlan,
    split: TweetSplit,
    model: String,
    tokenizer: Tokenizer,
    results: Results,
    /// The last style's held-out pairs: its runs start from one model and follow each other.
    measured: Option<(Style, HeldOut)>,
}

impl Study<'_> {
    fn describe_model(&mut self) -> Result<()> {
        let model = load::model(&load::open(&self.model, None)?)?;
        self.results.machine = model.backend.describe();
        self.results.parameters = model.params.count();
        Ok(())
    }

    /// The files of a style; writes them where they are not there yet.
    fn data(&self, style: Style) -> Result<PathBuf> {
        let dir = self.lab.path("data").join(style.name());
        let held_out = dir.join("held-out.jsonl");
        if !held_out.is_file() {
            data::write_style(&self.split, style, &dir, RowFormat::Jsonl)?;
            let check = data::check_style(&self.split, style, &self.tokenizer)?;
            data::say_check(style, &check);
            let path = dir.join("tokens.json");
            write_file_atomic(&path, serde_json::to_string_pretty(&check)?.as_bytes())?;
            // Last of all: where it is, the rest is too.
            let tweets = &self.split.test[..self.plan.extent.held_out.min(self.split.test.len())];
            output::write_jsonl(&held_out, &preference_rows(tweets, style))?;
        }
        Ok(dir)
    }

    /// One run of an arm; nothing when the user stopped it.
    fn run(&mut self, style: Style, name: &str, seed: u64) -> Result<Option<RunResult>> {
        let arm = if name == "none" { "dpo" } else { name };
        let dir = format!("{style}/seed-{seed}/{arm}");
        if let Some(done) = self.lab.done(&dir, seed)? {
            say!("done before");
            return Ok(Some(done));
        }
        let data = self.data(style)?;
        let sft = format!("{style}/sft");
        let recipe = self
            .plan
            .sft_recipe()
            .with("model_name_or_path", &self.model)
            .with("dataset_name", data.join("sft/train.jsonl").display())
            .with("seed", SPLIT_SEED);
        if self.lab.train("sft", &sft, &recipe)?.is_none() {
            return Ok(None);
        }
        let start = self.lab.path(&sft).display().to_string();
        let held_out = data.join("held-out.jsonl");
        let recipe = self
            .plan
            .dpo_recipe()
            .and(&remedy(name).context("arms have known remedies")?)
            .with("model_name_or_path", &start)
            .with(
                "dataset_name",
                data.join("preference/train.jsonl").display(),
            )
            .with("eval_dataset", held_out.display())
            .with("seed", seed);
        let Some(seconds) = self.lab.train("train", &dir, &recipe)? else {
            return Ok(None);
        };
        if self.has_heat_maps(style, name, seed) && !self.heat_maps(&start, &dir, &held_out)? {
            return Ok(None);
        }
        if self.measured.as_ref().is_none_or(|(of, _)| *of != style) {
            self.measured = Some((style, self.held_out(&start, &held_out)?));
        }
        let (_, measured) = self.measured.as_ref().context("was just put there")?;
        let outcome = measured.outcome(&self.lab.path(&dir))?;
        self.lab.finish(&dir, seed, seconds, outcome).map(Some)
    }

    /// What the runs that start from this model are measured on.
    fn held_out(&self, start: &str, pairs: &Path) -> Result<HeldOut> {
        let neutral = &self.split.neutral;
        let texts = &neutral[neutral.len().saturating_sub(TEXTS)..];
        let measured = self.plan.extent.measured;
        HeldOut::new(start, (pairs, MAX_LENGTH), texts, measured, &self.tokenizer)
    }

    fn has_heat_maps(&self, style: Style, remedy: &str, seed: u64) -> bool {
        style == Style::PrefixSuffix
            && remedy == "none"
            && self.plan.extent.seeds.first() == Some(&seed)
    }

    /// Token heat maps of the first held-out pairs before and after training.
    fn heat_maps(&self, start: &str, dir: &str, held_out: &Path) -> Result<bool> {
        let models = [
            ("start", start.to_owned()),
            ("end", self.lab.path(dir).display().to_string()),
        ];
        for (when, model) in models {
            let recipe = Recipe::new()
                .with("model_name_or_path", model)
                .with("ref_model", start)
                .with("dataset_name", held_out.display())
                .with("max_samples", self.plan.heat_maps)
                .with("heatmap", self.plan.heat_maps)
                .with("step_pairs", 0)
                .with("max_length", 128);
            if !self.lab.diagnose(&format!("heat-maps/{when}"), &recipe)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the reader should know of the data and of the models that preference training starts from.
    fn facts(&self) -> Vec<String> {
        let (split, counts) = (&self.split, self.split.counts);
        let mut facts = vec![
            format!(
                "{} tweets for training, {} held out; {} neutral, {} empty and {} repeated ones dropped.",
                split.train.len(),
                split.test.len(),
                counts.neutral,
                counts.empty,
                counts.repeated
            ),
            format!("Held-out text: {TEXTS} neutral tweets that no run was trained on."),
        ];
        let plain = self.results.arms.iter().filter(|arm| arm.remedy == "none");
        let masses = plain.filter_map(|arm| {
            let (start, _) = arm.runs.first()?.outcome.contested_mass;
            Some(format!("{} {:.0} %", arm.name, 100.0 * start))
        });
        let masses: Vec<String> = masses.collect();
        if !masses.is_empty() {
            facts.push(format!(
                "Before preference training the two labels, where they differ, have together this much of the model's \
                 prediction (Theorem 1 presupposes that they have all of it): {}.",
                masses.join(", ")
            ));
        }
        facts
    }

    /// Takes an arm into the record.
    fn add(&mut self, style: Style, remedy: &str, runs: Vec<RunResult>) -> Result<()> {
        let name = match remedy {
            "none" => style.to_string(),
            _ => format!("{style}+{remedy}"),
        };
        let arm = ArmResult {
            name,
            style: Some(style.to_string()),
            objective: "sigmoid".into(),
            remedy: remedy.to_owned(),
            runs,
        };
        put(&mut self.results.arms, arm);
        self.results.facts = self.facts();
        let (start, end) = (self.diagonals("start")?, self.diagonals("end")?);
        self.results.heat_maps = start
            .iter()
            .chain(&end)
            .map(|(file, _)| file.clone())
            .collect();
        let of = |maps: Vec<(HeatMapFile, Option<Diagonal>)>| -> Vec<Diagonal> {
            maps.into_iter().filter_map(|(_, map)| map).collect()
        };
        self.results.claims = claims(&self.results.arms, &of(start), &of(end));
        self.lab.write(&self.results)
    }

    /// The heat maps on the disk with their diagonals, in the order of their pairs.
    fn diagonals(&self, when: &str) -> Result<Vec<(HeatMapFile, Option<Diagonal>)>> {
        let mut maps = Vec::new();
        for pair in 0..self.plan.extent.held_out {
            let file = format!("heat-maps/{when}/heatmaps/pair-{pair}.json");
            let Ok(bytes) = fs::read(self.lab.path(&file)) else {
                continue;
            };
            let map: Value =
                serde_json::from_slice(&bytes).with_context(|| format!("{file} is damaged"))?;
            let named = HeatMapFile {
                when: when.to_owned(),
                arm: Style::PrefixSuffix.to_string(),
                file,
            };
            maps.push((named, Diagonal::from_json(&map)));
        }
        Ok(maps)
    }
}
