//! Model families with hand-written backward passes, and their weights in and out.
//!
//! - [`LanguageModel`] runs packed batches forward and walks back from seeds, handing every parameter's raw
//!   gradient material (input rows, output-gradient rows) to a [`GradientSink`]: one backward pass, many
//!   observers.
//! - One file per family (`gpt2.rs`, `llama.rs`, `gemma2.rs`, `gpt_neox.rs`), over the layers that they share and the
//!   operations of `unbraid-tensor`.
//! - `config` reads `config.json`; `weights` reads safetensors and GGUF and writes Hugging Face layout.
//! - Knows nothing of preferences: a batch is a forest of token sequences with targets.

mod attention;
pub mod batch;
mod cancel;
pub mod config;
mod decoder;
mod dropout;
pub mod error;
mod gemma2;
mod generate;
mod gpt2;
mod gpt_neox;
mod head;
mod layers;
mod llama;
mod lora;
mod mlp;
mod parameters;
mod rope;
mod sink;
pub mod weights;

pub use batch::{Batch, Forest, GradientPlan, Response, Sequence, Target};
pub use cancel::{Cancel, Cancelled, Hold};
pub use config::ModelConfig;
pub use decoder::{Forward, Keep, LanguageModel};
pub use error::ModelError;
pub use generate::{GENERATION_CONFIG, GenerationConfig, LogitsProcessors, Session};
pub use head::{head_backward_into, head_delta};
pub use lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, InitialBase, LoraConfig, TargetModules};
pub use parameters::{Init, ParamId, ParamKind, ParamSpec, Parameters, Storage};
pub use sink::{
    Accumulate, BackwardPass, GradientSink, Gradients, LinearGradient, ProbeSeeds, RowSpace, Seeds,
};
