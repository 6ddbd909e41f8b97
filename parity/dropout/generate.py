"""Writes golden.json: what dropout does to the loss of the tiny models, as numbers that do not depend on the random stream.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python parity/dropout/generate.py

Each case is a model of parity/models with dropout in its configuration. The model is put in training mode, and the mean
negative log-likelihood of one sequence of 12 tokens is taken for 4000 seeds. Masks of two programs cannot be equal; mean
and standard deviation of the loss over masks must be.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"
SEEDS = 4000
CASES = [
    ("gpt2", {"embd_pdrop": 0.3, "attn_pdrop": 0.0, "resid_pdrop": 0.0}),
    ("gpt2", {"embd_pdrop": 0.0, "attn_pdrop": 0.4, "resid_pdrop": 0.0}),
    ("gpt2", {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.3}),
    ("gpt2", {}),  # 0.1 each: the defaults, which its config.json writes out
    ("gpt_neox", {"hidden_dropout": 0.2}),
    ("gpt_neox", {"attention_dropout": 0.4}),
    ("gpt_neox_sequential", {"hidden_dropout": 0.2, "attention_dropout": 0.3}),
    ("llama", {"attention_dropout": 0.4}),
    ("mistral", {"attention_dropout": 0.4}),
    ("qwen2", {"attention_dropout": 0.4}),
    ("qwen3", {"attention_dropout": 0.4}),
    ("gemma2", {"attention_dropout": 0.4}),
]


def losses(name, changes):
    config = AutoConfig.from_pretrained(MODELS / name)
    for key, value in changes.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, config=config, attn_implementation="eager", dtype=torch.float32)
    ids = torch.tensor([[(i * 37 + 5) % 101 for i in range(12)]])

    def loss():
        logits = model(input_ids=ids).logits[0, :-1].double()
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()

    model.eval()
    with torch.no_grad():
        plain = loss()
        model.train()
        drawn = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            drawn.append(loss())
    drawn = torch.tensor(drawn, dtype=torch.float64)
    return {
        "model": name, "changes": changes, "without": plain,
        "mean": drawn.mean().item(), "standard_deviation": drawn.std().item(),
    }


def main():
    golden = {
        "command": "python parity/dropout/generate.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "seeds": SEEDS,
        "cases": [losses(name, changes) for name, changes in CASES],
    }
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


main()
