//! Which shares of its values a model drops in training (Srivastava et al. 2014), as its `config.json` says; defaults are
//! those of transformers' configurations.
//!
//! Left out: dropout of classification heads (`classifier_dropout`, `summary_first_dropout`), which no language model has.

use super::keys::Keys;
use crate::error::ModelError;

/// Probabilities of dropout, each 0 ≤ p < 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Of what enters the first block.
    pub embedding: f64,
    /// Of attention probabilities, behind the softmax.
    pub attention: f64,
    /// Of what each half of a block adds to the residual path.
    pub residual: f64,
}

impl Dropout {
    /// Whether anything is dropped.
    #[must_use]
    pub fn any(self) -> bool {
        self.embedding > 0.0 || self.attention > 0.0 || self.residual > 0.0
    }

    /// GPT-2's three keys.
    pub(super) fn of_gpt2(keys: &Keys<'_>) -> Result<Self, ModelError> {
        Ok(Dropout {
            embedding: keys.share_or("embd_pdrop", 0.1)?,
            attention: keys.share_or("attn_pdrop", 0.1)?,
            residual: keys.share_or("resid_pdrop", 0.1)?,
        })
    }

    /// GPT-NeoX's: `hidden_dropout` stands for embedding and residual path.
    pub(super) fn of_gpt_neox(keys: &Keys<'_>) -> Result<Self, ModelError> {
        let hidden = keys.share_or("hidden_dropout", 0.0)?;
        Ok(Dropout {
            embedding: hidden,
            residual: hidden,
            ..Dropout::of_attention(keys)?
        })
    }

    /// That of Llama, Mistral, Qwen2, Qwen3 and Gemma 2.
    pub(super) fn of_attention(keys: &Keys<'_>) -> Result<Self, ModelError> {
        Ok(Dropout {
            attention: keys.share_or("attention_dropout", 0.0)?,
            ..Dropout::default()
        })
    }
}
