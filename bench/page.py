"""The Markdown page of `bench/run`, a pure function of its raw results."""

import statistics
from dataclasses import dataclass

import agree
from common import machine_lines, table
from workloads import ARMS, FLOOR_AIM, MEMORY_AIM, WORKLOADS

# steps that warm up and are shown apart: the first; with torch.compile the second too, which meets a second shape
WARM_UP = {"trl-compile": 2}
OTHER_UNITS = {"diagnose": "s a pair", "heatmap": "s a map", "score": "s for all", "generate": "s a token"}


@dataclass
class Cell:
    """What the runs of one arm of one workload say together."""

    runs: list
    error: str | None = None
    differences: dict | None = None  # to the base arm; None for the base itself

    def ok(self):
        return self.runs and not self.error and (self.differences is None or agree.holds(self.differences))

    def seconds(self, arm):
        """Every measured step (training) or run."""
        if "steps" in self.runs[0]:
            return [step["seconds"] for run in self.runs for step in run["steps"][WARM_UP.get(arm, 1) :]]
        return [run["own_seconds"] for run in self.runs]

    def median(self, key):
        return statistics.median(run[key] for run in self.runs)


def cells_of(workload, results, base_of):
    """{arm: Cell} of a workload from its raw results, in order of the arms; agreement is with the base arm."""
    cells = {}
    for arm in ARMS:
        mine = [result for result in results if result["arm"] == arm]
        if mine:
            errors = [result["error"] for result in mine if result.get("error")]
            cells[arm] = Cell([r for r in mine if not r.get("error")], errors[0] if errors else None)
    base = next((arm for arm in base_of if arm in cells and cells[arm].runs), None)
    for arm, cell in cells.items():
        if base and arm != base and cell.runs:
            # the worst of the runs
            found = [agree.compare(workload.kind, run, cells[base].runs[0]) for run in cell.runs]
            cell.differences = {key: max((f[key] for f in found), key=lambda pair: pair[0]) for key in found[0]}
    return cells, base


def time_text(values, unit=""):
    middle = statistics.median(values)
    digits = 2 if middle >= 1 else 4
    text = f"{middle:.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}–{max(values):.{digits}f})"
    return text + unit


def met(value, aim):
    return "met" if value <= aim else "not met"


def share(ours, theirs, aim):
    """Our share of a peer's cost as '1/9.3', with the aim."""
    text = f"1/{theirs / ours:.1f}" if theirs >= ours else f"{ours / theirs:.2f}×"
    return text if aim is None else f"{text} (aim 1/{1 / aim:.0f}: {met(ours / theirs, aim)})"


def best_peer(cells, key):
    """The quickest arm at its best that worked: the one a sceptic would pick."""
    arms = [arm for arm in ("trl-best", "trl-compile") if arm in cells and cells[arm].ok()]
    return min(arms, key=lambda arm: key(arm, cells[arm])) if arms else None


def agreement(cell):
    if cell.error:
        return "failed"
    if cell.differences is None:
        return "base"
    verdict = "agrees" if agree.holds(cell.differences) else "**DISAGREES**"
    return verdict + ": " + ", ".join(f"{key} {value:.1e}" for key, (value, _) in cell.differences.items())


def step_floor(cell, facts, peak):
    """Median over the measured steps of seconds over the floor's."""
    ratios = []
    for run in cell.runs:
        for step, fact in list(zip(run["steps"], facts["steps"]))[1:]:
            ratios.append(step["seconds"] * peak * 1e9 / fact["flops"])
    return statistics.median(ratios)


def training_section(workload, cells, facts, peak):
    """One workload's arms: step, first step, memory, agreement; then our shares and the floor."""
    lines = [f"### `{workload.name}`: {workload.title}", ""]
    steps = facts["steps"][1:] or facts["steps"]
    mean = {key: statistics.mean(step[key] for step in steps) for key in steps[0]}
    lines += [
        f"{workload.batch} pairs a step, max_length {workload.max_length}; a step has {mean['tokens']:.0f} tokens in its sequences, "
        f"{mean['padded']:.0f} when padded, {mean['rows']:.0f} rows when prompts are shared, {mean['scored']:.0f} of them scored.",
        "",
    ]
    rows = []
    for arm, cell in cells.items():
        if cell.error or not cell.runs:
            rows.append([arm, "failed", "", "", "", cell.error or ""])
            continue
        warm = WARM_UP.get(arm, 1)
        measured = time_text(cell.seconds(arm)) if cell.seconds(arm) else "too few steps"
        first = cell.median("first_step")
        rows.append([arm, measured, f"{first:.1f}", f"{cell.median('peak_rss_bytes') / 2**30:.2f}", agreement(cell), extra(arm, cell, warm)])
    lines += table(["", "seconds a step", "first step after s", "peak GiB", "against the base", ""], rows)
    ours = cells.get("unbraid")
    if not (ours and ours.ok()):
        return lines + [""]
    lines += ["", *verdicts(workload, cells, ours, facts, peak)]
    return lines + [""]


