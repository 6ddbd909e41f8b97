//! Self-attention with rotary positions and separate projections, as Llama and Gemma 2 have it: forward beside
//! backward.
//!
//! q, k, v = x Wᵀ (+ b); Qwen3 then normalises every head of q and k; q and k turn by their positions; the heads'
//! outputs go through one more projection. What the shape allows (fewer key heads, a window, a cap on the scores) is
//! the backend's business, and so are dropped probabilities. Tested with the families in `parity/models`.

use crate::decoder::{ForwardPass, LayerCache};
use crate::dropout::DropoutAt;
use crate::layers::{Linear, Norm};
use crate::rope::Rope;
use crate::sink::{BackwardPass, GradientSink, RowSpace};
use unbraid_tensor::{AttentionShape, Backend, NormCache};

/// The layers of one block's attention.
#[derive(Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    /// Norms over each head of q and of k.
    pub(crate) head_norms: Option<[Norm; 2]>,
    pub(crate) shape: AttentionShape,
    pub(crate) dropout: DropoutAt,
}

/// Rows that a norm has read, with its statistics.
type Normed<T> = (T, NormCache<T>);

/// What the forward leaves for the backward.
pub(crate) struct AttentionState<B: Backend> {
    rope: Rope<B>,
    /// With the pass's dropout.
    shape: AttentionShape,
    /// Queries and keys before their norms, where there are such, with the norms' statistics.
    raw: Option<[Normed<B::Buffer>; 2]>,
    q: B::Buffer,
    k: B::Buffer,
    v: B::Buffer,
    lse: B::Buffer,
    attended: B::Buffer,
}

impl Attention {
    /// x `[N, D]` → `[N, D]`. With `cache`, keys and values come from it.
    pub(crate) fn forward<B: Backend>(
        &self,
        pass: &ForwardPass<'_, B>,
        rope: Rope<B>,
        x: &B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, AttentionState<B>) {
        let (b, n) = (pass.backend, pass.rows);
        let s = self.dropout.attention(pass, self.shape);
        let (mut q, mut k) = (self.q.forward(pass, x), self.k.forward(pass, x));
        let v = self.v.forward(pass, x);
        let raw = self.head_norms.map(|[q_norm, k_norm]| {
            let apply = |norm: Norm, x: &mut B::Buffer, heads| {
                let (y, cache) = norm.forward(b, pass.params, x, n * heads);
                (std::mem::replace(x, y), cache)
            };
            [
                apply(q_norm, &mut q, s.heads),
                apply(k_norm, &mut k, s.kv_heads),
            ]
        });
        rope.turn(b, &mut q, pass.positions, (s.heads, s.head_dim), false);
        rope.turn(b, &mut k, pass.positions, (s.kv_heads, s.head_dim), false);
        let mut attended = b.empty(n * s.q_width());
        let lse = attend(pass, s, (&q, &k, &v), cache, &mut attended);
        let out = self.o.forward(pass, &attended);
        let state = AttentionState {
            rope,
            shape: s,
            raw,
            q,
            k,
            v,
            lse,
            attended,
        };
        (out, state)
    }

    /// From the output's gradient `d_out` `[R, D]` to the input's, written into `dx` `[R, D]`; `x` is the forward's
    /// input.
    pub(crate) fn backward<B: Backend>(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        state: &AttentionState<B>,
        x: &B::Buffer,
        d_out: &B::Buffer,
        dx: &mut B::Buffer,
    ) {
        let (b, r, s) = (pass.backend, pass.plan.rows, state.shape);
        let mut d_attended = b.empty(r * s.q_width());
        self.o
            .backward(pass, sink, &state.attended, d_out, &mut d_attended, false);
        let mut dq = b.zeros(r * s.q_width());
        let (mut dk, mut dv) = (b.zeros(r * s.kv_width()), b.zeros(r * s.kv_width()));
        b.attention_backward(
            &state.q,
            &state.k,
            &state.v,
            &state.lse,
            &pass.plan.layout,
            s,
            &d_attended,
            &mut dq,
            &mut dk,
            &mut dv,
        );
        drop(d_attended);
        let positions = &pass.plan.positions;
        let turn = |x: &mut B::Buffer, heads| {
            state.rope.turn(b, x, positions, (heads, s.head_dim), true);
        };
        turn(&mut dq, s.heads);
        turn(&mut dk, s.kv_heads);
        if let (Some([q_norm, k_norm]), Some([q, k])) = (self.head_norms, &state.raw) {
            dq = head_norm_backward(pass, sink, q_norm, s.heads, q, &dq);
            dk = head_norm_backward(pass, sink, k_norm, s.kv_heads, k, &dk);
        }
        self.q.backward(pass, sink, x, &dq, dx, false);
        self.k.backward(pass, sink, x, &dk, dx, true);
        self.v.backward(pass, sink, x, &dv, dx, true);
    }
}

/// Runs the attention over the pass's own keys and values, or over the cache's with these appended. Returns log Σ exp
/// of the scores.
pub(crate) fn attend<B: Backend>(
    pass: &ForwardPass<'_, B>,
    shape: AttentionShape,
    (q, k, v): (&B::Buffer, &B::Buffer, &B::Buffer),
    cache: Option<&mut LayerCache<B>>,
    attended: &mut B::Buffer,
) -> B::Buffer {
    let b = pass.backend;
    match cache {
        None => b.attention(q, k, v, pass.layout, shape, attended),
        Some(cache) => {
            cache.append(b, k, v, pass.rows, shape.kv_width());
            b.attention(q, &cache.k, &cache.v, pass.layout, shape, attended)
        }
    }
}

/// The gradient before a norm over heads, from the one behind it, `[R, heads·head_dim]`.
fn head_norm_backward<B: Backend>(
    pass: &BackwardPass<'_, B>,
    sink: &mut dyn GradientSink<B>,
    norm: Norm,
    heads: usize,
    (raw, cache): &Normed<B::Buffer>,
    dy: &B::Buffer,
) -> B::Buffer {
    let mut dx = pass.backend.zeros(pass.plan.rows * heads * norm.d);
    let space = RowSpace::Heads(heads);
    norm.backward(pass, sink, space, raw, cache, dy, &mut dx);
    dx
}
