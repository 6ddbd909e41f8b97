//! The Llama family (Touvron et al. 2023, arXiv 2302.13971): pre-norm blocks with RMS norm, rotary positions,
//! grouped-query attention and SwiGLU. Llama 2 and 3, SmolLM2, TinyLlama.
//!
//! Normalised rows and the feed-forward product are computed again in the backward: they cost a sweep and
//! would be a third of the kept memory. Tested against transformers in `parity/models`.

use crate::config::LlamaConfig;
use crate::decoder::{BlockState, Family, ForwardPass, LayerCache};
use crate::layers::{Linear, Norm};
use crate::parameters::{ParamId, SpecList};
use crate::sink::{BackwardPass, GradientSink, RowSpace};
use std::sync::{Arc, Mutex};
use unbraid_tensor::{AttentionShape, Backend, NormCache};

#[derive(Clone, Copy)]
struct Block {
    input_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A Llama model's layers.
pub(crate) struct Llama<B: Backend> {
    embed: ParamId,
    blocks: Vec<Block>,
    norm: Norm,
    head: ParamId,
    shape: AttentionShape,
    d: usize,
    f: usize,
    rope: RopeTable<B>,
}

/// cos and sin of every position's angles, grown on demand.
struct RopeTable<B: Backend> {
    frequencies: Vec<f64>,
    table: Mutex<(usize, Option<Arc<B::Buffer>>)>,
}

impl<B: Backend> RopeTable<B> {
    /// A table of at least `context` positions, `[positions, head_dim]`, cos then sin.
    fn get(&self, b: &B, context: usize) -> Arc<B::Buffer> {
        let mut held = self.table.lock().expect("no panic while the table is held");
        if let (positions, Some(table)) = &*held
            && *positions >= context
        {
            return Arc::clone(table);
        }
        let positions = context.next_power_of_two().max(64);
        let mut data = Vec::with_capacity(positions * self.frequencies.len() * 2);
        for p in 0..positions {
            let angle = |f: &f64| p as f64 * f;
            data.extend(self.frequencies.iter().map(|f| angle(f).cos()));
            data.extend(self.frequencies.iter().map(|f| angle(f).sin()));
        }
        let table = Arc::new(b.upload_f64(&data));
        *held = (positions, Some(Arc::clone(&table)));
        table
    }
}

impl<B: Backend> Llama<B> {
    pub(crate) fn new(c: &LlamaConfig, specs: &mut SpecList) -> Self {
        let std = c
            .raw
            .get("initializer_range")
            .and_then(|v| v.as_f64())
            .unwrap_or(0.02);
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let (q_width, kv_width) = (
            c.num_attention_heads * c.head_dim,
            c.num_key_value_heads * c.head_dim,
        );
        let embed = specs.matrix(
            "model.embed_tokens.weight".into(),
            [c.vocab_size, d],
            "embedding",
            std,
        );
        let blocks = (0..c.num_hidden_layers)
            .map(|i| {
                let mut linear = |part: &str, name: &str, d_in: usize, d_out: usize, biased| {
                    let place = if part == "self_attn" {
                        "attention"
                    } else {
                        "mlp"
                    };
                    let group = format!("layers.{i}.{place}");
                    let stem = format!("model.layers.{i}.{part}.{name}");
                    Linear {
                        weight: specs.matrix(format!("{stem}.weight"), [d_out, d_in], &group, std),
                        bias: if biased {
                            Some(specs.bias(format!("{stem}.bias"), d_out, &group))
                        } else {
                            None
                        },
                        d_in,
                        d_out,
                    }
                };
                let (ab, mb) = (c.attention_bias, c.mlp_bias);
                let q = linear("self_attn", "q_proj", d, q_width, ab);
                let k = linear("self_attn", "k_proj", d, kv_width, ab);
                let v = linear("self_attn", "v_proj", d, kv_width, ab);
                let o = linear("self_attn", "o_proj", q_width, d, ab);
                let gate = linear("mlp", "gate_proj", d, f, mb);
                let up = linear("mlp", "up_proj", d, f, mb);
                let down = linear("mlp", "down_proj", f, d, mb);
                let mut norm = |name: &str| Norm {
                    weight: specs.norm(format!("model.layers.{i}.{name}.weight"), d),
                    bias: None,
                    epsilon: c.rms_norm_eps,
                    d,
                };
                Block {
                    input_norm: norm("input_layernorm"),
                    post_norm: norm("post_attention_layernorm"),
                    q,
                    k,
                    v,
                    o,
                    gate,
                    up,
                    down,
                }
            })
            .collect();
        let norm = Norm {
            weight: specs.norm("model.norm.weight".into(), d),
            bias: None,
            epsilon: c.rms_norm_eps,
            d,
        };
        let head = if c.tie_word_embeddings {
            embed
        } else {
            specs.matrix("lm_head.weight".into(), [c.vocab_size, d], "head", std)
        };
        Llama {
            embed,
            blocks,
            norm,
            head,
            shape: AttentionShape {
                heads: c.num_attention_heads,
                kv_heads: c.num_key_value_heads,
                head_dim: c.head_dim,
                scale: (c.head_dim as f64).powf(-0.5),
            },
            d,
            f,
            rope: RopeTable {
                frequencies: c.rope.inverse_frequencies(c.head_dim),
                table: Mutex::new((0, None)),
            },
        }
    }
}

/// What one block keeps.
struct State<B: Backend> {
    block: Block,
    shape: AttentionShape,
    d: usize,
    f: usize,
    rope: Arc<B::Buffer>,
    x: B::Buffer,
    norm1: NormCache<B::Buffer>,
    q: B::Buffer,
    k: B::Buffer,
    v: B::Buffer,
    lse: B::Buffer,
    attended: B::Buffer,
    mid: B::Buffer,
    norm2: NormCache<B::Buffer>,
    gate: B::Buffer,
    up: B::Buffer,
}

impl<B: Backend> Family<B> for Llama<B> {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn kv_width(&self) -> usize {
        self.shape.kv_width()
    }
    fn final_norm(&self) -> Norm {
        self.norm
    }
    fn head(&self) -> ParamId {
        self.head
    }

    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        let mut x = pass.backend.empty(pass.rows * self.d);
        let table = pass.params.get(self.embed);
        pass.backend.gather(table, pass.ids, &mut x, self.d, false);
        x
    }

    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        if sink.wants(self.embed) {
            sink.lookup(pass, self.embed, &pass.plan.ids, g, self.d);
        }
    }

    fn block(
        &self,
        pass: &ForwardPass<'_, B>,
        i: usize,
        x: B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, Box<dyn BlockState<B>>) {
        let (b, params, n, s) = (pass.backend, pass.params, pass.rows, self.shape);
        let l = self.blocks[i];
        let rope = self.rope.get(b, pass.context);
        let (normed, norm1) = l.input_norm.forward(b, params, &x, n);
        let mut q = l.q.forward(b, params, &normed, n);
        let mut k = l.k.forward(b, params, &normed, n);
        let v = l.v.forward(b, params, &normed, n);
        b.rope(&mut q, pass.positions, &rope, s.heads, s.head_dim, false);
        b.rope(&mut k, pass.positions, &rope, s.kv_heads, s.head_dim, false);
        let mut attended = b.empty(n * s.q_width());
        let lse = match cache {
            None => b.attention(&q, &k, &v, pass.layout, s, &mut attended),
            Some(cache) => {
                cache.append(b, &k, &v, n, s.kv_width());
                b.attention(&q, &cache.k, &cache.v, pass.layout, s, &mut attended)
            }
        };
        let mut mid = l.o.forward(b, params, &attended, n);
        b.axpy(1.0, &x, &mut mid);

        let (normed, norm2) = l.post_norm.forward(b, params, &mid, n);
        let gate = l.gate.forward(b, params, &normed, n);
        let up = l.up.forward(b, params, &normed, n);
        let mut product = b.empty(n * self.f);
        b.swiglu(&gate, &up, &mut product);
        let mut out = l.down.forward(b, params, &product, n);
        b.axpy(1.0, &mid, &mut out);
        let state = State {
            block: l,
            shape: s,
            d: self.d,
            f: self.f,
            rope,
            x,
            norm1,
            q,
            k,
            v,
            lse,
            attended,
            mid,
            norm2,
            gate,
            up,
        };
        (out, Box::new(state))
    }
}

