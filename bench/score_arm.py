"""The scoring arm of `bench/run` in its own process: log-probs of pairs by transformers.

    python bench/score_arm.py settings.json result.json

Batched forward passes over sequences of similar length, logits at the completion's rows only (`score_check.py`, which compares one
by one and says which rows differ). The clock runs from tokenised sequences to sums, without loading.
"""

import json
import sys
import time

from make_hh_pairs import read_pairs
from score_check import batches, score, tokenize


def main(settings_path, result_path):
    settings = json.load(open(settings_path))
    import torch
    import transformers

    torch.set_num_threads(settings["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    started = time.perf_counter()
    sequences = []
    for index, prompt, chosen, rejected in read_pairs(settings["pairs"]):
        if index == settings["count"]:
            break
        encoded = tokenize(tokenizer, prompt, (chosen, rejected), settings["max_length"])
        sequences += [((index, side), ids, start) for side, (ids, start) in zip(("chosen", "rejected"), encoded)]
    logps = [{} for _ in range(settings["count"])]
    for group in batches(sequences, settings["batch_tokens"]):
        for ((index, side), _, _), value in zip(group, score(model, group)):
            logps[index][side] = value
    result = {
        "own_seconds": time.perf_counter() - started,
        "logps": logps,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }
    json.dump(result, open(result_path, "w"))


if __name__ == "__main__":
    main(*sys.argv[1:])
