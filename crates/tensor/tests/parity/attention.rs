//! Attention over packed forests, with segments shorter and longer than the fast code's blocks of 64 rows.

use crate::common::{
    Forest, NARROWINGS, Outputs, Random, Tree, attention_shape, dropped, narrowed, poison, same,
};
use crate::parity;
use unbraid_tensor::{AttentionLayout, AttentionSegment, AttentionShape, Backend, Span};

/// Scores are sums of head_dim products; an error in one moves its probability by the same relative amount, and
/// outputs and gradients sum those over up to 300 keys in f32.
const ATTENTION: f64 = 1e-5;

/// Everything that attention computes, plain (`streams` false) or with a gradient stream per completion.
fn forest<B: Backend>(
    b: &B,
    forest: &Forest,
    shape: AttentionShape,
    streams: bool,
    gain: f64,
) -> Outputs {
    let layout = forest.layout();
    let with_streams = forest.streams();
    let (back, r) = match streams {
        false => (&layout, forest.rows()),
        true => (&with_streams.layout, with_streams.rows.len()),
    };
    packed(b, &layout, back, shape, [forest.rows(); 2], [r; 2], gain)
}

/// `rows` are the query and key rows of the forward, `grads` those of the backward.
fn packed<B: Backend>(
    b: &B,
    layout: &AttentionLayout,
    back: &AttentionLayout,
    shape: AttentionShape,
    rows: [usize; 2],
    grads: [usize; 2],
    gain: f64,
) -> Outputs {
    let mut random = Random::new(40);
    let [q_rows, kv_rows] = [rows[0] * shape.q_width(), rows[1] * shape.kv_width()];
    let [q_grads, kv_grads] = [grads[0] * shape.q_width(), grads[1] * shape.kv_width()];
    let loud: Vec<f64> = random.values(q_rows).iter().map(|x| x * gain).collect();
    let q = b.upload_f64(&loud);
    let (k, v) = (
        b.upload_f64(&random.values(kv_rows)),
        b.upload_f64(&random.values(kv_rows)),
    );
    let mut out = poison(b, q_rows);
    let lse = b.attention(&q, &k, &v, layout, shape, &mut out);
    let d_out = b.upload_f64(&random.values(q_grads));
    let mut dq = b.upload_f64(&random.values(q_grads));
    let mut dk = b.upload_f64(&random.values(kv_grads));
    let mut dv = b.upload_f64(&random.values(kv_grads));
    b.attention_backward(
        &q, &k, &v, &lse, back, shape, &d_out, &mut dq, &mut dk, &mut dv,
    );
    vec![
        ("out", b.download_f64(&out)),
        ("lse", b.download_f64(&lse)),
        ("dq", b.download_f64(&dq)),
        ("dk", b.download_f64(&dk)),
        ("dv", b.download_f64(&dv)),
    ]
}

#[test]
fn forests_of_many_sizes() {
    let forests = [
        Forest(vec![]),
        Forest(vec![Tree::new(1, &[])]),
        Forest(vec![Tree::new(1, &[1])]),
        Forest(vec![Tree::new(0, &[3])]),
        Forest(vec![Tree::new(63, &[64, 65]), Tree::new(5, &[1, 17, 9])]),
        Forest(vec![
            Tree::new(128, &[129]),
            Tree::new(70, &[0, 3]),
            Tree::new(2, &[1, 2]),
        ]),
        Forest(vec![Tree::new(150, &[131, 40])]),
    ];
    for f in &forests {
        let plain = [(1, 1, 1), (2, 2, 8), (9, 3, 17)].map(|(h, kv, d)| attention_shape(h, kv, d));
        let narrow = NARROWINGS.map(|by| narrowed(attention_shape(2, 1, 8), by));
        let drop = [plain[1], plain[2], narrow[3], narrow[5]].map(dropped);
        for shape in plain.into_iter().chain(narrow).chain(drop) {
            for streams in [false, true] {
                parity!(ATTENTION, forest(f, shape, streams, 1.0));
            }
        }
    }
    let large = &Forest(vec![Tree::new(40, &[30, 66]), Tree::new(65, &[20])]);
    parity!(
        ATTENTION,
        forest(large, attention_shape(9, 3, 64), false, 1.0)
    );
    parity!(
        ATTENTION,
        forest(large, attention_shape(4, 1, 64), true, 1.0)
    );
}

