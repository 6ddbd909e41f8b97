//! A decoder-only language model: embedding, blocks, final norm, head, and the passes over them.
//!
//! Families implement [`Family`]; this file owns what is common: running the blocks, keeping or recomputing
//! what the backward needs, scoring targets, and walking back with a sink. The final norm and the head see the
//! scored rows only.

use crate::batch::{Batch, GradientPlan};
use crate::cancel::Cancel;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::gemma2::Gemma2;
use crate::gpt_neox::GptNeox;
use crate::gpt2::Gpt2;
use crate::head::Faint;
use crate::layers::Norm;
use crate::llama::Llama;
use crate::lora::LoraConfig;
use crate::parameters::{ParamId, ParamSpec, Parameters, SpecList, Storage};
use crate::sink::{BackwardPass, GradientSink, RowSpace, Seeds};
use crate::weights::{StoredDtype, Weights};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use unbraid_tensor::{AttentionLayout, Backend, Gemm, HeadBackward, Mat, MatMut, NormCache};

/// What a block's forward may look at.
pub struct ForwardPass<'a, B: Backend> {
    /// The machine.
    pub backend: &'a B,
    /// The model's parameters.
    pub params: &'a Parameters<B>,
    /// Token of each row.
    pub ids: &'a B::Index,
    /// Position of each row.
    pub positions: &'a B::Index,
    /// Largest position plus one.
    pub context: usize,
    /// Which rows attend to which.
    pub layout: &'a AttentionLayout,
    /// Number of rows N.
    pub rows: usize,
    /// Draws what the model and its adapters drop; `None` outside training.
    pub dropout_seed: Option<u64>,
}

/// Keys and values of earlier rows, for generation.
pub struct LayerCache<B: Backend> {
    /// Keys after rotation, `[capacity, kv_width]`.
    pub k: B::Buffer,
    /// Values, `[capacity, kv_width]`.
    pub v: B::Buffer,
    /// Rows in use.
    pub len: usize,
}

impl<B: Backend> LayerCache<B> {
    /// Appends `n` rows of keys and values.
    pub fn append(&mut self, b: &B, k: &B::Buffer, v: &B::Buffer, n: usize, width: usize) {
        b.copy_2d(k, 0, width, &mut self.k, self.len * width, width, n, width);
        b.copy_2d(v, 0, width, &mut self.v, self.len * width, width, n, width);
        self.len += n;
    }
}

/// What a block keeps for its backward.
pub trait BlockState<B: Backend>: Send {
    /// From the gradient of the block's output `[R, D]` to that of its input.
    fn backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        d_out: B::Buffer,
    ) -> B::Buffer;
}

