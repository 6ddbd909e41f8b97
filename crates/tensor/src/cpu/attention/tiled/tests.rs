//! Tiles of both sizes over plain arrays, whatever the processor has, against the naive backend.
//!
//! Tolerance 1e-5: sums of up to 300 products of at most 1 in f32, times weights that sum to 1.

use super::super::super::tiles::tests::{PlainF32, WideF32};
use super::*;
use crate::layout::{AttentionDropout, AttentionLayout, AttentionShape, Span};
use crate::{Backend, NaiveBackend};
use rand::{RngExt, SeedableRng};

fn segment(own: (usize, usize), ancestors: &[(usize, usize)]) -> AttentionSegment {
    let span = |&(act, len): &(usize, usize)| Span {
        act,
        grad: act,
        len,
    };
    AttentionSegment {
        query: own.0,
        own: span(&own),
        ancestors: ancestors.iter().map(span).collect(),
        group: 0,
    }
}

/// A prompt with two completions, one of which goes on: blocks that begin anywhere, runs that end inside a panel of keys.
fn layout() -> AttentionLayout {
    let segments = vec![
        segment((0, 75), &[]),
        segment((75, 61), &[(0, 75)]),
        segment((136, 9), &[(0, 75)]),
        segment((145, 40), &[(0, 75), (136, 9)]),
    ];
    AttentionLayout { segments }
}

const ROWS: usize = 185;

/// Outputs, log Σ exp and the three gradients.
type Results = [Vec<f64>; 5];

fn tiled<K: Kernel>(shape: AttentionShape, [q, k, v, d_out]: &[Vec<f32>; 4]) -> Results {
    let inputs = Inputs { q, k, v, shape };
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![0.0; ROWS * shape.heads]);
    let mut d = [q, k, v].map(|x| vec![0.5f32; x.len()]);
    let layout = layout();
    let mut scratch = Scratch::default();
    let heads = |segment| {
        (0..shape.kv_heads).map(move |kv| Task {
            inputs,
            segment,
            kv,
        })
    };
    let tasks: Vec<_> = layout.segments.iter().flat_map(heads).collect();
    for task in &tasks {
        let to = (Shared::new(&mut out), Shared::new(&mut lse));
        let half = task.rows() / 2;
        // SAFETY: the segments' rows lie in the buffers, and nothing runs beside this; arrays need no instructions.
        unsafe {
            task.forward_on::<K>(0..half, &mut scratch, to);
            task.forward_on::<K>(half..task.rows(), &mut scratch, to);
        }
    }
    let [dq, dk, dv] = d.each_mut().map(|d| Shared::new(d));
    for task in &tasks {
        let o = Outputs {
            d_out,
            lse: &lse,
            dq,
            dk,
            dv,
        };
        // SAFETY: as above.
        unsafe { task.backward_on::<K>(o, &mut scratch) };
    }
    let [dq, dk, dv] = d;
    [out, lse, dq, dk, dv].map(|x| x.into_iter().map(f64::from).collect())
}

fn naive(shape: AttentionShape, inputs: &[Vec<f32>; 4]) -> Results {
    let (b, layout) = (NaiveBackend, layout());
    let [q, k, v, d_out] = inputs
        .each_ref()
        .map(|x| x.iter().map(|&x| f64::from(x)).collect());
    let mut out = vec![0.0; inputs[0].len()];
    let lse = b.attention(&q, &k, &v, &layout, shape, &mut out);
    let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| vec![0.5; inputs[i].len()]);
    b.attention_backward(
        &q, &k, &v, &lse, &layout, shape, &d_out, &mut dq, &mut dk, &mut dv,
    );
    [out, lse, dq, dk, dv]
}

#[test]
fn tiles_of_both_sizes_agree_with_the_naive_backend() {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    let plain = [(6, 2, 20), (2, 2, 33), (3, 1, 1)].map(|(h, kv, d)| AttentionShape::new(h, kv, d));
    let narrow = [(Some(30), None), (None, Some(0.7)), (Some(1), Some(2.0))];
    let narrow = narrow.map(|(window, softcap)| AttentionShape {
        window,
        softcap,
        ..plain[0]
    });
    let dropout = Some(AttentionDropout { seed: 3, p: 0.4 });
    let dropped = [plain[0], narrow[0], narrow[1]].map(|s| AttentionShape { dropout, ..s });
    for shape in plain.into_iter().chain(narrow).chain(dropped) {
        let widths = [
            shape.q_width(),
            shape.kv_width(),
            shape.kv_width(),
            shape.q_width(),
        ];
        let inputs = widths.map(|width| {
            let draw = |_| rng.random_range(-1.0..1.0);
            (0..ROWS * width).map(draw).collect()
        });
        let expected = naive(shape, &inputs);
        for got in [
            tiled::<PlainF32>(shape, &inputs),
            tiled::<WideF32>(shape, &inputs),
        ] {
            for (name, (got, expected)) in ["out", "lse", "dq", "dk", "dv"]
                .into_iter()
                .zip(got.iter().zip(&expected))
            {
                for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let error = (got - expected).abs();
                    assert!(
                        error < 1e-5 * (1.0 + expected.abs()),
                        "{name} {i}: {got}, {expected}, {shape:?}"
                    );
                }
            }
        }
    }
}