def extra(arm, cell, warm):
    """What compiling cost: the warming steps beyond what later ones take."""
    if arm != "trl-compile" or not cell.seconds(arm):
        return ""
    usual = statistics.median(cell.seconds(arm))
    spent = [sum(step["seconds"] - usual for step in run["steps"][:warm]) for run in cell.runs]
    return f"compiling: about {statistics.median(spent):.0f} s in the first {warm} steps"


def verdicts(workload, cells, ours, facts, peak):
    rows = []
    mine = statistics.median(ours.seconds("unbraid"))
    time_of = lambda arm, cell: statistics.median(cell.seconds(arm))
    best = best_peer(cells, time_of)
    for arm, aim in (("trl", workload.aims["trl"]), (best, workload.aims["best"])):
        if arm and arm in cells and cells[arm].ok():
            cell = cells[arm]
            rows.append([
                arm, share(mine, time_of(arm, cell), aim), share(ours.median("first_step"), cell.median("first_step"), None),
                share(ours.median("peak_rss_bytes"), cell.median("peak_rss_bytes"), MEMORY_AIM),
            ])  # fmt: skip
    lines = table(["unbraid's share of", "step", "time to the first step", "peak memory"], rows)
    if peak:
        flops = statistics.mean(step["flops"] for step in (facts["steps"][1:] or facts["steps"]))
        ratio = step_floor(ours, facts, peak)
        lines += [
            "",
            f"Floor: {flops / 1e9:.0f} GFLOP a step, {flops / peak / 1e9:.3f} s at {peak:.0f} GFLOP/s; unbraid takes "
            f"{ratio:.2f} times it (aim {FLOOR_AIM}: {met(ratio, FLOOR_AIM)}).",
        ]
    return lines


def other_section(workload, cells):
    unit = OTHER_UNITS[workload.kind]
    lines = [f"### `{workload.name}`: {workload.title}", ""]
    ours = cells.get("unbraid")
    rows = []
    for arm, cell in cells.items():
        if cell.error or not cell.runs:
            rows.append([arm, "failed", "", "", "", cell.error or ""])
            continue
        own = time_text(cell.seconds(arm))
        ratio = ""
        if ours and ours.ok() and cell.ok() and arm != "unbraid":
            ratio = share(statistics.median(ours.seconds("unbraid")), statistics.median(cell.seconds(arm)), None)
        whole = f"{cell.median('seconds'):.1f}"
        rows.append([arm, own, whole, f"{cell.median('peak_rss_bytes') / 2**30:.2f}", agreement(cell), ratio])
    return lines + table(["", unit, "whole process s", "peak GiB", "against the base", "unbraid's share"], rows) + [""]


def page(title, record, results):
    """The whole page; `record` holds machine, peaks, settings and the facts of the workloads."""
    peaks = record["peaks"]
    known = [value for value in peaks.values() if value]
    peak = max(known) if known else None
    lines = [
        f"# {title}",
        "",
        "Made by `bench/run`; raw numbers lie in the directory of the same name. Each arm ran in its own process, in turn. DPO in float32, "
        f"AdamW, linear schedule over {record['steps']} steps, clipping 1.0, pairs in order, no dropout, no gradient checkpointing; the same "
        "start of the adapter for all under LoRA. Seconds are medians with their range in brackets, the first step left out (torch.compile: the first "
        "two) and shown in the time to the first step, which runs from the start of the process and includes the reference.",
        "",
        *machine_lines(record["machine"]),
        "- Matmul peak, float32, "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in peaks.items() if value)
        + f"; {record['threads']} threads. The floors use the largest.",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions(results).items())),
        f"- Model: `{record['model']}`, weights sha256 {record['model_sha256']}…",
        "",
    ]
    if record.get("quick"):
        lines += ["**A trial (`--quick`): agreement was checked, the times mean nothing.**", ""]
    for workload in WORKLOADS:
        mine = [result for result in results if result["workload"] == workload.name]
        if not mine:
            continue
        cells, _ = cells_of(workload, mine, ("trl", "torch", "trl-best", "torch-best"))
        facts = record["facts"][workload.name]
        section = training_section(workload, cells, facts, peak) if workload.kind == "train" else other_section(workload, cells)
        lines += section
    lines += ["## Notes", "", *(f"- {note}" for note in record["notes"])] if record["notes"] else []
    lines += ["", "## Commands", "", *commands(results), ""]
    return "\n".join(lines)


def versions(results):
    return {name: version for result in results for name, version in result.get("versions", {}).items()}


def commands(results):
    seen = {(result["workload"], result["arm"]): result["command"] for result in results if "command" in result}
    return [f"- {workload}, {arm}: `{command}`" for (workload, arm), command in seen.items()]


def loads(results):
    """The highest load average seen before a run: a busy machine shows."""
    return max((result["load_before"] for result in results), default=0.0)