/// A model family: how its embedding and blocks compute.
pub trait Family<B: Backend>: Send + Sync {
    /// Number of blocks.
    fn n_blocks(&self) -> usize;
    /// Width of a cached row of keys (and of values).
    fn kv_width(&self) -> usize;
    /// The norm before the head.
    fn final_norm(&self) -> Norm;
    /// The head's weight; the embedding's when tied.
    fn head(&self) -> ParamId;
    /// The token embedding's table.
    fn table(&self) -> ParamId;
    /// Soft cap on the logits (Gemma 2); none in most families.
    fn logit_softcap(&self) -> Option<f64> {
        None
    }
    /// Token (and position) embedding, `[N, D]`.
    fn embed(&self, pass: &ForwardPass<'_, B>) -> B::Buffer;
    /// Hands the embedding's gradient `g` `[R, D]` to the sink.
    fn embed_backward(
        &self,
        pass: &BackwardPass<'_, B>,
        sink: &mut dyn GradientSink<B>,
        g: &B::Buffer,
    );
    /// Block `i`: x `[N, D]` → output and what its backward needs. With `cache`, keys and values come from it.
    fn block(
        &self,
        pass: &ForwardPass<'_, B>,
        i: usize,
        x: B::Buffer,
        cache: Option<&mut LayerCache<B>>,
    ) -> (B::Buffer, Box<dyn BlockState<B>>);
}

enum Saved<B: Backend> {
    State(Box<dyn BlockState<B>>),
    Input(B::Buffer),
}

/// The blocks of a forward pass on the way back.
enum Blocks<'a, B: Backend> {
    Taken(Vec<Saved<B>>),
    Kept(&'a [Saved<B>]),
}

/// What a forward pass keeps for its backward, and the log-probs of the targets.
pub struct Forward<B: Backend> {
    blocks: Vec<Saved<B>>,
    last: B::Buffer,
    norm: NormCache<B::Buffer>,
    /// Final hidden states of the scored rows, `[M, D]`.
    pub h: B::Buffer,
    /// What the head's adapter makes of them, s·drop(h)Aᵀ `[M, r]`, where it has one.
    pub(crate) head_down: Option<B::Buffer>,
    /// log Σ exp of the logits of each scored row, `[M]`.
    pub lse: B::Buffer,
    /// Soft cap on the logits that `lse` was computed with.
    pub softcap: Option<f64>,
    /// The logits, where the backend keeps them for the backward.
    logits: Option<B::Buffer>,
    /// Log-prob of each target in nats, `[M]`.
    pub token_logps: Vec<f64>,
    /// The seed that dropout was drawn with.
    pub dropout_seed: Option<u64>,
}

impl<B: Backend> Forward<B> {
    /// The arguments of [`Backend::head_backward`] for this pass and the head's weight, no output asked for yet.
    pub(crate) fn head_arguments<'a>(
        &'a self,
        params: &'a Parameters<B>,
        batch: &'a Batch<B>,
        seeds: &'a B::Buffer,
        head: ParamId,
    ) -> HeadBackward<'a, B> {
        let shape = &params.specs[head.0].shape;
        HeadBackward {
            h: &self.h,
            w: params.get(head),
            lse: &self.lse,
            softcap: self.softcap,
            logits: self.logits.as_ref(),
            targets: &batch.target_ids,
            seeds,
            coefficients: None,
            dh: None,
            dw: None,
            inner: &[],
            m: batch.targets(),
            d: shape[1],
            v: shape[0],
        }
    }
}

/// Whether a forward pass keeps every block's activations or only their inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything the backward needs.
    All,
    /// Block inputs; the backward computes each block again (gradient checkpointing, Chen et al. 2016).
    BlockInputs,
}

/// A model: configuration, parameters, family.
pub struct LanguageModel<B: Backend> {
    /// The machine.
    pub backend: Arc<B>,
    /// The configuration it was built from.
    pub config: ModelConfig,
    /// Its parameters.
    pub params: Parameters<B>,
    /// Stops its passes between two blocks; nobody's, unless it is replaced.
    pub cancel: Cancel,
    family: Box<dyn Family<B>>,
    /// The head's weight where it was tied when the family was built and is no more.
    own_head: Option<ParamId>,
    /// Settings of its adapter.
    pub(crate) lora: Option<LoraConfig>,
}

fn build<B: Backend>(config: &ModelConfig) -> (Vec<ParamSpec>, Box<dyn Family<B>>) {
    let mut specs = SpecList::default();
    let family: Box<dyn Family<B>> = match config {
        ModelConfig::Gpt2(c) => Box::new(Gpt2::new(c, &mut specs)),
        ModelConfig::Llama(c)
        | ModelConfig::Mistral(c)
        | ModelConfig::Qwen2(c)
        | ModelConfig::Qwen3(c) => Box::new(Llama::<B>::new(c, &mut specs)),
        ModelConfig::Gemma2(c) => Box::new(Gemma2::<B>::new(c, &mut specs)),
        ModelConfig::GptNeox(c) => Box::new(GptNeox::<B>::new(c, &mut specs)),
    };
    (specs.0, family)
}

