//! Every loss that TRL 1.16 has, against TRL's own code and autograd's derivatives (`parity/trl.json`, made
//! by `parity/generate.py`).

use serde_json::Value;
use unbraid_objective::length_desensitized::{token_weight, weighted_sum};
use unbraid_objective::weighting::pair_weight;
use unbraid_objective::{Objective, ObjectiveError, ObjectiveOptions, PairLogps, PairLoss};

/// Both sides compute in f64 but sum in other orders, and TRL adds up token log-probs: a few hundred ulps at most.
const RELATIVE: f64 = 1e-9;
/// Where the value itself is a difference that nearly cancels, relative to the largest of the case's numbers.
const CANCELLED: f64 = 1e-14;
/// Autograd's slope σ(1−σ) is exactly 0 once σ rounds to 1, where ours keeps the tail: an ulp of 1 is lost
/// there (β ≤ 1 here).
const SATURATED: f64 = 2.0 * f64::EPSILON;

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

fn options(value: &Value) -> ObjectiveOptions {
    let mut options = ObjectiveOptions::default();
    for (key, value) in value.as_object().expect("an object") {
        let field = match key.as_str() {
            "f_divergence_type" => {
                options.f_divergence_type = Some(value.as_str().expect("a name").to_owned());
                continue;
            }
            "beta" => &mut options.beta,
            "label_smoothing" => &mut options.label_smoothing,
            "discopop_tau" => &mut options.discopop_tau,
            "f_alpha_divergence_coef" => &mut options.f_alpha_divergence_coef,
            "rpo_alpha" => &mut options.rpo_alpha,
            "desirable_weight" => &mut options.desirable_weight,
            "undesirable_weight" => &mut options.undesirable_weight,
            "kto_kl" => &mut options.kto_kl,
            "cpo_alpha" => &mut options.cpo_alpha,
            "simpo_gamma" => &mut options.simpo_gamma,
            "alpha" => &mut options.alpha,
            "ld_alpha" => &mut options.ld_alpha,
            other => panic!("the fixture has an option this test does not know: {other}"),
        };
        *field = Some(number(value));
    }
    options
}

fn pair(value: &Value) -> PairLogps {
    let v = numbers(value);
    PairLogps {
        chosen: v[0],
        rejected: v[1],
        ref_chosen: v[2],
        ref_rejected: v[3],
        chosen_len: v[4] as usize,
        rejected_len: v[5] as usize,
    }
}

/// `evaluate`, with the trainer's part of LD-DPO and WPO around it. Every completion's tokens have equal
/// log-probs in the fixture.
fn evaluate(
    objective: &Objective,
    batch: &[PairLogps],
    ld_alpha: Option<f64>,
    log_sum_sq: Option<f64>,
) -> Result<Vec<PairLoss>, ObjectiveError> {
    let alpha = ld_alpha.unwrap_or(1.0);
    // The weighted sum of one completion, and its derivative by the plain sum.
    let desensitized = |sum: f64, len: usize, other: usize| {
        let shared = len.min(other);
        let weights: f64 = (0..len).map(|i| token_weight(i, shared, alpha)).sum();
        (
            weighted_sum(&vec![sum / len as f64; len], shared, alpha),
            weights / len as f64,
        )
    };
    let sides = |p: &PairLogps| {
        let chosen = desensitized(p.chosen, p.chosen_len, p.rejected_len);
        (
            chosen,
            desensitized(p.rejected, p.rejected_len, p.chosen_len),
        )
    };
    let inner: Vec<_> = batch
        .iter()
        .map(|p| PairLogps {
            chosen: sides(p).0.0,
            rejected: sides(p).1.0,
            ..*p
        })
        .collect();
    let outer = |(p, loss): (&PairLogps, PairLoss)| {
        let weight = log_sum_sq.map_or(1.0, |log_sum_sq| {
            let aligned = |sum: f64, len: usize| sum - len as f64 * log_sum_sq;
            let (w, l) = (
                aligned(p.chosen, p.chosen_len),
                aligned(p.rejected, p.rejected_len),
            );
            pair_weight(w, p.chosen_len, l, p.rejected_len)
        });
        let (chosen, rejected) = sides(p);
        PairLoss {
            d_w: loss.d_w * chosen.1,
            d_l: loss.d_l * rejected.1,
            ..loss
        }
        .scaled(weight)
    };
    Ok(batch
        .iter()
        .zip(objective.evaluate(&inner)?)
        .map(outer)
        .collect())
}

#[test]
fn losses_and_coefficients_are_trls() {
    let fixture: Value = serde_json::from_str(include_str!("parity/trl.json")).expect("valid JSON");
    let cases = fixture["cases"].as_array().expect("cases");
    let (mut seen, mut worst) = (std::collections::BTreeSet::new(), (0.0, String::new()));
    for case in cases {
        let names: Vec<&str> = case["names"]
            .as_array()
            .expect("names")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let weights = case.get("weights").map(numbers).unwrap_or_default();
        let batch: Vec<_> = case["batch"]
            .as_array()
            .expect("a batch")
            .iter()
            .map(pair)
            .collect();
        let options = options(&case["options"]);
        let objective = Objective::from_names(&names, &weights, &options).unwrap();
        let log_sum_sq = case.get("log_sum_sq").map(number);
        let ours = evaluate(&objective, &batch, options.ld_alpha, log_sum_sq).unwrap();
        seen.extend(names);

        let loss = ours.iter().map(|l| l.loss).sum::<f64>() / batch.len() as f64;
        let largest_logp = batch
            .iter()
            .map(|p| p.chosen.abs().max(p.rejected.abs()))
            .fold(1.0, f64::max);
        let mut compare = |what: String, ours: f64, theirs: f64, scale: f64| {
            let tolerance = RELATIVE * theirs.abs() + CANCELLED * scale + SATURATED;
            let ratio = (ours - theirs).abs() / tolerance;
            if ratio > worst.0 {
                worst = (
                    ratio,
                    format!("{what}: ours {ours:e}, TRL {theirs:e} in {case}"),
                );
            }
        };
        compare("loss".into(), loss, number(&case["loss"]), largest_logp);
        let (d_w, d_l) = (numbers(&case["d_w"]), numbers(&case["d_l"]));
        let scale = d_w.iter().chain(&d_l).fold(0.0f64, |m, d| m.max(d.abs()));
        for (i, loss) in ours.iter().enumerate() {
            compare(format!("d_w[{i}]"), loss.d_w, d_w[i], scale);
            compare(format!("d_l[{i}]"), loss.d_l, d_l[i], scale);
        }
    }
    assert!(
        worst.0 <= 1.0,
        "{} times the tolerance: {}",
        worst.0,
        worst.1
    );
    assert!(cases.len() > 600);
    let of_trl = [
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
        "kto",
        "cpo",
        "simpo",
        "alphapo",
        "orpo",
    ];
    for name in of_trl {
        assert!(seen.contains(name), "the fixture has no case of {name}");
    }
}
