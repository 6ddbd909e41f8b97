"""Orders of rows in mixtures, as TRL and alignment-handbook make them.

Run with datasets 5.2.0, trl 1.16.0, numpy 2.4.6:  HF_HUB_OFFLINE=1 python generate.py > expected.json
The files are a.jsonl (10 rows) and b.jsonl (7 rows) of {"prompt": "a0", "chosen": " c", "rejected": " r"}.
The handbook's two functions are written out from their description: shuffle, select, concatenate, shuffle, split.
"""
import json, os, sys, tempfile

import datasets, numpy, trl
from trl.scripts.utils import DatasetConfig, DatasetMixtureConfig, get_dataset

datasets.disable_progress_bars()
tmp = tempfile.mkdtemp()
for name, rows in (("a", 10), ("b", 7)):
    with open(f"{tmp}/{name}.jsonl", "w") as file:
        for i in range(rows):
            file.write(json.dumps({"prompt": f"{name}{i}", "chosen": " c", "rejected": " r"}) + "\n")


def part(name, **more):
    return DatasetConfig(path="json", data_files=f"{tmp}/{name}.jsonl", **more)


def load(name):
    return datasets.load_dataset("json", data_files=f"{tmp}/{name}.jsonl", split="train", cache_dir=tmp)


def trl_rows(parts, split="train"):
    return get_dataset(DatasetMixtureConfig(datasets=parts))[split]["prompt"][:]


def handbook(weights, seed, test):
    parts = []
    for name, weight in zip("ab", weights):
        rows = load(name)
        if weight is not None:
            rows = rows.shuffle(seed=seed).select(range(int(len(rows) * weight)))
        parts.append(rows)
    rows = datasets.concatenate_datasets(parts).shuffle(seed=seed)
    if test is None:
        return {"train": rows["prompt"][:]}
    both = rows.train_test_split(test_size=test, seed=seed)
    return {split: both[split]["prompt"][:] for split in ("train", "test")}


def mixer(fractions):
    loaded = [load(name) for name in "ab"]
    train = [rows.select(range(int(f * len(rows)))) for rows, f in zip(loaded, fractions)]
    return {
        "train": datasets.concatenate_datasets(train).shuffle(seed=42)["prompt"][:],
        "test": datasets.concatenate_datasets(loaded).shuffle(seed=42)["prompt"][:],
    }


together = datasets.concatenate_datasets([load("a"), load("b")])
split = {}
for seed, size in ((42, 0.25), (3, 5)):
    both = together.train_test_split(test_size=size, seed=seed)
    split[f"{seed}"] = {side: both[side]["prompt"][:] for side in ("train", "test")}
print(json.dumps({
    "versions": {"datasets": datasets.__version__, "trl": trl.__version__, "numpy": numpy.__version__},
    "concatenated": trl_rows([part("a"), part("b")]),
    "fractions_half": trl_rows([part("a", fraction=0.5), part("b", fraction=0.5)]),
    "fractions_third": trl_rows([part("a", fraction=1.0), part("b", fraction=2.0)]),
    "fractions_zero": trl_rows([part("a", fraction=0.3), part("b", fraction=0.0)]),
    "split": split,
    "handbook": handbook([0.5, 1.0], 7, None),
    "handbook_split": handbook([1.0, None], 0, 0.2),
    "mixer": mixer([0.6, 0.5]),
}, indent=0))
