"""Folders of adapters from strangers: each is used, or refused by a sentence; nothing else is.

A few hundred mutated folders always run; `--flags fuzz` makes them a thousand. Each is listed,
shown, combined with a sound adapter, and asked on the shipped base; some are also held against
PEFT, and merged.
"""

import contextlib
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinyforge.adapters.combining import combine_into
from tinyforge.adapters.exporting import merge_adapter
from tinyforge.adapters.folder import list_adapters
from tinyforge.adapters.format import SavedAdapter
from tinyforge.adapters.inspecting import check_adapter, show_adapter
from tinyforge.adapters.files import write_adapter
from tinyforge.errors import TinyforgeError
from tinyforge.generation.model import AdaptedModel
from tinyforge.models.loading import load_base, load_tokenizer

if sys.platform == "win32":
    pytest.skip("Windows has no pipes and no devices among its files", allow_module_level=True)

CONFIG, NOTES = "adapter_config.json", "tinyforge.json"
WEIGHTS, TEMPLATE, TOKENIZER = (
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer_config.json",
)
TEXTS = (CONFIG, NOTES, TEMPLATE, TOKENIZER)
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # on a terminal
ODD = [  # what stands where something else should
    *(None, True, -1, 0, 1.5, 10**400, "", "x", [], [1], {}, {"a": {}}, [[[]]], "\0"),
    *("\x1b[2J", "a\nWhat to do: run this", "~nobody/x", "/dev/zero", "../" * 50),
    *("(.*.*.*)*!", "(a|b|ab)*(a|b)*c!", r"(.)\1", "(?i)q_proj", "(" * 500, "q" * 300_000),
    *({"(.+)*!": 4}, {"(": 4}, {"q_proj": -1}, {"\x1b[31m": 8}, ["(.*)*!"], ["\u202e"] * 9),
    *("all-linear", "nowhere", ".*", r".*\.(q|v)_proj", "a" * 5000, 2**70, -0.0, 1e300),
]
TEMPLATES = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    *("{{ 10 ** (10 ** 10) }}", "{{ 'a' * 300000000 }}", "{{ 1 / 0 }}", "{{ (", "{{ messages"),
    *("{{ messages[0].content.x.y }}", "{% include 'x' %}", "\x1b[2J{{ messages }}"),
    *("{{ raise_exception('no') }}", "{{ ().__class__.__bases__ }}", "(" * 9999),
    "{% macro f() %}{{ f() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "[" * 5000 + "]" * 5000 + " }}",
]


class Hang(BaseException):
    "A case takes far too long."


def ring(*_):
    raise Hang


@contextlib.contextmanager
def within(seconds):
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sound_adapter(model, targets, seed):
    "An adapter of rank 2 on the shipped base, with B drawn by lot."
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in model.named_modules():
        if name.endswith(targets):
            out, into = layer.weight.shape
            prefix = f"base_model.model.{name}.lora_"
            tensors[prefix + "A.weight"] = torch.randn(2, into, generator=draw) / into**0.5
            tensors[prefix + "B.weight"] = torch.randn(out, 2, generator=draw) / 10
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "target_modules": list(targets),
        "base_model_name_or_path": "tinyforge-base",
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "auto_mapping": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
    }
    origin = {
        "base": "tinyforge-base",
        "kind": "chat",
        "data": {"file": "questions.jsonl", "examples": 9},
        "config": {"output_dir": "out", "trainer_args": {"max_steps": 3}},
        "result": {"losses": [[1, 2.0], [2, 1.5]], "evaluations": [[2, 1.6]]},
        "score": {"exact_match": 0.5},
        "finished": "2026-11-26T12:00:00",
        "versions": {"torch": "2"},
    }
    return SavedAdapter(config, tensors, origin)


def put_json(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")


def places_in(content, at=()):
    "Every place in nested JSON."
    yield at
    inside = content.items() if isinstance(content, dict) else ()
    inside = enumerate(content) if isinstance(content, list) else inside
    for key, value in inside:
        yield from places_in(value, (*at, key))


def change_value(folder, draw):
    "Another value at some place of a file of settings."
    file = folder / draw.choice([CONFIG, CONFIG, CONFIG, NOTES, NOTES, TOKENIZER])
    content = json.loads(file.read_text(encoding="utf-8"))
    *above, last = draw.choice([place for place in places_in(content) if place])
    holder = content
    for key in above:
        holder = holder[key]
    odd = draw.choice(ODD)
    if draw.random() < 0.15 and isinstance(holder, dict):
        del holder[last]
    elif draw.random() < 0.15 and isinstance(holder, dict):
        holder[draw.choice(["trust_remote_code", "use_dora", "lora_bias", "\x1b[2J"])] = odd
    else:
        holder[last] = odd
    put_json(file, content)


def change_bytes(folder, draw):
    "Some bytes of a file are others, or its end is gone."
    file = folder / draw.choice([WEIGHTS, *TEXTS])
    content = bytearray(file.read_bytes())
    if draw.random() < 0.4:
        del content[draw.randrange(len(content)) :]
    else:
        begins = min(len(content), 2000)  # where the head of the weights stands
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(begins)] = draw.randrange(256)
    file.write_bytes(content)


