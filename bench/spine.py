"""DPO on a real model: TRL and unbraid in turn on identical work, side by side in one Markdown table.

    python bench/spine.py --model DIR --data helpful-base.test.jsonl.gz [--unbraid target/release/unbraid]
        [--steps 5] [--arms trl,trl-best,unbraid] [--skip-existing]

Arms, each in its own process with the same number of threads:
  trl       DPOTrainer as installed
  trl-best  with the reference log-probs precomputed and MKL's vendor check answered yes (fast_mkl.py)
  unbraid   `unbraid train`, reading its metrics.jsonl

Work: full fine-tuning in float32, AdamW, linear schedule without warm-up over `--horizon` steps (the whole
epoch), stopped after `--steps`; the pairs in order. Results go to
`bench/results/<date>-spine.md`, raw numbers to `bench/results/<date>-spine/<arm>.json`; with
`--skip-existing` an arm whose raw file is there is not run again, so arms can be run separately.
Run it on a machine that does nothing else.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fast_mkl
from make_hh_pairs import write_pairs

HERE = Path(__file__).resolve().parent
ARMS = ("trl", "trl-best", "unbraid")
POLL_SECONDS = 0.05
METRICS = ["loss", "logps/chosen", "logps/rejected", "rewards/margins", "grad_norm", "learning_rate"]
# below this a relative difference says nothing (the margin of the first step is zero)
RELATIVE_FLOOR = 1e-7


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path, help="model directory in Hugging Face layout")
    parser.add_argument("--data", required=True, type=Path, help="transcripts or explicit pairs, .jsonl or .jsonl.gz")
    parser.add_argument("--unbraid", type=Path, default=HERE.parent / "target/release/unbraid")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--horizon", type=int, help="length of the schedule in steps (default: one epoch)")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4, help="pairs a step")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lora", type=int, help="rank of an adapter on all linear maps (default: train everything)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip-existing", action="store_true")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--name", default=f"{datetime.date.today()}-spine")
    args = parser.parse_args()
    args.arms = args.arms.split(",")
    if unknown := set(args.arms) - set(ARMS):
        parser.error(f"unknown arms {sorted(unknown)}; there are {', '.join(ARMS)}")
    args.horizon = args.horizon or -(-args.pairs // args.batch)
    return args


def environment(args):
    """Same thread count for every library an arm might use; nothing is fetched from a hub."""
    threads = str(args.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return os.environ | dict.fromkeys(names, threads) | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run_trl(args, pairs, folder, best):
    settings = {
        "model": str(args.model), "pairs": str(pairs), "output_dir": str(folder / "out"), "steps": args.steps,
        "horizon": args.horizon, "batch": args.batch, "max_length": args.max_length, "beta": args.beta,
        "learning_rate": args.learning_rate, "seed": args.seed, "threads": args.threads, "precompute": best,
        "lora": args.lora,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    variables = environment(args)
    prefix = ""
    if best:
        variables["LD_PRELOAD"] = str(fast_mkl.library(folder))
        prefix = "LD_PRELOAD=libfastmkl.so "
    command = [sys.executable, str(HERE / "trl_arm.py"), str(folder / "settings.json"), str(folder / "result.json")]
    subprocess.run(command, env=variables, check=True, stdout=sys.stderr)
    result = json.loads((folder / "result.json").read_text())
    if best and not result["fast_mkl"]:
        raise SystemExit("the preloaded library did not reach TRL's process")
    shown = {key: value for key, value in settings.items() if key not in ("model", "pairs", "output_dir")}
    result["command"] = f"{prefix}OMP_NUM_THREADS={args.threads} python bench/trl_arm.py settings.json result.json"
    result["settings"] = shown
    return result


def unbraid_command(args, pairs, output):
    options = {
        "model-name-or-path": args.model, "dataset-name": pairs, "per-device-train-batch-size": args.batch,
        "max-length": args.max_length, "learning-rate": args.learning_rate, "beta": args.beta,
        "lr-scheduler-type": "linear", "weight-decay": 0, "max-grad-norm": 1.0, "seed": args.seed, "dtype": "float32",
        "train-sampling-strategy": "sequential", "max-steps": args.horizon, "logging-steps": 1, "save-strategy": "no",
        "geometry": "off", "threads": args.threads, "output-dir": output,
    }  # fmt: skip
    if args.lora:
        options |= {
            "use-peft": "true", "lora-r": args.lora, "lora-alpha": 2 * args.lora, "lora-dropout": 0,
            "lora-target-modules": "all-linear",
        }  # fmt: skip
    return [str(args.unbraid), "train", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]


def peak_rss_bytes(pid):
    """High-water mark of a live process's resident memory; None once it is gone."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    except OSError:
        return None
    return int(found[0]) * 1024 if found else None


