"""Writes the model goldens: one or two tiny models a family, with what float64 PyTorch gets from them.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python parity/models/generate.py [CASE ...]

Per case: `config.json`, `model.safetensors` (float32), `golden.json` here, and greedy
continuations in `../generate/<case>.json`. Weights are drawn from a fixed seed and rounded
to float32; every number in the goldens is then computed in float64 on those rounded
weights (see double.py for what that takes). Formulas: a = Σ_i log π(y_i | x, y_<i) over the
completion, g = ∇_θ a over all parameters, DPO loss −log σ(β h) averaged over the pairs of a batch.
"""

import json
import re
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Trainer,
)

import double

HERE = Path(__file__).resolve().parent
COMMAND = "python parity/models/generate.py"
SEED = 20241017
VOCAB = 101
BETA = 0.1
PAIRS_PER_STEP = 3
STEPS = 10
WARMUP_STEPS = 2
GREEDY_TOKENS = 12

CASES = {
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4,
        bos_token_id=99, eos_token_id=100, tie_word_embeddings=True,
    ),
    "llama": LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
        bos_token_id=99, eos_token_id=100,
    ),
    # heads × head_dim = 72 is three times the width, and the six rotary wavelengths
    # (6.3, 29, 135, …) fall into all three bands of Llama 3's scaling (8 and 32 tokens)
    "llama_tied": LlamaConfig(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=12, max_position_embeddings=64,
        attention_bias=False, mlp_bias=False, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=99, eos_token_id=100,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    ),
    # a window of 4 in every layer, shorter than all sequences but the shortest; heads wider than width / heads
    "mistral": MistralConfig(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=10, max_position_embeddings=64,
        sliding_window=4, tie_word_embeddings=False, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0}, bos_token_id=99, eos_token_id=100,
    ),
    # biases on q, k and v alone; full attention in the first layer, the window in the others
    "qwen2": Qwen2Config(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=35, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64,
        use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, bos_token_id=99, eos_token_id=100,
    ),
    # norms over each head of q and k; three query heads on each of two key heads
    "qwen3": Qwen3Config(
        vocab_size=VOCAB, hidden_size=18, intermediate_size=33, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        tie_word_embeddings=False, bos_token_id=99, eos_token_id=100,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    # both caps within the logits' spread; windows in layers 0 and 2; a scale that is not head_dim^-1/2;
    # a width whose root is irrational
    "gemma2": Gemma2Config(
        vocab_size=VOCAB, hidden_size=20, intermediate_size=31, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        sliding_window=4, query_pre_attn_scalar=5, attn_logit_softcapping=1.5, final_logit_softcapping=2.5,
        bos_token_id=99, eos_token_id=100, pad_token_id=0,
    ),
    # parallel residual, half of each head turns
    "gpt_neox": GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=24, intermediate_size=34, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=64, rotary_pct=0.5, hidden_act="gelu",
        use_parallel_residual=True, bos_token_id=99, eos_token_id=100,
    ),
    # one half after the other, two tenths of each head turn, tied, no attention biases, GELU by tanh
    "gpt_neox_sequential": GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=20, intermediate_size=26, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, rotary_pct=0.2, rotary_emb_base=500.0,
        hidden_act="gelu_new", use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True,
        bos_token_id=99, eos_token_id=100,
    ),
}  # fmt: skip


def checkpoint_name(model, name):
    """The name under which `save_pretrained` stores a parameter (GPT-NeoX's head has another in memory)."""
    return name.replace("lm_head.", "embed_out.") if model.config.model_type == "gpt_neox" else name


def named_parameters(model):
    """(checkpoint name, parameter), a tied one once."""
    return [(checkpoint_name(model, name), parameter) for name, parameter in model.named_parameters()]


def draw_pairs():
    """Six pairs (prompt, chosen, rejected) of token ids; the same for every case."""
    generator = torch.Generator().manual_seed(SEED)

    def ids(count):
        return torch.randint(0, VOCAB, (count,), generator=generator).tolist()

    def changed(tokens, position):
        copy = list(tokens)
        copy[position] = (copy[position] + 1 + ids(1)[0] % (VOCAB - 1)) % VOCAB
        return copy

    last_differs, near_identical = ids(9), ids(17)
    rows = [
        (ids(7), ids(5), ids(6)),
        (ids(1), ids(1), ids(1)),
        (ids(25), ids(20), ids(13)),
        (ids(4), last_differs, changed(last_differs, -1)),
        (ids(11), near_identical, changed(near_identical, 8)),
        (ids(16), ids(3), ids(19)),
    ]
    return [dict(zip(("prompt", "chosen", "rejected"), row)) for row in rows]