impl<B: Backend> State<B> {
    /// Adds the feed-forward half's gradient to `d` (the residual path keeps what is there).
    fn mlp_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let mut product = b.empty(n * self.f);
        b.swiglu(&self.gate, &self.up, &mut product);
        let (mut d_gate, mut d_up) = (b.empty(r * self.f), b.empty(r * self.f));
        l.down.backward(pass, sink, &product, d, &mut d_up, false);
        drop(product);
        let rows = pass.plan.activation_rows.as_ref();
        b.swiglu_backward(&self.gate, &self.up, rows, &mut d_gate, &mut d_up, self.f);
        let normed = l.post_norm.again(b, pass.params, &self.mid, &self.norm2, n);
        let mut d_normed = b.empty(r * self.d);
        l.gate
            .backward(pass, sink, &normed, &d_gate, &mut d_normed, false);
        l.up.backward(pass, sink, &normed, &d_up, &mut d_normed, true);
        let (norm, space) = (l.post_norm, RowSpace::Gradient);
        norm.backward(pass, sink, space, &self.mid, &self.norm2, &d_normed, d);
    }

    /// Adds the attention half's gradient to `d`.
    fn attention_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let (s, positions) = (self.shape, &pass.plan.positions);
        let mut d_attended = b.empty(r * s.q_width());
        l.o.backward(pass, sink, &self.attended, d, &mut d_attended, false);
        let mut dq = b.zeros(r * s.q_width());
        let (mut dk, mut dv) = (b.zeros(r * s.kv_width()), b.zeros(r * s.kv_width()));
        b.attention_backward(
            &self.q,
            &self.k,
            &self.v,
            &self.lse,
            &pass.plan.layout,
            s,
            &d_attended,
            &mut dq,
            &mut dk,
            &mut dv,
        );
        drop(d_attended);
        b.rope(&mut dq, positions, &self.rope, s.heads, s.head_dim, true);
        b.rope(&mut dk, positions, &self.rope, s.kv_heads, s.head_dim, true);
        let normed = l.input_norm.again(b, pass.params, &self.x, &self.norm1, n);
        let mut d_normed = b.empty(r * self.d);
        l.q.backward(pass, sink, &normed, &dq, &mut d_normed, false);
        l.k.backward(pass, sink, &normed, &dk, &mut d_normed, true);
        l.v.backward(pass, sink, &normed, &dv, &mut d_normed, true);
        let (norm, space) = (l.input_norm, RowSpace::Gradient);
        norm.backward(pass, sink, space, &self.x, &self.norm1, &d_normed, d);
    }
}

impl<B: Backend> BlockState<B> for State<B> {
    fn backward(
        self: Box<Self>,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        self.mlp_backward(pass, sink, &mut d);
        self.attention_backward(pass, sink, &mut d);
        d
    }
}
