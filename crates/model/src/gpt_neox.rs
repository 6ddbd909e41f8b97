//! GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia: layer norms with biases, one fused projection whose
//! output holds query, key and value of each head side by side, positions that turn the first part of each head, and
//! a GELU feed-forward layer.
//!
//! A block is x + attention(ln₁ x) + mlp(ln₂ x) (both halves read x), or, without `use_parallel_residual`, one half
//! after the other as in GPT-2. Training may drop what enters the first block, attention probabilities, and what each half
//! adds. Tested against transformers in `parity/models`, both ways.

use crate::attention::attend;
use crate::config::{Activation, GptNeoxConfig};
use crate::decoder::{BlockState, Family, ForwardPass, LayerCache};
use crate::dropout::{DropoutAt, Place};
use crate::layers::{Embedding, Linear, Norm};
use crate::parameters::{ParamId, SpecList};
use crate::rope::{Rope, RopeTable};
use crate::sink::{BackwardPass, GradientSink, RowSpace};
use unbraid_tensor::{AttentionShape, Backend, NormCache};

#[derive(Clone, Copy)]
struct Block {
    input_norm: Norm,
    qkv: Linear,
    dense: Linear,
    post_norm: Norm,
    up: Linear,
    down: Linear,
    shape: AttentionShape,
    exact_gelu: bool,
    parallel: bool,
    attention_drop: DropoutAt,
    dense_drop: DropoutAt,
    mlp_drop: DropoutAt,
}

/// A GPT-NeoX model's layers.
pub(crate) struct GptNeox<B: Backend> {
    embed: Embedding,
    drop: DropoutAt,
    blocks: Vec<Block>,
    norm: Norm,
    head: ParamId,
    d: usize,
    rope: RopeTable<B>,
}

impl<B: Backend> GptNeox<B> {
    pub(crate) fn new(c: &GptNeoxConfig, specs: &mut SpecList) -> Self {
        let (d, std) = (c.hidden_size, c.initializer_range());
        let embed = Embedding::new(specs, "gpt_neox.embed_in.weight", [c.vocab_size, d], std);
        let blocks = (0..c.num_hidden_layers)
            .map(|i| Block::new(c, i, specs))
            .collect();
        let norm = layer_norm(specs, "gpt_neox.final_layer_norm", c);
        let head = embed.head(specs, c.tie_word_embeddings, "embed_out.weight", std);
        GptNeox {
            embed,
            drop: DropoutAt::new(c.dropout.embedding, Place::Embedding),
            blocks,
            norm,
            head,
            d,
            rope: RopeTable::new(c.rope.inverse_frequencies(c.rotary_dim)),
        }
    }
}

fn layer_norm(specs: &mut SpecList, stem: &str, c: &GptNeoxConfig) -> Norm {
    Norm {
        weight: specs.norm(format!("{stem}.weight"), c.hidden_size),
        bias: Some(specs.bias(format!("{stem}.bias"), c.hidden_size, "norms")),
        offset: 0.0,
        epsilon: c.layer_norm_eps,
        d: c.hidden_size,
    }
}

impl Block {
    fn new(c: &GptNeoxConfig, i: usize, specs: &mut SpecList) -> Self {
        let stem = format!("gpt_neox.layers.{i}");
        let (d, f, heads) = (c.hidden_size, c.intermediate_size, c.num_attention_heads);
        let (std, biased) = (c.initializer_range(), c.attention_bias);
        let mut linear = |name: &str, place: &str, widths, biased| {
            let group = format!("layers.{i}.{place}");
            let stem = format!("{stem}.{place}.{name}");
            Linear::new(specs, &stem, &group, widths, biased, std)
        };
        let qkv = linear("query_key_value", "attention", [d, 3 * d], biased);
        let dense = linear("dense", "attention", [d, d], biased);
        let up = linear("dense_h_to_4h", "mlp", [d, f], true);
        let down = linear("dense_4h_to_h", "mlp", [f, d], true);
        Block {
            input_norm: layer_norm(specs, &format!("{stem}.input_layernorm"), c),
            qkv,
            dense,
            post_norm: layer_norm(specs, &format!("{stem}.post_attention_layernorm"), c),
            up,
            down,
            shape: AttentionShape::new(heads, heads, c.head_dim()),
            exact_gelu: c.activation == Activation::GeluErf,
            parallel: c.use_parallel_residual,
            attention_drop: DropoutAt::new(c.dropout.attention, Place::Attention(i)),
            dense_drop: DropoutAt::new(c.dropout.residual, Place::AttentionOutput(i)),
            mlp_drop: DropoutAt::new(c.dropout.residual, Place::FeedForward(i)),
        }
    }

