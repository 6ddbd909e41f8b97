"""Goldens of TRL's own losses, with autograd's derivatives, for tests/parity.rs.

    python generate.py            # in an environment with trl 1.16; writes trl.json beside this file

What is called is TRL's code, not a copy of its formulas:
- DPO loss types: `DPOTrainer._compute_loss` on a stand-in for the trainer (its hyper-parameters and an accelerator that gathers
  nothing) and a stand-in for the model whose output holds chosen token log-probs; reference log-probs come in precomputed.
- KTO: `KTOTrainer._compute_loss`, likewise, on the 2B rows of B pairs; the KL term is set through the model's second call.
- CPO, SimPO, AlphaPO, ORPO: `get_batch_loss_metrics` with the real `concatenated_forward`, on two-word logits whose log-softmax
  gives the token log-probs.

Everything runs in float64. Three places in TRL would fall back to float32 and are steered around: `Tensor.float()` (ORPO, the
alpha-divergence) is the identity while a loss is computed, the alpha-divergence's table of clamps by dtype gains float64 with
float32's value, and the default dtype is float64 (EXO makes a tensor of its label_smoothing). A completion's log-prob is spread evenly over its tokens; the derivative is taken with respect to the
sum. Losses are batch means (TRL offers no others): d_w and d_l are B times autograd's, so that their mean is the gradient.
Cases in which TRL gives no finite number are left out and counted.
"""

import contextlib
import inspect
import json
import math
import platform
import textwrap
import types
from collections import defaultdict
from pathlib import Path

import torch
import transformers
import trl
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer import dpo_trainer

# (chosen, rejected, ref_chosen, ref_rejected, chosen_len, rejected_len)
PAIRS = [
    (-12.5, -14.25, -13.0, -13.5, 7, 5),
    (-30.0, -22.0, -28.5, -25.0, 11, 19),
    (-4.0, -4.0, -4.0, -4.0, 3, 3),
    (-80.3, -95.7, -120.9, -60.1, 40, 23),
    (-3.7, -210.4, -45.6, -33.3, 2, 61),
    (-450.0, -8.0, -40.0, -60.0, 90, 4),
]
EXTREME = [(-10.0, -5010.0, -10.0, -10.0, 50, 50), (-5010.0, -10.0, -10.0, -10.0, 50, 50)]
BATCH = PAIRS[:5]
BETAS = [0.01, 0.1, 1.0]


class Accelerator:
    device = torch.device("cpu")

    @staticmethod
    def gather(x):
        return x

    gather_for_metrics = gather


@contextlib.contextmanager
def float_is_identity():
    """For floating tensors; others become float32 as ever."""
    original = torch.Tensor.float
    torch.Tensor.float = lambda self: self if self.is_floating_point() else original(self)
    try:
        yield
    finally:
        torch.Tensor.float = original


def with_float64_clamp():
    """DPOTrainer._compute_loss with one entry more in its clamp table."""
    source = textwrap.dedent(inspect.getsource(DPOTrainer._compute_loss))
    assert source.count("torch.float32: 80.0}") == 1
    source = source.replace("torch.float32: 80.0}", "torch.float32: 80.0, torch.float64: 80.0}")
    namespace = {}
    exec(source, dpo_trainer.__dict__, namespace)
    return namespace["_compute_loss"]


DPO_LOSS = with_float64_clamp()


def leaves(batch):
    a = torch.tensor([p[0] for p in batch], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([p[1] for p in batch], dtype=torch.float64, requires_grad=True)
    return a, b


def token_rows(sums, lengths, width):
    """[N, width] token log-probs after a prompt of two tokens (one column once shifted), and the unshifted mask."""
    rows, mask = [], torch.zeros(len(lengths), width + 1, dtype=torch.long)
    for i, (total, n) in enumerate(zip(sums, lengths, strict=True)):
        row = torch.cat([torch.zeros(1, dtype=torch.float64), (total / n).expand(n), torch.zeros(width - 1 - n, dtype=torch.float64)])
        rows.append(row)
        mask[i, 2 : 2 + n] = 1
    return torch.stack(rows), mask


def output(log_probs, log_sum_sq=0.0):
    zeros = torch.zeros_like(log_probs)
    return types.SimpleNamespace(
        log_probs=log_probs, log_sum_sq_probs=zeros + log_sum_sq, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), logits=None
    )


