#!/usr/bin/env python3
"""Makes one tiny tokenizer for each family's kind and records what `transformers` does with it.

Writes beside itself: families/<kind>/ (tokenizers in Hugging Face layout, as the published models of the family have
them) and families.json (ids, decoded text, rendered conversations).
Usage: python families.py      (needs: pip install transformers jinja2)
"""
import json
import pathlib

import jinja2
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, Gemma2Config, GPTNeoXConfig, MistralConfig, Qwen2Config
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "The river was low that summer, and the children walked across it on the stones.",
    "How do I keep tomatoes fresh? Put them in a cool room, not in the refrigerator.",
    "I'm sorry, I don't know the answer to that. We'll ask the teacher when she's back.",
    "user model assistant system Human: What is the capital of France?\n\nAssistant: Paris.",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [
    "", " ", "The capital", " leading and trailing ", "double  space\n\nand\tline", "I'm sure WE'LL see 12345",
    "naïve — 日本 🙂", "e\u0301 \u1e9b\u0323", "{bos}given", "in{eos}side", "a {turn}b",
]
CHATS = {
    "one": [{"role": "user", "content": " How do I keep tomatoes? "}],
    "turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes,\nPut them in."},
              {"role": "user", "content": "not in"}],
    "system": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
    "order": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}],
}

# Written for this test; what they do with BOS, system messages and ends of turns is what the published ones do.
GEMMA = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ m.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}
{%- endfor %}"""
QWEN = """{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system
You help.<|im_end|>
{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def sentencepiece_like(special, normalizer, pre_tokenizer, decoder):
    """BPE over `▁` spaces with the 256 bytes to fall back on."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=460, special_tokens=special + BYTES, show_progress=False))
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in special]
    return description


def byte_level(special, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())


def begin_with(token, description):
    """The post-processor that puts `token` before a text."""
    id = description["model"]["vocab"][token]
    piece, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    description["post_processor"] = {
        "type": "TemplateProcessing", "single": [piece, text],
        "pair": [piece, text, piece, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }
    return description


def families():
    metaspace = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    gemma = sentencepiece_like(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"],
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(metaspace))
    yield "gemma", Gemma2Config(), begin_with("<bos>", gemma), {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
        "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"], "chat_template": GEMMA}
    mistral = sentencepiece_like(
        ["<unk>", "<s>", "</s>"], normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None, decoders.Sequence([*metaspace, decoders.Strip(content=" ", left=1, right=0)]))
    yield "mistral", MistralConfig(), begin_with("<s>", mistral), {
        "tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, "chat_template": MISTRAL}
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    yield "qwen", Qwen2Config(), byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC(), split), {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "split_special_tokens": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "chat_template": QWEN}
    yield "gpt_neox", GPTNeoXConfig(), byte_level(
        ["<|endoftext|>", "<|padding|>"], normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)), {
        "tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def render(tokenizer, chat, add_generation_prompt):
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=add_generation_prompt)["input_ids"]
        return {"text": text, "ids": ids}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


def record(name, config, description, settings):
    folder = HERE / "families" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    # The model's type takes part in the choice of the class.
    (folder / "config.json").write_text(json.dumps({"model_type": config.model_type}) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = {"bos": tokenizer.bos_token or "", "eos": tokenizer.eos_token,
             "turn": (settings.get("additional_special_tokens") or [""])[-1]}
    texts = [text.format(**names) for text in TEXTS]
    return {
        "kind": name, "class": type(tokenizer).__name__,
        "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id,
        "encoded": [{"text": text, "with_special": tokenizer(text)["input_ids"],
                     "without_special": tokenizer(text, add_special_tokens=False)["input_ids"],
                     "decoded": tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)}
                    for text in texts],
        "chats": [{"chat": chat, "add_generation_prompt": prompt, "rendered": render(tokenizer, messages, prompt),
                   "messages": messages}
                  for chat, messages in CHATS.items() for prompt in (False, True)] if "chat_template" in settings else [],
    }


lines = [json.dumps(record(*family), ensure_ascii=False) for family in families()]
versions = json.dumps({"transformers": transformers.__version__, "jinja2": jinja2.__version__})
(HERE / "families.json").write_text(f'{{"versions": {versions},\n"families": [\n' + ",\n".join(lines) + "\n]}\n")
