//! A head with a low-rank adapter: logits z = h Wᵀ + u Bᵀ with u = s·drop(h) Aᵀ, forward beside backward.
//!
//! The backend streams a head z = x wᵀ over the vocabulary. Side by side, x = [h | u] and w = [W | B] make an adapted head one
//! of that kind, so nothing in a backend knows of adapters. B's gradient is the last r columns of w's.
//!
//! Inner products Σ (G_s·G_t)(x_s·x_t) are wanted of one part alone. That part keeps its size and the other's rows are made
//! faint: divided by a large power of two, which its columns of w are multiplied by. The logits stay the same to the bit, and
//! the faint part vanishes beside the other in the last digit.
//!
//! Tested against PEFT in `crates/geometry/tests/adapters.rs`.

use crate::decoder::LanguageModel;
use crate::lora::Adapter;
use crate::sink::{BackwardPass, GradientSink, LinearGradient};
use std::ops::Range;
use unbraid_tensor::{Backend, Gemm, HeadBackward, Mat, MatMut};

/// What the faint part's rows are multiplied by.
const FAINT: f64 = 1.0 / (1u64 << 40) as f64;

/// Which part of the joined rows is made faint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faint {
    /// Neither.
    None,
    /// The hidden states.
    Base,
    /// The adapter's.
    Adapter,
}

/// The joined operands of an adapted head.
pub(crate) struct JoinedHead<B: Backend> {
    /// [h | u], `[M, D + r]`.
    pub(crate) h: B::Buffer,
    /// [W | B], `[V, D + r]`.
    pub(crate) w: B::Buffer,
    /// D + r.
    pub(crate) d: usize,
}

/// Runs [`Backend::head_backward`] and adds the gradient of the head's weight to `gradient`, `[V, D]`, or, of an adapted
/// head, that of its adapter's B, `[V, r]`.
pub fn head_backward_into<B: Backend>(
    b: &B,
    args: &mut HeadBackward<'_, B>,
    gradient: Option<&mut B::Buffer>,
) -> Vec<f64> {
    let Some(gradient) = gradient else {
        return b.head_backward(args);
    };
    let (v, d, rank) = (args.v, args.d, b.len(gradient) / args.v);
    if rank == d {
        let mut args = HeadBackward {
            dh: args.dh.as_deref_mut(),
            dw: Some(gradient),
            ..*args
        };
        return b.head_backward(&mut args);
    }
    let mut whole = b.zeros(v * d);
    let mut args = HeadBackward {
        dh: args.dh.as_deref_mut(),
        dw: Some(&mut whole),
        ..*args
    };
    let inner = b.head_backward(&mut args);
    let mut own = b.empty(v * rank);
    b.copy_2d(&whole, d - rank, d, &mut own, 0, rank, v, rank);
    b.axpy(1.0, &own, gradient);
    inner
}

/// A change of the head's weight, or of its adapter's B, as a change of the matrix in `args`; `None` where it is one already.
pub fn head_delta<B: Backend>(
    b: &B,
    args: &HeadBackward<'_, B>,
    delta: &B::Buffer,
) -> Option<B::Buffer> {
    let (v, d, rank) = (args.v, args.d, b.len(delta) / args.v);
    (rank != d).then(|| {
        let mut whole = b.zeros(v * d);
        b.copy_2d(delta, 0, rank, &mut whole, d - rank, d, v, rank);
        whole
    })
}

impl<B: Backend> LanguageModel<B> {
    /// u = s·drop(h) Aᵀ, `[m, r]`, where the head has an adapter; `rows` are the activation rows of h.
    pub(crate) fn head_down(
        &self,
        h: &B::Buffer,
        m: usize,
        seed: Option<u64>,
        rows: &B::Index,
    ) -> Option<B::Buffer> {
        let adapter = self.params.adapter(self.head())?;
        let dropped = self.drop_rows(adapter, seed, h, m, rows);
        Some(self.down(adapter, dropped.as_ref().unwrap_or(h), 0..m))
    }

    fn down(&self, adapter: Adapter, h: &B::Buffer, rows: Range<usize>) -> B::Buffer {
        let (b, d, m) = (&*self.backend, self.config.hidden_size(), rows.len());
        let mut u = b.empty(m * adapter.rank);
        let shape = Gemm {
            alpha: adapter.scale,
            ..Gemm::replace(m, adapter.rank, d)
        };
        b.gemm(
            shape,
            Mat::rows(h, rows.start, d),
            Mat::rows(self.params.get(adapter.a), 0, d).t(),
            MatMut::rows(&mut u, 0, adapter.rank),
        );
        u
    }

    /// Rows `[m, D]` after the head adapter's dropout; `None` when nothing is dropped.
    fn drop_rows(
        &self,
        adapter: Adapter,
        seed: Option<u64>,
        x: &B::Buffer,
        m: usize,
        rows: &B::Index,
    ) -> Option<B::Buffer> {
        let seed = adapter.dropout_seed(self.head(), seed)?;
        let (b, d) = (&*self.backend, self.config.hidden_size());
        let mut dropped = b.empty(m * d);
        b.dropout(x, Some(rows), seed, adapter.dropout, &mut dropped, m, d);
        Some(dropped)
    }

