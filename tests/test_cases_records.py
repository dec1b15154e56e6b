"What people bring is read: cases 1 to 6 and 8 to 12 of the reports, the reading side."

import bz2
import csv
import gzip
import json
import lzma
import sys
import time
import zipfile

import pytest

from tinyforge.data.records import advice, conversation, describe_problems, read_rows
from tinyforge.errors import DataError
from tinyforge.generation.evaluating import read_prompts

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello!"}
TALK = [HI, HELLO]
PAIRS = [{"question": f"{n}+1?", "answer": f"{n + 1}"} for n in range(40)]
CALL = {"name": "search", "arguments": {"for": "ball"}}
CALLED = {"type": "function", "function": CALL}


def only(row, columns=None):
    "The row that one record becomes, and what nothing reads of it."
    read = read_rows([row], columns)
    assert not read.problems, describe_problems(read.problems)
    return read.rows[0], read.unused


def said(row, columns=None):
    "Who says what in the conversation that a record becomes."
    return [(m["role"], m["content"]) for m in only(row, columns)[0].messages]


def refused(row, reason, columns=None):
    "The remedy for a record that cannot be used for this reason."
    problems = read_rows([row], columns).problems
    assert len(problems) == 1 and reason in problems[0].reason, problems
    assert problems[0].do
    return problems[0].do


def test_case_01_sharegpt():
    "ShareGPT's conversations are understood, whatever they call who speaks."
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    for key in ("conversations", "conversation", "dialog", "chat", "messages"):
        assert only({key: turns})[0].messages == TALK
    for user, bot in (("user", "assistant"), ("User", "Assistant"), ("human", "bing")):
        for who, what in (("from", "value"), ("role", "content"), ("role", "value")):
            turns = [{who: user, what: "Hi"}, {who: bot, what: "Hello!"}]
            assert only({"conversations": turns})[0].messages == TALK
    assert only({"conversation": [{"input": "Hi", "output": "Hello!"}]})[0].messages == TALK
    model = {"role": "model", "parts": [{"text": "Hello!"}]}
    assert only({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, model]})
    assert only(TALK)[0].messages == TALK  # a bare list
    do = refused({"conversations": [{"from": "narrator", "value": "Hi"}]}, "role 'narrator'")
    assert "assistant" in do


def test_case_01_sharegpt_calls():
    "A ShareGPT conversation with a call of a tool keeps the call and its result."
    turns = [
        {"from": "human", "value": "Where is it?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "in the garden"},
        {"from": "gpt", "value": "In the garden."},
    ]
    row, _ = only({"conversations": turns, "tools": json.dumps([{"name": "search"}])})
    assert [m["role"] for m in row.messages] == ["user", "assistant", "tool", "assistant"]
    assert row.messages[1]["tool_calls"] == [CALLED]
    assert row.options["tools"] == [{"type": "function", "function": {"name": "search"}}]


@pytest.mark.parametrize(
    "question, answer",
    [
        ("question", "answer"),
        ("instruction", "response"),
        ("prompt", "response"),
        ("query", "response"),
        ("question", "response"),
        ("input", "target"),
        ("inputs", "targets"),
        ("problem", "solution"),
        ("prompt", "answer"),
        ("Question", "Answer"),
        ("user", "assistant"),
    ],
)
def test_case_02_names_of_pairs(question, answer):
    "A question and its answer are understood under the names of public data sets."
    assert said({question: "Hi", answer: "Hello!"}) == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
    ]


def test_case_02_dolly_and_others():
    "Dolly's context is part of the question, and SQuAD's list of answers is one answer."
    dolly = {"instruction": "Who?", "context": "Bach.", "response": "B.", "category": "qa"}
    assert said(dolly)[0] == ("user", "Who?\n\nBach.")
    squad = {"question": "Who?", "context": "Bach.", "answers": {"text": ["B.", "B."]}}
    assert said(squad) == [("user", "Who?\n\nBach."), ("assistant", "B.")]
    assert said({"question": "Who?", "answer": ["B."]})[1] == ("assistant", "B.")
    alpaca = {"instruction": "Translate.", "input": "dog", "output": "chien", "text": "Below"}
    assert said(alpaca)[0] == ("user", "Translate.\n\ndog")
    assert only(alpaca)[1] == {"text": 1}


