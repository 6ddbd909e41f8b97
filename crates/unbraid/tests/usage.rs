//! How commands are used, and what they say of it: settings without effect, old names, losses that single completions
//! cannot have, `--json`.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, done, refused, run, text, train};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use unbraid::cli::{CliError, Command as Parsed, SamplingStrategy, parse};

fn line(command: &str, words: &[&str]) -> Result<(Parsed, Vec<String>), CliError> {
    let needed = ["unbraid", command, "--model-name-or-path", "m"];
    let data = ["--dataset-name", "d", "--output-dir", "o"];
    let words = needed.iter().chain(&data).chain(words).map(Into::into);
    parse(words).map(|parsed| (parsed.command, parsed.notes))
}

fn notes(command: &str, words: &[&str]) -> Vec<String> {
    let parsed = line(command, words);
    parsed
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
        .1
}

/// Option, a value that is not its default, what gives it an effect, and the note without that.
#[rustfmt::skip]
const CONDITIONAL: &[(&str, &str, &[&str], &str)] = &[
    ("npo_scale", "geometric", &["--remedy", "normalized"], "without remedy normalized"),
    ("mask_epsilon", "0.4", &["--token-mask", "head"], "without token_mask head or free"),
    ("mask_sharpness", "5", &["--token-mask", "free"], "without token_mask head or free"),
    ("mask_l1", "0.1", &["--token-mask", "head"], "without token_mask head or free"),
    ("mask_learning_rate", "0.1", &["--token-mask", "head"], "without token_mask head or free"),
    ("ref_model_mixup_alpha", "0.5", &["--sync-ref-model"], "without sync_ref_model"),
    ("ref_model_sync_steps", "64", &["--sync-ref-model"], "without sync_ref_model"),
    ("momentum", "0.9", &["--optim", "sgd"], "without optim sgd"),
    ("logging_dir", "logs", &["--report-to", "tensorboard"], "without report_to tensorboard"),
    ("lora_r", "8", &["--use-peft"], "without use_peft"),
    ("lora_alpha", "16", &["--use-peft"], "without use_peft"),
    ("lora_dropout", "0", &["--use-peft"], "without use_peft"),
    ("lora_target_modules", "all-linear", &["--use-peft"], "without use_peft"),
    ("lora_modules_to_save", "lm_head", &["--use-peft"], "without use_peft"),
    ("use_rslora", "true", &["--use-peft"], "without use_peft"),
];

#[test]
fn settings_without_effect_are_named() {
    for (option, value, condition, why) in CONDITIONAL {
        let given = [format!("--{option}"), (*value).to_owned()];
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        assert_eq!(
            notes("train", &given),
            [format!("{option}: no effect {why}")]
        );
        let with = [&given[..], condition].concat();
        assert!(
            notes("train", &with).is_empty(),
            "{with:?}: {:?}",
            notes("train", &with)
        );
    }
    for (words, expected) in [
        (
            &[
                "--optim",
                "sgd",
                "--adam-beta1",
                "0.8",
                "--adam-epsilon",
                "1e-7",
            ][..],
            "adam_beta1, adam_epsilon: no effect with optim sgd",
        ),
        (
            &["--optim", "adafactor", "--adam-beta2", "0.99"],
            "adam_beta2: no effect with optim adafactor",
        ),
        (
            &[
                "--optim",
                "lion",
                "--adam-beta2",
                "0.99",
                "--adam-epsilon",
                "1e-7",
            ],
            "adam_epsilon: no effect with optim lion",
        ),
        (
            &["--lr-scheduler-type", "constant", "--warmup-steps", "5"],
            "warmup_steps: no effect with lr_scheduler_type constant",
        ),
        (
            &["--sync-ref-model", "--precompute-ref-log-probs"],
            "precompute_ref_log_probs: no effect with sync_ref_model",
        ),
        (
            &["--lora-r", "8", "--lora-alpha", "9"],
            "lora_r, lora_alpha: no effect",
        ),
    ] {
        let notes = notes("train", words);
        assert!(
            notes.len() == 1 && notes[0].starts_with(expected),
            "{words:?}: {notes:?}"
        );
    }
    let silent: [&[&str]; 4] = [
        &[
            "--momentum",
            "0",
            "--lora-r",
            "16",
            "--mask-l1",
            "1e-3",
            "--npo-scale",
            "unit",
        ],
        &[
            "--lr-scheduler-type",
            "constant_with_warmup",
            "--warmup-ratio",
            "0.1",
        ],
        &["--adam-beta1", "0.8", "--adam-epsilon", "1e-7"],
        &["--geometry", "every"],
    ];
    for words in silent {
        assert!(notes("train", words).is_empty(), "{words:?}");
    }
    let said = notes("train", &["--geometry", "off", "--update-every", "4"]);
    assert_eq!(said, ["update_every: no effect with geometry off"]);
    let sft = [
        "--geometry",
        "every",
        "--momentum",
        "0.9",
        "--gram-every",
        "4",
    ];
    let said = notes("sft", &sft);
    assert_eq!(said[0], "momentum: no effect without optim sgd");
    for (said, option) in said[1..].iter().zip(["geometry", "gram_every"]) {
        let note = format!("{option}: no effect in sft");
        assert!(said.starts_with(&note), "{said:?}");
    }
    assert_eq!(said.len(), 3);
    assert!(notes("sft", &["--geometry", "off"]).is_empty() && notes("sft", &[]).is_empty());
}

