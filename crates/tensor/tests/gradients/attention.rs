//! Attention over packed forests, plain and with one gradient stream per completion.

use super::{check, minus};
use crate::common::{
    Forest, NARROWINGS, Random, Tree, attention_shape, dropped, inner, narrowed, poison, same,
};
use unbraid_tensor::{AttentionLayout, AttentionSegment, AttentionShape, Backend, NaiveBackend};

/// Queries, keys and values.
struct Qkv {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Qkv {
    fn new(random: &mut Random, shape: AttentionShape, q_rows: usize, kv_rows: usize) -> Self {
        Qkv {
            q: random.values(q_rows * shape.q_width()),
            k: random.values(kv_rows * shape.kv_width()),
            v: random.values(kv_rows * shape.kv_width()),
        }
    }
}

/// (out, lse).
fn forward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    layout: &AttentionLayout,
    shape: AttentionShape,
) -> (Vec<f64>, Vec<f64>) {
    let mut out = poison(&NaiveBackend, q.len());
    let (q, k, v) = (q.to_vec(), k.to_vec(), v.to_vec());
    let lse = NaiveBackend.attention(&q, &k, &v, layout, shape, &mut out);
    (out, lse)
}

/// What the backward adds to dq, dk, dv, given `rows` gradient rows on the query and key side.
fn backward(
    x: &Qkv,
    lse: &Vec<f64>,
    layout: &AttentionLayout,
    shape: AttentionShape,
    d_out: &Vec<f64>,
    kv_rows: usize,
) -> [Vec<f64>; 3] {
    let mut random = Random::new(99);
    let before = [
        random.values(d_out.len()),
        random.values(kv_rows * shape.kv_width()),
        random.values(kv_rows * shape.kv_width()),
    ];
    let [mut dq, mut dk, mut dv] = before.clone();
    NaiveBackend.attention_backward(
        &x.q, &x.k, &x.v, lse, layout, shape, d_out, &mut dq, &mut dk, &mut dv,
    );
    [
        minus(&dq, &before[0]),
        minus(&dk, &before[1]),
        minus(&dv, &before[2]),
    ]
}

/// Checks dq, dk, dv of Σ c·out.
fn check_all(
    what: &str,
    x: &Qkv,
    c: &[f64],
    layout: &AttentionLayout,
    shape: AttentionShape,
    [dq, dk, dv]: &[Vec<f64>; 3],
) {
    let loss = |q: &[f64], k: &[f64], v: &[f64]| inner(&forward(q, k, v, layout, shape).0, c);
    check(&format!("{what}: q"), dq, &x.q, |q| loss(q, &x.k, &x.v));
    check(&format!("{what}: k"), dk, &x.k, |k| loss(&x.q, k, &x.v));
    check(&format!("{what}: v"), dv, &x.v, |v| loss(&x.q, &x.k, v));
}

fn forests() -> Vec<Forest> {
    vec![
        Forest(vec![Tree::new(4, &[])]),
        Forest(vec![Tree::new(3, &[2])]),
        Forest(vec![Tree::new(2, &[3, 1])]),
        Forest(vec![
            Tree::new(2, &[1, 2, 3]),
            Tree::new(0, &[2, 1]),
            Tree::new(1, &[2]),
        ]),
    ]
}

#[test]
fn packed_forests() {
    for (i, forest) in forests().iter().enumerate() {
        let heads = [(1, 1), (2, 2), (4, 2), (3, 1)].map(|(h, kv)| attention_shape(h, kv, 3));
        let narrow = NARROWINGS.map(|by| narrowed(attention_shape(2, 1, 3), by));
        let drop = [heads[2], narrow[5]].map(dropped);
        for shape in heads.into_iter().chain(narrow).chain(drop) {
            let n = forest.rows();
            let mut random = Random::new(i as u64);
            let x = Qkv::new(&mut random, shape, n, n);
            let c = random.values(n * shape.q_width());
            let layout = forest.layout();
            let (_, lse) = forward(&x.q, &x.k, &x.v, &layout, shape);
            let gradients = backward(&x, &lse, &layout, shape, &c, n);
            check_all(&format!("{forest:?}"), &x, &c, &layout, shape, &gradients);
        }
    }
}