def test_case_02_columns():
    "Any other names are told with columns, also those within an object."
    told = {"frage": "question", "antwort": "answer"}
    row = {"frage": "Hi", "antwort": "Hello!"}
    assert said(row, told) == [("user", "Hi"), ("assistant", "Hello!")]
    films = {"translation": {"en": "dog", "fr": "chien", "de": "Hund"}}
    row, unused = only(films, {"translation.en": "input", "translation.fr": "output"})
    assert row.messages[1]["content"] == "chien" and unused == {"translation.de": 1}
    assert "translation.en" in refused(films, "none of the shapes")
    assert only({"review": "Good.", "stars": 5}, {"review": "text", "stars": "label"})[0].label
    swapped = said({"input": "a", "output": "b"}, {"input": "output", "output": "input"})
    assert swapped == [("user", "b"), ("assistant", "a")]
    ctx = {"sql_prompt": "a", "sql": "b", "sql_context": "c"}
    columns = {"sql_prompt": "question", "sql": "answer", "sql_context": "context"}
    assert said(ctx, columns)[0] == ("user", "a\n\nc")
    with pytest.raises(DataError, match="no row has 'fragen'; near is 'frage'"):
        read_rows([{"frage": "a", "antwort": "b"}], {"fragen": "question"})
    with pytest.raises(DataError, match="'qestion', which is no name .* near is 'question'"):
        read_rows([{"frage": "a"}], {"frage": "qestion"})


def test_case_02_two_ways():
    "What could be meant in two ways is refused with both names, and columns decide."
    math = {"problem": "2+2?", "solution": "Count. 4", "answer": "4"}
    assert "'solution'" in refused(math, "two answers: answer and solution")
    assert said(math, {"answer": "answer"})[1] == ("assistant", "4")
    assert said(math, {"solution": None})[1] == ("assistant", "4")
    both = {"messages": TALK, "question": "a", "answer": "b"}
    refused(both, "two shapes: messages and question/answer")
    assert said(both, {"messages": "messages"})[0] == ("user", "Hi")
    assert said(both, {"question": "question"})[0] == ("user", "a")
    same = {"messages": TALK, "problem": "Hi", "solution": "Hello!"}
    assert only(same)[0].messages == TALK
    refused({"text": "a", "messages": TALK}, "two shapes: messages and text")
    refused({"question": "a", "choices": ["b", "c"], "answer": "b"}, "'choices'")


def test_case_02_other_training():
    "Preferences are data for another kind of training: said, with the way to use half of it."
    dpo = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    assert "'rejected': None" in refused(dpo, "DPO")
    assert said(dpo, {"chosen": "answer", "rejected": None})[1] == ("assistant", "Hello!")
    talks = {"chosen": TALK, "rejected": TALK, "prompt": "Hi", "messages": TALK}
    assert "'messages'" in refused(talks, "DPO")
    assert only(talks, {"chosen": "messages", "rejected": None})[0].messages == TALK
    refused({"prompt": "Hi", "completion": "Hello!", "label": True}, "KTO")


def test_case_03_prompt_and_completion_as_messages():
    "A prompt and a completion that are lists of messages are a chat; the prompt is only read."
    assert only({"prompt": [HI], "completion": [HELLO]})[0].messages == TALK
    row, _ = only({"prompt": [*TALK, HI], "completion": [HELLO]})
    assert row.untrained == {1} and len(row.messages) == 4
    assert only({"prompt": [HI], "completion": "Hello!"})[0].messages == TALK
    assert only({"prompt": "Hi", "completion": HELLO})[0].messages == TALK
    assert only({"prompt": [HI], "answer": "Hello!"})[0].messages == TALK
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    assert only({"prompt": [HI], "completion": [HELLO], **kwargs})[0].options == {
        "enable_thinking": False
    }
    plain, _ = only({"prompt": "Once", "completion": " upon"})
    assert (plain.kind, plain.prompt, plain.text) == ("completion", "Once", " upon")
    refused({"prompt": "Once", "completion": " upon", "system": "Be brief."}, "'system'")


