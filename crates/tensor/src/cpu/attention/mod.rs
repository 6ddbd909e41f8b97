//! Causal attention over a packed forest.
//!
//! Query rows go in blocks of [`BLOCK`]: the scores of one block against all keys it sees are one small matrix
//! that stays in cache, so nothing of size T × T is ever stored. The forward keeps only log Σ exp per row and
//! head; the backward recomputes each block's probabilities from it (the scheme of Dao et al. 2022, arXiv
//! 2205.14135, without its tiling over keys). Tasks are (segment, key/value head) forward and (group, key/value head)
//! backward: groups share no gradient row, so tasks write disjoint elements. With a window, a block's keys begin with
//! the first one that its first row sees; those before are skipped.
//!
//! Dropout multiplies a row's probabilities behind the softmax, and in the backward their gradients before it; the mask is
//! drawn again there.
//!
//! Segments of a few rows, and all on processors without our tiles, take their products head by head (below); the others as
//! `tiled` has it.

mod tiled;

use super::head::{soften, softening};
use super::matmul::{Parallelism, RawMat, raw};
use super::rules::ATTENTION_BLOCK as BLOCK;
use super::simd::{Shared, exp, lane_max, lane_sum, lane_sum_2, simd};
use crate::dropout::Mask;
use crate::layout::{AttentionLayout, AttentionSegment, AttentionShape, Span};
use rayon::prelude::*;
use std::ops::Range;
use tiled::{Scratch, Task};

/// The keys of one block of query rows: path positions `from..to`.
#[derive(Clone, Copy)]
struct Keys {
    from: usize,
    to: usize,
}

impl Keys {
    /// What query rows `start..end` of a segment see between them.
    fn of(segment: &AttentionSegment, start: usize, end: usize, shape: AttentionShape) -> Self {
        Keys {
            from: shape.first_seen(before(segment) + start),
            to: before(segment) + end,
        }
    }

    fn count(self) -> usize {
        self.to - self.from
    }

    /// Columns that query row `i` of the segment sees.
    fn visible(self, segment: &AttentionSegment, i: usize, shape: AttentionShape) -> Range<usize> {
        let position = before(segment) + i;
        shape.first_seen(position) - self.from..position + 1 - self.from
    }

    /// The non-empty runs of these keys, each with its first column: ancestors, then own rows.
    fn runs(self, segment: &AttentionSegment) -> impl Iterator<Item = (usize, Span)> + '_ {
        let mut position = 0;
        segment
            .ancestors
            .iter()
            .copied()
            .chain([segment.own])
            .filter_map(move |span| {
                let first = position;
                position += span.len;
                let (start, end) = (self.from.max(first), self.to.min(position));
                let part = Span {
                    act: span.act + (start - first),
                    grad: span.grad + (start - first),
                    len: end.saturating_sub(start),
                };
                // An empty run may stand behind the last row.
                (part.len > 0).then(|| (start - self.from, part))
            })
    }
}

/// Everything a task needs to compute scores.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: AttentionShape,
}