impl<B: Backend> LanguageModel<B> {
    /// Reads a model in Hugging Face layout or from a GGUF file.
    ///
    /// # Errors
    /// What is wrong with the configuration or the weights, with file, key or tensor.
    pub fn load(backend: Arc<B>, path: &Path) -> Result<Self, ModelError> {
        let weights = Weights::open(path)?;
        let config = ModelConfig::for_weights(&weights)?;
        Self::from_weights(backend, config, &weights, Storage::Float32)
    }

    /// A model of `config` with the values in `weights`; only a model that stays frozen may be held in bfloat16.
    ///
    /// # Errors
    /// What is wrong with the weights, with the tensor's name.
    pub fn from_weights(
        backend: Arc<B>,
        config: ModelConfig,
        weights: &Weights,
        storage: Storage,
    ) -> Result<Self, ModelError> {
        let (specs, family) = build(&config);
        let tied = config.tie_word_embeddings();
        let (table, head) = (config.table_name(), config.head_name());
        // A tied matrix may be stored under either name.
        let other_name = |name: &str| (tied && name == table).then_some(head);
        let params = Parameters::load(&*backend, specs, weights, storage, other_name)?;
        Ok(LanguageModel {
            backend,
            config,
            params,
            cancel: Cancel::default(),
            family,
            own_head: None,
            lora: None,
        })
    }

    /// A model of `config` with random parameters (normal, standard deviation `initializer_range` or 0.02).
    pub fn random(backend: Arc<B>, config: ModelConfig, seed: u64) -> Self {
        let (specs, family) = build(&config);
        let params = Parameters::random(&*backend, specs, seed);
        LanguageModel {
            backend,
            config,
            params,
            cancel: Cancel::default(),
            family,
            own_head: None,
            lora: None,
        }
    }

    /// A model of `config` whose values the caller makes, one for each parameter in order: of a backend whose buffers
    /// have sizes only, nothing is read or drawn, and an 8B model is built in no time. Matrices are held as `storage` says.
    pub fn with_values(
        backend: Arc<B>,
        config: ModelConfig,
        storage: Storage,
        value: impl FnMut(&ParamSpec) -> B::Buffer,
    ) -> Self {
        let (specs, family) = build(&config);
        let values = specs.iter().map(value).collect();
        LanguageModel {
            backend,
            config,
            params: Parameters::new(specs, values, storage),
            cancel: Cancel::default(),
            family,
            own_head: None,
            lora: None,
        }
    }

    /// Writes the model in Hugging Face layout, `config.json` and weights; with an adapter the adapter alone, in
    /// PEFT's. What is trained beside the model goes into a file of its own.
    ///
    /// # Errors
    /// What the file system refuses, with the path.
    pub fn save(&self, dir: &Path, dtype: StoredDtype) -> Result<(), ModelError> {
        if let Some(lora) = &self.lora {
            self.save_adapter(lora, dir)?;
        } else {
            self.params.save(&self.backend, dir, dtype)?;
            let json = self.config.to_json_pretty(dtype);
            crate::weights::write_file_atomic(&dir.join("config.json"), json.as_bytes())?;
            crate::lora::remove_adapter(dir)?;
        }
        self.save_extras(dir)
    }

    /// The head's weight; the embedding's when tied.
    pub fn head(&self) -> ParamId {
        self.own_head.unwrap_or_else(|| self.family.head())
    }

    /// Whether embedding and head are one matrix.
    pub fn tied(&self) -> bool {
        self.head() == self.family.table()
    }

    /// Gives a tied head a matrix of its own, equal to the embedding as it is.
    pub(crate) fn untie(&mut self) {
        let (table, name) = (self.family.table(), self.config.head_name());
        let head = self.params.copy_base(&self.backend, table, name, "head");
        self.params.move_adapter(table, head);
        self.own_head = Some(head);
        self.config.untie();
    }