def read_rows(path):
    """Complete lines of metrics.jsonl that are training steps; a line still being written is left for later."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [row for row in map(json.loads, lines) if "loss" in row]


def run_unbraid(args, pairs, folder):
    """Follows metrics.jsonl; once the wanted steps are there, interrupts the run if its horizon is longer."""
    output = folder / "out"
    command = unbraid_command(args, pairs, output)
    log = folder / "log.txt"
    started = mark = time.perf_counter()
    steps, peak, interrupted = [], 0, False
    with open(log, "w") as sink:
        # a cache of its own: the reference is scored in every run
        variables = environment(args) | {"UNBRAID_CACHE": str(folder / "cache")}
        process = subprocess.Popen(command, env=variables, stdout=sink, stderr=sink)
        while True:
            done = process.poll() is not None
            peak = max(peak, peak_rss_bytes(process.pid) or 0)
            now = time.perf_counter()
            for row in read_rows(output / "metrics.jsonl")[len(steps) : args.steps]:
                timing = {"seconds": now - mark, "since_start": now - started, "peak_rss_bytes": peak}
                steps.append({"step": row["step"]} | {key: row.get(key) for key in METRICS} | timing)
                mark = now
            if done:
                break
            if len(steps) == args.steps and args.horizon > args.steps and not interrupted:
                process.send_signal(signal.SIGINT)
                interrupted = True
            time.sleep(POLL_SECONDS)
    if len(steps) < args.steps:
        raise SystemExit(f"unbraid logged {len(steps)} of {args.steps} steps (exit {process.returncode}):\n{log.read_text()}")
    if not interrupted and process.returncode != 0:
        raise SystemExit(f"unbraid exited with {process.returncode}:\n{log.read_text()}")
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout.strip()
    shown = unbraid_command(args, Path("pairs.jsonl"), Path("out"))
    shown[0] = "unbraid"
    shown[shown.index(str(args.model))] = "MODEL"
    return {
        "steps": steps,
        "exit": process.returncode,
        "interrupted_after_steps": interrupted,
        "threads": args.threads,
        "versions": {"unbraid": version.removeprefix("unbraid ")},
        "command": shlex.join(shown),
    }


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def cpu_name():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def number(value):
    return "–" if value is None else f"{value:.7g}"


def difference(value, base):
    """Relative difference; absolute (marked) where the base is too small for one."""
    if value is None or base is None:
        return "–"
    if abs(base) < RELATIVE_FLOOR:
        return f"{abs(value - base):.1e} abs"
    return f"{abs(value - base) / abs(base):.1e}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def value_table(results):
    """Per metric and step: every arm's value and its difference from the first arm."""
    first, *others = results
    header = ["metric", "step", *results, *(f"{arm} vs {first}" for arm in others)]
    lines = [row(header), row(["---"] * len(header))]
    for metric in METRICS:
        for index in range(min(len(result["steps"]) for result in results.values())):
            values = [result["steps"][index][metric] for result in results.values()]
            cells = [metric, str(results[first]["steps"][index]["step"]), *map(number, values)]
            lines.append(row(cells + [difference(value, values[0]) for value in values[1:]]))
    return lines


def cost_table(results):
    """Seconds and memory, with each arm as a multiple of the last one."""
    last = list(results)[-1]

    def line(title, value, unit):
        values = {arm: value(result) for arm, result in results.items()}
        ratios = [f"{values[arm] / values[last]:.2f}" for arm in list(results)[:-1]]
        return row([title, *(f"{v:.2f} {unit}" for v in values.values()), *ratios])

    def median(result):
        seconds = [step["seconds"] for step in result["steps"][1:]]
        return statistics.median(seconds) if seconds else float("nan")

    header = ["", *results, *(f"{arm} / {last}" for arm in list(results)[:-1])]
    return [
        row(header),
        row(["---"] * len(header)),
        line("seconds a step (median, first left out)", median, "s"),
        line("start of the process to the end of the last step", lambda r: r["steps"][-1]["since_start"], "s"),
        line("peak resident memory", lambda r: r["steps"][-1]["peak_rss_bytes"] / 2**30, "GiB"),
        line("load average before the arm", lambda r: r["load_before"], ""),
    ]


