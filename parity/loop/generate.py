"""What TRL's trainers log, evaluate and save over whole runs, on the demo's model: golden.json, or a comparison.

    pip install torch==2.15.0 transformers==5.23.0 trl==1.16.0 peft==0.21.2
    python parity/loop/generate.py                       writes the rows of every case to golden.json
    python parity/loop/generate.py --compare UNBRAID     runs UNBRAID beside TRL instead, on these and on further cases

Batches, accumulation and evaluation batches do not divide the data, so that a mean over steps, one over micro-batches and one over
examples are three numbers; windows of logging hold several steps. A case is unbraid's options by TRL's names; both programs get
the same. Data: the first rows of the demo's pairs, also taken apart into judged completions. `crates/unbraid/tests/trl_loop.rs`
runs the cases and compares.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent.parent / "demo"
COMMON = {
    "learning_rate": 1e-3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 3,
    "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no", "max_steps": 5,
    "train_sampling_strategy": "sequential", "max_length": 64,
}
# name: (command, trainer, options beside COMMON)
CASES = {
    "dpo": ("train", "dpo", {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}),
    "dpo_epochs": ("train", "dpo", {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 4, "logging_steps": 3}),
    "ld": ("train", "dpo", {"ld_alpha": 0.4}),
    "sft_loss": ("train", "dpo", {"loss_type": "sft"}),
    "aot": ("train", "dpo", {"loss_type": "aot"}),
    "weighted": ("train", "dpo", {"loss_type": "sigmoid,sft", "loss_weights": "1,0.5"}),
    "kto": ("train", "kto", {"loss_type": "kto"}),
    "sft": ("sft", "sft", {}),
}
# By hand only: more objectives and shapes of batches.
MORE = {
    "ipo": ("train", "dpo", {"loss_type": "ipo", "logging_steps": 1}),
    "exo": ("train", "dpo", {"loss_type": "exo_pair", "label_smoothing": 1e-3, "per_device_train_batch_size": 4}),
    "robust": ("train", "dpo", {"loss_type": "robust", "label_smoothing": 0.1, "gradient_accumulation_steps": 4}),
    "bco": ("train", "dpo", {"loss_type": "bco_pair", "per_device_eval_batch_size": 2}),
    "hinge_js": ("train", "dpo", {"loss_type": "hinge", "f_divergence_type": "js_divergence"}),
    "wpo": ("train", "dpo", {"use_weighting": True}),
    "aot_unpaired": ("train", "dpo", {"loss_type": "aot_unpaired", "per_device_train_batch_size": 5}),
    "kto_eval": ("train", "kto", {"loss_type": "kto", "per_device_train_batch_size": 4, "per_device_eval_batch_size": 5}),
    "cpo": ("train", "cpo", {"loss_type": "cpo", "beta": 0.1, "cpo_alpha": 1.0}),
    "simpo": ("train", "cpo", {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 0.5}),
    "orpo": ("train", "orpo", {"loss_type": "orpo", "beta": 0.1}),
    "sft_small": ("sft", "sft", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "logging_steps": 1}),
    "sft_epochs": ("sft", "sft", {"eval_strategy": "epoch", "max_steps": 4}),
}
# Where the two differ on purpose (docs/src/trl.md, `unbraid objectives`).
KNOWN = {"orpo": "TRL's likelihood term also runs over the prompt's tokens"}
# Rows that both programs have. TRL's CPO and ORPO log mean log-probs where their loss compares means.
KEYS = {
    "dpo": ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"],
    "kto": ["loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"],
    "sft": ["loss"],
    "cpo": ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"],
    "orpo": ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"],
}
TRAINERS = {
    "dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer), "sft": (SFTConfig, SFTTrainer),
    "cpo": (CPOConfig, CPOTrainer), "orpo": (ORPOConfig, ORPOTrainer),
}


def rows_of(kind, file, count):
    pairs = [json.loads(line) for line in open(DEMO / file)][:count]
    if kind == "kto":
        # Likes and dislikes in turn, two in a row now and then, so that some batches hold one kind alone.
        liked = [i % 3 != 1 for i in range(len(pairs))]
        return [{"prompt": p["prompt"], "completion": p["chosen" if like else "rejected"], "label": like}
                for p, like in zip(pairs, liked)]
    if kind == "sft":
        return [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]
    return [{key: p[key] for key in ("prompt", "chosen", "rejected")} for p in pairs]


def data(kind):
    return rows_of(kind, "preferences.jsonl", 14), rows_of(kind, "preferences-test.jsonl", 7)


def by_trl(kind, options, out):
    config, trainer = TRAINERS[kind]
    options = dict(options)
    for key, number in (("loss_type", str), ("loss_weights", float)):
        if kind == "dpo" and key in options:
            options[key] = [number(word) for word in options[key].split(",")]
    if kind in ("cpo", "orpo"):
        if options.get("loss_type") in ("cpo", "orpo"):
            del options["loss_type"]
    args = config(output_dir=str(out), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
                  disable_tqdm=True, seed=42, **options)
    # TRL's DPO and KTO read the reference from where the policy came.
    model = AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    train, held_out = data(kind)
    made = trainer(model=model, args=args, train_dataset=Dataset.from_list(train), eval_dataset=Dataset.from_list(held_out),
                   processing_class=tokenizer)
    made.train()
    rows = []
    for row in made.state.log_history:
        prefix = "eval_" if "eval_loss" in row else ""
        if prefix + "loss" not in row:
            continue
        values = {key: row[prefix + key] for key in KEYS[kind] if prefix + key in row}
        rows.append({"step": row["step"], "epoch": row["epoch"], "eval": bool(prefix), "values": values})
    steps = sorted(int(path.name.split("-")[1]) for path in Path(out).glob("checkpoint-*"))
    best = made.state.best_global_step if options.get("load_best_model_at_end") else None
    return {"rows": rows, "checkpoints": steps, "best": best}


def words(command, options, train, held_out, out):
    given = {"model_name_or_path": DEMO / "model", "dataset_name": train, "eval_dataset": held_out, "output_dir": out,
             "dtype": "float32", "threads": 1, "geometry": "off", "seed": 42} | options
    return [command] + [word for key, value in given.items()
                        for word in ("--" + key, str(value).lower() if isinstance(value, bool) else str(value))]


def by_unbraid(binary, command, kind, options, out):
    files = []
    for name, rows in zip(("train", "eval"), data(kind)):
        files.append(Path(out) / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Path(out) / "run"
    subprocess.run([binary] + words(command, options, *files, run), check=True, stderr=subprocess.PIPE)
    rows = [json.loads(line) for line in open(run / "metrics.jsonl")]
    steps = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    best = json.load(open(run / "trainer_state.json"))["best_global_step"] if options.get("load_best_model_at_end") else None
    return rows, steps, best


def compare(binary, names):
    wrong = 0
    for name, (command, kind, options) in (CASES | MORE).items():
        if names and name not in names:
            continue
        options = COMMON | options
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            wanted, (rows, steps, best) = by_trl(kind, options, a), by_unbraid(binary, command, kind, options, b)
        worst, bad = 0.0, []
        for want in wanted["rows"]:
            prefix = "eval_" if want["eval"] else ""
            row = next((r for r in rows if r["step"] == want["step"] and prefix + "loss" in r), {})
            values = {prefix + key: value for key, value in want["values"].items()} | {"epoch": want["epoch"]}
            for key, value in values.items():
                error = abs(row.get(key, float("inf")) - value) / (1 + abs(value))
                worst = max(worst, error)
                if not error < 2e-4:
                    bad.append(f"step {want['step']} {key}: {row.get(key)}, TRL {value}")
        if (steps, best) != (wanted["checkpoints"], wanted["best"]):
            bad.append(f"checkpoints {steps} (best {best}), TRL {wanted['checkpoints']} ({wanted['best']})")
        if bad and name in KNOWN:
            print(f"{name:14} differs as documented: {KNOWN[name]}")
            continue
        print(f"{name:14} {'DIFFERENT' if bad else 'equal':9} worst {worst:.1e}", *bad, sep="\n    ")
        wrong += bool(bad)
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", metavar="UNBRAID")
    parser.add_argument("cases", nargs="*")
    given = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    if given.compare:
        sys.exit(compare(given.compare, given.cases))
    golden = {
        "command": "python parity/loop/generate.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "data": {kind: dict(zip(("train", "eval"), data(kind))) for kind in ("kto", "sft", "dpo")},
        "cases": [],
    }
    for name, (command, kind, options) in CASES.items():
        options = COMMON | options
        with tempfile.TemporaryDirectory() as out:
            golden["cases"].append({"name": name, "command": command, "data": kind, "options": options} | by_trl(kind, options, out))
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


main()