def change_tensors(folder, draw):
    "The matrices have other numbers, names, shapes or types."
    tensors = load_file(folder / WEIGHTS)
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    way = draw.randrange(9)
    if way == 0:
        factor = draw.choice([1e10, 1e18, 1e25, 1e30])
        tensors = {n: t * factor for n, t in tensors.items()}
    elif way == 1:
        tensors[name] = torch.full_like(tensor, draw.choice([torch.nan, torch.inf, 3e38]))
    elif way == 2:
        names = [name + "\x1b[2J", "a" * 5000, "x\n", "", "lm_head.weight"]
        tensors[draw.choice(names)] = tensor + 0
    elif way == 3:
        tensors[name] = torch.zeros(draw.choice([(0,), (0, 0), (1,), (3, 5), (2, 2, 2)]))
    elif way == 4:
        kinds = [torch.int32, torch.bool, torch.float16, torch.float64, torch.complex64]
        tensors[name] = tensor.to(draw.choice(kinds))
    elif way == 5:
        del tensors[name]
    elif way == 6:
        tensors = {}
    elif way == 7:
        tensors["base_model.model.lm_head.weight"] = torch.full((4, 4), 3e38)
    else:
        layer = name.rpartition(".lora_")[0]
        tensors[f"{layer}.lora_magnitude_vector"] = torch.zeros(draw.choice([1, 64]))
    save_file(tensors, folder / WEIGHTS)


class Code:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def change_kind(folder, draw):
    "A file is something else: a pipe, a device, a link, a folder, a program, without end."
    name = draw.choice([WEIGHTS, *TEXTS])
    file, way = folder / name, draw.randrange(9)
    file.unlink()
    if way == 0:
        os.mkfifo(file)
    elif way == 1:
        file.symlink_to(draw.choice(["/dev/zero", "/dev/stdin", "/dev/tty", "/proc/kcore"]))
    elif way == 2:
        file.symlink_to(folder.parent.parent / "outside" / "secret")
    elif way == 3:
        file.mkdir()
    elif way == 4:
        with file.open("wb") as endless:
            endless.truncate(1 << 42)
    elif way == 5:
        file.touch()
    elif way == 6:
        (folder / WEIGHTS).unlink(missing_ok=True)
        evil = pickle.dumps({"a": Code(folder.parent.parent / "outside" / "ran")})
        (folder / "adapter_model.bin").write_bytes(evil)
    elif way == 7:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as speaks:
            here = Path.cwd()
            os.chdir(folder)  # such an address is short
            speaks.bind(name)
            os.chdir(here)


def change_template(folder, draw):
    "Another chat template, in either of the two files."
    template = draw.choice(TEMPLATES)
    if draw.random() < 0.7:
        return (folder / TEMPLATE).write_text(template, encoding="utf-8")
    (folder / TEMPLATE).unlink()
    put_json(folder / TOKENIZER, {"chat_template": draw.choice([template, [template], {}, 5])})


WAYS = [change_value, change_value, change_value, change_tensors, change_bytes, change_kind]


def mutated(folder, draw):
    "A folder with one fault, or two; the names of the ways."
    templates = draw.random() < 0.06  # a hang takes its two seconds
    ways = [change_template] if templates else draw.sample(WAYS, draw.choice([1, 1, 2]))
    ways = sorted(ways, key=lambda way: way is change_kind)  # a pipe is changed no more
    for way in ways:
        with contextlib.suppress(Exception):  # the first may have left nothing for the second
            way(folder, draw)
    return [way.__name__ for way in ways]