/// Scores of several hundred: the softmax is one-hot almost everywhere and exp(score) alone would overflow. A
/// score's own rounding, 300·6e-8, is the relative error of its probability.
#[test]
fn very_large_scores() {
    let f = &Forest(vec![Tree::new(20, &[70])]);
    let shape = attention_shape(2, 1, 16);
    parity!(1e-3, forest(f, shape, true, 400.0));
    // A cap saturates: scores of ±50, whose derivative vanishes but for those near zero.
    parity!(
        1e-3,
        forest(f, narrowed(shape, (None, Some(50.0))), true, 400.0)
    );
}

/// A key outside the window must have no influence at all, not a small one: NaN there would show.
#[test]
fn keys_outside_the_window_are_not_read() {
    let (b, window) = (&*crate::FAST, 5);
    let shape = narrowed(attention_shape(1, 1, 2), (Some(window), None));
    let f = Forest(vec![Tree::new(100, &[40])]);
    let mut k = vec![0.5; 2 * 140];
    k[2 * 98] = f32::NAN;
    let (q, v) = (b.upload(&[1.0; 280]), b.upload(&[1.0; 280]));
    let mut out = poison(b, 280);
    b.attention(&q, &b.upload(&k), &v, &f.layout(), shape, &mut out);
    let out = b.download(&out);
    let seen: Vec<usize> = (0..140).filter(|&row| out[2 * row].is_nan()).collect();
    assert_eq!(seen, [98, 99, 100, 101, 102]);
}

/// One new row per sequence behind its cached keys, as in generation: query rows are not key rows.
#[test]
fn queries_against_cached_keys() {
    let segment = |query: usize, cached: Span, own: Span| AttentionSegment {
        query,
        own: Span { grad: query, ..own },
        ancestors: vec![Span { grad: 0, ..cached }],
        group: 0,
    };
    let layout = &AttentionLayout {
        segments: vec![
            segment(0, same(0, 70), same(70, 1)),
            segment(1, same(71, 9), same(80, 3)),
        ],
    };
    for by in NARROWINGS {
        let shape = narrowed(attention_shape(4, 2, 8), by);
        parity!(
            ATTENTION,
            packed(layout, layout, shape, [4, 83], [4, 83], 1.0)
        );
    }
}

/// A chain root → middle → leaf, and empty runs in every place, also behind the last row.
#[test]
fn several_ancestors_and_empty_runs() {
    let segment = |own: Span, ancestors: &[Span]| AttentionSegment {
        query: own.act,
        own,
        ancestors: ancestors.to_vec(),
        group: 0,
    };
    let (root, middle, leaf) = (same(0, 5), same(5, 66), same(71, 3));
    let layout = &AttentionLayout {
        segments: vec![
            segment(root, &[same(0, 0)]),
            segment(middle, &[root, same(74, 0)]),
            segment(leaf, &[same(74, 0), root, middle]),
            segment(same(74, 0), &[root]),
        ],
    };
    for by in NARROWINGS {
        let shape = narrowed(attention_shape(4, 2, 8), by);
        parity!(
            ATTENTION,
            packed(layout, layout, shape, [74; 2], [74; 2], 1.0)
        );
    }
}

#[test]
fn nan_in_a_key_reaches_the_rows_that_see_it_and_no_other() {
    let (b, shape) = (&*crate::FAST, attention_shape(1, 1, 2));
    let f = Forest(vec![Tree::new(2, &[2, 1])]);
    let mut k = vec![0.5; 10];
    k[2 * 2] = f32::NAN; // first row of the first completion
    let (q, v) = (b.upload(&[1.0; 10]), b.upload(&[1.0; 10]));
    let mut out = poison(b, 10);
    b.attention(&q, &b.upload(&k), &v, &f.layout(), shape, &mut out);
    let seen: Vec<bool> = b
        .download(&out)
        .iter()
        .step_by(2)
        .map(|x| x.is_nan())
        .collect();
    assert_eq!(seen, [false, false, true, true, false]);
}
