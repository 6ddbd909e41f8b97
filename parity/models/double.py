"""Makes transformers' Llama compute in float64 throughout.

`model.double()` is not enough: three places in transformers' Llama name float32
themselves (the RMS norm's statistics, the attention softmax, the rotary angles), so a
"float64" Llama carries float32 rounding of about 1e-7. A golden meant for a float64
implementation must not. The replacements below are the same formulas without the
down-casts; `generate.py` checks them in two ways: against the untouched float32 model
(agreement to float32 rounding) and against central differences in float64 (agreement
far below float32 rounding, which fails if any down-cast is left).
GPT-2 has no such places in eager mode.
"""

import math

import torch
from transformers.models.llama import modeling_llama


def _rms_norm(self, hidden_states):
    mean_square = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states / torch.sqrt(mean_square + self.variance_epsilon))


def _eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    groups = module.num_key_value_groups
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is None:
        raise ValueError("the goldens expect an explicit causal mask")
    weights = torch.softmax(scores + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def inverse_frequencies(config):
    """Rotary frequencies [head_dim / 2] in float64: default, or Llama 3's three bands."""
    rope = config.rope_parameters
    head_dim = config.head_dim
    frequency = rope["rope_theta"] ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
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
    """Replaces the three functions in transformers' module, for this process."""
    modeling_llama.LlamaRMSNorm.forward = _rms_norm
    modeling_llama.eager_attention_forward = _eager_attention
    modeling_llama.LlamaRotaryEmbedding.forward = _rotary
