//! The Llama family (Touvron et al. 2023, arXiv 2302.13971): pre-norm blocks with RMS norm, rotary positions,
//! grouped-query attention and SwiGLU. Llama 2 and 3, SmolLM2, TinyLlama; with a sliding window Mistral (arXiv
//! 2310.06825), with biases Qwen2 (arXiv 2407.10671), with norms over each head's query and key Qwen3 (arXiv
//! 2505.09388).
//!
//! Normalised rows and the feed-forward product are computed again in the backward: they cost a sweep and
//! would be a third of the kept memory. Tested against transformers in `parity/models`.

use crate::attention::{Attention, AttentionState};
use crate::config::LlamaConfig;
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
    post_norm: Norm,
    mlp: GatedMlp,
}

/// A Llama model's layers.
pub(crate) struct Llama<B: Backend> {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    head: ParamId,
    rope: RopeTable<B>,
}

impl<B: Backend> Llama<B> {
    pub(crate) fn new(c: &LlamaConfig, specs: &mut SpecList) -> Self {
        let (d, std) = (c.hidden_size, c.initializer_range());
        let embed = Embedding {
            padding: c.padding_row,
            ..Embedding::new(specs, "model.embed_tokens.weight", [c.vocab_size, d], std)
        };
        let blocks = (0..c.num_hidden_layers)
            .map(|i| Block::new(c, i, specs))
            .collect();
        let norm = rms_norm(specs, "model.norm", d, c);
        let head = embed.head(specs, c.tie_word_embeddings, "lm_head.weight", std);
        Llama {
            embed,
            blocks,
            norm,
            head,
            rope: RopeTable::new(c.rope.inverse_frequencies(c.head_dim)),
        }
    }
}

fn rms_norm(specs: &mut SpecList, stem: &str, d: usize, c: &LlamaConfig) -> Norm {
    Norm {
        weight: specs.norm(format!("{stem}.weight"), d),
        bias: None,
        offset: 0.0,
        epsilon: c.rms_norm_eps,
        d,
    }
}

impl Block {
    fn new(c: &LlamaConfig, i: usize, specs: &mut SpecList) -> Self {
        let stem = format!("model.layers.{i}");
        Block {
            attention: attention(c, i, specs),
            mlp: mlp(c, i, specs),
            input_norm: rms_norm(specs, &format!("{stem}.input_layernorm"), c.hidden_size, c),
            post_norm: rms_norm(
                specs,
                &format!("{stem}.post_attention_layernorm"),
                c.hidden_size,
                c,
            ),
        }
    }
}

fn attention(c: &LlamaConfig, i: usize, specs: &mut SpecList) -> Attention {
    let shape = AttentionShape {
        window: c.windows[i],
        ..AttentionShape::new(c.num_attention_heads, c.num_key_value_heads, c.head_dim)
    };
    let (d, std) = (c.hidden_size, c.initializer_range());
    let (stem, group) = (
        format!("model.layers.{i}.self_attn"),
        format!("layers.{i}.attention"),
    );
    let mut linear = |name: &str, [d_in, d_out]: [usize; 2], biased| {
        Linear::new(
            specs,
            &format!("{stem}.{name}"),
            &group,
            [d_in, d_out],
            biased,
            std,
        )
    };
    let q = linear("q_proj", [d, shape.q_width()], c.qkv_bias);
    let k = linear("k_proj", [d, shape.kv_width()], c.qkv_bias);
    let v = linear("v_proj", [d, shape.kv_width()], c.qkv_bias);
    let o = linear("o_proj", [shape.q_width(), d], c.output_bias);
    let head_norms = c.head_norms.then(|| {
        ["q_norm", "k_norm"].map(|name| rms_norm(specs, &format!("{stem}.{name}"), c.head_dim, c))
    });
    Attention {
        q,
        k,
        v,
        o,
        head_norms,
        shape,
        dropout: DropoutAt::new(c.dropout.attention, Place::Attention(i)),
    }
}

fn mlp(c: &LlamaConfig, i: usize, specs: &mut SpecList) -> GatedMlp {
    let (d, f, std) = (c.hidden_size, c.intermediate_size, c.initializer_range());
    let group = format!("layers.{i}.mlp");
    let mut linear = |name: &str, widths| {
        let stem = format!("model.layers.{i}.mlp.{name}");
        Linear::new(specs, &stem, &group, widths, c.mlp_bias, std)
    };
    GatedMlp {
        gate: linear("gate_proj", [d, f]),
        up: linear("up_proj", [d, f]),
        down: linear("down_proj", [f, d]),
        kind: Gate::Silu,
    }
}

/// What one block keeps.
struct State<B: Backend> {
    block: Block,
    x: B::Buffer,
    norm1: NormCache<B::Buffer>,
    attention: AttentionState<B>,
    mid: B::Buffer,
    norm2: NormCache<B::Buffer>,
    mlp: GatedState<B>,
}

impl<B: Backend> Family<B> for Llama<B> {
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

    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        self.embed.forward(pass)
    }

    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        self.embed.backward(pass, sink, g);
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
        let (normed, norm1) = block.input_norm.forward(b, params, &x, n);
        let (mut mid, attention) = block.attention.forward(pass, rope, &normed, cache);
        b.axpy(1.0, &x, &mut mid);

        let (normed, norm2) = block.post_norm.forward(b, params, &mid, n);
        let (mut out, mlp) = block.mlp.forward(pass, &normed);
        b.axpy(1.0, &mid, &mut out);
        let state = State {
            block,
            x,
            norm1,
            attention,
            mid,
            norm2,
            mlp,
        };
        (out, Box::new(state))
    }
}

impl<B: Backend> BlockState<B> for State<B> {
    /// Each half adds its gradient to `d`, which also is the residual path's.
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        let (b, n, params, l) = (pass.backend, pass.batch.rows(), pass.params, &self.block);
        let space = RowSpace::Gradient;
        let mut d_normed = b.empty(b.len(&d));

        let norm = l.post_norm;
        let normed = norm.again(b, params, &self.mid, &self.norm2, n);
        l.mlp
            .backward(pass, sink, &self.mlp, &normed, &d, &mut d_normed);
        norm.backward(pass, sink, space, &self.mid, &self.norm2, &d_normed, &mut d);

        let norm = l.input_norm;
        let normed = norm.again(b, params, &self.x, &self.norm1, n);
        l.attention
            .backward(pass, sink, &self.attention, &normed, &d, &mut d_normed);
        norm.backward(pass, sink, space, &self.x, &self.norm1, &d_normed, &mut d);
        d
    }
}
