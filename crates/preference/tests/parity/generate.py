#!/usr/bin/env python3
"""Records how TRL tokenises rows: the trainers' own data preparation is run on tricky rows with a tiny tokenizer.

Reads the tokenizer of ../../../text/tests/parity/tiny, writes expected.json beside itself.
Usage: python generate.py      (needs: pip install trl transformers datasets torch)
"""
import json
import pathlib
import tempfile
from types import SimpleNamespace

import datasets
import transformers
import trl
from tokenizers import processors
from trl.data_utils import pack_dataset, unpair_preference_dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer
from trl.trainer.sft_trainer import SFTTrainer

datasets.disable_progress_bars()
HERE = pathlib.Path(__file__).parent
TINY = HERE.parents[2] / "text/tests/parity/tiny"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def processor(single):
    ids = [(token, SPECIAL.index(token)) for token in SPECIAL]
    pair = single + " " + single.replace("$A", "$B")
    return json.loads(processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids).__getstate__())


# Tokenizers: what surrounds a text, and the chat template (null: the tokenizer's own ChatML).
VARIANTS = {
    "plain": (None, None),
    "bos": (processor("<|endoftext|> $A"), None),
    "bos_eos": (processor("<|endoftext|> $A <|im_end|>"), None),
    "template_bos": (processor("<|endoftext|> $A"),
                     "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% if m.role == "
                     "'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"),
    # The generation prompt ends with text that a finished answer does not have.
    "template_thinks": (None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
                              "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"),
}


def load(variant):
    post_processor, template = VARIANTS[variant]
    with tempfile.TemporaryDirectory() as copy:
        copy = pathlib.Path(copy)
        description = json.loads((TINY / "tokenizer.json").read_text()) | {"post_processor": post_processor}
        (copy / "tokenizer.json").write_text(json.dumps(description))
        config = json.loads((TINY / "tokenizer_config.json").read_text())
        if template:
            config["chat_template"] = template
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        return transformers.AutoTokenizer.from_pretrained(copy)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


LONG = "The river was low that summer, and the children walked across it on the stones. "
PAIRS = [  # name, tokenizer, max_length, row
    ("space before the completion", "plain", 64, pair("The capital of France is", " Paris.", " London, I think.")),
    ("space after the prompt", "plain", 64, pair("The capital of France is ", "Paris.", "London.")),
    ("no space at all", "plain", 64, pair("Question:", "yes", "no")),
    ("tokens merge across the boundary", "plain", 64, pair("The capital of Fran", "ce is Paris.", "k is a name.")),
    ("only one completion merges", "plain", 64, pair("I asked the bak", "er for bread.", "? No.")),
    ("line breaks at the boundary", "plain", 64, pair("def add(a, b):\n", "\n    return a + b\n", "    return a\n\n")),
    ("unicode across the boundary", "plain", 64, pair("Le café", "́ est fermé 🙂", " 日本 🤷🏽‍♀️")),
    ("digits", "plain", 64, pair("It leaves at 7:4", "5 and arrives at 9:30", "6")),
    ("EOS is there already", "plain", 64, pair("Hi", " there<|im_end|>", " you")),
    ("special tokens inside", "plain", 64, pair("<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>x", "a<|endoftext|>b")),
    ("truncated, keeping the start", "plain", 24, pair("Tell me a story.", " " + LONG * 2, " No.")),
    ("truncated to one token", "plain", 5, pair("one two", " " + LONG, " " + LONG + "x")),
    ("prompt fills max_length", "plain", 16, pair(LONG, " yes", " no")),
    ("prompt exactly fills max_length", "plain", 4, pair("one two", " yes and more", " no and more")),
    ("no limit", "plain", None, pair(LONG, " " + LONG, " no")),
    ("identical completions", "plain", 64, pair("Same?", " same", " same")),
    ("BOS is added", "bos", 64, pair("The capital of France is", " Paris.", " London.")),
    ("BOS is added, merging", "bos", 64, pair("The capital of Fran", "ce is Paris.", "k is a name.")),
    ("BOS alone precedes", "bos", 64, pair("", "Paris.", "London.")),
    ("BOS and EOS are added", "bos_eos", 64, pair("The capital of France is", " Paris.", " London.")),
    ("implicit prompt", "plain", 64, {"chosen": "The sky is blue today", "rejected": "The sky is green today"}),
    ("implicit prompt inside a word", "plain", 64, {"chosen": "1+1=2 of course", "rejected": "1+1=3 of course"}),
    ("implicit prompt, one contains the other", "plain", 64, {"chosen": "I don't know.", "rejected": "I don't know. Sorry"}),
    ("implicit prompt, accents", "plain", 64, {"chosen": "Straße läuft über", "rejected": "Straße läuft ûber"}),
    ("conversation", "plain", 64, pair([user("Can you help me?")], [assistant("Of course!")], [assistant("No.")])),
    ("conversation with several turns", "plain", 128,
     pair([{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello"), user("7:45 or 9:30?")],
          [assistant("7:45"), user("Sure?"), assistant("Yes.")], [assistant("9:30")])),
    ("conversation, implicit prompt", "plain", 64,
     {"chosen": [user("What is it?"), assistant("It is blue.")], "rejected": [user("What is it?"), assistant("It is.")]}),
    ("conversation, template writes BOS", "template_bos", 64,
     pair([user(" Hi ")], [assistant(" Hello there ")], [assistant("Bye")])),
    ("conversation, prompt renders differently alone", "template_thinks", 64,
     pair([user("Hi")], [assistant("Hello")], [assistant("Bye")])),
    ("conversation truncated", "plain", 24, pair([user("Tell me")], [assistant(LONG)], [assistant("No.")])),
    ("empty completion", "plain", 64, pair("Say nothing.", "", " ok")),
    ("BOS is written and added", "bos", 64, pair("<|endoftext|>Hi", " there", " you")),
]


def prepare_pair(variant, max_length, row):
    tokenizer = load(variant)
    args = SimpleNamespace(max_length=max_length, truncation_mode="keep_start", dataset_num_proc=None)
    prepared = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), datasets.Dataset.from_list([row]),
                                           tokenizer, args, "train")
    if len(prepared) == 0:
        return None
    batch = DataCollatorForPreference(pad_token_id=0, max_length=max_length)([prepared[0]])
    result = {}
    for name, ids, seen, mask in zip(("chosen", "rejected"), batch["input_ids"], batch["attention_mask"], batch["completion_mask"]):
        length = int(seen.sum())
        result[name] = {"ids": ids[:length].tolist(), "prompt_len": length - int(mask.sum())}
    return result