    /// The fused rows `[n, heads·3·head_dim]` as queries, keys and values, `[n, heads·head_dim]` each.
    fn split<B: Backend>(&self, b: &B, fused: &B::Buffer, n: usize) -> [B::Buffer; 3] {
        let (width, rows) = (self.shape.head_dim, n * self.shape.heads);
        [0, 1, 2].map(|part| {
            let mut out = b.empty(rows * width);
            b.copy_2d(
                fused,
                part * width,
                3 * width,
                &mut out,
                0,
                width,
                rows,
                width,
            );
            out
        })
    }

    /// The inverse of [`Block::split`].
    fn merge<B: Backend>(&self, b: &B, parts: &[B::Buffer; 3], n: usize) -> B::Buffer {
        let (width, rows) = (self.shape.head_dim, n * self.shape.heads);
        let mut fused = b.empty(rows * 3 * width);
        for (part, from) in parts.iter().enumerate() {
            b.copy_2d(
                from,
                0,
                width,
                &mut fused,
                part * width,
                3 * width,
                rows,
                width,
            );
        }
        fused
    }
}

/// What one block keeps.
struct State<B: Backend> {
    block: Block,
    shape: AttentionShape,
    rope: Rope<B>,
    x: B::Buffer,
    norm1: NormCache<B::Buffer>,
    qkv: [B::Buffer; 3],
    lse: B::Buffer,
    attended: B::Buffer,
    /// The second half's input where that is not `x`.
    mid: Option<B::Buffer>,
    norm2: NormCache<B::Buffer>,
    up: B::Buffer,
}

impl<B: Backend> Family<B> for GptNeox<B> {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn kv_width(&self) -> usize {
        self.d
    }
    fn final_norm(&self) -> Norm {
        self.norm
    }
    fn head(&self) -> ParamId {
        self.head
    }
    fn table(&self) -> ParamId {
        self.embed.table
    }

    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        let x = self.embed.forward(pass);
        self.drop.forward(pass, x, self.d)
    }

    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        let before = self.drop.backward(pass, g, self.d);
        self.embed
            .backward(pass, sink, before.as_ref().unwrap_or(g));
    }

    fn block(
        &self,
        pass: &ForwardPass<'_, B>,
        i: usize,
        x: B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, Box<dyn BlockState<B>>) {
        let (b, params, n, block) = (pass.backend, pass.params, pass.rows, self.blocks[i]);
        let s = block.attention_drop.attention(pass, block.shape);
        let rope = self.rope.get(b, pass.context);
        let (normed, norm1) = block.input_norm.forward(b, params, &x, n);
        let mut qkv = block.split(b, &block.qkv.forward(pass, &normed), n);
        drop(normed);
        for turned in &mut qkv[..2] {
            rope.turn(b, turned, pass.positions, (s.heads, s.head_dim), false);
        }
        let mut attended = b.empty(n * s.q_width());
        let [q, k, v] = &qkv;
        let lse = attend(pass, s, (q, k, v), cache, &mut attended);
        let mid = block.dense.forward(pass, &attended);
        let mut mid = block.dense_drop.forward(pass, mid, self.d);
        b.axpy(1.0, &x, &mut mid);

        let read = if block.parallel { &x } else { &mid };
        let (normed, norm2) = block.post_norm.forward(b, params, read, n);
        let up = block.up.forward(pass, &normed);
        let mut active = b.empty(n * block.up.d_out);
        b.gelu(&up, &mut active, block.exact_gelu);
        let out = block.down.forward(pass, &active);
        let mut out = block.mlp_drop.forward(pass, out, self.d);
        b.axpy(1.0, &mid, &mut out);
        let state = State {
            block,
            shape: s,
            rope,
            x,
            norm1,
            qkv,
            lse,
            attended,
            mid: (!block.parallel).then_some(mid),
            norm2,
            up,
        };
        (out, Box::new(state))
    }
}

