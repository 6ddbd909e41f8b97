"""Whether two arms computed the same thing: timing counts only where they did.

Tolerances are relative. Training: loss and log-probs of every step within `LOGPS`, gradient norms within `NORM`. Measured when this was written:
two runs of TRL differ from each other by up to 4e-6 (loss), 7e-7 (log-probs) and 4e-6 (norm). Geometry: squared norms and inner
products within `GEOMETRY` of the product of the norms, cosines within it absolutely. Scores within `LOGPS`. Greedy text: the same tokens.
"""

LOGPS = 1e-4
NORM = 1e-3
GEOMETRY = 1e-4

TRAINING = {"loss": LOGPS, "logps/chosen": LOGPS, "logps/rejected": LOGPS, "grad_norm": NORM}


def relative(value, base):
    return abs(value - base) / max(abs(base), 1e-12)


def training(ours, base):
    """Largest relative difference of each metric over the steps that both have."""
    steps = list(zip(ours["steps"], base["steps"]))
    return {key: (max(relative(a[key], b[key]) for a, b in steps), limit) for key, limit in TRAINING.items()}


def geometry(ours, base):
    by_index = {row["index"]: row for row in ours["rows"]}
    errors = []
    for row in base["rows"]:
        mine = by_index[row["index"]]
        scale = (row["grad_sq_chosen"] * row["grad_sq_rejected"]) ** 0.5
        errors += [relative(mine[key], row[key]) for key in ("grad_sq_chosen", "grad_sq_rejected")]
        errors.append(abs(mine["grad_inner"] - row["grad_inner"]) / scale)
    return {"norms and inner products": (max(errors), GEOMETRY)}


def cosines(ours, base):
    pairs = [(x, y) for a, b in zip(ours["cosine"], base["cosine"]) for x, y in zip(a, b)]
    return {"cosines": (max(abs(x - y) for x, y in pairs), GEOMETRY)}


def scores(ours, base):
    pairs = [(a[side], b[side]) for a, b in zip(ours["logps"], base["logps"]) for side in ("chosen", "rejected")]
    whole = len(ours["logps"]) == len(base["logps"])
    return {"log-probs": (max(relative(x, y) for x, y in pairs) if whole else float("inf"), LOGPS)}


def text(ours, base):
    wrong = sum(a != b for a, b in zip(ours["tokens"], base["tokens"]))
    wrong += abs(len(ours["tokens"]) - len(base["tokens"]))
    return {"texts that differ": (wrong, 0)}


HOW = {"train": training, "diagnose": geometry, "heatmap": cosines, "score": scores, "generate": text}


def compare(kind, ours, base):
    """{what: (largest difference, allowed)}"""
    return HOW[kind](ours, base)


def holds(differences):
    # NaN compares false with everything, so ask for what is wanted
    return all(value <= limit for value, limit in differences.values())
