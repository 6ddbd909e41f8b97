//! Optimizer steps: naive against fast, by hand, and both against PyTorch (`parity/optim`).

use crate::common::{Outputs, Random};
use crate::parity;
use std::path::Path;
use unbraid_tensor::{Adafactor, Adamw, Backend, NaiveBackend};

/// Several steps, each with a few roundings and (AdamW) a bias correction computed in f64 by either.
const OPTIMIZER: f64 = 2e-6;

fn adamw<B: Backend>(b: &B, n: usize, weight_decay: f64) -> Outputs {
    let mut random = Random::new(34);
    let mut param = b.upload_f64(&random.values(n));
    let (mut m, mut v) = (b.zeros(n), b.zeros(n));
    for step in 1..=5 {
        let grad = b.upload_f64(&random.values(n));
        let hyper = Adamw {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
            step,
            grad_scale: 0.5,
        };
        b.adamw(&hyper, &mut param, &grad, &mut m, &mut v);
    }
    vec![
        ("param", b.download_f64(&param)),
        ("m", b.download_f64(&m)),
        ("v", b.download_f64(&v)),
    ]
}

fn sgd<B: Backend>(b: &B, n: usize, momentum: Option<f64>) -> Outputs {
    let mut random = Random::new(35);
    let mut param = b.upload_f64(&random.values(n));
    let mut buffer = b.zeros(n);
    for _ in 0..5 {
        let grad = b.upload_f64(&random.values(n));
        let momentum = momentum.map(|mu| (mu, &mut buffer));
        b.sgd(0.1, 0.01, 0.5, &mut param, &grad, momentum);
    }
    vec![
        ("param", b.download_f64(&param)),
        ("buffer", b.download_f64(&buffer)),
    ]
}

#[test]
fn optimizer_steps() {
    for n in crate::LENGTHS {
        parity!(OPTIMIZER, adamw(n, 0.0));
        parity!(OPTIMIZER, adamw(n, 0.1));
        parity!(OPTIMIZER, sgd(n, None::<f64>));
        parity!(OPTIMIZER, sgd(n, Some(0.9)));
    }
}

/// One step by hand: m = 0.1·g, v = 0.001·g², so m̂ = g, v̂ = g² and the step is lr·(sign g + decay·param).
#[test]
fn first_adamw_step_by_hand() {
    let b = &*crate::FAST;
    let mut param = b.upload(&[2.0, -4.0]);
    let (mut m, mut v) = (b.zeros(2), b.zeros(2));
    let hyper = Adamw {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 0.0,
        weight_decay: 0.5,
        step: 1,
        grad_scale: 1.0,
    };
    b.adamw(&hyper, &mut param, &b.upload(&[3.0, -0.01]), &mut m, &mut v);
    let expected = [2.0 - 0.1 * (1.0 + 1.0), -4.0 - 0.1 * (-1.0 - 2.0)];
    for (x, expected) in b.download_f64(&param).iter().zip(expected) {
        assert!((x - expected).abs() < 1e-5, "{x} {expected}");
    }
}

fn lion<B: Backend>(b: &B, n: usize) -> Outputs {
    let mut random = Random::new(37);
    let mut param = b.upload_f64(&random.values(n));
    let mut m = b.zeros(n);
    for _ in 0..5 {
        let grad = b.upload_f64(&random.values(n));
        b.lion(0.01, 0.1, 0.9, 0.99, 0.5, &mut param, &grad, &mut m);
    }
    vec![("param", b.download_f64(&param)), ("m", b.download_f64(&m))]
}

fn step_of(step: u64) -> Adafactor {
    Adafactor {
        learning_rate: 0.01,
        decay_rate: -0.8,
        epsilon: 1e-30,
        clip_threshold: 1.0,
        weight_decay: 0.1,
        step,
        grad_scale: 0.5,
    }
}

fn adafactor<B: Backend>(b: &B, rows: usize, cols: usize) -> Outputs {
    let (mut random, n) = (Random::new(38), rows * cols);
    let mut param = b.upload_f64(&random.values(n));
    let (mut row_state, mut col_state) = (b.zeros(rows), b.zeros(cols));
    for step in 1..=5 {
        let grad = b.upload_f64(&random.values(n));
        let (r, c) = (&mut row_state, &mut col_state);
        b.adafactor(&step_of(step), rows, cols, &mut param, &grad, r, c);
    }
    vec![
        ("param", b.download_f64(&param)),
        ("rows", b.download_f64(&row_state)),
        ("cols", b.download_f64(&col_state)),
    ]
}

fn adafactor_vector<B: Backend>(b: &B, n: usize) -> Outputs {
    let mut random = Random::new(39);
    let (mut param, mut state) = (b.upload_f64(&random.values(n)), b.zeros(n));
    for step in 1..=5 {
        let grad = b.upload_f64(&random.values(n));
        b.adafactor_vector(&step_of(step), &mut param, &grad, &mut state);
    }
    vec![
        ("param", b.download_f64(&param)),
        ("state", b.download_f64(&state)),
    ]
}

