"""Runs one arm of one workload in processes of its own and gives what came out: numbers to compare, seconds, memory.

Every result has `seconds` (the whole process), `peak_rss_bytes` (the kernel's high-water mark) and `command`; training has `steps`
and `first_step` (from the start of the process to the end of the first step, the reference included), the others `own_seconds`.
"""

import json
import shlex
import subprocess
import time

import fast_mkl
from common import HERE, VENV_PYTHON, Failed, Rows, environment, options, run_child
from workloads import BETA, HEAT_KEEP, HEAT_TOKENS, NEW_TOKENS, SEED

METRICS = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "grad_norm", "learning_rate"]
# what TRL can do on a CPU to be quick; README.md says what else was tried
BEST = {"precompute_ref_log_probs": True}
COMPILED = BEST | {"torch_compile": True}
EXTRA = {"trl": {}, "trl-best": BEST, "trl-compile": COMPILED}


class Arm:
    """One arm of one workload: `folder` is scratch, `given` what `prepare.py` wrote for the workload."""

    def __init__(self, name, workload, facts, given, folder, settings):
        self.name, self.workload, self.given, self.folder = name, workload, given, folder
        self.model, self.settings = facts["model"], settings
        self.pairs = given / "pairs.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def run(self):
        if self.name == "unbraid":
            return getattr(self, f"unbraid_{self.workload.kind}")()
        return getattr(self, f"peer_{self.workload.kind}")()

    # ---- processes ----------------------------------------------------------------------------------------

    def peer(self, script, values):
        """Runs one of the peers' scripts; MKL's vendor check is answered for all arms but those as installed."""
        variables = environment(self.settings.threads)
        # nothing compiled earlier is found again: what compiling costs belongs to the run
        variables["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")
        best = self.name not in ("trl", "torch")
        if best:
            variables["LD_PRELOAD"] = str(fast_mkl.library(self.folder))
        source, target = self.folder / "settings.json", self.folder / "result.json"
        source.write_text(json.dumps(values | {"threads": self.settings.threads, "max_length": self.workload.max_length}))
        started = time.perf_counter()
        cost = run_child(
            [VENV_PYTHON, HERE / script, source, target], self.folder / "log.txt", variables,
            seconds=60 * self.settings.arm_minutes,
        )  # fmt: skip
        result = json.loads(target.read_text())
        prefix = "LD_PRELOAD=libfastmkl.so " if best else ""
        threads = f"OMP_NUM_THREADS={self.settings.threads}"
        return result | cost | {"started": started, "command": f"{prefix}{threads} python bench/{script} settings.json result.json"}

    def unbraid(self, command, values, **more):
        """Runs unbraid with a cache of its own, so that nothing is known from an earlier run."""
        words = [self.settings.unbraid, command, *options(values | {"threads": self.settings.threads})]
        variables = environment(self.settings.threads) | {"UNBRAID_CACHE": str(self.folder / "cache")}
        cost = run_child(words, self.folder / "log.txt", variables, **more)
        shown = ["unbraid", *(str(word) for word in words[1:])]
        names = {str(self.model): "MODEL", str(self.pairs): "pairs.jsonl", str(self.given / "adapter"): "ADAPTER"}
        shown = [names.get(word, word.replace(str(self.folder), ".")) for word in shown]
        version = subprocess.run([words[0], "--version"], capture_output=True, text=True).stdout.strip()
        return cost | {"command": shlex.join(shown), "versions": {"unbraid": version.removeprefix("unbraid ")}}

    # ---- training -----------------------------------------------------------------------------------------

    def peer_train(self):
        work = self.workload
        result = self.peer("trl_arm.py", {
            "model": str(self.model), "pairs": str(self.pairs), "output_dir": str(self.folder / "out"), "beta": BETA,
            "steps": self.settings.steps, "batch": work.batch, "learning_rate": work.learning_rate, "seed": SEED,
            "lora": work.lora, "adapter": str(self.given / "adapter"), "extra": EXTRA[self.name],
        })  # fmt: skip
        if self.name != "trl" and not result["fast_mkl"]:
            raise Failed("the preloaded library did not reach TRL's process")
        result["first_step"] = result["steps"][0]["at"] - result["started"]
        result["settings"] = EXTRA[self.name]
        return result

    def unbraid_train(self):
        work, out = self.workload, self.folder / "out"
        rows = Rows(out / "metrics.jsonl")
        start = {"model-name-or-path": self.model}
        if work.lora:
            start = {"model-name-or-path": self.given / "adapter", "base-model": self.model}
        before = time.perf_counter()
        result = self.unbraid("train", start | {
            "dataset-name": self.pairs, "per-device-train-batch-size": work.batch, "max-length": work.max_length,
            "learning-rate": work.learning_rate, "beta": BETA, "lr-scheduler-type": "linear", "weight-decay": 0,
            "max-grad-norm": 1.0, "seed": SEED, "dtype": "float32", "train-sampling-strategy": "sequential",
            "max-steps": self.settings.steps, "logging-steps": 1, "save-strategy": "no", "geometry": "off",
            "update-every": "off", "output-dir": out,
        }, poll=rows.poll)  # fmt: skip
        timed = rows.steps()
        if len(timed) != self.settings.steps:
            raise Failed(f"unbraid logged {len(timed)} of {self.settings.steps} steps")
        result["first_step"] = timed[0][1] - before
        marks = [None, *(at for _, at in timed)]
        result["steps"] = [
            {key: row.get(key) for key in METRICS} | {"step": row["step"], "seconds": at - mark if mark else None}
            for (row, at), mark in zip(timed, marks)
        ]
        return result

    # ---- gradient geometry --------------------------------------------------------------------------------

    def geometry_values(self, heat):
        count = 0 if heat else self.workload.count
        return {
            "model": str(self.model), "data": str(self.pairs), "pairs": count, "heat": heat, "heat_tokens": HEAT_TOKENS,
            "keep": HEAT_KEEP,
        }  # fmt: skip

    def peer_diagnose(self):
        result = self.peer("geometry_arm.py", self.geometry_values(False))
        return result | {"own_seconds": sum(row["seconds"] for row in result["rows"]) / len(result["rows"])}

    def peer_heatmap(self):
        result = self.peer("geometry_arm.py", self.geometry_values(True))
        return result | {"own_seconds": result["heat"]["seconds"], "cosine": result["heat"]["cosine"]}

    def diagnosed(self, heat):
        out = self.folder / "out"
        result = self.unbraid("diagnose", {
            "model-name-or-path": self.model, "dataset-name": self.pairs, "max-samples": self.workload.count,
            "max-length": self.workload.max_length, "step-pairs": 0, "heatmap": int(heat), "heatmap-tokens": HEAT_TOKENS,
            "output-dir": out,
        })  # fmt: skip
        return result, out, json.loads((out / "summary.json").read_text())

    def unbraid_diagnose(self):
        result, out, summary = self.diagnosed(False)
        rows = [json.loads(line) for line in (out / "geometry.jsonl").read_text().splitlines()]
        keys = ("index", "grad_sq_chosen", "grad_sq_rejected", "grad_inner")
        rows = [{key: row[key] for key in keys} for row in rows]
        return result | {"own_seconds": summary["seconds_per_pair"], "rows": rows}

    def unbraid_heatmap(self):
        result, out, summary = self.diagnosed(True)
        cosine = json.loads((out / "heatmaps/pair-0.json").read_text())["cosine"]
        kept = [row[:HEAT_KEEP] for row in cosine[:HEAT_KEEP]]
        return result | {"own_seconds": summary["heatmap_seconds"], "cosine": kept}

    # ---- scores and text ----------------------------------------------------------------------------------

    def peer_score(self):
        values = {"model": str(self.model), "pairs": str(self.pairs), "count": self.workload.count, "batch_tokens": 4096}
        return self.peer("score_arm.py", values)

    def unbraid_score(self):
        """Loading is taken off by a second run on one pair: the difference is what the other pairs cost."""

        def run(count):
            out = self.folder / f"out-{count}"
            values = {
                "model-name-or-path": self.model, "dataset-name": self.pairs, "max-samples": count,
                "max-length": self.workload.max_length, "output-dir": out,
            }  # fmt: skip
            return self.unbraid("score", values), out

        count = self.workload.count
        one, _ = run(1)
        result, out = run(count)
        rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        logps = [{"chosen": row["chosen_logps"], "rejected": row["rejected_logps"]} for row in rows]
        own = (result["seconds"] - one["seconds"]) * count / (count - 1)
        return result | {"own_seconds": own, "logps": logps}

    def peer_generate(self):
        values = {"model": str(self.model), "pairs": str(self.pairs), "count": self.workload.count, "new_tokens": NEW_TOKENS}
        result = self.peer("generate_arm.py", values)
        return result | {"own_seconds": per_token(result["own_seconds"], result["first_seconds"], result["tokens"])}

    def unbraid_generate(self):
        """Loading and prompts are taken off by a second run of one token each."""

        def run(new_tokens):
            said = self.folder / f"said-{new_tokens}.jsonl"
            values = {
                "model-name-or-path": self.model, "dataset-name": self.pairs, "max-samples": self.workload.count,
                "max-new-tokens": new_tokens, "json": "true",
            }  # fmt: skip
            with open(said, "w") as sink:
                result = self.unbraid("generate", values, stdout=sink)
            return result, [json.loads(line)["tokens"] for line in said.read_text().splitlines()]

        one, _ = run(1)
        result, tokens = run(NEW_TOKENS)
        return result | {"own_seconds": per_token(result["seconds"], one["seconds"], tokens), "tokens": tokens}


def per_token(whole, first, tokens):
    """Seconds of a token after the first of its prompt."""
    return (whole - first) / (sum(map(len, tokens)) - len(tokens))