def stand_in(**kwargs):
    return types.SimpleNamespace(
        model=types.SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **kwargs,
    )


def dpo(batch, loss_types, weights=None, beta=0.1, label_smoothing=0.0, f="reverse_kl", f_coef=0.5, tau=0.05, ld_alpha=None, log_sum_sq=None):
    a, b = leaves(batch)
    lengths = [p[4] for p in batch] + [p[5] for p in batch]
    width = max(lengths) + 2
    rows, mask = token_rows(list(a) + list(b), lengths, width)
    trainer = stand_in(
        loss_types=loss_types,
        loss_weights=weights or [1.0] * len(loss_types),
        beta=beta,
        label_smoothing=label_smoothing,
        ld_alpha=ld_alpha,
        f_divergence_type=f,
        f_alpha_divergence_coef=f_coef,
        use_weighting=log_sum_sq is not None,
        args=types.SimpleNamespace(discopop_tau=tau),
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor([p[2] for p in batch], dtype=torch.float64),
        "ref_rejected_logps": torch.tensor([p[3] for p in batch], dtype=torch.float64),
    }
    with float_is_identity():
        loss = DPO_LOSS(trainer, lambda **_: output(rows, log_sum_sq or 0.0), inputs, False)
    return finish(loss, a, b, len(batch))


def kto(batch, beta, desirable, undesirable, kl):
    a, b = leaves(batch)
    lengths = [p[4] for p in batch] + [p[5] for p in batch]
    width = max(lengths) + 2
    rows, mask = token_rows(list(a) + list(b), lengths, width)
    kl_rows, kl_mask = token_rows([torch.tensor(-5.0 + kl, dtype=torch.float64)] * len(lengths), [3] * len(lengths), width)
    trainer = stand_in(
        loss_type="kto", beta=beta, desirable_weight=desirable, undesirable_weight=undesirable, calculate_KL=True, calculate_kl=True
    )
    trainer._compute_kl_logps = lambda model, inputs: KTOTrainer._compute_kl_logps(trainer, model, inputs)
    refs = torch.tensor([p[2] for p in batch] + [p[3] for p in batch], dtype=torch.float64)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.full_like(kl_mask, 2),
        "KL_attention_mask": torch.ones_like(kl_mask),
        "KL_completion_mask": kl_mask,
        "label": torch.tensor([1] * len(batch) + [0] * len(batch)).bool(),
        "ref_logps": refs,
        "ref_KL_logps": torch.full((len(lengths),), -5.0, dtype=torch.float64),
    }
    model = lambda input_ids, **_: output(kl_rows if int(input_ids[0, 0]) == 2 else rows)  # noqa: E731
    loss = KTOTrainer._compute_loss(trainer, model, inputs, False)
    # The mean over 2B rows is half the mean over B pairs.
    return finish(2 * loss, a, b, len(batch))


