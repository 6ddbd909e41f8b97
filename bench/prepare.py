"""Writes what the arms of `bench/run` are given: pairs, models, the start of adapters; and counts what each step must do.

    bench/venv/bin/python bench/prepare.py settings.json

For every workload `<work>/<name>/pairs.jsonl` holds exactly the pairs that are used, none of which any program drops;
`<work>/<name>/facts.json` the rows and floating-point operations of each step (`floor.py`). Everything follows from the inputs alone.
"""

import itertools
import json
import sys
from pathlib import Path

from floor import Shape, step_cost
from make_hh_pairs import MARK, read_pairs
from make_style_pairs import sentiment
from score_check import tokenize

LONG_PROMPT, LONG_COMPLETION = 400, 40
TWEET_STYLE = "short-suffix"


def hh(settings, _tokenizer):
    for _, prompt, chosen, rejected in read_pairs(settings["data"]):
        yield prompt, chosen, rejected


def tweets(settings, _tokenizer):
    for row in sentiment(settings["tweets"], TWEET_STYLE):
        yield row["prompt"], row["chosen"], row["rejected"]


def cut(tokenizer, texts, wanted):
    """Text of about `wanted` tokens: as many of `texts` as it takes, the last cut between words."""
    text = ""
    for part in texts:
        text += part
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= wanted:
            text = tokenizer.decode(ids[:wanted])
            return text[: text.rfind(" ")] if " " in text else text
    return None


def long(settings, tokenizer):
    """Long shared prompts made of transcripts: the prompts of several pairs end to end, answers cut to one length."""
    rows = hh(settings, tokenizer)
    mark = len(tokenizer(MARK, add_special_tokens=False)["input_ids"])
    while True:
        group = list(itertools.islice(rows, 12))
        if len(group) < 12:
            return
        prompt = cut(tokenizer, (p for p, _, _ in group), LONG_PROMPT - mark)
        # the end-of-text token is the last of a completion
        chosen = cut(tokenizer, (c for _, c, _ in group), LONG_COMPLETION - 1)
        rejected = cut(tokenizer, (r for _, _, r in group), LONG_COMPLETION - 1)
        if prompt and chosen and rejected:
            yield prompt + MARK, chosen, rejected


SOURCES = {"hh": hh, "tweets": tweets, "long": long}


def gpt2_shape(settings, folder):
    """GPT-2 small with random weights, seed 0, and the tokenizer that the user gives or the model's own."""
    import torch
    import transformers

    if (folder / "model.safetensors").exists():
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["gpt2_tokenizer"] or settings["model"])
    end = tokenizer.eos_token_id
    config = transformers.GPT2Config(
        vocab_size=max(len(tokenizer), 50257 if settings["gpt2_tokenizer"] else 0), bos_token_id=end, eos_token_id=end,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapter_start(model, rank, folder):
    """An adapter on all linear maps as PEFT draws it, seed 0: every arm trains it on from the same numbers."""
    import peft
    import torch
    import transformers

    if (folder / "adapter_model.safetensors").exists():
        return
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    peft.get_peft_model(base, config).save_pretrained(folder)


def main(path):
    settings = json.loads(Path(path).read_text())
    import transformers

    work = Path(settings["work"])
    tokenizers = {}
    for job in settings["jobs"]:
        folder = work / job["name"]
        folder.mkdir(parents=True, exist_ok=True)
        model = settings["model"]
        if job["model"] == "gpt2":
            gpt2_shape(settings, work / "gpt2-shape")
            model = str(work / "gpt2-shape")
        if model not in tokenizers:
            tokenizers[model] = transformers.AutoTokenizer.from_pretrained(model)
        tokenizer = tokenizers[model]
        kept, encoded = [], []
        for prompt, chosen, rejected in SOURCES[job["data"]](settings, tokenizer):
            if len(kept) == job["pairs"]:
                break
            sequences = tokenize(tokenizer, prompt, (chosen, rejected), job["max_length"])
            # the completions must differ: a pair of equal ones moves nothing
            if sequences is None or sequences[0][0] == sequences[1][0]:
                continue
            if min(len(ids) - start for ids, start in sequences) < job["least"]:
                continue
            kept.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
            encoded.append(sequences)
        if len(kept) < job["pairs"]:
            raise SystemExit(f"{job['name']}: the data has {len(kept)} usable pairs, {job['pairs']} are needed")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
        if job["lora"]:
            adapter_start(model, job["lora"], folder / "adapter")
        config = json.loads((Path(model) / "config.json").read_text())
        shape = Shape.of(config)
        batches = [encoded[i : i + job["batch"]] for i in range(0, len(encoded), job["batch"])]
        facts = {"model": model, "steps": [step_cost(shape, batch, job["lora"]) for batch in batches]}
        (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
