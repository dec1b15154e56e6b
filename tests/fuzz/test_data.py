"""Data files that were damaged, cut, mixed up or made by an enemy: rows, or a sentence.

A seed makes a file, so that each can be made again: `data_file(seed)`. A few hundred in every
run, 10,000 with `--flags fuzz`.
"""

import csv
import gzip
import io
import json
import random
import time
from collections import Counter

import pytest

from tinyforge.data.chat import IGNORED
from tinyforge.data.examples import load_examples
from tinyforge.errors import DataError, TinyforgeError
from tinyforge.models.loading import load_tokenizer

FEW, MANY = 400, 10_000
SLOWEST = 5  # seconds of a file
TOKENIZER = load_tokenizer()
CONTROL = set(TOKENIZER.all_special_ids)
WORDS = """ball garden 東京 naïve \u202e \ud83d \0 \x1b[31m <|end|> <|assistant|> <|user|>
\\ " ' { } [ ] ,
: null NaN -Infinity 1e999 true \u2028 \ufeff \ufffd 🙂 ### ```json
""".split(" ")
KEYS = """question answer input output instruction prompt completion text label messages
conversations chosen rejected system tools context train weight name role content from value
id Question " answer" ANSWER score""".split()


def said(draw):
    "A text that somebody may have written."
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 8)))


def anything(draw, depth=0):
    "A value of JSON, of whatever kind."
    if depth < 3 and draw.random() < 0.3:
        inside = [anything(draw, depth + 1) for _ in range(draw.randint(0, 3))]
        return inside if draw.random() < 0.5 else dict(zip(draw.sample(KEYS, 4), inside))
    return draw.choice((None, True, 0, -1, 1.5, 10**40, "", said(draw), said(draw)))


def talk(draw):
    roles = ["user", "assistant", "system", "tool", "human", "gpt", "User", ""]
    return [
        {draw.choice(("role", "from")): draw.choice(roles), "content": said(draw)}
        for _ in range(draw.randint(0, 5))
    ]


def good(draw):
    "A row that can be trained."
    text = "Where is the ball?"
    asked = [{"role": "user", "content": text}]
    return draw.choice(
        (
            {"question": text, "answer": "In the garden."},
            {"prompt": text, "completion": " In the garden."},
            {"text": text},
            {"messages": [*asked, {"role": "assistant", "content": "a"}]},
        )
    )


def row(draw):
    "A row: a good one, one with something odd in it, or nonsense."
    kind = draw.random()
    if kind < 0.4:
        return good(draw)
    if kind < 0.7:
        return {**good(draw), draw.choice(KEYS): anything(draw)}
    if kind < 0.85:
        return {draw.choice(("messages", "conversations", "chosen")): talk(draw)}
    return anything(draw)


def as_jsonl(draw, rows):
    return "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows)


def as_json(draw, rows):
    whole = draw.choice((rows, {"data": rows}, {"train": rows, "test": rows}, {"0": rows}))
    return json.dumps(whole, indent=draw.choice((None, 1)))


def as_csv(draw, rows):
    table = [row for row in rows if isinstance(row, dict)] or [{"text": "a"}]
    written, names = io.StringIO(), list(dict.fromkeys(key for row in table for key in row))
    delimiter = draw.choice(",;\t|")
    writer = csv.DictWriter(written, names, delimiter=delimiter, restval="", escapechar="\\")
    writer.writeheader()
    writer.writerows(table)
    return written.getvalue()


def as_bytes(draw, text):
    "Text in some encoding."
    others = ["utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-16-le"]
    encoding = draw.choice(["utf-8"] * 6 + others)
    return text.encode(encoding, draw.choice(("replace", "ignore")))


def as_table(draw, rows):
    "A Parquet or Arrow file of the same columns."
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    text = said(draw).encode("utf-8", "replace").decode()
    table = pyarrow.table({"question": ["a", None], "answer": [text, "b"]})
    written = io.BytesIO()
    if draw.random() < 0.5:
        parquet.write_table(table, written)
    else:
        feather.write_feather(table, written, compression="uncompressed")
    return written.getvalue()


