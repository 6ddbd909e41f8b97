#!/usr/bin/env python3
"""Records what `transformers.AutoTokenizer` makes of one vocabulary under many classes and declarations of tokens.

Takes the tokenizers of families/ as they are and changes the files around them. Writes classes.json beside itself: the
changes and the ids. Usage: python classes.py      (needs: pip install transformers)
"""
import json
import pathlib
import random
import tempfile

import tokenizers
import transformers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", "The capital", " leading and  trailing  ", "double  space\n\nand\tline ", "I'm sure WE'LL see 12345 3.14",
    "naïve — 日本 🙂", "e\u0301 \u1e9b\u0323 क\u093f", "a</s>b </s> c<s> d", "x <|im_start|> user\n<|im_end|>\n y",
    "<|endoftext|>in<|endoftext|> side", "[TOOL] call [TOOL]s  [tool]", "the stones<bos> <eos>\n<start_of_turn>",
    "good <extra> better<extra>best", "<unk>?<pad><mask>", "THE River LOW",
]
SPECIALS = ["</s>", "<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[TOOL]", "<bos>", "<eos>", "<extra>", "<unk>"]
WORDS = ["the", " river", " was", "low", " ", "  ", "\n", "\t", "12", "7", "é", "日", "🙂", "'s", "'LL", ".", ",", "!?", "-", "▁"]


def flags(content, special=True, **changes):
    return {"content": content, "lstrip": False, "normalized": not special, "rstrip": False, "single_word": False,
            "special": special} | changes


def typed(content, **changes):
    return {"__type": "AddedToken", **flags(content, **changes)}


LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHATML = {"300": flags("<|im_start|>"), "301": flags("<|im_end|>", rstrip=True), "302": flags("[TOOL]", False, lstrip=True)}
KEPT = {"0": flags("<unk>"), "1": flags("<s>"), "2": flags("</s>")}


