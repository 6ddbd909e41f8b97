"""Goldens of optimizers and schedules: PyTorch's and transformers' own, in float64.

Optimizers step from the weights of `parity/models/gpt2` with gradients that both sides compute from one formula.
Stored are two numbers for each parameter and step: the sum of squares and the sum of p[i] * cos(i). Lion is in
neither package; `Lion` below is algorithm 2 of arXiv 2302.06675, line by line.

    python parity/train/generate.py
"""

import json
import platform
from pathlib import Path

import numpy
import safetensors.numpy
import torch
import transformers
from transformers.optimization import Adafactor, get_scheduler

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "models" / "gpt2" / "model.safetensors"
STEPS = 6
SETTINGS = {"learning_rate": 2e-3, "weight_decay": 0.1, "max_step_scale": 0.5}


class Lion(torch.optim.Optimizer):
    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (torch.sign(update) + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


def gradient(number, step, shape):
    """Of the parameter with this number (by sorted name) in this step, in the checkpoint's orientation."""
    i = numpy.arange(int(numpy.prod(shape)), dtype=numpy.float64)
    values = 0.01 * numpy.sin(0.7 * i + 1.3 * number + 0.9 * step) * (1 + numpy.cos(0.03 * i + step))
    return torch.from_numpy(values.reshape(shape))


def decays(name):
    return not (name.endswith(".bias") or ".ln_" in name)


OPTIMIZERS = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-8),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr),
    "sgd_momentum": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "adafactor": lambda groups, lr: Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False),
    "lion": lambda groups, lr: Lion(groups, lr=lr, betas=(0.9, 0.99)),
}


def trajectory(make):
    weights = safetensors.numpy.load_file(MODEL)
    names = sorted(weights)
    params = {n: torch.nn.Parameter(torch.from_numpy(weights[n].astype(numpy.float64))) for n in names}
    groups = [
        {"params": [params[n] for n in names if decays(n)], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [params[n] for n in names if not decays(n)], "weight_decay": 0.0},
    ]
    optimizer = make(groups, SETTINGS["learning_rate"])
    steps = []
    for step in range(STEPS):
        # A rate that changes and a clipping factor, as in a run.
        rate = SETTINGS["learning_rate"] * (1 - step / STEPS)
        scale = SETTINGS["max_step_scale"] if step % 2 else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate
        for number, name in enumerate(names):
            params[name].grad = scale * gradient(number, step, params[name].shape)
        optimizer.step()
        found = {}
        for name in names:
            flat = params[name].detach().reshape(-1)
            cosines = torch.cos(torch.arange(len(flat), dtype=torch.float64))
            found[name] = [float(flat @ flat), float(flat @ cosines)]
        steps.append({"rate": rate, "scale": scale, "parameters": found})
    return steps


SCHEDULES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.25, "num_cycles": 1}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 2e-4, "warmup_lr_rate": 0.2}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-5, "power": 2}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("warmup_stable_decay", {"num_decay_steps": 3}),
    ("warmup_stable_decay", {"num_decay_steps": 6, "decay_type": "linear", "min_lr_ratio": 0.1}),
    (
        "warmup_stable_decay",
        {"num_decay_steps": 5, "num_stable_steps": 4, "decay_type": "1-sqrt", "warmup_type": "cosine"},
    ),
    ("warmup_stable_decay", {"num_decay_steps": 5, "warmup_type": "1-sqrt", "num_cycles": 1.5}),
]


def rates(name, kwargs, peak, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=dict(kwargs))
    found = []
    for _ in range(total + 2):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def main():
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "command": "python parity/train/generate.py",
    }
    optimizers = {
        "versions": versions,
        "settings": SETTINGS,
        "optimizers": {name: trajectory(make) for name, make in OPTIMIZERS.items()},
    }
    (HERE / "optimizers.json").write_text(json.dumps(optimizers) + "\n")
    cases = []
    for warmup, total in [(4, 20), (0, 13), (1, 7)]:
        for name, kwargs in SCHEDULES:
            case = {"name": name, "kwargs": kwargs, "peak": 1e-3, "warmup": warmup, "total": total}
            case["rates"] = rates(name, kwargs, 1e-3, warmup, total)
            cases.append(case)
    (HERE / "schedules.json").write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")


main()