def damaged(draw, raw):
    "The same bytes with some changed, lost, doubled or put elsewhere."
    raw = bytearray(raw)
    for _ in range(draw.choice((0, 0, 1, 1, 2, 8))):
        at, to = sorted((draw.randrange(len(raw) + 1), draw.randrange(len(raw) + 1)))
        kind = draw.randrange(6)
        if kind == 0 and raw:
            raw[at % len(raw)] = draw.randrange(256)
        elif kind == 1:
            del raw[at : min(to, at + 40)]
        elif kind == 2:
            raw[at:at] = raw[at : min(to, at + 200)]
        elif kind == 3:
            del raw[at:]
        elif kind == 4:
            odd = (b"\0" * 9, b"\xff\xfe", b'"', b"}", b"[" * 99, b"\r", b"PAR1")
            raw[at:at] = draw.choice(odd)
        else:
            raw[at:at] = draw.choice((b'{"a":' * 2000, b"[" * 5000, b"9" * 6000, b" " * 9999))
    return bytes(raw)


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".txt", "")


def data_file(seed):
    "The end of a file's name and its bytes."
    draw = random.Random(seed)
    rows = [row(draw) for _ in range(draw.choice((0, 1, 2, 5, 20)))]
    form = draw.randrange(8)
    if form < 3:
        raw = as_bytes(draw, as_jsonl(draw, rows))
    elif form < 5:
        raw = as_bytes(draw, as_json(draw, rows))
    elif form < 6:
        raw = as_bytes(draw, as_csv(draw, rows))
    elif form < 7:
        raw = as_table(draw, rows)
    else:
        raw = draw.randbytes(draw.randrange(2000))
    if draw.random() < 0.1:
        raw = gzip.compress(raw)
    suffix = SUFFIXES[form % 3] if draw.random() < 0.7 else draw.choice(SUFFIXES)
    return suffix, damaged(draw, raw)


def control_tokens(example):
    "How many control tokens stand in an example, and of these how many are trained."
    inside = sum(i in CONTROL for i in example.input_ids)
    trained = sum(label in CONTROL for label in example.labels if label != IGNORED)
    return inside, trained


def checked(examples):
    "What every example must be, whatever it was made of."
    for example, row in zip(examples, examples.rows):
        assert len(example.input_ids) == len(example.labels) <= 512
        assert any(label != IGNORED for label in example.labels[1:])
        pairs = zip(example.input_ids, example.labels)
        assert all(label in (IGNORED, i) for i, label in pairs)
        if row.kind == "chat" and not example.cut:  # the template's own, and none of the text
            inside, _ = control_tokens(example)
            answers = sum(m["role"] == "assistant" for m in row.messages)
            assert inside <= len(row.messages) + answers, row.messages


def tried(path, seed):
    "What became of a file: right, refused, or the error that is not ours."
    suffix, raw = data_file(seed)
    file = path / f"data{suffix}"
    file.write_bytes(raw)
    before = sorted(path.iterdir())
    start, bad = time.process_time(), random.Random(seed).choice(("error", "skip"))
    try:
        checked(load_examples(str(file), TOKENIZER, on_bad_line=bad, show=False))
        became = "right"
    except TinyforgeError as e:
        assert isinstance(e, DataError) and e.do and "Traceback" not in str(e), (seed, e)
        became = "refused"
    except Exception as e:
        became = f"{type(e).__name__} of seed {seed}: {str(e)[:80]}"
    seconds = time.process_time() - start
    assert seconds < SLOWEST, f"seed {seed} took {seconds:.1f} s"
    assert sorted(path.iterdir()) == before and file.read_bytes() == raw
    file.unlink()
    return became


def figures(path, seeds, capsys):
    "Try many files; none may end in an error that is not ours."
    count = Counter(tried(path, seed) for seed in seeds)
    right, refused = count.pop("right", 0), count.pop("refused", 0)
    with capsys.disabled():
        tries = f"{len(seeds):,} data files: {right:,} right, {refused:,} refused"
        print(f"\n{tries}, {sum(count.values())} other")
    assert not count, count
    assert right > len(seeds) / 50 and refused > len(seeds) / 10  # both are tried


def test_mutated_data_files(tmp_path, capsys):
    figures(tmp_path, range(FEW), capsys)


@pytest.mark.flag("fuzz")
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_mutated_data_files(part, tmp_path, capsys):
    size = MANY // 4
    figures(tmp_path, range(FEW + part * size, FEW + (part + 1) * size), capsys)
