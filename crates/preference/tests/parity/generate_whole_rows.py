#!/usr/bin/env python3
"""Records what TRL's trainers make of rows that say more than role and content: tools, tool calls, template arguments.

Each case is a file of JSON lines as `datasets.load_dataset("json")` reads it, then the trainers' own data preparation,
with the tiny tokenizer of ../../../text/tests/parity/tiny. Writes beside itself whole_rows.json (rows and ids, and rows
that TRL cannot prepare), and the same rows as tools.parquet (one schema for all), tools_json.parquet (objects as JSON
text), tools_columns.parquet (whole columns as JSON text, as Parquet names it) and tools.arrow (as a saved data set).
Usage: python generate_whole_rows.py      (needs: pip install trl transformers datasets torch)
"""
import json
import pathlib
import shutil
import tempfile
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import transformers
import trl
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_trainer import SFTTrainer

datasets.disable_progress_bars()
datasets.disable_caching()
HERE = pathlib.Path(__file__).parent
TINY = HERE.parents[2] / "text/tests/parity/tiny"

# Every field of every message, in its order, and all else that a template is given.
WHOLE = (
    "{% if tools is not none %}T{{ tools | tojson }}{% endif %}{% if documents is not none %}D{{ documents | tojson }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message | tojson }}<|im_end|>\n{% endfor %}{{ eos_token }}{{ style }}"
    "{% if add_generation_prompt %}<|im_start|>{% if quiet is defined and quiet is false %}loud{% endif %}{% endif %}"
)
# As templates of models do it: the text of a content of parts, the calls behind it, the reasoning before it.
USUAL = (
    "{%- if tools %}{{- 'Tools:' }}{% for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}{{- '\\n' }}{% endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- elif message.content %}{% for part in message.content %}{{- part.text }}{% endfor %}{% endif %}"
    "{%- for call in message.tool_calls or [] %}{{- '<call>' + call.function.name + ' ' }}"
    "{{- call.function.arguments | tojson }}{% endfor %}"
    "{%- if message.tool_call_id %}{{- '#' + message.tool_call_id }}{% endif %}{{- '<|im_end|>\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "whole": WHOLE,
    "usual": USUAL,
    "named": [{"name": "default", "template": "plain {{ messages | tojson }}{% if add_generation_prompt %}>{% endif %}"},
              {"name": "tool_use", "template": "tools {{ tools | tojson }}{{ messages | tojson }}"
                                               "{% if add_generation_prompt %}>{% endif %}"}],
}


def load(template):
    with tempfile.TemporaryDirectory() as copy:
        copy = pathlib.Path(copy)
        shutil.copy(TINY / "tokenizer.json", copy)
        config = json.loads((TINY / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATES[template]}))
        return transformers.AutoTokenizer.from_pretrained(copy)


