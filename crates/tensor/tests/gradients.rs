//! Every backward against central finite differences on the naive backend, in f64.
//!
//! The scalar is Σ c·out with random c, so that one check covers every output. Gradient rows that map to
//! activation rows (`rows: Some`) are checked one by one: the forward is run on the mapped rows laid out as
//! rows of their own. Attention and head are in `gradients/`.

#[path = "gradients/attention.rs"]
mod attention;
mod common;
#[path = "gradients/head.rs"]
mod head;

use common::{Random, inner, poison, rope_table, take_rows};
use unbraid_tensor::{Backend, Gate, Gemm, Mat, MatMut, NaiveBackend};

const STEP: f64 = 1e-5;

/// A central difference errs by STEP²·f‴/6, about 1e-11 here, and by rounding, 1e-16·|f|/STEP, under 1e-9 for
/// the |f| < 50 of these tests; a wrong term would be of the order of the gradient itself.
const TOLERANCE: f64 = 1e-8;

/// Compares `analytic` with the derivative of `loss` at `x`, element by element.
fn check(what: &str, analytic: &[f64], x: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(analytic.len(), x.len(), "{what}");
    let mut at = x.to_vec();
    for i in 0..x.len() {
        at[i] = x[i] + STEP;
        let above = loss(&at);
        at[i] = x[i] - STEP;
        let below = loss(&at);
        at[i] = x[i];
        let numeric = (above - below) / (2.0 * STEP);
        let error = (numeric - analytic[i]).abs();
        assert!(
            error <= TOLERANCE * (1.0 + numeric.abs()),
            "{what}[{i}]: analytic {:e}, numeric {numeric:e}, error {error:e}",
            analytic[i],
        );
    }
}

/// `x − y`: what an operation that adds has added.
fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x - y).collect()
}

/// No map, and one that repeats, skips and reorders three activation rows.
const ROW_MAPS: [Option<&[u32]>; 2] = [None, Some(&[2, 0, 0, 2, 2])];

#[test]
#[should_panic(expected = "square[1]")]
fn the_check_notices_a_wrong_gradient() {
    let x = [0.3, -0.7];
    check("square", &[0.6, -1.3], &x, |x| inner(x, x));
}

/// The `[rows, cols]` matrix that is stored so or, transposed, as `[cols, rows]`.
fn stored(x: &Vec<f64>, transposed: bool, rows: usize, cols: usize) -> Mat<'_, Vec<f64>> {
    match transposed {
        false => Mat::rows(x, 0, cols),
        true => Mat::rows(x, 0, rows).t(),
    }
}

#[test]
fn gemm_with_every_transposition_and_factor() {
    let b = NaiveBackend;
    let (m, n, k) = (3, 4, 5);
    let mut random = Random::new(1);
    let (a, w, c0, d) = (
        random.values(m * k),
        random.values(k * n),
        random.values(m * n),
        random.values(m * n),
    );
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        for (alpha, beta) in [(1.0, 0.0), (-0.7, 1.0), (1.3, 0.4)] {
            let shape = |m, n, k| Gemm {
                m,
                n,
                k,
                alpha,
                beta: 0.0,
            };
            let loss = |a: &[f64], w: &[f64], c0: &[f64]| {
                let (a, w, mut c) = (a.to_vec(), w.to_vec(), c0.to_vec());
                let product = Gemm {
                    beta,
                    ..shape(m, n, k)
                };
                b.gemm(
                    product,
                    stored(&a, ta, m, k),
                    stored(&w, tb, k, n),
                    MatMut::rows(&mut c, 0, n),
                );
                inner(&c, &d)
            };
            // dA = α·dC·Bᵀ and dB = α·Aᵀ·dC, each written transposed where its matrix is stored so.
            let (mut da, mut dw) = (poison(&b, m * k), poison(&b, k * n));
            let dc = || Mat::rows(&d, 0, n);
            match ta {
                false => b.gemm(
                    shape(m, k, n),
                    dc(),
                    stored(&w, tb, k, n).t(),
                    MatMut::rows(&mut da, 0, k),
                ),
                true => b.gemm(
                    shape(k, m, n),
                    stored(&w, tb, k, n),
                    dc().t(),
                    MatMut::rows(&mut da, 0, m),
                ),
            }
            match tb {
                false => b.gemm(
                    shape(k, n, m),
                    stored(&a, ta, m, k).t(),
                    dc(),
                    MatMut::rows(&mut dw, 0, n),
                ),
                true => b.gemm(
                    shape(n, k, m),
                    dc().t(),
                    stored(&a, ta, m, k),
                    MatMut::rows(&mut dw, 0, k),
                ),
            }
            check("a", &da, &a, |a| loss(a, &w, &c0));
            check("b", &dw, &w, |w| loss(&a, w, &c0));
            let mut dc0 = d.clone();
            b.scale(beta, &mut dc0);
            check("c", &dc0, &c0, |c0| loss(&a, &w, c0));
        }
    }
}