#[test]
fn returned_lse_is_the_log_sum_of_the_scores() {
    let shape = attention_shape(1, 1, 2);
    let x = Qkv::new(&mut Random::new(8), shape, 3, 3);
    let (_, lse) = forward(
        &x.q,
        &x.k,
        &x.v,
        &Forest(vec![Tree::new(3, &[])]).layout(),
        shape,
    );
    for (i, lse) in lse.iter().enumerate() {
        let score = |j: usize| shape.scale * inner(&x.q[2 * i..][..2], &x.k[2 * j..][..2]);
        let expected = (0..=i).map(|j| score(j).exp()).sum::<f64>().ln();
        assert!((lse - expected).abs() < 1e-12, "{lse} {expected}");
    }
}

/// Equal scores: each of 400 keys has probability 1/400, so of values of 1 the output counts those that are kept; lse and
/// the rest of a row do not change with what is dropped.
#[test]
fn dropout_takes_its_share_and_nothing_else() {
    let (n, heads, p) = (400, 3, 0.3);
    let (plain, layout) = (
        attention_shape(heads, 1, 1),
        Forest(vec![Tree::new(n, &[])]).layout(),
    );
    let (q, k, v) = (vec![0.0; n * heads], vec![0.0; n], vec![1.0; n]);
    let (out, lse) = forward(&q, &k, &v, &layout, dropped(plain));
    let (_, whole) = forward(&q, &k, &v, &layout, plain);
    assert_eq!(lse, whole);
    let last = &out[(n - 1) * heads..];
    let kept = last.iter().map(|o| o * (1.0 - p) * n as f64);
    for kept in kept {
        // A whole number, within four standard deviations of 280.
        assert!((kept - kept.round()).abs() < 1e-9, "{kept}");
        assert!((kept - 280.0).abs() < 4.0 * (400.0 * 0.3 * 0.7f64).sqrt());
    }
    assert!(last[0] != last[1] || last[1] != last[2], "heads drop alike");
    // Over all queries and heads the mean is 1.
    let mean = out.iter().sum::<f64>() / out.len() as f64;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
}

#[test]
fn capped_scores_and_a_window_by_hand() {
    // One head of width 1, keys 1, 2, 3 under the query 1, scale 1, cap 2: scores 2·tanh(k/2).
    let shape = AttentionShape {
        softcap: Some(2.0),
        ..AttentionShape::new(1, 1, 1)
    };
    let (layout, keys) = (Forest(vec![Tree::new(3, &[])]).layout(), [1.0, 2.0, 3.0]);
    let lse = |shape| forward(&[1.0; 3], &keys, &[1.0; 3], &layout, shape).1[2];
    let exp = |k: f64| (2.0 * (k / 2.0).tanh()).exp();
    assert!((lse(shape) - keys.map(exp).iter().sum::<f64>().ln()).abs() < 1e-12);
    // A window of 2: position 2 sees keys 1 and 2 (2 − 1 < 2), not key 0.
    let window = narrowed(shape, (Some(2), None));
    assert!((lse(window) - (2f64.exp() + 3f64.exp()).ln()).abs() < 1e-12);
}

#[test]
#[should_panic(expected = "hides a query from itself")]
fn a_window_of_zero_is_refused() {
    let shape = narrowed(attention_shape(1, 1, 1), (Some(0), None));
    let layout = Forest(vec![Tree::new(1, &[])]).layout();
    forward(&[1.0], &[1.0], &[1.0], &layout, shape);
}

#[test]
fn queries_against_cached_keys() {
    for by in NARROWINGS {
        against_cached_keys(narrowed(attention_shape(2, 1, 3), by));
    }
}

