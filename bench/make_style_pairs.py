"""Explicit pairs for `bench/run`: near-identical rewrites, or sentiment labels of tweets.

    python bench/make_style_pairs.py rasbt instruction-data-with-preference.json pairs.jsonl
    python bench/make_style_pairs.py sentiment train.csv pairs.jsonl --limit 10 --style prefix-suffix

`rasbt`: instruction (and input, if any) as the prompt, polite and impolite rewrites of one answer as completions. `sentiment`: the paper's
§4.2 (arXiv 2410.13828): prompt = the tweet, chosen = its label in a fixed sentence, rejected = the other label; neutral and empty tweets are left
out. `single-token` has no full stop, so that nothing follows the differing token but EOS.
"""

import argparse
import csv
import json
from pathlib import Path

STYLES = {
    "single-token": " {}",
    "short-suffix": " {} sentiment.",
    "long-suffix": " {} sentiment based on my judgement.",
    "prefix-suffix": " It has a {} sentiment based on my judgement.",
}


def rasbt(path, _style):
    for row in json.loads(Path(path).read_text()):
        given = f"\n\n{row['input']}" if row["input"] else ""
        prompt = f"{row['instruction']}{given}\n\nAnswer:"
        yield {"prompt": prompt, "chosen": " " + row["chosen"], "rejected": " " + row["rejected"]}


def sentiment(path, style):
    sentence = STYLES[style]
    names = {"positive": "Positive", "negative": "Negative"}
    with open(path, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            tweet, label = row["text"].strip(), row["sentiment"]
            if not tweet or label not in names:
                continue
            true = names[label]
            other = names["negative" if label == "positive" else "positive"]
            if style == "prefix-suffix":
                true, other = true.lower(), other.lower()
            yield {"prompt": tweet, "chosen": sentence.format(true), "rejected": sentence.format(other)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=["rasbt", "sentiment"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--style", choices=STYLES, default="prefix-suffix")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    rows = {"rasbt": rasbt, "sentiment": sentiment}[args.kind](args.source, args.style)
    with open(args.target, "w", encoding="utf-8") as out:
        for number, row in enumerate(rows):
            if number == args.limit:
                break
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
