//! GPT-2 (Radford et al. 2019): pre-norm blocks with layer norm, learned positions, one fused query/key/value
//! projection and a GELU feed-forward layer; the head is the token embedding. Training may drop what enters the first block,
//! attention probabilities, and what each half adds.
//!
//! Checkpoints store linear weights `[in, out]` (`Conv1D`); they are held transposed. The fused projection's
//! output is split into three buffers because attention takes them apart. Tested in `parity/models`.

use crate::config::{Activation, Gpt2Config};
use crate::decoder::{BlockState, Family, ForwardPass, LayerCache};
use crate::dropout::{DropoutAt, Place};
use crate::layers::{Embedding, Linear, Norm};
use crate::parameters::{ParamId, SpecList};
use crate::sink::{BackwardPass, GradientSink, RowSpace};
use unbraid_tensor::{AttentionShape, Backend, NormCache};

#[derive(Clone, Copy)]
struct Block {
    ln_1: Norm,
    qkv: Linear,
    attn_proj: Linear,
    ln_2: Norm,
    fc: Linear,
    mlp_proj: Linear,
    attn_drop: DropoutAt,
    attn_proj_drop: DropoutAt,
    mlp_drop: DropoutAt,
}

/// A GPT-2 model's layers.
pub(crate) struct Gpt2 {
    wte: Embedding,
    wpe: ParamId,
    drop: DropoutAt,
    blocks: Vec<Block>,
    norm: Norm,
    head: ParamId,
    shape: AttentionShape,
    exact_gelu: bool,
    d: usize,
}

impl Gpt2 {
    pub(crate) fn new(c: &Gpt2Config, specs: &mut SpecList) -> Self {
        let std = c
            .raw
            .get("initializer_range")
            .and_then(|v| v.as_f64())
            .unwrap_or(0.02);
        let d = c.n_embd;
        let wte = Embedding::new(specs, "transformer.wte.weight", [c.vocab_size, d], std);
        let wpe = specs.matrix(
            "transformer.wpe.weight".into(),
            [c.n_positions, d],
            "embedding",
            std,
        );
        let mut blocks = Vec::with_capacity(c.n_layer);
        for i in 0..c.n_layer {
            let stem = format!("transformer.h.{i}");
            blocks.push(Block {
                ln_1: layer_norm(specs, &format!("{stem}.ln_1"), c),
                qkv: conv1d(specs, &stem, "attn.c_attn", d, 3 * d, std),
                attn_proj: conv1d(specs, &stem, "attn.c_proj", d, d, std),
                ln_2: layer_norm(specs, &format!("{stem}.ln_2"), c),
                fc: conv1d(specs, &stem, "mlp.c_fc", d, c.n_inner, std),
                mlp_proj: conv1d(specs, &stem, "mlp.c_proj", c.n_inner, d, std),
                attn_drop: DropoutAt::new(c.dropout.attention, Place::Attention(i)),
                attn_proj_drop: DropoutAt::new(c.dropout.residual, Place::AttentionOutput(i)),
                mlp_drop: DropoutAt::new(c.dropout.residual, Place::FeedForward(i)),
            });
        }
        let norm = layer_norm(specs, "transformer.ln_f", c);
        let head = wte.head(specs, c.tie_word_embeddings, "lm_head.weight", std);
        Gpt2 {
            wte,
            wpe,
            drop: DropoutAt::new(c.dropout.embedding, Place::Embedding),
            blocks,
            norm,
            head,
            shape: AttentionShape::new(c.n_head, c.n_head, c.head_dim()),
            exact_gelu: c.activation == Activation::GeluErf,
            d,
        }
    }
}

fn layer_norm(specs: &mut SpecList, stem: &str, c: &Gpt2Config) -> Norm {
    Norm {
        weight: specs.norm(format!("{stem}.weight"), c.n_embd),
        bias: Some(specs.bias(format!("{stem}.bias"), c.n_embd, "norms")),
        offset: 0.0,
        epsilon: c.layer_norm_epsilon,
        d: c.n_embd,
    }
}

fn conv1d(
    specs: &mut SpecList,
    stem: &str,
    name: &str,
    d_in: usize,
    d_out: usize,
    std: f64,
) -> Linear {
    let layer = stem.trim_start_matches("transformer.h.");
    let place = if name.starts_with("attn") {
        "attention"
    } else {
        "mlp"
    };
    let group = format!("layers.{layer}.{place}");
    Linear {
        weight: specs.conv1d(format!("{stem}.{name}.weight"), [d_in, d_out], &group, std),
        bias: Some(specs.bias(format!("{stem}.{name}.bias"), d_out, &group)),
        d_in,
        d_out,
    }
}

/// What one block keeps.
struct State<B: Backend> {
    block: Block,
    shape: AttentionShape,
    exact_gelu: bool,
    x: B::Buffer,
    norm1: NormCache<B::Buffer>,
    qkv: [B::Buffer; 3],
    lse: B::Buffer,
    attended: B::Buffer,
    mid: B::Buffer,
    norm2: NormCache<B::Buffer>,
    fc: B::Buffer,
}