def cases():
    """name, family whose tokenizer.json is taken, model_type, tokenizer_config, other files, changes of tokenizer.json"""
    def case(name, base, kind, config, files=None, json_changes=None):
        return {"name": name, "base": base, "model_type": kind, "config": config, "files": files or {},
                "json": json_changes or {}}

    for legacy in ({}, {"legacy": False}, {"legacy": True}, {"legacy": None}):
        for kind in ("llama", "mistral", None):
            yield case(f"llama {legacy} {kind}", "mistral", kind, {"tokenizer_class": "LlamaTokenizer", **LLAMA, **legacy})
    for prefix in (True, False, None):
        yield case(f"llama prefix {prefix}", "mistral", "llama",
                   {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": prefix, **LLAMA})
    yield case("llama decoder", "mistral", "llama",
               {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": KEPT | CHATML, "pad_token": "</s>"})
    yield case("llama over bytes", "qwen", "llama", {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"})
    yield case("code llama", "mistral", "llama", {"tokenizer_class": "CodeLlamaTokenizer", **LLAMA})
    yield case("gemma", "gemma", "gemma2", {"tokenizer_class": "GemmaTokenizer"})
    yield case("gemma file", "gemma", "gemma2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end_of_turn>"})
    yield case("gemma without class", "gemma", "gemma2", {})
    yield case("gemma over llama", "mistral", None, {"tokenizer_class": "GemmaTokenizer", "mask_token": None})
    for base in ("qwen", "gpt_neox"):
        for name in ("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast", "Qwen3_5Tokenizer",
                     "CohereTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "NoSuchTokenizer"):
            yield case(f"{name} over {base}", base, "llama", {"tokenizer_class": name, "eos_token": "<|im_end|>"})
        for kind in ("qwen2", "qwen3", "gpt2", "gpt_neox", "mistral", "phi3"):
            yield case(f"no class, {kind}, {base}", base, kind, {})
            yield case(f"file, {kind}, {base}", base, kind, {"tokenizer_class": "PreTrainedTokenizerFast"})
            yield case(f"gpt2, {kind}, {base}", base, kind, {"tokenizer_class": "GPT2TokenizerFast"})
    yield case("gpt2 prefix", "gpt_neox", "gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
    yield case("digits lost", "gpt_neox", "llama", {"tokenizer_class": "GPT2Tokenizer"}, json_changes={"pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                              {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}})
    surround = {"post_processor": {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}}}
    yield case("neox drops the post-processor", "gpt_neox", "gpt_neox", {"tokenizer_class": "GPTNeoXTokenizer"}, json_changes=surround)
    yield case("gpt2 keeps the post-processor", "gpt_neox", "gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False}, json_changes=surround)

    FILE = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for base in ("mistral", "qwen"):
        yield case(f"decoder, {base}", base, "llama", FILE | {"added_tokens_decoder": CHATML, "eos_token": "<|im_end|>"})
        yield case(f"decoder ids elsewhere, {base}", base, "llama", FILE | {"added_tokens_decoder": {"9000": flags("<extra>"), "8000": flags("[TOOL]")}})
        yield case(f"single word, {base}", base, "llama", FILE | {"added_tokens_decoder": {"999": flags("[TOOL]", single_word=True, lstrip=True, rstrip=True)}})
        yield case(f"normalized, {base}", base, "llama", FILE | {"added_tokens_decoder": {"999": flags("good ", False), "998": flags("</s>", normalized=True)}})
        yield case(f"strings, {base}", base, "llama", FILE | {"eos_token": "<eos>", "pad_token": "<pad>", "bos_token": "<bos>", "image_token": "<extra>"})
        yield case(f"objects, {base}", base, "llama", FILE | {"eos_token": typed("</s>", rstrip=True), "pad_token": typed("[TOOL]", lstrip=True), "stop_token": typed("<extra>")})
        yield case(f"additional, {base}", base, "llama", FILE | {"additional_special_tokens": ["<extra>", "</s>", typed("[TOOL]", rstrip=True)]})
        yield case(f"extra list, {base}", base, "llama", FILE | {"extra_special_tokens": ["<extra>"], "additional_special_tokens": ["[TOOL]"]})
        yield case(f"extra names, {base}", base, "llama", FILE | {"extra_special_tokens": {"image_token": "<extra>", "boi": "[TOOL]"}})
        yield case(f"map over config, {base}", base, "llama", FILE | {"eos_token": "<eos>"}, {
            "special_tokens_map.json": {"eos_token": flags("</s>", lstrip=True) | {"special": False}, "pad_token": "<pad>", "additional_special_tokens": ["<extra>"]}})
        yield case(f"map beside decoder, {base}", base, "llama", FILE | {"added_tokens_decoder": CHATML}, {
            "special_tokens_map.json": {"eos_token": "</s>", "pad_token": "<extra>"}})
        yield case(f"added_tokens, {base}", base, "llama", FILE | {"eos_token": "<|im_end|>"}, {
            "added_tokens.json": {"[TOOL]": 501, "<|im_end|>": 502, "<extra>": 500}})
        yield case(f"added_tokens beside decoder, {base}", base, "llama", FILE | {"added_tokens_decoder": {}}, {
            "added_tokens.json": {"[TOOL]": 501}})
        yield case(f"split special, {base}", base, "llama", FILE | {"split_special_tokens": True, "eos_token": "</s>"})
        yield case(f"no config, {base}", base, "llama", None)
        yield case(f"padding names a token, {base}", base, "llama", FILE, json_changes={"padding": {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 7, "pad_type_id": 0, "pad_token": "<pad>"}})
    yield case("class and added_tokens", "qwen", "qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}, {
        "added_tokens.json": {"[TOOL]": 501, "<extra>": 500}})
    yield case("qwen flags", "qwen", "qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": typed("<|im_end|>", rstrip=True),
                                               "added_tokens_decoder": {"0": flags("<|endoftext|>"), "1": flags("<|im_start|>", rstrip=True),
                                                                        "2": flags("<|im_end|>", rstrip=True)}})
    yield case("cohere flags", "qwen", "cohere", {"tokenizer_class": "CohereTokenizer", "eos_token": typed("<|im_end|>", rstrip=True)})


def write(directory, case):
    description = json.loads((HERE / "families" / case["base"] / "tokenizer.json").read_text()) | case["json"]
    (directory / "tokenizer.json").write_text(json.dumps(description))
    if case["config"] is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(case["config"]))
    if case["model_type"]:
        (directory / "config.json").write_text(json.dumps({"model_type": case["model_type"]}))
    for name, content in case["files"].items():
        (directory / name).write_text(json.dumps(content))


def record(case):
    with tempfile.TemporaryDirectory() as directory:
        write(pathlib.Path(directory), case)
        tokenizer = AutoTokenizer.from_pretrained(directory)
    draw = random.Random(case["base"])
    mixed = ["".join(draw.choice(WORDS + SPECIALS) for _ in range(12)) for _ in range(3)]
    texts = TEXTS + mixed
    case["class"] = type(tokenizer).__name__
    case["named"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    MIXED[case["base"]] = mixed
    ids = [tokenizer(text)["input_ids"] for text in texts]
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    # Many cases agree: the same lists are written once.
    case["ids"], case["plain"] = (KNOWN.setdefault(json.dumps(lists), len(KNOWN)) for lists in (ids, plain))
    case["decoded"] = tokenizer.decode(ids[5], skip_special_tokens=True)
    return json.dumps(case, ensure_ascii=False, separators=(",", ":"))


lines, KNOWN, MIXED = [], {}, {}
for one in cases():
    try:
        lines.append(record(one))
    except Exception as error:
        raise SystemExit(f"{one['name']}: {type(error).__name__}: {error}") from error
versions = json.dumps({"transformers": transformers.__version__, "tokenizers": tokenizers.__version__})
texts = json.dumps(TEXTS, ensure_ascii=False)
(HERE / "classes.json").write_text(f'{{"versions": {versions},\n"texts": {texts},\n"mixed": {json.dumps(MIXED, ensure_ascii=False)},\n'
    '"ids": [\n' + ",\n".join(KNOWN) + '],\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")
print(len(lines), "cases")