def read(rows, kind="json", files=None):
    """The rows as `datasets` reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        if files is None:
            files = pathlib.Path(folder) / "rows.jsonl"
            files.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        loaded = datasets.load_dataset(kind, data_files=str(files), split="train", cache_dir=folder)
        return datasets.Dataset.from_list(list(loaded), features=loaded.features)


def prepared_pairs(template, rows):
    tokenizer = load(template)
    args = SimpleNamespace(max_length=None, truncation_mode="keep_start", dataset_num_proc=None)
    done = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), rows, tokenizer, args, "train")
    return [{"prompt": row["prompt_ids"], "chosen": row["chosen_ids"], "rejected": row["rejected_ids"]} for row in done]


def prepared_judged(template, rows):
    tokenizer = load(template)
    args = SimpleNamespace(max_length=None, dataset_num_proc=None, per_device_train_batch_size=8)
    trainer = SimpleNamespace(_tokenizer=tokenizer, calculate_KL=True)
    done = KTOTrainer._prepare_dataset(trainer, rows, tokenizer, args, "eval")
    return [{"prompt": row["prompt_ids"], "completion": row["completion_ids"], "other": row["KL_completion_ids"],
             "label": row["label"]} for row in done]


def prepared_sft(template, rows):
    tokenizer = load(template)
    args = SimpleNamespace(max_length=None, truncation_mode="keep_start", dataset_num_proc=None, shuffle_dataset=False,
                           dataset_text_field="text", assistant_only_loss=False, seed=0)
    trainer = SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=True, chat_template=None)
    done = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, args, False, None, "train")
    return [{"ids": row["input_ids"], "start": next(at for at, label in enumerate(row["labels"]) if label != -100)}
            for row in done]


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def result(content, **more):
    return {"role": "tool", "content": content, **more}


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"The {name} of it", "parameters": parameters}}


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def judged(prompt, completion, label, **more):
    return {"prompt": prompt, "completion": completion, "label": label, **more}


def text(*parts):
    return [{"type": "text", "text": part} for part in parts]


TOWN, DAY = {"type": "string"}, {"type": "integer", "enum": [1, 2], "default": None}
RAIN, DATE = tool("rain", town=TOWN), tool("date", day=DAY, at=TOWN)
BERN, BASEL = call("rain", town="Bern"), call("rain", town="Basel")
ASK = [user("Is it raining in Bern?")]
NESTED = call("date", day=2, at=[{"x": 1.5, "y": None}, {"y": True}], note="é \"</b>\" \u2028 🙂")
PAIRS = {
    "calls, results and tools": ("whole", [
        pair(ASK, [assistant("", tool_calls=[BERN]), result("dry", name="rain", tool_call_id="c1"), assistant("No.")],
             [assistant("", tool_calls=[BASEL]), result("wet", name="rain", tool_call_id="c1"), assistant("Yes.")],
             tools=[RAIN]),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[DATE, RAIN])]),
    "as models' templates do it": ("usual", [
        pair(ASK, [assistant("", tool_calls=[BERN]), result("dry", tool_call_id="c1"), assistant("No.")],
             [assistant("Yes.")], tools=[RAIN])]),
    "content is null": ("whole", [pair(ASK, [assistant(None, tool_calls=[BERN])], [assistant(None, tool_calls=[BASEL])],
                                       tools=[RAIN])]),
    "content is null, usual": ("usual", [pair(ASK, [assistant(None, tool_calls=[BERN])],
                                              [assistant(None, tool_calls=[BASEL])])]),
    "content is missing": ("usual", [pair(ASK, [{"role": "assistant", "tool_calls": [BERN]}],
                                          [{"role": "assistant", "tool_calls": [BASEL, BERN]}])]),
    "nulls inside stay, nulls of a message go": ("whole", [
        pair([user("Which day?", name=None)], [assistant("", tool_calls=[NESTED], refusal=None)],
             [assistant("x", tool_calls=None, refusal=None)], tools=[DATE])]),
    "tools as text": ("whole", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=json.dumps([RAIN, DATE])),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools="[]"),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools="null"),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=' [{"b": 1, "a": {"step": 0.1}}] ')]),
    "tools of some rows": ("whole", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN]),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=None),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[])]),
    "parts": ("whole", [pair([user(text("Is it ", "raining?"))], [assistant(text("No."))], [assistant(text("Yes", "."))])]),
    "parts, usual": ("usual", [pair([user(text("Is it ", "raining?"))], [assistant(text("No."))], [assistant(text("Yes."))])]),
    "parts in some rows": ("usual", [pair([user(text("Is it ", "raining?"))], [assistant(text("No."))], [assistant("Yes.")]),
                                     pair([user("Is it?")], [assistant("No.")], [assistant(text("Yes."))])]),
    "reasoning": ("whole", [
        pair(ASK, [assistant("No.", reasoning_content="It is dry.")], [assistant("Yes.", thinking="It is wet.")]),
        pair(ASK, [{"role": "assistant", "reasoning": "Dry?", "content": "No."}],
             [assistant("Yes.", thinking="Second", reasoning_content="First")]),
        pair(ASK, [assistant("No.", reasoning_content=None, thinking="Dry.")], [assistant("", reasoning_content="Hm")])]),
    "reasoning, usual": ("usual", [pair(ASK, [assistant("No.", thinking="It is dry.")],
                                        [assistant("Yes.", reasoning="It is wet.")])]),
    "fields that no template knows": ("whole", [
        pair([user("Hi", id=7, tags=["a", "b"])], [assistant("Yes.", score=0.25, final=True)],
             [assistant("No.", score=-1.5, final=False)])]),
    "variables": ("whole", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], chat_template_kwargs={"quiet": False, "style": "s1"}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], chat_template_kwargs={"quiet": True}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], chat_template_kwargs={"style": [1, {"a": None}]})]),
    "arguments in place of the row's": ("whole", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN], chat_template_kwargs={"tools": [DATE]}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN],
             chat_template_kwargs={"documents": [{"title": "t", "text": "x"}], "eos_token": "END", "truncation": False})]),
    "another template": ("whole", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN],
             chat_template_kwargs={"chat_template": "Q: {{ messages[-1].content }}{{ tools | length }}"})]),
    "a template by name": ("named", [
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN], chat_template_kwargs={"style": "s"}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[], chat_template_kwargs={"style": "s"}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=None, chat_template_kwargs={"style": "s"}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=[RAIN], chat_template_kwargs={"chat_template": "default"}),
        pair(ASK, [assistant("No.")], [assistant("Yes.")], tools=None, chat_template_kwargs={"chat_template": "tool_use"})]),
    "implicit prompt, calls differ": ("whole", [
        {"chosen": ASK + [assistant("", tool_calls=[BERN]), assistant("No.")],
         "rejected": ASK + [assistant("", tool_calls=[BASEL]), assistant("No.")], "tools": [RAIN]}]),
    "implicit prompt, calls are equal": ("whole", [
        {"chosen": ASK + [assistant("", tool_calls=[BERN]), result("dry"), assistant("No.")],
         "rejected": ASK + [assistant("", tool_calls=[BERN]), result("dry"), assistant("Yes.")], "tools": [RAIN]}]),
    "implicit prompt, another name": ("whole", [
        {"chosen": [user("Hi", name="Ann"), assistant("a"), user("Q", name="Ann"), assistant("b")],
         "rejected": [user("Hi", name="Ann"), assistant("a"), user("Q", name="Bob"), assistant("c")]}]),
}
JUDGED = {
    "pairs with tools": ("whole", [
        pair(ASK, [assistant(None, tool_calls=[BERN])], [assistant("Yes.")], tools=[RAIN], chat_template_kwargs={"style": "a"}),
        pair(ASK, [assistant("No.")], [assistant(None, tool_calls=[NESTED])], tools=[DATE], chat_template_kwargs={"style": "b"})]),
    "pairs with tools, implicit prompt": ("whole", [
        {"chosen": ASK + [assistant(None, tool_calls=[BERN])], "rejected": ASK + [assistant("Yes.")], "tools": [RAIN]},
        {"chosen": ASK + [assistant("No.")], "rejected": ASK + [assistant(None, tool_calls=[NESTED])], "tools": [DATE]}]),
    "judged": ("whole", [
        judged(ASK, [assistant(None, tool_calls=[BERN])], True, tools=[RAIN], chat_template_kwargs={"quiet": False}),
        judged(ASK, [assistant("Yes.", thinking="Hm")], False, tools=[DATE], chat_template_kwargs={"quiet": True}),
        judged([user(text("Hi"))], [assistant(text("Yo"))], False, tools=None, chat_template_kwargs={"quiet": False})]),
}
SFT = {
    "messages": ("whole", [
        {"messages": ASK + [assistant(None, tool_calls=[BERN]), result("dry", name="rain"), assistant("No.", thinking="Dry")],
         "tools": [RAIN], "chat_template_kwargs": {"style": "s"}},
        {"messages": [user(text("Hi")), assistant("Yo")], "tools": json.dumps([DATE]),
         "chat_template_kwargs": {"style": "t", "add_generation_prompt": True}}]),
    "prompt and completion": ("usual", [
        {"prompt": ASK, "completion": [assistant(None, tool_calls=[BERN])], "tools": [RAIN]},
        {"prompt": ASK + [assistant(None, tool_calls=[BERN]), result("dry")], "completion": [assistant("No.")], "tools": [RAIN]}]),
    "template of the row": ("whole", [
        {"prompt": ASK, "completion": [assistant("No.")], "chat_template_kwargs": {"chat_template": USUAL}}]),
}
ANSWERS = ([assistant("No.")], [assistant("Yes.")])
REFUSED = {  # rows that TRL cannot prepare
    "tools are an object": pair(ASK, *ANSWERS, tools={"type": "function"}),
    "tools are names": pair(ASK, *ANSWERS, tools=["rain"]),
    "tools are a broken text": pair(ASK, *ANSWERS, tools="[{]"),
    "tools are an empty text": pair(ASK, *ANSWERS, tools=""),
    "arguments are text": pair(ASK, *ANSWERS, chat_template_kwargs="x"),
    "arguments are a list": pair(ASK, *ANSWERS, chat_template_kwargs=["x"]),
    "documents are text": pair(ASK, *ANSWERS, chat_template_kwargs={"documents": ["x"]}),
    **{f"argument {name}": pair(ASK, *ANSWERS, chat_template_kwargs={name: value})
       for name, value in {"add_generation_prompt": True, "tokenize": False, "return_dict": True, "messages": [], "input": "x",
                           "continue_final_message": True, "conversation": []}.items()},
    "argument tools is text": pair(ASK, *ANSWERS, chat_template_kwargs={"tools": json.dumps([RAIN])}),
}
TABLE = [
    pair(ASK, [assistant(None, tool_calls=[BERN]), result("dry", name="rain"), assistant("No.")],
         [assistant(None, tool_calls=[BASEL])], tools=[RAIN, DATE], chat_template_kwargs={"quiet": False}),
    pair(ASK, [assistant(None, tool_calls=[call("date", day=2)])], [assistant(None, tool_calls=[call("date", day=1)])],
         tools=[DATE], chat_template_kwargs={"style": "s"}),
]


def fails(row):
    try:
        prepared_pairs("whole", read([row]))
    except Exception as error:
        return type(error).__name__
    raise SystemExit(f"TRL takes {row}")


def cases(table, prepare):
    return [{"name": name, "template": template, "rows": rows, "expected": prepare(template, read(rows))}
            for name, (template, rows) in table.items()]


def tables():
    one_schema, as_json, columns = (HERE / f"{name}.parquet" for name in ("tools", "tools_json", "tools_columns"))
    text = {name: pa.array([json.dumps(row[name]) for row in TABLE], pa.json_()) for name in TABLE[0]}
    pq.write_table(pa.table(text), columns, store_schema=False)
    datasets.Dataset.from_list(TABLE).to_parquet(one_schema)
    read(TABLE).to_parquet(as_json)
    with tempfile.TemporaryDirectory() as folder:
        read(TABLE).save_to_disk(folder)
        shutil.copy(pathlib.Path(folder) / "data-00000-of-00001.arrow", HERE / "tools.arrow")
        saved = prepared_pairs("whole", datasets.load_from_disk(folder))
    return [{"file": file.name, "expected": prepared_pairs("whole", read(None, "parquet", file))}
            for file in (one_schema, as_json, columns)] + [{"file": "tools.arrow", "expected": saved}]


def line(item):
    return json.dumps(item, ensure_ascii=False, separators=(",", ":"))


def one_line_each(value):
    parts = [f"{line(key)}: " + ("[\n" + ",\n".join(map(line, item)) + "\n]" if isinstance(item, list) else line(item))
             for key, item in value.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


recorded = {
    "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "datasets": datasets.__version__},
    "templates": TEMPLATES,
    "pairs": cases(PAIRS, prepared_pairs),
    "judged": cases(JUDGED, prepared_judged),
    "sft": cases(SFT, prepared_sft),
    "refused": [{"name": name, "row": row, "error": fails(row)} for name, row in REFUSED.items()],
    "tables": tables(),
}
(HERE / "whole_rows.json").write_text(one_line_each(recorded))
