//! Gemma 2 (Riviere et al. 2024, arXiv 2408.00118): Llama's parts with a norm before *and* behind each half of a
//! block, RMS norms that multiply by 1 + weight, GeGLU, soft caps on attention scores and logits, a sliding window in
//! every second layer, and embeddings multiplied by √width.
//!
//! What entered the norms behind the halves is kept (one row of width D each more than in Llama). transformers rounds
//! √width to the weights' number format (in bfloat16 3584^½ = 59.87 becomes 59.75); here it is exact, as it is there
//! in float32. Tested against transformers in `parity/models`.

use crate::attention::{Attention, AttentionState};
use crate::config::{Activation, Gemma2Config};
use crate::decoder::{BlockState, Family, ForwardPass, LayerCache};
use crate::dropout::{DropoutAt, Place};
use crate::layers::{Embedding, Linear, Norm};
use crate::mlp::{GatedMlp, GatedState};
use crate::parameters::{ParamId, SpecList};
use crate::rope::RopeTable;
use crate::sink::{BackwardPass, GradientSink, RowSpace};
use unbraid_tensor::{AttentionShape, Backend, Gate, NormCache};

#[derive(Clone, Copy)]
struct Block {
    input_norm: Norm,
    attention: Attention,
    post_attention_norm: Norm,
    pre_mlp_norm: Norm,
    mlp: GatedMlp,
    post_mlp_norm: Norm,
}

/// A Gemma 2 model's layers.
pub(crate) struct Gemma2<B: Backend> {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    head: ParamId,
    d: usize,
    softcap: Option<f64>,
    rope: RopeTable<B>,
}

impl<B: Backend> Gemma2<B> {
    pub(crate) fn new(c: &Gemma2Config, specs: &mut SpecList) -> Self {
        let (d, std) = (c.hidden_size, c.initializer_range());
        let embed = Embedding {
            padding: c.padding_row,
            ..Embedding::new(specs, "model.embed_tokens.weight", [c.vocab_size, d], std)
        };
        let blocks = (0..c.num_hidden_layers)
            .map(|i| Block::new(c, i, specs))
            .collect();
        let norm = gemma_norm(specs, "model.norm", c);
        let head = embed.head(specs, c.tie_word_embeddings, "lm_head.weight", std);
        Gemma2 {
            embed,
            blocks,
            norm,
            head,
            d,
            softcap: c.final_logit_softcapping,
            rope: RopeTable::new(c.rope.inverse_frequencies(c.head_dim)),
        }
    }
}

/// Its weight starts at zero, like a bias.
fn gemma_norm(specs: &mut SpecList, stem: &str, c: &Gemma2Config) -> Norm {
    Norm {
        weight: specs.bias(format!("{stem}.weight"), c.hidden_size, "norms"),
        bias: None,
        offset: 1.0,
        epsilon: c.rms_norm_eps,
        d: c.hidden_size,
    }
}

impl Block {
    fn new(c: &Gemma2Config, i: usize, specs: &mut SpecList) -> Self {
        let (attention, mlp) = (attention(c, i, specs), mlp(c, i, specs));
        let mut norm = |name: &str| gemma_norm(specs, &format!("model.layers.{i}.{name}"), c);
        Block {
            input_norm: norm("input_layernorm"),
            attention,
            post_attention_norm: norm("post_attention_layernorm"),
            pre_mlp_norm: norm("pre_feedforward_layernorm"),
            mlp,
            post_mlp_norm: norm("post_feedforward_layernorm"),
        }
    }
}

fn attention(c: &Gemma2Config, i: usize, specs: &mut SpecList) -> Attention {
    let shape = AttentionShape {
        scale: c.query_pre_attn_scalar.powf(-0.5),
        window: c.windows[i],
        softcap: c.attn_logit_softcapping,
        ..AttentionShape::new(c.num_attention_heads, c.num_key_value_heads, c.head_dim)
    };
    let (d, std) = (c.hidden_size, c.initializer_range());
    let group = format!("layers.{i}.attention");
    let mut linear = |name: &str, widths| {
        let stem = format!("model.layers.{i}.self_attn.{name}");
        Linear::new(specs, &stem, &group, widths, c.attention_bias, std)
    };
    Attention {
        q: linear("q_proj", [d, shape.q_width()]),
        k: linear("k_proj", [d, shape.kv_width()]),
        v: linear("v_proj", [d, shape.kv_width()]),
        o: linear("o_proj", [shape.q_width(), d]),
        head_norms: None,
        shape,
        dropout: DropoutAt::new(c.dropout.attention, Place::Attention(i)),
    }
}