def contents(folder):
    "What is in a folder, to the bit."
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Bench:
    "A base with a sound adapter, a place for one that is not, and what is counted."

    def __init__(self, top):
        self.top = top
        for name in ("outside", "given", "results"):
            (top / name).mkdir()
        (top / "outside" / "secret").write_text("a secret of this machine")
        base = load_base()
        self.template = top / "template"
        adapter = sound_adapter(base, ("q_proj", "down_proj"), 0)
        write_adapter(adapter, self.template)
        load_tokenizer().save_pretrained(self.template)
        self.sound = top / "given" / "sound"
        write_adapter(sound_adapter(base, ("v_proj",), 1), self.sound)
        self.model = AdaptedModel()
        self.model.load_lora(self.sound, "sound")
        self.answer = self.ask("sound")
        self.weights = weights_of(self.model.model)
        places = ("outside", "given", "template")
        self.kept = {place: contents(top / place) for place in places}
        self.counts, self.slow, self.wrong = Counter(), [], []

    def ask(self, adapter):
        return self.model.generate("What is a tensor?", max_new_tokens=4, adapter=adapter)

    def tasks(self, path, n):
        "What is done with a folder, by name."
        results = self.top / "results"
        yield "list", lambda: repr(list_adapters(path.parent))
        yield "show", lambda: repr(show_adapter(path))
        yield "ask", lambda: self.ask(path)
        yield "combine", lambda: repr(combine_into(results / "c", {path: 1, self.sound: 0.5}))
        if n % 10 == 0:
            yield "check", lambda: repr(check_adapter(path))
            yield "merge", lambda: repr(merge_adapter(path, results / "m"))

    def carry_out(self, what, task, case):
        "One task; what it says or raises is counted."
        start, said = time.process_time(), io.StringIO()
        wall = time.monotonic()
        out, err = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
        try:
            with within(30), out, err:
                result, kind = task(), "right"
        except TinyforgeError as e:
            result, kind = f"{e}", "refused"
        except (Exception, Hang) as e:
            result, kind = "nothing", "other"
            self.wrong.append((case, what, f"{type(e).__name__}: {e}"[:200]))
        self.counts[kind] += 1
        took = min(time.process_time() - start, time.monotonic() - wall)
        if took > 5 or time.monotonic() - wall > 25:
            self.slow.append((case, what, took))
        if what != "ask" and ACTS.search(result + said.getvalue()):
            self.wrong.append((case, what, "acts on a terminal", result[:200]))
        if what == "ask" and not (result or "change_template" in case):
            self.wrong.append((case, what, "an empty answer"))

    def check_rest(self, case, path):
        "Nothing but the folder of the case, and the results, was touched."
        mine = {path.name, *(p.name for p in self.top.iterdir() if p.name == "results")}
        for place, before in self.kept.items():
            now = contents(self.top / place) if place != "given" else contents(self.sound)
            wanted = before if place != "given" else contents_under(before, "sound")
            if now != wanted:
                self.wrong.append((case, "changed", place, sorted(now.keys() ^ wanted.keys())))
        mine |= {"sound", ".sound.tinyforge-lock"}  # which an adapter may be written over
        others = {p.name for p in (self.top / "given").iterdir()} - mine
        if others:
            self.wrong.append((case, "left behind", sorted(others)))
        for file in (self.top / "results").rglob("*"):
            if file.is_file() and b"a secret of this machine" in file.read_bytes():
                self.wrong.append((case, "copied a file of this machine", file.name))
        now = dict(self.model.model.named_parameters())
        if not all(torch.equal(now[name], old) for name, old in self.weights.items()):
            self.wrong.append((case, "the base has changed"))
        if self.ask("sound") != self.answer:
            self.wrong.append((case, "the sound adapter answers otherwise"))

    def case(self, n, seed):
        draw = random.Random(f"{seed}-{n}")
        odd = ["\x1b[2Jb", "a\nb", "\u202eback", "ünïcödé 👩"]
        name = draw.choice(["strange"] * 6 + odd)
        path = self.top / "given" / name
        shutil.copytree(self.template, path)
        case = (n, *mutated(path, draw))
        for what, task in self.tasks(path, n):
            self.carry_out(what, task, case)
        self.check_rest(case, path)
        for loaded in set(self.model.adapters) - {"sound"}:
            self.model.adapters.unload(loaded)
        for place in (path, *(self.top / "results").iterdir()):
            place.unlink() if place.is_file() else shutil.rmtree(place)


def contents_under(found, name):
    return {
        path.relative_to(name): content
        for path, content in found.items()
        if path.parts[0] == name
    }


def test_mutated_folders(tmp_path, request, capsys, monkeypatch):
    cases = 1000 if "fuzz" in request.config.option.flags.split() else 150
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path)
    start = time.monotonic()
    for n in range(cases):
        bench.case(n, seed=19)
    with capsys.disabled():
        print(f"\n{cases} folders of adapters, {time.monotonic() - start:.0f} s:", end=" ")
        print(", ".join(f"{count} {kind}" for kind, count in sorted(bench.counts.items())))
    assert not bench.wrong, bench.wrong
    assert not bench.slow, bench.slow
    assert bench.counts["right"] > cases // 2 and bench.counts["refused"] > cases
