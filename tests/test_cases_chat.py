"""The cases of people's data that a chat template decides: 4, 5, 7, 11, 12 and 14."""

import copy
import json
import logging
import os
import time

import pytest

from tinyforge.data.chat import IGNORED, Encoder, default_system, encode, encode_prompt
from tinyforge.data.examples import inspect_data, load_examples
from tinyforge.data.records import Row, read_rows
from tinyforge.errors import DataError
from tinyforge.models.loading import load_tokenizer

TOKENIZER = load_tokenizer()
USER = {"role": "user", "content": "Where is the ball?"}
BOT = {"role": "assistant", "content": "In the garden."}
AGAIN = {"role": "user", "content": "And now?"}
GONE = {"role": "assistant", "content": "It is gone."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks into a room.",
            "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"room": "hall"}}}

WITH_TOOLS = """{% if tools %}<|system|>{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|{{ m.role }}|>
{%- if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}
{%- if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

# writes thinking in the answers after the last question, an empty block where there is none
THINKS = """{% set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}{% for m in messages %}<|{{ m.role }}|>
{%- set said = m.content %}{% set thought = m.reasoning_content or '' %}
{%- if m.role == 'assistant' %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip() %}
{%- set said = said.split('</think>')[-1].lstrip() %}{% endif %}
{%- if loop.index0 > ns.last %}{{ '<think>' + thought + '</think>' }}{% endif %}
{%- endif %}{{ said }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- endif %}"""


def with_template(source):
    "The shipped base's tokenizer with another chat template."
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.chat_template = source
    return tokenizer


def trained(record, tokenizer=TOKENIZER):
    "What of a row is trained, answer by answer."
    [row] = read_rows([record]).rows
    example = encode(row, tokenizer)
    runs, inside = [], False
    for i, label in zip(example.input_ids, example.labels):
        if label != IGNORED:
            runs = runs if inside else [*runs, []]
            runs[-1].append(i)
        inside = label != IGNORED
    for i, message in enumerate(row.messages):  # asked as trained
        if message["role"] == "assistant" and i not in row.untrained:
            asked = encode_prompt(row.messages[:i], tokenizer, options=row.options)
            assert example.input_ids[: len(asked)] == asked
            assert example.labels[len(asked)] != IGNORED == example.labels[len(asked) - 1]
    return [tokenizer.decode(run) for run in runs]


def refused(records, tokenizer=TOKENIZER, **options):
    "The message for data that cannot be used."
    with pytest.raises(DataError) as error:
        load_examples(records, tokenizer, show=False, **options)
    return str(error.value)


def test_case_04_tools_roles_and_parts():
    "Tools, calls and results are written by the template; a developer speaks as the system."
    tokenizer = with_template(WITH_TOOLS)
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the ball?"}]
    result = {"role": "tool", "content": 'a "ball"', "tool_call_id": "1"}
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages = [{"role": "user", "content": parts}, asking, result, BOT]
    record = {"messages": messages, "tools": TOOLS}
    call = '<call>{"name": "look", "arguments": {"room": "hall"}}</call><|end|>'
    assert trained(record, tokenizer) == [call, "In the garden.<|end|>"]
    [row] = read_rows([record]).rows
    text = tokenizer.decode(encode(row, tokenizer).input_ids)
    assert "Looks into a room." in text and 'a \\"ball\\"' in text and "the ball?" in text
    developer = {"role": "developer", "content": "Be brief."}
    assert trained({"messages": [developer, USER, BOT]}) == ["In the garden.<|end|>"]
    [row] = read_rows([{"messages": [developer, USER, BOT]}]).rows
    text = TOKENIZER.decode(encode(row, TOKENIZER).input_ids)
    assert text.startswith("<|system|>Be brief.<|user|>")


def test_case_04_what_the_template_cannot_write():
    "Calls, tools and texts that a template drops are refused by name, each with its way out."
    asking = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    said = refused([{"messages": [USER, asking]}])
    assert "leaves out the tool_calls of message 2" in said and "writes tool calls" in said
    assert "does not read tools" in refused([{"messages": [USER, BOT], "tools": TOOLS}])
    deaf = with_template(
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    system = {"role": "system", "content": "Be brief."}
    said = refused([{"messages": [system, USER, BOT]}], deaf)
    assert "leaves out the content of message 1 (system)" in said
    assert "put its text before the first question" in said
    with pytest.raises(DataError, match="leaves out the content of message 1"):
        encode_prompt("Hi", deaf, system="Be brief.")


@pytest.mark.parametrize("key, value", [("weight", 0), ("train", False)])
def test_case_05_an_answer_without_weight_is_read(key, value):
    "An answer with weight 0 is read and not trained; what is trained is the rest."
    wrong = {**BOT, "content": "Five of course.", key: value}
    messages = [USER, wrong, AGAIN, GONE]
    assert trained({"messages": messages}) == ["It is gone.<|end|>"]
    [row] = read_rows([{"messages": messages}]).rows
    assert "Five of course." in TOKENIZER.decode(encode(row, TOKENIZER).input_ids)


def test_case_07_reasoning_is_trained_or_refused_by_name():
    "Reasoning that the template writes is trained; what it takes away is named."
    tokenizer = with_template(THINKS)
    block = "<think>It rained.</think>In the garden."
    for thoughtful in (
        {**BOT, "reasoning_content": "It rained."},
        {**BOT, "reasoning": "It rained."},
        {**BOT, "content": block},
        {**BOT, "content": "<think>\nIt rained.\n</think>\n\nIn the garden."},
    ):
        assert trained({"messages": [USER, thoughtful]}, tokenizer) == [block + "<|end|>"]
        early = [{"messages": [USER, thoughtful, AGAIN, GONE]}]
        said = refused(early, tokenizer)
        assert "of message 2 (assistant)" in said and "leaves out" in said
        assert '"train": false' in said or "a row of its own" in said
    said = refused([{"messages": [USER, {**BOT, "reasoning_content": "It rained."}]}])
    assert "leaves out the reasoning_content of message 2" in said


def test_case_07_what_the_template_puts_before_an_answer(caplog):
    "An empty block of thoughts agrees with asking, and is said."
    tokenizer = with_template(THINKS)
    plain = {"messages": [USER, BOT]}
    assert trained(plain, tokenizer) == ["<think></think>In the garden.<|end|>"]
    quick = {**plain, "chat_template_kwargs": {"enable_thinking": False}}
    assert trained(quick, tokenizer) == ["In the garden.<|end|>"]
    with caplog.at_level(logging.INFO, logger="tinyforge"):
        load_examples([plain] * 3, tokenizer, show=False)
    assert "puts '<think></think>' before answers of 3 rows" in caplog.text


def test_case_11_one_remedy_for_one_cause():
    "A tokenizer without an end, a template that refuses: the remedy of that cause, once."
    endless = with_template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    endless.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    endless.eos_token = None
    said = refused([{"input": f"Is it {n}?", "output": "Yes."} for n in range(40)], endless)
    assert said.count("has no end token") == said.count("set its eos_token") == 1
    assert "skip" not in said
    strict = with_template(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
        + TOKENIZER.chat_template
    )
    system = {"role": "system", "content": "Be brief."}
    said = refused([{"messages": [system, USER, BOT]}] * 9, strict)
    assert said.count("No system!") == said.count("before the first question") == 1
    alternating = with_template(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate!') }}{% endif %}{% endfor %}"
        + TOKENIZER.chat_template
    )
    said = refused([{"messages": [USER, AGAIN, BOT]}] * 9, alternating)
    assert said.count("Roles must alternate!") == said.count("join messages of one role") == 1


def seconds(encoder, turns, times=40):
    "CPU seconds for a row of so many turns, the best of three."
    pairs = [
        {"role": role, "content": f"What is the number {n} of this list, please? " * 2}
        for n in range(turns)
        for role in ("user", "assistant")
    ]
    row = Row(1, "chat", pairs)
    encoder.example(row, 100_000)
    best = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(times):
            encoder.example(row, 100_000)
        best.append((time.process_time() - start) / times)
    return min(best)


def test_case_12_linear_in_turns_and_in_added_tokens():
    "Sixteen turns take eight times as long as two, and 6,000 added tokens cost nothing."
    encoder = Encoder(TOKENIZER)
    two = seconds(encoder, 2)
    assert two < 2e-3  # 0.4 ms when nothing else runs
    sixteen = seconds(encoder, 16)
    assert sixteen < 8 * two * 1.8
    assert seconds(encoder, 160, times=4) < 10 * sixteen * 1.5
    many = copy.deepcopy(TOKENIZER)
    many.add_tokens([f"<extra_{n}>" for n in range(3000)])
    many.add_tokens([f"<more_{n}>" for n in range(3000)], special_tokens=True)
    assert seconds(Encoder(many), 2) < 1.8 * two


def test_case_14_the_templates_own_system_text(caplog):
    "A default system text is the same in training and asking, and is said."
    own = with_template(
        "{% if messages[0].role != 'system' %}<|system|>You are kind.{% endif %}"
        + TOKENIZER.chat_template
    )
    assert default_system(own) == "You are kind." and default_system(TOKENIZER) == ""
    record = {"input": USER["content"], "output": BOT["content"]}
    assert trained({"messages": [USER, BOT]}, own) == ["In the garden.<|end|>"]
    assert "You are kind." in own.decode(encode_prompt(USER["content"], own))
    with caplog.at_level(logging.INFO, logger="tinyforge"):
        load_examples([record], own, show=False)
    assert "its own system text: 'You are kind.'" in caplog.text
    report = inspect_data([record], tokenizer=own, show=False)
    assert report.system == "You are kind." and "You are kind." in repr(report)
    told = encode_prompt(USER["content"], own, system="Be brief.")
    assert "You are kind." not in own.decode(told)


def test_the_begin_token_of_a_text_is_not_doubled():
    "A text that begins with the begin token gets no second one."
    from tokenizers import processors

    begins = copy.deepcopy(TOKENIZER)
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", 2)]
    )
    plain = encode(Row(1, "text", text="Once."), begins)
    assert plain.input_ids[0] == 2
    assert encode(Row(1, "text", text="<|user|>Once."), begins).input_ids == plain.input_ids
    asked = encode_prompt("<|user|>Once", begins, "text")
    assert asked == encode_prompt("Once", begins, "text") and asked.count(2) == 1


def test_several_files_and_their_lines(tmp_path):
    "A line of one of several files is named with its file."
    for name, answer in (("a", "Yes."), ("b", "No <|end|>.")):
        lines = [{"input": "Is it?", "output": "Yes."}, {"input": "Now?", "output": answer}]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    said = refused(files)
    assert "b.jsonl" in said and "line 2" in said and "a control token" in said
    kept = load_examples(files, TOKENIZER, on_bad_line="skip", show=False)
    assert [(e.line, e.file) for e in kept] == [
        (1, "a.jsonl"),
        (2, "a.jsonl"),
        (1, "b.jsonl"),
    ]


@pytest.mark.flag("real")
def test_a_real_tokenizer_is_asked_as_it_was_trained():
    "SmolLM2's own template: several turns, its default system text, a weight of 0."
    tokenizer = load_tokenizer(os.environ["TINYFORGE_REAL_MODEL"])
    assert trained({"messages": [USER, BOT, AGAIN, GONE]}, tokenizer) == [
        "In the garden.<|im_end|>",
        "It is gone.<|im_end|>",
    ]
    assert trained({"messages": [USER, {**BOT, "weight": 0}, AGAIN, GONE]}, tokenizer) == [
        "It is gone.<|im_end|>"
    ]
    assert default_system(tokenizer).startswith("You are a helpful AI assistant")
