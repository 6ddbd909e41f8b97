//! The backend whose products are in bf16, against the f32 one: equal where operands are bf16 already, near where they are
//! rounded; gradients of what it computes.

mod common;

use common::Random;
use unbraid_tensor::{Backend, CpuBackend, Gemm, HeadBackward, Mat, MatMut};

/// The upper half of an f32 alone: such a number is its own bf16.
fn cut(values: &[f64]) -> Vec<f64> {
    let cut = |x: f64| f32::from_bits((x as f32).to_bits() & 0xffff_0000);
    values.iter().map(|&x| f64::from(cut(x))).collect()
}

/// ‖x − y‖/‖y‖.
fn distance(x: &[f64], y: &[f64]) -> f64 {
    let squares = |f: &dyn Fn(usize) -> f64| (0..y.len()).map(|i| f(i) * f(i)).sum::<f64>();
    (squares(&|i| x[i] - y[i]) / squares(&|i| y[i])).sqrt()
}

fn gemm(b: &CpuBackend, a: &[f64], w: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let (a, w, mut c) = (b.upload_f64(a), b.upload_f64(w), b.empty(m * n));
    let w = Mat::rows(&w, 0, k).t();
    b.gemm(
        Gemm::replace(m, n, k),
        Mat::rows(&a, 0, k),
        w,
        MatMut::rows(&mut c, 0, n),
    );
    b.download_f64(&c)
}

#[test]
fn products_of_bf16_numbers_are_those_of_f32() {
    let (exact, rounding) = (CpuBackend::new(), CpuBackend::with_bf16_products());
    println!("{}", rounding.describe());
    for shape @ [m, n, k] in [[1, 17, 33], [7, 20, 33], [130, 70, 700]] {
        let mut random = Random::new(90);
        let (a, w) = (random.values(m * k), random.values(n * k));
        let of = |b, a: &[f64], w: &[f64]| gemm(b, a, w, shape);
        let (a_cut, w_cut) = (cut(&a), cut(&w));
        // Other orders of a sum in f32.
        let same = distance(&of(&rounding, &a_cut, &w_cut), &of(&exact, &a_cut, &w_cut));
        assert!(same < 1e-6, "{shape:?}: {same:e}");
        // Each operand errs by at most 2⁻⁹ of itself.
        let near = distance(&of(&rounding, &a, &w), &of(&exact, &a, &w));
        assert!(near > 1e-5 && near < 2f64.powi(-8), "{shape:?}: {near:e}");
    }
}

#[test]
fn narrow_weights_stay_in_f32_and_few_rows_do_not() {
    let (exact, rounding) = (CpuBackend::new(), CpuBackend::with_bf16_products());
    let mut random = Random::new(92);
    let (a, w) = (random.values(40 * 64), random.values(64 * 64));
    for [n, k] in [[16, 64], [64, 16]] {
        let (a, w) = (&a[..40 * k], &w[..n * k]);
        let of = |b| gemm(b, a, w, [40, n, k]);
        assert_eq!(of(&rounding), of(&exact), "{n}x{k}");
    }
    // A row alone is what it is among others, but for the order of its sum.
    let few = gemm(&rounding, &a[..3 * 64], &w, [3, 64, 64]);
    let many = gemm(&rounding, &a, &w, [40, 64, 64]);
    let apart = distance(&few, &many[..3 * 64]);
    assert!(apart < 1e-6, "{apart:e}");
}

#[test]
fn the_head_rounds_too_and_stays_near() {
    let [m, d, v] = [9, 40, 900];
    let run = |b: &CpuBackend| {
        let mut random = Random::new(91);
        let (h, w) = (random.values(m * d), random.values(v * d));
        let (h, w) = (b.upload_f64(&h), b.upload_f64(&w));
        let targets = b.index(&random.below(m, v));
        let seeds = b.upload_f64(&vec![1.0; m]);
        let (logps, lse) = b.head_logps(&h, &w, &targets, None, m, d, v);
        let (mut dh, mut dw) = (b.empty(m * d), b.zeros(v * d));
        b.head_backward(&mut HeadBackward {
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
            inner: &[],
            m,
            d,
            v,
        });
        [logps, dh, dw].map(|x| b.download_f64(&x))
    };
    let exact = run(&CpuBackend::new());
    let rounded = run(&CpuBackend::with_bf16_products());
    for (x, y) in rounded.iter().zip(&exact) {
        let near = distance(x, y);
        assert!(near > 1e-6 && near < 2e-2, "{near:e}");
    }
}