def test_case_04_openai_files():
    "Roles developer and tool, text in parts, null beside calls, and tools are kept."
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    calls = [
        {"id": "a", **CALLED, "function": {**CALL, "arguments": json.dumps({"for": "ball"})}}
    ]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "in the garden"},
        {"role": "assistant", "content": "In the garden.", "refusal": None},
    ]
    row, unused = only(
        {"messages": messages, "tools": [{"type": "function", "function": CALL}]}
    )
    assert [m["role"] for m in row.messages] == [m["role"] for m in messages]
    assert row.messages[1]["content"] == "Where is it?" and row.messages[2]["content"] == ""
    assert row.messages[2]["tool_calls"] == [{"id": "a", **CALLED}]
    assert row.messages[3]["tool_call_id"] == "a" and row.options["tools"] and not unused
    assert isinstance(messages[2]["tool_calls"][0]["function"]["arguments"], str)  # untouched


def test_case_04_older_calls():
    "OpenAI's older functions and function_call become tools and tool_calls."
    messages = [
        HI,
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "function", "name": "search", "content": "in the garden"},
        HELLO,
    ]
    row, _ = only({"messages": messages, "functions": [{"name": "search"}]})
    assert row.messages[1]["tool_calls"] == [CALLED]
    assert row.messages[2] == {"role": "tool", "content": "in the garden", "name": "search"}
    assert row.options["tools"] == [{"type": "function", "function": {"name": "search"}}]


def test_case_04_refused_by_name():
    "A picture, a sound, a call that is none: refused by name."
    for kind in ("image_url", "input_audio", "tool_use"):
        refused({"messages": [{"role": "user", "content": [{"type": kind}]}, HELLO]}, kind)
    refused({"messages": TALK, "images": ["a.png"]}, "'images'")
    broken = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
    }
    refused({"messages": [HI, broken]}, "is text that is not JSON")
    refused({"messages": TALK, "tools": "search"}, "not JSON")
    refused({"messages": [HI, {"role": "assistant", "content": None}]}, "'content' is null")


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}, {"trainable": 0}],
)
def test_case_05_read_and_not_trained(mark):
    "An answer that is marked so is read and not trained."
    row, unused = only({"messages": [HI, {**HELLO, **mark}, *TALK]})
    assert row.untrained == {1} and not unused and row.messages == TALK * 2
    refused({"messages": [HI, {**HELLO, **mark}]}, "every answer is marked")
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "No.", **mark}]
    assert only({"conversations": [*sharegpt, *TALK]})[0].untrained == {1}


def test_case_05_half_a_weight():
    "A weight between, a mask, a question to be trained: refused by name, not passed over."
    assert (
        only({"messages": [{**HI, "weight": 0}, {**HELLO, "weight": 1}]})[0].untrained == set()
    )
    refused({"messages": [HI, {**HELLO, "weight": 0.5}]}, "weight 0.5")
    refused({"messages": [HI, {**HELLO, "mask": 1}]}, "'mask'")
    refused({"messages": [HI, {**HELLO, "weight": 1, "train": False}]}, "by one key and not")
    refused({"messages": [{**HI, "train": True}, HELLO]}, "asks to be trained")
    refused({"messages": TALK, "loss_mask": [0, 1]}, "'loss_mask'")
    refused({**PAIRS[0], "weight": 0.3}, "the row has the weight 0.3")
    refused({**PAIRS[0], "train": False}, "not to be trained")
    assert only({**PAIRS[0], "weight": "3 kg"})[1] == {"weight": 1}


