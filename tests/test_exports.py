"""Exports answer as the adapter does, in the engine that reads them; more than twenty ways to
get it wrong are caught by asking."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from checkout import ROOT
from exported import CASES, made_adapter, made_base, rewritten
from safetensors.torch import load_file, save_file

from tinyforge.errors import AdapterError, ConfigError
from tinyforge.exports import gguf_adapter
from tinyforge.exports.export import export_adapter
from tinyforge.exports.families import FAMILIES
from tinyforge.exports.gguf_adapter import asked_by_own_reader, write_gguf_adapter
from tinyforge.exports.gguf_model import asked_by_reader, plan_for, write_gguf
from tinyforge.exports.merged import asked_by_transformers
from tinyforge.exports.peft_folder import asked_by_peft, write_peft
from tinyforge.exports.proof import PROOF
from tinyforge.exports.subject import subject_of
from tinyforge.models.loading import load_base
from tinyforge.models.writing import save_model, save_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a small Llama and an adapter on it, its head among what it changes."
    place = tmp_path_factory.mktemp("exports")
    model = made_base("llama", place / "base")
    made_adapter(model, place / "adapter", target_modules="all-linear")
    model = load_base(place / "base", torch.float32)
    made_adapter(model, place / "headed", target_modules=["q_proj", "k_proj", "lm_head"])
    return place


@pytest.fixture(scope="module")
def subject(place):
    "The adapter, asked."
    return subject_of(place / "adapter", str(place / "base"))


def asked_and_merged(place, name):
    subject = subject_of(place / name, str(place / "base"))
    subject.merge()
    return subject


@pytest.fixture(scope="module")
def headed(place):
    "The adapter that changes the head, asked and merged."
    return asked_and_merged(place, "headed")


@pytest.fixture(scope="module")
def merged(place):
    "The adapter, asked and merged."
    return asked_and_merged(place, "adapter")


def fault_of(ask):
    "Why an export is refused: by the comparison, or because it cannot be read at all."
    try:
        return ask().fault
    except AdapterError as e:
        return e.what


# ---- PEFT ----


def tensors_changed(change, folder, subject):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def config_changed(change, folder, subject):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def all_named(part, change):
    return lambda found: {k: change(t) if part in k else t for k, t in found.items()}


def other_base(folder, subject):
    "The same shapes, and other weights."
    made_base("llama", folder / "other", seed=5)
    config_changed({"base_model_name_or_path": str(folder / "other")}, folder, subject)


def other_template(folder, subject):
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant", "model"))


def prefixed(found):
    return {k.replace("base_model.model.", "base_model."): t for k, t in found.items()}


def without_a_layer(found):
    part = "layers.1.mlp.down"
    return {k: torch.zeros_like(t) if part in k else t for k, t in found.items()}


IN_PEFT = {
    "no effect": partial(tensors_changed, all_named("lora_B", torch.zeros_like)),
    "wrong key prefix": partial(tensors_changed, prefixed),
    "alpha of another rank": partial(config_changed, {"lora_alpha": 4}),
    "scale by the root of the rank": partial(config_changed, {"use_rslora": True}),
    "one layer left out": partial(tensors_changed, without_a_layer),
    "sign lost": partial(tensors_changed, all_named("lora_A", torch.abs)),
    "wrong base": other_base,
    "another template": other_template,
}


@pytest.mark.parametrize("name", IN_PEFT)
def test_a_fault_in_a_folder_for_peft_is_caught(name, subject, tmp_path):
    write_peft(subject, tmp_path)
    IN_PEFT[name](tmp_path, subject)
    assert fault_of(lambda: asked_by_peft(subject, tmp_path))


# ---- one model ----


def no_end(folder):
    (folder / "generation_config.json").unlink()
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": None}))


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def head_of_the_base(folder, base):
    file = folder / "model.safetensors"
    save_file({**load_file(file), "lm_head.weight": base.lm_head.weight.data.clone()}, file)


def written_whole_model(subject, folder):
    folder.mkdir(exist_ok=True)
    subject.model.generation_config.eos_token_id = subject.reference.ends
    save_model(subject.model, folder)
    save_tokenizer(subject.tokenizer, folder)


@pytest.mark.parametrize("name", ["end token missing", "template missing", "head not carried"])
def test_a_fault_in_a_merged_model_is_caught(name, headed, place, tmp_path):
    written_whole_model(headed, tmp_path)
    ask = partial(asked_by_transformers, tmp_path, headed.reference, headed.kind)
    assert not ask().fault
    if name == "end token missing":
        no_end(tmp_path)
    if name == "template missing":
        no_template(tmp_path)
    if name == "head not carried":
        head_of_the_base(tmp_path, load_base(place / "base", torch.float32))
    assert fault_of(ask)


# ---- a GGUF adapter ----


def turned_back(file, name, array):
    "Queries and keys in transformers' order, as if they had not been turned."
    if name.endswith("lora_b") and (".attn_q." in name or ".attn_k." in name):
        heads = 4 if "attn_q" in name else 2
        halves = array.reshape(heads, len(array) // heads // 2, 2, -1)
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
    return array


def exchanged(file, name, array):
    "A where B should be, where the shapes do not tell."
    other = name.replace("lora_b", "lora_a") if "lora_b" in name else name.replace("_a", "_b")
    if "attn_output" in name:
        return np.ascontiguousarray(file[other].T)
    return array


IN_GGUF_ADAPTER = {
    "rows not turned": {"tensors": turned_back},
    "transposed factors": {"tensors": exchanged},
    "scale lost": {"fields": {"adapter.lora.alpha": 4.0}},
    "no alpha": {"fields": {"adapter.lora.alpha": None}},
    "wrong base by name": {"fields": {"general.base_model.0.name": "another"}},
    "no adapter by its type": {"fields": {"general.type": "model"}},
    "half of a pair": {
        "tensors": lambda file, name, a: None if "0.ffn_up.weight.lora_a" in name else a
    },
}


@pytest.mark.parametrize("name", IN_GGUF_ADAPTER)
def test_a_fault_in_a_gguf_adapter_is_caught(name, subject, place, tmp_path):
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    base = load_base(place / "base", torch.float32)
    family = FAMILIES["llama"]
    write_gguf_adapter(subject.saved, base, family, "base", good, "adapter")

    def ask(file):
        fresh = load_base(place / "base", torch.float32)
        return asked_by_own_reader(file, fresh, family, "base", subject.reference)

    if name == "no alpha":  # which llama.cpp takes for a scale of 1
        assert not ask(good).fault
    rewritten(good, bad, **IN_GGUF_ADAPTER[name])
    assert fault_of(lambda: ask(bad))


# ---- a GGUF model ----


def norm_shifted(file, name, array):
    return array + 1 if name.endswith("norm.weight") else array


IN_GGUF_MODEL = {
    "template missing in the file": {"fields": {"tokenizer.chat_template": None}},
    "end token missing in the file": {"fields": {"tokenizer.ggml.eos_token_id": 3}},
    "another rule for cutting": {"fields": {"tokenizer.ggml.pre": "gpt-2"}},
    "rotary base lost": {"fields": {"llama.rope.freq_base": 1e6}},
    "norms shifted": {"tensors": norm_shifted},
    "head dropped": {"tensors": lambda file, name, a: None if name == "output.weight" else a},
    "queries not turned": {"tensors": turned_back},
}


@pytest.mark.parametrize("name", IN_GGUF_MODEL)
def test_a_fault_in_a_gguf_model_is_caught(name, merged, tmp_path):
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    plan = plan_for(merged)
    write_gguf(merged.model, plan, good, "f32")
    ask = partial(asked_by_reader, plan=plan, reference=merged.reference)
    expected = [one.logits for one in merged.reference.told]
    assert name != "norms shifted" or not ask(good, expected=expected, is_chat=True).fault
    changes = dict(IN_GGUF_MODEL[name])
    if name == "queries not turned":
        changes["tensors"] = lambda file, name, a: (
            turned_back(file, name.replace("weight", "weight.lora_b"), a)
            if name.endswith("weight") and a.ndim == 2
            else a
        )
    rewritten(good, bad, **changes)
    assert fault_of(lambda: ask(bad, expected=expected, is_chat=True))


# ---- what is left, and what is not ----


def halved(saved):
    tensors = {k: t / 2 if "lora_B" in k else t for k, t in saved.tensors.items()}
    return replace(saved, tensors=tensors)


def test_an_export_that_answers_otherwise_is_not_left_behind(place, tmp_path, monkeypatch):
    write = gguf_adapter.write_gguf_adapter
    options = {"to": "gguf-adapter", "model_name": str(place / "base")}
    folder = tmp_path / "out"
    export_adapter(place / "adapter", output_dir=folder, **options)
    before = sorted((file.name, file.read_bytes()) for file in folder.iterdir())
    monkeypatch.setattr(
        gguf_adapter, "write_gguf_adapter", lambda saved, *more: write(halved(saved), *more)
    )
    for target in (folder, tmp_path / "new"):
        with pytest.raises(AdapterError, match="answers otherwise"):
            export_adapter(place / "adapter", output_dir=target, **options)
    assert before == sorted((file.name, file.read_bytes()) for file in folder.iterdir())
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]


def test_an_export_takes_the_place_of_no_other_result(place, tmp_path):
    base = str(place / "base")
    shutil.copytree(place / "adapter", tmp_path / "trained")
    export_adapter(place / "adapter", "peft", tmp_path / "out", model_name=base)
    assert json.loads((tmp_path / "out" / PROOF).read_text())["checks"][0]["equal"] == 20
    for to, folder, said in (
        ("peft", "trained", "would be lost"),
        ("gguf", "out", "holds an export as peft"),
    ):
        with pytest.raises(ConfigError, match=said):
            export_adapter(place / "adapter", to, tmp_path / folder, model_name=base)


FORMATS = {"f16": {"to": "gguf"}, "q8_0": {"to": "gguf", "dtype": "q8_0"}}
FORMATS["adapter"] = {"to": "gguf-adapter"}


@pytest.mark.flag("slow")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_family_answers_the_same(case, format, tmp_path):
    model = made_base(case, tmp_path / "base")
    made_adapter(model, tmp_path / "adapter")
    options = {**FORMATS[format], "model_name": str(tmp_path / "base")}
    node = os.environ.get("TINYFORGE_NODE_LLAMA_CPP")
    options |= {"output_dir": tmp_path / "out", "node_llama_cpp": node}
    proof = export_adapter(tmp_path / "adapter", **options)
    for check in proof.checks:
        assert check.equal + len(check.ties) == check.prompts and not check.fault
    if node or find_spec("llama_cpp"):
        assert len(proof.checks) == 2


@pytest.mark.flag("slow")
@pytest.mark.parametrize("to", ["peft", "merged"])
def test_transformers_4_57_answers_the_same(to, place, tmp_path):
    "The environment is named by TINYFORGE_TRANSFORMERS_4: the path of its Python."
    older = os.environ.get("TINYFORGE_TRANSFORMERS_4")
    assert older, "make an environment with transformers 4.57, and name its python"
    base, out = str(place / "base"), tmp_path / "out"
    options = {"dtype": "float32"} if to == "merged" else {}
    export_adapter(place / "adapter", to, out, model_name=base, **options)
    told = subject_of(place / "adapter", base).reference.told
    asked = [{"prompt": t.prompt, "ids": t.ids, "tokens": t.tokens} for t in told]
    file = tmp_path / "told.json"
    file.write_text(json.dumps(asked))
    command = [older, str(ROOT / "tests/older_generation.py"), to, str(out), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_python_path())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["version"].startswith("4.57")
    for one, heard in zip(told, said["heard"], strict=True):
        assert heard["ids"] == one.ids and heard["tokens"] == one.tokens
        most = [max(near.values()) for near in one.nearest]
        assert heard["logits"] == pytest.approx(most, abs=1e-3)


def without_python_path():
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
