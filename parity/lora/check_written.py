"""Whatever `unbraid train` writes opens in PEFT and in transformers with equal log-probs: checked by hand.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.0 safetensors==0.8.0
    cargo build && python parity/lora/check_written.py target/debug/unbraid [FAMILY…]

For each tiny model of `../models` and each kind of adapter: `unbraid train` a few steps, `unbraid score` the result, open it in
PEFT (a whole model in transformers), and compare the log-probs of every pair and the names that the peers miss. The tokenizer
is one of single letters.
"""

import json
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors import safe_open

MODELS = Path(__file__).resolve().parent.parent / "models"
FAMILIES = ["gpt2", "llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox", "gpt_neox_sequential"]
NAMES = {  # a linear map, the table, a norm by its end
    "gpt2": ("c_attn", "wte", "ln_f"),
    "gpt_neox": ("query_key_value", "embed_in", "layernorm"),
    "gpt_neox_sequential": ("query_key_value", "embed_in", "layernorm"),
}


def kinds(family):
    linear, table, norm = NAMES.get(family, ("q_proj", "embed_tokens", "norm"))
    return {
        "whole": None,
        "default": [],
        "all-linear": ["--lora-target-modules", "all-linear"],
        "pattern": ["--lora-target-modules", rf".*\.({linear}|no_such)"],
        "rslora": ["--lora-target-modules", linear, "--use-rslora", "true"],
        "head": ["--lora-target-modules", linear, "lm_head"],
        "tables": ["--lora-target-modules", table, "lm_head"],
        "saved head": ["--lora-modules-to-save", "lm_head"],
        "saved table and norms": ["--lora-modules-to-save", table, norm],
    }


def tokenizer(folder):
    """Single letters, one id each."""
    letters = [chr(c) for c in range(32, 127)]
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"<unk>": 95, "<eos>": 96}
    special = [{"id": 96, "content": "<eos>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}]
    made = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(made))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def rows(folder):
    draw = random.Random(3)
    word = lambda n: "".join(draw.choice("abcdefg hij") for _ in range(n))
    data = [{"prompt": word(9), "chosen": word(7), "rejected": word(5)} for _ in range(6)]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path, data


def logps(model, ids, start):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return sum(logits[i - 1, ids[i]].item() for i in range(start, len(ids)))


def opened(base, out):
    """The model as the peers open it, and what they miss."""
    if not (out / "adapter_config.json").exists():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
        return model.eval(), sorted(info["missing_keys"])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, out).eval()
    with safe_open(out / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    own = {name.replace(".default", "").replace(".modules_to_save", "") for name in model.state_dict()}
    own = {name.replace(".base_layer", "") for name in own} | own
    missed = sorted(names - own) + [str(w.message)[:80] for w in said if "missing" in str(w.message).lower()]
    return model, missed


def check(binary, base, kind, options, data, texts, folder):
    out, scores = folder / "out", folder / "scores"
    run = [binary, "train", "--model-name-or-path", base, "--dataset-name", data, "--output-dir", out, "--max-steps", "3",
           "--learning-rate", "1e-2", "--geometry", "off", "--save-strategy", "no", "--report-to", "none",
           "--per-device-train-batch-size", "3"]  # fmt: skip
    if options is not None:
        run += ["--use-peft", "true", "--lora-r", "3", "--lora-dropout", "0", *options]
    subprocess.run(run, check=True, capture_output=True)
    score = [binary, "score", "--model-name-or-path", out, "--dataset-name", data, "--output-dir", scores]
    if options is not None:
        score += ["--base-model", base]
    subprocess.run(score, check=True, capture_output=True)
    ours = [json.loads(line) for line in (scores / "scores.jsonl").read_text().splitlines()]
    model, missed = opened(base, out)
    # The file as it is: AutoTokenizer goes by the model's type and gives a Qwen2 model Qwen2's rules.
    words = transformers.PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), eos_token="<eos>")
    largest = 0.0
    for row, text in zip(ours, texts):
        for side in ("chosen", "rejected"):
            prompt = words(text["prompt"])["input_ids"]
            ids = prompt + words(text[side])["input_ids"] + [words.eos_token_id]
            largest = max(largest, abs(row[f"{side}_logps"] - logps(model, ids, len(prompt))))
    return largest, missed


def main():
    binary = Path(sys.argv[1]).resolve()
    transformers.logging.set_verbosity_error()
    bad = 0
    for family in sys.argv[2:] or FAMILIES:
        for kind, options in kinds(family).items():
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                base = folder / "base"
                base.mkdir()
                for name in ("config.json", "model.safetensors"):
                    (base / name).write_bytes((MODELS / family / name).read_bytes())
                tokenizer(base)
                data, texts = rows(folder)
                try:
                    largest, missed = check(binary, base, kind, options, data, texts, folder)
                except subprocess.CalledProcessError as error:
                    bad += 1
                    print(f"{family:20} {kind:24} FAILED: {error.stderr.decode()[-300:]}")
                    continue
                wrong = largest > 2e-3 or missed
                bad += bool(wrong)
                print(f"{family:20} {kind:24} largest difference {largest:.1e} {missed or ''} {'WRONG' if wrong else ''}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
