"""Writes processors.json: what transformers' generation makes of logits and of tiny models, one setting after another.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python parity/generate/generate.py

`processed`: `generate`'s own list of logits processors, built from a generation config, applied to drawn logits; null is -inf.
`greedy`: continuations of the models in `../models` by `model.generate`, with the smallest lead of the best token over the
second, after processing. The other files of this folder are written by `../models/generate.py`.
"""

import json
import math
import re
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

HERE = Path(__file__).resolve().parent
COMMAND = "python parity/generate/generate.py"
SEED = 20261201
VOCAB = 20
EOS = [19, 18]

# Name, setting, and how many tokens of the sequence are the prompt's (of 9 in all; None: all of them).
PROCESSED = [
    ("nothing", {}, None),
    ("repetition_penalty", {"repetition_penalty": 1.3}, None),
    ("repetition_reward", {"repetition_penalty": 0.7}, None),
    ("no_repeat_1", {"no_repeat_ngram_size": 1}, None),
    ("no_repeat_2", {"no_repeat_ngram_size": 2}, None),
    ("no_repeat_3", {"no_repeat_ngram_size": 3}, None),
    ("no_repeat_longer", {"no_repeat_ngram_size": 12}, None),
    ("encoder_repetition", {"encoder_repetition_penalty": 1.4}, 5),
    ("encoder_no_repeat", {"encoder_no_repeat_ngram_size": 2}, 5),
    ("bad_words", {"bad_words_ids": [[3], [4, 7], [5, 7], [19], [2, 4, 11]]}, None),
    ("sequence_bias", {"sequence_bias": [[[3], 2.5], [[4, 7], -3.0], [[9, 4, 7], 1.5], [[8, 1], 4.0]]}, None),
    ("min_length", {"min_length": 10}, None),
    ("min_length_reached", {"min_length": 9}, None),
    ("min_new_tokens", {"min_new_tokens": 5}, 5),
    ("min_new_tokens_reached", {"min_new_tokens": 4}, 5),
    ("min_new_tokens_over_min_length", {"min_new_tokens": 4, "min_length": 30}, 5),
    ("forced_eos", {"forced_eos_token_id": [18], "max_new_tokens": 5}, 5),
    ("forced_eos_not_yet", {"forced_eos_token_id": 18, "max_new_tokens": 6}, 5),
    ("forced_eos_by_length", {"forced_eos_token_id": 18, "max_length": 10}, 5),
    ("remove_invalid_values", {"remove_invalid_values": True, "suppress_tokens": [1]}, None),
    ("exponential_decay", {"exponential_decay_length_penalty": [2, 1.2]}, 5),
    ("exponential_decay_not_yet", {"exponential_decay_length_penalty": [4, 1.2]}, 5),
    ("suppress", {"suppress_tokens": [0, 4, 7]}, None),
    ("begin_suppress", {"begin_suppress_tokens": [2, 7]}, None),
    ("begin_suppress_over", {"begin_suppress_tokens": [2, 7]}, 8),
    ("renormalize", {"renormalize_logits": True, "suppress_tokens": [7]}, None),
    ("greedy_reads_no_warpers", {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.2}, None),
    ("sample_default", {"do_sample": True}, None),
    ("temperature", {"do_sample": True, "temperature": 0.6}, None),
    ("top_k", {"do_sample": True, "top_k": 4}, None),
    ("top_k_off", {"do_sample": True, "top_k": 0}, None),
    ("top_p", {"do_sample": True, "top_p": 0.8}, None),
    ("top_p_small", {"do_sample": True, "top_p": 0.01}, None),
    ("top_p_zero", {"do_sample": True, "top_p": 0.0}, None),
    ("min_p", {"do_sample": True, "min_p": 0.15}, None),
    ("top_h", {"do_sample": True, "top_h": 0.5}, None),
    ("typical_p", {"do_sample": True, "typical_p": 0.6}, None),
    ("epsilon_cutoff", {"do_sample": True, "epsilon_cutoff": 0.05}, None),
    ("eta_cutoff", {"do_sample": True, "eta_cutoff": 0.1}, None),
    ("warmed", {"do_sample": True, "temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.02}, None),
    (
        "all_together",
        {
            "do_sample": True, "sequence_bias": [[[6], 1.0]], "repetition_penalty": 1.1, "no_repeat_ngram_size": 2,
            "bad_words_ids": [[12]], "min_new_tokens": 9, "suppress_tokens": [15], "temperature": 1.4, "top_h": 0.9,
            "top_k": 9, "top_p": 0.95, "min_p": 0.03, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02,
            "renormalize_logits": True,
        },
        5,
    ),
    ("one_token", {"forced_bos_token_id": 5, "begin_suppress_tokens": [5]}, "one"),
    ("one_token_begin", {"begin_suppress_tokens": [5, 2]}, "one"),
]

GREEDY = [
    ("plain", {"max_new_tokens": 12}),
    ("repetition_penalty", {"max_new_tokens": 12, "repetition_penalty": 1.5}),
    ("no_repeat_ngram_size", {"max_new_tokens": 12, "no_repeat_ngram_size": 2}),
    ("suppress", {"max_new_tokens": 12, "suppress_tokens": [35, 56], "begin_suppress_tokens": [13]}),
    ("bad_words", {"max_new_tokens": 12, "bad_words_ids": [[56, 39], [24]]}),
    ("eos_list", {"max_new_tokens": 12, "eos_token_id": [39, 24, 12]}),
    ("min_new_tokens", {"max_new_tokens": 12, "eos_token_id": [39, 24, 12], "min_new_tokens": 6}),
    ("max_length", {"max_length": 30}),
    ("forced_eos", {"max_new_tokens": 4, "forced_eos_token_id": 77}),
    ("decay", {"max_new_tokens": 12, "eos_token_id": [12], "exponential_decay_length_penalty": [2, 3.0]}),
    ("bias", {"max_new_tokens": 12, "sequence_bias": [[[56], -1.5], [[35, 24], 3.0]]}),
]


def processed(model, name, setting, split):
    generator = torch.Generator().manual_seed(SEED + sum(map(ord, name)))
    ids = [9, 4, 7, 2, 4, 11, 2, 9, 4]
    if split == "one":
        ids, split = [9], None
    prompt = len(ids) if split is None else split
    logits = 2 * torch.randn(1, VOCAB, generator=generator)
    given = GenerationConfig(eos_token_id=EOS, **setting)
    config, _ = model._prepare_generation_config(given)
    model._prepare_special_tokens(config, True, device="cpu", batch_size=1)
    config = model._prepare_generated_length(
        config, given.max_length is None, given.min_length is None, "input_ids", prompt, torch.tensor([ids[:prompt]])
    )
    processors = model._get_logits_processor(config, prompt, torch.tensor([ids[:prompt]]), model_kwargs={}, device="cpu")
    out = processors(torch.tensor([ids]), logits.clone())[0]
    return {
        "name": name, "config": setting, "prompt": prompt, "ids": ids, "logits": logits[0].tolist(),
        "processed": [None if math.isinf(x) and x < 0 else x for x in out.tolist()],
    }


def greedy(family, name, setting, prompt):
    model = AutoModelForCausalLM.from_pretrained(HERE.parent / "models" / family, dtype=torch.float32).eval()
    model.generation_config = GenerationConfig(**({"eos_token_id": 100} | setting))
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, output_scores=True, pad_token_id=0
    )
    leads = [(v[0] - v[1]).item() for v in (torch.topk(s[0], 2).values for s in out.scores)]
    return {
        "model": family, "name": name, "config": {"eos_token_id": 100} | setting, "prompt": prompt,
        "completion": out.sequences[0, len(prompt) :].tolist(), "smallest_lead": min(leads),
    }


def main():
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(HERE.parent / "models" / "llama")
    model.generation_config = GenerationConfig()
    rows = [processed(model, *case) for case in PROCESSED]
    runs = []
    for family in ["gpt2", "llama", "gpt_neox"]:
        prompt = json.loads((HERE / f"{family}.json").read_text())["generations"][0]["prompt"]
        runs += [greedy(family, name, setting, prompt) for name, setting in GREEDY]
    for run in runs:
        assert run["smallest_lead"] > 1e-3, run
    value = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "command": COMMAND, "seed": SEED, "vocabulary": VOCAB, "eos_token_id": EOS,
        "processed": rows, "greedy": runs,
    }
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda m: "[" + ", ".join(m.group(0)[1:-1].split()).replace(",,", ",") + "]", text)
    (HERE / "processors.json").write_text(text + "\n")


main()
