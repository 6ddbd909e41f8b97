//! Norms, activations, rotary positions and optimizer steps.

use crate::common::{Outputs, Random, poison, rope_table};
use crate::{POINTWISE, parity};
use unbraid_tensor::{Adamw, Backend};

/// One sum of d terms per row stands behind every element.
const NORM: f64 = 2e-6;

/// A row whose mean is 100 times its spread: x − mean keeps only the digits that the mean's f32 has left, 100·6e-8
/// of the spread, and the sums' rounding comes on top.
const NORM_WITH_OFFSET: f64 = 1e-4;

/// σ and tanh through an exp of relative error 2e-7, and differences such as 1 − σ.
const ACTIVATION: f64 = 3e-6;

/// Several steps, each with a few roundings and (AdamW) a bias correction computed in f64 by either.
const OPTIMIZER: f64 = 2e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Rms,
    Layer,
}

fn norm<B: Backend>(b: &B, kind: Kind, n: usize, d: usize, offset: f64) -> Outputs {
    let mut random = Random::new(30);
    let shifted: Vec<f64> = random.values(n * d).iter().map(|x| x + offset).collect();
    let (x, w, bias) = (
        b.upload(&shifted.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        b.upload_f64(&random.values(d)),
        b.upload_f64(&random.values(d)),
    );
    let eps = 1e-5;
    let (mut y, mut again) = (poison(b, n * d), poison(b, n * d));
    let layer = kind == Kind::Layer;
    let cache = match kind {
        Kind::Rms => b.rms_norm(&x, &w, eps, &mut y, n, d),
        Kind::Layer => b.layer_norm(&x, &w, &bias, eps, &mut y, n, d),
    };
    b.norm_apply(&x, &w, layer.then_some(&bias), &cache, &mut again, n, d);
    let mean = cache.mean.as_ref().map_or(vec![], |m| b.download_f64(m));
    let mut out = vec![
        ("y", b.download_f64(&y)),
        ("y again", b.download_f64(&again)),
        ("mean", mean),
        ("rstd", b.download_f64(&cache.rstd)),
    ];
    // Gradient rows: as many as activation rows, then half as many again in any order.
    for r in [n, n + n / 2] {
        let rows = b.index(&random.below(r, n.max(1)));
        let dy = b.upload_f64(&random.values(r * d));
        let start = random.values(r * d);
        let (mut dx, mut dw, mut alone) =
            (b.upload_f64(&start), poison(b, r * d), b.upload_f64(&start));
        let rows = (r != n).then_some(&rows);
        b.norm_backward(&x, &w, &cache, rows, &dy, &mut dx, Some(&mut dw), r, d);
        b.norm_backward(&x, &w, &cache, rows, &dy, &mut alone, None, r, d);
        out.extend([
            ("dx", b.download_f64(&dx)),
            ("dw_rows", b.download_f64(&dw)),
            ("dx without dw_rows", b.download_f64(&alone)),
        ]);
    }
    out
}

#[test]
fn norms() {
    for kind in [Kind::Rms, Kind::Layer] {
        for (n, d) in [
            (0, 4),
            (1, 1),
            (1, 576),
            (3, 7),
            (5, 17),
            (300, 129),
            (40, 768),
            (3, 16385),
        ] {
            if (kind, d) != (Kind::Layer, 1) {
                parity!(NORM, norm(kind, n, d, 0.0));
            }
        }
        parity!(NORM_WITH_OFFSET, norm(kind, 20, 576, 100.0));
    }
}

#[test]
fn layer_norm_of_a_constant_row_is_its_bias() {
    for x in [0.0, 3.5] {
        let (b, d) = (&*crate::FAST, 33);
        let (x, w, bias) = (
            b.upload(&vec![x; d]),
            b.upload(&vec![2.0; d]),
            b.upload(&vec![0.25; d]),
        );
        let mut y = poison(b, d);
        b.layer_norm(&x, &w, &bias, 1e-5, &mut y, 1, d);
        assert_eq!(b.download(&y), vec![0.25; d]);
    }
}

/// Values spread over [−width, width].
fn spread(random: &mut Random, n: usize, width: f64) -> Vec<f32> {
    random
        .values(n)
        .iter()
        .map(|x| (width * x) as f32)
        .collect()
}

fn gelu<B: Backend>(b: &B, n: usize, f: usize, width: f64, exact: bool) -> Outputs {
    let mut random = Random::new(31);
    let x = b.upload(&spread(&mut random, n * f, width));
    let mut y = poison(b, n * f);
    b.gelu(&x, &mut y, exact);
    let mut d = b.upload_f64(&random.values(n * f));
    b.gelu_backward(&x, None, &mut d, f, exact);
    let rows = b.index(&random.below(n + 3, n));
    let mut mapped = b.upload_f64(&random.values((n + 3) * f));
    b.gelu_backward(&x, Some(&rows), &mut mapped, f, exact);
    vec![
        ("y", b.download_f64(&y)),
        ("d", b.download_f64(&d)),
        ("d mapped", b.download_f64(&mapped)),
    ]
}

fn swiglu<B: Backend>(b: &B, n: usize, f: usize, width: f64) -> Outputs {
    let mut random = Random::new(32);
    let gate = b.upload(&spread(&mut random, n * f, width));
    let up = b.upload_f64(&random.values(n * f));
    let mut y = poison(b, n * f);
    b.swiglu(&gate, &up, &mut y);
    let mut out = vec![("y", b.download_f64(&y))];
    for r in [n, n + 3] {
        let rows = b.index(&random.below(r, n));
        let (mut d_gate, mut d_up) = (poison(b, r * f), b.upload_f64(&random.values(r * f)));
        b.swiglu_backward(
            &gate,
            &up,
            (r != n).then_some(&rows),
            &mut d_gate,
            &mut d_up,
            f,
        );
        out.extend([
            ("d_gate", b.download_f64(&d_gate)),
            ("d_up", b.download_f64(&d_up)),
        ]);
    }
    out
}

#[test]
fn activations() {
    for (n, f) in [(1, 1), (1, 17), (3, 5), (13, 1536), (2, 16385), (129, 127)] {
        for width in [1.0, 8.0, 200.0] {
            parity!(ACTIVATION, gelu(n, f, width, false));
            parity!(ACTIVATION, gelu(n, f, width, true));
            parity!(ACTIVATION, swiglu(n, f, width));
        }
    }
}

#[test]
fn activations_keep_nan_and_survive_infinity() {
    let b = &*crate::FAST;
    let x = b.upload(&[f32::NAN, 1e9, -1e9, f32::MAX, f32::MIN]);
    let one = b.upload(&[1.0; 5]);
    let mut y = poison(b, 5);
    for exact in [false, true] {
        b.gelu(&x, &mut y, exact);
        let y = b.download(&y);
        assert!(y[0].is_nan());
        assert_eq!(y[1..4], [1e9, -0.0, f32::MAX], "exact: {exact}");
    }
    b.swiglu(&x, &one, &mut y);
    let y = b.download(&y);
    assert!(y[0].is_nan());
    assert_eq!((y[1], y[3]), (1e9, f32::MAX));
    assert!(y[2].abs() < 1e-20, "{}", y[2]);
}

fn rope<B: Backend>(b: &B, n: usize, heads: usize, head_dim: usize) -> Outputs {
    let mut random = Random::new(33);
    let x = random.values(n * heads * head_dim);
    let positions = b.index(&random.below(n, 50));
    let table = b.upload_f64(&rope_table(50, head_dim));
    let turned = |inverse| {
        let mut x = b.upload_f64(&x);
        b.rope(&mut x, &positions, &table, heads, head_dim, inverse);
        b.download_f64(&x)
    };
    vec![("forward", turned(false)), ("inverse", turned(true))]
}

#[test]
fn rotary_positions() {
    for (n, heads, head_dim) in [(0, 1, 2), (1, 1, 2), (3, 2, 6), (9, 3, 34), (130, 9, 64)] {
        parity!(POINTWISE, rope(n, heads, head_dim));
    }
}

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