def reference_free(trainer_class, batch, **kwargs):
    a, b = leaves(batch)
    lengths = [p[4] for p in batch] + [p[5] for p in batch]
    width = max(lengths) + 1
    n = len(batch)
    logits = torch.zeros(2 * n, width, 2, dtype=torch.float64)
    built = []
    for i, (total, length) in enumerate(zip(list(a) + list(b), lengths, strict=True)):
        # Word 1 has the token's log-prob, word 0 the rest; position t predicts t + 1, and the prompt is one token.
        logp = (total / length).expand(length)
        rest = torch.where(logp < -math.log(2), torch.log1p(-torch.exp(logp)), torch.log(-torch.expm1(logp)))
        words = torch.stack([rest, logp], dim=-1)
        built.append(torch.cat([words, logits[i, length:]]))
    logits = torch.stack(built)
    side = lambda lens: {  # noqa: E731
        "input_ids": torch.tensor([[1] * (1 + n) + [0] * (width - 1 - n) for n in lens]),
        "attention_mask": torch.tensor([[1] * (1 + n) + [0] * (width - 1 - n) for n in lens]),
        "labels": torch.tensor([[-100] + [1] * n + [-100] * (width - 1 - n) for n in lens]),
    }
    chosen, rejected = side(lengths[:n]), side(lengths[n:])
    inputs = {f"chosen_{k}": v for k, v in chosen.items()} | {f"rejected_{k}": v for k, v in rejected.items()}
    trainer = stand_in(is_encoder_decoder=False, pad_token_id=0, padding_value=0, **kwargs)
    for name in ["concatenated_forward", "cpo_loss", "odds_ratio_loss"]:
        if hasattr(trainer_class, name):
            setattr(trainer, name, types.MethodType(getattr(trainer_class, name), trainer))
    trainer.concatenated_inputs = trainer_class.concatenated_inputs
    trainer.get_batch_logps = trainer_class.get_batch_logps
    with float_is_identity():
        loss, _ = trainer_class.get_batch_loss_metrics(
            trainer, lambda *_, **__: types.SimpleNamespace(logits=logits), inputs
        )
    return finish(loss, a, b, n)


def finish(loss, a, b, n):
    a.grad = b.grad = None
    loss.backward()
    grad = lambda leaf: [0.0] * n if leaf.grad is None else (n * leaf.grad).tolist()  # noqa: E731
    return {"loss": loss.item(), "d_w": [-x for x in grad(a)], "d_l": grad(b)}