#[test]
fn lion_and_adafactor_steps() {
    for n in crate::LENGTHS {
        parity!(OPTIMIZER, lion(n));
        parity!(OPTIMIZER, adafactor_vector(n));
    }
    for (rows, cols) in [
        (0, 3),
        (3, 0),
        (1, 1),
        (1, 900),
        (900, 1),
        (7, 33),
        (300, 65),
        (3, 16385),
    ] {
        parity!(OPTIMIZER, adafactor(rows, cols));
    }
}

/// Where the momentum and the gradient are zero nothing moves but the decay; elsewhere the step is the rate.
#[test]
fn first_lion_step_by_hand() {
    let b = &*crate::FAST;
    let mut param = b.upload(&[2.0, -4.0, 1.0]);
    let mut m = b.zeros(3);
    let grad = b.upload(&[3.0, -0.01, 0.0]);
    b.lion(0.1, 0.5, 0.9, 0.99, 1.0, &mut param, &grad, &mut m);
    let expected = [2.0 * 0.95 - 0.1, -4.0 * 0.95 + 0.1, 0.95];
    for (x, expected) in b.download_f64(&param).iter().zip(expected) {
        assert!((x - expected).abs() < 1e-6, "{x} {expected}");
    }
    for (x, expected) in b.download_f64(&m).iter().zip([0.03, -0.0001, 0.0]) {
        assert!((x - expected).abs() < 1e-8, "{x} {expected}");
    }
}

/// A gradient row of zeros (a token that did not occur) leaves a second moment of ε, and no NaN.
#[test]
fn adafactor_of_a_zero_gradient_moves_nothing() {
    let b = &*crate::FAST;
    let start = [1.0f32, -2.0, 3.0, 4.0];
    let hyper = Adafactor {
        weight_decay: 0.0,
        ..step_of(1)
    };
    let mut param = b.upload(&start);
    let (mut rows, mut cols) = (b.zeros(2), b.zeros(2));
    b.adafactor(&hyper, 2, 2, &mut param, &b.zeros(4), &mut rows, &mut cols);
    assert_eq!(b.download(&param), start);
    let grad = b.upload(&[0.5, 0.5, 0.0, 0.0]);
    b.adafactor(&hyper, 2, 2, &mut param, &grad, &mut rows, &mut cols);
    let after = b.download(&param);
    assert!(after[0] < start[0] && after[2..] == start[2..], "{after:?}");
}

/// The golden holds five steps of transformers' Adafactor and of Lion written out in PyTorch, in float64.
fn golden<B: Backend>(b: &B, tolerance: f64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/optim/golden.json");
    let text = std::fs::read(&path).expect("the golden is in the repository");
    let golden: serde_json::Value = serde_json::from_slice(&text).expect("the golden is JSON");
    let floats = |x: &serde_json::Value| -> Vec<f64> {
        serde_json::from_value(x.clone()).expect("an array of numbers")
    };
    let number = |x: &serde_json::Value| x.as_f64().expect("a number");
    for case in golden["cases"].as_array().expect("cases") {
        let (name, shape) = (
            case["name"].as_str().expect("a name"),
            floats(&case["shape"]),
        );
        let hyper = &case["hyper"];
        let (rate, decay) = (number(&hyper["lr"]), number(&hyper["weight_decay"]));
        let mut param = b.upload_f64(&floats(&case["param"]));
        let mut states = [shape[0], shape[1 % shape.len()]].map(|n| b.zeros(n as usize));
        let mut m = b.zeros(b.len(&param));
        for (i, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            let grad = b.upload_f64(&floats(&step["grad"]));
            let adafactor = Adafactor {
                learning_rate: rate,
                weight_decay: decay,
                grad_scale: 1.0,
                ..step_of(i as u64 + 1)
            };
            let [first, second] = &mut states;
            match (name, shape.len()) {
                ("lion", _) => {
                    let betas = floats(&hyper["betas"]);
                    let (beta1, beta2) = (betas[0], betas[1]);
                    b.lion(rate, decay, beta1, beta2, 1.0, &mut param, &grad, &mut m);
                }
                ("adafactor", 1) => b.adafactor_vector(&adafactor, &mut param, &grad, first),
                ("adafactor", 2) => {
                    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
                    b.adafactor(&adafactor, rows, cols, &mut param, &grad, first, second);
                }
                other => panic!("unknown case {other:?}"),
            }
            let what = format!("{} {name} of {shape:?}, step {}", b.describe(), i + 1);
            let expected = vec![("param", floats(&step["param"]))];
            let got = vec![("param", b.download_f64(&param))];
            crate::common::compare(&what, &expected, &got, tolerance);
        }
    }
}

#[test]
fn five_steps_agree_with_pytorch() {
    golden(&NaiveBackend, 1e-12);
    golden(&crate::fresh(), OPTIMIZER);
}
