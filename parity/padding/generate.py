"""Writes the golden of the padding token: gradients of the tiny models of `../models` when `pad_token_id` occurs in the rows.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python parity/padding/generate.py

Per family and id (one that the first pair's prompt holds, also counted from the end): ‖g_w‖², ‖g_l‖², ⟨g_w, g_l⟩ of the first
pair over all parameters, and the squared norm of g_w's row of that token in the embedding, all in float64.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
import double  # noqa: E402
from generate import token_logps  # noqa: E402

FAMILIES = ["gpt2", "llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox"]


def measure(family, pair, padding):
    path = HERE.parent / "models" / family
    config = transformers.AutoConfig.from_pretrained(path)
    config.pad_token_id = padding
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, config=config, attn_implementation="eager", dtype=torch.float32
    )
    model = model.double().eval()
    trained = list(model.parameters())
    table = next(i for i, p in enumerate(trained) if p is model.get_input_embeddings().weight)
    gradients = {}
    for side in ("chosen", "rejected"):
        logps = token_logps(model, pair["prompt"], pair[side])
        gradients[side] = torch.autograd.grad(logps.sum(), trained)
    inner = lambda a, b: sum((x * y).sum().item() for x, y in zip(gradients[a], gradients[b]))
    return {
        "grad_sq_chosen": inner("chosen", "chosen"),
        "grad_sq_rejected": inner("rejected", "rejected"),
        "grad_inner": inner("chosen", "rejected"),
        "row_sq_chosen": gradients["chosen"][table][padding].pow(2).sum().item(),
    }


def main():
    double.patch()
    cases = []
    for family in FAMILIES:
        golden = json.loads((HERE.parent / "models" / family / "golden.json").read_text())
        pair = golden["pairs"][0]
        token = pair["prompt"][0]
        vocabulary = json.loads((HERE.parent / "models" / family / "config.json").read_text())["vocab_size"]
        for padding in (token, token - vocabulary):
            if padding < 0 and family in ("gpt2", "gpt_neox"):
                continue
            cases.append({"family": family, "pad_token_id": padding, "token": token} | measure(family, pair, padding))
    golden = {
        "generator": "python parity/padding/generate.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cases": cases,
    }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
