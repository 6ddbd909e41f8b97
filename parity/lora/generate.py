"""Writes the adapter goldens: PEFT adapters on the tiny models of `../models`, with float64 numbers.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.0 safetensors==0.8.0
    python parity/lora/generate.py          # or: … generate.py llama gemma2_tables

Per case: the adapter as `save_pretrained` writes it (B drawn at random: a fresh one would change nothing)
and `golden.json`: token log-probs of the pairs of `../models/<base>/golden.json`, ‖g_w‖², ‖g_l‖², ⟨g_w, g_l⟩ over
the trainable parameters alone, the first log-probs after merging, six DPO steps with AdamW, and the names and shapes of
the tensors that PEFT writes (weights of the base that it stores beside them left out).

Where a tied matrix is adapted as one of its two modules, `merge_and_unload` changes both, and the merged model is another
than the adapted one. Ours unties them; the golden then holds the adapted model's log-probs.
"""

import json
import sys
from pathlib import Path

import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
import double  # noqa: E402
from generate import pair_logps, token_logps  # noqa: E402

SEED = 20241018
CASES = {
    # names, another rank and α for some modules
    "llama": ("llama", dict(
        r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"layers.1.mlp.down_proj": 2}, alpha_pattern={"v_proj": 7},
    )),
    # Conv1D, every linear map, the square root of the rank
    "gpt2": ("gpt2", dict(r=4, lora_alpha=6, target_modules="all-linear", use_rslora=True)),
    # a module trained whole, a regular expression
    "llama_whole": ("llama", dict(
        r=2, lora_alpha=4, target_modules=r".*layers\.\d+\.self_attn\.(k|o)_proj", modules_to_save=["lm_head"],
    )),
    # the head adapted, norms by the end of their names
    "llama_head": ("llama", dict(
        r=3, lora_alpha=5, target_modules=["lm_head", "v_proj"], modules_to_save=["norm"],
    )),
    # one matrix that is table and head, with an adapter as each; a cap on the logits, a factor on the embedding
    "gemma2_tables": ("gemma2", dict(r=3, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "o_proj"])),
    # the table alone
    "qwen2_table": ("qwen2", dict(r=2, lora_alpha=3, target_modules=["embed_tokens", "q_proj"], use_rslora=True)),
    # a tied matrix trained whole as one module, as the other, as both
    "llama_tied_table": ("llama_tied", dict(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "gpt2_head": ("gpt2", dict(r=2, target_modules=["c_attn"], modules_to_save=["lm_head"])),
    "qwen2_tied": ("qwen2", dict(
        r=2, target_modules=["k_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True,
    )),
    # embed_in adapted, the head trained whole under its name of today
    "gpt_neox_head": ("gpt_neox", dict(
        r=2, target_modules=["query_key_value", "embed_in"], modules_to_save=["lm_head"],
    )),
    # the start moved a part of the base into the adapter
    "mistral_pissa": ("mistral", dict(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights="pissa")),
    "gpt2_pissa": ("gpt2", dict(r=3, target_modules=["c_attn", "c_proj"], init_lora_weights="pissa")),
    "qwen3_olora": ("qwen3", dict(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights="olora")),
}  # fmt: skip


def load(base):
    path = HERE.parent / "models" / base
    options = dict(attn_implementation="eager", dtype=torch.float32)
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options)


def write_adapter(base, settings, folder):
    torch.manual_seed(SEED)  # A's start
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    # the path of the checkout is nobody's business
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = f"parity/models/{base}"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set in PEFT, in no order
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)


def tensors(folder):
    """Name and shape of every tensor of the adapter's file."""
    with safetensors.safe_open(folder / "adapter_model.safetensors", "pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    return {name: shapes[name] for name in sorted(shapes) if ".base_layer." not in name}


def trajectory(model, pairs):
    """Six DPO steps with AdamW from the written adapter; the reference is the base, the adapter off."""
    trained = [p for p in model.parameters() if p.requires_grad]
    settings = {"beta": 0.1, "learning_rate": 1e-2, "weight_decay": 0.01, "max_grad_norm": 1.0, "pairs_per_step": 3}
    # As transformers' Trainer: norm weights are not decayed.
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings["learning_rate"])
    with torch.no_grad(), model.disable_adapter():
        ref_chosen, ref_rejected = pair_logps(model, pairs)
    steps = []
    for step in range(6):
        batch = [(3 * step + i) % len(pairs) for i in range(3)]
        chosen, rejected = pair_logps(model, [pairs[i] for i in batch])
        margin = (chosen - ref_chosen[batch]) - (rejected - ref_rejected[batch])
        loss = -torch.nn.functional.logsigmoid(settings["beta"] * margin).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, settings["max_grad_norm"]).item()
        optimizer.step()
        steps.append({"pairs": batch, "loss": loss.item(), "grad_norm": norm})
    return settings | {"steps": steps}


def main():
    double.patch()
    for case, (base, settings) in CASES.items():
        if sys.argv[1:] and case not in sys.argv[1:]:
            continue
        folder = HERE / case
        write_adapter(base, settings, folder)
        model = PeftModel.from_pretrained(load(base), folder, is_trainable=True).double().eval()
        pairs = json.loads((HERE.parent / "models" / base / "golden.json").read_text())["pairs"]
        trained = [p for p in model.parameters() if p.requires_grad]
        rows = []
        for pair in pairs:
            row, gradients = {}, {}
            for side in ("chosen", "rejected"):
                logps = token_logps(model, pair["prompt"], pair[side])
                row[f"{side}_token_logps"] = logps.tolist()
                gradients[side] = torch.autograd.grad(logps.sum(), trained)
            inner = lambda a, b: sum((x * y).sum().item() for x, y in zip(gradients[a], gradients[b]))
            row["grad_sq_chosen"] = inner("chosen", "chosen")
            row["grad_sq_rejected"] = inner("rejected", "rejected")
            row["grad_inner"] = inner("chosen", "rejected")
            rows.append(row)
        again = PeftModel.from_pretrained(load(base), folder, is_trainable=True).double().eval()
        targets = settings["target_modules"]
        tied = model.config.tie_word_embeddings and any(t in ("embed_tokens", "lm_head") for t in targets)
        merged = model if tied else model.merge_and_unload().eval()
        first = token_logps(merged, pairs[0]["prompt"], pairs[0]["chosen"]).tolist()
        golden = {
            "generator": "python parity/lora/generate.py",
            "seed": SEED,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "base": base,
            "trainable_parameters": sum(p.numel() for p in trained),
            "tensors": tensors(folder),
            "merged_chosen_token_logps": first,
            "per_pair": rows,
            "trajectory": trajectory(again, pairs),
        }
        (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
        print(case, golden["trainable_parameters"], rows[0]["grad_inner"])


if __name__ == "__main__":
    main()
