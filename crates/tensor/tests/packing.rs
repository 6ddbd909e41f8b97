//! Attention does not care how responses are packed: alone or under a shared prompt, in whatever order.

mod common;

use common::{
    Forest, Outputs, Random, Tree, attention_shape, compare, narrowed, poison, same, take_rows,
};
use proptest::prelude::*;
use unbraid_tensor::{
    AttentionLayout, AttentionSegment, AttentionShape, Backend, CpuBackend, NaiveBackend,
};

/// f32 sums over up to 150 keys, cut into other blocks when packed otherwise.
const F32: f64 = 1e-5;

/// The same in f64.
const F64: f64 = 1e-13;

/// Rows of q, k, v and of the output's gradient.
#[derive(Clone)]
struct Rows {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    d_out: Vec<f64>,
}

impl Rows {
    fn new(n: usize, shape: AttentionShape, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (q, kv) = (n * shape.q_width(), n * shape.kv_width());
        Rows {
            q: random.values(q),
            k: random.values(kv),
            v: random.values(kv),
            d_out: random.values(q),
        }
    }

    fn take(&self, rows: &[u32], shape: AttentionShape) -> Self {
        let (q, kv) = (shape.q_width(), shape.kv_width());
        Rows {
            q: take_rows(&self.q, rows, q),
            k: take_rows(&self.k, rows, kv),
            v: take_rows(&self.v, rows, kv),
            d_out: take_rows(&self.d_out, rows, q),
        }
    }
}