def judged(prompt, completion, label):
    return {"prompt": prompt, "completion": completion, "label": label}


JUDGED_ROWS = [
    judged("The capital of France is", " Paris.", True), judged("The capital of Fran", "ce is Paris.", False),
    judged("Hi", " there<|im_end|>", True), judged("one two", " " + LONG, False), judged(LONG, " cut away", True),
    judged("The sky is blue today, and the children walked", " home.", True), judged("def add(a, b):\n", "\n    return a + b\n", False),
]
JUDGED_CHAT = [judged([user("Can you help me?")], [assistant("Of course!")], True),
               judged([user("Hi")], [assistant("Hello")], False), judged([user("Bye")], [assistant(LONG)], True)]
PAIRED_ROWS = [pair("The capital of France is", " Paris.", " London."), pair("Hi", " there", " you<|im_end|>"),
               pair("one two", " three", " " + LONG)]
IMPLICIT_ROWS = [{"chosen": "The sky is blue today", "rejected": "The sky is green today"},
                 {"chosen": "1+1=2 of course", "rejected": "1+1=3 of course"}]
UNPAIRED = [  # name, tokenizer, max_length, batch size, rows
    ("judged, all in one batch", "plain", 64, 8, JUDGED_ROWS), ("judged, batches of 3, truncated", "plain", 20, 3, JUDGED_ROWS),
    ("judged, batches of 2", "plain", 12, 2, JUDGED_ROWS), ("judged, no limit", "plain", None, 4, JUDGED_ROWS),
    ("judged, BOS", "bos", 20, 4, JUDGED_ROWS), ("judged, BOS and EOS", "bos_eos", 64, 4, JUDGED_ROWS),
    ("conversations", "plain", 32, 2, JUDGED_CHAT), ("conversations, template writes BOS", "template_bos", 64, 3, JUDGED_CHAT),
    ("conversations, prompt renders differently alone", "template_thinks", 64, 3, JUDGED_CHAT),
    ("pairs", "plain", 64, 3, PAIRED_ROWS), ("pairs, batches of 2", "plain", 16, 2, PAIRED_ROWS),
    ("pairs with implicit prompts", "plain", 64, 4, IMPLICIT_ROWS),
]


def prepare_unpaired(variant, max_length, batch, rows):
    tokenizer = load(variant)
    args = SimpleNamespace(max_length=max_length, dataset_num_proc=None, per_device_train_batch_size=batch)
    numbered = datasets.Dataset.from_list([row | {"index": at} for at, row in enumerate(rows)])
    trainer = SimpleNamespace(_tokenizer=tokenizer, calculate_KL=True)
    prepared = KTOTrainer._prepare_dataset(trainer, numbered, tokenizer, args, "eval")
    result = []
    for row in prepared:
        collated = DataCollatorForUnpairedPreference(pad_token_id=0, max_length=max_length)([row])
        example = {"index": row["index"], "label": row["label"]}
        for name, prefix in (("sequence", ""), ("mismatched", "KL_")):
            ids, mask = collated[f"{prefix}input_ids"][0], collated[f"{prefix}completion_mask"][0]
            example[name] = {"ids": ids.tolist(), "prompt_len": len(mask) - int(mask.sum())}
        result.append(example)
    return result


