//! A backend that computes nothing: its buffers have a size only, and it counts memory and work.
//!
//! The model's and the trainer's own code runs on it, so buffers kept for the backward pass, those made again under
//! gradient checkpointing, shared prompts, frozen weights and measured steps are counted where they arise, for every
//! family, rather than described a second time. What operations of the CPU backend take besides (the head's chunk, the
//! attention's block of scores, a widened panel of a bf16 weight) is added here, by the backend's own
//! [`rules`].
//!
//! Numbers read back are stand-ins: a log-prob is −1, a sum of products 1, all else 0; what is counted does not depend
//! on them.

use crate::shelf::{Block, FLOAT, Shelf};
use crate::work::{GramCost, Kind, NARROW, Work, gram_cost, visible_pairs};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use unbraid_tensor::cpu::rules::{self, Way};
use unbraid_tensor::{
    Adafactor, Adamw, AttentionLayout, AttentionShape, Backend, Gate, Gemm, HeadBackward, Mat,
    MatMut, NormCache, Span,
};

#[derive(Default)]
struct Ledger {
    shelf: Shelf,
    work: Work,
}

/// The backend. `threads` is the number of threads that the real one would have.
pub struct MeterBackend {
    ledger: Arc<Mutex<Ledger>>,
    threads: usize,
}

/// A number of floats, or of bf16 numbers.
pub struct MeterBuffer {
    len: usize,
    /// Of floats; none of bf16.
    block: Option<Block>,
    ledger: Arc<Mutex<Ledger>>,
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("no panic while the ledger is held")
}

impl Drop for MeterBuffer {
    fn drop(&mut self) {
        let mut ledger = lock(&self.ledger);
        match self.block {
            Some(block) => ledger.shelf.give(block, self.len),
            None => ledger.shelf.remove(self.len as u64 * FLOAT / 2),
        }
    }
}

