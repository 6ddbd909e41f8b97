//! Packed batches: a forest of segments laid end to end, with the tokens to be scored.
//!
//! A tree is a prompt (root segment) with one segment per completion below it. Row r of the batch is one input
//! token; positions count along the path from the root. There is no padding, and a prompt shared by several
//! completions is stored and computed once. The last token of a sequence predicts nothing, so it is a target
//! but never a row.
//!
//! A [`GradientPlan`] says how gradient rows relate to activation rows: summed (one gradient row per row), per
//! response (the shared prompt's rows once for every response, so that no two responses ever mix), or per token.

use std::ops::Range;
use unbraid_tensor::{AttentionLayout, AttentionSegment, Backend, Span};

/// A run of rows with one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows, at least one.
    pub len: usize,
    /// The segment whose rows come before this one's on the path.
    pub parent: Option<usize>,
    /// The tree it belongs to.
    pub tree: usize,
}

/// One scored sequence: its path and its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Segments from the root down.
    pub path: Vec<usize>,
    /// Its targets, a range of [`Forest::targets`].
    pub targets: Range<usize>,
}

/// A token whose log-prob is wanted, and the row that predicts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The predicting row (the token before).
    pub row: usize,
    /// The token.
    pub id: u32,
}

/// A packed batch on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forest {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Position of each row.
    pub positions: Vec<u32>,
    /// All segments, parents before children, each tree's together.
    pub segments: Vec<Segment>,
    /// All scored tokens, those of one response together.
    pub targets: Vec<Target>,
    /// All responses, in the order they were added.
    pub responses: Vec<Response>,
    trees: usize,
}

/// One sequence to score: `ids[scored_from..]` are the completion tokens.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Prompt and completion tokens.
    pub ids: &'a [u32],
    /// Index of the first scored token. A token at index 0 has no predecessor and is never scored.
    pub scored_from: usize,
}