impl<B: Backend> Family<B> for Gpt2 {
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
        self.wte.table
    }

    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer {
        let (b, d) = (pass.backend, self.d);
        let mut x = self.wte.forward(pass);
        b.gather(pass.params.get(self.wpe), pass.positions, &mut x, d, true);
        self.drop.forward(pass, x, d)
    }

    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    ) {
        let before = self.drop.backward(pass, g, self.d);
        let g = before.as_ref().unwrap_or(g);
        self.wte.backward(pass, sink, g);
        if sink.wants(self.wpe) {
            sink.lookup(pass, self.wpe, &pass.plan.positions, g, self.d);
        }
    }

    fn block(
        &self,
        pass: &ForwardPass<'_, B>,
        i: usize,
        x: B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, Box<dyn BlockState<B>>) {
        let (b, params, n, d) = (pass.backend, pass.params, pass.rows, self.d);
        let l = self.blocks[i];
        let shape = l.attn_drop.attention(pass, self.shape);
        let (normed, norm1) = l.ln_1.forward(b, params, &x, n);
        let fused = l.qkv.forward(pass, &normed);
        let qkv = [0, 1, 2].map(|part| {
            let mut out = b.empty(n * d);
            b.copy_2d(&fused, part * d, 3 * d, &mut out, 0, d, n, d);
            out
        });
        drop(fused);
        let mut attended = b.empty(n * d);
        let [q, k, v] = &qkv;
        let lse = match cache {
            None => b.attention(q, k, v, pass.layout, shape, &mut attended),
            Some(cache) => {
                cache.append(b, k, v, n, d);
                b.attention(q, &cache.k, &cache.v, pass.layout, shape, &mut attended)
            }
        };
        let mid = l.attn_proj.forward(pass, &attended);
        let mut mid = l.attn_proj_drop.forward(pass, mid, d);
        b.axpy(1.0, &x, &mut mid);

        let (normed, norm2) = l.ln_2.forward(b, params, &mid, n);
        let fc = l.fc.forward(pass, &normed);
        let mut active = b.empty(n * l.fc.d_out);
        b.gelu(&fc, &mut active, self.exact_gelu);
        let out = l.mlp_proj.forward(pass, &active);
        let mut out = l.mlp_drop.forward(pass, out, d);
        b.axpy(1.0, &mid, &mut out);
        let state = State {
            block: l,
            shape,
            exact_gelu: self.exact_gelu,
            x,
            norm1,
            qkv,
            lse,
            attended,
            mid,
            norm2,
            fc,
        };
        (out, Box::new(state))
    }
}

impl<B: Backend> State<B> {
    fn mlp_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let f = l.fc.d_out;
        let mut active = b.empty(n * f);
        b.gelu(&self.fc, &mut active, self.exact_gelu);
        let mut d_fc = b.empty(r * f);
        let d_added = l.mlp_drop.backward(pass, d, l.mlp_proj.d_out);
        let d_added = d_added.as_ref().unwrap_or(d);
        l.mlp_proj
            .backward(pass, sink, &active, d_added, &mut d_fc, false);
        drop(active);
        let rows = pass.plan.activation_rows.as_ref();
        b.gelu_backward(&self.fc, rows, &mut d_fc, f, self.exact_gelu);
        let normed = l.ln_2.again(b, pass.params, &self.mid, &self.norm2, n);
        let mut d_normed = b.empty(r * l.fc.d_in);
        l.fc.backward(pass, sink, &normed, &d_fc, &mut d_normed, false);
        let (norm, space) = (l.ln_2, RowSpace::Gradient);
        norm.backward(pass, sink, space, &self.mid, &self.norm2, &d_normed, d);
    }

    fn attention_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d: &mut B::Buffer,
    ) {
        let (b, r, n, l) = (pass.backend, pass.plan.rows, pass.batch.rows(), self.block);
        let width = l.qkv.d_in;
        let mut d_attended = b.empty(r * width);
        let d_added = l.attn_proj_drop.backward(pass, d, width);
        let d_added = d_added.as_ref().unwrap_or(d);
        l.attn_proj
            .backward(pass, sink, &self.attended, d_added, &mut d_attended, false);
        let [q, k, v] = &self.qkv;
        let mut grads = [0, 1, 2].map(|_| b.zeros(r * width));
        let [dq, dk, dv] = &mut grads;
        let layout = &pass.plan.layout;
        b.attention_backward(
            q,
            k,
            v,
            &self.lse,
            layout,
            self.shape,
            &d_attended,
            dq,
            dk,
            dv,
        );
        drop(d_attended);
        let mut fused = b.empty(r * 3 * width);
        for (part, grad) in grads.iter().enumerate() {
            b.copy_2d(
                grad,
                0,
                width,
                &mut fused,
                part * width,
                3 * width,
                r,
                width,
            );
        }
        let normed = l.ln_1.again(b, pass.params, &self.x, &self.norm1, n);
        let mut d_normed = b.empty(r * width);
        l.qkv
            .backward(pass, sink, &normed, &fused, &mut d_normed, false);
        let (norm, space) = (l.ln_1, RowSpace::Gradient);
        norm.backward(pass, sink, space, &self.x, &self.norm1, &d_normed, d);
    }
}

impl<B: Backend> BlockState<B> for State<B> {
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        self.mlp_backward(pass, sink, &mut d);
        self.attention_backward(pass, sink, &mut d);
        d
    }
}