/// out, lse, and the gradients that `back` names, with their widths.
fn run<B: Backend>(
    b: &B,
    x: &Rows,
    layout: &AttentionLayout,
    back: &AttentionLayout,
    d_out: &[f64],
    shape: AttentionShape,
) -> Outputs {
    let up = |x: &[f64]| b.upload_f64(x);
    let (q, k, v, d_out) = (up(&x.q), up(&x.k), up(&x.v), up(d_out));
    let mut out = poison(b, x.q.len());
    let lse = b.attention(&q, &k, &v, layout, shape, &mut out);
    let r = b.len(&d_out) / shape.q_width();
    let mut dq = b.zeros(r * shape.q_width());
    let (mut dk, mut dv) = (b.zeros(r * shape.kv_width()), b.zeros(r * shape.kv_width()));
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

/// The widths of [`run`]'s results.
fn widths(s: AttentionShape) -> [usize; 5] {
    [
        s.q_width(),
        s.heads,
        s.q_width(),
        s.kv_width(),
        s.kv_width(),
    ]
}

/// Every response as one plain causal segment against the forest with its prompt shared: outputs row by row, and
/// each response's own gradients, from the stream form.
fn alone_equals_shared<B: Backend>(
    b: &B,
    forest: &Forest,
    shape: AttentionShape,
    seed: u64,
    tolerance: f64,
) {
    let x = Rows::new(forest.rows(), shape, seed);
    let streams = forest.streams();
    let d_out = Rows::new(streams.rows.len(), shape, seed + 1).d_out;
    let shared = run(b, &x, &forest.layout(), &streams.layout, &d_out, shape);
    for &(first, len) in &streams.spans {
        let acts = &streams.rows[first..first + len];
        let grads: Vec<u32> = (first as u32..(first + len) as u32).collect();
        let layout = AttentionLayout {
            segments: vec![AttentionSegment {
                query: 0,
                own: same(0, len),
                ancestors: vec![],
                group: 0,
            }],
        };
        let d_out = take_rows(&d_out, &grads, shape.q_width());
        let alone = run(b, &x.take(acts, shape), &layout, &layout, &d_out, shape);
        let taken = shared.iter().zip(widths(shape)).enumerate();
        let taken = taken
            .map(|(i, ((name, values), width))| {
                (
                    *name,
                    take_rows(values, if i < 2 { acts } else { &grads }, width),
                )
            })
            .collect();
        compare(
            &format!("{forest:?} from {first}"),
            &alone,
            &taken,
            tolerance,
        );
    }
}

/// The same trees in another order give the same rows in that order.
fn order_does_not_matter<B: Backend>(
    b: &B,
    forest: &Forest,
    shape: AttentionShape,
    seed: u64,
    tolerance: f64,
) {
    let starts = forest.starts();
    let mut order: Vec<usize> = (0..forest.0.len()).rev().collect();
    order.rotate_left(seed as usize % forest.0.len());
    let rows: Vec<u32> = order
        .iter()
        .flat_map(|&t| starts[t] as u32..(starts[t] + forest.0[t].rows()) as u32)
        .collect();
    let x = Rows::new(forest.rows(), shape, seed);
    let other = Forest(order.iter().map(|&t| forest.0[t].clone()).collect());
    let plain = |x: &Rows, f: &Forest| run(b, x, &f.layout(), &f.layout(), &x.d_out, shape);
    let moved = plain(&x.take(&rows, shape), &other);
    let expected = plain(&x, forest)
        .into_iter()
        .zip(widths(shape))
        .map(|((name, values), width)| (name, take_rows(&values, &rows, width)))
        .collect();
    compare(
        &format!("{forest:?} as {order:?}"),
        &expected,
        &moved,
        tolerance,
    );
}

fn forest() -> impl Strategy<Value = Forest> {
    let tree = (0usize..80, prop::collection::vec(1usize..70, 1..=3))
        .prop_map(|(prompt, completions)| Tree::new(prompt, &completions));
    prop::collection::vec(tree, 1..=3).prop_map(Forest)
}

fn shape() -> impl Strategy<Value = AttentionShape> {
    let heads = (1usize..=2, 1usize..=3, prop::sample::select(vec![2, 7, 16]));
    let narrowing = (prop::option::of(1usize..150), prop::option::of(0.5..5.0));
    (heads, narrowing)
        .prop_map(|((kv, per, width), by)| narrowed(attention_shape(kv * per, kv, width), by))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_response_alone_equals_it_under_a_shared_prompt(forest in forest(), shape in shape(), seed in 0u64..1000) {
        alone_equals_shared(&CpuBackend::new(), &forest, shape, seed, F32);
        if forest.rows() < 150 {
            alone_equals_shared(&NaiveBackend, &forest, shape, seed, F64);
        }
    }

    #[test]
    fn the_order_of_the_trees_does_not_matter(forest in forest(), shape in shape(), seed in 0u64..1000) {
        order_does_not_matter(&CpuBackend::new(), &forest, shape, seed, F32);
        if forest.rows() < 150 {
            order_does_not_matter(&NaiveBackend, &forest, shape, seed, F64);
        }
    }
}

/// A later row must not change an earlier one: causality.
#[test]
fn a_row_does_not_see_what_follows() {
    let (forest, shape) = (
        Forest(vec![Tree::new(66, &[70, 3])]),
        attention_shape(2, 1, 4),
    );
    let x = Rows::new(forest.rows(), shape, 3);
    let d_out = x.d_out.clone();
    let out = |x: &Rows| {
        run(
            &CpuBackend::new(),
            x,
            &forest.layout(),
            &forest.layout(),
            &d_out,
            shape,
        )
        .swap_remove(0)
        .1
    };
    let before = out(&x);
    for changed in [65, 100, 136] {
        let mut y = x.clone();
        y.k[changed * shape.kv_width()] += 1.0;
        let after = out(&y);
        let differs = |row: usize| {
            let span = row * shape.q_width()..(row + 1) * shape.q_width();
            before[span.clone()] != after[span]
        };
        let first = (0..forest.rows()).find(|&row| differs(row));
        assert_eq!(first, Some(changed));
        // The second completion, from row 136 on, sees the prompt but not the first completion.
        assert_eq!(differs(138), changed != 100);
    }
}

#[test]
#[should_panic(expected = "belong to two tasks")]
fn groups_that_share_gradient_rows_are_refused() {
    let (forest, shape) = (
        Forest(vec![Tree::new(2, &[1, 1])]),
        attention_shape(1, 1, 2),
    );
    let mut back = forest.layout();
    back.segments[2].group = 1; // its ancestor, the prompt, is group 0's
    let x = Rows::new(4, shape, 4);
    run(
        &CpuBackend::new(),
        &x,
        &forest.layout(),
        &back,
        &x.d_out,
        shape,
    );
}