def test_case_06_system_history_context():
    "What stands beside a question is honoured."
    row = {"input": "And now?", "output": "Bye.", "system": "Be brief."}
    assert said(row)[0] == ("system", "Be brief.")
    for history in (TALK, [["Hi", "Hello!"]], json.dumps(TALK)):
        assert said({**row, "history": history}) == [
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello!"),
            ("user", "And now?"),
            ("assistant", "Bye."),
        ]
    assert said({**row, "context": "It is late."})[1] == ("user", "And now?\n\nIt is late.")
    assert said({**row, "context": ["a", "b"]})[1] == ("user", "And now?\n\na\n\nb")
    assert said({"messages": TALK, "system_prompt": "Be brief."})[0] == ("system", "Be brief.")
    assert only({"question": "a", "response": "b", "system_prompt": ""})[0].messages[0][
        "content"
    ]
    own = [{"role": "system", "content": "Be long."}, *TALK]
    refused({"messages": own, "system": "Be brief."}, "and another in its messages")
    thought, _ = only({**PAIRS[0], "reasoning_content": "One more."})
    assert thought.messages[-1]["reasoning_content"] == "One more."


def test_case_08_keys_that_nothing_reads():
    "Any other key is named with the number of rows that have it."
    rows = [
        {**pair, "id": n, "meta": {"by": "me"} if n else None} for n, pair in enumerate(PAIRS)
    ]
    assert read_rows(rows).unused == {"id": 40, "meta": 39}
    talk = {"messages": [HI, {**HELLO, "timestamp": 3}], "source": "web"}
    assert only(talk)[1] == {"source": 1, "messages[].timestamp": 1}
    call = {"role": "assistant", "tool_calls": [{**CALLED, "index": 0}]}
    assert only({"messages": [HI, call, *TALK]})[1] == {"messages[].tool_calls[].index": 1}
    assert only({"text": "a", "url": "b"})[1] == {"url": 1}
    assert only({"text": "a", "label": "b", "title": "c"})[1] == {"title": 1}
    assert only({"messages": TALK, "prompt": "Hi"})[1] == {"prompt": 1}


LINES = "\n".join(map(json.dumps, PAIRS)).encode()


def as_table(delimiter):
    lines = [delimiter.join(PAIRS[0]), *(delimiter.join(pair.values()) for pair in PAIRS)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "name, content",
    [
        ("array.json", json.dumps(PAIRS).encode()),
        ("pretty.json", json.dumps(PAIRS, indent=2).encode()),
        ("array.jsonl", json.dumps(PAIRS, indent=1).encode()),
        ("wrapped.json", json.dumps({"version": 1, "data": PAIRS}).encode()),
        ("objects.json", "\n".join(json.dumps(p, indent=2) for p in PAIRS).encode()),
        ("lines.json.gz", gzip.compress(LINES)),
        ("array.json.gz", gzip.compress(json.dumps(PAIRS).encode())),
        ("gzip.jsonl", gzip.compress(LINES)),
        ("lines.jsonl.bz2", bz2.compress(LINES)),
        ("lines.jsonl.xz", lzma.compress(LINES)),
        ("utf16.jsonl", LINES.decode().encode("utf-16")),
        ("utf32.jsonl", LINES.decode().encode("utf-32")),
        ("mark.jsonl", b"\xef\xbb\xbf" + LINES),
        ("windows.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("old-mac.jsonl", LINES.replace(b"\n", b"\r")),
        ("blank.jsonl", b"\n" + LINES.replace(b"\n", b"\n \n")),
        ("table.csv", as_table(",")),
        ("table.tsv", as_table("\t")),
        ("excel.csv", b"\xef\xbb\xbfsep=;\r\n" + as_table(";").replace(b"\n", b"\r\n")),
        ("table.txt", as_table("|")),
        ("wide.csv", as_table(",").decode().encode("utf-16")),
        ("lies.csv", LINES),
    ],
)
def test_case_09_files_that_are_read(tmp_path, name, content):
    "A file is read by what is in it, not by its name."
    path = tmp_path / name
    path.write_bytes(content)
    read = read_rows(str(path))
    assert [row.messages for row in read.rows] == [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in (pair.values() for pair in PAIRS)
    ]
    assert not read.problems and read.name == str(path)


def zipped(tmp_path, inside):
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inside, "{}")
    return path.read_bytes()


