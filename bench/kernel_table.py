"""Runs the kernel benches and reads what divan prints: a rate for every kernel, and its share of the machine's peak.

divan prints a tree of names; under a line of times stands a line of rates ("Gitem/s" for operations, "GB/s" for bytes). Its columns are fastest,
slowest, median, mean: the slowest time's rate stands under the slowest time.
"""

import os
import re
import subprocess

from common import ROOT, Failed, say

RATE = re.compile(r"([\d.]+) (item/s|Kitem/s|Mitem/s|Gitem/s|Titem/s|B/s|KB/s|MB/s|GB/s|TB/s)")
TIME = re.compile(r"([\d.]+) (ps|ns|µs|ms|s)\b")
SCALE = {"": 1e-9, "K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}
SECONDS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
COLUMNS = ("fastest", "slowest", "median", "mean")


def run(threads, filters=(), root=ROOT, target=None, quick=False):
    """The benches' output; `filters` choose by words in their names."""
    command = ["cargo", "bench", "-q", "-p", "unbraid-tensor", "--bench", "kernels", "--", *filters]
    if quick:
        command += ["--sample-count", "3", "--max-time", "0.2"]
    variables = os.environ | {"RAYON_NUM_THREADS": str(threads), "NO_COLOR": "1"}
    if target:
        variables["CARGO_TARGET_DIR"] = str(target)
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr[-2000:])
    return done.stdout


def parse(text):
    """{"group/kernel/argument": {"seconds", "rate", "unit", "fastest", ...}}; rates in GFLOP/s or GB/s, median of the samples."""
    found, path, last = {}, {}, None
    for line in text.splitlines():
        entry = re.match(r"^((?:│  |   )*)[├╰]─ (.*)$", line)
        if entry:
            depth = len(entry.group(1)) // 3
            words = entry.group(2)
            time = TIME.search(words)
            name = (words[: time.start()] if time else words.split("│")[0]).strip()
            path = {d: n for d, n in path.items() if d < depth} | {depth: name}
            last = None
            if time:
                # a group that has the name of its file counts once
                names = [path[d] for d in sorted(path)]
                last = "/".join(n for i, n in enumerate(names) if i == 0 or n != names[i - 1])
                times = [float(m.group(1)) * SECONDS[m.group(2)] for m in TIME.finditer(words)]
                found[last] = {"seconds": dict(zip(COLUMNS, times))}
        elif last and len(RATE.findall(line)) == 4 and "rates" not in found[last]:
            rates = RATE.findall(line)
            unit = "GB/s" if rates[0][1].endswith("B/s") else "GFLOP/s"
            prefix = lambda u: u.replace("item/s", "").replace("B/s", "")
            found[last] |= {"unit": unit, "rates": dict(zip(COLUMNS, (float(v) * SCALE[prefix(u)] for v, u in rates)))}
    return {name: entry for name, entry in found.items() if "rates" in entry}


def is_peak(name):
    return name.startswith("peak/")


def peaks_of(kernels):
    """The best rate of the yardsticks: {"GFLOP/s": …, "GB/s": …}"""
    best = {}
    for name, entry in kernels.items():
        if is_peak(name):
            best[entry["unit"]] = max(best.get(entry["unit"], 0.0), entry["rates"]["fastest"])
    return best


def gemm_peak(threads):
    """GFLOP/s of unbraid's own largest square product."""
    kernels = parse(run(threads, ["square_gemm"]))
    if not kernels:
        say("the kernel benches gave no square product")
        return None
    return max(entry["rates"]["fastest"] for entry in kernels.values())
