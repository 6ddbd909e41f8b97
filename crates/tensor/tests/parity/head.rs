//! The fused head: vocabularies below, at and beyond its chunks, and the inner products it returns.

use crate::common::{Outputs, Random, compare, inner, poison};
use crate::parity;
use std::ops::Range;
use unbraid_tensor::{Backend, HeadBackward, NaiveBackend};

/// Logits are sums of d products; the probability exp(logit − lse) inherits their absolute error and that of lse,
/// rounded to f32, and gradients sum over the vocabulary or the rows in f32.
const HEAD: f64 = 1e-5;

/// Sums over rows and vocabulary of products that were each rounded once to f32; terms of both signs cancel.
const INNER: f64 = 5e-6;

/// Logits up to `gain`; everything the head needs. `m` scored rows, width `d`, vocabulary `v`.
struct Inputs<B: Backend> {
    h: B::Buffer,
    w: B::Buffer,
    targets: B::Index,
    seeds: B::Buffer,
    coefficients: B::Buffer,
}

fn inputs<B: Backend>(b: &B, m: usize, d: usize, v: usize, gain: f64) -> Inputs<B> {
    let mut random = Random::new(50);
    let factor = gain / (d as f64).sqrt();
    let w: Vec<f32> = random
        .values(v * d)
        .iter()
        .map(|x| (x * factor) as f32)
        .collect();
    let mut targets = random.below(m, v);
    // First and last token, where chunks begin and end.
    if let Some(y) = targets.first_mut() {
        *y = 0;
    }
    if m > 1 {
        targets[m - 1] = v as u32 - 1;
    }
    Inputs {
        h: b.upload_f64(&random.values(m * d)),
        w: b.upload(&w),
        targets: b.index(&targets),
        seeds: b.upload_f64(&random.values(m)),
        coefficients: b.upload_f64(&random.values(m)),
    }
}

fn arguments<'a, B: Backend>(
    x: &'a Inputs<B>,
    lse: &'a B::Buffer,
    [m, d, v]: [usize; 3],
) -> HeadBackward<'a, B> {
    HeadBackward {
        h: &x.h,
        w: &x.w,
        lse,
        softcap: None,
        logits: None,
        targets: &x.targets,
        seeds: &x.seeds,
        coefficients: None,
        dh: None,
        dw: None,
        inner: &[],
        m,
        d,
        v,
    }
}