impl Inputs<'_> {
    fn key_head(&self, h: usize) -> usize {
        h * self.shape.kv_heads / self.shape.heads
    }
    fn query(&self, row: usize, h: usize) -> RawMat {
        let at = row * self.shape.q_width() + h * self.shape.head_dim;
        (self.q[at..].as_ptr(), self.shape.q_width(), 1)
    }
    fn key(&self, row: usize, kv: usize) -> RawMat {
        let at = row * self.shape.kv_width() + kv * self.shape.head_dim;
        (self.k[at..].as_ptr(), self.shape.kv_width(), 1)
    }
    fn value(&self, row: usize, kv: usize) -> RawMat {
        let at = row * self.shape.kv_width() + kv * self.shape.head_dim;
        (self.v[at..].as_ptr(), self.shape.kv_width(), 1)
    }

    /// Multiplies the entries of one row of scores, of head `h` of the segment's row `i`, by 0 or 1/(1 − p); `row` has a
    /// column for each of `keys`, of which the row sees `visible`. Nothing without dropout.
    fn drop(
        &self,
        s: &AttentionSegment,
        (i, h): (usize, usize),
        keys: Keys,
        visible: &Range<usize>,
        row: &mut [f32],
    ) {
        let Some(dropout) = self.shape.dropout else {
            return;
        };
        let (mask, scale) = (Mask::new(dropout.seed, dropout.p), 1.0 / (1.0 - dropout.p));
        let (bits, scale) = (mask.row((s.query + i) * self.shape.heads + h), scale as f32);
        for (column, span) in keys.runs(s) {
            let (start, end) = (
                column.max(visible.start),
                (column + span.len).min(visible.end),
            );
            if start >= end {
                continue;
            }
            let (first, row) = (span.act + start - column, &mut row[start..end]);
            simd!(|| {
                // Own copies, as in the dropout of rows.
                let (mask, bits, first, scale) = (mask, bits, first, scale);
                for (j, x) in row.iter_mut().enumerate() {
                    let factor = if mask.keeps(bits, first + j) {
                        scale
                    } else {
                        0.0
                    };
                    *x *= factor;
                }
            });
        }
    }

    /// Panics unless every row that the segment names lies inside q, k and v.
    fn check(&self, segment: &AttentionSegment) {
        let kv = self.k.len().min(self.v.len()) / self.shape.kv_width();
        assert!(segment.query + segment.own.len <= self.q.len() / self.shape.q_width());
        for span in segment.ancestors.iter().chain([&segment.own]) {
            assert!(span.act + span.len <= kv);
        }
    }

    /// Scaled scores of query rows `start..end` against `keys`, `[end − start, keys]`, row-major in `scores`; entries
    /// that a row does not see are present but meaningless.
    fn scores(
        &self,
        s: &AttentionSegment,
        h: usize,
        (start, end): (usize, usize),
        keys: Keys,
        scores: &mut [f32],
    ) {
        for (column, span) in keys.runs(s) {
            let (kp, krs, kcs) = self.key(span.act, self.key_head(h));
            // SAFETY: `check` has put all rows inside q and k; `scores` holds (end − start)·keys floats and
            // columns column..column + span.len of it; nobody else has it.
            unsafe {
                raw(
                    end - start,
                    span.len,
                    self.shape.head_dim,
                    self.shape.scale as f32,
                    self.query(s.query + start, h),
                    (kp, kcs, krs),
                    0.0,
                    (scores.as_mut_ptr().add(column), keys.count()),
                    Parallelism::None,
                );
            }
        }
    }
}

/// Panics when runs (first row, end, task) of different tasks overlap: each task writes its rows without a lock.
fn check_disjoint(mut runs: Vec<(usize, usize, usize)>) {
    runs.retain(|(first, end, _)| first < end);
    runs.sort_unstable();
    let (mut last, mut last_task) = (0, 0);
    for (first, end, task) in runs {
        assert!(
            first >= last || task == last_task,
            "rows {first}..{end} belong to two tasks"
        );
        if end > last {
            (last, last_task) = (end, task);
        }
    }
}

fn transposed((p, rs, cs): RawMat) -> RawMat {
    (p, cs, rs)
}

/// Path position of a segment's first row.
fn before(segment: &AttentionSegment) -> usize {
    segment.ancestors.iter().map(|a| a.len).sum()
}

/// Blocks of query rows of a segment.
fn blocks(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len)
        .step_by(BLOCK)
        .map(move |start| (start, (start + BLOCK).min(len)))
}

/// See [`crate::Backend::attention`].
pub(super) fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    layout: &AttentionLayout,
    shape: AttentionShape,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let inputs = Inputs { q, k, v, shape };
    layout.segments.iter().for_each(|s| inputs.check(s));
    let queries = layout.segments.iter().enumerate();
    check_disjoint(
        queries
            .map(|(i, s)| (s.query, s.query + s.own.len, i))
            .collect(),
    );
    assert!(out.len() >= q.len() && lse.len() * shape.head_dim >= q.len());
    let tasks: Vec<(Task<'_>, Range<usize>)> = layout
        .segments
        .iter()
        .flat_map(|segment| {
            (0..shape.kv_heads).map(move |kv| Task {
                inputs,
                segment,
                kv,
            })
        })
        .flat_map(Task::parts)
        .collect();
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    tasks
        .par_iter()
        .for_each_init(Scratch::default, |scratch, (task, part)| {
            if task.tiled() {
                // SAFETY: rows lie inside all buffers, and this task's heads and rows are nobody else's (checked and asserted).
                unsafe { task.forward(part.clone(), scratch, (out, lse)) };
                return;
            }
            let heads = shape.heads / shape.kv_heads;
            for h in task.kv * heads..(task.kv + 1) * heads {
                for (start, end) in blocks(task.segment.own.len) {
                    forward_block(
                        inputs,
                        task.segment,
                        h,
                        start,
                        end,
                        &mut scratch.p,
                        out,
                        lse,
                    );
                }
            }
        });
}

