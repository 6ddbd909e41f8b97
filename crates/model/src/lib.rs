//! Model families with hand-written backward passes, and their weights in and out.
//!
//! - [`LanguageModel`] runs packed batches forward and walks back from seeds, handing every parameter's raw
//!   gradient material (input rows, output-gradient rows) to a [`GradientSink`]: one backward pass, many
//!   observers.
//! - One file per family (`gpt2.rs`, `llama.rs`), over the operations of `unbraid-tensor`.
//! - `config` reads `config.json`; `weights` reads safetensors and GGUF and writes Hugging Face layout.
//! - Knows nothing of preferences: a batch is a forest of token sequences with targets.

pub mod batch;
pub mod config;
mod decoder;
pub mod error;
mod generate;
mod gpt2;
mod layers;
mod llama;
mod parameters;
mod sink;
pub mod weights;

pub use batch::{Batch, Forest, GradientPlan, Response, Sequence, Target};
pub use config::ModelConfig;
pub use decoder::{Forward, Keep, LanguageModel};
pub use error::ModelError;
pub use generate::{Sampling, Session};
pub use parameters::{Init, ParamId, ParamSpec, Parameters};
pub use sink::{Accumulate, BackwardPass, GradientSink, Gradients, LinearGradient, RowSpace};
