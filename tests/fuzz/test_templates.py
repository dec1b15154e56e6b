"""Chat templates from strangers: each writes what transformers writes, or is refused in time.

A hundred generated templates always run; `--flags fuzz` makes them five hundred. Some are
sound ones with a few characters changed, some are made of the parts of Jinja by lot, and some
would run for ever, write a gigabyte, or end the process.
"""

import random
import re
import threading
import time
from collections import Counter

import pytest
from jinja2 import TemplateError
from tinyforge.adapters.format import SavedAdapter
from tinyforge.data.chat import encode_prompt
from tinyforge.data.rendering import TemplateFault
from tinyforge.errors import AdapterError, DataError, TinyforgeError
from tinyforge.generation.prompts import voice_of
from tinyforge.models.loading import PLAIN_TEMPLATE, LoadedBase

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant"
    "\n' }}{% endif %}"
)
BLOCKS = """{%- set ns = namespace(found=false, text='') -%}
{%- macro say(role, text) -%}{{ '[' ~ role ~ '] ' ~ text | trim ~ eos_token }}{%- endmacro -%}
{%- if tools -%}{{ tools | tojson(indent=2) }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{%- set ns.text = ns.text ~ m.content -%}{%- continue -%}
{%- endif -%}
{{ say(m.role, m.content) }}
{%- generation -%}{%- endgeneration -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[assistant] ' }}{%- endif -%}"""
BOMBS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ (10 ** 5) ** (10 ** 8) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x }}",
    "{{ 'a' * 300000000 }}",
    "{{ 'a' | center(2000000000) }}",
    "{{ '%2000000000d' % 1 }}",
    "{{ '{:>2000000000}'.format('a') }}",
    "{{ lipsum(n=100000, html=false) }}",
    "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "{{ range(100000) | join('a' * 100000) }}",
    "{{ [[1] * 100000] * 100000 }}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 2) }}{% endmacro %}{{ f(1) }}",
    "{{ " + "(" * 50_000 + " }}",
    "{{ " + "[" * 900 + "]" * 900 + " }}",
    "{{ " + "not " * 90_000 + "1 }}",
    "{% if 1 %}" * 5000,
    "{{ strftime_now('%Y' * 100000) }}",
    "a" * 300_000,
]
VALUES = """
    messages messages[0] messages[-1].content messages[0].role m.content tools eos_token self
    bos_token 1 0 -1 2.5 'a' '' [] {} none true add_generation_prompt undefined_name ns.x m
    loop.index messages[9] ().__class__ ''.__class__.__mro__ messages.append range(3)
""".split()
FILTERS = """
    trim upper length list first last tojson string int float default('x') join(',') safe abs
    reverse sort unique map(attribute='content') indent(2) replace('a','b') nothing format sum
    attr('__class__') selectattr('role') dictsort items urlize wordwrap(5) xmlattr random
    batch(2) pprint
""".split()
OPERATORS = "+ - * / // % ** ~ == < in and or is".split()


def expression(draw, depth=0):
    "An expression by lot; most of them fail."
    way = draw.random()
    if depth > 3 or way < 0.4:
        return draw.choice(VALUES)
    if way < 0.65:
        return f"({expression(draw, depth + 1)} | {draw.choice(FILTERS)})"
    if way < 0.9:
        left, right = expression(draw, depth + 1), expression(draw, depth + 1)
        return f"({left} {draw.choice(OPERATORS)} {right})"
    return f"[{expression(draw, depth + 1)}, {expression(draw, depth + 1)}][0]"


def statement(draw, depth=0):
    "A piece of a template by lot."
    way, inside = draw.randrange(9), "text"
    if depth < 3:
        pieces = range(draw.randrange(3))
        inside = "".join(statement(draw, depth + 1) for _ in pieces)
    if way < 3:
        return "{{ " + expression(draw) + " }}"
    if way == 3:
        return "{% for m in " + expression(draw) + " %}" + inside + "{% endfor %}"
    if way == 4:
        return "{% if " + expression(draw) + " %}" + inside + "{% else %}b{% endif %}"
    if way == 5:
        return "{% set ns = namespace(x=" + expression(draw) + ") %}" + inside
    if way == 6:
        return "{% macro f(m) %}" + inside + "{% endmacro %}{{ f(" + expression(draw) + ") }}"
    if way == 7:
        return "{% filter upper %}" + inside + "{% endfilter %}{% break %}"
    return draw.choice(["{% generation %}x{% endgeneration %}", "{{ raise_exception('no') }}"])


