//! Inner products of probes' weight gradients of one linear map, by the cheaper of two ways (see `cpu/gram.rs` of the tensor
//! crate, whose names these are): from row products alone (ghost), or from the gradients themselves, a slice of output
//! columns at a time (formed).

use crate::backend::CudaBackend;
use crate::buffer::CudaBuffer;
use crate::device::Arg;
use crate::launch::{index, input, long};
use unbraid_tensor::{Backend, Gemm, Mat, MatMut, Span};

/// Gradients of one slice hold at most about this many floats (64 MiB).
const SLICE: usize = 1 << 24;

/// Blocks that share one inner product of formed gradients.
const SPLITS: usize = 8;

/// The linear map's raw material.
pub(crate) struct Map<'a> {
    pub a: &'a CudaBuffer,
    pub g: &'a CudaBuffer,
    pub d_in: usize,
    pub d_out: usize,
}

fn len(probe: &[Span]) -> usize {
    probe.iter().map(|s| s.len).sum()
}

/// The activation rows that any probe touches, as one run: (first, number).
fn rows(probes: &[&[Span]]) -> (usize, usize) {
    let spans = || probes.iter().flat_map(|p| p.iter()).filter(|s| s.len > 0);
    let start = spans().map(|s| s.act).min().unwrap_or(0);
    let end = spans().map(|s| s.act + s.len).max().unwrap_or(0);
    (start, end - start)
}

impl CudaBackend {
    /// One cluster's matrix, see [`Backend::linear_grams`].
    pub(crate) fn linear_gram(&self, map: &Map<'_>, probes: &[&[Span]]) -> Vec<f64> {
        let (n, count) = (probes.len(), rows(probes).1);
        let lens: Vec<usize> = probes.iter().map(|p| len(p)).collect();
        let total: usize = lens.iter().sum();
        let squares: usize = lens.iter().map(|t| t * t).sum();
        let ghost = count * count * map.d_in + (total * total + squares) / 2 * map.d_out;
        let formed = (total + n * (n + 1) / 2) * map.d_in * map.d_out;
        if total == 0 {
            vec![0.0; n * n]
        } else if ghost <= formed {
            self.ghost(map, probes)
        } else {
            self.formed(map, probes)
        }
    }

    /// ⟨G_pᵀA_p, G_qᵀA_q⟩ = Σ_{s,t} K_st (G_p G_qᵀ)_st with K = AAᵀ.
    pub(crate) fn ghost(&self, map: &Map<'_>, probes: &[&[Span]]) -> Vec<f64> {
        let (n, (first_act, width)) = (probes.len(), rows(probes));
        let (mut acts, mut grads, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for probe in probes {
            for span in *probe {
                acts.extend((0..span.len).map(|r| (span.act - first_act + r) as u32));
                grads.extend((0..span.len).map(|r| (span.grad + r) as u32));
            }
            starts.push(acts.len() as u32);
        }
        let total = acts.len();
        let mut packed = self.floats(total * map.d_out);
        let order = self.index(&grads);
        self.gather(map.g, &order, &mut packed, map.d_out, false);
        let mut k = self.floats(width * width);
        let a = (map.a, first_act * map.d_in);
        self.dense((width, width, map.d_in), a, (a.0, a.1, true), 0.0, &mut k);
        let (acts, device_starts) = (self.index(&acts), self.index(&starts));
        let sums = self.zero_doubles(n * n);
        for p in 0..n {
            let (first, count) = (starts[p] as usize, (starts[p + 1] - starts[p]) as usize);
            let rest = total - first;
            let mut products = self.floats(count * rest);
            let from = (&packed, first * map.d_out);
            let shape = (count, rest, map.d_out);
            self.dense(shape, from, (from.0, from.1, true), 0.0, &mut products);
            // Blocks are the probes from p on.
            let starts = Arg::Address(device_starts.memory.address + (p * 4) as u64);
            let out = Arg::Address(sums.address + ((p * n + p) * 8) as u64);
            let mut args = vec![input(&k), long(width), input(&products)];
            args.extend([first, count, rest].map(long));
            args.extend([index(&acts), starts, out]);
            self.launch("ghost_row", [n - p, 1, 1], &args);
        }
        mirrored(self.doubles(&sums, n * n), n)
    }

    pub(crate) fn formed(&self, map: &Map<'_>, probes: &[&[Span]]) -> Vec<f64> {
        let (n, d_in) = (probes.len(), map.d_in);
        let step = (SLICE / (n * d_in).max(1)).clamp(1, map.d_out.max(1));
        let sums = self.zero_doubles(n * n * SPLITS);
        for start in (0..map.d_out).step_by(step) {
            let columns = step.min(map.d_out - start);
            let mut own = self.zeros(n * columns * d_in);
            for (p, probe) in probes.iter().enumerate() {
                for span in *probe {
                    let g = Mat {
                        buffer: map.g,
                        offset: span.grad * map.d_out + start,
                        row_stride: map.d_out,
                        col_stride: 1,
                    };
                    let to = MatMut {
                        buffer: &mut own,
                        offset: p * columns * d_in,
                        row_stride: d_in,
                    };
                    let shape = Gemm::add(columns, d_in, span.len);
                    self.multiply(shape, g.t(), Mat::rows(map.a, span.act, d_in), to);
                }
            }
            let args = [
                input(&own),
                long(columns * d_in),
                Arg::Address(sums.address),
            ];
            self.launch("pair_dots", [SPLITS, n, n], &args);
        }
        let parts = self.doubles(&sums, n * n * SPLITS);
        mirrored(parts.chunks(SPLITS).map(|x| x.iter().sum()).collect(), n)
    }
}

/// Fills the lower triangle.
fn mirrored(mut gram: Vec<f64>, n: usize) -> Vec<f64> {
    for p in 0..n {
        for q in 0..p {
            gram[p * n + q] = gram[q * n + p];
        }
    }
    gram
}
