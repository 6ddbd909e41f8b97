"""Trains SmolLM2-135M with LoRA on helpful-base pairs once per objective of Table 2 (arXiv 2410.13828) and remedy.

    python bench/objectives.py --unbraid target/release/unbraid --model SmolLM2-135M-Instruct \\
        --data helpful-base.test.jsonl.gz --out runs

Every run: the same pairs in the same order, LoRA r 16 on all linear maps, AdamW, one learning rate, geometry on
every 10th step, and an evaluation on the same held-out pairs before the first step and after the last. Prints a Markdown table:
held-out log-probs at both ends, shares of the three cases over all measured pairs, median seconds of an unmeasured step.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import time
from pathlib import Path

TABLE_2 = ["sigmoid", "rdpo", "simpo", "ipo", "rrhf", "slic", "cpo", "dpop", "kto", "sppo"]
REMEDIES = ["normalized", "guarded", "calibrated"]


def split(data, out, held_out, train):
    """The first pairs for training, the last for evaluation."""
    opener = gzip.open if str(data).endswith(".gz") else open
    rows = [line for line in opener(data, "rt", encoding="utf-8") if line.strip()]
    paths = out / "train.jsonl", out / "held-out.jsonl"
    paths[0].write_text("".join(rows[:train]), encoding="utf-8")
    paths[1].write_text("".join(rows[-held_out:]), encoding="utf-8")
    return paths


def follow(command, metrics):
    """Runs a command; seconds between the rows of consecutive unmeasured steps, as they appear in its metrics."""
    metrics.unlink(missing_ok=True)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    seconds, seen, mark = [], 0, None
    while process.poll() is None:
        time.sleep(0.01)
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        for line in lines[seen:]:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break  # half a line: again in a moment
            seen += 1
            plain = "loss" in row and "geometry/ideal" not in row
            if plain and mark is not None:
                seconds.append(time.time() - mark)
            mark = time.time() if "loss" in row else None
    if process.returncode != 0:
        raise SystemExit(f"exit {process.returncode}: {' '.join(command)}")
    return seconds


def run(args, name, options, train, held_out):
    """One run; its row of the table."""
    out = args.out / name
    command = [
        args.unbraid, "train", "--model-name-or-path", args.model, "--dataset-name", train,
        "--eval-dataset", held_out, "--output-dir", out, "--overwrite-output-dir", "true",
        "--use-peft", "true", "--lora-r", "16", "--lora-alpha", "32", "--lora-dropout", "0",
        "--lora-target-modules", "all-linear", "--max-steps", args.steps, "--max-length", "512",
        "--per-device-train-batch-size", args.batch, "--learning-rate", args.rate, "--warmup-ratio", "0.1",
        "--logging-steps", "1", "--geometry", "10", "--eval-strategy", "steps", "--eval-steps", args.steps,
        "--eval-on-start", "true", "--save-strategy", "no", "--run-name", name, *options,
    ]  # fmt: skip
    start = time.time()
    seconds = follow([str(word) for word in command], out / "metrics.jsonl")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evals = [row for row in rows if "eval_loss" in row]
    measured = [row for row in rows if "geometry/ideal" in row]
    mean = lambda key: statistics.mean(row[key] for row in measured)
    return {
        "name": name,
        "chosen": [row["eval_logps/chosen"] for row in (evals[0], evals[-1])],
        "rejected": [row["eval_logps/rejected"] for row in (evals[0], evals[-1])],
        "cases": [mean(f"geometry/{case}") for case in ("ideal", "both_fall", "both_rise")],
        "cosine": mean("geometry/cosine"),
        "seconds": statistics.median(seconds),
        "minutes": (time.time() - start) / 60,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unbraid", default="unbraid")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", default="5e-5")
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="names of runs, of objectives and dpo-<remedy>")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # a few rows of the data have a blank side and are dropped
    train, held_out = split(args.data, args.out, args.held_out, args.steps * args.batch + 16)
    plan = [(name, ["--loss-type", name]) for name in TABLE_2]
    plan += [(f"dpo-{remedy}", ["--remedy", remedy, "--npo-scale", "geometric"]) for remedy in REMEDIES]
    results = args.out / "results.jsonl"
    print("| run | chosen | rejected | ideal | both fall | both rise | cosine | seconds a step | minutes |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, options in plan:
        if args.only and name not in args.only:
            continue
        row = run(args, name, options, train, held_out)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        change = lambda key: "{:.2f} → {:.2f} ({:+.2f})".format(*row[key], row[key][1] - row[key][0])
        shares = " | ".join(f"{100 * share:.0f} %" for share in row["cases"])
        print(f"| {name} | {change('chosen')} | {change('rejected')} | {shares} | {row['cosine']:.2f} | "
              f"{row['seconds']:.2f} | {row['minutes']:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
