//! `unbraid plan`: the demo's model with its data, an 8B configuration alone, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use common::{demo, refused, run, text};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Llama-3-8B's shape.
const LLAMA_3_8B: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":4096,
    "intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,
    "max_position_embeddings":8192,"rms_norm_eps":1e-5,"rope_theta":500000.0,"hidden_act":"silu",
    "tie_word_embeddings":false,"torch_dtype":"bfloat16"}"#;

/// `unbraid plan` with given rates, so that nothing is measured.
fn plan(further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unbraid"));
    command
        .args(["plan", "--gflops", "100", "--bandwidth", "10"])
        .args(further);
    command
}

#[track_caller]
fn json(command: &mut Command) -> (Value, String) {
    let (output, said) = run(command.arg("--json"));
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn the_demo_is_planned_from_its_files() {
    let (model, data) = (demo("model"), demo("preferences.jsonl"));
    let (plan, said) = json(&mut plan(&[
        "--model",
        &model,
        "--dataset",
        &data,
        "--per-device-train-batch-size",
        "4",
        "--max-steps",
        "10",
    ]));
    for part in [
        "gradients",
        "optimizer state",
        "peak of the run",
        "the floor is",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(plan["steps"], 10);
    assert_eq!(plan["model"]["parameters"], plan["model"]["trainable"]);
    let parts = &plan["memory"]["parts"];
    assert_eq!(
        number(&parts["weights"]),
        4.0 * number(&plan["model"]["parameters"])
    );
    assert_eq!(
        number(&parts["optimizer"]),
        2.0 * number(&parts["gradients"])
    );
    // The default measures the first and the tenth step and explains the first.
    let kinds = plan["step_kinds"].as_array().unwrap();
    let counts: Vec<_> = kinds.iter().map(|k| number(&k["count"])).collect();
    assert_eq!(counts, [8.0, 1.0, 1.0]);
    // Rates as given: 100 GFLOP/s for arithmetic.
    let step = &plan["step"];
    let floor = number(&step["flops"]) / 1e11;
    assert!((number(&step["floor_seconds"]) / floor - 1.0).abs() < 1e-9);
    assert!(number(&plan["seconds"]) >= 10.0 * floor);
}

#[test]
fn a_recipe_of_train_can_be_planned() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe.yaml");
    let lines = format!(
        "model_name_or_path: {}\ndataset_name: {}\noutput_dir: out\nlearning_rate: 1e-5\nmax_steps: 3\nuse_peft: true\n",
        demo("model"),
        demo("preferences.jsonl")
    );
    std::fs::write(&recipe, lines).unwrap();
    let (plan, _) = json(plan(&[text(&recipe)]).current_dir(dir.path()));
    assert_eq!(plan["steps"], 3);
    assert!(number(&plan["model"]["trainable"]) < number(&plan["model"]["parameters"]));
    assert!(!dir.path().join("out").exists(), "nothing is written");
}

fn configuration(dir: &Path) -> String {
    let file = dir.join("llama-3-8b.json");
    std::fs::write(&file, LLAMA_3_8B).unwrap();
    text(&file).to_owned()
}

#[test]
fn an_8b_model_is_planned_from_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let lengths = ["--model", &config, "--pairs", "64"];
    let full = json(plan(&lengths).args(["--device-profile", "h100"])).0;
    assert_eq!(number(&full["model"]["parameters"]), 8_030_261_248.0);
    assert_eq!(full["memory"]["fits"], false);
    // Weights, gradients and two moments in f32 alone are 128 GB.
    assert!(number(&full["memory"]["peak"]) > 16.0 * 8.03e9);
    let advice = full["advice"].as_array().unwrap();
    let last = advice.last().unwrap();
    assert_eq!(
        (&last["change"], &last["fits"]),
        (&"all of these".into(), &true.into())
    );

    // Frozen weights stay in the configuration's bf16.
    let adapter = [
        "--device-profile",
        "H100",
        "--use-peft",
        "--bf16",
        "--gradient-checkpointing",
    ];
    let (lora, said) = json(plan(&lengths).args(adapter));
    assert_eq!(lora["memory"]["fits"], true);
    let weights = number(&lora["memory"]["parts"]["weights"]);
    assert!((weights / (2.0 * 8.03e9) - 1.0).abs() < 0.01, "{weights}");
    assert!(
        said.contains("are assumed to be reached") && said.contains("data sheet"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = configuration(dir.path());
    let data = demo("preferences.jsonl");
    refused(&mut plan(&["--pairs", "4"]), 2, &["--model-name-or-path"]);
    refused(
        &mut plan(&["--model", "no-such-model", "--pairs", "4"]),
        1,
        &["no-such-model", "hint"],
    );
    refused(
        &mut plan(&["--model", &config]),
        2,
        &["--dataset-name or --pairs"],
    );
    refused(
        &mut plan(&["--model", &config, "--dataset", &data, "--pairs", "4"]),
        2,
        &["not from both"],
    );
    refused(
        &mut plan(&["--model", &config, "--dataset", &data]),
        1,
        &["no tokenizer", "--prompt-tokens"],
    );
    refused(
        &mut plan(&[
            "--model",
            &config,
            "--pairs",
            "4",
            "--device-profile",
            "abacus",
        ]),
        2,
        &["abacus", "h100", "rtx4090"],
    );
    refused(
        &mut plan(&[
            "--model",
            &config,
            "--pairs",
            "4",
            "--prompt-tokens",
            "1024",
        ]),
        2,
        &["max_length 1024"],
    );
    refused(
        &mut plan(&[
            "--model",
            &config,
            "--pairs",
            "4",
            "--use-peft",
            "--lora-target-modules",
            "c_attn",
        ]),
        2,
        &["c_attn", "q_proj"],
    );
}
