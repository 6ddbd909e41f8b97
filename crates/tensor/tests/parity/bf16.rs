//! Frozen weights in bf16: every operation that reads a weight takes one, and nothing else does.

use crate::common::{Outputs, Random, compare, poison};
use crate::{EXACT, SUM, parity};
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut, NaiveBackend};

/// As in `parity/head.rs`.
const HEAD: f64 = 1e-5;

/// As in `parity/pointwise.rs`.
const NORM: f64 = 2e-6;

fn bf16<B: Backend>(b: &B, values: &[f64]) -> B::Buffer {
    let single: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    b.upload_bf16(&single)
}

fn memory<B: Backend>(b: &B, n: usize) -> Outputs {
    let x = bf16(b, &Random::new(70).values(n));
    let single = b.download(&x).into_iter().map(f64::from).collect();
    vec![
        ("values", b.download_f64(&x)),
        ("single", single),
        ("len", vec![b.len(&x) as f64]),
    ]
}

#[test]
fn both_backends_round_alike_and_by_half_an_ulp() {
    for n in crate::LENGTHS {
        parity!(EXACT, memory(n));
        let x = Random::new(70).values(n);
        for (x, rounded) in x
            .iter()
            .zip(NaiveBackend.download_f64(&bf16(&NaiveBackend, &x)))
        {
            assert!((x - rounded).abs() <= x.abs() / 256.0, "{x} {rounded}");
        }
    }
}

/// A product with one operand in bf16, or both, against the same with the rounded values in full precision.
fn gemm<B: Backend>(
    b: &B,
    (m, n, k): (usize, usize, usize),
    transposed: (bool, bool),
    halves: (bool, bool),
    padding: usize,
) -> [Outputs; 2] {
    let mut random = Random::new(71);
    let mut operand = |transposed: bool, half: bool, rows: usize, cols: usize| {
        let width = padding + if transposed { rows } else { cols };
        let high = if transposed { cols } else { rows };
        let values = random.values(padding + high * width);
        let kept = match half {
            true => bf16(b, &values),
            false => b.upload_f64(&values),
        };
        let rounded = b.upload_f64(&b.download_f64(&kept));
        (kept, rounded, width)
    };
    let (a, plain_a, a_width) = operand(transposed.0, halves.0, m, k);
    let (x, plain_x, x_width) = operand(transposed.1, halves.1, k, n);
    let start = random.values(padding + m * (n + padding));
    let run = |a: &B::Buffer, x: &B::Buffer| {
        let mut c = b.upload_f64(&start);
        let shape = Gemm {
            alpha: 0.5,
            ..Gemm::add(m, n, k)
        };
        let view = |buffer, transposed, row_stride| {
            let plain = Mat {
                buffer,
                offset: padding,
                row_stride,
                col_stride: 1,
            };
            if transposed { plain.t() } else { plain }
        };
        let c_view = MatMut {
            offset: padding,
            row_stride: n + padding,
            buffer: &mut c,
        };
        let (a, x) = (
            view(a, transposed.0, a_width),
            view(x, transposed.1, x_width),
        );
        b.gemm(shape, a, x, c_view);
        vec![("c", b.download_f64(&c))]
    };
    [run(&a, &x), run(&plain_a, &plain_x)]
}

#[test]
fn gemm_with_bf16_operands() {
    // The last two need several panels.
    let shapes = [
        (1, 1, 1),
        (0, 3, 2),
        (3, 5, 0),
        (17, 33, 65),
        (5, 1300, 900),
        (1300, 7, 900),
    ];
    for shape in shapes {
        for transposed in [(false, false), (false, true), (true, false), (true, true)] {
            for halves in [(true, false), (false, true), (true, true)] {
                let padding = if shape.0 % 2 == 1 { 3 } else { 0 };
                let [fast, plain] = gemm(&*crate::FAST, shape, transposed, halves, padding);
                let case = format!("{shape:?} {transposed:?} {halves:?}");
                // Panels change neither order nor number of a sum's terms, but may change the kernel.
                compare(&case, &plain, &fast, SUM);
                if shape.0 * shape.1 * shape.2 < 100_000 {
                    let [naive, rounded] = gemm(&NaiveBackend, shape, transposed, halves, padding);
                    compare(&case, &naive, &rounded, EXACT);
                    compare(&case, &naive, &fast, SUM);
                }
            }
        }
    }
}

