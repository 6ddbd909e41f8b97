//! Norms, activations, dropout and rotary positions.

use crate::common::{Outputs, Random, poison, rope_table};
use crate::{POINTWISE, parity};
use unbraid_tensor::{Backend, Gate, NaiveBackend};

/// One sum of d terms per row stands behind every element.
const NORM: f64 = 2e-6;

/// A row whose mean is 100 times its spread: x − mean keeps only the digits that the mean's f32 has left, 100·6e-8
/// of the spread, and the sums' rounding comes on top.
const NORM_WITH_OFFSET: f64 = 1e-4;

/// σ and tanh through an exp of relative error 2e-7, and differences such as 1 − σ.
const ACTIVATION: f64 = 3e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Rms,
    /// Root mean square with the weight counted from 1.
    RmsOffset,
    Layer,
}

fn norm<B: Backend>(b: &B, kind: Kind, n: usize, d: usize, mean: f64) -> Outputs {
    let mut random = Random::new(30);
    let shifted: Vec<f64> = random.values(n * d).iter().map(|x| x + mean).collect();
    let (x, w, bias) = (
        b.upload(&shifted.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        b.upload_f64(&random.values(d)),
        b.upload_f64(&random.values(d)),
    );
    let eps = 1e-5;
    let (mut y, mut again) = (poison(b, n * d), poison(b, n * d));
    let layer = kind == Kind::Layer;
    let offset = if kind == Kind::RmsOffset { 1.0 } else { 0.0 };
    let cache = match kind {
        Kind::Rms | Kind::RmsOffset => b.rms_norm(&x, &w, offset, eps, &mut y, n, d),
        Kind::Layer => b.layer_norm(&x, &w, &bias, eps, &mut y, n, d),
    };
    let bias = layer.then_some(&bias);
    b.norm_apply(&x, &w, offset, bias, &cache, &mut again, n, d);
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
        let into = Some(&mut dw);
        b.norm_backward(&x, &w, offset, &cache, rows, &dy, &mut dx, into, r, d);
        b.norm_backward(&x, &w, offset, &cache, rows, &dy, &mut alone, None, r, d);
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
    for kind in [Kind::Rms, Kind::RmsOffset, Kind::Layer] {
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

fn glu<B: Backend>(b: &B, kind: Gate, n: usize, f: usize, width: f64) -> Outputs {
    let mut random = Random::new(32);
    let gate = b.upload(&spread(&mut random, n * f, width));
    let up = b.upload_f64(&random.values(n * f));
    let mut y = poison(b, n * f);
    b.glu(kind, &gate, &up, &mut y);
    let mut out = vec![("y", b.download_f64(&y))];
    for r in [n, n + 3] {
        let rows = b.index(&random.below(r, n));
        let (mut d_gate, mut d_up) = (poison(b, r * f), b.upload_f64(&random.values(r * f)));
        b.glu_backward(
            kind,
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
            for kind in [Gate::Silu, Gate::GeluTanh, Gate::Gelu] {
                parity!(ACTIVATION, glu(kind, n, f, width));
            }
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
    b.glu(Gate::Silu, &x, &one, &mut y);
    let y = b.download(&y);
    assert!(y[0].is_nan());
    assert_eq!((y[1], y[3]), (1e9, f32::MAX));
    assert!(y[2].abs() < 1e-20, "{}", y[2]);
}

fn rope<B: Backend>(b: &B, n: usize, heads: usize, head_dim: usize, rotary: usize) -> Outputs {
    let mut random = Random::new(33);
    let x = random.values(n * heads * head_dim);
    let positions = b.index(&random.below(n, 50));
    let table = b.upload_f64(&rope_table(50, rotary));
    let turned = |inverse| {
        let mut x = b.upload_f64(&x);
        b.rope(&mut x, &positions, &table, heads, head_dim, rotary, inverse);
        b.download_f64(&x)
    };
    vec![("forward", turned(false)), ("inverse", turned(true))]
}

#[test]
fn rotary_positions() {
    for (n, heads, head_dim) in [(0, 1, 2), (1, 1, 2), (3, 2, 6), (9, 3, 34), (130, 9, 64)] {
        parity!(POINTWISE, rope(n, heads, head_dim, head_dim));
        parity!(POINTWISE, rope(n, heads, head_dim, head_dim / 4 * 2));
    }
}

fn dropout<B: Backend>(b: &B, n: usize, d: usize, p: f64) -> Outputs {
    let mut random = Random::new(36);
    let x = b.upload_f64(&random.values(n * d));
    let rows = b.index(&random.below(n, 2 * n + 1));
    let (mut y, mut mapped) = (poison(b, n * d), poison(b, n * d));
    b.dropout(&x, None, 5, p, &mut y, n, d);
    b.dropout(&x, Some(&rows), 5, p, &mut mapped, n, d);
    vec![
        ("y", b.download_f64(&y)),
        ("mapped", b.download_f64(&mapped)),
    ]
}

/// A dropped element is an exact zero on both sides: `compare` would show a mask that differs.
#[test]
fn dropout_drops_the_same_elements_on_both_backends() {
    for (n, d) in [(0, 3), (1, 1), (3, 17), (9, 576), (70, 301), (2, 16385)] {
        for p in [0.0, 0.05, 0.5, 0.9] {
            parity!(POINTWISE, dropout(n, d, p));
        }
    }
}

/// The mask of ones: what each element was multiplied by.
fn factors(seed: u64, p: f64, rows: Option<&Vec<u32>>, n: usize, d: usize) -> Vec<f64> {
    let mut y = poison(&NaiveBackend, n * d);
    NaiveBackend.dropout(&vec![1.0; n * d], rows, seed, p, &mut y, n, d);
    y
}

/// Of N draws p·N ± 4√(p(1 − p)N) are dropped: a right mask fails once in 16000 seeds, and these are fixed.
#[test]
fn dropout_keeps_the_rate_in_every_row_and_column() {
    let (n, d, p) = (400, 300, 0.3);
    let y = factors(11, p, None, n, d);
    assert!(y.iter().all(|&f| f == 0.0 || f == 1.0 / (1.0 - p)));
    let allowed = |count: usize| 4.0 * (p * (1.0 - p) * count as f64).sqrt();
    let off = |dropped: usize, of: usize| (dropped as f64 - p * of as f64).abs();
    let is_dropped = |row: usize, col: usize| y[row * d + col] == 0.0;
    let total = y.iter().filter(|&&f| f == 0.0).count();
    assert!(off(total, n * d) < allowed(n * d), "{total}");
    for row in 0..n {
        let dropped = (0..d).filter(|&col| is_dropped(row, col)).count();
        assert!(off(dropped, d) < allowed(d), "row {row}: {dropped}");
    }
    for col in 0..d {
        let dropped = (0..n).filter(|&row| is_dropped(row, col)).count();
        assert!(off(dropped, n) < allowed(n), "column {col}: {dropped}");
    }
    // Neighbours, rows above and other seeds agree on as many as chance has it.
    let other = factors(12, p, None, n, d);
    let chance = 1.0 - 2.0 * p * (1.0 - p);
    for (shift, z) in [(1, &y), (d, &y), (0, &other)] {
        let pairs = y[shift..].iter().zip(&z[..n * d - shift]);
        let share = pairs.filter(|(a, b)| a == b).count() as f64 / (n * d - shift) as f64;
        assert!((share - chance).abs() < 0.006, "shift {shift}: {share}");
    }
}

#[test]
fn dropout_of_mapped_rows_is_that_of_the_rows_they_map_to() {
    let (n, d, rows) = (6, 50, vec![2, 0, 0, 5, 2]);
    let plain = factors(3, 0.5, None, n, d);
    let mapped = factors(3, 0.5, Some(&rows), rows.len(), d);
    assert_eq!(mapped, crate::common::take_rows(&plain, &rows, d));
    let (first, second) = (&plain[..d], &plain[d..2 * d]);
    assert_ne!(first, second, "rows have masks of their own");
}

#[test]
fn dropout_of_zero_copies() {
    let b = &*crate::FAST;
    let x = [f32::MIN_POSITIVE, -0.0, 3.7, f32::MAX];
    let mut y = poison(b, 4);
    b.dropout(&b.upload(&x), None, 1, 0.0, &mut y, 2, 2);
    assert_eq!(b.download(&y), x);
}