fn against_cached_keys(shape: AttentionShape) {
    // Two new rows whose keys stand behind five cached ones: query rows are not key rows.
    let mut random = Random::new(9);
    let x = Qkv::new(&mut random, shape, 2, 7);
    let c = random.values(2 * shape.q_width());
    let mut own = same(5, 2);
    let layout = |own| AttentionLayout {
        segments: vec![AttentionSegment {
            query: 0,
            own,
            ancestors: vec![same(0, 5)],
            group: 0,
        }],
    };
    let (out, lse) = forward(&x.q, &x.k, &x.v, &layout(own), shape);
    // The backward's gradient rows are those of the queries, so the keys' go to a layout of seven rows.
    let widened = Qkv {
        q: [vec![0.0; 5 * shape.q_width()], x.q.clone()].concat(),
        k: x.k.clone(),
        v: x.v.clone(),
    };
    let whole = Forest(vec![Tree::new(5, &[2])]).layout();
    let (reference, _) = forward(&widened.q, &x.k, &x.v, &whole, shape);
    assert_eq!(out, reference[5 * shape.q_width()..]);
    own.grad = 5;
    let c = [vec![0.0; 5 * shape.q_width()], c].concat();
    let [dq, dk, dv] = backward(&x, &lse, &layout(own), shape, &c, 7);
    let dq = dq[5 * shape.q_width()..].to_vec();
    check_all(
        "cache",
        &x,
        &c[5 * shape.q_width()..],
        &layout(own),
        shape,
        &[dq, dk, dv],
    );
}

/// Sums gradient rows onto the activation rows that they belong to.
fn sum_by_activation(gradient: &Vec<f64>, rows: &Vec<u32>, n: usize, width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; n * width];
    NaiveBackend.scatter_add(gradient, rows, None, &mut sum, width);
    sum
}

#[test]
fn one_gradient_stream_per_completion() {
    for by in NARROWINGS {
        streams_of(narrowed(attention_shape(4, 2, 3), by));
        streams_of(dropped(narrowed(attention_shape(4, 2, 3), by)));
    }
}

fn streams_of(shape: AttentionShape) {
    let forest = Forest(vec![Tree::new(3, &[2, 1]), Tree::new(2, &[1, 2, 2])]);
    let n = forest.rows();
    let (plain, streams) = (forest.layout(), forest.streams());
    let (r, qw, kw) = (streams.rows.len(), shape.q_width(), shape.kv_width());
    assert!(r > n);
    let mut random = Random::new(10);
    let x = Qkv::new(&mut random, shape, n, n);
    let (_, lse) = forward(&x.q, &x.k, &x.v, &plain, shape);
    let c = random.values(r * qw);
    let gradients = backward(&x, &lse, &streams.layout, shape, &c, r);

    // Each stream alone is the gradient of its own scalar.
    for &(first, len) in &streams.spans {
        let of = |x: &[f64], width: usize| x[first * width..][..len * width].to_vec();
        let rows = streams.rows[first..first + len].to_vec();
        let alone = [(0, qw), (1, kw), (2, kw)]
            .map(|(i, width)| sum_by_activation(&of(&gradients[i], width), &rows, n, width));
        let c = sum_by_activation(&of(&c, qw), &rows, n, qw);
        check_all("stream", &x, &c, &plain, shape, &alone);
    }

    // Their sum is the plain backward of the summed seeds.
    let c = sum_by_activation(&c, &streams.rows, n, qw);
    let expected = backward(&x, &lse, &plain, shape, &c, n);
    for (i, width) in [(0, qw), (1, kw), (2, kw)] {
        let sum = sum_by_activation(&gradients[i], &streams.rows, n, width);
        for (sum, expected) in sum.iter().zip(&expected[i]) {
            assert!((sum - expected).abs() < 1e-12, "{sum} {expected}");
        }
    }
}
