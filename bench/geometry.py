"""Per-pair gradient geometry and a token heat map: straightforward PyTorch and unbraid in turn on the same pairs.

    python bench/geometry.py --model DIR --data helpful-base.test.jsonl.gz [--unbraid target/release/unbraid]
        [--pairs 500] [--peer-pairs 8] [--heat-tokens 30] [--name 2026-11-23-geometry]

The peer (`geometry_arm.py`, run twice: as installed, and with MKL's vendor check answered yes) does what the method's authors
did: two backward passes a pair at batch 1 with flattened gradients; one backward pass for each token for the heat map. It is
timed on the first `--peer-pairs` pairs; `unbraid diagnose` runs on those (to compare seconds and numbers) and then on `--pairs`.
Numbers must agree within 1e-4 before the table is written. Run it on a machine that does nothing else.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fast_mkl
from make_hh_pairs import write_pairs
from spine import cpu_name, environment, peak_rss_bytes

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path, help="transcripts or explicit pairs, .jsonl or .jsonl.gz")
    parser.add_argument("--unbraid", type=Path, default=HERE.parent / "target/release/unbraid")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--peer-pairs", type=int, default=8)
    parser.add_argument("--heat-tokens", type=int, default=30)
    parser.add_argument("--keep", type=int, default=4, help="tokens of each side whose cosines are compared")
    parser.add_argument("--no-heat", action="store_true")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arms", default="torch,torch-best")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--name", default=f"{datetime.date.today()}-geometry")
    return parser.parse_args()


def diagnose(args, pairs, count, folder, heat):
    """Runs `unbraid diagnose`; gives its rows, seconds a pair (its own clock, without loading) and peak memory."""
    out = folder / f"out-{count}-{heat}"
    options = {
        "model-name-or-path": args.model, "dataset-name": pairs, "max-samples": count, "max-length": args.max_length,
        "step-pairs": 0, "heatmap": int(heat), "heatmap-tokens": args.heat_tokens, "threads": args.threads,
        "output-dir": out,
    }  # fmt: skip
    command = [str(args.unbraid), "diagnose", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    variables = environment(args) | {"UNBRAID_CACHE": str(folder / "cache")}
    started, peak = time.perf_counter(), 0
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, peak_rss_bytes(process.pid) or 0)
            time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit((folder / "log.txt").read_text())
    rows = [json.loads(line) for line in open(out / "geometry.jsonl")]
    summary = json.loads((out / "summary.json").read_text())
    log = (folder / "log.txt").read_text()
    return {
        "rows": rows, "summary": summary, "seconds": time.perf_counter() - started, "peak_rss_bytes": peak, "out": out,
        "log": log,
    }  # fmt: skip


def peer(args, arm, pairs, folder, heat_pair):
    settings = {
        "model": str(args.model), "data": str(pairs), "pairs": args.peer_pairs, "max_length": args.max_length,
        "threads": args.threads, "heat_pair": heat_pair, "heat_tokens": args.heat_tokens, "keep": args.keep,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    variables = environment(args)
    if arm == "torch-best":
        variables["LD_PRELOAD"] = str(fast_mkl.library(folder))
    command = [sys.executable, str(HERE / "geometry_arm.py"), str(folder / "settings.json"), str(folder / "result.json")]
    subprocess.run(command, env=variables, check=True, stdout=sys.stderr)
    return json.loads((folder / "result.json").read_text())


def check(ours, theirs):
    """Largest error of the squared norms and inner products, relative to the norms."""
    by_index = {row["index"]: row for row in ours}
    worst = 0.0
    for row in theirs:
        mine = by_index[row["index"]]
        scale = (row["grad_sq_chosen"] * row["grad_sq_rejected"]) ** 0.5
        errors = [
            abs(mine["grad_sq_chosen"] / row["grad_sq_chosen"] - 1),
            abs(mine["grad_sq_rejected"] / row["grad_sq_rejected"] - 1),
            abs(mine["grad_inner"] - row["grad_inner"]) / scale,
        ]
        worst = max(worst, *errors)
    return worst


def gib(value):
    return f"{value / 2**30:.2f} GiB"


def main():
    args = parse()
    folder = Path(tempfile.mkdtemp(prefix="geometry-"))
    pairs = folder / "pairs.jsonl"
    total = write_pairs(args.data, pairs, args.pairs)
    load = os.getloadavg()[0]
    small = diagnose(args, pairs, args.peer_pairs, folder, False)
    # a heat map is drawn in a run of its own: of the first pair that has so many tokens on both sides
    long = (r["index"] for r in small["rows"] if min(r["chosen_len"], r["rejected_len"]) >= args.heat_tokens)
    heat_pair = None if args.no_heat else next(long, None)
    heat = None
    if heat_pair is not None:
        alone = folder / "pair.jsonl"
        alone.write_text(pairs.read_text().split("\n")[heat_pair] + "\n")
        heat = diagnose(args, alone, 1, folder, True)
        heat_file = heat["out"] / "heatmaps" / "pair-0.json"
    lines = [
        f"# Gradient geometry of pairs, {args.name}",
        "",
        f"{cpu_name()}, {args.threads} threads, load {load:.1f} before the first arm; model `{args.model.name}`, "
        f"data `{args.data.name}`, max_length {args.max_length}; first {args.peer_pairs} pairs.",
        "",
        "| | " + " | ".join(args.arms.split(",")) + " | unbraid |",
        "|---|" + "---|" * (len(args.arms.split(",")) + 1),
    ]
    peers = {}
    for arm in args.arms.split(","):
        peers[arm] = peer(args, arm, pairs, folder, heat_pair)
        worst = check(small["rows"], peers[arm]["rows"])
        peers[arm]["worst"] = worst
        print(f"{arm}: largest difference {worst:.1e}", file=sys.stderr)
        if worst > TOLERANCE:
            raise SystemExit(f"{arm} and unbraid differ by {worst:.1e}, allowed {TOLERANCE}")
    ours = small["summary"]["seconds_per_pair"]
    seconds = {arm: statistics.mean(row["seconds"] for row in result["rows"]) for arm, result in peers.items()}
    lines.append("| seconds a pair (mean) | " + " | ".join(f"{s:.2f}" for s in seconds.values()) + f" | {ours:.3f} |")
    lines.append("| ratio | " + " | ".join(f"{s / ours:.1f}" for s in seconds.values()) + " | |")
    if heat:
        spent = heat["summary"]["heatmap_seconds"]
        times = {arm: result["heat"]["seconds"] for arm, result in peers.items()}
        lines.append("| seconds of a heat map | " + " | ".join(f"{s:.1f}" for s in times.values()) + f" | {spent:.2f} |")
        lines.append("| ratio | " + " | ".join(f"{s / spent:.1f}" for s in times.values()) + " | |")
        cosine = json.loads(heat_file.read_text())["cosine"]
        theirs = next(iter(peers.values()))["heat"]
        difference = max(abs(cosine[i][j] - x) for i, row in enumerate(theirs["cosine"]) for j, x in enumerate(row))
        if difference > TOLERANCE:
            raise SystemExit(f"heat maps differ by {difference:.1e}")
    memory = [gib(result["peak_rss_bytes"]) for result in peers.values()] + [gib(small["peak_rss_bytes"])]
    lines.append("| peak resident memory | " + " | ".join(memory) + " |")
    lines += ["", f"Squared norms and inner products agree within {max(p['worst'] for p in peers.values()):.1e} of the norms."]
    if heat:
        lines.append(
            f"Heat map: pair {theirs['index']}, prompt {theirs['prompt']} tokens, {theirs['tokens'][0]} + {theirs['tokens'][1]} "
            f"completion tokens; cosines of the first {args.keep} × {args.keep} agree within {difference:.1e}. The peer's inner products of all "
            "tokens (which do not fit into memory) are not in its time."
        )
    if args.pairs > args.peer_pairs:
        whole = diagnose(args, pairs, total, folder, False)
        summary = whole["summary"]
        lines += [
            "",
            f"`unbraid diagnose` on {summary['pairs']} pairs: {summary['seconds_per_pair']:.3f} s a pair, "
            f"{gib(whole['peak_rss_bytes'])} at peak. What it says:",
            "",
            "```",
            whole["log"][whole["log"].rfind("\r") + 1 :].strip(),
            "```",
        ]
    args.results.mkdir(parents=True, exist_ok=True)
    target = args.results / f"{args.name}.md"
    target.write_text("\n".join(lines) + "\n")
    print(target)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
