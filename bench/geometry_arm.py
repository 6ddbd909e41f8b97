"""Gradient geometry the straightforward way, in PyTorch: an arm of `bench/run` in its own process.

    python bench/geometry_arm.py settings.json result.json

Pairs: for each completion one forward and one backward pass at batch 1, the gradient of its summed log-prob
flattened into one vector; then two norms and an inner product. Heat map: one forward pass for each completion, one backward pass
for each of its tokens, every gradient flattened. The tokens' gradients of a real model do not fit into memory together
(0.5 GB each at 135 M parameters), so the inner products are taken of the first `keep` tokens only and the other gradients are
dropped after flattening: this flatters the peer, whose products would come on top.
"""

import json
import resource
import sys
import time

from make_hh_pairs import read_pairs
from score_check import tokenize


def main():
    import torch
    import transformers

    settings = json.load(open(sys.argv[1]))
    torch.set_num_threads(settings["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def token_logps(ids, start):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, start - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(ids[start:]).unsqueeze(1)).squeeze(1)

    def flat(scalar, retain=False):
        gradients = torch.autograd.grad(scalar, parameters, retain_graph=retain)
        return torch.cat([g.reshape(-1) for g in gradients])

    def inner(x, y):
        # pieces: one long f32 sum would lose digits
        return sum((a.double() @ b.double()).item() for a, b in zip(x.split(1 << 22), y.split(1 << 22)))

    # the heat map is of the first pair alone
    wanted = 1 if settings["heat"] else settings["pairs"]
    encoded = []
    for index, prompt, chosen, rejected in read_pairs(settings["data"]):
        if len(encoded) == wanted:
            break
        sequences = tokenize(tokenizer, prompt, (chosen, rejected), settings["max_length"])
        if sequences is not None:
            encoded.append((index, sequences))

    rows = []
    for index, sequences in encoded[: settings["pairs"]]:
        started = time.perf_counter()
        w, l = (flat(token_logps(ids, start).sum()) for ids, start in sequences)
        row = {"index": index, "grad_sq_chosen": inner(w, w), "grad_sq_rejected": inner(l, l), "grad_inner": inner(w, l)}
        row["seconds"] = time.perf_counter() - started
        row["tokens"] = sum(len(ids) for ids, _ in sequences)
        rows.append(row)
        del w, l

    heat = None
    if settings["heat"]:
        index, sequences = encoded[0]
        keep, shown = settings["keep"], settings["heat_tokens"]
        started = time.perf_counter()
        kept = []
        lengths = []
        for ids, start in sequences:
            ids = ids[: start + shown]
            logps = token_logps(ids, start)
            lengths.append(len(logps))
            side = []
            for t in range(len(logps)):
                gradient = flat(logps[t], retain=True)
                if t < keep:
                    side.append(gradient)
                del gradient
            kept.append(side)
        seconds = time.perf_counter() - started
        chosen, rejected = kept
        norms = [[inner(g, g) ** 0.5 for g in side] for side in kept]
        cosine = [[inner(x, y) / (norms[0][i] * norms[1][j]) for j, y in enumerate(rejected)] for i, x in enumerate(chosen)]
        heat = {"index": index, "seconds": seconds, "tokens": lengths, "prompt": sequences[0][1], "cosine": cosine}

    result = {
        "rows": rows,
        "heat": heat,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    json.dump(result, open(sys.argv[2], "w"))


if __name__ == "__main__":
    main()