def draw_model(config):
    """A model whose logits are not flat and whose norm weights and biases matter, float32."""
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(SEED + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                # Gemma multiplies by 1 + weight
                centre = 0.0 if config.model_type == "gemma2" else 1.0
                parameter.copy_(0.2 * noise if name.endswith("bias") else centre + 0.3 * noise)
            elif "wpe" in name:
                parameter.copy_(0.2 * noise)
            elif any(part in name for part in ("wte", "embed_tokens", "embed_in", "lm_head")):
                parameter.copy_(0.4 * noise)
            else:
                # GPT-2 keeps [in, out], the others [out, in]
                inputs = parameter.shape[0] if config.model_type == "gpt2" else parameter.shape[1]
                parameter.copy_(noise / inputs**0.5)
    return model.eval()


def token_logps(model, prompt, completion):
    """log π(y_i | x, y_<i) [L] in nats, differentiable."""
    ids = torch.tensor([prompt + completion])
    logps = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0], dim=-1)
    rows = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logps[rows, torch.tensor(completion)]


def gradient(value, parameters, retain=False):
    return torch.autograd.grad(value, parameters, retain_graph=retain)


def flat(gradients):
    return torch.cat([g.reshape(-1) for g in gradients])


def geometry(model, pair):
    """One pair's log-probs and its three inner products, in total and per parameter."""
    names, parameters = zip(*named_parameters(model))
    row, gradients = {}, {}
    for side in ("chosen", "rejected"):
        logps = token_logps(model, pair["prompt"], pair[side])
        row[f"{side}_token_logps"] = logps.tolist()
        row[f"{side}_logps"] = logps.sum().item()
        gradients[side] = gradient(logps.sum(), parameters)

    by_parameter = {
        name: {
            "grad_sq_chosen": (w * w).sum().item(),
            "grad_sq_rejected": (l * l).sum().item(),
            "grad_inner": (w * l).sum().item(),
        }
        for name, w, l in zip(names, gradients["chosen"], gradients["rejected"])
    }
    for key in ("grad_sq_chosen", "grad_sq_rejected", "grad_inner"):
        row[key] = sum(entry[key] for entry in by_parameter.values())
    row["parameters"] = by_parameter
    return row, flat(gradients["chosen"]), flat(gradients["rejected"])


def token_gradients(model, pair):
    """Rows ∇_θ log π(y_i | x, y_<i): the chosen tokens, then the rejected ones [L_w + L_l, P]."""
    parameters = list(model.parameters())
    rows = []
    for side in ("chosen", "rejected"):
        logps = token_logps(model, pair["prompt"], pair[side])
        rows += [flat(gradient(logp, parameters, retain=True)) for logp in logps]
    return torch.stack(rows)


def pair_logps(model, pairs):
    """Summed log-probs of the pairs: chosen [B], rejected [B]."""
    sides = [[token_logps(model, p["prompt"], p[side]).sum() for p in pairs] for side in ("chosen", "rejected")]
    return torch.stack(sides[0]), torch.stack(sides[1])


def trajectory(build, pairs, settings):
    """Ten DPO steps from the drawn weights; the reference is the model before the first one."""
    model = build()
    decayed = {checkpoint_name(model, name) for name in Trainer.get_decay_parameter_names(None, model)}
    if settings["optimizer"] == "adamw":
        named = named_parameters(model)
        groups = [
            {"params": [p for n, p in named if n in decayed], "weight_decay": settings["weight_decay"]},
            {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
        ]
        betas = (settings["adam_beta1"], settings["adam_beta2"])
        optimizer = torch.optim.AdamW(
            groups, lr=settings["learning_rate"], betas=betas, eps=settings["adam_epsilon"]
        )
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)
        settings = settings | {"decayed": [n for n, _ in named if n in decayed]}
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=settings["learning_rate"])
        schedule = transformers.get_constant_schedule(optimizer)

    with torch.no_grad():
        ref_chosen, ref_rejected = pair_logps(model, pairs)
    start = {n: p.detach().clone() for n, p in named_parameters(model)}

    steps = []
    for step in range(STEPS):
        batch = [(step * PAIRS_PER_STEP + i) % len(pairs) for i in range(PAIRS_PER_STEP)]
        chosen, rejected = pair_logps(model, [pairs[i] for i in batch])
        margin = (chosen - ref_chosen[batch]) - (rejected - ref_rejected[batch])
        loss = -torch.nn.functional.logsigmoid(BETA * margin).mean()
        optimizer.zero_grad()
        loss.backward()
        grad_norm = flat(p.grad for p in model.parameters()).norm().item()
        if settings["max_grad_norm"] > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        steps.append(
            {
                "pairs": batch,
                "loss": loss.item(),
                "grad_norm": grad_norm,
                "learning_rate": schedule.get_last_lr()[0],
                "chosen_logps": chosen.tolist(),
                "rejected_logps": rejected.tolist(),
            }
        )
        optimizer.step()
        schedule.step()

    with torch.no_grad():
        chosen, rejected = pair_logps(model, pairs)
        change = {n: (p - start[n]).pow(2).sum().item() for n, p in named_parameters(model)}
    final = {"chosen_logps": chosen.tolist(), "rejected_logps": rejected.tolist(), "parameter_change_sq": change}
    return settings | {"steps": steps, "final": final}


