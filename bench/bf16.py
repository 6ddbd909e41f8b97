"""What products in bf16 change: log-probs, gradients, and a trajectory, against float32.

    bench/venv/bin/python bench/bf16.py --model DIR --data pairs.jsonl [--steps 200] [--batch 2] [--max-length 128]

Runs `unbraid train` in float32 and with `--bf16 true` from the same start on the same pairs in the same order. Three
readings: the log-probs of the first step's pairs; one step of plain gradient descent (learning rate 1, no clipping), whose
change of the weights is the gradient; and `--steps` steps of AdamW. On a processor without AVX512-BF16 the rounding is
emulated (UNBRAID_BF16=emulate): numbers are those of bf16 products, times are not. Writes `bench/results/<date>-bf16.md`.
"""

import argparse
import datetime
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent


def train(args, folder, bf16, options):
    out = folder / ("bf16" if bf16 else "f32")
    command = [
        args.unbraid, "train", "--model-name-or-path", args.model, "--dataset-name", args.data, "--dtype", "float32",
        "--per-device-train-batch-size", args.batch, "--max-length", args.max_length, "--logging-steps", 1,
        "--logging-first-step", "true", "--geometry", "off", "--update-every", 0, "--log-pairs", "true",
        "--save-strategy", "no", "--overwrite-output-dir", "true", "--output-dir", out,
        *(["--bf16", "true"] if bf16 else []), *options,
    ]  # fmt: skip
    environment = os.environ | {"UNBRAID_BF16": "emulate", "UNBRAID_CACHE": str(folder / "cache")}
    subprocess.run([str(part) for part in command], check=True, env=environment, stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return out, [row for row in rows if "loss" in row]


def difference(of, to):
    """Relative difference of two rows of numbers, in the Euclidean norm."""
    of, to = np.asarray(of, np.float64), np.asarray(to, np.float64)
    return float(np.linalg.norm(of - to) / np.linalg.norm(to))


def gradients(args, folder):
    """Relative error and cosine of the whole gradient."""
    options = ["--max-steps", 1, "--optim", "sgd", "--learning-rate", 1, "--max-grad-norm", 0, "--warmup-steps", 0]
    options += ["--lr-scheduler-type", "constant"]
    start = load_file(Path(args.model) / "model.safetensors")
    moved = {}
    for bf16 in (False, True):
        out, _ = train(args, folder, bf16, options)
        moved[bf16] = load_file(out / "model.safetensors")
    squares = np.zeros(3)  # |e|², |g|², |h|²
    inner = 0.0
    for name, before in start.items():
        g, h = (moved[b][name].astype(np.float64) - before.astype(np.float64) for b in (False, True))
        squares += [((h - g) ** 2).sum(), (g**2).sum(), (h**2).sum()]
        inner += float((g * h).sum())
    return float(np.sqrt(squares[0] / squares[1])), inner / float(np.sqrt(squares[1] * squares[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--unbraid", default=HERE.parent / "target/release/unbraid")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--date", default=str(datetime.date.today()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        error, cosine = gradients(args, folder)
        options = ["--max-steps", args.steps, "--learning-rate", args.learning_rate]
        runs = [train(args, folder, bf16, options)[1] for bf16 in (False, True)]
    exact, rounded = runs
    first = [abs(rounded[0][key] / exact[0][key] - 1) for key in ("logps/chosen", "logps/rejected")]
    lines = [
        "# Products in bf16 against float32",
        "",
        f"`python bench/bf16.py --model … --data … --steps {args.steps} --batch {args.batch} --max-length {args.max_length} "
        f"--learning-rate {args.learning_rate}`; same start, pairs and order.",
        "",
        "| reading | value |",
        "|---|---|",
        f"| first step, mean log-prob of the chosen completions, relative difference | {first[0]:.1e} |",
        f"| the same of the rejected | {first[1]:.1e} |",
        f"| gradient of the first batch, relative error ‖g̃ − g‖/‖g‖ | {error:.1e} |",
        f"| cosine of the two gradients | {cosine:.6f} |",
    ]
    for key in ("loss", "logps/chosen", "logps/rejected", "rewards/margins", "grad_norm"):
        a, b = ([row[key] for row in run] for run in (exact, rounded))
        lines.append(f"| {key} over {args.steps} steps, relative difference in the Euclidean norm | {difference(b, a):.1e} |")
    tail = slice(-max(1, args.steps // 10), None)
    for key in ("loss", "logps/chosen", "logps/rejected", "rewards/margins"):
        a, b = (float(np.mean([row[key] for row in run[tail]])) for run in (exact, rounded))
        lines.append(f"| {key}, mean of the last tenth: float32, bf16 | {a:.4f}, {b:.4f} |")
    page = HERE / "results" / f"{args.date}-bf16.md"
    page.write_text("\n".join(lines) + "\n")
    print(page.read_text())


main()
