"""Five optimizer steps in PyTorch, float64: transformers' Adafactor as its Trainer calls it, and Lion.

    python parity/optim/generate.py        # torch 2.15.0, transformers 5.23.0; writes golden.json beside this file

Start values and gradients are rounded to float32, so that a float32 implementation begins from the same numbers.
Gradients grow over the steps and one row of the matrix has none in step 2, so that clipping and the floor count.
"""

import json
import pathlib

import torch
import transformers
from transformers.optimization import Adafactor

SEED = 20
STEPS = 5


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p.copy_(p - lr * (update + group["weight_decay"] * p))
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


def draw(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float32).double()


def case(name, shape, hyper, generator):
    p = torch.nn.Parameter(draw(shape, generator))
    out = {"name": name, "shape": list(shape), "hyper": hyper, "param": p.detach().flatten().tolist(), "steps": []}
    if name == "adafactor":
        optimizer = Adafactor([p], scale_parameter=False, relative_step=False, **hyper)
    else:
        optimizer = Lion([p], **hyper)
    for step in range(STEPS):
        p.grad = draw(shape, generator) * 2.0 ** (2 * step - 6)
        if step == 1:
            p.grad[0] = 0.0
        optimizer.step()
        out["steps"].append({"grad": p.grad.flatten().tolist(), "param": p.detach().flatten().tolist()})
    return out


def main():
    generator = torch.Generator().manual_seed(SEED)
    cases = []
    for shape in [(4, 6), (5,)]:
        for decay in [0.0, 0.1]:
            cases.append(case("adafactor", shape, {"lr": 0.05, "weight_decay": decay}, generator))
            cases.append(case("lion", shape, {"lr": 0.01, "weight_decay": decay, "betas": [0.9, 0.99]}, generator))
    golden = {
        "command": "python parity/optim/generate.py",
        "seed": SEED,
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "cases": cases,
    }
    path = pathlib.Path(__file__).parent / "golden.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