fn forward_block(
    inputs: Inputs<'_>,
    s: &AttentionSegment,
    h: usize,
    start: usize,
    end: usize,
    scores: &mut Vec<f32>,
    out: Shared,
    lse: Shared,
) {
    let shape = inputs.shape;
    let keys = Keys::of(s, start, end, shape);
    let count = keys.count();
    scores.resize((end - start) * count, 0.0);
    inputs.scores(s, h, (start, end), keys, scores);
    for (i, row) in scores.chunks_exact_mut(count).enumerate() {
        let visible = keys.visible(s, start + i, shape);
        let seen = visible.clone();
        let value = simd!(|| softmax(row, seen, shape.softcap));
        inputs.drop(s, (start + i, h), keys, &visible, row);
        // SAFETY: element (query row, head) belongs to this task alone (checked) and lies inside lse (asserted).
        unsafe { *lse.at((s.query + start + i) * shape.heads + h) = value };
    }
    let at = (s.query + start) * shape.q_width() + h * shape.head_dim;
    for (column, span) in keys.runs(s) {
        // SAFETY: rows and head columns of `out` belong to this task alone and lie inside it (asserted).
        unsafe {
            raw(
                end - start,
                shape.head_dim,
                span.len,
                1.0,
                (scores.as_ptr().add(column), count, 1),
                inputs.value(span.act, inputs.key_head(h)),
                if column == 0 { 0.0 } else { 1.0 },
                (out.at(at), shape.q_width()),
                Parallelism::None,
            );
        }
    }
}

/// Replaces the visible scores by their softmax, the rest by zero; returns log Σ exp.
#[inline(always)]
fn softmax(row: &mut [f32], visible: Range<usize>, softcap: Option<f64>) -> f32 {
    hide(row, &visible);
    let row = &mut row[visible];
    let (top, sum) = exponentials(row, softcap);
    let scale = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= scale);
    top + sum.ln()
}

/// Replaces what is not visible by zero.
#[inline(always)]
fn hide(row: &mut [f32], visible: &Range<usize>) {
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
}

/// Replaces capped scores by exp(score − top); top and their sum.
#[inline(always)]
fn exponentials(row: &mut [f32], softcap: Option<f64>) -> (f32, f32) {
    soften(row, softcap);
    let top = lane_max(row);
    for x in row.iter_mut() {
        *x = exp(*x - top);
    }
    (top, lane_sum(row, |p| p))
}

/// The outputs of the backward, written at disjoint places by the tasks.
#[derive(Clone, Copy)]
struct Outputs<'a> {
    d_out: &'a [f32],
    lse: &'a [f32],
    dq: Shared,
    dk: Shared,
    dv: Shared,
}

/// See [`crate::Backend::attention_backward`].
pub(super) fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    lse: &[f32],
    layout: &AttentionLayout,
    shape: AttentionShape,
    d_out: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let inputs = Inputs { q, k, v, shape };
    let q_rows = (dq.len().min(d_out.len())) / shape.q_width();
    let kv_rows = dk.len().min(dv.len()) / shape.kv_width();
    for s in &layout.segments {
        inputs.check(s);
        assert!(s.own.grad + s.own.len <= q_rows);
        assert!(
            s.ancestors
                .iter()
                .chain([&s.own])
                .all(|a| a.grad + a.len <= kv_rows)
        );
    }
    let groups = layout.groups();
    let runs = groups.iter().enumerate().flat_map(|(task, group)| {
        let spans = group
            .iter()
            .flat_map(|s| s.ancestors.iter().chain([&s.own]));
        spans.map(move |span| (span.grad, span.grad + span.len, task))
    });
    check_disjoint(runs.collect());
    let outputs = Outputs {
        d_out,
        lse,
        dq: Shared::new(dq),
        dk: Shared::new(dk),
        dv: Shared::new(dv),
    };
    let tasks: Vec<(&[AttentionSegment], usize)> = groups
        .into_iter()
        .flat_map(|g| (0..shape.kv_heads).map(move |kv| (g, kv)))
        .collect();
    let per = shape.heads / shape.kv_heads;
    tasks
        .par_iter()
        .for_each_init(Scratch::default, |scratch, &(group, kv)| {
            for segment in group {
                let task = Task {
                    inputs,
                    segment,
                    kv,
                };
                if task.tiled() {
                    // SAFETY: rows lie inside all buffers (asserted), and the group's rows in the columns of key/value head
                    // `kv` are this task's alone (checked).
                    unsafe { task.backward(outputs, scratch) };
                    continue;
                }
                let (p, ds) = (&mut scratch.p, &mut scratch.ds);
                for h in kv * per..(kv + 1) * per {
                    for (start, end) in blocks(segment.own.len) {
                        backward_block(inputs, outputs, segment, h, start, end, p, ds);
                    }
                }
            }
        });
}