TRAJECTORIES = {
    "adamw": {
        "optimizer": "adamw", "beta": BETA, "pairs_per_step": PAIRS_PER_STEP, "learning_rate": 1e-3,
        "weight_decay": 0.01, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        # torch scales by max_norm / (norm + 1e-6), never upwards
        "max_grad_norm": 1.0, "clip_epsilon": 1e-6,
        "lr_scheduler_type": "linear", "warmup_steps": WARMUP_STEPS, "max_steps": STEPS,
    },
    "sgd": {
        "optimizer": "sgd", "beta": BETA, "pairs_per_step": PAIRS_PER_STEP, "learning_rate": 1e-2,
        "weight_decay": 0.0, "momentum": 0.0, "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "max_steps": STEPS,
    },
}  # fmt: skip


def check_against_float32(model, config, weights, pairs):
    """The float64 model is transformers' model: logits agree with the untouched float32 one."""
    ids = torch.tensor([pairs[2]["prompt"] + pairs[2]["chosen"]])
    worst = (model(input_ids=ids).logits.float() - weights["logits"]).abs().max().item()
    if not 0.0 < worst < 1e-4:
        raise AssertionError(f"float64 and float32 logits differ by {worst}")
    return worst


def check_against_differences(model, pair):
    """Central difference of a_w along a random direction: fails if anything runs in float32."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(SEED + 2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    analytic = token_logps(model, pair["prompt"], pair["chosen"]).sum()
    analytic = sum((g * d).sum() for g, d in zip(gradient(analytic, parameters), direction)).item()

    def at(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=step)
            value = token_logps(model, pair["prompt"], pair["chosen"]).sum().item()
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=-step)
        return value

    h = 1e-5
    # fourth order, so that truncation stays below the float32 rounding it must expose
    numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    error = abs(numeric - analytic) / abs(analytic)
    if error > 1e-8:
        raise AssertionError(f"gradient is off by {error} relative: not float64 throughout?")
    return error


def greedy(model, prompts):
    """Greedy continuation without stopping at EOS, with the smallest lead of the best token."""
    rows = []
    for prompt in prompts:
        ids, leads = list(prompt), []
        for _ in range(GREEDY_TOKENS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = torch.topk(logits, 2)
            leads.append((best.values[0] - best.values[1]).item())
            ids.append(best.indices[0].item())
        rows.append({"prompt": prompt, "completion": ids[len(prompt) :], "smallest_lead": min(leads)})
    return rows


def write_json(path, value):
    """Indented, with every innermost list of numbers on one line."""
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda m: "[" + ", ".join(m.group(0)[1:-1].split()).replace(",,", ",") + "]", text)
    path.write_text(text + "\n")


def main(names):
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    pairs = draw_pairs()
    drawn = {}
    for name in names:
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        model = draw_model(CASES[name])
        model.config.architectures = [type(model).__name__]
        model.config.to_json_file(folder / "config.json", use_diff=False)
        state = {n: p.detach().contiguous() for n, p in named_parameters(model)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        ids = torch.tensor([pairs[2]["prompt"] + pairs[2]["chosen"]])
        with torch.no_grad():
            drawn[name] = {"logits": model(input_ids=ids).logits}

    double.patch()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name in names:
        folder = HERE / name

        def build():
            # from the written files, so that what is committed is what was measured
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
            return model.double().eval()

        model = build()
        against_float32 = check_against_float32(model, CASES[name], drawn[name], pairs)
        against_differences = check_against_differences(model, pairs[2])

        rows, gradients = [], []
        for pair in pairs:
            row, chosen, rejected = geometry(model, pair)
            rows.append(row)
            gradients += [chosen, rejected]
        first_three = torch.stack(gradients[:6])
        tokens = token_gradients(model, pairs[0])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([pairs[0]["prompt"] + pairs[0]["chosen"]])).logits[0]

        header = {"versions": versions, "command": COMMAND, "seed": SEED, "dtype": "float64 on float32 weights"}
        golden = header | {
            "pairs": pairs,
            "per_pair": rows,
            "batch_gram": (first_three @ first_three.T).tolist(),
            "token_inner": (tokens @ tokens.T).tolist(),
            "logits": logits.tolist(),
            "trajectories": {key: trajectory(build, pairs, value) for key, value in TRAJECTORIES.items()},
        }
        write_json(folder / "golden.json", golden)
        generations = greedy(model, [pairs[0]["prompt"], pairs[2]["prompt"]])
        write_json(HERE.parent / "generate" / f"{name}.json", header | {"generations": generations})
        leads = [round(row["smallest_lead"], 4) for row in generations]
        print(
            f"{name}: float32 logits within {against_float32:.1e}, differences within {against_differences:.1e}, "
            f"logit std {logits.std().item():.2f}, greedy leads {leads}"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
