//! What the CPU backend decides from sizes alone: buffers it keeps, chunks it cuts, the way in which it finds inner products of
//! gradients. Public so that whoever predicts memory and work of a run goes by the same rules.

use crate::layout::Span;
use std::ops::Range;

/// Below this many floats the system allocator is fast enough, and buffers are not pooled.
pub const SMALLEST_POOLED: usize = 4096;
/// Buffers kept beyond this total (in floats, 4 GiB) are returned to the system. What is kept was in use at one time, so this
/// bounds what a run holds after its largest batch, not its peak.
pub const KEPT_AT_MOST: usize = 1 << 30;

/// Capacity of a new buffer for `len` floats: steps of an eighth of the power of two, so that lengths that vary a little share.
#[must_use]
pub fn capacity(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(16);
    len.next_multiple_of(step)
}

/// Query rows that attention scores at a time: whole tiles.
pub const ATTENTION_BLOCK: usize = 60;

/// Logits of a chunk hold about this many floats (4 MiB).
const CHUNK_FLOATS: usize = 1 << 20;
/// A widened chunk of a bf16 head holds at most about this many floats (16 MiB).
const WIDENED_FLOATS: usize = 1 << 22;
/// Logits are kept for the backward up to so many floats (256 MiB).
const KEPT_LOGITS: usize = 1 << 26;

/// Columns of the vocabulary `v` that the head computes at a time for `m` scored rows of width `d`.
#[must_use]
pub fn head_chunk(m: usize, d: usize, v: usize, bf16: bool) -> usize {
    let width = (CHUNK_FLOATS / m.max(1)).clamp(256, 8192).min(v.max(1));
    match bf16 {
        true => width.min((WIDENED_FLOATS / d.max(1)).max(256)),
        false => width,
    }
}

/// Whether a training step's forward keeps the logits of `m` scored rows.
#[must_use]
pub fn keeps_logits(m: usize, v: usize) -> bool {
    m * v <= KEPT_LOGITS
}

/// A widened panel of a bf16 matrix holds about this many floats (2 MiB).
const PANEL: usize = 1 << 19;

/// Rows of width `k` that are widened at a time.
#[must_use]
pub fn panel_rows(k: usize) -> usize {
    (PANEL / k.max(1)).next_multiple_of(64)
}

/// How inner products of gradients are found; `gram.rs` says what each costs and when it pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From row products alone.
    Ghost,
    /// From output gradients and their projections on the rows.
    Projected,
    /// From the gradients themselves.
    Formed,
}

/// A number written and read again costs as much as about so many multiply-adds.
const TRAFFIC: usize = 24;

/// Buffers of one slice hold about this many floats (16 MiB for each of the two sides).
const SLICE: usize = 1 << 22;

/// The sizes of some probes of a linear map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSizes {
    /// Number of probes.
    pub n: usize,
    /// The activation rows that any probe touches, as one run.
    pub rows: Range<usize>,
    /// Rows of each probe.
    pub lens: Vec<usize>,
}

impl ProbeSizes {
    /// Sizes of `probes`.
    #[must_use]
    pub fn of(probes: &[&[Span]]) -> Self {
        let spans = || probes.iter().flat_map(|probe| probe.iter());
        let start = spans().map(|s| s.act).min().unwrap_or(0);
        let end = spans().map(|s| s.act + s.len).max().unwrap_or(0);
        let len = |probe: &&[Span]| probe.iter().map(|s| s.len).sum();
        ProbeSizes {
            n: probes.len(),
            rows: start..end,
            lens: probes.iter().map(len).collect(),
        }
    }

    /// Multiply-adds of a way, and numbers that it writes and reads again.
    #[must_use]
    pub fn cost(&self, way: Way, d_in: usize, d_out: usize) -> (usize, usize) {
        let (n, rows) = (self.n, self.rows.len());
        let total: usize = self.lens.iter().sum();
        let squares: usize = self.lens.iter().map(|t| t * t).sum();
        let k = rows * rows * d_in;
        match way {
            Way::Ghost => (k + (total * total + squares) / 2 * d_out, 0),
            Way::Projected => (k + (rows * rows + total) * n * d_out, 2 * rows * n * d_out),
            Way::Formed => ((total + n * (n + 1) / 2) * d_in * d_out, n * d_in * d_out),
        }
    }

    /// The cheapest way.
    #[must_use]
    pub fn way(&self, d_in: usize, d_out: usize) -> Way {
        let cost = |&way: &Way| {
            let (operations, traffic) = self.cost(way, d_in, d_out);
            operations + TRAFFIC * traffic
        };
        let ways = [Way::Ghost, Way::Projected, Way::Formed];
        ways.into_iter().min_by_key(cost).expect("three")
    }

    /// Output columns that [`Way::Projected`] takes at a time.
    #[must_use]
    pub fn projected_slice(&self, d_out: usize) -> usize {
        slice(d_out, self.n * self.rows.len())
    }

    /// Output rows whose gradients [`Way::Formed`] holds at a time. Few probes: a slice stays in the cache.
    #[must_use]
    pub fn formed_slice(&self, d_in: usize, d_out: usize) -> usize {
        let few = if self.n < 8 { 16 } else { 1 };
        slice(d_out, few * self.n * d_in)
    }
}

/// Part of a width whose buffers of `floats` a unit of width stay below [`SLICE`].
fn slice(width: usize, floats: usize) -> usize {
    (SLICE / floats.max(1)).max(16).min(width.max(1))
}
