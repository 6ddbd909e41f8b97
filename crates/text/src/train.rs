//! A tokenizer made from texts: byte-level BPE as GPT-2's.

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::byte_level::ByteLevel as Processor;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::error::{Result, TextError};
use crate::tokenizer::Tokenizer;

/// The token that ends a text, and pads.
const END: &str = "<|endoftext|>";

impl Tokenizer {
    /// Trains byte-level BPE on `texts`: every text can be encoded, and the commonest pairs of tokens are merged until
    /// there are `vocab_size` tokens (fewer, if nothing is left to merge). Token 0 is `<|endoftext|>`. The same texts
    /// give the same tokenizer.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the library refuses to train.
    pub fn train_bpe(
        texts: impl Iterator<Item = String> + Send,
        vocab_size: usize,
    ) -> Result<Self> {
        let refused = |reason: tokenizers::Error| TextError::Tokenizer {
            what: "training".to_owned(),
            reason: reason.to_string(),
        };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .special_tokens(vec![AddedToken::from(END, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build();
        let pieces = ByteLevel::default().add_prefix_space(false);
        let mut tokenizer =
            TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, _, _>::default()
                .with_model(BPE::default())
                .with_normalizer(None)
                .with_pre_tokenizer(Some(pieces))
                .with_post_processor(Some(Processor::default().trim_offsets(false)))
                .with_decoder(Some(Decoder::default()))
                .build()
                .map_err(refused)?;
        tokenizer.train(&mut trainer, texts).map_err(refused)?;
        let json = tokenizer.to_string(true).map_err(refused)?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": false,
            "add_prefix_space": false,
            "clean_up_tokenization_spaces": false,
            "eos_token": END,
            "pad_token": END,
        });
        Self::from_parts(json.as_bytes(), Some(&config), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trained_tokenizer_knows_its_words_and_encodes_anything() {
        let texts = || (0..40).map(|i| format!("a good day {}", i % 3));
        let tokenizer = Tokenizer::train_bpe(texts(), 300).expect("trains");
        assert_eq!(tokenizer.eos_id(), Some(0));
        let good = tokenizer.encode(" good", false).expect("encodes");
        assert_eq!(good.len(), 1, "{good:?}");
        let odd = "ünïcode\n\u{1f600}";
        let ids = tokenizer.encode(odd, false).expect("encodes");
        assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), odd);
        let again = Tokenizer::train_bpe(texts(), 300).expect("trains");
        assert_eq!(tokenizer.fingerprint(), again.fingerprint());
    }
}