fn head<B: Backend>(
    b: &B,
    m: usize,
    d: usize,
    v: usize,
    gain: f64,
    softcap: Option<f64>,
) -> Outputs {
    let x = inputs(b, m, d, v, gain);
    let (logps, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
    let (same, _, kept) = b.head_logps_kept(&x.h, &x.w, &x.targets, softcap, m, d, v);
    assert_eq!(b.download_f64(&same), b.download_f64(&logps));
    let squares = b.head_log_squares(&x.h, &x.w, &lse, softcap, m, d, v);
    let before = Random::new(51).values(v * d);
    let mut out = vec![
        ("logps", b.download_f64(&logps)),
        ("lse", b.download_f64(&lse)),
        ("log_squares", b.download_f64(&squares)),
    ];
    let along = b.upload_f64(&Random::new(53).values(v * d));
    let args = HeadBackward {
        softcap,
        ..arguments(&x, &lse, [m, d, v])
    };
    out.push(("direction", b.head_direction(&args, &along)));
    for (coefficients, logits) in [(None, None), (Some(&x.coefficients), kept.as_ref())] {
        let (mut dh, mut dw) = (poison(b, m * d), b.upload_f64(&before));
        let returned = b.head_backward(&mut HeadBackward {
            coefficients,
            dh: Some(&mut dh),
            dw: Some(&mut dw),
            softcap,
            logits,
            ..arguments(&x, &lse, [m, d, v])
        });
        assert!(returned.is_empty());
        out.extend([("dh", b.download_f64(&dh)), ("dw", b.download_f64(&dw))]);
    }
    out
}

#[test]
fn logps_and_gradients() {
    let shapes = [
        (0, 4, 9),
        (1, 1, 1),
        (1, 17, 255),
        (5, 8, 257),
        (3, 7, 8192),
        (2, 16, 8193),
        (6, 33, 20_001),
        (200, 9, 6_000), // 2²⁰/200 = 5242 columns a chunk
        (5_000, 3, 600), // so many rows that chunks are at their narrowest, 256
    ];
    for (m, d, v) in shapes {
        parity!(HEAD, head(m, d, v, 3.0, None::<f64>));
        parity!(HEAD, head(m, d, v, 3.0, Some(2.0)));
    }
}

/// The rows' derivatives along a direction add up to its inner product with the weight's gradient.
#[test]
fn a_direction_meets_the_weight_gradient() {
    let (b, [m, d, v]) = (&NaiveBackend, [7, 5, 300]);
    for softcap in [None, Some(2.0)] {
        let x = inputs(b, m, d, v, 3.0);
        let (_, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
        let along = Random::new(53).values(v * d);
        let mut dw = b.zeros(v * d);
        let mut args = HeadBackward {
            dw: Some(&mut dw),
            softcap,
            ..arguments(&x, &lse, [m, d, v])
        };
        let rows: f64 = b.head_direction(&args, &along).iter().sum();
        b.head_backward(&mut args);
        let whole = b.dot(&dw, 0, &along, 0, v * d);
        assert!(
            (rows - whole).abs() < 1e-12 * whole.abs().max(1.0),
            "{rows} {whole}"
        );
    }
}

/// The ranges whose inner products are asked for: apart, equal, overlapping, empty.
fn ranges(m: usize) -> Vec<(Range<usize>, Range<usize>)> {
    vec![
        (0..m / 2, m / 2..m),
        (0..m, 0..m),
        (0..m / 2, m / 3..m),
        (m - 1..m, 0..1),
        (0..0, 0..m),
    ]
}

fn inner_products<B: Backend>(
    b: &B,
    m: usize,
    d: usize,
    v: usize,
    softcap: Option<f64>,
) -> Outputs {
    let x = inputs(b, m, d, v, 3.0);
    let (_, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
    let mut dh = poison(b, m * d);
    let inner = ranges(m);
    let returned = b.head_backward(&mut HeadBackward {
        dh: Some(&mut dh),
        coefficients: Some(&x.coefficients), // must not enter
        inner: &inner,
        softcap,
        ..arguments(&x, &lse, [m, d, v])
    });
    vec![("inner", returned), ("dh", b.download_f64(&dh))]
}

/// The head's weight gradient of rows `p` alone, formed.
fn formed(
    x: &Inputs<NaiveBackend>,
    lse: &Vec<f64>,
    p: &Range<usize>,
    shape: [usize; 3],
    softcap: Option<f64>,
) -> Vec<f64> {
    let mut dw = vec![0.0; shape[1] * shape[2]];
    let mut seeds = vec![0.0; shape[0]];
    seeds[p.clone()].copy_from_slice(&x.seeds[p.clone()]);
    NaiveBackend.head_backward(&mut HeadBackward {
        seeds: &seeds,
        dw: Some(&mut dw),
        softcap,
        ..arguments(x, lse, shape)
    });
    dw
}

#[test]
fn inner_products_of_weight_gradients_never_formed() {
    let b = &NaiveBackend;
    let shapes = [(1, 3, 5), (7, 5, 300), (40, 9, 8_200), (130, 17, 700)];
    for ((m, d, v), softcap) in shapes.into_iter().flat_map(|s| [(s, None), (s, Some(2.0))]) {
        parity!(INNER, inner_products(m, d, v, softcap));
        let x = inputs(b, m, d, v, 3.0);
        let (_, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
        let formed = |p: &Range<usize>| formed(&x, &lse, p, [m, d, v], softcap);
        let products = ranges(m)
            .iter()
            .map(|(p, q)| inner(&formed(p), &formed(q)))
            .collect();
        let returned = inner_products(b, m, d, v, softcap).swap_remove(0).1;
        let named = |x| vec![("inner", x)];
        compare("formed", &named(products), &named(returned), crate::F64_SUM);
    }
}

fn tied_inner<B: Backend>(
    b: &B,
    rows: usize,
    m: usize,
    d: usize,
    v: usize,
    softcap: Option<f64>,
) -> Outputs {
    let x = inputs(b, m, d, v, 3.0);
    let (_, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
    let mut random = Random::new(52);
    let g = b.upload_f64(&random.values(rows * d));
    let ids = b.index(&random.below(rows, v));
    let head = HeadBackward {
        softcap,
        ..arguments(&x, &lse, [m, d, v])
    };
    let of = |p, q| b.tied_inner(&g, &ids, p, &head, q);
    vec![(
        "inner",
        vec![
            of(0..rows, 0..m),
            of(rows / 2..rows, 0..m / 2),
            of(0..0, 0..m),
        ],
    )]
}

#[test]
fn tied_inner_equals_the_formed_gradients() {
    let b = &NaiveBackend;
    let shapes = [
        (1, 1, 1, 1),
        (4, 3, 5, 6),
        (30, 20, 17, 11),
        (90, 70, 33, 5_000),
    ];
    for ((rows, m, d, v), softcap) in shapes.into_iter().flat_map(|s| [(s, None), (s, Some(2.0))]) {
        parity!(INNER, tied_inner(rows, m, d, v, softcap));
        let x = inputs(b, m, d, v, 3.0);
        let (_, lse) = b.head_logps(&x.h, &x.w, &x.targets, softcap, m, d, v);
        let mut random = Random::new(52);
        let (g, ids) = (random.values(rows * d), random.below(rows, v));
        let mut lookup = b.zeros(v * d);
        b.scatter_add(&g, &ids, None, &mut lookup, d);
        let expected = inner(&lookup, &formed(&x, &lse, &(0..m), [m, d, v], softcap));
        let returned = tied_inner(b, rows, m, d, v, softcap).swap_remove(0).1[0];
        assert!(
            (returned - expected).abs() <= 1e-10 * (1.0 + expected.abs()),
            "{returned} {expected}"
        );
    }
}

/// Logits of ±80: exp(80) is near f32's largest number, and a target at −80 has log-prob −160.
#[test]
fn extreme_logits_stay_finite() {
    fn extreme<B: Backend>(b: &B, v: usize) -> Outputs {
        let logits = [80.0, -80.0, 0.0];
        let w: Vec<f32> = (0..v).map(|t| logits[t % 3]).collect();
        let (h, w) = (b.upload(&[1.0, -1.0, 1.0, 1.0]), b.upload(&w));
        let targets = b.index(&[1, 0, 0, v as u32 - 1]);
        let (logps, lse) = b.head_logps(&h, &w, &targets, None, 4, 1, v);
        let seeds = b.upload(&[1.0; 4]);
        let (mut dh, mut dw) = (poison(b, 4), b.zeros(v));
        let inner = b.head_backward(&mut HeadBackward {
            h: &h,
            w: &w,
            lse: &lse,
            softcap: None,
            logits: None,
            targets: &targets,
            seeds: &seeds,
            coefficients: None,
            dh: Some(&mut dh),
            dw: Some(&mut dw),
            inner: &[(0..2, 0..4)],
            m: 4,
            d: 1,
            v,
        });
        vec![
            ("logps", b.download_f64(&logps)),
            ("lse", b.download_f64(&lse)),
            ("dh", b.download_f64(&dh)),
            ("dw", b.download_f64(&dw)),
            ("inner", inner),
        ]
    }
    for v in [3, 100, 9_000] {
        for (name, values) in extreme(&*crate::FAST, v) {
            assert!(values.iter().all(|x| x.is_finite()), "{name} {values:?}");
        }
        // lse near 80 is rounded to f32, 4e-6, which is the relative error of every probability.
        parity!(2e-5, extreme(v));
    }
}

#[test]
fn nan_in_a_state_stays_in_its_row() {
    let b = &*crate::FAST;
    let x = inputs(b, 3, 4, 50, 1.0);
    let mut h = b.download(&x.h);
    h[5] = f32::NAN;
    let (logps, lse) = b.head_logps(&b.upload(&h), &x.w, &x.targets, None, 3, 4, 50);
    for values in [b.download(&logps), b.download(&lse)] {
        assert_eq!(
            values.iter().map(|x| x.is_nan()).collect::<Vec<_>>(),
            [false, true, false]
        );
    }
}
