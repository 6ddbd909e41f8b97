"""The workloads of `bench/run` and the aims that stand beside their results.

A training workload is DPO in float32 with AdamW, a linear schedule without warm-up, clipping at 1.0, the pairs in order. `aims` are upper
bounds on Unbraid's share of a peer (`trl`: as installed, `best`: the quickest arm of TRL) and on its multiple of the floor
(`floor.py`); they are the project's own and printed whether met or not.
"""

from dataclasses import dataclass, field

BETA = 0.1
SEED = 42
LORA_RANK = 16
MEMORY_AIM = 1 / 5
FLOOR_AIM = 1.4
FULL = {"trl": 1 / 10, "best": 1 / 4}
LORA = {"trl": 1 / 12, "best": 1 / 5}
LONG = {"trl": 1 / 12, "best": 1 / 6}
# the project names no aim for these
NONE = {"trl": None, "best": None}


@dataclass(frozen=True)
class Workload:
    """One row of work; `kind` is train, diagnose, heatmap, score or generate."""

    name: str
    title: str
    kind: str
    data: str  # hh, tweets or long
    model: str = "given"  # or gpt2: GPT-2 small's shape with random weights
    batch: int = 4
    max_length: int = 512
    lora: int | None = None
    learning_rate: float = 1e-6
    count: int = 0  # pairs or prompts of a workload that is no training
    aims: dict = field(default_factory=dict)
    compiled: bool = False  # whether the arm with torch.compile belongs to the default ones


def train(name, title, data, aims, **more):
    return Workload(name, title, "train", data, aims=aims, **more)


WORKLOADS = [
    train("full", "full, HH pairs", "hh", FULL, compiled=True),
    train("lora", "LoRA r 16, HH pairs", "hh", LORA, lora=LORA_RANK, learning_rate=5e-5),
    train("long", "full, long shared prompts (400 + 40)", "long", LONG),
    train("long-lora", "LoRA r 16, long shared prompts", "long", LONG, lora=LORA_RANK, learning_rate=5e-5),
    train("short", "full, short pairs (tweets)", "tweets", NONE, batch=8),
    train("gpt2", "full, GPT-2 small's shape, HH pairs", "hh", NONE, model="gpt2"),
    Workload("diagnose", "diagnose, HH pairs", "diagnose", "hh", count=4),
    Workload("heatmap", "heat map of 30 + 30 tokens", "heatmap", "hh", count=1),
    Workload("score", "score 200 HH pairs", "score", "hh", count=200),
    Workload("generate", "generate, 4 prompts, 64 tokens each", "generate", "hh", count=4),
]  # fmt: skip
HEAT_TOKENS = 30
HEAT_KEEP = 4
NEW_TOKENS = 64

ARMS = ("trl", "trl-best", "trl-compile", "torch", "torch-best", "unbraid")
TRAIN_ARMS = ("trl", "trl-best", "trl-compile", "unbraid")
OTHER_ARMS = ("torch", "torch-best", "unbraid")


def arms_of(workload, wanted, default):
    """The arms to run for a workload; torch.compile by default only where it belongs to the plan."""
    arms = TRAIN_ARMS if workload.kind == "train" else OTHER_ARMS
    return [arm for arm in arms if arm in wanted and not (default and arm == "trl-compile" and not workload.compiled)]
