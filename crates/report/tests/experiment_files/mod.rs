//! Synthetic experiments: `results.json` of both kinds and token heat maps, the same on every machine.

#![allow(
    dead_code,
    reason = "each test file uses a part of these, so no lint is fulfilled in all of them"
)]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Steps between two evaluations.
const EVERY: u64 = 10;
/// Evaluations after the first.
const EVALUATIONS: u64 = 12;
/// Held-out pairs.
const PAIRS: usize = 24;

/// How an arm ends: change of chosen and of rejected in nats, cosine at the end.
pub struct Course {
    pub name: &'static str,
    pub style: Option<&'static str>,
    pub objective: &'static str,
    pub remedy: &'static str,
    pub chosen: f64,
    pub rejected: f64,
    pub cosine: f64,
}

/// Numbers between 0 and 1 (Lehmer's generator).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0 * 48_271 % 2_147_483_647;
        self.0 as f64 / 2_147_483_647.0
    }

    fn around(&mut self, middle: f64, size: f64) -> f64 {
        middle + size * (self.next() - 0.5)
    }
}

/// Four styles; the long suffix also under three remedies and a mask, the prefix and suffix under one.
pub fn sentiment() -> Vec<Course> {
    let course = |name, style, remedy, chosen, rejected, cosine| Course {
        name,
        style: Some(style),
        objective: "sigmoid",
        remedy,
        chosen,
        rejected,
        cosine,
    };
    vec![
        course("single-token", "single-token", "none", 0.18, -2.1, -0.31),
        course("short-suffix", "short-suffix", "none", -0.12, -1.9, 0.28),
        course("long-suffix", "long-suffix", "none", -0.55, -2.3, 0.71),
        course("prefix-suffix", "prefix-suffix", "none", -0.61, -2.2, 0.83),
        course(
            "long-suffix+normalized",
            "long-suffix",
            "normalized",
            0.12,
            -0.9,
            0.5,
        ),
        course(
            "long-suffix+guarded",
            "long-suffix",
            "guarded",
            0.08,
            -1.7,
            0.55,
        ),
        course(
            "long-suffix+calibrated",
            "long-suffix",
            "calibrated",
            -0.2,
            -2.0,
            0.6,
        ),
        course("long-suffix+diff", "long-suffix", "diff", 0.15, -2.2, -0.2),
        course(
            "prefix-suffix+guarded",
            "prefix-suffix",
            "guarded",
            0.03,
            -1.6,
            0.7,
        ),
    ]
}

/// The objectives of Table 2 and two remedies of DPO.
pub fn objectives() -> Vec<Course> {
    let course = |name, objective, remedy, chosen, rejected| Course {
        name,
        style: None,
        objective,
        remedy,
        chosen,
        rejected,
        cosine: 0.6,
    };
    vec![
        course("sigmoid", "sigmoid", "none", -4.0, -9.0),
        course("r-dpo", "r-dpo", "none", -3.1, -7.5),
        course("simpo", "simpo", "none", -12.0, -21.0),
        course("ipo", "ipo", "none", -2.0, -4.0),
        course("rrhf", "rrhf", "none", 8.0, 5.0),
        course("slic-hf", "slic-hf", "none", 6.0, 1.0),
        course("cpo", "cpo", "none", 9.0, 3.0),
        course("dpop", "dpop", "none", 2.5, -3.0),
        course("kto", "kto", "none", -0.4, -3.0),
        course("sppo", "sppo", "none", 1.0, -2.5),
        course("sigmoid+normalized", "sigmoid", "normalized", 1.1, -2.0),
        course("sigmoid+guarded", "sigmoid", "guarded", 0.9, -5.0),
    ]
}