    /// Adds the adapter's share u Bᵀ, without dropout, to the logits `[rows, V]` of these rows of `h`.
    pub(crate) fn add_head_adapter(
        &self,
        h: &B::Buffer,
        rows: Range<usize>,
        logits: &mut B::Buffer,
    ) {
        let Some(adapter) = self.params.adapter(self.head()) else {
            return;
        };
        let (b, n, v) = (&*self.backend, rows.len(), self.config.vocab_size());
        let u = self.down(adapter, h, rows);
        b.gemm(
            Gemm::add(n, v, adapter.rank),
            Mat::rows(&u, 0, adapter.rank),
            Mat::rows(self.params.get(adapter.b), 0, adapter.rank).t(),
            MatMut::rows(logits, 0, v),
        );
    }

    /// The operands of an adapted head side by side; `None` where it has no adapter.
    pub(crate) fn joined_head(
        &self,
        h: &B::Buffer,
        u: Option<&B::Buffer>,
        m: usize,
        faint: Faint,
    ) -> Option<JoinedHead<B>> {
        let (adapter, u) = (self.params.adapter(self.head())?, u?);
        let b = &*self.backend;
        let (width, v, rank) = (
            self.config.hidden_size(),
            self.config.vocab_size(),
            adapter.rank,
        );
        let d = width + rank;
        let join = |rows: usize, base: &B::Buffer, own: &B::Buffer, factor: f64| {
            let mut out = b.empty(rows * d);
            let put_base = |out: &mut B::Buffer| b.copy_2d(base, 0, width, out, 0, d, rows, width);
            let put_own = |out: &mut B::Buffer| b.copy_2d(own, 0, rank, out, width, d, rows, rank);
            // Scaled is the whole, before the part that keeps its size is put in.
            match faint {
                Faint::None => put_base(&mut out),
                Faint::Base => {
                    b.fill_zero(&mut out);
                    put_base(&mut out);
                    b.scale(factor, &mut out);
                }
                Faint::Adapter => {
                    b.fill_zero(&mut out);
                    put_own(&mut out);
                    b.scale(factor, &mut out);
                    put_base(&mut out);
                    return out;
                }
            }
            put_own(&mut out);
            out
        };
        let head = self.params.get(self.head());
        Some(JoinedHead {
            h: join(m, h, u, FAINT),
            w: join(v, head, self.params.get(adapter.b), 1.0 / FAINT),
            d,
        })
    }

    /// Backward of an adapted head: hands A's and B's material to the sink and fills `dh` `[M, D]`. With du = G B,
    /// dA = s·duᵀ drop(h) and dh = G W + s·drop(du A).
    pub(crate) fn adapted_head_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        adapter: Adapter,
        dh: &mut B::Buffer,
    ) {
        let (b, m, width) = (
            pass.backend,
            pass.batch.targets(),
            self.config.hidden_size(),
        );
        let (rank, forward) = (adapter.rank, pass.forward);
        let joined = self.joined_head(&forward.h, forward.head_down.as_ref(), m, Faint::Base);
        let joined = joined.expect("the forward ran with the adapter");
        let mut d_joined = b.empty(m * joined.d);
        let mut args = HeadBackward {
            h: &joined.h,
            w: &joined.w,
            d: joined.d,
            dh: Some(&mut d_joined),
            ..pass.head_arguments(self.head())
        };
        sink.head(pass, adapter.b, &mut args);
        b.copy_2d(&d_joined, 0, joined.d, dh, 0, width, m, width);
        b.scale(FAINT, dh);
        let mut du = b.empty(m * rank);
        b.copy_2d(&d_joined, width, joined.d, &mut du, 0, rank, m, rank);
        b.scale(adapter.scale, &mut du);
        let rows = &pass.batch.target_rows;
        if sink.wants(adapter.a) {
            let x = self.drop_rows(adapter, forward.dropout_seed, &forward.h, m, rows);
            self.hand_down(pass, sink, adapter, x.as_ref().unwrap_or(&forward.h), &du);
        }
        let mut back = b.empty(m * width);
        b.gemm(
            Gemm::replace(m, width, rank),
            Mat::rows(&du, 0, rank),
            Mat::rows(self.params.get(adapter.a), 0, width),
            MatMut::rows(&mut back, 0, width),
        );
        let dropped = self.drop_rows(adapter, forward.dropout_seed, &back, m, rows);
        b.axpy(1.0, dropped.as_ref().unwrap_or(&back), dh);
    }

    /// Hands A's material, rows of scored tokens `[M, D]` and `[M, r]`, to the sink as rows of the whole batch.
    fn hand_down(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        adapter: Adapter,
        x: &B::Buffer,
        du: &B::Buffer,
    ) {
        let (b, width, rank) = (pass.backend, self.config.hidden_size(), adapter.rank);
        // Targets of one row share its hidden state: any of them gives it. Rows without a target have no gradient.
        let mut target_of = vec![0u32; pass.batch.rows()];
        for (i, target) in pass.batch.forest.targets.iter().enumerate() {
            target_of[target.row] = i as u32;
        }
        let mut a = b.zeros(pass.batch.rows() * width);
        if pass.batch.targets() > 0 {
            b.gather(x, &b.index(&target_of), &mut a, width, false);
        }
        let mut g = b.zeros(pass.plan.rows * rank);
        b.scatter_add(du, &pass.plan.target_rows, None, &mut g, rank);
        let gradient = LinearGradient {
            weight: adapter.a,
            bias: None,
            d_in: width,
            d_out: rank,
            a: &a,
            g: &g,
        };
        sink.linear(pass, gradient);
    }
}
