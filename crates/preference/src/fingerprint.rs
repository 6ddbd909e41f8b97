//! Fingerprints of tokenised data: SHA-256 over everything a run depends on, in hexadecimal digits.

use sha2::{Digest, Sha256};

use crate::sft::SftDataset;
use crate::tokenize::{TokenizedDataset, TokenizedPair};
use crate::unpaired::UnpairedDataset;

/// Of pairs: indices, weights, prompt lengths, ids.
pub fn data_fingerprint(dataset: &TokenizedDataset) -> String {
    let mut hash = PairFingerprint::default();
    dataset.pairs.iter().for_each(|pair| hash.add(pair));
    hash.finish()
}

/// [`data_fingerprint`] of pairs that pass by one after another.
#[derive(Default)]
pub struct PairFingerprint(Fingerprint);

impl PairFingerprint {
    /// Takes the next pair in.
    pub fn add(&mut self, pair: &TokenizedPair) {
        let hash = &mut self.0;
        hash.number(pair.index as u64);
        hash.number(pair.weight.to_bits());
        hash.sequence(pair.chosen.prompt_len, &pair.chosen.ids);
        hash.sequence(pair.rejected.prompt_len, &pair.rejected.ids);
    }

    /// The fingerprint of all of them.
    pub fn finish(self) -> String {
        self.0.finish()
    }
}

/// Of judged completions: indices, weights, labels, prompt lengths, ids.
pub fn unpaired_fingerprint(dataset: &UnpairedDataset) -> String {
    let mut hash = Fingerprint::default();
    for example in &dataset.examples {
        hash.number(example.index as u64);
        hash.number(example.weight.to_bits());
        hash.number(u64::from(example.desirable));
        for sequence in [&example.sequence, &example.mismatched] {
            hash.sequence(sequence.prompt_len, &sequence.ids);
        }
    }
    hash.finish()
}

/// Of texts to fine-tune on: indices, weights, where the loss starts, ids, packs.
pub fn sft_fingerprint(dataset: &SftDataset) -> String {
    let mut hash = Fingerprint::default();
    for sequence in &dataset.sequences {
        hash.number(sequence.index as u64);
        hash.number(sequence.weight.to_bits());
        hash.sequence(sequence.loss_mask_start, &sequence.ids);
    }
    for pack in &dataset.packs {
        hash.number(pack.len() as u64);
        pack.iter().for_each(|&place| hash.number(place as u64));
    }
    hash.finish()
}

#[derive(Default)]
struct Fingerprint(Sha256);

impl Fingerprint {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn sequence(&mut self, start: usize, ids: &[u32]) {
        self.number(start as u64);
        // The length comes first, so that ids cannot move from one sequence to the next unnoticed.
        self.number(ids.len() as u64);
        for id in ids {
            self.0.update(id.to_le_bytes());
        }
    }

    fn finish(self) -> String {
        let digest = self.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
