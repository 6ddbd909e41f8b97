"""Turns HH-RLHF transcripts into explicit pairs: one JSON object {"prompt","chosen","rejected"} a line.

    python bench/make_hh_pairs.py helpful-base.test.jsonl.gz pairs.jsonl --limit 200

A row holds two transcripts that begin alike. The prompt is what they share, up to and including the
last "\\n\\nAssistant:" of the longest common prefix; the rest of each is its completion. Rows without
that mark, with equal transcripts or with an empty completion are left out, so that every trainer given the file sees the same pairs.
`--keep-index` adds the row number in the input. Nothing is tokenised here.
"""

import argparse
import gzip
import json
import os
import sys
from pathlib import Path

MARK = "\n\nAssistant:"


def open_text(path):
    path = str(path)
    return gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")


def split_transcripts(chosen, rejected):
    """(prompt, chosen, rejected) of two transcripts, or None when they make no usable pair."""
    shared = os.path.commonprefix([chosen, rejected])
    at = shared.rfind(MARK)
    if at < 0 or chosen == rejected:
        return None
    cut = at + len(MARK)
    if not chosen[cut:].strip() or not rejected[cut:].strip():
        return None
    return chosen[:cut], chosen[cut:], rejected[cut:]


def read_pairs(path):
    """Yields (row number, prompt, chosen, rejected) from transcripts or from explicit pairs."""
    with open_text(path) as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            if "prompt" in row:
                yield number, row["prompt"], row["chosen"], row["rejected"]
            elif (parts := split_transcripts(row["chosen"], row["rejected"])) is not None:
                yield number, *parts


def write_pairs(source, target, limit=None, keep_index=False):
    """Writes the first `limit` usable pairs; returns how many there were."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(target, "w", encoding="utf-8") as out:
        for number, prompt, chosen, rejected in read_pairs(source):
            if limit is not None and count == limit:
                break
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            if keep_index:
                row["index"] = number
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keep-index", action="store_true")
    args = parser.parse_args()
    print(f"{write_pairs(args.source, args.target, args.limit, args.keep_index)} pairs", file=sys.stderr)
