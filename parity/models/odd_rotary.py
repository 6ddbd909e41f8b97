"""Writes `gpt_neox/odd_rotary.json`: log-probs of GPT-NeoX where int(head_dim · share) is odd, in float64.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    python parity/models/odd_rotary.py

transformers then spreads one frequency more than half of that number over it and turns one dimension more.
"""

import json
from pathlib import Path

import double
import torch
import transformers
from generate import token_logps

HERE = Path(__file__).resolve().parent


def main():
    double.patch()
    path = HERE / "gpt_neox"
    pair = json.loads((path / "golden.json").read_text())["pairs"][0]
    cases = []
    for share in (0.4, 0.2, 0.875):  # of 8 dimensions: 3, 1 and 7
        config = transformers.AutoConfig.from_pretrained(path)
        config.rope_parameters["partial_rotary_factor"] = share
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=config, attn_implementation="eager", dtype=torch.float32
        )
        logps = token_logps(model.double().eval(), pair["prompt"], pair["chosen"])
        cases.append({"partial_rotary_factor": share, "chosen_token_logps": logps.tolist()})
    golden = {
        "generator": "python parity/models/odd_rotary.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cases": cases,
    }
    (path / "odd_rotary.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
