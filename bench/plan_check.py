"""`unbraid plan` against measured runs: prediction and measurement side by side in a Markdown table, and a plot.

    python bench/plan_check.py --model DIR --data helpful-base.test.jsonl.gz [--what memory|time|both]
        [--unbraid target/release/unbraid] [--planner target/release/unbraid] [--batches 1,4,8] [--lengths 256,512]

Cells: full fine-tuning and LoRA (rank 16, all linear maps), with and without gradient checkpointing, by batch and
max_length. Each is planned (`unbraid plan --json`), then run (`unbraid train`, `--steps` steps in the file's order, a
reference cache of its own, so that the reference is scored in every run). Memory is the peak resident memory of the whole
process as the kernel reports it at its end; time is from one row of metrics.jsonl to the next, the first step left out.
Memory may be measured on a busy machine, time may not: `--what time` takes few cells and measures the rates for each plan.
Raw numbers are kept in `bench/results/<name>/`; a cell that is there is not run again unless `--again`.
The table goes to `bench/results/<name>.md`, the plot of memory to `bench/results/<date>-memory.svg`.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

from common import HERE, Failed, Rows, cpu_info, run_child, table
from make_hh_pairs import write_pairs

MIB = 2**20


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--what", choices=("memory", "time", "both"), default="both")
    parser.add_argument("--unbraid", type=Path, default=HERE.parent / "target/release/unbraid", help="runs train")
    parser.add_argument("--planner", type=Path, help="runs plan (default: the same)")
    parser.add_argument("--batches", help="pairs a batch (default: 1,4,8; for time 4)")
    parser.add_argument("--lengths", help="max_length (default: 256,512; for time 256)")
    parser.add_argument("--steps", type=int, help="steps of a run (default: 2; for time 4)")
    parser.add_argument("--pairs", type=int, default=64, help="pairs in the file")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="run cells that have a result")
    parser.add_argument("--replan", action="store_true", help="predict anew what was measured before")
    date = datetime.date.today()
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--date", default=str(date))
    args = parser.parse_args()
    timed = args.what == "time"
    args.planner = args.planner or args.unbraid
    args.batches = [int(n) for n in (args.batches or ("4" if timed else "1,4,8")).split(",")]
    args.lengths = [int(n) for n in (args.lengths or ("256" if timed else "256,512")).split(",")]
    args.steps = args.steps or (2 if args.what == "memory" else 4)
    return args


def cells(args):
    """Every combination, geometry off; one batch of each kind of training with geometry in every step as well."""
    for length, batch, lora, checkpointing in itertools.product(args.lengths, args.batches, (False, True), (False, True)):
        yield {"lora": lora, "checkpointing": checkpointing, "batch": batch, "length": length, "geometry": "off"}
    middle = args.batches[len(args.batches) // 2]
    for lora in (False, True):
        yield {"lora": lora, "checkpointing": False, "batch": middle, "length": args.lengths[0], "geometry": "every"}


def name(cell):
    parts = ["lora" if cell["lora"] else "full", f"b{cell['batch']}", f"t{cell['length']}"]
    parts += ["gc"] * cell["checkpointing"] + ["geometry"] * (cell["geometry"] != "off")
    return "-".join(parts)


def options(args, cell, pairs):
    options = {
        "model-name-or-path": args.model, "dataset-name": pairs, "per-device-train-batch-size": cell["batch"],
        "max-length": cell["length"], "max-steps": args.steps, "dtype": "float32", "threads": args.threads,
        "gradient-checkpointing": str(cell["checkpointing"]).lower(), "geometry": cell["geometry"],
        "train-sampling-strategy": "sequential",
    }  # fmt: skip
    if cell["lora"]:
        options |= {"use-peft": "true", "lora-r": 16, "lora-dropout": 0, "lora-target-modules": "all-linear"}
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def plan(args, cell, pairs):
    rates = ["--gflops", "100", "--bandwidth", "10"] if args.what == "memory" else []
    command = [str(args.planner), "plan", *options(args, cell, pairs), *rates, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(args, cell, pairs, folder):
    """(peak resident bytes, seconds of each step but the first)."""
    output, log = folder / "out", folder / "log.txt"
    further = ["--output-dir", str(output), "--logging-steps", "1", "--save-strategy", "no"]
    command = [str(args.unbraid), "train", *options(args, cell, pairs), *further]
    rows = Rows(output / "metrics.jsonl")
    try:
        result = run_child(command, log, os.environ | {"UNBRAID_CACHE": str(folder / "cache")}, rows.poll)
    except Failed as error:
        raise SystemExit(f"{name(cell)}: {error}")
    marks = [at for _, at in rows.steps()]
    return result["peak_rss_bytes"], [b - a for a, b in itertools.pairwise(marks)]


def predict(args, cell, pairs):
    planned = plan(args, cell, pairs)
    return {
        "predicted_bytes": planned["memory"]["peak"],
        "phase": planned["memory"]["phase"],
        "predicted_seconds": planned["step"]["seconds"],
        "floor_seconds": planned["step"]["floor_seconds"],
        "largest_rows": planned["batches"]["largest_rows"],
    }


def run(args, cell, pairs):
    before = os.getloadavg()[0]
    predicted = predict(args, cell, pairs)
    with tempfile.TemporaryDirectory() as folder:
        peak, seconds = measure(args, cell, pairs, Path(folder))
    measured = {"measured_bytes": peak, "measured_seconds": seconds, "load_before": before}
    return {"cell": cell, "what": args.what} | predicted | measured


def error(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.1f} %"


def step_seconds(result):
    """The mean: steps differ in size, and the prediction is theirs on average."""
    return statistics.mean(result["measured_seconds"])


def line(result, timed):
    cell = result["cell"]
    cells = [
        "LoRA" if cell["lora"] else "full", "yes" if cell["checkpointing"] else "no", str(cell["batch"]),
        str(cell["length"]), cell["geometry"], str(result["largest_rows"]),
    ]  # fmt: skip
    if timed:
        seconds = step_seconds(result)
        cells += [f"{result['predicted_seconds']:.2f}", f"{seconds:.2f}", error(result["predicted_seconds"], seconds)]
        cells += [f"{result['floor_seconds']:.2f}", f"{result['load_before']:.2f}"]
    else:
        predicted, measured = result["predicted_bytes"], result["measured_bytes"]
        cells += [f"{predicted / MIB:.0f}", f"{measured / MIB:.0f}", error(predicted, measured), result["phase"]]
    return cells


def section(results, timed):
    header = ["training", "checkpointing", "batch", "max_length", "geometry", "rows of the largest batch"]
    if timed:
        header += ["predicted s", "measured s", "error", "floor s", "load before"]
    else:
        header += ["predicted MiB", "measured MiB", "error", "largest while"]
    return table(header, [line(result, timed) for result in results])


def summary(errors):
    errors = sorted(abs(e) for e in errors)
    return f"{len(errors)} runs; error {100 * statistics.median(errors):.1f} % at the median, {100 * errors[-1]:.1f} % at worst."


def report(args, results):
    memory = [r for r in results if r["what"] != "time"]
    timed = [r for r in results if r["what"] != "memory" and r["measured_seconds"]]
    version = subprocess.run([args.unbraid, "--version"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# `unbraid plan` against measured runs", "",
        f"{args.model.name}, HH-RLHF pairs ({args.data.name}), float32, AdamW, sigmoid; LoRA: rank 16 on all linear maps. "
        f"{cpu_info('model name')}, {args.threads} threads, {platform.system()}; {version}, {args.date}. "
        "Nothing in the prediction is fitted to these runs: buffers are counted, and program, tokenizer and data are the "
        "planner's own resident memory once it has read them.",
    ]  # fmt: skip
    if memory:
        errors = [r["predicted_bytes"] / r["measured_bytes"] - 1 for r in memory]
        lines += ["", "## Peak resident memory", "", summary(errors), "", *section(memory, False)]
    if timed:
        errors = [r["predicted_seconds"] / step_seconds(r) - 1 for r in timed]
        lines += ["", "## Seconds a step", "", "Rates measured by each plan just before its run; means of steps, which differ in size: predicted "
                  "of all, measured of all but the first. " + summary(errors), "", *section(timed, True)]  # fmt: skip
    lines += ["", "`python bench/plan_check.py --model MODEL --data DATA --what memory`, and `--what time` on a quiet machine.", ""]
    path = args.results / f"{args.date}-plan.md"
    path.write_text("\n".join(lines))
    print(path)
    if memory:
        plot(args, memory)


def plot(args, results):
    """Memory against batch, a panel for each kind of training; measured as points, predicted as lines."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "plan"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=False)
    results = [r for r in results if r["cell"]["geometry"] == "off"]
    plt.rcParams["font.size"] = 9
    lengths = sorted({r["cell"]["length"] for r in results})
    for axis, lora in zip(axes, (False, True)):
        for i, length in enumerate(lengths):
            for checkpointing in (False, True):
                cell = {"lora": lora, "length": length, "checkpointing": checkpointing}
                own = [r for r in results if cell.items() <= r["cell"].items()]
                own.sort(key=lambda r: r["cell"]["batch"])
                batches = [r["cell"]["batch"] for r in own]
                color = f"C{2 * i + checkpointing}"
                label = f"max_length {length}" + ", checkpointing" * checkpointing
                axis.plot(batches, [r["predicted_bytes"] / 1e9 for r in own], color=color, label=label)
                axis.plot(batches, [r["measured_bytes"] / 1e9 for r in own], "o", color=color)
        axis.set_title("LoRA" if lora else "full fine-tuning")
        axis.set_xlabel("pairs a batch")
        axis.set_ylabel("peak resident memory, GB")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8, title="line predicted, point measured", title_fontsize=8)
    figure.tight_layout()
    path = args.results / f"{args.date}-memory.svg"
    figure.savefig(path, metadata={"Date": None})
    print(path)


def main():
    args = parse()
    kept = args.results / f"{args.date}-plan"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        write_pairs(args.data, pairs, args.pairs)
        for cell in cells(args):
            path = kept / f"{'time-' if args.what == 'time' else ''}{name(cell)}.json"
            if not path.exists() or args.again:
                result = run(args, cell, pairs)
            elif args.replan:
                result = json.loads(path.read_text()) | predict(args, cell, pairs)
            else:
                continue
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(name(cell), "memory", error(result["predicted_bytes"], result["measured_bytes"]), flush=True)
    report(args, [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))])


if __name__ == "__main__":
    main()