impl MeterBackend {
    /// A backend that has counted nothing.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        MeterBackend {
            ledger: Arc::default(),
            threads,
        }
    }

    /// A buffer of `len` numbers of bfloat16.
    pub(crate) fn half(&self, len: usize) -> MeterBuffer {
        lock(&self.ledger).shelf.add(len as u64 * FLOAT / 2);
        MeterBuffer {
            len,
            block: None,
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// Bytes of the buffers in use.
    pub(crate) fn live(&self) -> u64 {
        lock(&self.ledger).shelf.live()
    }

    /// Bytes of the buffers in use or kept for reuse.
    pub(crate) fn resident(&self) -> u64 {
        lock(&self.ledger).shelf.resident()
    }

    /// The largest (in use, resident) since this was last asked, scratch included.
    pub(crate) fn mark(&self) -> (u64, u64) {
        lock(&self.ledger).shelf.mark()
    }

    /// The work since this was last asked.
    pub(crate) fn take_work(&self) -> Work {
        std::mem::take(&mut lock(&self.ledger).work)
    }

    fn count(&self, kind: Kind, amount: f64) {
        lock(&self.ledger).work.add(kind, amount);
    }

    /// Counts a sweep over so many elements with so many floats read or written for each.
    fn sweep(&self, kind: Kind, elements: usize, floats: f64) {
        self.count(kind, elements as f64 * floats * FLOAT as f64);
    }

    /// Notes floats that an operation takes outside the pool.
    fn scratch(&self, floats: usize) {
        lock(&self.ledger).shelf.see(floats as u64 * FLOAT);
    }

    /// Chunk of the vocabulary for `m` scored rows, in the head's operations.
    fn chunk(&self, w: &MeterBuffer, m: usize, d: usize, v: usize) -> usize {
        let bf16 = w.block.is_none();
        let width = rules::head_chunk(m, d, v, bf16);
        if bf16 {
            drop(self.empty(width.min(v) * d));
        }
        width
    }

    /// A bf16 operand is widened panel by panel.
    fn widen(&self, operand: &MeterBuffer, rows: usize, k: usize) {
        if operand.block.is_none() {
            drop(self.empty(rules::panel_rows(k).min(rows) * k));
            self.count(Kind::Elementwise, (rows * k) as f64 * 6.0);
        }
    }

    /// What each thread holds inside attention: blocks of scores, of which there are `scores`, and rows of the path, of which
    /// there are `rows`.
    fn attends(&self, layout: &AttentionLayout, shape: AttentionShape, scores: usize, rows: usize) {
        let longest = |s: &unbraid_tensor::AttentionSegment| {
            s.own.len + s.ancestors.iter().map(|a| a.len).sum::<usize>()
        };
        let keys = layout.segments.iter().map(longest).max().unwrap_or(0);
        let each = scores * rules::ATTENTION_BLOCK + rows * shape.head_dim;
        self.scratch(self.threads * each * keys);
    }
}

impl Backend for MeterBackend {
    type Buffer = MeterBuffer;
    type Index = usize;

    fn describe(&self) -> String {
        "sizes only".into()
    }

    fn empty(&self, len: usize) -> MeterBuffer {
        let block = lock(&self.ledger).shelf.take(len);
        MeterBuffer {
            len,
            block: Some(block),
            ledger: Arc::clone(&self.ledger),
        }
    }
    fn zeros(&self, len: usize) -> MeterBuffer {
        self.sweep(Kind::Elementwise, len, 1.0);
        self.empty(len)
    }
    fn upload(&self, data: &[f32]) -> MeterBuffer {
        self.empty(data.len())
    }
    fn upload_f64(&self, data: &[f64]) -> MeterBuffer {
        self.empty(data.len())
    }
    fn upload_bf16(&self, data: &[f32]) -> MeterBuffer {
        self.half(data.len())
    }
    fn download(&self, buffer: &MeterBuffer) -> Vec<f32> {
        vec![0.0; buffer.len]
    }
    fn download_f64(&self, buffer: &MeterBuffer) -> Vec<f64> {
        vec![-1.0; buffer.len]
    }
    fn len(&self, buffer: &MeterBuffer) -> usize {
        buffer.len
    }
    fn index(&self, data: &[u32]) -> usize {
        data.len()
    }
    fn fill_zero(&self, buffer: &mut MeterBuffer) {
        self.sweep(Kind::Sweep, buffer.len, 1.0);
    }
    fn copy_2d(
        &self,
        _src: &MeterBuffer,
        _src_offset: usize,
        _src_stride: usize,
        _dst: &mut MeterBuffer,
        _dst_offset: usize,
        _dst_stride: usize,
        rows: usize,
        cols: usize,
    ) {
        self.sweep(Kind::Elementwise, rows * cols, 2.0);
    }

    fn gemm(
        &self,
        s: Gemm,
        a: Mat<'_, MeterBuffer>,
        b: Mat<'_, MeterBuffer>,
        _c: MatMut<'_, MeterBuffer>,
    ) {
        // Which of a layer's three products it is shows in what is transposed.
        let kind = match (a.col_stride, b.col_stride) {
            _ if s.m.min(s.n).min(s.k) <= NARROW => Kind::Narrow,
            (1, 1) => Kind::InputGradient,
            (1, _) => Kind::Forward,
            _ => Kind::WeightGradient,
        };
        self.count(kind, 2.0 * s.m as f64 * s.n as f64 * s.k as f64);
        self.widen(b.buffer, s.n, s.k);
        self.widen(a.buffer, s.m, s.k);
    }
    fn add_bias(&self, _bias: &MeterBuffer, _x: &mut MeterBuffer, n: usize, d: usize) {
        self.sweep(Kind::Elementwise, n * d, 2.0);
    }
    fn axpy(&self, _alpha: f64, x: &MeterBuffer, _y: &mut MeterBuffer) {
        self.sweep(Kind::Elementwise, x.len, 3.0);
    }
    fn scale(&self, _alpha: f64, x: &mut MeterBuffer) {
        self.sweep(Kind::Elementwise, x.len, 2.0);
    }
    fn dot(&self, x: &MeterBuffer, _: usize, y: &MeterBuffer, _: usize, len: usize) -> f64 {
        // A squared norm reads one array.
        let floats = if std::ptr::eq(x, y) { 1.0 } else { 2.0 };
        self.sweep(Kind::Sweep, len, floats);
        1.0
    }
    fn gram_and_add(
        &self,
        x: &MeterBuffer,
        _y: &MeterBuffer,
        _cx: f64,
        _cy: f64,
        sum: Option<&mut MeterBuffer>,
    ) -> (f64, f64, f64) {
        let floats = if sum.is_some() { 4.0 } else { 2.0 };
        self.sweep(Kind::Sweep, x.len, floats);
        (1.0, 1.0, 0.5)
    }
    fn linear_grams(
        &self,
        _a: &MeterBuffer,
        _g: &MeterBuffer,
        clusters: &[Vec<&[Span]>],
        d_in: usize,
        d_out: usize,
    ) -> Vec<Vec<f64>> {
        // Many clusters are shared out among the threads, each with buffers of its own.
        let together = if clusters.len() < self.threads {
            1
        } else {
            self.threads
        };
        let mut held = Vec::new();
        for (i, cluster) in clusters.iter().enumerate() {
            if i % together == 0 {
                held.clear();
            }
            let GramCost {
                way,
                flops,
                buffers,
            } = gram_cost(cluster, d_in, d_out);
            // Of a gradient that is formed, the products are a linear map's own.
            let kind = match way {
                Way::Formed if d_in.min(d_out) <= NARROW => Kind::Narrow,
                _ => Kind::Grams,
            };
            self.count(kind, flops);
            held.extend(buffers.into_iter().map(|len| self.empty(len)));
        }
        let square = |cluster: &Vec<&[Span]>| vec![1.0; cluster.len() * cluster.len()];
        clusters.iter().map(square).collect()
    }
    fn column_sum(
        &self,
        _alpha: f64,
        _x: &MeterBuffer,
        rows: Range<usize>,
        d: usize,
        _out: &mut MeterBuffer,
    ) {
        self.sweep(Kind::Elementwise, rows.len() * d, 1.0);
    }
    fn scatter_add(
        &self,
        _x: &MeterBuffer,
        rows: &usize,
        _coefficients: Option<&MeterBuffer>,
        _out: &mut MeterBuffer,
        d: usize,
    ) {
        self.sweep(Kind::Elementwise, rows * d, 3.0);
    }

    fn gather(
        &self,
        _table: &MeterBuffer,
        rows: &usize,
        _out: &mut MeterBuffer,
        d: usize,
        _add: bool,
    ) {
        self.sweep(Kind::Elementwise, rows * d, 2.0);
    }
    fn lookup_inner(
        &self,
        _g: &MeterBuffer,
        _ids: &usize,
        p: Range<usize>,
        _q: Range<usize>,
        d: usize,
    ) -> f64 {
        // About one row of the other side shares a row's token.
        self.sweep(Kind::Elementwise, p.len() * d, 2.0);
        1.0
    }
    fn tied_inner(
        &self,
        _g: &MeterBuffer,
        _ids: &usize,
        p: Range<usize>,
        head: &HeadBackward<'_, Self>,
        q: Range<usize>,
    ) -> f64 {
        let (p, q, d) = (p.len(), q.len(), head.d);
        self.count(Kind::Grams, 4.0 * (p * q * d) as f64);
        self.scratch(p * d + 2 * p * q);
        1.0
    }

    fn rms_norm(
        &self,
        _x: &MeterBuffer,
        _w: &MeterBuffer,
        _offset: f64,
        _eps: f64,
        _y: &mut MeterBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<MeterBuffer> {
        self.sweep(Kind::Elementwise, n * d, 3.0);
        NormCache {
            mean: None,
            rstd: self.empty(n),
        }
    }
    fn layer_norm(
        &self,
        _x: &MeterBuffer,
        _w: &MeterBuffer,
        _b: &MeterBuffer,
        _eps: f64,
        _y: &mut MeterBuffer,
        n: usize,
        d: usize,
    ) -> NormCache<MeterBuffer> {
        self.sweep(Kind::Elementwise, n * d, 3.0);
        NormCache {
            mean: Some(self.empty(n)),
            rstd: self.empty(n),
        }
    }
    fn norm_apply(
        &self,
        _x: &MeterBuffer,
        _w: &MeterBuffer,
        _offset: f64,
        _b: Option<&MeterBuffer>,
        _cache: &NormCache<MeterBuffer>,
        _y: &mut MeterBuffer,
        n: usize,
        d: usize,
    ) {
        self.sweep(Kind::Elementwise, n * d, 2.0);
    }
    fn norm_backward(
        &self,
        _x: &MeterBuffer,
        _w: &MeterBuffer,
        _offset: f64,
        _cache: &NormCache<MeterBuffer>,
        _rows: Option<&usize>,
        _dy: &MeterBuffer,
        _dx: &mut MeterBuffer,
        dw_rows: Option<&mut MeterBuffer>,
        r: usize,
        d: usize,
    ) {
        let floats = if dw_rows.is_some() { 5.0 } else { 4.0 };
        self.sweep(Kind::Elementwise, r * d, floats);
    }

    fn gelu(&self, x: &MeterBuffer, _y: &mut MeterBuffer, _exact: bool) {
        self.sweep(Kind::Elementwise, x.len, 2.0);
    }
    fn gelu_backward(
        &self,
        _x: &MeterBuffer,
        _rows: Option<&usize>,
        d: &mut MeterBuffer,
        _f: usize,
        _exact: bool,
    ) {
        self.sweep(Kind::Elementwise, d.len, 3.0);
    }
    fn glu(&self, _kind: Gate, gate: &MeterBuffer, _up: &MeterBuffer, _y: &mut MeterBuffer) {
        self.sweep(Kind::Elementwise, gate.len, 3.0);
    }
    fn glu_backward(
        &self,
        _kind: Gate,
        _gate: &MeterBuffer,
        _up: &MeterBuffer,
        _rows: Option<&usize>,
        d_gate: &mut MeterBuffer,
        _d_up: &mut MeterBuffer,
        _f: usize,
    ) {
        self.sweep(Kind::Elementwise, d_gate.len, 5.0);
    }
    fn dropout(
        &self,
        _x: &MeterBuffer,
        _rows: Option<&usize>,
        _seed: u64,
        _p: f64,
        _y: &mut MeterBuffer,
        n: usize,
        d: usize,
    ) {
        self.sweep(Kind::Elementwise, n * d, 2.0);
    }

    fn rope(
        &self,
        x: &mut MeterBuffer,
        _positions: &usize,
        _table: &MeterBuffer,
        _heads: usize,
        _head_dim: usize,
        _rotary_dim: usize,
        _inverse: bool,
    ) {
        self.sweep(Kind::Elementwise, x.len, 2.0);
    }
    fn attention(
        &self,
        _q: &MeterBuffer,
        _k: &MeterBuffer,
        _v: &MeterBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        out: &mut MeterBuffer,
    ) -> MeterBuffer {
        let pairs = visible_pairs(layout, shape);
        self.count(Kind::Attention, 4.0 * pairs * shape.q_width() as f64);
        self.attends(layout, shape, 1, 3);
        self.empty(out.len / shape.head_dim)
    }
    fn attention_backward(
        &self,
        _q: &MeterBuffer,
        _k: &MeterBuffer,
        _v: &MeterBuffer,
        _lse: &MeterBuffer,
        layout: &AttentionLayout,
        shape: AttentionShape,
        _d_out: &MeterBuffer,
        _dq: &mut MeterBuffer,
        _dk: &mut MeterBuffer,
        _dv: &mut MeterBuffer,
    ) {
        // Scores again, dp, and the gradients of queries, keys and values: five products.
        let pairs = visible_pairs(layout, shape);
        self.count(Kind::Attention, 10.0 * pairs * shape.q_width() as f64);
        self.attends(layout, shape, 2, 6);
    }

    fn head_logps(
        &self,
        _h: &MeterBuffer,
        w: &MeterBuffer,
        _targets: &usize,
        _softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (MeterBuffer, MeterBuffer) {
        self.count(Kind::Head, 2.0 * m as f64 * d as f64 * v as f64);
        let width = self.chunk(w, m, d, v);
        self.scratch(m * width + 5 * m);
        (self.empty(m), self.empty(m))
    }
    fn head_logps_kept(
        &self,
        h: &MeterBuffer,
        w: &MeterBuffer,
        targets: &usize,
        softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> (MeterBuffer, MeterBuffer, Option<MeterBuffer>) {
        let kept = rules::keeps_logits(m, v).then(|| self.empty(m * v));
        let (logps, lse) = self.head_logps(h, w, targets, softcap, m, d, v);
        (logps, lse, kept)
    }
    fn head_backward(&self, args: &mut HeadBackward<'_, Self>) -> Vec<f64> {
        let (m, d, v) = (args.m, args.d, args.v);
        let again = usize::from(args.logits.is_none());
        let products = again + usize::from(args.dh.is_some()) + usize::from(args.dw.is_some());
        let flops = 2.0 * products as f64 * m as f64 * d as f64 * v as f64;
        self.count(Kind::Head, flops);
        let grams: usize = args.inner.iter().map(|(p, q)| p.len() * q.len()).sum();
        self.count(Kind::Grams, 2.0 * (grams as f64) * (v + d) as f64);
        let weighted = if args.coefficients.is_some() {
            m * d
        } else {
            0
        };
        let width = self.chunk(args.w, m, d, v);
        self.scratch(m * width + weighted + grams);
        vec![1.0; args.inner.len()]
    }
    fn head_log_squares(
        &self,
        _h: &MeterBuffer,
        w: &MeterBuffer,
        _lse: &MeterBuffer,
        _softcap: Option<f64>,
        m: usize,
        d: usize,
        v: usize,
    ) -> MeterBuffer {
        self.count(Kind::Head, 2.0 * m as f64 * d as f64 * v as f64);
        let width = self.chunk(w, m, d, v);
        self.scratch(m * width);
        self.empty(m)
    }
    fn head_direction(&self, args: &HeadBackward<'_, Self>, _direction: &MeterBuffer) -> Vec<f64> {
        let (m, d, v) = (args.m, args.d, args.v);
        self.count(Kind::Head, 4.0 * m as f64 * d as f64 * v as f64);
        let width = self.chunk(args.w, m, d, v);
        self.scratch(2 * m * width);
        vec![0.0; m]
    }

    fn adamw(
        &self,
        _step: &Adamw,
        param: &mut MeterBuffer,
        _grad: &MeterBuffer,
        _m: &mut MeterBuffer,
        _v: &mut MeterBuffer,
    ) {
        // Reads parameter, gradient and both moments, writes all but the gradient.
        self.sweep(Kind::Sweep, param.len, 7.0);
    }
    fn sgd(
        &self,
        _learning_rate: f64,
        _weight_decay: f64,
        _grad_scale: f64,
        param: &mut MeterBuffer,
        _grad: &MeterBuffer,
        momentum: Option<(f64, &mut MeterBuffer)>,
    ) {
        let floats = if momentum.is_some() { 5.0 } else { 3.0 };
        self.sweep(Kind::Sweep, param.len, floats);
    }
    fn lion(
        &self,
        _learning_rate: f64,
        _weight_decay: f64,
        _beta1: f64,
        _beta2: f64,
        _grad_scale: f64,
        param: &mut MeterBuffer,
        _grad: &MeterBuffer,
        _m: &mut MeterBuffer,
    ) {
        self.sweep(Kind::Sweep, param.len, 5.0);
    }
    fn adafactor(
        &self,
        _step: &Adafactor,
        rows: usize,
        cols: usize,
        _param: &mut MeterBuffer,
        _grad: &MeterBuffer,
        _row_state: &mut MeterBuffer,
        _col_state: &mut MeterBuffer,
    ) {
        // Three sweeps over the gradient; the last one reads and writes the parameter too.
        self.sweep(Kind::Sweep, rows * cols, 5.0);
    }
    fn adafactor_vector(
        &self,
        _step: &Adafactor,
        param: &mut MeterBuffer,
        _grad: &MeterBuffer,
        _state: &mut MeterBuffer,
    ) {
        self.sweep(Kind::Sweep, param.len, 5.0);
    }
}