    /// Whether a training pass with a seed drops anything: of the model itself, or of its adapter's inputs.
    pub fn drops(&self) -> bool {
        let adapter = self.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0);
        adapter || self.config.dropout().any()
    }

    pub(crate) fn family(&self) -> &dyn Family<B> {
        &*self.family
    }

    fn pass<'a>(&'a self, batch: &'a Batch<B>, dropout_seed: Option<u64>) -> ForwardPass<'a, B> {
        let last = batch.forest.positions.iter().max();
        ForwardPass {
            backend: &self.backend,
            params: &self.params,
            ids: &batch.ids,
            positions: &batch.positions,
            context: last.map_or(0, |&p| p as usize + 1),
            layout: &batch.layout,
            rows: batch.rows(),
            dropout_seed,
        }
    }

    /// Log-probs of a batch's targets in nats, keeping nothing.
    pub fn token_logps(&self, batch: &Batch<B>) -> Vec<f64> {
        self.score(batch).token_logps
    }

    /// A forward pass that no backward pass can follow: of the blocks nothing is kept.
    pub fn score(&self, batch: &Batch<B>) -> Forward<B> {
        let pass = self.pass(batch, None);
        let mut x = self.family.embed(&pass);
        for i in 0..self.family.n_blocks() {
            self.cancel.check();
            x = self.family.block(&pass, i, x, None).0;
        }
        self.finish(&pass, batch, x, Vec::new())
    }

    /// A forward pass that a backward pass can follow, without dropout.
    pub fn forward(&self, batch: &Batch<B>, keep: Keep) -> Forward<B> {
        self.forward_training(batch, keep, None)
    }

    /// As [`LanguageModel::forward`]; a model and adapters with dropout draw what they drop from the seed.
    pub fn forward_training(
        &self,
        batch: &Batch<B>,
        keep: Keep,
        dropout_seed: Option<u64>,
    ) -> Forward<B> {
        let pass = self.pass(batch, dropout_seed);
        let mut x = self.family.embed(&pass);
        let mut blocks = Vec::with_capacity(self.family.n_blocks());
        for i in 0..self.family.n_blocks() {
            self.cancel.check();
            let input = (keep == Keep::BlockInputs).then(|| self.copy(&x));
            let (out, state) = self.family.block(&pass, i, x, None);
            blocks.push(input.map_or(Saved::State(state), Saved::Input));
            x = out;
        }
        self.finish(&pass, batch, x, blocks)
    }

    /// Logits at these targets, row by row, `[targets.len(), V]`; `log π(v) = logit − lse`. For small ranges: a row has an
    /// entry for each token of the vocabulary.
    pub fn logits(&self, forward: &Forward<B>, targets: Range<usize>) -> Vec<f32> {
        self.logits_of(&forward.h, targets)
    }

    /// Logits of rows of final hidden states.
    pub(crate) fn logits_of(&self, h: &B::Buffer, rows: Range<usize>) -> Vec<f32> {
        let (b, d) = (&*self.backend, self.config.hidden_size());
        let (n, v) = (rows.len(), self.config.vocab_size());
        let mut logits = b.empty(n * v);
        b.gemm(
            Gemm::replace(n, v, d),
            Mat::rows(h, rows.start, d),
            Mat::rows(self.params.get(self.head()), 0, d).t(),
            MatMut::rows(&mut logits, 0, v),
        );
        self.add_head_adapter(h, rows, &mut logits);
        let mut logits = b.download(&logits);
        if let Some(cap) = self.family.logit_softcap() {
            let soften = |z: f32| (cap * (f64::from(z) / cap).tanh()) as f32;
            logits.iter_mut().for_each(|z| *z = soften(*z));
        }
        logits
    }

    /// A linear probe's value at every target, ⟨w, h_i⟩ + b, `[M]`.
    pub fn probe(&self, forward: &Forward<B>, weight: ParamId, bias: ParamId) -> Vec<f64> {
        let (b, d) = (&*self.backend, self.config.hidden_size());
        let m = forward.token_logps.len();
        let mut values = b.empty(m);
        b.gemm(
            Gemm::replace(m, 1, d),
            Mat::rows(&forward.h, 0, d),
            Mat::rows(self.params.get(weight), 0, d).t(),
            MatMut::rows(&mut values, 0, 1),
        );
        b.add_bias(self.params.get(bias), &mut values, m, 1);
        b.download_f64(&values)
    }

    /// log Σ_v π(v)² at every target, `[M]`: how likely the policy expects its own samples to be.
    pub fn log_squares(&self, forward: &Forward<B>) -> Vec<f64> {
        let (b, d) = (&*self.backend, self.config.hidden_size());
        let (m, v) = (forward.token_logps.len(), self.config.vocab_size());
        let cap = self.family.logit_softcap();
        let squares = match self.joined_head(&forward.h, forward.head_down.as_ref(), m, Faint::None)
        {
            Some(x) => b.head_log_squares(&x.h, &x.w, &forward.lse, cap, m, x.d, v),
            None => {
                let w = self.params.get(self.head());
                b.head_log_squares(&forward.h, w, &forward.lse, cap, m, d, v)
            }
        };
        b.download_f64(&squares)
    }

    /// Inner products (ww, wl, ll) of the head's own gradients of each pair of responses (2i, 2i + 1), Σ (G_s·G_t)(h_s·h_t),
    /// which need no walk back. Of a tied matrix the look-up's share is left out.
    pub fn head_grams(&self, batch: &Batch<B>, forward: &Forward<B>) -> Vec<[f64; 3]> {
        let (b, m) = (&*self.backend, batch.targets());
        let head = self.head();
        let seeds = b.upload_f64(&vec![1.0; m]);
        let pairs = batch.forest.responses.chunks_exact(2);
        let wanted: Vec<_> = pairs
            .flat_map(|pair| {
                let [w, l] = [&pair[0].targets, &pair[1].targets].map(Clone::clone);
                [(w.clone(), w.clone()), (w, l.clone()), (l.clone(), l)]
            })
            .collect();
        let joined = self.joined_head(&forward.h, forward.head_down.as_ref(), m, Faint::Adapter);
        let mut args = HeadBackward {
            inner: &wanted,
            ..forward.head_arguments(&self.params, batch, &seeds, head)
        };
        if let Some(x) = &joined {
            (args.h, args.w, args.d) = (&x.h, &x.w, x.d);
        }
        let inner = b.head_backward(&mut args);
        inner.chunks_exact(3).map(|x| [x[0], x[1], x[2]]).collect()
    }

    fn copy(&self, x: &B::Buffer) -> B::Buffer {
        let len = self.backend.len(x);
        let mut copy = self.backend.empty(len);
        self.backend.copy_2d(x, 0, len, &mut copy, 0, len, 1, len);
        copy
    }

    fn finish(
        &self,
        pass: &ForwardPass<'_, B>,
        batch: &Batch<B>,
        x: B::Buffer,
        blocks: Vec<Saved<B>>,
    ) -> Forward<B> {
        self.cancel.check();
        let (b, m, d) = (&*self.backend, batch.targets(), self.config.hidden_size());
        let mut last = b.empty(m * d);
        b.gather(&x, &batch.target_rows, &mut last, d, false);
        let (h, norm) = self.family.final_norm().forward(b, &self.params, &last, m);
        let (softcap, v) = (self.family.logit_softcap(), self.config.vocab_size());
        let targets = &batch.target_ids;
        let head_down = self.head_down(&h, m, pass.dropout_seed, &batch.target_rows);
        let joined = self.joined_head(&h, head_down.as_ref(), m, Faint::None);
        let (x, w, d) = match &joined {
            Some(x) => (&x.h, &x.w, x.d),
            None => (&h, self.params.get(self.head()), d),
        };
        // Who keeps but the blocks' inputs has no memory for logits, and a score no use.
        let (logps, lse, logits) = match blocks.first() {
            Some(Saved::State(_)) => b.head_logps_kept(x, w, targets, softcap, m, d, v),
            _ => {
                let (logps, lse) = b.head_logps(x, w, targets, softcap, m, d, v);
                (logps, lse, None)
            }
        };
        Forward {
            blocks,
            last,
            norm,
            h,
            head_down,
            lse,
            softcap,
            logits,
            token_logps: b.download_f64(&logps),
            dropout_seed: pass.dropout_seed,
        }
    }

    /// Walks back from `seeds`, handing every parameter's raw material to the sink. What the forward pass kept
    /// is dropped on the way.
    pub fn backward<'a>(
        &self,
        batch: &Batch<B>,
        plan: &GradientPlan<B>,
        mut forward: Forward<B>,
        seeds: impl Into<Seeds<'a>>,
        sink: &mut dyn GradientSink<B>,
    ) {
        let blocks = Blocks::Taken(std::mem::take(&mut forward.blocks));
        self.walk_back(batch, plan, &forward, blocks, &seeds.into(), sink);
    }

    /// As [`LanguageModel::backward`], keeping the forward pass for a further walk (a measurement that has to
    /// end before the update is known).
    pub fn backward_again<'a>(
        &self,
        batch: &Batch<B>,
        plan: &GradientPlan<B>,
        forward: &Forward<B>,
        seeds: impl Into<Seeds<'a>>,
        sink: &mut dyn GradientSink<B>,
    ) {
        let blocks = Blocks::Kept(&forward.blocks);
        self.walk_back(batch, plan, forward, blocks, &seeds.into(), sink);
    }

    fn walk_back(
        &self,
        batch: &Batch<B>,
        plan: &GradientPlan<B>,
        forward: &Forward<B>,
        mut blocks: Blocks<'_, B>,
        seeds: &Seeds<'_>,
        sink: &mut dyn GradientSink<B>,
    ) {
        self.cancel.check();
        let (b, m, d) = (&*self.backend, batch.targets(), self.config.hidden_size());
        let logp_seeds = b.upload_f64(seeds.token_logps);
        let pass = BackwardPass {
            backend: b,
            params: &self.params,
            batch,
            plan,
            forward,
            seeds: &logp_seeds,
        };
        let mut dh = b.empty(m * d);
        let head = self.head();
        if let Some(adapter) = self.params.adapter(head) {
            self.adapted_head_backward(&pass, sink, adapter, &mut dh);
        } else {
            let mut args = pass.head_arguments(head);
            args.dh = Some(&mut dh);
            sink.head(&pass, head, &mut args);
        }
        if let Some(probe) = &seeds.probe {
            probe.backward(&pass, sink, &mut dh, d);
        }

        let mut d_last = b.zeros(m * d);
        let norm = self.family.final_norm();
        let space = RowSpace::Targets;
        norm.backward(
            &pass,
            sink,
            space,
            &forward.last,
            &forward.norm,
            &dh,
            &mut d_last,
        );
        let mut dx = b.zeros(plan.rows * d);
        b.scatter_add(&d_last, &plan.target_rows, None, &mut dx, d);
        drop((dh, d_last));

        let again = |x: B::Buffer, i: usize| {
            let pass = self.pass(batch, forward.dropout_seed);
            self.family.block(&pass, i, x, None).1
        };
        for i in (0..self.family.n_blocks()).rev() {
            self.cancel.check();
            dx = match &mut blocks {
                Blocks::Kept(blocks) => match &blocks[i] {
                    Saved::State(state) => state.backward(&pass, sink, dx),
                    Saved::Input(x) => again(self.copy(x), i).backward(&pass, sink, dx),
                },
                Blocks::Taken(blocks) => match blocks.pop() {
                    Some(Saved::State(state)) => state.backward(&pass, sink, dx),
                    Some(Saved::Input(x)) => again(x, i).backward(&pass, sink, dx),
                    None => unreachable!("a forward pass keeps one entry a block"),
                },
            };
        }
        self.family.embed_backward(&pass, sink, &dx);
    }
}
