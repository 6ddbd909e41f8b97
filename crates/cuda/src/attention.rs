//! Tables that attention's kernels walk (see `kernels/attention.cu`), and its launches.

use crate::backend::CudaBackend;
use crate::buffer::{CudaBuffer, Memory};
use crate::device::Arg;
use crate::error::Failure;
use crate::launch::{float, input, output};
use unbraid_tensor::{AttentionLayout, AttentionSegment, AttentionShape};

/// Rows of a tile.
const TILE: usize = 32;

/// A layout's tables on the device.
pub(crate) struct Tables {
    segments: Memory,
    runs: Memory,
    tiles: (Memory, usize),
    key_tiles: (Memory, usize),
    entries: Memory,
}

/// The tables of some segments on the host; `u32` holds the kernels' `int`.
#[derive(Default)]
struct Rows {
    segments: Vec<u32>,
    runs: Vec<u32>,
    tiles: Vec<u32>,
    /// (first gradient row, rows, segment, run) of every run of keys that is not empty.
    reached: Vec<[usize; 4]>,
}

impl Rows {
    fn of<'a>(segments: impl Iterator<Item = &'a AttentionSegment>) -> Self {
        let mut rows = Rows::default();
        for (number, s) in segments.enumerate() {
            let first_run = rows.runs.len() / 4;
            let mut position = 0;
            for span in s.ancestors.iter().chain([&s.own]) {
                if span.len > 0 && s.own.len > 0 {
                    let run = rows.runs.len() / 4;
                    rows.reached.push([span.grad, span.len, number, run]);
                }
                rows.runs
                    .extend([span.act, span.grad, span.len, position].map(int));
                position += span.len;
            }
            let runs = s.ancestors.len() + 1;
            let before = position - s.own.len;
            let row = [s.query, s.own.len, before, first_run, runs, s.own.grad];
            rows.segments.extend(row.map(int));
            for first in (0..s.own.len).step_by(TILE) {
                rows.tiles.extend([number, first].map(int));
            }
        }
        rows
    }

    /// (key tiles, their entries): each tile of gradient rows with the runs that reach it, in order.
    fn key_tiles(&self) -> (Vec<u32>, Vec<u32>) {
        let mut reaching = std::collections::BTreeMap::<usize, Vec<[usize; 2]>>::new();
        for &[grad, len, segment, run] in &self.reached {
            for tile in grad / TILE..=(grad + len - 1) / TILE {
                reaching.entry(tile).or_default().push([segment, run]);
            }
        }
        let (mut tiles, mut entries) = (Vec::new(), Vec::new());
        for (tile, runs) in reaching {
            tiles.extend([tile * TILE, entries.len() / 2, runs.len()].map(int));
            entries.extend(runs.into_iter().flatten().map(int));
        }
        (tiles, entries)
    }
}

fn int(x: usize) -> u32 {
    assert!(x < 1 << 31, "fewer than 2^31 rows");
    x as u32
}

/// Segments in waves whose members share no gradient row of a query, in order; nearly always one wave.
fn waves(layout: &AttentionLayout) -> Vec<AttentionLayout> {
    let mut owned: Vec<_> = layout.segments.iter().map(|s| s.own).collect();
    owned.retain(|own| own.len > 0);
    owned.sort_by_key(|own| own.grad);
    let apart = owned.windows(2).all(|w| w[0].grad + w[0].len <= w[1].grad);
    if apart {
        return vec![layout.clone()];
    }
    let alone = |s: &AttentionSegment| AttentionLayout {
        segments: vec![s.clone()],
    };
    layout.segments.iter().map(alone).collect()
}

