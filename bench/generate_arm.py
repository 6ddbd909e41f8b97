"""The generating arm of `bench/run` in its own process: greedy continuation by transformers with its key/value cache.

    python bench/generate_arm.py settings.json result.json

One prompt after the other, as `unbraid generate` does. The clock runs around `generate` for all prompts, once for one new token and once for
`new_tokens`; the difference is what the later tokens cost.
"""

import json
import sys
import time


def main(settings_path, result_path):
    settings = json.load(open(settings_path))
    import torch
    import transformers

    torch.set_num_threads(settings["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    with open(settings["pairs"], encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines][: settings["count"]]
    ids = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]

    def run(new_tokens):
        started = time.perf_counter()
        tokens = []
        with torch.inference_mode():
            for prompt in ids:
                out = model.generate(**prompt, max_new_tokens=new_tokens, do_sample=False, use_cache=True, pad_token_id=0)
                tokens.append(out[0, prompt["input_ids"].shape[1] :].tolist())
        return tokens, time.perf_counter() - started

    run(2)  # the first call pays for what later ones find ready
    _, first = run(1)
    tokens, whole = run(settings["new_tokens"])
    end = tokenizer.eos_token_id
    result = {
        "own_seconds": whole,
        "first_seconds": first,
        # the end token is no part of the text
        "tokens": [row[:-1] if row and row[-1] == end else row for row in tokens],
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }
    json.dump(result, open(result_path, "w"))


if __name__ == "__main__":
    main(*sys.argv[1:])
