//! The head fused with log-softmax, a chunk of the vocabulary at a time: logits of a chunk by matrix product, then one kernel
//! over its rows. The `[M, V]` matrix never exists.

use crate::backend::CudaBackend;
use crate::buffer::{CudaBuffer, CudaIndex};
use crate::device::Arg;
use crate::launch::{cap, done, index, input, long, output};
use std::ops::Range;
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut};

impl CudaBackend {
    /// Chunks of the vocabulary for `m` scored rows.
    fn chunks(&self, m: usize, v: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let width = (self.chunk_floats / m.max(1)).max(256).min(v.max(1));
        (0..v)
            .step_by(width)
            .map(move |start| start..(start + width).min(v))
    }

    /// Logits of all rows for one chunk, `[m, chunk]`, not capped yet.
    fn logits(
        &self,
        h: &CudaBuffer,
        w: &CudaBuffer,
        chunk: &Range<usize>,
        m: usize,
        d: usize,
    ) -> CudaBuffer {
        let mut z = self.floats(m * chunk.len());
        let shape = (m, chunk.len(), d);
        self.dense(shape, (h, 0), (w, chunk.start * d, true), 0.0, &mut z);
        z
    }

    /// Logits of a chunk turned into output gradients G, `[m, chunk]`.
    fn output_gradient(&self, args: &HeadBackward<'_, Self>, chunk: &Range<usize>) -> CudaBuffer {
        let (m, width) = (args.m, chunk.len());
        let mut z = self.logits(args.h, args.w, chunk, m, args.d);
        let mut list = vec![output(&mut z), long(width), long(chunk.start)];
        list.extend([index(args.targets), input(args.lse), input(args.seeds)]);
        list.extend([cap(args.softcap), long(m)]);
        self.each("head_gradient", m * width, &list);
        z
    }

    /// See [`Backend::head_logps`].
    pub(crate) fn logps(
        &self,
        (h, w): (&CudaBuffer, &CudaBuffer),
        targets: &CudaIndex,
        softcap: Option<f64>,
        (m, d, v): (usize, usize, usize),
    ) -> (CudaBuffer, CudaBuffer) {
        let mut top = self.upload(&vec![f32::NEG_INFINITY; m]);
        let (sum, mut hit) = (self.zero_doubles(m), self.zeros(m));
        let sum = Arg::Address(sum.address);
        for chunk in self.chunks(m, v) {
            let z = self.logits(h, w, &chunk, m, d);
            let mut args = vec![input(&z), long(chunk.len()), long(chunk.start)];
            args.extend([index(targets), cap(softcap), output(&mut top), sum]);
            args.push(output(&mut hit));
            self.launch("head_update", [m, 1, 1], &args);
        }
        let (mut logps, mut lse) = (self.floats(m), self.floats(m));
        let mut args = vec![input(&top), sum, input(&hit)];
        args.extend([output(&mut logps), output(&mut lse), long(m)]);
        self.each("head_finish", m, &args);
        (logps, lse)
    }

    /// See [`Backend::head_log_squares`].
    pub(crate) fn log_squares(
        &self,
        (h, w): (&CudaBuffer, &CudaBuffer),
        lse: &CudaBuffer,
        softcap: Option<f64>,
        (m, d, v): (usize, usize, usize),
    ) -> CudaBuffer {
        let sums = self.zero_doubles(m);
        let address = Arg::Address(sums.address);
        for chunk in self.chunks(m, v) {
            let z = self.logits(h, w, &chunk, m, d);
            let args = [
                input(&z),
                long(chunk.len()),
                input(lse),
                cap(softcap),
                address,
            ];
            self.launch("head_squares", [m, 1, 1], &args);
        }
        let mut out = self.floats(m);
        self.each("logarithm", m, &[address, output(&mut out), long(m)]);
        out
    }

    /// See [`Backend::head_backward`].
    pub(crate) fn gradients(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        let (m, d, v) = (args.m, args.d, args.v);
        let weighted = args.coefficients.map(|c| self.scaled_rows(args.h, c, m, d));
        let blocks = args.inner.iter();
        let mut grams: Vec<CudaBuffer> =
            blocks.map(|(p, q)| self.zeros(p.len() * q.len())).collect();
        for chunk in self.chunks(m, v) {
            let width = chunk.len();
            let g = self.output_gradient(args, &chunk);
            if let Some(dh) = args.dh.as_deref_mut() {
                let beta = if chunk.start == 0 { 0.0 } else { 1.0 };
                let w = (args.w, chunk.start * d, false);
                self.dense((m, d, width), (&g, 0), w, beta, dh);
            }
            if let Some(dw) = args.dw.as_deref_mut() {
                let h = weighted.as_ref().unwrap_or(args.h);
                let to = MatMut::rows(dw, chunk.start, d);
                let from = Mat::rows(&g, 0, width).t();
                self.multiply(Gemm::add(width, d, m), from, Mat::rows(h, 0, d), to);
            }
            for ((p, q), gram) in args.inner.iter().zip(&mut grams) {
                let shape = (p.len(), q.len(), width);
                let (a, b) = ((&g, p.start * width), (&g, q.start * width, true));
                self.dense(shape, a, b, 1.0, gram);
            }
        }
        let inner = args.inner.iter().zip(&grams);
        inner
            .map(|((p, q), gram)| {
                let mut states = self.floats(p.len() * q.len());
                let (a, b) = ((args.h, p.start * d), (args.h, q.start * d, true));
                self.dense((p.len(), q.len(), d), a, b, 0.0, &mut states);
                self.dot(gram, 0, &states, 0, p.len() * q.len())
            })
            .collect()
    }

    /// See [`Backend::head_direction`].
    pub(crate) fn along(&self, args: &HeadBackward<'_, Self>, direction: &CudaBuffer) -> Vec<f64> {
        let (m, d) = (args.m, args.d);
        let sums = self.zero_doubles(m);
        for chunk in self.chunks(m, args.v) {
            let g = self.output_gradient(args, &chunk);
            let moved = self.logits(args.h, direction, &chunk, m, d);
            let address = Arg::Address(sums.address);
            let list = [input(&g), input(&moved), long(chunk.len()), address];
            self.launch("row_dots", [m, 1, 1], &list);
        }
        self.doubles(&sums, m)
    }

    /// See [`Backend::tied_inner`].
    pub(crate) fn tied(
        &self,
        g: &CudaBuffer,
        ids: &CudaIndex,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        let (d, rows, cols) = (head.d, q.len(), p.len());
        let mut table = self.floats(cols * d);
        let own = self.index(&ids.host[p.clone()]);
        self.gather(head.w, &own, &mut table, d, false);
        let (mut z, mut dots) = (self.floats(rows * cols), self.floats(rows * cols));
        let h = (head.h, q.start * d);
        self.dense((rows, cols, d), h, (&table, 0, true), 0.0, &mut z);
        self.dense((rows, cols, d), h, (g, p.start * d, true), 0.0, &mut dots);
        let mut args = vec![input(&z), input(&dots), input(head.seeds), input(head.lse)];
        args.extend([index(head.targets), index(ids)]);
        args.extend([q.start, p.start, rows, cols].map(long));
        args.push(cap(head.softcap));
        let [sum] = self.sums("tied_inner", rows * cols, &args);
        sum
    }

    /// Sets every element to zero.
    pub(crate) fn clear(&self, buffer: &mut CudaBuffer) {
        let address = buffer.write();
        if buffer.len > 0 {
            done(self.pool.device.zero(address, buffer.len * 4));
        }
    }
}