/// Writes `results.json` of `courses` with the given seeds, and the heat maps that it names.
pub fn write_experiment(dir: &Path, kind: &str, courses: &[Course], seeds: &[u64]) {
    fs::create_dir_all(dir).unwrap();
    let results = results(kind, courses, seeds);
    for map in results["heat_maps"].as_array().unwrap() {
        write_map(&dir.join(map["file"].as_str().unwrap()));
    }
    let text = serde_json::to_string_pretty(&results).unwrap();
    fs::write(dir.join("results.json"), text).unwrap();
}

/// The file as a value, to be changed by a test.
pub fn results(kind: &str, courses: &[Course], seeds: &[u64]) -> Value {
    let arms: Vec<Value> = courses.iter().map(|course| arm(course, seeds)).collect();
    let mut maps = Vec::new();
    for course in courses
        .iter()
        .filter(|course| course.style.is_some() && course.remedy == "none")
    {
        for (pair, when) in [(0, "start"), (0, "end"), (7, "start"), (7, "end")] {
            let file = format!("heatmaps/{}-{when}/pair-{pair}.json", course.name);
            maps.push(json!({ "when": when, "arm": course.name, "file": file }));
        }
    }
    json!({
        "kind": kind,
        "command": format!("unbraid reproduce {kind} --output_dir '<out> & more'"),
        "version": "0.1.0",
        "machine": "AMD EPYC 9V74, 2 threads, f32",
        "model": "gpt2",
        "parameters": 124_439_808_u64,
        "deviations": [
            "Batches of 8 instead of 32: two processor cores take a week for more.",
            "The full stop of `single-token` is left out, so that exactly one token differs and nothing follows it."
        ],
        "facts": ["1,024 tweets to train on, 128 held out; neutral ones dropped."],
        "arms": arms,
        "claims": claims(),
        "heat_maps": maps,
    })
}

fn claims() -> Value {
    let claim = |claim: &str,
                 source: &str,
                 quantity: &str,
                 expected: &str,
                 measured: Value,
                 interval: Value,
                 verdict: &str| {
        json!({
            "claim": claim, "source": source, "quantity": quantity, "expected": expected, "measured": measured,
            "interval": interval, "over": "24 pairs", "verdict": verdict,
        })
    };
    json!([
        claim(
            "The chosen log-prob rises for single-token",
            "paper §4.2, Figure 3",
            "change of the held-out chosen log-prob, nats",
            "> 0",
            json!(0.1812),
            json!([0.1431, 0.2193]),
            "holds"
        ),
        claim(
            "The chosen log-prob falls more for long-suffix than for short-suffix, and more for prefix-suffix than for either of the two",
            "paper §4.2, Figure 3",
            "difference of the two changes, nats",
            "< 0",
            json!(-0.43),
            json!([-0.52, -0.34]),
            "holds"
        ),
        claim(
            "The gradient cosine of prefix-suffix is below that of long-suffix",
            "ours",
            "difference of cosines",
            "< 0",
            json!(0.12),
            json!([0.08, 0.16]),
            "does_not"
        ),
        claim(
            "Guarded costs less KL a nat of margin than <normalized> & friends",
            "ours",
            "difference, nats",
            "< 0",
            Value::Null,
            Value::Null,
            "unclear"
        ),
    ])
}

fn arm(course: &Course, seeds: &[u64]) -> Value {
    let runs: Vec<Value> = seeds.iter().map(|seed| run(course, *seed)).collect();
    let mut arm = json!({
        "name": course.name, "objective": course.objective, "remedy": course.remedy, "runs": runs,
    });
    if let Some(style) = course.style {
        arm["style"] = json!(style);
    }
    arm
}

