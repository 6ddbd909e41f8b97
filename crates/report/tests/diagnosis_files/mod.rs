//! The files of a diagnosis as `unbraid diagnose` writes them, made up: geometry of pairs whose cosines spread from
//! −0.2 to 0.97, with cases that follow from it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A generator of numbers in [0, 1) whose sequence is the same everywhere (Knuth's MMIX constants).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

const WORDS: [&str; 24] = [
    "the", "answer", "is", "a", "model", "learns", "to", "prefer", "short", "replies", "when",
    "people", "ask", "for", "help", "with", "cooking", "rice", "and", "beans", "quickly", "today",
    "<b>", "日本",
];

fn text(numbers: &mut Numbers, words: usize) -> String {
    let word = |numbers: &mut Numbers| WORDS[(numbers.next() * WORDS.len() as f64) as usize];
    (0..words)
        .map(|_| word(numbers))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Case of two first-order changes (SPEC table 1).
fn case(chosen: f64, rejected: f64) -> &'static str {
    match (chosen > 0.0, rejected < 0.0) {
        (true, true) => "ideal",
        (false, true) => "both_fall",
        (true, false) => "both_rise",
        (false, false) => "reversed",
    }
}

/// Weights of chosen's and rejected's gradient; those of the remedy depend on the pair's norms.
fn weights(name: &str, norm: [f64; 2]) -> [f64; 2] {
    match name {
        "sigmoid+normalized" => [
            0.05 * (norm[1] / norm[0]).sqrt(),
            0.05 * (norm[0] / norm[1]).sqrt(),
        ],
        "cpo" => [1.05, 0.05],
        "simpo" => [0.021, 0.034],
        "sppo" => [9.0, 11.0],
        _ => [0.05, 0.05],
    }
}

const OBJECTIVES: [&str; 6] = [
    "sigmoid",
    "rdpo",
    "cpo",
    "simpo",
    "sppo",
    "sigmoid+normalized",
];

/// One row of `geometry.jsonl`.
fn row(index: usize, numbers: &mut Numbers, layers: usize, step: bool) -> Value {
    let length = [20.0, 20.0].map(|base| (base + 100.0 * numbers.next()).floor());
    let norm = length.map(|length| 8.0 * (length / 60.0_f64).sqrt() * (0.6 + 0.8 * numbers.next()));
    let spread = numbers.next();
    let cosine = 0.97 - 1.17 * spread * spread * numbers.next().sqrt();
    let (square, inner) = (norm.map(|norm| norm * norm), cosine * norm[0] * norm[1]);
    let logps = length.map(|length| -1.7 * length * (0.8 + 0.4 * numbers.next()));
    let mut objectives = Map::new();
    for name in OBJECTIVES {
        let [d_w, d_l] = weights(name, norm);
        let chosen = d_w * square[0] - d_l * inner;
        let rejected = d_w * inner - d_l * square[1];
        objectives.insert(
            name.into(),
            json!({"loss": 0.693, "d_w": d_w, "d_l": d_l, "case": case(chosen, rejected), "delta_chosen": chosen, "delta_rejected": rejected}),
        );
    }
    let mut groups = Map::new();
    let mut put = |name: String, share: f64| {
        groups.insert(
            name,
            json!({"grad_sq_chosen": share * square[0], "grad_sq_rejected": share * square[1], "grad_inner": share * inner}),
        );
    };
    put("embedding".into(), 0.24);
    put("norm".into(), 0.01);
    for layer in 0..layers {
        put(format!("layers.{layer}.attention"), 0.25 / layers as f64);
        put(format!("layers.{layer}.mlp"), 0.5 / layers as f64);
    }
    let noise = |numbers: &mut Numbers| 0.1 * (numbers.next() - 0.5);
    let mut value = json!({
        "index": index, "chosen_logps": logps[0], "rejected_logps": logps[1], "ref_chosen_logps": logps[0],
        "ref_rejected_logps": logps[1], "chosen_len": length[0], "rejected_len": length[1], "reward_chosen": 0.0, "reward_rejected": 0.0,
        "reward_margin": 0.01 * noise(numbers), "grad_sq_chosen": square[0], "grad_sq_rejected": square[1], "grad_inner": inner,
        "grad_cosine": cosine, "groups": groups, "ches": -300.0 + 100.0 * cosine, "ches_normalized": -2.0 + 2.0 * cosine + noise(numbers),
        "edit_distance": 1.0 - 0.9 * cosine.max(0.0) * numbers.next(), "shared_tokens": cosine.max(0.0), "head_inner": 0.3 * inner,
        "head_cosine": (cosine + 3.0 * noise(numbers)).min(1.0), "objectives": objectives,
    });
    if step {
        let moved = |scale: f64, numbers: &mut Numbers| 2e-3 * scale * (1.0 + noise(numbers));
        let update = [0.4 - cosine, -1.0 + 0.5 * cosine];
        value["step"] = json!({
            "predicted_chosen": 1e-5 * (1.0 - cosine), "predicted_rejected": -1e-5 * (1.0 - 0.5 * cosine),
            "update_chosen": 2e-3 * update[0], "update_rejected": 2e-3 * update[1],
            "realised_chosen": moved(update[0], numbers), "realised_rejected": moved(update[1], numbers),
        });
    }
    value
}

