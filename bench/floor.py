"""The arithmetic that a DPO step cannot do without, counted from a model's shape and the lengths of its pairs.

Counted, a multiplication and an addition apart:
- rows of the packed batch: a prompt once for both completions, no padding, the last token of a sequence never a row (it predicts nothing);
- linear maps: forward, gradient of the input, gradient of the weight (not where the weight is frozen);
- adapters: their two small products forward, and both gradients of each;
- attention: visible (query, key) pairs only, two products forward and four backward (nothing computed again);
- head: scored rows only, forward and both gradients (one where it is frozen).
Not counted: the reference (its log-probs are known before the step), norms, activations, softmax, the optimizer. A step's floor
is this sum over the machine's measured matmul peak. Multiply-adds of elementwise work are three orders below.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What decides a model's operations; `linears` are (inputs, outputs) of one layer's maps, those fed by the layer's input first."""

    layers: int
    width: int
    vocabulary: int
    query_width: int
    linears: tuple
    inputs_from_embedding: int  # how many of `linears` read the layer's (normalised) input

    @classmethod
    def of(cls, config):
        """From a config.json of the families that the workloads use."""
        if config["model_type"] == "gpt2":
            d = config["n_embd"]
            inner = config.get("n_inner") or 4 * d
            return cls(config["n_layer"], d, config["vocab_size"], d, ((d, 3 * d), (d, d), (d, inner), (inner, d)), 1)
        d, f, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
        head = config.get("head_dim") or d // heads
        q, kv = heads * head, config.get("num_key_value_heads", heads) * head
        linears = ((d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d))
        return cls(config["num_hidden_layers"], d, config["vocab_size"], q, linears, 3)


def pair_rows(sequences):
    """(rows, scored rows, visible pairs of positions, real tokens) of a packed pair; sequences are (ids, start)."""
    (w, start), (l, _) = sequences
    prompt = start
    # the last prompt row predicts both first completion tokens; the last token of a completion is no row
    tails = [len(w) - prompt - 1, len(l) - prompt - 1]
    rows = prompt + sum(tails)
    # one row, whose logits serve two targets, where the completions begin
    scored = len(w) + len(l) - 2 * prompt - 1
    visible = prompt * (prompt + 1) // 2 + sum(t * prompt + t * (t + 1) // 2 for t in tails)
    return rows, scored, visible, len(w) + len(l)


def step_cost(shape, pairs, lora=None):
    """Floating-point operations of one step, with the counts that they come from."""
    counts = [pair_rows(sequences) for sequences in pairs]
    rows, scored, visible, tokens = (sum(column) for column in zip(*counts))
    longest = max(len(ids) for sequences in pairs for ids, _ in sequences)
    weights = sum(i * o for i, o in shape.linears) * shape.layers
    linear = 2 * rows * weights * (2 if lora else 3)
    attention = (4 + 8) * visible * shape.query_width * shape.layers
    head = 2 * scored * shape.vocabulary * shape.width * (2 if lora else 3)
    adapters = 0
    if lora:
        small = sum(i + o for i, o in shape.linears) * shape.layers * lora
        adapters = 2 * rows * small * 3
        # nothing below the first layer's maps is trained: they need no gradient of their input
        first = shape.linears[: shape.inputs_from_embedding]
        linear -= 2 * rows * sum(i * o for i, o in first)
        adapters -= 2 * rows * lora * sum(i for i, _ in first)
    return {
        "flops": linear + attention + head + adapters, "linear": linear, "attention": attention, "head": head, "adapters": adapters,
        "rows": rows, "scored": scored, "tokens": tokens, "padded": longest * 2 * len(pairs),
    }  # fmt: skip