impl Forest {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows N.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Adds sequences that share their first tokens as one tree and returns their response numbers.
    ///
    /// The longest common prefix that no sequence scores is stored once; `share: false` stores each apart.
    pub fn add_tree(&mut self, sequences: &[Sequence<'_>], share: bool) -> Range<usize> {
        let first = self.responses.len();
        if !share && sequences.len() > 1 {
            for sequence in sequences {
                self.add_tree(&[*sequence], true);
            }
            return first..self.responses.len();
        }
        let shared = shared_prefix(sequences);
        let tree = self.trees;
        self.trees += 1;
        let root = self.add_segment(&sequences[0].ids[..shared], None, 0, tree);
        for sequence in sequences {
            let rows = sequence.ids.len().saturating_sub(1).max(shared);
            let leaf = self.add_segment(&sequence.ids[shared..rows], root, shared, tree);
            let path: Vec<usize> = root.into_iter().chain(leaf).collect();
            let start = self.targets.len();
            for t in sequence.scored_from.max(1)..sequence.ids.len() {
                let row = self.row_at(&path, t - 1);
                self.targets.push(Target {
                    row,
                    id: sequence.ids[t],
                });
            }
            let targets = start..self.targets.len();
            self.responses.push(Response { path, targets });
        }
        first..self.responses.len()
    }

    fn add_segment(
        &mut self,
        ids: &[u32],
        parent: Option<usize>,
        position: usize,
        tree: usize,
    ) -> Option<usize> {
        if ids.is_empty() {
            return None;
        }
        self.segments.push(Segment {
            start: self.ids.len(),
            len: ids.len(),
            parent,
            tree,
        });
        self.ids.extend_from_slice(ids);
        self.positions
            .extend((position..position + ids.len()).map(|p| p as u32));
        Some(self.segments.len() - 1)
    }

    /// The row of the token at `index` along a path.
    fn row_at(&self, path: &[usize], mut index: usize) -> usize {
        for &s in path {
            let segment = &self.segments[s];
            if index < segment.len {
                return segment.start + index;
            }
            index -= segment.len;
        }
        unreachable!("a target's predecessor is a row of its own path")
    }

    /// Segments from the root to `s`.
    fn path(&self, s: usize) -> Vec<usize> {
        let mut path = vec![s];
        while let Some(parent) = self.segments[path[path.len() - 1]].parent {
            path.push(parent);
        }
        path.reverse();
        path
    }

    /// The attention layout of the forward pass (gradient rows equal activation rows).
    pub fn layout(&self) -> AttentionLayout {
        let span = |s: &Segment| Span {
            act: s.start,
            grad: s.start,
            len: s.len,
        };
        let segments = (0..self.segments.len())
            .map(|s| {
                let path = self.path(s);
                AttentionSegment {
                    query: self.segments[s].start,
                    own: span(&self.segments[s]),
                    ancestors: path[..path.len() - 1]
                        .iter()
                        .map(|&a| span(&self.segments[a]))
                        .collect(),
                    group: self.segments[s].tree,
                }
            })
            .collect();
        AttentionLayout { segments }
    }
}

/// Length of the prefix common to all sequences, before anything scored.
fn shared_prefix(sequences: &[Sequence<'_>]) -> usize {
    let first = sequences[0].ids;
    sequences
        .iter()
        .map(|s| {
            let equal = s.ids.iter().zip(first).take_while(|(a, b)| a == b).count();
            equal.min(s.scored_from).min(s.ids.len().saturating_sub(1))
        })
        .min()
        .unwrap_or(0)
}

/// A batch on the device.
pub struct Batch<B: Backend> {
    /// The host side.
    pub forest: Forest,
    /// Token of each row, `[N]`.
    pub ids: B::Index,
    /// Position of each row, `[N]`.
    pub positions: B::Index,
    /// Which rows attend to which.
    pub layout: AttentionLayout,
    /// Predicting row of each target, `[M]`.
    pub target_rows: B::Index,
    /// Token of each target, `[M]`.
    pub target_ids: B::Index,
}

impl<B: Backend> Batch<B> {
    /// Moves a forest to the device.
    pub fn new(backend: &B, forest: Forest) -> Self {
        let rows: Vec<u32> = forest.targets.iter().map(|t| t.row as u32).collect();
        let ids: Vec<u32> = forest.targets.iter().map(|t| t.id).collect();
        Batch {
            ids: backend.index(&forest.ids),
            positions: backend.index(&forest.positions),
            layout: forest.layout(),
            target_rows: backend.index(&rows),
            target_ids: backend.index(&ids),
            forest,
        }
    }

    /// Number of rows N.
    pub fn rows(&self) -> usize {
        self.forest.rows()
    }

    /// Number of targets M.
    pub fn targets(&self) -> usize {
        self.forest.targets.len()
    }
}

/// How gradient rows relate to activation rows.
pub struct GradientPlan<B: Backend> {
    /// Number of gradient rows R.
    pub rows: usize,
    /// Activation row of each gradient row, `[R]`; `None` when they are the same.
    pub activation_rows: Option<B::Index>,
    /// Position of each gradient row, `[R]`.
    pub positions: B::Index,
    /// Token of each gradient row, `[R]`.
    pub ids: B::Index,
    /// The same on the host.
    pub tokens: Vec<u32>,
    /// Gradient row of each target, `[M]`.
    pub target_rows: B::Index,
    /// Attention with gradient rows.
    pub layout: AttentionLayout,
    /// For each response (or other probe) its rows as runs, root first; its gradient rows are contiguous.
    /// Empty when gradients are summed.
    pub responses: Vec<Vec<Span>>,
    /// The targets of each, a range of [`Forest::targets`].
    pub targets: Vec<Range<usize>>,
}

impl<B: Backend> GradientPlan<B> {
    /// One gradient row per activation row: responses that share a prompt add up there.
    pub fn summed(backend: &B, forest: &Forest) -> Self {
        let rows: Vec<u32> = forest.targets.iter().map(|t| t.row as u32).collect();
        GradientPlan {
            rows: forest.rows(),
            activation_rows: None,
            positions: backend.index(&forest.positions),
            ids: backend.index(&forest.ids),
            tokens: forest.ids.clone(),
            target_rows: backend.index(&rows),
            layout: forest.layout(),
            responses: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Every response has its own gradient rows along its whole path.
    pub fn per_response(backend: &B, forest: &Forest) -> Self {
        let responses = forest.responses.iter().enumerate();
        Self::of_probes(
            backend,
            forest,
            responses.map(|(r, x)| (r, x.targets.clone())),
        )
    }

    /// Every one of these targets has its own gradient rows, up to the row that predicts it: probe i is `targets[i]`
    /// alone. Seeds of all other targets must be zero.
    pub fn per_token(backend: &B, forest: &Forest, targets: &[usize]) -> Self {
        let response = |t: usize| {
            let holds = |r: &Response| r.targets.contains(&t);
            let found = forest.responses.iter().position(holds);
            found.expect("every target belongs to a response")
        };
        let probes = targets.iter().map(|&t| (response(t), t..t + 1));
        Self::of_probes(backend, forest, probes)
    }

    /// Each probe is a run of targets of one response, with gradient rows of its own up to the last one's row.
    fn of_probes(
        backend: &B,
        forest: &Forest,
        probes: impl Iterator<Item = (usize, Range<usize>)>,
    ) -> Self {
        let (mut rows, mut segments) = (Vec::new(), Vec::new());
        let (mut responses, mut targets) = (Vec::new(), Vec::new());
        let mut target_rows = vec![0u32; forest.targets.len()];
        for (group, (response, own)) in probes.enumerate() {
            let last = own.clone().last().map(|t| forest.targets[t].row);
            let mut spans: Vec<Span> = Vec::new();
            for &s in &forest.responses[response].path {
                let segment = &forest.segments[s];
                let whole = segment.start..segment.start + segment.len;
                let ends_here = last.filter(|row| whole.contains(row));
                let end = ends_here.map_or(whole.end, |row| row + 1);
                let span = Span {
                    act: segment.start,
                    grad: rows.len(),
                    len: end - segment.start,
                };
                rows.extend((segment.start..end).map(|r| r as u32));
                segments.push(AttentionSegment {
                    query: segment.start,
                    own: span,
                    ancestors: spans.clone(),
                    group,
                });
                spans.push(span);
                if ends_here.is_some() {
                    break;
                }
            }
            for t in own.clone() {
                let row = forest.targets[t].row;
                let span = spans
                    .iter()
                    .find(|s| (s.act..s.act + s.len).contains(&row))
                    .expect("a target's row lies on its response's path");
                target_rows[t] = (span.grad + row - span.act) as u32;
            }
            responses.push(spans);
            targets.push(own);
        }
        let pick =
            |values: &[u32]| -> Vec<u32> { rows.iter().map(|&r| values[r as usize]).collect() };
        let tokens = pick(&forest.ids);
        GradientPlan {
            rows: rows.len(),
            positions: backend.index(&pick(&forest.positions)),
            ids: backend.index(&tokens),
            tokens,
            target_rows: backend.index(&target_rows),
            activation_rows: Some(backend.index(&rows)),
            layout: AttentionLayout { segments },
            responses,
            targets,
        }
    }

    /// Activation row of each gradient row when every row is taken apart into `heads` rows, `[R·heads]`; `None` when
    /// they are the same.
    pub(crate) fn activation_rows_of_heads(&self, backend: &B, heads: usize) -> Option<B::Index> {
        self.activation_rows.as_ref()?;
        let spans = self.responses.iter().flatten();
        let rows: Vec<u32> = spans
            .flat_map(|s| s.act * heads..(s.act + s.len) * heads)
            .map(|row| row as u32)
            .collect();
        Some(backend.index(&rows))
    }

    /// Gradient rows of response `p` (per-response plans).
    pub fn response_rows(&self, p: usize) -> Range<usize> {
        let spans = &self.responses[p];
        match (spans.first(), spans.last()) {
            (Some(first), Some(last)) => first.grad..last.grad + last.len,
            _ => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbraid_tensor::NaiveBackend;

    fn pair() -> Forest {
        let mut forest = Forest::new();
        let (a, b) = ([1, 2, 3, 4, 9], [1, 2, 3, 5, 6, 9]);
        forest.add_tree(
            &[
                Sequence {
                    ids: &a,
                    scored_from: 3,
                },
                Sequence {
                    ids: &b,
                    scored_from: 3,
                },
            ],
            true,
        );
        forest
    }

    #[test]
    fn shared_prompt_is_stored_once_and_last_tokens_are_no_rows() {
        let forest = pair();
        assert_eq!(forest.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(forest.positions, [0, 1, 2, 3, 3, 4]);
        let rows: Vec<_> = forest.targets.iter().map(|t| (t.row, t.id)).collect();
        assert_eq!(rows, [(2, 4), (3, 9), (2, 5), (4, 6), (5, 9)]);
        assert_eq!(forest.responses[1].targets, 2..5);
    }

    #[test]
    fn streams_repeat_the_prompt_per_response() {
        let plan = GradientPlan::<NaiveBackend>::per_response(&NaiveBackend, &pair());
        assert_eq!(plan.activation_rows, Some(vec![0, 1, 2, 3, 0, 1, 2, 4, 5]));
        assert_eq!(plan.target_rows, [2, 3, 6, 7, 8]);
        let heads = plan.activation_rows_of_heads(&NaiveBackend, 2).unwrap();
        assert_eq!(heads[..10], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]);
        assert_eq!(heads[10..], [2, 3, 4, 5, 8, 9, 10, 11]);
        assert_eq!(plan.response_rows(1), 4..9);
    }

    #[test]
    fn a_one_token_completion_has_no_rows_of_its_own() {
        let mut forest = Forest::new();
        let (a, b) = ([7, 8], [7, 9]);
        let s = |ids| Sequence {
            ids,
            scored_from: 1,
        };
        forest.add_tree(&[s(&a), s(&b)], true);
        assert_eq!(forest.ids, [7]);
        assert_eq!(
            forest.targets,
            [Target { row: 0, id: 8 }, Target { row: 0, id: 9 }]
        );
        // Nothing before the first token: it cannot be scored.
        let mut forest = Forest::new();
        forest.add_tree(
            &[Sequence {
                ids: &a,
                scored_from: 0,
            }],
            true,
        );
        assert_eq!(forest.targets, [Target { row: 0, id: 8 }]);
    }
}