/// `geometry.jsonl`, `pairs.jsonl`, `summary.json` and `run.yaml` of `pairs` pairs with `words` words a text.
pub fn write_diagnosis(dir: &Path, pairs: usize, words: usize) {
    fs::create_dir_all(dir).unwrap();
    let mut numbers = Numbers::new(7);
    let (mut rows, mut texts) = (String::new(), String::new());
    let mut kept = Vec::new();
    for index in 0..pairs {
        // Indices have gaps: some rows of a data set are unusable.
        let index = 3 * index + 1;
        let value = row(index, &mut numbers, 12, index < 200);
        writeln!(rows, "{value}").unwrap();
        let chosen = text(&mut numbers, words);
        let rejected = chosen.replacen("the", "no", 2) + " instead";
        let prompt = format!(
            "<|im_start|>user\nQuestion number {index}: {}<|im_end|>\n",
            text(&mut numbers, 12)
        );
        writeln!(
            texts,
            "{}",
            json!({"index": index, "prompt": prompt, "chosen": chosen, "rejected": rejected})
        )
        .unwrap();
        kept.push(value);
    }
    fs::write(dir.join("geometry.jsonl"), rows).unwrap();
    fs::write(dir.join("pairs.jsonl"), texts).unwrap();
    fs::write(
        dir.join("run.yaml"),
        "command: unbraid diagnose --model-name-or-path '</script><b>&'\nlearning_rate: 1e-6\n",
    )
    .unwrap();
    fs::write(dir.join("summary.json"), summary(&kept).to_string()).unwrap();
}

