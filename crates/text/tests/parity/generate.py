#!/usr/bin/env python3
"""Trains a tiny tokenizer and records what `transformers` does with it: ids, decoded text, rendered conversations.

Writes beside itself: tiny/ (a tokenizer in Hugging Face layout) and expected.json.
Usage: python generate.py      (needs: pip install transformers jinja2)
"""
import json
import pathlib
import tempfile

import jinja2
import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The river was low that summer, and the children walked across it on the stones.",
    "She asked the baker for two loaves of bread, and he gave her three because it was late.",
    "How do I keep tomatoes fresh? Put them in a cool room, not in the refrigerator.",
    "I'm sorry, I don't know the answer to that. We'll ask the teacher when she's back.",
    "A train leaves at 7:45 and arrives at 9:30; another leaves at 12:05.",
    "Human: What is the capital of France?\n\nAssistant: The capital of France is Paris.",
    "Human: Can you help me?\n\nAssistant: Of course! What would you like to know?",
    "Der Hund läuft über die Straße. Le café est fermé à midi. Мир и снег.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n",
]
TEXTS = [
    "", " ", "a", "Hello world", " leading and trailing ", "The capital of France is Paris.",
    "double  space\n\nand\tlines\r\n", "I'm sure we'll see; they've DON'T", "12345 and 7:45, ½ ² Ⅷ ٣",
    "naïve café — “quoted” … Ünïcödé", "日本語のテキスト 中文", "🙂🤷🏽‍♀️ zero\u200bwidth \u00a0nbsp\u3000wide",
    "<|im_start|>user\nhi<|im_end|>\n", "half <|im_ special", "<|endoftext|><|endoftext|>x",
    "\n\nHuman: Can you help me?\n\nAssistant:", "e\u0301 combining, \u1e9b\u0323 NFC",
]
CHATS = {
    "one": [{"role": "user", "content": "Can you help me?"}],
    "system": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\nthere"},
               {"role": "assistant", "content": "Hello & <b>\"welcome\"</b> it's"}, {"role": "user", "content": "Bye"}],
    "wrong_order": [{"role": "assistant", "content": "I begin"}, {"role": "assistant", "content": "and go on"}],
}
TEMPLATES = {
    "chatml": CHATML,
    # The shapes below exercise what templates in the wild use; they are written for this test.
    "raise_and_namespace": """{{ bos_token }}{% set ns = namespace(system='', turns=0) %}
{% for message in messages %}
    {% if message['role'] == 'system' %}
        {% set ns.system = message['content'] | trim %}
    {% else %}
        {% if (message['role'] == 'user') != (ns.turns % 2 == 0) %}
            {{ raise_exception('roles must alternate user/assistant') }}
        {% endif %}
        {% set ns.turns = ns.turns + 1 %}
        {% if message['role'] == 'user' %}
[INST] {% if ns.system and ns.turns == 1 %}<<{{ ns.system }}>> {% endif %}{{ message['content'].strip() }} [/INST]
        {%- else %}
 {{ message.content | trim }}{{ eos_token }}
        {%- endif %}
    {% endif %}
{% endfor %}
""",
    "python_values": """{%- if messages[0]['role'] == 'system' -%}
  {%- set loop_messages = messages[1:] -%}{%- set system = messages[0].content.upper() -%}
{%- else -%}
  {%- set loop_messages = messages -%}{%- set system = none -%}
{%- endif -%}
{{ system }} {{ add_generation_prompt }} {{ tools is none }} {{ tools is defined and tools is not none }} {{ missing }}|
{%- for message in loop_messages recursive %}
{{ loop.index0 }}{{ loop.first }}{{ loop.last }} {{ message | tojson }} {{ message['content'].split(' ')[-1] }}
{%- if loop.index0 == 1 %}{% break %}{% endif %}
{%- endfor %}
{{ messages | length }} {{ (messages | last)['content'] | tojson(indent=2) }} {{ messages[0] | tojson(indent=2) }}
{{ 'assistant' in (messages | map(attribute='role') | list) }} {{ messages[::-1][0].role }} {{ '%s-%d' | format('x', 3) }}
{% macro shout(text, mark='!') %}{{ text.upper() ~ mark }}{% endmacro %}
{{ shout('ok') }} {{ 7 // 2 }} {{ 1.5 }} {{ 'abc'.startswith('ab') }} {{ 'a,b'.replace(',', ';') }} {{ messages[0].get('name', 'nobody') }}
""",
    "generation_blocks": """{% for message in messages %}
{% if message.role == 'assistant' %}
<a>{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}</a>
{% else %}
<u>{{ message.content }}</u>
{%- generation -%}  {{ '' }}  {%- endgeneration %}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}<a>{% endif %}
""",
}


def train(directory):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
              "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "normalized": False,
                            "rstrip": False, "single_word": False, "special": True},
              "model_max_length": 256, "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")


def load(directory, post_processor=None, **changes):
    with tempfile.TemporaryDirectory() as copy:
        copy = pathlib.Path(copy)
        description = json.loads((directory / "tokenizer.json").read_text())
        description["post_processor"] = post_processor
        (copy / "tokenizer.json").write_text(json.dumps(description))
        config = json.loads((directory / "tokenizer_config.json").read_text()) | changes
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        return transformers.AutoTokenizer.from_pretrained(copy)


def template_processing(single):
    """How a tokenizer.json says what surrounds a text."""
    pair = single + " " + single.replace("$A", "$B")
    ids = [(token, SPECIAL.index(token)) for token in SPECIAL]
    return json.loads(processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids).__getstate__())


def encodings(tokenizer):
    return [{"text": text, "with_special": tokenizer(text)["input_ids"],
             "without_special": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS]


def render(tokenizer, template, chat, add_generation_prompt):
    try:
        return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False,
                                             add_generation_prompt=add_generation_prompt)
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


train(HERE / "tiny")
plain = load(HERE / "tiny")
BOS = template_processing("<|endoftext|> $A")
BOS_EOS = template_processing("<|endoftext|> $A <|im_end|>")
expected = {
    "versions": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
                 "jinja2": jinja2.__version__},
    "vocab_size": len(plain), "bos": plain.bos_token_id, "eos": plain.eos_token_id, "pad": plain.pad_token_id,
    "plain": encodings(plain),
    "bos_processor": BOS, "add_bos": encodings(load(HERE / "tiny", post_processor=BOS)),
    "bos_eos_processor": BOS_EOS, "add_bos_eos": encodings(load(HERE / "tiny", post_processor=BOS_EOS)),
    # With a tokenizer.json the flag has no effect since transformers 5: the file's post-processor decides.
    "flag_only": encodings(load(HERE / "tiny", add_bos_token=True)),
    "decoded": [{"ids": ids, "text": plain.decode(ids), "skip": plain.decode(ids, skip_special_tokens=True)}
                for ids in ([], [1, 72, 2], plain("naïve 🙂 日本")["input_ids"][:-1], [0, 0, 100, 101])],
    "chats": [{"template": name, "source": source, "messages": chat, "add_generation_prompt": prompt,
               "rendered": render(plain, source, chat, prompt)}
              for name, source in TEMPLATES.items() for chat in CHATS.values() for prompt in (False, True)],
}


def one_line_each(value):
    """JSON with one line for each item of each list, so that a change shows in a diff."""
    def line(item):
        return json.dumps(item, ensure_ascii=False)
    parts = [f"{line(key)}: " + ("[\n" + ",\n".join(map(line, item)) + "\n]" if isinstance(item, list) else line(item))
             for key, item in value.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


(HERE / "expected.json").write_text(one_line_each(expected))