#[test]
fn bias_is_undone_by_column_sum() {
    let b = NaiveBackend;
    let (n, d, alpha) = (5, 3, 0.6);
    let mut random = Random::new(2);
    let (bias, x, c, before) = (
        random.values(d),
        random.values(n * d),
        random.values(n * d),
        random.values(d),
    );
    for rows in [0..n, 1..4, 2..2] {
        let mut sum = before.clone();
        b.column_sum(alpha, &c, rows.clone(), d, &mut sum);
        check("bias", &minus(&sum, &before), &bias, |bias| {
            let mut y = x.clone();
            b.add_bias(&bias.to_vec(), &mut y, n, d);
            let span = rows.start * d..rows.end * d;
            alpha * inner(&y[span.clone()], &c[span])
        });
    }
}

#[test]
fn gather_is_undone_by_scatter_add() {
    let b = NaiveBackend;
    let (v, d) = (6, 3);
    let rows = vec![4, 1, 4, 0, 4];
    let mut random = Random::new(3);
    let (table, c, out0, before) = (
        random.values(v * d),
        random.values(rows.len() * d),
        random.values(rows.len() * d),
        random.values(v * d),
    );
    for add in [false, true] {
        let loss = |table: &[f64]| {
            let mut out = out0.clone();
            b.gather(&table.to_vec(), &rows, &mut out, d, add);
            inner(&out, &c)
        };
        let mut d_table = before.clone();
        b.scatter_add(&c, &rows, None, &mut d_table, d);
        check("table", &minus(&d_table, &before), &table, loss);
    }
    // With coefficients: the transpose of gathering and then weighting each row.
    let coefficients = random.values(rows.len());
    let mut d_table = before.clone();
    b.scatter_add(&c, &rows, Some(&coefficients), &mut d_table, d);
    check(
        "weighted table",
        &minus(&d_table, &before),
        &table,
        |table| {
            let mut out = poison(&b, rows.len() * d);
            b.gather(&table.to_vec(), &rows, &mut out, d, false);
            let weighted = |r: usize| coefficients[r] * inner(&out[r * d..][..d], &c[r * d..][..d]);
            (0..rows.len()).map(weighted).sum()
        },
    );
}

/// Forward of root-mean-square norm, or of layer norm when a bias is given.
fn norm(x: &Vec<f64>, w: &Vec<f64>, offset: f64, bias: Option<&Vec<f64>>, d: usize) -> Vec<f64> {
    let (b, n, eps) = (NaiveBackend, x.len() / d, 1e-2);
    let mut y = poison(&b, x.len());
    match bias {
        None => b.rms_norm(x, w, offset, eps, &mut y, n, d),
        Some(bias) => b.layer_norm(x, w, bias, eps, &mut y, n, d),
    };
    y
}

#[test]
fn rms_norm_and_layer_norm() {
    let b = NaiveBackend;
    let (n, d, eps) = (3, 5, 1e-2);
    let mut random = Random::new(4);
    let (x, w, bias) = (random.values(n * d), random.values(d), random.values(d));
    for ((layer, offset), rows) in [(false, 0.0), (false, 1.0), (true, 0.0)]
        .into_iter()
        .flat_map(|kind| ROW_MAPS.map(|rows| (kind, rows)))
    {
        let bias = layer.then_some(&bias);
        let mut y = poison(&b, n * d);
        let cache = match bias {
            None => b.rms_norm(&x, &w, offset, eps, &mut y, n, d),
            Some(bias) => b.layer_norm(&x, &w, bias, eps, &mut y, n, d),
        };
        let map = rows.map_or((0..n as u32).collect(), <[u32]>::to_vec);
        let r = map.len();
        let (c, before) = (random.values(r * d), random.values(r * d));
        let (mut dx, mut dw) = (before.clone(), poison(&b, r * d));
        let map_given = rows.map(<[u32]>::to_vec);
        b.norm_backward(
            &x,
            &w,
            offset,
            &cache,
            map_given.as_ref(),
            &c,
            &mut dx,
            Some(&mut dw),
            r,
            d,
        );

        let mut without_weight = before.clone();
        b.norm_backward(
            &x,
            &w,
            offset,
            &cache,
            map_given.as_ref(),
            &c,
            &mut without_weight,
            None,
            r,
            d,
        );
        assert_eq!(without_weight, dx);

        let mapped = take_rows(&x, &map, d);
        check("norm x", &minus(&dx, &before), &mapped, |x| {
            inner(&norm(&x.to_vec(), &w, offset, bias, d), &c)
        });
        for row in 0..r {
            let (one, c) = (mapped[row * d..][..d].to_vec(), &c[row * d..][..d]);
            check("norm weight", &dw[row * d..][..d], &w, |w| {
                inner(&norm(&one, &w.to_vec(), offset, bias, d), c)
            });
            if let Some(bias) = bias {
                check("norm bias", c, bias, |bias| {
                    inner(&norm(&one, &w, offset, Some(&bias.to_vec()), d), c)
                });
            }
        }
    }
}