/// The instance of a kernel for heads of `head_dim`.
fn instance(kernels: [&'static str; 4], head_dim: usize) -> &'static str {
    match head_dim.div_ceil(TILE) {
        0..=2 => kernels[0],
        3..=4 => kernels[1],
        5..=8 => kernels[2],
        9..=16 => kernels[3],
        _ => Failure(format!(
            "attention on the GPU takes heads of at most 512 elements, and this model has {head_dim}\nhint: --device cpu takes any"
        ))
        .raise(),
    }
}

fn numbers(s: AttentionShape) -> [Arg; 9] {
    let sizes = [s.heads, s.kv_heads, s.head_dim].map(|x| Arg::Int(int(x) as i32));
    // Of whole paths every position is seen; positions stay below 2^30, so that sums of two do not overflow.
    let window = s.window.unwrap_or(usize::MAX).min(1 << 30);
    assert!(window > 0, "a window of 0 hides a query from itself");
    let [heads, kv_heads, head_dim] = sizes;
    let (window, cap) = (Arg::Int(window as i32), float(s.softcap.unwrap_or(0.0)));
    let (seed, p) = s.dropout.map_or((0, 0.0), |d| (d.seed, d.p));
    assert!(
        (0.0..1.0).contains(&p),
        "dropout probability {p} is outside 0..1"
    );
    // Whether there is dropout at all: the factor on what is kept, 0 without.
    let factor = s.dropout.map_or(0.0, |d| 1.0 / (1.0 - d.p));
    let threshold = Arg::Unsigned((p * 4_294_967_296.0) as u32);
    let (seed, factor) = (Arg::UnsignedLong(seed), float(factor));
    let scale = float(s.scale);
    [
        heads, kv_heads, head_dim, window, scale, cap, factor, threshold, seed,
    ]
}

impl CudaBackend {
    fn tables(&self, layout: &AttentionLayout) -> Tables {
        let rows = Rows::of(layout.segments.iter());
        let (key_tiles, entries) = rows.key_tiles();
        Tables {
            segments: self.table(&rows.segments),
            runs: self.table(&rows.runs),
            tiles: (self.table(&rows.tiles), rows.tiles.len() / 2),
            key_tiles: (self.table(&key_tiles), key_tiles.len() / 3),
            entries: self.table(&entries),
        }
    }

    /// The tables of a layout: those of the last call where it is the same, as in every layer of a step.
    fn with_tables(&self, layout: &AttentionLayout, act: impl FnOnce(&Tables)) {
        let mut last = self.layout.lock().unwrap_or_else(|e| e.into_inner());
        let known = last.take().filter(|(known, _)| known == layout);
        let kept = known.unwrap_or_else(|| (layout.clone(), self.tables(layout)));
        act(&kept.1);
        *last = Some(kept);
    }

    /// See [`unbraid_tensor::Backend::attention`].
    pub(crate) fn attend(
        &self,
        [q, k, v]: [&CudaBuffer; 3],
        layout: &AttentionLayout,
        s: AttentionShape,
        out: &mut CudaBuffer,
    ) -> CudaBuffer {
        let mut lse = self.floats(out.len / s.head_dim);
        let kernel = instance(
            [
                "attention_forward_2",
                "attention_forward_4",
                "attention_forward_8",
                "attention_forward_16",
            ],
            s.head_dim,
        );
        self.with_tables(layout, |t| {
            let mut args = [q, k, v].map(input).to_vec();
            let tables = [&t.segments, &t.runs, &t.tiles.0];
            args.extend(tables.map(|m| Arg::Address(m.address)));
            args.extend(numbers(s));
            args.extend([output(out), output(&mut lse)]);
            self.launch(kernel, [t.tiles.1, s.heads, 1], &args);
        });
        lse
    }

    /// See [`unbraid_tensor::Backend::attention_backward`].
    pub(crate) fn attend_backward(
        &self,
        inputs: [&CudaBuffer; 5],
        layout: &AttentionLayout,
        s: AttentionShape,
        [dq, dk, dv]: [&mut CudaBuffer; 3],
    ) {
        let [q, k, v, lse, d_out] = inputs.map(input);
        let mut delta = self.floats(dq.len / s.head_dim);
        let queries = [
            "attention_queries_2",
            "attention_queries_4",
            "attention_queries_8",
            "attention_queries_16",
        ];
        let keys = [
            "attention_keys_2",
            "attention_keys_4",
            "attention_keys_8",
            "attention_keys_16",
        ];
        for wave in waves(layout) {
            self.with_tables(&wave, |t| {
                let address = |m: &Memory| Arg::Address(m.address);
                let mut args = vec![q, k, v, lse, d_out];
                args.extend([&t.segments, &t.runs, &t.tiles.0].map(address));
                args.extend(numbers(s));
                args.extend([output(&mut delta), output(dq)]);
                let kernel = instance(queries, s.head_dim);
                self.launch(kernel, [t.tiles.1, s.heads, 1], &args);
                let mut args = vec![q, k, v, lse, output(&mut delta), d_out];
                let tables = [&t.segments, &t.runs, &t.key_tiles.0, &t.entries];
                args.extend(tables.map(address));
                args.extend(numbers(s));
                args.extend([output(dk), output(dv)]);
                let kernel = instance(keys, s.head_dim);
                self.launch(kernel, [t.key_tiles.1, s.kv_heads, 1], &args);
            });
        }
    }
}
