"""What the programs of this directory share: where things lie, the machine's facts, child processes, tables."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV_PYTHON = HERE / "venv/bin/python"
POLL_SECONDS = 0.01
# what decides the speed of matrix products
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def say(text):
    print(text, file=sys.stderr, flush=True)


def ensure_venv():
    """Makes `bench/venv` from the pinned requirements unless it holds them already."""
    if not VENV_PYTHON.exists():
        say("making bench/venv")
        subprocess.run([sys.executable, "-m", "venv", HERE / "venv"], check=True)
    wanted = {line.strip() for line in (HERE / "requirements.txt").read_text().splitlines() if "==" in line}
    freeze = subprocess.run([VENV_PYTHON, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    # a build's own suffix (2.15.0+cpu) is no other version
    installed = {line.strip().split("+")[0] for line in freeze.splitlines()}
    if missing := wanted - installed:
        say(f"installing {', '.join(sorted(missing))}")
        subprocess.run([VENV_PYTHON, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)


def read_text(path, default=""):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return default


def cpu_info(key):
    """The first value of a key in /proc/cpuinfo."""
    for line in read_text("/proc/cpuinfo").splitlines():
        if line.split(":")[0].strip() == key:
            return line.split(":", 1)[1].strip()
    return ""


def git(*arguments, cwd=ROOT):
    result = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def commit():
    """The commit that is checked out, marked when the tree differs from it."""
    name = git("rev-parse", "--short=12", "HEAD")
    return f"{name} with changes" if name and git("status", "--porcelain", "--untracked-files=no") else name or "unknown"


def machine():
    """What a reader must know of the machine."""
    have = set((cpu_info("flags") or cpu_info("Features")).split())
    memory = [line.split()[1] for line in read_text("/proc/meminfo").splitlines() if line.startswith("MemTotal")]
    return {
        "cpu": cpu_info("model name") or platform.processor() or platform.machine(),
        "family": " ".join(cpu_info(key) for key in ("cpu family", "model", "stepping")),
        "flags": [flag for flag in FLAGS if flag in have],
        "lacks": [flag for flag in FLAGS[:4] if flag not in have],
        "cores": os.cpu_count(),
        "memory_gib": int(memory[0]) / 2**20 if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "not shown by this machine"),
        "load": os.getloadavg()[0],
        "commit": commit(),
    }


def machine_lines(facts):
    """The same as Markdown list items."""
    memory = f"{facts['memory_gib']:.1f} GiB" if facts["memory_gib"] else "unknown"
    return [
        f"- Processor: {facts['cpu']} (family, model, stepping {facts['family']}), {facts['cores']} cores; "
        f"has {', '.join(facts['flags']) or 'none of the flags asked for'}; lacks {', '.join(facts['lacks']) or 'none of them'}",
        f"- Memory {memory}; {facts['system']}; Python {facts['python']}; frequency governor: {facts['governor']}; "
        f"load average at the start {facts['load']:.2f}",
        f"- Commit {facts['commit']}",
    ]


def environment(threads):
    """Same thread count for every library an arm might use; nothing is fetched from a hub."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def options(values):
    """A command line's words of a table of options."""
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


class Failed(Exception):
    """A child process ended badly; the text is the end of what it said."""


def run_child(command, log, variables=None, poll=None, stdout=None, seconds=None):
    """Runs a command to its end; gives its seconds and its peak resident memory in bytes (the kernel's high-water mark).

    `poll` is called every 10 ms while it runs, with the clock's reading at the start.
    """
    with open(log, "w") as sink:
        started = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], env=variables, stdout=stdout or sink, stderr=sink)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if poll:
                poll(started)
            if pid:
                break
            if seconds and time.perf_counter() - started > seconds:
                process.kill()
                os.wait4(process.pid, 0)
                raise Failed(f"stopped after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)
        elapsed = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = [line.strip() for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
        tail = " ".join(said[-3:])[-600:]
        raise Failed(f"exit {process.returncode}: {tail}")
    return {"seconds": elapsed, "peak_rss_bytes": usage.ru_maxrss * 1024}


class Rows:
    """Notes when each row of a metrics.jsonl appears that is being written; `poll` is for `run_child`."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def poll(self, _started):
        if self.path.exists():
            whole = self.path.read_text().count("\n")
            self.seen += [time.perf_counter()] * (whole - len(self.seen))

    def steps(self):
        """(row, time) of each training step."""
        rows = map(json.loads, self.path.read_text().splitlines())
        return [(row, at) for row, at in zip(rows, self.seen) if "loss" in row]


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(header, rows):
    return [row(header), "|" + "---|" * len(header), *map(row, rows)]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
