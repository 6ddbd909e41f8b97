#!/usr/bin/env python3
"""Trains the demo's tokenizer on corpus.jsonl: byte-level BPE, 768 entries, `<|endoftext|>` as EOS and padding.

Byte-level, so that any text can be encoded; small, because embedding rows are most of what a tiny model would
otherwise spend. The script checks what the preference pairs rely on: each label is one token with its leading space,
and encoding the prompt alone gives a prefix of encoding prompt + completion.

Run: python3 demo/make_tokenizer.py   (needs `pip install tokenizers`; written with 0.23)
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 768
END = "<|endoftext|>"
MAX_LENGTH = 128


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def check(tokenizer, pairs, texts):
    def ids(text):
        return tokenizer.encode(text).ids

    assert tokenizer.token_to_id(END) == 0
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    for label in (" positive", " negative"):
        assert len(ids(label)) == 1, f"{label!r} is {len(ids(label))} tokens"
    for pair in pairs:
        prompt = ids(pair["prompt"])
        for completion in (pair["chosen"], pair["rejected"]):
            whole = ids(pair["prompt"] + completion + END)
            assert whole[: len(prompt)] == prompt and whole[-1] == 0, pair
            assert len(whole) <= MAX_LENGTH
    lengths = [len(ids(text)) for text in texts]
    assert max(lengths) < MAX_LENGTH
    print(f"corpus: {sum(lengths)} tokens, longest text {max(lengths)}, mean {sum(lengths) / len(lengths):.1f}")


def main():
    here = Path(__file__).resolve().parent
    texts = [row["text"] for row in rows(here / "corpus.jsonl")]
    tokenizer = train(texts)
    check(tokenizer, rows(here / "preferences.jsonl") + rows(here / "preferences-test.jsonl"), texts)
    tokenizer.save(str(here / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": MAX_LENGTH,
    }
    (here / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