fn run(course: &Course, seed: u64) -> Value {
    let mut numbers = Numbers(7 + seed * 1_000 + course.name.len() as u64 * 17);
    let sway = numbers.around(1.0, 0.3);
    let evaluations: Vec<Value> = (0..=EVALUATIONS)
        .map(|at| {
            let t = at as f64 / EVALUATIONS as f64;
            let bend = sway * t.powf(0.8);
            let cosine = course.cosine * (0.7 + 0.3 * t) + numbers.around(0.0, 0.03);
            let fall = (0.5 + 0.6 * cosine - 0.2 * course.chosen).clamp(0.0, 0.9) * (1.0 - 0.2 * t);
            json!({ "step": at * EVERY, "metrics": {
                "logps/chosen": -3.1 + course.chosen * bend + numbers.around(0.0, 0.02),
                "logps/rejected": -3.4 + course.rejected * bend + numbers.around(0.0, 0.04),
                "rewards/margins": 0.1 * (course.chosen - course.rejected) * bend,
                "rewards/accuracies": 0.5 + 0.45 * t,
                "geometry/cosine": cosine,
                "geometry/inner": 4.0 * cosine,
                "geometry/grad_sq_chosen": 3.6,
                "geometry/grad_sq_rejected": 4.4,
                "geometry/ideal": 0.9 - fall,
                "geometry/both_fall": fall,
                "geometry/both_rise": 0.08,
                "loss": if at == 3 { Value::Null } else { json!(0.69 - 0.3 * t) },
            }})
        })
        .collect();
    let predictions: Vec<Value> = (1..=EVALUATIONS)
        .map(|at| {
            let flips = numbers.next() < 0.3;
            let chosen = course.chosen / 100.0;
            json!({
                "step": at * EVERY,
                "predicted_chosen": if flips { -chosen } else { chosen },
                "predicted_rejected": course.rejected / 100.0,
                "realised_chosen": numbers.around(chosen, 0.002),
                "realised_rejected": numbers.around(course.rejected / 100.0, 0.002),
            })
        })
        .collect();
    let mut changes = |end: f64, size: f64| -> Vec<f64> {
        (0..PAIRS)
            .map(|_| numbers.around(end * sway, size))
            .collect()
    };
    let (chosen, rejected) = (changes(course.chosen, 0.8), changes(course.rejected, 1.5));
    let mean = |values: &[f64]| -> Vec<f64> { values.iter().map(|value| value / 21.0).collect() };
    json!({
        "seed": seed,
        "dir": format!("runs/{}-{seed}", course.name),
        "seconds": 300.0 * sway,
        "evaluations": evaluations,
        "predictions": predictions,
        "outcome": {
            "chosen_change": chosen, "rejected_change": rejected,
            "mean_chosen_change": mean(&chosen), "mean_rejected_change": mean(&rejected),
            "cosine": [[course.cosine * 0.7, course.cosine * 0.8], [course.cosine, course.cosine * 0.9]],
            "label_accuracy": [0.78, 0.86], "reward_accuracy": 0.91,
            "kl": 0.01 * (course.chosen.abs() + 0.4 * course.rejected.abs()) * sway,
            "text_logp": [-3.412, -3.438], "prompt_tokens": 2_000, "text_tokens": 4_000,
        },
    })
}

fn write_map(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pair: u64 = path.file_stem().unwrap().to_str().unwrap()[5..]
        .parse()
        .unwrap();
    let tail = [
        "\u{2423}sentiment",
        "\u{2423}based",
        "\u{2423}on",
        "\u{2423}my",
        "\u{2423}judgement",
        ".",
        "<eos>",
    ];
    let tokens =
        |first: &'static str| -> Vec<&str> { std::iter::once(first).chain(tail).collect() };
    let cell = |i: usize, j: usize| match (i == j, i) {
        (true, 0) => -0.4,
        (true, _) => 0.9 - 0.05 * i as f64,
        _ => 0.12 * ((i * 7 + j * 3 + pair as usize) % 5) as f64 - 0.2,
    };
    let matrix: Vec<Vec<f64>> = (0..8)
        .map(|i| (0..8).map(|j| cell(i, j)).collect())
        .collect();
    let map = json!({
        "index": pair, "chosen_tokens": tokens("\u{2423}Positive"), "rejected_tokens": tokens("\u{2423}Negative"),
        "cosine": matrix, "chosen_self": [], "rejected_self": [],
    });
    fs::write(path, map.to_string()).unwrap();
}