fn readers<B: Backend>(b: &B, n: usize, d: usize, v: usize) -> Outputs {
    let mut random = Random::new(72);
    let (table, w, bias) = (
        bf16(b, &random.values(v * d)),
        bf16(b, &random.values(d)),
        bf16(b, &random.values(d)),
    );
    let rows = b.index(&random.below(n, v));
    let (x, dy) = (
        b.upload_f64(&random.values(n * d)),
        b.upload_f64(&random.values(n * d)),
    );
    let mut out = vec![];
    let mut y = poison(b, n * d);
    b.gather(&table, &rows, &mut y, d, false);
    out.push(("gather", b.download_f64(&y)));
    b.gather(&table, &rows, &mut y, d, true);
    b.add_bias(&bias, &mut y, n, d);
    out.push(("gather twice and bias", b.download_f64(&y)));
    for offset in [0.0, 1.0] {
        let cache = b.rms_norm(&x, &w, offset, 1e-5, &mut y, n, d);
        out.push(("rms_norm", b.download_f64(&y)));
        let mut dx = b.zeros(n * d);
        b.norm_backward(&x, &w, offset, &cache, None, &dy, &mut dx, None, n, d);
        out.push(("rms_norm dx", b.download_f64(&dx)));
    }
    b.layer_norm(&x, &w, &bias, 1e-5, &mut y, n, d);
    out.push(("layer_norm", b.download_f64(&y)));
    out
}

#[test]
fn tables_norms_and_biases() {
    for (n, d, v) in [(1, 3, 1), (3, 17, 5), (60, 576, 40)] {
        parity!(NORM, readers(n, d, v));
    }
}

fn head<B: Backend>(b: &B, m: usize, d: usize, v: usize) -> Outputs {
    let mut random = Random::new(73);
    let factor = 3.0 / (d as f64).sqrt(); // logits of a few units
    let scaled: Vec<f64> = random.values(v * d).iter().map(|x| x * factor).collect();
    let w = bf16(b, &scaled);
    let (h, seeds) = (
        b.upload_f64(&random.values(m * d)),
        b.upload_f64(&random.values(m)),
    );
    let targets = b.index(&random.below(m, v));
    let (logps, lse) = b.head_logps(&h, &w, &targets, None, m, d, v);
    let squares = b.head_log_squares(&h, &w, &lse, None, m, d, v);
    let (mut dh, mut dw) = (poison(b, m * d), b.zeros(v * d));
    let mut args = HeadBackward {
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
        inner: &[(0..m / 2, m / 2..m), (0..m, 0..m)],
        m,
        d,
        v,
    };
    let inner = b.head_backward(&mut args);
    let g = b.upload_f64(&random.values(7 * d));
    let ids = b.index(&random.below(7, v));
    let tied = b.tied_inner(&g, &ids, 0..7, &args, 0..m);
    vec![
        ("logps", b.download_f64(&logps)),
        ("lse", b.download_f64(&lse)),
        ("log_squares", b.download_f64(&squares)),
        ("dh", b.download_f64(&dh)),
        ("dw", b.download_f64(&dw)),
        ("inner", inner),
        ("tied", vec![tied]),
    ]
}

#[test]
fn the_head_with_a_bf16_weight() {
    // Widened chunks: 2²²/5000 = 838 tokens in the last.
    for (m, d, v) in [(1, 1, 3), (6, 9, 500), (4, 33, 9_000), (2, 5_000, 1_000)] {
        parity!(HEAD, head(m, d, v));
    }
}

#[test]
#[should_panic(expected = "a bf16 buffer holds a frozen weight: it cannot be written")]
fn a_bf16_weight_cannot_be_written() {
    let b = crate::fresh();
    let mut w = b.upload_bf16(&[1.0; 4]);
    b.axpy(1.0, &b.zeros(4), &mut w);
}

#[test]
#[should_panic(expected = "this operation reads f32")]
fn a_bf16_buffer_is_no_activation() {
    let b = crate::fresh();
    let x = b.upload_bf16(&[1.0; 4]);
    b.dot(&x, 0, &x, 0, 4);
}