#[test]
fn what_an_objective_leaves_unread_and_its_own_beta_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, simpo, sppo) = (
        dir.path().join("a"),
        dir.path().join("b"),
        dir.path().join("c"),
    );
    let model = demo("model");
    let reference = ["--ref-model", &model, "--precompute-ref-log-probs", "true"];
    let said = done(&mut train(&plain, &reference));
    assert!(
        !said.contains("beta is") && !said.contains("reads no reference"),
        "{said}"
    );
    let said = done(&mut train(
        &simpo,
        &[&reference[..], &["--loss-type", "simpo"]].concat(),
    ));
    let note =
        "without effect on simpo, which reads no reference: ref_model, precompute_ref_log_probs";
    assert_eq!(said.matches(note).count(), 1, "{said}");
    let note = "note: beta is 2, simpo's own default; TRL's is 0.1 for every loss";
    assert_eq!(said.matches(note).count(), 1, "{said}");
    let said = done(&mut train(&sppo, &["--loss-type", "sppo", "--beta", "0.1"]));
    assert!(!said.contains("own default"), "{said}");
}

#[test]
fn the_old_name_of_grouping_by_length_still_works() {
    let order = |words: &[&str]| {
        let (command, notes) = line("train", words).unwrap();
        assert!(notes.is_empty(), "{words:?}: {notes:?}");
        match command {
            Parsed::Train(config) => {
                let given = config.trainer.train_sampling_strategy;
                given.unwrap_or(SamplingStrategy::Random)
            }
            other => panic!("not train: {other:?}"),
        }
    };
    let (grouped, sequential) = (
        SamplingStrategy::GroupByLength,
        SamplingStrategy::Sequential,
    );
    let dir = tempfile::tempdir().unwrap();
    let recipe = |text: &str| {
        let path = dir.path().join("recipe.yaml");
        fs::write(&path, text).unwrap();
        text_of(&path)
    };
    assert_eq!(order(&["--group_by_length", "True"]), grouped);
    assert_eq!(order(&["--group_by_length"]), grouped);
    assert_eq!(
        order(&["--group_by_length", "false"]),
        SamplingStrategy::Random
    );
    assert_eq!(
        order(&[
            "--group_by_length",
            "false",
            "--train_sampling_strategy",
            "sequential"
        ]),
        sequential
    );
    let both = [
        "--group_by_length",
        "--train_sampling_strategy",
        "group_by_length",
    ];
    assert_eq!(order(&both), grouped);
    assert_eq!(order(&[&recipe("group_by_length: true\n")]), grouped);

    // The command line goes before the recipe.
    let path = recipe("group_by_length: true\n");
    assert_eq!(
        order(&[&path, "--train_sampling_strategy", "sequential"]),
        sequential
    );
    let path = recipe("train_sampling_strategy: sequential\n");
    assert_eq!(order(&[&path, "--group_by_length"]), grouped);
    let path = recipe("train_sampling_strategy: group_by_length\n");
    assert_eq!(
        order(&[&path, "--group_by_length", "false"]),
        SamplingStrategy::Random
    );

    let path = recipe("train_sampling_strategy: random\ngroup_by_length: true\n");
    for words in [
        &[
            "--group_by_length",
            "--train_sampling_strategy",
            "sequential",
        ][..],
        &[
            "--group_by_length",
            "false",
            "--train_sampling_strategy",
            "group_by_length",
        ],
        &[&path],
    ] {
        let error = line("train", words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("group_by_length is "),
            "{words:?}: {error}"
        );
    }
    assert!(
        line("train", &[&path])
            .unwrap_err()
            .to_string()
            .contains("recipe.yaml:2: ")
    );
    assert!(line("train", &["--group_by_length=perhaps"]).is_err());
}

