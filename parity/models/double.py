"""Makes transformers' models compute in float64 throughout.

`model.double()` is not enough: transformers' Llama, Mistral, Qwen2, Qwen3 and Gemma 2 name float32
themselves in three places (the RMS norm's statistics, the attention softmax, the rotary angles), GPT-NeoX
in the last two, and Gemma 2 keeps √width as a float32 number; a "float64" model carries float32 rounding
of about 1e-7. A golden meant for a float64 implementation must not. The replacements below are the same
formulas without the down-casts; `generate.py` checks them in two ways: against the untouched float32 model
(agreement to float32 rounding) and against central differences in float64 (agreement
far below float32 rounding, which fails if any down-cast is left).
GPT-2 has no such places in eager mode.
"""

import math

import torch
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3


def _rms_norm(self, hidden_states):
    mean_square = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states / torch.sqrt(mean_square + self.variance_epsilon))


def _gemma_norm(self, x):
    return (1 + self.weight) * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def _gemma_embedding(self, input_ids):
    return torch.nn.functional.embedding(input_ids, self.weight, self.padding_idx) * self.scalar_embed_scale


def _eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, softcap=None, **kwargs):
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is None:
        raise ValueError("the goldens expect an explicit causal mask")
    weights = torch.softmax(scores + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def inverse_frequencies(config):
    """Rotary frequencies [rotary_dim / 2] in float64: default, or Llama 3's three bands."""
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    frequency = rope["rope_theta"] ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    if rope["rope_type"] == "default":
        return frequency
    if rope["rope_type"] != "llama3":
        raise ValueError(f"no float64 formula for rope type {rope['rope_type']}")
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    # share of the unscaled frequency: 0 for long waves, 1 for short ones, linear between
    share = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return share * frequency + (1 - share) * frequency / rope["factor"]


def _rotary(self, x, position_ids):
    angles = position_ids[..., None].double() * inverse_frequencies(self.config)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def patch():
    """Replaces the functions in transformers' modules, for this process."""
    for family, module in {
        "Llama": modeling_llama,
        "Mistral": modeling_mistral,
        "Qwen2": modeling_qwen2,
        "Qwen3": modeling_qwen3,
        "Gemma2": modeling_gemma2,
        "GPTNeoX": modeling_gpt_neox,
    }.items():
        module.eager_attention_forward = _eager_attention
        getattr(module, f"{family}RotaryEmbedding").forward = _rotary
        if family == "Gemma2":
            module.Gemma2RMSNorm.forward = _gemma_norm
            module.Gemma2TextScaledWordEmbedding.forward = _gemma_embedding
        elif family != "GPTNeoX":
            getattr(module, f"{family}RMSNorm").forward = _rms_norm
