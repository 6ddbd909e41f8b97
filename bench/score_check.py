"""Compares `unbraid score` with transformers on the same pairs.

    unbraid score --model-name-or-path MODEL --dataset-name pairs.jsonl --max-length 512 --output-dir OUT
    python bench/score_check.py --scores OUT/scores.jsonl --model MODEL --data pairs.jsonl --max-length 512

Prints the largest absolute and relative difference of chosen_logps and rejected_logps and the worst
rows; exits 1 when a relative difference is above `--tolerance`, a completion's length differs, or a pair is missing. The log-probs
are summed over the completion's tokens (EOS included), tokenised as TRL 1.x does: ids of the prompt, ids of
prompt + completion + EOS text, the completion starting where either first differs from the prompt's.
Rows are matched by `index`, the row's number in the data file (from 0).
"""

import argparse
import json
import sys

import fast_mkl
from make_hh_pairs import read_pairs

SIDES = ("chosen", "rejected")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", required=True, help="scores.jsonl")
    parser.add_argument("--model", required=True, help="model directory in Hugging Face layout")
    parser.add_argument("--data", required=True, help="the pairs that were scored, .jsonl or .jsonl.gz")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--limit", type=int, help="compare only the first N pairs of the data")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="padded tokens in one forward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--worst", type=int, default=5, help="rows to show")
    parser.add_argument("--fast-mkl", action="store_true", help="see fast_mkl.py")
    return parser.parse_args()


def common_prefix(a, b):
    count = 0
    for x, y in zip(a, b):
        if x != y:
            break
        count += 1
    return count


def tokenize(tokenizer, prompt, completions, max_length):
    """((ids, prompt length) for chosen, for rejected), or None when the prompt fills `max_length`."""
    eos = tokenizer.eos_token
    prompt_ids = tokenizer(prompt)["input_ids"]
    texts = [c if c.endswith(eos) else c + eos for c in completions]
    sequences = [tokenizer(prompt + text)["input_ids"] for text in texts]
    start = min(common_prefix(prompt_ids, ids) for ids in sequences)
    if start >= max_length:
        return None
    return [(ids[:max_length], start) for ids in sequences]


def batches(sequences, batch_tokens):
    """Groups of similar length whose padded size stays within `batch_tokens`."""
    group = []
    for item in sorted(sequences, key=lambda item: len(item[1])):
        if group and (len(group) + 1) * len(item[1]) > batch_tokens:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def score(model, group):
    """Summed completion log-probs [B] of one padded batch; logits only where they are needed."""
    import torch

    width = max(len(ids) for _, ids, _ in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    attention, wanted = torch.zeros_like(ids), torch.zeros(len(group), width, dtype=torch.bool)
    for row, (_, tokens, start) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = 1
        wanted[row, start : len(tokens)] = True
    # position t predicts token t + 1
    wanted = wanted[:, 1:]
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden[:, :-1][wanted]).float()
        logps = logits.log_softmax(-1).gather(1, ids[:, 1:][wanted].unsqueeze(1)).squeeze(1)
        rows = torch.arange(len(group)).unsqueeze(1).expand_as(wanted)[wanted]
        # summed in float64, so that only the token log-probs carry float32 rounding
        return torch.zeros(len(group), dtype=torch.float64).index_add_(0, rows, logps.double()).tolist()


def main():
    args = parse()
    if args.fast_mkl:
        fast_mkl.restart_with_it()
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    with open(args.scores) as lines:
        scores = {row["index"]: row for row in map(json.loads, lines)}

    sequences, pairs, problems = [], 0, []
    for index, prompt, chosen, rejected in read_pairs(args.data):
        if args.limit is not None and pairs == args.limit:
            break
        encoded = tokenize(tokenizer, prompt, (chosen, rejected), args.max_length)
        if encoded is None:
            if index in scores:
                problems.append(f"row {index}: scored, though its prompt fills max_length")
            continue
        pairs += 1
        if index not in scores:
            problems.append(f"row {index}: missing from the scores")
            continue
        for side, (ids, start) in zip(SIDES, encoded):
            length = scores[index][f"{side}_len"]
            if length != len(ids) - start:
                problems.append(f"row {index}: {side}_len {length}, expected {len(ids) - start}")
            sequences.append(((index, side), ids, start))

    rows = []
    for number, group in enumerate(batches(sequences, args.batch_tokens)):
        for ((index, side), _, _), theirs in zip(group, score(model, group)):
            ours = scores[index][f"{side}_logps"]
            absolute = abs(ours - theirs)
            rows.append((absolute / max(abs(theirs), 1e-12), absolute, index, side, ours, theirs))
        if sys.stderr.isatty():
            print(f"\r{len(rows)} / {len(sequences)} sequences", end="", file=sys.stderr)

    if not rows:
        raise SystemExit("nothing to compare: no scored pair matches the data")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{pairs} pairs, {len(rows)} sequences, max_length {args.max_length}; {versions}")
    for side in SIDES:
        mine = [row for row in rows if row[3] == side]
        relative, absolute = max(row[0] for row in mine), max(row[1] for row in mine)
        print(f"{side}_logps: largest difference {absolute:.3e} nats absolute, {relative:.3e} relative")
    print("worst rows (index, side, unbraid, transformers, absolute, relative):")
    for relative, absolute, index, side, ours, theirs in sorted(rows, reverse=True)[: args.worst]:
        print(f"  {index:6} {side:8} {ours:14.6f} {theirs:14.6f} {absolute:.3e} {relative:.3e}")
    # NaN compares false with everything, so ask for what is wanted rather than for its opposite
    failed = [row for row in rows if not row[0] <= args.tolerance]
    if failed:
        problems.append(f"{len(failed)} sequences differ by more than {args.tolerance:g} relative")
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
