"""What a folder from a stranger may not do: run code, hang, fill memory, write to a terminal,
copy files of this machine."""

import builtins
import contextlib
import io
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import tinyforge
import torch
from checkout import first_rows
from tinyforge.adapters.combining import combine_into
from tinyforge.adapters.files import read_adapter, write_adapter
from tinyforge.adapters.folder import list_adapters
from tinyforge.adapters.format import SavedAdapter
from tinyforge.adapters.inspecting import check_adapter, show_adapter
from tinyforge.cli import main
from tinyforge.data.examples import inspect_data
from tinyforge.errors import AdapterError, ModelError, TinyforgeError
from tinyforge.generation.model import AdaptedModel
from tinyforge.models.loading import load_base, load_tokenizer, resize_embeddings
from tinyforge.models.names import model_config

BASE = Path(tinyforge.__file__).parent / "models" / "base"
CODE = '''
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).write_text("ran")


class OwnConfig(LlamaConfig):
    model_type = "of_its_own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass


def generate(model, *args, **options):
    return model.generate(*args, **options)
'''


@pytest.fixture
def lora(tmp_path):
    "A sound adapter on the shipped base, as files."
    tensors, draw = {}, torch.Generator().manual_seed(0)
    for name, layer in load_base().named_modules():
        if name.endswith(("q_proj", "down_proj")):
            out, into = layer.weight.shape
            prefix = f"base_model.model.{name}.lora_"
            tensors[prefix + "A.weight"] = torch.randn(2, into, generator=draw) / into**0.5
            tensors[prefix + "B.weight"] = torch.randn(out, 2, generator=draw) / 10
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
    config |= {"target_modules": ["q_proj", "down_proj"]}
    config |= {"base_model_name_or_path": "tinyforge-base"}
    folder = tmp_path / "given" / "lora"
    write_adapter(SavedAdapter(config, tensors, {"base": "tinyforge-base"}), folder)
    return folder


def changed(folder, file="adapter_config.json", **values):
    "Some settings of a folder are others."
    path = folder / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


# line 6: code of a model's own