def test_case_09_files_that_are_refused(tmp_path):
    "A file of another kind is refused as what it is, with the way out; never 'skip'."
    latin = '{"text": "a"}\n{"text": "café"}'.encode("cp1252")
    for content, kind, way_out in (
        (latin, "line 2 is not UTF-8 (byte 0xe9)", "iconv"),
        (LINES.decode().encode("utf-16-le"), "UTF-16LE without the mark", "iconv"),
        (gzip.compress(LINES)[:-20], "cannot be unpacked", "cut off"),
        (json.dumps(PAIRS, indent=1).encode()[:-30], "not JSON", "fetch or write"),
        (zipped(tmp_path, "a.jsonl"), "is a zip archive", "unpack it"),
        (zipped(tmp_path, "xl/workbook.xml"), "is an Excel workbook", "CSV"),
        (b"%PDF-1.7", "is a PDF", "JSONL"),
        (b"\x80\x04\x95", "is a pickle", "trust"),
        (b"\x28\xb5\x2f\xfd", "Zstandard", "zstd -d"),
        (b"SQLite format 3\0", "SQLite", "rows"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "page of the web", "download"),
        (b"Once upon a time.\n", "plain text", '"text"'),
        (bytes(range(256)), "binary file", "JSONL"),
        (b"\0" * 100, "filled with zeros", "fetch"),
        (b" \n", "is empty", "JSON object"),
        (b'question,answer\n"a,b\nc,d', "no row of a table", "quotation marks"),
        (b"PAR1....", "Parquet", ""),
        (json.dumps({"train": PAIRS, "test": PAIRS}).encode(), "several names", "one of them"),
        (
            json.dumps({"question": {"0": "a"}, "answer": {"0": "b"}}).encode(),
            "2 obj",
            "lines",
        ),
    ):
        path = tmp_path / "brought"
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            read_rows(path)
        assert kind in error.value.what and way_out in error.value.do
        assert str(path) == error.value.where and "skip" not in str(error.value)


def test_case_09_lines_that_fail(tmp_path):
    "Each broken line has its remedy, said once; 'skip' is advised only where few fail."
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b'\n{"question": "a", "answer": }\n' + b"{'question': 'a'}\n")
    read = read_rows(path)
    assert [p.line for p in read.problems] == [41, 42] and len(read.rows) == 40
    described = describe_problems(read.problems)
    assert "line 42: not JSON" in described and "single quotes" in described
    assert "skip" in advice(read.problems, read.total)
    path.write_text("\n".join(["[1]"] * 39 + [json.dumps(PAIRS[0])]))
    read = read_rows(path)
    assert "lines 1-39" in describe_problems(read.problems)
    assert describe_problems(read.problems).count("->") == 1
    assert "skip" not in advice(read.problems, read.total)
    for line, remedy in (
        ('{"question": "a", "answer": "b"},', "comma"),
        ('{"question": "a", "answer": None}', "json.dumps"),
        ('{"question": "a", "question": "b", "answer": "c"}', "take one of them out"),
        ('{"question": "a", "ans', "ends within a record"),
        ('{"question": "a\tb", "answer": "c"}', "tab"),
        ('{"question": "a\\ud800", "answer": "c"}', "cut in two"),
        ('{"question": ' + "[" * 100_000, "take the row out"),
    ):
        path.write_bytes(LINES + b"\n" + line.encode())
        problem = read_rows(path).problems
        assert len(problem) == 1 and problem[0].line == 41 and remedy in problem[0].do