fn summary(rows: &[Value]) -> Value {
    let mut objectives = Map::new();
    for name in OBJECTIVES {
        let mut cases =
            json!({"ideal": 0, "both_fall": 0, "both_rise": 0, "reversed": 0, "still": 0});
        let mut sums = [0.0; 4];
        let keys = ["delta_chosen", "delta_rejected", "d_w", "d_l"];
        for row in rows {
            let outcome = &row["objectives"][name];
            let case = outcome["case"].as_str().unwrap();
            cases[case] = json!(cases[case].as_u64().unwrap() + 1);
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum += outcome[key].as_f64().unwrap() / rows.len() as f64;
            }
        }
        objectives.insert(
            name.into(),
            json!({"cases": cases, "delta_chosen": sums[0], "delta_rejected": sums[1], "d_w": sums[2], "d_l": sums[3]}),
        );
    }
    let mut groups = Map::new();
    let total = 30.0;
    for (name, group) in rows[0]["groups"].as_object().unwrap() {
        let share = group["grad_inner"].as_f64().unwrap() / rows[0]["grad_inner"].as_f64().unwrap();
        let cosine = 0.4 + 0.5 * share.sqrt();
        groups.insert(
            name.clone(),
            json!({"grad_inner": share * total, "share": share, "grad_cosine": cosine}),
        );
    }
    let sweep = |objective: &str, parameter: &str, values: &[f64]| {
        let points = values.iter().map(|value| {
            let ideal = (rows.len() as f64 * (0.2 + 0.6 * value / values[values.len() - 1])).floor();
            let cases = json!({"ideal": ideal, "both_fall": rows.len() as f64 - ideal, "both_rise": 0, "reversed": 0, "still": 0});
            json!({"value": value, "cases": cases, "delta_chosen": 0.1, "delta_rejected": -0.2})
        });
        json!({"objective": objective, "parameter": parameter, "points": points.collect::<Vec<_>>()})
    };
    json!({
        "command": "unbraid diagnose --model-name-or-path gpt2 --dataset-name 'a & <b>' --objectives all", "model": "gpt2",
        "data": "a & <b>", "objective": "sigmoid", "parameters": "all", "trainable_parameters": 124_439_808, "pairs": rows.len(),
        "complete": true, "seconds_per_pair": 0.31, "learning_rate": 1e-6, "peak_memory_bytes": 2_300_000_000_u64,
        "objectives": objectives, "groups": groups,
        "sweeps": [sweep("sigmoid", "beta", &[0.01, 0.05, 0.1, 0.5]), sweep("cpo", "lambda", &[0.0, 0.1, 1.0, 10.0])],
        "proxies": {"ches": {"inner": 0.4, "cosine": 0.61, "realised": null}, "ches_normalized": {"inner": 0.5, "cosine": 0.93, "realised": -0.4},
                    "edit_distance": {"inner": -0.3, "cosine": -0.72, "realised": null}},
        "step": {"optimizer": "adamw_torch", "learning_rate": 1e-6, "pairs": 67},
        "worst": [rows[0]["index"], rows[1]["index"]], "heatmaps": [rows[0]["index"]],
    })
}

/// A heat map of `size` × `size` tokens, with one group.
pub fn write_heat_map(dir: &Path, index: usize, size: usize) {
    fs::create_dir_all(dir.join("heatmaps")).unwrap();
    let mut numbers = Numbers::new(11);
    let mut tokens = |count: usize| -> Vec<String> {
        (0..count)
            .map(|at| match at % 9 {
                4 => "\u{2423}unbelievably".to_string(),
                8 => "\u{21b5}".to_string(),
                _ => format!(
                    "\u{2423}{}",
                    WORDS[(numbers.next() * WORDS.len() as f64) as usize]
                ),
            })
            .collect()
    };
    let (chosen, rejected) = (tokens(size), tokens(size));
    let mut numbers = Numbers::new(12);
    let mut matrix = |a: &[String], b: &[String], own: bool| -> Vec<Vec<f64>> {
        let cell =
            |(i, x): (usize, &String), (j, y): (usize, &String), numbers: &mut Numbers| match (
                own && i == j,
                x == y,
            ) {
                (true, _) => 1.0,
                (_, true) => 0.3 + 0.5 * numbers.next(),
                _ => 0.5 * (numbers.next() - 0.4),
            };
        a.iter()
            .enumerate()
            .map(|x| {
                b.iter()
                    .enumerate()
                    .map(|y| cell(x, y, &mut numbers))
                    .collect()
            })
            .collect()
    };
    let value = json!({
        "index": index, "chosen_tokens": chosen, "rejected_tokens": rejected, "cosine": matrix(&chosen, &rejected, false),
        "chosen_self": matrix(&chosen, &chosen, true), "rejected_self": matrix(&rejected, &rejected, true),
        "chosen_norms": vec![1.0; size], "rejected_norms": vec![1.0; size], "chosen_len": size + 7, "rejected_len": size,
        "groups": {"layers.3.mlp": {"cosine": matrix(&chosen, &rejected, false)}},
    });
    fs::write(
        dir.join(format!("heatmaps/pair-{index}.json")),
        value.to_string(),
    )
    .unwrap();
}