def base_with_code(folder, kinds, marker):
    "A base whose files name code of its own: for its settings, its model, its tokenizer."
    shutil.copytree(BASE, folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    auto = {"config": {"AutoConfig": "own.OwnConfig"}, "tokenizer": {}, "generate": {}}
    auto["model"] = {"AutoModelForCausalLM": "own.OwnModel", "AutoModel": "own.OwnModel"}
    found = {name: place for kind in kinds for name, place in auto[kind].items()}
    changed(folder, "config.json", auto_map=found)
    if "config" in kinds:
        changed(folder, "config.json", model_type="of_its_own")
    if "tokenizer" in kinds:
        classes = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
        named = {"auto_map": classes, "tokenizer_class": "OwnTokenizer"}
        changed(folder, "tokenizer_config.json", **named)
    if "generate" in kinds:
        (folder / "custom_generate").mkdir()
        shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")


KINDS = [
    ("config", "model"),
    ("config", "model", "tokenizer", "generate"),
    ("tokenizer",),
    ("model", "generate"),
]


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_no_code_and_no_question(kinds, lora, tmp_path, monkeypatch):
    "Whatever an adapter's base brings: nothing is asked, and nothing runs."
    marker, base = tmp_path / "marker", tmp_path / "base"
    base_with_code(base, kinds, marker)
    changed(lora, base_model_name_or_path=str(base))
    changed(lora, "tinyforge.json", base=str(base))
    data, asked = str(first_rows(tmp_path, 4)), []
    monkeypatch.setattr(builtins, "input", lambda said="": asked.append(said) or "y")
    monkeypatch.chdir(tmp_path)
    few = tinyforge.TrainingConfig(model_name=str(base), output_dir="out", num_epochs=1)
    commands = [
        ["generate", str(lora), "hello", "--max-new-tokens", "1"],
        ["chat", str(lora)],
        ["evaluate", str(lora), data, "--max-new-tokens", "1"],
        ["adapters", "check", str(lora)],
        ["adapters", "merge", str(lora), "--output-dir", "merged"],
        ["adapters", "show", str(lora)],
        ["adapters", "list", str(lora.parent)],
        ["params", str(base)],
        ["memory", str(base)],
        ["data", "check", data, "--model-name", str(base)],
        ["train", data, "--model-name", str(base), "--output-dir", "trained", "--silent"],
        ["train", data, "--lora-path", str(lora), "--output-dir", "more", "--silent"],
    ]
    calls = [lambda args=args: main(args) for args in commands]
    calls += [
        lambda: load_base(str(base)),
        lambda: load_tokenizer(str(base)),
        lambda: model_config(str(base)),
        lambda: AdaptedModel(str(base)).generate("hello", max_new_tokens=1),
        lambda: AdaptedModel(str(base), lora).generate("hello", max_new_tokens=1),
        lambda: tinyforge.RealTrainer.from_pretrained(lora).generate("hello", 1),
        lambda: tinyforge.RealTrainer(few).train(data, show=False),
        lambda: check_adapter(lora),
        lambda: tinyforge.merge_adapter(lora, "merged-too"),
        lambda: tinyforge.count_parameters(str(base)),
        lambda: tinyforge.estimate_memory(str(base)),
        lambda: inspect_data(data, str(base)),
        lambda: resize_embeddings(str(base), "resized"),
        lambda: combine_into("combined", {lora: 1}),
    ]
    for number, call in enumerate(calls):
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
        with contextlib.suppress(TinyforgeError, SystemExit):
            call()
        assert not asked and not marker.exists(), number


# line 7: patterns


def test_no_pattern_takes_for_ever(lora):
    "One folder with every kind of pattern that would: the list is there within seconds."
    bombs = ("(.*.*.*)*!", "(.+)+!", "((a|b|_|.)*.*)*!", ".*" * 30 + "!", r"(\w+\.?)*!")
    settings = ("target_modules", "exclude_modules", "layers_pattern")
    number = 0
    for bomb in bombs:
        others = ({"rank_pattern": {bomb: 2}}, {"alpha_pattern": {bomb: 4}})
        more = {"modules_to_save": [bomb], "layers_to_transform": [0]}
        for change in (*({s: bomb} for s in settings), *others, more):
            copy = lora.parent / f"bomb-{number}"
            number += 1
            shutil.copytree(lora, copy)
            changed(copy, **change)
    model, start = AdaptedModel(), time.monotonic()
    shelf = list_adapters(lora.parent)
    assert len(shelf.paths) == number + 1
    for name, path in shelf.paths.items():
        if name == "lora":
            continue
        for call in (show_adapter, model.load_lora, check_adapter):
            try:
                call(path)
            except AdapterError:
                continue
            assert call is show_adapter  # what is held against a base is refused there
    assert time.monotonic() - start < 30


# line 8: chat templates


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_template_is_bounded(lora, in_thread):
    "Every failure of an adapter's template is an AdapterError, in any thread, in seconds."
    model, outcomes = AdaptedModel(), []
    templates = (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'a' * 300000000 }}",
        "{{ 'a' * 3000000 }}",
        "{{ 1 / 0 }}",
        "{{ messages.a.b }}",
        "{{ 'a' | nothing }}",
        "{% include 'a' %}",
        "{{ (",
        "{% for x in [1] %}" * 200 + "x" + "{% endfor %}" * 200,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '%d' % 'a' }}",
        "{{ messages | sum }}",
        "x" * 300_000,
    )
    model.load()

    def try_all():
        for template in templates:
            (lora / "chat_template.jinja").write_text(template)
            start = time.monotonic()
            try:
                outcomes.append(model.generate("hello", max_new_tokens=1, adapter=lora))
            except BaseException as e:
                outcomes.append(type(e))
            assert time.monotonic() - start < 8, template[:80]

    thread = threading.Thread(target=try_all)
    if in_thread:
        thread.start()
        thread.join()
    else:
        try_all()
    assert outcomes == [AdapterError] * len(templates)


def test_a_sound_template_of_its_own(lora):
    own = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}answer: "
    (lora / "chat_template.jinja").write_text(own)
    model = AdaptedModel()
    assert isinstance(model.generate("hello", max_new_tokens=2, adapter=lora), str)


# line 9: numbers


def test_weights_that_are_too_large(lora):
    "Finite in the file, and no numbers in the model: refused when it is loaded."
    saved, model = read_adapter(lora), AdaptedModel()
    tensors = {name: tensor * 1e25 for name, tensor in saved.tensors.items()}
    write_adapter(SavedAdapter(saved.config, tensors, saved.origin), lora.parent / "huge")
    model.load_lora(lora, "sound")
    for call in (model.load_lora, check_adapter, model.adapters.load):
        with pytest.raises(AdapterError, match="so large that the model computes none"):
            call(lora.parent / "huge")
    assert model.active == "sound" and list(model.adapters) == ["sound"]
    with pytest.raises(AdapterError, match="so large that the model computes none"):
        model.generate("hello", adapter=lora.parent / "huge")