fn text_of(path: &Path) -> String {
    text(path).to_owned()
}

#[test]
fn kto_on_judged_completions_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("judged.jsonl"), dir.path().join("out"));
    let row = |i: usize| {
        let (prompt, label) = (format!("Review {i}:"), i.is_multiple_of(2));
        json!({ "prompt": prompt, "completion": " a good film", "label": label }).to_string() + "\n"
    };
    fs::write(&data, (0..8).map(row).collect::<String>()).unwrap();
    let kto = ["--dataset-name", text(&data), "--loss-type", "kto"];
    for (further, parts) in [
        (
            &["--reference-free"][..],
            ["reference_free leaves", "hint: leave reference_free out"],
        ),
        (&["--loss-weights", "2"], ["has weight 1", "2*kto"]),
        (
            &["--rpo-alpha", "1"],
            ["is the only loss", "without loss_weights and rpo_alpha"],
        ),
        (
            &["--loss-type", "ipo"],
            ["are for kto, and ipo needs pairs", "--loss-type kto"],
        ),
        (
            &["--remedy", "guarded"],
            ["remedy needs pairs", "single completions"],
        ),
    ] {
        // A second --loss-type is one more name, so ipo stands alone.
        let words = if further[0] == "--loss-type" {
            &kto[..2]
        } else {
            &kto[..]
        };
        refused(&mut train(&out, &[words, further].concat()), 2, &parts);
        assert!(!out.exists(), "{further:?}");
    }
    let note = "geometry is not measured";
    let said = done(&mut train(
        &out,
        &[&kto[..], &["--geometry", "every"]].concat(),
    ));
    assert_eq!(said.matches(note).count(), 1, "{said}");
    let said = done(&mut train(&dir.path().join("off"), &kto));
    assert!(!said.contains(note), "{said}");
}

#[test]
fn results_are_printed_as_json_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let (out, model) = (dir.path().join("run"), demo("model"));
    let (held_out, texts) = (demo("preferences-test.jsonl"), demo("corpus.jsonl"));
    let result = |command: &mut Command| -> Value {
        let (output, said) = run(command);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let evaluation = ["--eval-dataset", &held_out, "--eval-strategy", "steps"];
    let lora = [
        "--use-peft",
        "--lora-r",
        "2",
        "--save-steps",
        "1",
        "--max-samples",
        "8",
    ];
    let options = [&evaluation[..], &lora, &["--json"]].concat();
    let printed = result(&mut train(&out, &options));
    let rows = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    let expected =
        json!({ "output_dir": text(&out), "step": 2, "train": rows[2], "eval": rows[3] });
    assert_eq!(printed, expected);
    assert!(rows[2]["loss"].is_number() && rows[3]["eval_loss"].is_number());
    // How a run's result is shown does not make it another run, and without --json nothing is on stdout.
    let shown = &[&evaluation[..], &lora, &["--resume-from-checkpoint"]].concat();
    let (output, said) = run(&mut train(&out, shown));
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{said}"
    );

    let merged = dir.path().join("merged");
    let mut merge = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    merge.args([
        "merge",
        "--json",
        "--model-name-or-path",
        text(&out),
        "--output-dir",
        text(&merged),
    ]);
    let base = Path::new(&model).canonicalize().unwrap();
    let expected =
        json!({ "output_dir": text(&merged), "adapter": text(&out), "base": text(&base) });
    assert_eq!(result(&mut merge), expected);

    let tuned = dir.path().join("tuned");
    let mut sft = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    sft.args([
        "sft",
        "--json",
        "--model-name-or-path",
        &model,
        "--dataset-name",
        &texts,
    ])
    .args([
        "--output-dir",
        text(&tuned),
        "--max-steps",
        "1",
        "--max-samples",
        "8",
    ]);
    let printed = result(&mut sft);
    assert_eq!(
        (&printed["step"], &printed["eval"]),
        (&json!(1), &Value::Null)
    );
    assert!(printed["train"]["loss"].is_number(), "{printed}");
}