/// `gram.json` of four pairs.
pub fn write_gram(dir: &Path) {
    let mut numbers = Numbers::new(5);
    let order: Vec<String> = (0..4)
        .flat_map(|pair| ["chosen", "rejected"].map(|side| format!("{}/{side}", 3 * pair + 1)))
        .collect();
    let count = order.len();
    let mut matrix = vec![vec![64.0; count]; count];
    for (i, j) in (0..count).flat_map(|i| (0..i).map(move |j| (i, j))) {
        let cosine = if i / 2 == j / 2 {
            0.8
        } else {
            0.4 * numbers.next() - 0.1
        };
        (matrix[i][j], matrix[j][i]) = (64.0 * cosine, 64.0 * cosine);
    }
    let split = order.iter().map(|response| {
        let sign = if response.ends_with("chosen") { 1.0 } else { -1.0 };
        let others = numbers.next() - 0.5;
        json!({"response": response, "own": sign * 0.8, "partner": sign * -0.7, "others": others, "total": sign * 0.1 + others})
    });
    let value = json!({"order": order, "matrix": matrix, "objective": "sigmoid", "split": split.collect::<Vec<_>>()});
    fs::write(dir.join("gram.json"), value.to_string()).unwrap();
}

/// `series.jsonl` of six checkpoints.
pub fn write_series(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let mut rows = String::new();
    for at in 0..6 {
        let t = f64::from(at);
        let row = json!({
            "step": 20 * at, "checkpoint": format!("checkpoint-{}", 20 * at), "pairs": 100, "chosen_logps": -60.0 - t, "rejected_logps": -62.0 - 3.0 * t,
            "reward_margin": 0.2 * t, "grad_norm_chosen": 8.0 + t, "grad_norm_rejected": 7.0 + 2.0 * t, "grad_inner": 40.0 + 9.0 * t,
            "grad_cosine": 0.6 + 0.05 * t, "grad_cosine_median": 0.62 + 0.05 * t, "ideal": 0.4 - 0.05 * t, "both_fall": 0.5 + 0.05 * t,
            "both_rise": 0.1,
        });
        writeln!(rows, "{row}").unwrap();
    }
    fs::write(dir.join("series.jsonl"), rows).unwrap();
    fs::write(
        dir.join("run.yaml"),
        "command: unbraid diagnose --checkpoints runs/a\n",
    )
    .unwrap();
}

/// A row by its geometry under plain DPO with both weights 0.5.
pub fn row_by_hand(index: u64, [chosen, rejected]: [f64; 2], inner: f64) -> Value {
    let (up, down) = (0.5 * (chosen - inner), 0.5 * (inner - rejected));
    let case = match (up > 0.0, down < 0.0) {
        (true, true) => "ideal",
        (false, _) => "both_fall",
        (true, false) => "both_rise",
    };
    json!({"index": index, "grad_sq_chosen": chosen, "grad_sq_rejected": rejected, "grad_inner": inner,
           "grad_cosine": inner / (chosen * rejected).sqrt(), "ches": -inner,
           "objectives": {"sigmoid": {"d_w": 0.5, "d_l": 0.5, "case": case, "delta_chosen": up, "delta_rejected": down}}})
}

/// Four pairs whose cases are worked by hand: inner product 1 against squared norms (4, 4), 3 against (2, 9), 5 against
/// (4, 9) and 3 against (9, 2): ideal, chosen falls, chosen falls, rejected rises.
pub fn write_by_hand(dir: &Path) {
    let rows = [
        row_by_hand(10, [4.0, 4.0], 1.0),
        row_by_hand(11, [2.0, 9.0], 3.0),
        row_by_hand(12, [4.0, 9.0], 5.0),
        row_by_hand(13, [9.0, 2.0], 3.0),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(dir.join("geometry.jsonl"), text).unwrap();
    let summary = json!({
        "command": "unbraid diagnose", "objective": "sigmoid", "learning_rate": 0.01,
        "objectives": {
            "sigmoid": {"cases": {"ideal": 1, "both_fall": 2, "both_rise": 1}, "delta_chosen": 1.0, "delta_rejected": -1.0},
            "cpo": {"cases": {"ideal": 3, "both_rise": 1}, "delta_chosen": 2.0, "delta_rejected": -1.0},
            "rdpo": {"cases": {"ideal": 3, "both_fall": 1}, "delta_chosen": 4.0, "delta_rejected": -2.0},
            "sigmoid+guarded": {"cases": {"ideal": 4}, "delta_chosen": 0.5, "delta_rejected": -0.5},
        },
    });
    fs::write(dir.join("summary.json"), summary.to_string()).unwrap();
}