# line 10: names, links, what is no file


def test_names_do_not_act_on_a_terminal(lora, capsys, monkeypatch):
    "Whatever a folder is called, and whatever its files say."
    evil = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\nWhat to do: rm"
    named = lora.parent / evil.replace("/", "")
    shutil.copytree(lora, named)
    origin = {"base": evil, "kind": "chat", "finished": evil, "score": {evil: 0.5}}
    origin |= {"data": {"file": evil, "examples": 3}, "versions": {evil: evil}}
    changed(named, "tinyforge.json", **origin)
    broken = lora.parent / f"broken{evil}"
    shutil.copytree(lora, broken)
    changed(broken, base_model_name_or_path=evil, bias=evil, task_type=evil)
    changed(broken, "tinyforge.json", base=evil)
    for args in (
        ["adapters", "list", str(lora.parent)],
        ["adapters", "show", str(named)],
        ["adapters", "show", str(broken)],
        ["adapters", "check", str(named)],
        ["generate", str(named), "hello"],
        ["adapters", "merge", str(named), "--output-dir", str(lora.parent / "out")],
        ["adapters", "combine", str(named), str(lora), "--output-dir", "out"],
        ["params", evil],
    ):
        main(args)
        said = "".join(capsys.readouterr())
        assert said and not set(said) & set("\x1b\x07\x9b\u202e"), args
        assert "\nWhat to do: rm" not in said, args


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such links for everybody")
def test_no_file_of_this_machine_is_copied(lora, tmp_path):
    "A link out of an adapter's folder, or out of its base's, is not followed into a result."
    secret = "{{ 'a secret of this machine' }}{{ messages[0].content }}"
    (tmp_path / "secret").write_text(secret)
    for name in ("chat_template.jinja", "vocab.txt", "tokenizer.json", "special_tokens_map"):
        (lora / name).symlink_to(tmp_path / "secret")
        with pytest.raises(AdapterError, match="is a link out of the folder"):
            combine_into(tmp_path / "out", {lora: 1})
        (lora / name).unlink()
    load_tokenizer().save_pretrained(lora)
    (lora / "chat_template.jinja").unlink()
    (lora / "chat_template.jinja").symlink_to("../../secret")
    with pytest.raises(AdapterError, match="is a link out of the folder"):
        tinyforge.merge_adapter(lora, tmp_path / "merged")
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    (base / "chat_template.jinja").unlink()
    (base / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="is a link out of the folder"):
        load_tokenizer(str(base))
    assert not (tmp_path / "out").exists() and not (tmp_path / "merged").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes among the files")
@pytest.mark.parametrize("odd", ["pipe", "device", "endless", "folder"])
def test_what_is_no_file(odd, lora, tmp_path):
    "In the place of any file of an adapter, or of its base: an error at once."
    load_tokenizer().save_pretrained(lora)
    base = tmp_path / "base"
    shutil.copytree(BASE, base)

    def exchange(file):
        file.unlink(missing_ok=True)
        if odd == "pipe":
            os.mkfifo(file)
        elif odd == "device":
            file.symlink_to("/dev/zero")
        elif odd == "endless":
            file.touch()
            os.truncate(file, 1 << 42)
        else:
            file.mkdir()

    model, start = AdaptedModel(), time.monotonic()
    for name in sorted(file.name for file in lora.iterdir()):
        strange = tmp_path / "strange" / name / "lora"
        shutil.copytree(lora, strange)
        exchange(strange / name)
        for call in (
            lambda: model.load_lora(strange),
            lambda: show_adapter(strange),
            lambda: tinyforge.merge_adapter(strange, tmp_path / "merged"),
            lambda: list_adapters(strange.parent),
        ):
            with contextlib.suppress(TinyforgeError):
                call()
    for name in sorted(file.name for file in base.iterdir()):
        strange = tmp_path / "strange" / "base" / name
        shutil.copytree(base, strange)
        exchange(strange / name)
        for call in (load_base, load_tokenizer, model_config, tinyforge.count_parameters):
            with contextlib.suppress(TinyforgeError):
                call(str(strange))
    assert time.monotonic() - start < 90
