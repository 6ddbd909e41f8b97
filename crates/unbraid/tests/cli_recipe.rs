//! Recipes: precedence, messages with file and line, TRL's files as they are.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use unbraid::cli::{
    CliError, Command, MaxLength, Parsed, SamplingStrategy, SftConfig, Steps, Strategy,
    TrainConfig, parse, to_recipe,
};

fn line(words: &[&str]) -> Result<Parsed, CliError> {
    parse(["unbraid"].iter().chain(words).map(Into::into))
}

/// A recipe on disk; its directory is removed with it.
struct Recipe {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Recipe {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recipe.yaml");
        std::fs::write(&path, text).unwrap();
        Self {
            _directory: directory,
            path,
        }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The message with which `train` refuses this recipe, the directory left out.
    fn refused(&self) -> String {
        let error = line(&["train", self.name()]).expect_err("the recipe was accepted");
        assert_eq!(error.exit_code(), 2);
        error.to_string().replace(self.name(), "recipe.yaml")
    }
}

fn train(words: &[&str]) -> (TrainConfig, Vec<String>) {
    let parsed = line(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    match parsed.command {
        Command::Train(config) => (*config, parsed.notes),
        other => panic!("not train: {other:?}"),
    }
}

fn sft(words: &[&str]) -> (SftConfig, Vec<String>) {
    let parsed = line(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    match parsed.command {
        Command::Sft(config) => (*config, parsed.notes),
        other => panic!("not sft: {other:?}"),
    }
}

const NEEDED: &str = "model_name_or_path: m\ndataset_name: d\noutput_dir: o\n";

#[test]
fn the_command_line_goes_before_the_recipe_and_the_recipe_before_the_default() {
    let recipe = Recipe::new(&format!(
        "{NEEDED}learning_rate: 2e-6\nloss_type: [sigmoid, sft]\nbeta: 0.3\n"
    ));
    let (config, _) = train(&[
        "train",
        recipe.name(),
        "--learning-rate",
        "3e-6",
        "--loss_type",
        "ipo",
    ]);
    assert_eq!(config.trainer.learning_rate, 3e-6);
    assert_eq!(config.objective.loss_type, ["ipo"]);
    assert_eq!(config.objective.beta, Some(0.3));
    assert_eq!(config.trainer.num_train_epochs, 3.0);
    // An option before the recipe does not swallow it, and TRL's --config names one too.
    for words in [
        &["train", "--report_to", "none", recipe.name()][..],
        &["train", "--bf16", recipe.name()],
        &["train", "--remove_unused_columns", recipe.name()],
        &["train", "--config", recipe.name()],
    ] {
        assert_eq!(train(words).0.objective.beta, Some(0.3), "{words:?}");
    }
}

#[test]
fn an_overridden_value_is_not_judged() {
    let recipe = Recipe::new(&format!(
        "{NEEDED}label_smoothing_factor: 0.3\nlearning_rate: 1e-6\n"
    ));
    assert!(recipe.refused().contains("not supported yet"));
    train(&["train", recipe.name(), "--label_smoothing_factor", "0"]);
}

#[test]
fn an_unknown_key_is_refused_with_line_and_nearest_key() {
    let recipe = Recipe::new(&format!("{NEEDED}\n# comment\nlearning_rte: 1e-6\n"));
    assert_eq!(
        recipe.refused(),
        "recipe.yaml:6: unknown key learning_rte\nhint: did you mean learning_rate?"
    );
    let recipe = Recipe::new("qqqq: 1\n");
    assert_eq!(
        recipe.refused(),
        "recipe.yaml:1: unknown key qqqq\nhint: unbraid train --help lists the options"
    );
    // --config names a recipe; inside one it means nothing.
    assert!(
        Recipe::new("config: other.yaml\n")
            .refused()
            .contains("unknown key config")
    );
}

#[test]
fn a_key_of_another_trainer_is_named() {
    let said = |key: &str| Recipe::new(&format!("{key}: 1\n")).refused();
    assert_eq!(
        said("cutoff_len"),
        "recipe.yaml:1: unknown key cutoff_len\nhint: this is a key of LLaMA-Factory; here it is max_length"
    );
    assert!(said("micro_batch_size").ends_with("axolotl; here it is per_device_train_batch_size"));
}

#[test]
fn a_key_given_twice_is_refused_with_both_lines() {
    let recipe = Recipe::new("beta: 0.1\nseed: 1\nbeta: 0.2\n");
    assert_eq!(
        recipe.refused(),
        "recipe.yaml:3: key beta is given twice; the first is on line 1"
    );
    let recipe = Recipe::new("dtype: auto\ntorch_dtype: auto\n");
    assert_eq!(
        recipe.refused(),
        "recipe.yaml:2: key dtype is given twice; the first is on line 1"
    );
    let recipe = Recipe::new("run-name: a\nrun_name: b\n");
    assert_eq!(
        recipe.refused(),
        "recipe.yaml:2: key run_name is given twice; the first is on line 1"
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_line() {
    let cases = [
        (
            "seed: 1\nlearning_rate: fast\n",
            "recipe.yaml:2: invalid value \"fast\" for learning_rate: expected a number",
        ),
        (
            "bf16: perhaps\n",
            "recipe.yaml:1: invalid value \"perhaps\" for bf16: expected one of true, false",
        ),
        (
            "seed: [1, 2]\n",
            "recipe.yaml:1: invalid value \"1, 2\" for seed: expected one value, found a list",
        ),
        (
            "seed:\n  a: 1\n",
            "recipe.yaml:1: invalid value \"{…}\" for seed: expected a plain value or a list of them",
        ),
        (
            "loss_type: [[a], b]\n",
            "recipe.yaml:1: invalid value \"{…}\" for loss_type: expected a plain value or a list of them",
        ),
        (
            "chat_template_path: x\n",
            "recipe.yaml:1: chat_template_path = x is not supported yet\nhint: leave chat_template_path out",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(Recipe::new(text).refused(), message);
    }
}

#[test]
fn what_is_not_a_mapping_is_refused_with_line_and_column() {
    assert_eq!(
        Recipe::new("- a\n- b\n").refused(),
        "recipe.yaml:1:1: expected `key: value` lines"
    );
    assert_eq!(
        Recipe::new("seed: 1\n---\nseed: 2\n").refused(),
        "recipe.yaml:3:1: a recipe is one YAML document; here a second one starts"
    );
    assert_eq!(
        Recipe::new("a: &x 1\nbeta: *x\n").refused(),
        "recipe.yaml:2:7: aliases (*name) are not read in recipes"
    );
    let message = Recipe::new("seed: 1\nbeta: [0.1\nrun_name: x\n").refused();
    assert!(
        message.starts_with("recipe.yaml:") && message.contains("not valid YAML"),
        "{message}"
    );
    let error = line(&["train", "no/such/recipe.yaml"]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read recipe no/such/recipe.yaml: "),
        "{error}"
    );
}

#[test]
fn an_empty_recipe_sets_nothing() {
    for text in ["", "# only a comment\n", "---\n"] {
        let recipe = Recipe::new(text);
        let words = [
            "train",
            recipe.name(),
            "--model-name-or-path",
            "m",
            "--dataset-name",
            "d",
            "--output-dir",
            "o",
        ];
        assert_eq!(
            train(&words).0,
            train(&[&words[..1], &words[2..]].concat()).0,
            "{text:?}"
        );
    }
}

#[test]
fn null_means_the_default_except_for_max_length() {
    let recipe = Recipe::new(&format!(
        "{NEEDED}beta: null\nsave_total_limit:\nrun_name: ~\nmax_length: null\n"
    ));
    let (config, _) = train(&["train", recipe.name()]);
    assert_eq!(
        (config.objective.beta, config.trainer.save_total_limit),
        (None, None)
    );
    assert_eq!(config.trainer.run_name, None);
    assert_eq!(config.data.max_length, MaxLength(None));
}

#[test]
fn scalars_mean_what_the_option_says() {
    // YAML 1.1 would read `no` as a boolean, 1e-6 as a string, and 010 as eight.
    let recipe = Recipe::new(&format!(
        "{NEEDED}eval_strategy: no\nlearning_rate: 1e-6\nrun_name: 010\nbf16: yes\n"
    ));
    let (config, _) = train(&["train", recipe.name()]);
    assert_eq!(config.trainer.eval_strategy, Strategy::No);
    assert_eq!(config.trainer.learning_rate, 1e-6);
    assert_eq!(config.trainer.name(), "010");
    assert!(config.trainer.bf16);
}

#[test]
fn a_written_configuration_is_a_recipe_of_itself() {
    let words = [
        "train",
        "--model-name-or-path",
        "m",
        "--dataset-name",
        "d \"quoted\": #x",
        "--output-dir",
        "runs/a",
        "--learning-rate",
        "5e-7",
        "--loss-type",
        "sigmoid",
        "ipo",
        "--loss-weights",
        "0.25",
        "1",
        "--geometry",
        "every",
        "--max-length",
        "none",
        "--eval-strategy",
        "epoch",
        "--device",
        "cuda:1",
        "--warmup-steps",
        "0.1",
    ];
    let (config, _) = train(&words);
    let text = to_recipe(&config).unwrap();
    // Python's YAML reads a number only with a point before the exponent.
    assert!(text.contains("learning_rate: 5.0e-7\n"), "{text}");
    // A run adds its own record under one key, which is not an option.
    let recipe = Recipe::new(&format!("{text}unbraid:\n  version: 0.1.0\n  hosts: [a]\n"));
    let (again, notes) = train(&["train", recipe.name()]);
    assert_eq!(again, config);
    assert!(notes.is_empty(), "{notes:?}");

    let (config, _) = sft(&[
        "sft",
        "--model-name-or-path",
        "m",
        "--dataset-name",
        "d",
        "--output-dir",
        "o",
        "--completion-only-loss",
        "false",
    ]);
    let recipe = Recipe::new(&to_recipe(&config).unwrap());
    assert_eq!(sft(&["sft", recipe.name()]).0, config);
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    path.to_str().unwrap().to_owned()
}

/// Every key that TRL 1.16 and transformers 5.23 know, at its default, is accepted and changes nothing but what TRL's
/// default differs in.
#[test]
fn every_key_of_trl_is_known() {
    let needed = [
        "--model_name_or_path",
        "m",
        "--dataset_name",
        "d",
        "--output_dir",
        "o",
    ];
    let dpo = fixture("trl_dpo_defaults.yaml");
    let (mut config, notes) = train(&[&["train", dpo.as_str()][..], &needed].concat());
    let (expected, _) = train(&[&["train"][..], &needed].concat());
    assert_eq!(config.objective.beta, Some(0.1));
    config.objective.beta = None;
    // Defaults of TRL that are the objectives' own here.
    assert_eq!(config.objective.discopop_tau.take(), Some(0.05));
    assert_eq!(config.objective.f_alpha_divergence_coef.take(), Some(0.5));
    assert_eq!(config.objective.label_smoothing.take(), Some(0.0));
    let order = config.trainer.train_sampling_strategy.take();
    assert_eq!(order, Some(SamplingStrategy::Random));
    // TRL loads weights in float32 unless told otherwise; `auto` is that on a CPU.
    config.model.dtype = expected.model.dtype;
    config.trainer.gradient_checkpointing = expected.trainer.gradient_checkpointing;
    assert_eq!(config, expected);
    assert_eq!(notes.len(), 1, "{notes:?}");

    let defaults = fixture("trl_sft_defaults.yaml");
    let (mut config, _) = sft(&[&["sft", defaults.as_str()][..], &needed].concat());
    let (expected, _) = sft(&[&["sft"][..], &needed].concat());
    let order = config.trainer.train_sampling_strategy.take();
    assert_eq!(order, Some(SamplingStrategy::Random));
    config.model.dtype = expected.model.dtype;
    config.trainer.gradient_checkpointing = expected.trainer.gradient_checkpointing;
    assert_eq!(config, expected);
}

#[test]
fn trl_recipes_are_read_unchanged() {
    let (config, notes) = train(&["train", &fixture("recipes/dpo_full.yaml")]);
    assert_eq!(config.trainer.learning_rate, 5e-7);
    assert_eq!(config.trainer.gradient_accumulation_steps, 16);
    assert_eq!(
        (config.trainer.eval_strategy, config.trainer.eval_interval()),
        (Strategy::Steps, Steps(50.0))
    );
    assert_eq!(config.trainer.warmup_ratio, 0.1);
    assert!(config.trainer.bf16);
    assert!(
        notes[0].starts_with("accepted without effect here: dataset_num_proc"),
        "{notes:?}"
    );

    let (config, notes) = train(&["train", &fixture("recipes/dpo_splits.yaml")]);
    assert_eq!(
        (
            &*config.data.dataset_train_split,
            &*config.data.dataset_test_split
        ),
        ("train_prefs", "test_prefs")
    );
    assert_eq!((config.objective.beta, config.model.seed), (Some(0.01), 7));
    assert!(
        notes[0].contains("gradient_checkpointing_kwargs"),
        "{notes:?}"
    );

    let (config, notes) = train(&["train", &fixture("recipes/dpo_weighted.yaml")]);
    assert_eq!(config.objective.loss_type, ["sigmoid", "bco_pair", "sft"]);
    assert_eq!(config.objective.loss_weights, [0.8, 0.2, 1.0]);
    assert_eq!(config.trainer.max_steps, 200);
    assert_eq!(
        notes,
        ["accepted without effect here: dataloader_num_workers, fsdp_config, hub_model_id"]
    );
}

/// What the two other TRL recipes set; `tests/recipes.rs` runs all of them.
#[test]
fn trl_recipes_of_adapters_and_packing_are_read() {
    let path = fixture("recipes/dpo_lora.yaml");
    let (config, _) = train(&["train", &path]);
    assert!(config.lora.use_peft);
    assert_eq!((config.lora.lora_r, config.lora.lora_alpha), (64, 128.0));
    assert_eq!(
        config.lora.lora_target_modules,
        ["q_proj", "k_proj", "v_proj"]
    );

    let path = fixture("recipes/sft_packing.yaml");
    let (config, _) = sft(&["sft", &path]);
    assert!(config.packing);
    assert_eq!(
        (&*config.dataset_text_field, config.trainer.max_steps),
        ("content", 128)
    );
}

#[test]
fn the_recipes_of_the_repository_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let command = if name.starts_with("sft") {
            "sft"
        } else {
            "train"
        };
        let parsed =
            line(&[command, path.to_str().unwrap()]).unwrap_or_else(|error| panic!("{error}"));
        assert!(parsed.notes.is_empty(), "{name}: {:?}", parsed.notes);
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["# What:", "# Command:", "# Hardware:", "# Expect:"] {
            assert!(text.contains(word), "{name} has no {word}");
        }
        seen += 1;
    }
    assert!(seen >= 2, "{seen} recipes in {}", folder.display());
}