fn backward_block(
    inputs: Inputs<'_>,
    o: Outputs<'_>,
    s: &AttentionSegment,
    h: usize,
    start: usize,
    end: usize,
    p: &mut Vec<f32>,
    ds: &mut Vec<f32>,
) {
    let shape = inputs.shape;
    let keys = Keys::of(s, start, end, shape);
    let (rows, width, count) = (end - start, shape.head_dim, keys.count());
    let kv = inputs.key_head(h);
    p.resize(rows * count, 0.0);
    ds.resize(rows * count, 0.0);
    inputs.scores(s, h, (start, end), keys, p);
    let grad_at = (s.own.grad + start) * shape.q_width() + h * width;
    let d_out: RawMat = (o.d_out[grad_at..].as_ptr(), shape.q_width(), 1);
    for (column, span) in keys.runs(s) {
        // SAFETY: rows are inside their buffers (asserted); ds holds rows·count floats.
        unsafe {
            raw(
                rows,
                span.len,
                width,
                1.0,
                d_out,
                transposed(inputs.value(span.act, kv)),
                0.0,
                (ds.as_mut_ptr().add(column), count),
                Parallelism::None,
            );
        }
    }
    for i in 0..rows {
        let visible = keys.visible(s, start + i, shape);
        let lse = o.lse[(s.query + start + i) * shape.heads + h];
        let (p, ds) = (&mut p[i * count..][..count], &mut ds[i * count..][..count]);
        hide(p, &visible);
        hide(ds, &visible);
        inputs.drop(s, (start + i, h), keys, &visible, ds);
        let (seen, of_seen) = (&mut p[visible.clone()], &mut ds[visible.clone()]);
        simd!(|| score_gradient(seen, of_seen, lse, shape));
        inputs.drop(s, (start + i, h), keys, &visible, p);
    }
    let (p, ds) = (p.as_ptr(), ds.as_ptr());
    for (column, span) in keys.runs(s) {
        let key_at = span.grad * shape.kv_width() + kv * width;
        // SAFETY: this task alone has the group's gradient rows of key/value head `kv` and query heads `h`;
        // all rows are inside dq, dk, dv (asserted).
        unsafe {
            let (p, ds) = (p.add(column), ds.add(column));
            let add = |m, k, a, b, c| raw(m, width, k, 1.0, a, b, 1.0, c, Parallelism::None);
            let dq = (o.dq.at(grad_at), shape.q_width());
            add(rows, span.len, (ds, count, 1), inputs.key(span.act, kv), dq);
            let dk = (o.dk.at(key_at), shape.kv_width());
            let query = inputs.query(s.query + start, h);
            add(span.len, rows, (ds, 1, count), query, dk);
            let dv = (o.dv.at(key_at), shape.kv_width());
            add(span.len, rows, (p, 1, count), d_out, dv);
        }
    }
}

/// From scores to p = exp(score − lse), from dp to ds = scale·p(dp − Σ p·dp).
#[inline(always)]
fn score_gradient(p: &mut [f32], ds: &mut [f32], lse: f32, shape: AttentionShape) {
    let scale = shape.scale as f32;
    if let Some(cap) = shape.softcap {
        capped_score_gradient(p, ds, lse, scale, cap);
        return;
    }
    for x in p.iter_mut() {
        *x = exp(*x - lse);
    }
    let mean = lane_sum_2(p, ds, |p, ds| p * ds);
    for (d, p) in ds.iter_mut().zip(p.iter()) {
        *d = scale * p * (*d - mean);
    }
}

/// The same with capped scores t = cap·tanh(score/cap): ds takes the factor 1 − (t/cap)². t must outlive the mean, so
/// p is computed twice rather than t stored.
#[inline(always)]
fn capped_score_gradient(t: &mut [f32], ds: &mut [f32], lse: f32, scale: f32, cap: f64) {
    soften(t, Some(cap));
    let mean = lane_sum_2(t, ds, |t, ds| exp(t - lse) * ds);
    for (d, t) in ds.iter_mut().zip(t) {
        let (p, slope) = (exp(*t - lse), softening(*t, Some(cap)));
        *d = scale * p * (*d - mean) * slope;
        *t = p;
    }
}