def test_case_09_tables(tmp_path):
    "Cells with line breaks and quotes are whole, and a row that is too long is named."
    path = tmp_path / "a.csv"
    texts = ['say ""', "two\nlines", "a;b|c", "x" * 200_000, " kept "]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "prompt", "completion"])
        writer.writerows([n, "a", text] for n, text in enumerate(texts))
    read = read_rows(path)
    assert [row.text for row in read.rows] == texts and [r.line for r in read.rows][2] == 5
    assert read.unused == {"column 1": 5}
    path.write_text("question,answer\na,b\nWell, no,d\n", encoding="utf-8")
    assert "3 values" in read_rows(path).problems[0].reason
    path.write_text("messages\n" + '"' + json.dumps(TALK).replace('"', '""') + '"\n')
    assert read_rows(path).rows[0].messages == TALK


def test_case_10_what_is_in_memory():
    "A list of dicts, a tuple, a generator, a dict of columns: the same rows as a file's."
    as_columns = {key: [pair[key] for pair in PAIRS] for key in PAIRS[0]}
    wanted = read_rows(PAIRS)
    assert len(wanted.rows) == 40 and wanted.name == "a list of 40 rows"
    for data in (tuple(PAIRS), (pair for pair in PAIRS), as_columns, {"train": PAIRS}):
        read = read_rows(data)
        assert read.rows == wanted.rows and read.sha256 == wanted.sha256
    assert read_rows([TALK, TALK]).rows[1].messages == TALK
    gap = {**PAIRS[0], "system": float("nan")}  # as tables write it
    assert read_rows([gap]).rows == wanted.rows[:1] and gap["system"] != gap["system"]
    for data, reason in (
        ({"train": PAIRS, "test": PAIRS}, "several names: 'train', 'test'"),
        ([1, 2], "holds int objects"),
        (b"text", "is bytes"),
        (7, "neither the path of a file nor an iterable"),
        ([], "holds no rows"),
        (["a first text, not a path", "a second"], "no such file"),
        ('[{"text": "a"}]', "is JSON, not the path"),
        ("https://example.org/a.jsonl", "is an address"),
    ):
        with pytest.raises(DataError, match=reason) as error:
            read_rows(data)
        assert error.value.do