def changed(text, draw):
    "A text with a few characters that are others, or gone."
    letters = list(text)
    for _ in range(draw.choice([1, 2, 5])):
        at = draw.randrange(len(letters))
        others = ["", "{", "}", "%", "'", "m", "\x1b", "\ud800", "é", "messages"]
        letters[at] = draw.choice(others)
    return "".join(letters)


def made(draw):
    "A template, and the way that it was made."
    way = draw.random()
    if way < 0.06:
        return draw.choice(BOMBS), "bomb"
    if way < 0.2:
        return draw.choice([PLAIN_TEMPLATE, CHATML, BLOCKS]), "sound"
    if way < 0.5:
        return changed(draw.choice([PLAIN_TEMPLATE, CHATML, BLOCKS]), draw), "changed"
    around = draw.choice(["{}", CHATML + "{}", "{}" + CHATML])
    return around.replace("{}", statement(draw)), "by lot"


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load()


def outcome(work):
    "What comes of some work: a kind, and a result or a message."
    try:
        return "right", work()
    except (AdapterError, DataError) as e:
        return "refused", e
    except Exception as e:
        return "other", e


def in_a_thread(work):
    said = []
    thread = threading.Thread(target=lambda: said.append(outcome(work)))
    thread.start()
    thread.join()
    return said[0]


def by_transformers(loaded, template, talk):
    "What transformers writes in this process; None if it fails."
    options = {"tokenize": False, "add_generation_prompt": True, "chat_template": template}
    try:
        return loaded.tokenizer.apply_chat_template(talk, **options)
    except Exception:
        return None


def by_us(tokenizer, talk):
    "What is written in a process of its own; None if the template fails."
    try:
        return tokenizer.apply_chat_template(talk, add_generation_prompt=True)
    except (TemplateError, TemplateFault, TinyforgeError):
        return None


def without_addresses(text):
    return text and re.sub(r"0x[0-9a-f]+", "", text)


def test_templates(loaded, request, capsys):
    cases = 500 if "fuzz" in request.config.option.flags.split() else 100
    counts, wrong, begin = Counter(), [], time.monotonic()
    talk = [{"role": "user", "content": "Is the shop open?"}]
    voice_of(loaded, SavedAdapter({}, {}, template=CHATML)).tokenizer.apply_chat_template(talk)
    for n in range(cases):
        draw = random.Random(f"19-{n}")
        template, way = made(draw)
        saved = SavedAdapter({}, {}, {"kind": "chat"}, template=template)

        def ask():
            return encode_prompt(talk, voice_of(loaded, saved).tokenizer)

        start = time.monotonic()
        kind, result = in_a_thread(ask) if n % 3 == 0 else outcome(ask)
        took = time.monotonic() - start
        counts[kind] += 1
        if kind == "other" or took > 5:
            wrong.append((n, way, took, template[:200], repr(result)[:200]))
        if way == "sound" and kind != "right":
            wrong.append((n, "a sound one is refused", str(result)))
        if way == "bomb" and kind == "right":
            wrong.append((n, "borne", template[:80]))
        if way != "bomb" and n % 2:  # in this process, nothing bounds it
            theirs = by_transformers(loaded, template, talk)
            ours = kind == "right" and by_us(voice_of(loaded, saved).tokenizer, talk)
            if ours and without_addresses(ours) != without_addresses(theirs):
                wrong.append((n, "otherwise than transformers", template[:200]))
    with capsys.disabled():
        print(f"\n{cases} chat templates, {time.monotonic() - begin:.0f} s:", end=" ")
        print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    assert not wrong, wrong
    assert counts["right"] > cases // 5 and counts["refused"] > cases // 5


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb(loaded, bomb, request):
    "Each of what would have stopped the program is an AdapterError within five seconds."
    if "fuzz" not in request.config.option.flags.split() and len(bomb) % 3:
        pytest.skip("needs --flags fuzz")
    saved = SavedAdapter({}, {}, {"kind": "chat"}, template=bomb)
    start = time.monotonic()
    with pytest.raises((AdapterError, DataError)):
        encode_prompt("Is the shop open?", voice_of(loaded, saved).tokenizer)
    assert time.monotonic() - start < 5