def main():
    torch.set_default_dtype(torch.float64)
    cases, skipped = [], []

    def add(names, batch, options, result, weights=None, **extra):
        values = [result["loss"], *result["d_w"], *result["d_l"]]
        case = {"names": names, "options": options, "batch": batch, **result, **extra}
        if weights:
            case["weights"] = weights
        if all(math.isfinite(v) for v in values):
            cases.append(case)
        else:
            skipped.append(f"{'+'.join(names)} {options} {batch}")

    ours = {"sppo_hard": "sppo"}
    pairwise = ["sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sigmoid_norm", "discopop"]
    for loss_type in pairwise:
        for beta in BETAS:
            for pair in PAIRS + (EXTREME if beta == 0.1 else []):
                add([ours.get(loss_type, loss_type)], [pair], {"beta": beta}, dpo([pair], [loss_type], beta=beta))
    for pair in PAIRS:
        # Ignored by TRL's sigmoid.
        add(["sigmoid"], [pair], {"beta": 0.1, "label_smoothing": 0.2}, dpo([pair], ["sigmoid"], label_smoothing=0.2))
        for tau in [0.5, 1.0]:
            add(["discopop"], [pair], {"beta": 0.1, "discopop_tau": tau}, dpo([pair], ["discopop"], tau=tau))
    for loss_type, smoothings in [("robust", [0.0, 0.1, 0.4]), ("exo_pair", [1e-3, 0.1])]:
        for smoothing in smoothings:
            for pair in PAIRS + EXTREME:
                options = {"beta": 0.1, "label_smoothing": smoothing}
                add([loss_type], [pair], options, dpo([pair], [loss_type], label_smoothing=smoothing))
    for f, coefs in [("forward_kl", [None]), ("js_divergence", [None]), ("alpha_divergence", [0.5, 0.2, 1.0, 1.5])]:
        for coef in coefs:
            options = {"beta": 0.1, "f_divergence_type": f} | ({} if coef is None else {"f_alpha_divergence_coef": coef})
            for loss_type in ["sigmoid", "ipo", "sigmoid_norm", "hinge", "robust", "discopop"]:
                for pair in PAIRS[:4]:
                    result = dpo([pair], [loss_type], f=f, f_coef=0.5 if coef is None else coef)
                    add([loss_type], [pair], options, result)
    for loss_type in ["aot", "aot_unpaired"]:
        for beta in BETAS:
            for smoothing in [0.0, 0.1]:
                for batch in [BATCH, BATCH[::-1], PAIRS[:1]]:
                    options = {"beta": beta, "label_smoothing": smoothing}
                    add([loss_type], batch, options, dpo(batch, [loss_type], beta=beta, label_smoothing=smoothing))
    for batch in [BATCH, PAIRS[:1], PAIRS[1:3]]:
        add(["sft"], batch, {}, dpo(batch, ["sft"]))
        # TRL's way to DPO with a likelihood term, and a mixture as MPO has it.
        add(["rpo"], batch, {"rpo_alpha": 0.5}, dpo(batch, ["sigmoid", "sft"], [1.0, 0.5]))
        mixture = ["sigmoid", "bco_pair", "sft"]
        add(mixture, batch, {"beta": 0.1}, dpo(batch, mixture, [0.8, 0.2, 1.0]), [0.8, 0.2, 1.0])
        for loss_type in ["sigmoid", "ipo", "sppo_hard", "sigmoid_norm"]:
            add([ours.get(loss_type, loss_type)], batch, {"beta": 0.1}, dpo(batch, [loss_type]))
    # LD-DPO's weights inside the sums, WPO's on the pairs (every token's log Σ_v π(v)² the same).
    for loss_type in ["sigmoid", "ipo", "sppo_hard"]:
        for ld_alpha in [0.0, 0.3, 1.0]:
            result = dpo(BATCH, [loss_type], ld_alpha=ld_alpha)
            add([ours.get(loss_type, loss_type)], BATCH, {"beta": 0.1, "ld_alpha": ld_alpha}, result)
        result = dpo(BATCH, [loss_type], log_sum_sq=-1.75)
        add([ours.get(loss_type, loss_type)], BATCH, {"beta": 0.1}, result, log_sum_sq=-1.75)
    for beta in BETAS:
        for desirable, undesirable in [(1.0, 1.0), (1.33, 0.7)]:
            for kl in [-2.0, 0.0, 3.5]:
                options = {"beta": beta, "desirable_weight": desirable, "undesirable_weight": undesirable, "kto_kl": kl}
                add(["kto"], BATCH, options, kto(BATCH, beta, desirable, undesirable, kl))
    for batch in [BATCH] + [[p] for p in PAIRS]:
        for beta in BETAS:
            for smoothing in [0.0, 0.1]:
                shared = {"beta": beta, "label_smoothing": smoothing}
                for alpha in [1.0, 0.3]:
                    result = reference_free(
                        CPOTrainer, batch, loss_type="sigmoid", alpha=0.0, simpo_gamma=0.5, cpo_alpha=alpha, **shared
                    )
                    add(["cpo"], batch, shared | {"cpo_alpha": alpha}, result)
                # CPO-SimPO: the likelihood term is on unless cpo_alpha = 0.
                for alpha in [0.0, 1.0]:
                    result = reference_free(
                        CPOTrainer, batch, loss_type="simpo", alpha=0.0, simpo_gamma=0.7, cpo_alpha=alpha, **shared
                    )
                    add(["simpo"], batch, shared | {"simpo_gamma": 0.7, "cpo_alpha": alpha}, result)
            for alpha in [0.25, -0.3]:
                # What CPOConfig makes of loss_type = "alphapo".
                result = reference_free(
                    CPOTrainer, batch, loss_type="simpo", alpha=alpha, simpo_gamma=0.1, cpo_alpha=0.0, beta=beta, label_smoothing=0.0
                )
                add(["alphapo"], batch, {"beta": beta, "simpo_gamma": 0.1, "alpha": alpha}, result)
            # The prompt is one token, so TRL's likelihood over prompt and completion is the completion's.
            add(["orpo"], batch, {"beta": beta}, reference_free(ORPOTrainer, batch, beta=beta))

    head = {
        "command": "python generate.py",
        "versions": {
            "trl": trl.__version__,
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "columns": "chosen, rejected, ref_chosen, ref_rejected, chosen_len, rejected_len",
        "reduction": "loss: mean over the batch; d_w, d_l: batch size times the mean's derivative",
        "not_finite_in_trl": skipped,
    }
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + ",\n".join(lines) + "\n]}\n"
    Path(__file__).with_name("trl.json").write_text(text)
    print(f"{len(cases)} cases, {len(skipped)} not finite in TRL, {len(text)} bytes")


if __name__ == "__main__":
    main()