def test_case_10_files_and_folders(tmp_path):
    "Several files, a pattern, a generator of paths; of a folder the files are named."
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    several = read_rows([tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")])
    assert several.name == "2 files" and several.total == 80
    assert [several.rows[0].file, several.rows[-1].file] == ["b.jsonl", "a.jsonl"]
    assert read_rows(str(tmp_path / "*.jsonl")).total == 80
    assert read_rows(tmp_path.glob("*.jsonl")).total == 80
    with pytest.raises(DataError, match="is a folder") as error:
        read_rows(tmp_path)
    assert "a.jsonl, b.jsonl" in error.value.do
    (tmp_path / "b.jsonl").write_text("[3]\n[3]\n")
    both = read_rows([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert "b.jsonl, lines 1-2: " in describe_problems(both.problems)


def test_case_10_tables_of_libraries(tmp_path):
    "A DataFrame, with its gaps and its arrays, is read as the rows that it shows."
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([{**pair, "system": None} for pair in PAIRS])
    frame.loc[3, "system"] = "Be brief."
    read = read_rows(frame)
    assert len(read.rows) == 40 and len(read.rows[3].messages) == 3 and not read.unused
    pytest.importorskip("pyarrow")
    tools = [{"name": "f", "parameters": {"type": "object"}}]
    other = {"type": "function", "function": {"name": "g", "arguments": {"in": "house"}}}
    called = [
        {"role": "assistant", "content": None, "tool_calls": [call]}
        for call in (CALLED, other)
    ]
    talks = [{"messages": [HI, call, *TALK], "tools": tools} for call in called]
    pandas.DataFrame(talks).to_parquet(tmp_path / "a.jsonl")
    assert read_rows(tmp_path / "a.jsonl").rows == read_rows(talks).rows
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(talks)
    assert read_rows(data).rows == read_rows(talks).rows
    with pytest.raises(DataError, match="is a DatasetDict with the splits 'train'"):
        read_rows(datasets.DatasetDict({"train": data}))


def test_case_09_parquet_without_a_library(tmp_path, monkeypatch):
    "Where nothing reads Parquet, the error says what to install."
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1....PAR1")
    with pytest.raises(DataError, match="is a Parquet file, and nothing") as error:
        read_rows(tmp_path / "a.parquet")
    assert "pip install pyarrow" in error.value.do


def test_case_11_each_reason_its_remedy():
    "A reason is said once with the lines that have it, and its remedy once."
    rows = [*PAIRS, *[{"question": "a", "answer": None}] * 3, {"question": "a", "answer": 3}]
    described = describe_problems(read_rows(rows).problems)
    assert (
        "lines 41-43: 'answer' is null" in described
        and "line 44: 'answer' is int" in described
    )
    assert described.count("->") == 2 and described.count("fill it in") == 1
    mixed = read_rows([*PAIRS, {"text": "a"}])
    assert "is of the kind text" in mixed.problems[0].reason and len(mixed.rows) == 40
    assert len(conversation([HI])) == 1


TWICE = {  # what a key twice looks like in each kind of file
    "lines.jsonl": '{"question": "a", "answer": "b", "answer": "c"}\n',
    "escaped.jsonl": '{"question": "a", "answer": "b", "answ\\u0065r": "c"}\n',
    "inside.jsonl": '{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n',
    "array.json": '[{"question": "a", "answer": "b", "answer": "c"}]',
    "wrapped.json": '{"data": [{"question": "a", "answer": "b", "answer": "c"}]}',
    "columns.json": '{"question": ["a"], "answer": ["b"], "answer": ["c"]}',
    "long.json": '{\n"question": "a",\n"answer": "b",\n"answer": "c"\n}\n',
    "text.jsonl": json.dumps(
        {"messages": '[{"role": "user", "content": "a", "content": "b"}]'}
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_twice_is_refused_by_its_name(tmp_path, name):
    "One of two values would be lost in silence."
    path = tmp_path / name
    path.write_text(TWICE[name], encoding="utf-8")
    read = read_rows(path)
    key = "content" if "content" in TWICE[name] else "answer"
    assert not read.rows and f"the key '{key}' twice" in read.problems[0].reason
    with pytest.raises(DataError, match=f"the key '{key}' twice"):
        read_prompts(path)


def test_a_column_twice_is_refused_by_its_name(tmp_path):
    "In CSV, in files of Arrow, and in tables in memory."
    pyarrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    from pyarrow import feather, parquet

    names = ["question", "answer", "answer"]
    table = pyarrow.table([pyarrow.array([text]) for text in "abc"], names=names)
    (tmp_path / "a.csv").write_text("question,answer,answer\na,b,c\n")
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table.rename_columns(names), tmp_path / "a.arrow")
    with pyarrow.ipc.new_stream(tmp_path / "b.arrow", table.schema) as file:
        file.write_table(table)
    frame = pandas.DataFrame([["a", "b", "c"]], columns=names)
    for data in (*tmp_path.iterdir(), table, frame):
        with pytest.raises(DataError, match="has two columns 'answer'"):
            read_rows(data)


def test_many_keys_are_compared_once(tmp_path):
    "A key twice among 200,000 is found in a second, not in hours."
    keys = [f'"k{n}": 1' for n in range(200_000)]
    (tmp_path / "a.jsonl").write_text("{" + ", ".join([*keys, keys[-1]]) + "}\n")
    start = time.process_time()
    assert "'k199999' twice" in read_rows(tmp_path / "a.jsonl").problems[0].reason
    assert time.process_time() - start < 2


def test_case_12_speed(tmp_path):
    "Reading is a small part of a millisecond a row, and linear in rows and in turns."

    def seconds(rows, turns):
        path = tmp_path / "a.jsonl"
        line = json.dumps({"messages": TALK * turns, "id": 1})
        path.write_text("\n".join([line] * rows), encoding="utf-8")
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            assert len(read_rows(path).rows) == rows
            best = min(best, time.process_time() - start)
        return best

    few = seconds(1000, 1)
    assert few / 1000 < 5e-4
    assert seconds(4000, 1) < 10 * few and seconds(1000, 16) < 32 * few