impl<B: Backend> State<B> {
    /// Adds to `dx` what the second half makes of its output's gradient `d` (without it: of `dx` as it comes).
    fn mlp_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: Option<&B::Buffer>,
        dx: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let f = l.up.d_out;
        let mut active = b.empty(n * f);
        b.gelu(&self.up, &mut active, l.exact_gelu);
        let mut d_up = b.empty(r * f);
        let d = d.unwrap_or(dx);
        let d_added = l.mlp_drop.backward(pass, d, l.down.d_out);
        let d_added = d_added.as_ref().unwrap_or(d);
        l.down
            .backward(pass, sink, &active, d_added, &mut d_up, false);
        drop(active);
        let rows = pass.plan.activation_rows.as_ref();
        b.gelu_backward(&self.up, rows, &mut d_up, f, l.exact_gelu);
        let read = self.mid.as_ref().unwrap_or(&self.x);
        let normed = l.post_norm.again(b, pass.params, read, &self.norm2, n);
        let mut d_normed = b.empty(r * l.up.d_in);
        l.up.backward(pass, sink, &normed, &d_up, &mut d_normed, false);
        let (norm, space) = (l.post_norm, RowSpace::Gradient);
        norm.backward(pass, sink, space, read, &self.norm2, &d_normed, dx);
    }

    /// As [`State::mlp_backward`] for the first half.
    fn attention_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: Option<&B::Buffer>,
        dx: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let (s, width) = (self.shape, l.qkv.d_in);
        let mut d_attended = b.empty(r * width);
        let d = d.unwrap_or(dx);
        let d_added = l.dense_drop.backward(pass, d, width);
        let d_added = d_added.as_ref().unwrap_or(d);
        l.dense
            .backward(pass, sink, &self.attended, d_added, &mut d_attended, false);
        let [q, k, v] = &self.qkv;
        let mut grads = [0, 1, 2].map(|_| b.zeros(r * width));
        let [dq, dk, dv] = &mut grads;
        let layout = &pass.plan.layout;
        b.attention_backward(q, k, v, &self.lse, layout, s, &d_attended, dq, dk, dv);
        drop(d_attended);
        for turned in [dq, dk] {
            let heads = (s.heads, s.head_dim);
            self.rope.turn(b, turned, &pass.plan.positions, heads, true);
        }
        let fused = l.merge(b, &grads, r);
        let normed = l.input_norm.again(b, pass.params, &self.x, &self.norm1, n);
        let mut d_normed = b.empty(r * width);
        l.qkv
            .backward(pass, sink, &normed, &fused, &mut d_normed, false);
        let (norm, space) = (l.input_norm, RowSpace::Gradient);
        norm.backward(pass, sink, space, &self.x, &self.norm1, &d_normed, dx);
    }
}

impl<B: Backend> BlockState<B> for State<B> {
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        if self.block.parallel {
            let b = pass.backend;
            let len = b.len(&d);
            let mut dx = b.empty(len);
            b.copy_2d(&d, 0, len, &mut dx, 0, len, 1, len);
            self.mlp_backward(pass, sink, Some(&d), &mut dx);
            self.attention_backward(pass, sink, Some(&d), &mut dx);
            return dx;
        }
        self.mlp_backward(pass, sink, None, &mut d);
        self.attention_backward(pass, sink, None, &mut d);
        d
    }
}