def unpaired_order(count):
    """Runs of examples of one label with consecutive rows: [label, first row, length]."""
    rows = datasets.Dataset.from_list([pair("p", "c", "r") | {"index": at} for at in range(count)])
    runs = []
    for row in unpair_preference_dataset(rows):
        if runs and runs[-1][0] == row["label"] and runs[-1][1] + runs[-1][2] == row["index"]:
            runs[-1][2] += 1
        else:
            runs.append([row["label"], row["index"], 1])
    return {"rows": count, "runs": runs}


TEXT_ROWS = [{"text": "The river was low."}, {"text": LONG}, {"text": "done<|im_end|>"}]
PROMPT_ROWS = [
    {"prompt": "The capital of France is", "completion": " Paris."}, {"prompt": "The capital of Fran", "completion": "ce"},
    {"prompt": LONG, "completion": " cut away"}, {"prompt": "short", "completion": " " + LONG},
]
CHAT_ROWS = [{"prompt": [user("Can you help me?")], "completion": [assistant("Of course!")]},
             {"prompt": [user("Hi")], "completion": [assistant("Hello")]}]
MESSAGE_ROWS = [{"messages": [user("Can you help me?"), assistant("Of course!")]}]
SFT = [  # name, tokenizer, max_length, completion_only, rows
    ("text", "plain", 20, True, TEXT_ROWS), ("text with BOS", "bos", 64, True, TEXT_ROWS),
    ("prompt and completion", "plain", 20, True, PROMPT_ROWS),
    ("prompt and completion, loss on all", "plain", 20, False, PROMPT_ROWS),
    ("conversational prompt and completion", "plain", 64, True, CHAT_ROWS),
    ("template that renders the prompt differently", "template_thinks", 64, True, CHAT_ROWS),
    ("messages", "plain", 64, True, MESSAGE_ROWS), ("messages, template writes BOS", "template_bos", 64, True, MESSAGE_ROWS),
]


def prepare_sft(variant, max_length, completion_only, rows):
    tokenizer = load(variant)
    args = SimpleNamespace(max_length=max_length, truncation_mode="keep_start", dataset_num_proc=None, shuffle_dataset=False,
                           dataset_text_field="text", assistant_only_loss=False, seed=0)
    trainer = SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=completion_only, chat_template=None)
    numbered = datasets.Dataset.from_list([row | {"index": at} for at, row in enumerate(rows)])
    prepared = SFTTrainer._prepare_dataset(trainer, numbered, tokenizer, args, False, None, "train")
    return [{"index": row["index"], "ids": row["input_ids"], "labels": row["labels"]} for row in prepared]


def packs(lengths, capacity):
    rows = [{"input_ids": [at] * length} for at, length in enumerate(lengths)]
    packed = pack_dataset(datasets.Dataset.from_list(rows), capacity, "bfd")
    return [sorted(set(ids)) for ids in packed["input_ids"]]


def line(item):
    return json.dumps(item, ensure_ascii=False)


def one_line_each(value):
    """JSON with one line for each item of each list, so that a change shows in a diff."""
    parts = [f"{line(key)}: " + ("[\n" + ",\n".join(map(line, item)) + "\n]" if isinstance(item, list) else line(item))
             for key, item in value.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


LENGTHS = [([5, 2, 3, 1], 4), ([3, 9, 7, 1, 4, 4, 6, 2, 8, 5], 10), ([10, 10, 1], 10), ([1, 1, 1, 1, 1], 3)]
expected = {
    "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "datasets": datasets.__version__},
    "variants": {name: {"post_processor": processor, "chat_template": template}
                 for name, (processor, template) in VARIANTS.items()},
    "pairs": [{"name": name, "variant": variant, "max_length": max_length, "row": row,
               "expected": prepare_pair(variant, max_length, row)} for name, variant, max_length, row in PAIRS],
    "unpaired": [{"name": name, "variant": variant, "max_length": max_length, "batch": batch, "rows": rows,
                  "expected": prepare_unpaired(variant, max_length, batch, rows)}
                 for name, variant, max_length, batch, rows in UNPAIRED],
    "unpaired_order": [unpaired_order(3), unpaired_order(2001)],
    "sft": [{"name": name, "variant": variant, "max_length": max_length, "completion_only": completion_only, "rows": rows,
             "expected": prepare_sft(variant, max_length, completion_only, rows)}
            for name, variant, max_length, completion_only, rows in SFT],
    # Lengths above the capacity are cut to it first.
    "packs": [{"lengths": [min(n, capacity) for n in lengths], "capacity": capacity, "packs": packs(lengths, capacity)}
              for lengths, capacity in LENGTHS],
}
(HERE / "expected.json").write_text(one_line_each(expected))