def report(args, results):
    """The Markdown page, from raw results alone."""
    any_arm = next(iter(results.values()))
    work = any_arm["work"]
    versions = {name: version for result in results.values() for name, version in result["versions"].items()}
    what = "Full fine-tuning"
    if args.lora:
        # A is drawn by each program's own generator: costs compare, and values as far as the first step's loss
        what = f"LoRA r {args.lora} on all linear maps (each program draws its own start)"
    lines = [
        f"# DPO side by side: {', '.join(results)}",
        "",
        f"{what} in float32, AdamW, {work['batch']} pairs a step in order, first {work['pairs']} usable pairs, "
        f"max_length {work['max_length']}, learning_rate {work['learning_rate']:g} (linear over {work['horizon']} steps), "
        f"β {work['beta']:g}, clipping 1.0, seed {work['seed']}, no dropout, no gradient checkpointing; "
        f"{work['steps']} steps. Log-probs are means over the pairs of sums over completion tokens, taken before the step's update; "
        "grad_norm is the norm before clipping.",
        "",
        *value_table(results),
        "",
        *cost_table(results),
        "",
        "A step's seconds are the wall time between its log line and the one before it.",
    ]
    if "trl-best" in results:
        lines.append(
            f"trl-best spent {results['trl-best']['build_seconds']:.1f} s before its first step on loading, tokenising and the "
            f"reference log-probs of {results['trl-best']['pairs_kept']} pairs; that is not in its seconds a step."
        )
    lines += [
        "",
        f"- Machine: {any_arm['machine']['cpu']}, {any_arm['machine']['cores']} cores, {work['threads']} threads; "
        f"{any_arm['machine']['system']}",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        f"- Model: `model.safetensors` sha256 {work['model_sha256']}…; pairs: sha256 {work['pairs_sha256']}…",
        "- Commands:",
        *(f"  - {arm}: `{result['command']}`" for arm, result in results.items()),
        "",
    ]
    return "\n".join(lines)


def main():
    args = parse()
    raw = args.results / args.name
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spine-") as scratch:
        scratch = Path(scratch)
        pairs = scratch / "pairs.jsonl"
        count = write_pairs(args.data, pairs, args.pairs)
        if count < args.pairs:
            raise SystemExit(f"{args.data} has {count} usable pairs, {args.pairs} were wanted")
        keys = "steps horizon pairs batch max_length learning_rate beta seed threads".split()
        work = {key: getattr(args, key) for key in keys} | {"pairs_sha256": sha256(pairs)}
        weights = args.model / "model.safetensors"
        work["model_sha256"] = sha256(weights) if weights.exists() else "unknown"
        machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
        machine["system"] += f", Python {platform.python_version()}"

        # checked first: a run takes minutes and must not end in a table that cannot be made
        kept = [arm for arm in ARMS if (raw / f"{arm}.json").exists() and (args.skip_existing or arm not in args.arms)]
        for arm in kept:
            if json.loads((raw / f"{arm}.json").read_text())["work"] != work:
                raise SystemExit(f"{raw / arm}.json is of other work than this run: remove it or give another --name")

        for arm in args.arms:
            stored = raw / f"{arm}.json"
            if arm in kept:
                continue
            folder = scratch / arm
            folder.mkdir()
            load = os.getloadavg()[0]
            print(f"{arm}: {args.steps} steps (load average {load:.2f})", file=sys.stderr)
            result = run_unbraid(args, pairs, folder) if arm == "unbraid" else run_trl(args, pairs, folder, arm == "trl-best")
            result |= {"arm": arm, "work": work, "machine": machine, "load_before": load}
            stored.write_text(json.dumps(result, indent=1) + "\n")

    # every arm that has a result, also from earlier runs with the same work
    results = {arm: json.loads((raw / f"{arm}.json").read_text()) for arm in ARMS if (raw / f"{arm}.json").exists()}
    page = report(args, results)
    target = args.results / f"{args.name}.md"
    target.write_text(page)
    print(page)
    print(f"written to {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