#[test]
fn gelu_in_both_forms() {
    let b = NaiveBackend;
    let (n, f) = (3, 4);
    let mut random = Random::new(5);
    let mut x = random.values(n * f);
    b.scale(3.0, &mut x); // beyond 2.5/√2 the exact form's erf takes its other branch
    for (exact, rows) in [false, true]
        .into_iter()
        .flat_map(|exact| ROW_MAPS.map(|rows| (exact, rows)))
    {
        let map = rows.map_or((0..n as u32).collect(), <[u32]>::to_vec);
        let c = random.values(map.len() * f);
        let mut dx = c.clone();
        b.gelu_backward(&x, rows.map(<[u32]>::to_vec).as_ref(), &mut dx, f, exact);
        check("gelu", &dx, &take_rows(&x, &map, f), |x| {
            let mut y = poison(&b, x.len());
            b.gelu(&x.to_vec(), &mut y, exact);
            inner(&y, &c)
        });
    }
}

const GATES: [Gate; 3] = [Gate::Silu, Gate::GeluTanh, Gate::Gelu];

#[test]
fn gated_activations() {
    let b = NaiveBackend;
    let (n, f) = (3, 4);
    let mut random = Random::new(6);
    let (mut gate, up) = (random.values(n * f), random.values(n * f));
    b.scale(3.0, &mut gate);
    for (kind, rows) in GATES
        .into_iter()
        .flat_map(|kind| ROW_MAPS.map(|rows| (kind, rows)))
    {
        let map = rows.map_or((0..n as u32).collect(), <[u32]>::to_vec);
        let c = random.values(map.len() * f);
        let (mut d_gate, mut d_up) = (poison(&b, c.len()), c.clone());
        let given = rows.map(<[u32]>::to_vec);
        b.glu_backward(kind, &gate, &up, given.as_ref(), &mut d_gate, &mut d_up, f);
        let (gate, up) = (take_rows(&gate, &map, f), take_rows(&up, &map, f));
        let loss = |gate: &[f64], up: &[f64]| {
            let mut y = poison(&b, gate.len());
            b.glu(kind, &gate.to_vec(), &up.to_vec(), &mut y);
            inner(&y, &c)
        };
        check("gate", &d_gate, &gate, |gate| loss(gate, &up));
        check("up", &d_up, &up, |up| loss(&gate, up));
    }
}

#[test]
fn gates_are_what_their_names_say() {
    let b = NaiveBackend;
    let (z, one) = (vec![-1.5, 0.0, 0.8], vec![1.0; 3]);
    let of = |kind| {
        let mut y = poison(&b, 3);
        b.glu(kind, &z, &one, &mut y);
        y
    };
    let gelu = |exact| {
        let mut y = poison(&b, 3);
        b.gelu(&z, &mut y, exact);
        y
    };
    assert_eq!(of(Gate::GeluTanh), gelu(false));
    assert_eq!(of(Gate::Gelu), gelu(true));
    // silu(0.8) = 0.8/(1 + e^−0.8) = 0.8/1.449329 = 0.551979
    assert!((of(Gate::Silu)[2] - 0.551_979).abs() < 1e-6);
}

#[test]
fn dropout_is_its_own_backward() {
    let b = NaiveBackend;
    let (n, d, seed, p) = (3, 5, 8, 0.4);
    let mut random = Random::new(13);
    let x = random.values(n * d);
    for rows in ROW_MAPS {
        let map = rows.map_or((0..n as u32).collect(), <[u32]>::to_vec);
        let (r, c) = (map.len(), random.values(map.len() * d));
        let given = rows.map(<[u32]>::to_vec);
        let drop = |x: &[f64]| {
            let mut y = poison(&b, r * d);
            b.dropout(&x.to_vec(), given.as_ref(), seed, p, &mut y, r, d);
            y
        };
        check("dropout", &drop(&c), &take_rows(&x, &map, d), |x| {
            inner(&drop(x), &c)
        });
    }
}

#[test]
fn inverse_rope_is_the_transpose_and_the_inverse() {
    for rotary_dim in [6, 4, 2] {
        rope_of(rotary_dim);
    }
}

fn rope_of(rotary_dim: usize) {
    let b = NaiveBackend;
    let (heads, head_dim) = (2, 6);
    let positions = vec![0, 7, 3, 3];
    let table = rope_table(8, rotary_dim);
    let mut random = Random::new(7);
    let n = positions.len() * heads * head_dim;
    let (x, c) = (random.values(n), random.values(n));
    let rotate = |x: &[f64], inverse| {
        let mut y = x.to_vec();
        b.rope(
            &mut y, &positions, &table, heads, head_dim, rotary_dim, inverse,
        );
        y
    };
    check("rope", &rotate(&c, true), &x, |x| {
        inner(&rotate(x, false), &c)
    });
    let back = rotate(&rotate(&x, false), true);
    let worst = minus(&back, &x).iter().fold(0f64, |w, e| w.max(e.abs()));
    assert!(
        worst < 1e-6,
        "{worst:e}: cos² + sin² = 1 up to the table's f32 rounding"
    );
    let moved = minus(&rotate(&x, false), &x);
    assert!(moved.iter().any(|e| e.abs() > 0.1));
    let beyond = |i: usize| i % head_dim >= rotary_dim;
    assert!((0..n).all(|i| !beyond(i) || moved[i] == 0.0));
}