fn mlp(c: &Gemma2Config, i: usize, specs: &mut SpecList) -> GatedMlp {
    let (d, f, std) = (c.hidden_size, c.intermediate_size, c.initializer_range());
    let group = format!("layers.{i}.mlp");
    let mut linear = |name: &str, widths| {
        let stem = format!("model.layers.{i}.mlp.{name}");
        Linear::new(specs, &stem, &group, widths, false, std)
    };
    GatedMlp {
        gate: linear("gate_proj", [d, f]),
        up: linear("up_proj", [d, f]),
        down: linear("down_proj", [f, d]),
        kind: match c.activation {
            Activation::GeluTanh => Gate::GeluTanh,
            Activation::GeluErf => Gate::Gelu,
        },
    }
}

/// What one half of a block keeps: the norm before it, the half's own, its output and the norm behind it.
struct Half<B: Backend, S> {
    input: B::Buffer,
    pre: NormCache<B::Buffer>,
    inner: S,
    output: B::Buffer,
    post: NormCache<B::Buffer>,
}

/// What one block keeps.
struct State<B: Backend> {
    block: Block,
    attention: Half<B, AttentionState<B>>,
    mlp: Half<B, GatedState<B>>,
}

impl<B: Backend> Family<B> for Gemma2<B> {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn kv_width(&self) -> usize {
        self.blocks[0].attention.shape.kv_width()
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
    fn logit_softcap(&self) -> Option<f64> {
        self.softcap
    }

    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        let mut x = self.embed.forward(pass);
        pass.backend.scale((self.d as f64).sqrt(), &mut x);
        x
    }

    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        if sink.wants(self.embed.table) || pass.params.lookup_adapter(self.embed.table).is_some() {
            let b = pass.backend;
            let mut scaled = b.zeros(b.len(g));
            b.axpy((self.d as f64).sqrt(), g, &mut scaled);
            self.embed.backward(pass, sink, &scaled);
        }
    }

    fn block(
        &self,
        pass: &ForwardPass<'_, B>,
        i: usize,
        x: B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, Box<dyn BlockState<B>>) {
        let (b, params, n, block) = (pass.backend, pass.params, pass.rows, self.blocks[i]);
        let rope = self.rope.get(b, pass.context);
        let (normed, pre) = block.input_norm.forward(b, params, &x, n);
        let (output, inner) = block.attention.forward(pass, rope, &normed, cache);
        let (mut mid, post) = block.post_attention_norm.forward(b, params, &output, n);
        b.axpy(1.0, &x, &mut mid);
        let attention = Half {
            input: x,
            pre,
            inner,
            output,
            post,
        };

        let (normed, pre) = block.pre_mlp_norm.forward(b, params, &mid, n);
        let (output, inner) = block.mlp.forward(pass, &normed);
        let (mut out, post) = block.post_mlp_norm.forward(b, params, &output, n);
        b.axpy(1.0, &mid, &mut out);
        let mlp = Half {
            input: mid,
            pre,
            inner,
            output,
            post,
        };
        let state = State {
            block,
            attention,
            mlp,
        };
        (out, Box::new(state))
    }
}

impl<B: Backend, S> Half<B, S> {
    /// Adds the half's gradient to `d`; `inner` is the backward of what lies between the norms: from (its input,
    /// its output's gradient) into its input's gradient.
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        [pre, post]: [Norm; 2],
        d: &mut B::Buffer,
        inner: impl FnOnce(&mut dyn GradientSink<B>, &B::Buffer, &B::Buffer, &mut B::Buffer),
    ) {
        let (b, space) = (pass.backend, RowSpace::Gradient);
        let mut d_output = b.zeros(b.len(d));
        post.backward(
            pass,
            sink,
            space,
            &self.output,
            &self.post,
            d,
            &mut d_output,
        );
        let normed = pre.again(b, pass.params, &self.input, &self.pre, pass.batch.rows());
        let mut d_normed = b.empty(b.len(d));
        inner(sink, &normed, &d_output, &mut d_normed);
        pre.backward(pass, sink, space, &self.input, &self.pre, &d_normed, d);
    }
}

impl<B: Backend> BlockState<B> for State<B> {
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        let l = &self.block;
        let (half, norms) = (&self.mlp, [l.pre_mlp_norm, l.post_mlp_norm]);
        half.backward(pass, sink, norms, &mut d, |sink, x, dy, dx| {
            l.mlp.backward(pass, sink, &half.inner, x, dy, dx);
        });
        let (half, norms) = (&self.attention, [l.input_norm, l.post_attention_norm]);
        half.backward(pass, sink, norms, &mut d, |sink, x, dy, dx| {
            l.attention.backward(pass, sink, &half.inner, x, dy, dx);
        });
        d
    }
}
