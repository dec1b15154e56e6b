"Ordinary mistakes have their sentence: what may not be read, is not there, has no room."

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tinyforge import list_adapters, load_base, merge_adapter
from tinyforge.adapters.combining import combine_into
from tinyforge.adapters.files import read_adapter, write_adapter
from tinyforge.adapters.format import SavedAdapter
from tinyforge.adapters.inspecting import check_adapter, note_score, show_adapter
from tinyforge.cli import main
from tinyforge.data.examples import inspect_data
from tinyforge.errors import TinyforgeError
from tinyforge.generation.evaluating import read_prompts
from tinyforge.generation.model import AdaptedModel
from tinyforge.models.names import model_location
from tinyforge.training.saving import write_model
from tinyforge.models.loading import LoadedBase

NOBODY = 65534
WEIGHTS = "adapter_model.safetensors"
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
needs_root = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() != 0, reason="only root can become nobody, or mount"
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    "A folder with a small adapter."
    base, draw = load_base(), torch.Generator().manual_seed(0)
    tensors = {}
    for name, layer in base.named_modules():
        if name.endswith("q_proj"):
            beside = f"base_model.model.{name}.lora_"
            tensors[beside + "A.weight"] = torch.randn(4, layer.in_features, generator=draw)
            tensors[beside + "B.weight"] = torch.randn(layer.out_features, 4, generator=draw)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 1}
    config |= {"target_modules": ["q_proj"], "base_model_name_or_path": "tinyforge-base"}
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    saved = SavedAdapter(config, tensors, {"base": "tinyforge-base", "kind": "chat"})
    write_adapter(saved, folder)
    return folder


@pytest.fixture
def copied(adapter, tmp_path):
    return Path(shutil.copytree(adapter, tmp_path / "copied"))


@pytest.fixture(scope="module")
def loaded():
    model = AdaptedModel()
    model.load()
    return model


def for_adapters(path, model):
    "What is done with the folder of an adapter."
    return {
        "show": lambda: show_adapter(path),
        "check": lambda: check_adapter(path),
        "load_lora": lambda: model.load_lora(path),
        "adapter=": lambda: model.generate("Hello", 1, adapter=path),
        "from a name": lambda: AdaptedModel(lora_path=path).generate("Hello", 1),
        "merge": lambda: merge_adapter(path, "merged"),
        "combine": lambda: combine_into("combined", [(path, 1.0)]),
        "note": lambda: note_score(path, exact_match=0.5),
    }


def for_models(path):
    "What is done with the folder of a model."
    return {
        "load": lambda: load_base(path),
        "ask": lambda: AdaptedModel(str(path)).generate("Hello", 1),
        "inspect": lambda: inspect_data([{"question": "a", "answer": "b"}], str(path)),
    }


def for_data(path):
    "What is done with a file of data."
    return {
        "inspect": lambda: inspect_data(str(path)),
        "evaluate": lambda: AdaptedModel().evaluate(str(path), show=False),
        "prompts": lambda: read_prompts(str(path)),
    }


def names_in(folder):
    "What lies in a folder, but for locks, which stay."
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if not name.endswith("tinyforge-lock")}


def unsaid(calls):
    "Of some calls those that neither go well nor end in one of our errors."
    found = []
    for name, call in calls.items():
        try:
            with contextlib.redirect_stdout(None):
                call()
        except TinyforgeError as e:
            assert str(e).strip()
        except Exception as e:
            found.append(f"{name}: {e!r}"[:300])
    return found


def as_nobody(make_calls):
    "What `unsaid` finds in a process without rights."
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        signal.alarm(200)  # a process that hangs is ended
        torch.set_num_threads(1)  # the threads of torch are not in a fork
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            found = unsaid(make_calls())
        except BaseException as e:
            found = [repr(e)]
        os.write(theirs, json.dumps(found).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as said:
        found = json.loads(said.read() or '["no answer: the process was ended"]')
    os.waitpid(process, 0)
    return found


def open_to_all(*folders):
    "Let everybody into some folders, and those above them."
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        for above in folder.parents:
            if not above.stat().st_mode & 0o005:  # pytest's own, which are private
                above.chmod(above.stat().st_mode | 0o055)


CLOSED = [(name, 0) for name in ("adapter_config.json", WEIGHTS, "tinyforge.json")]
CLOSED += [("chat_template.jinja", 0), (".", 0), (".", 0o444), (".", 0o111), (".", 0o555)]


@needs_root
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file, mode", CLOSED)
def test_an_adapter_that_may_not_be_read(copied, loaded, file, mode, monkeypatch, tmp_path):
    check_adapter(copied)  # what is imported now, nobody need import
    (copied / "chat_template.jinja").write_text(loaded.tokenizer.chat_template)
    open_to_all(tmp_path)
    (copied / file).chmod(mode)
    monkeypatch.chdir(tmp_path)
    assert as_nobody(lambda: for_adapters(copied, loaded)) == []


CLOSED_MODEL = [(name, 0) for name in ("config.json", "model.safetensors", "tokenizer.json")]


@needs_root
@pytest.mark.parametrize("file, mode", [*CLOSED_MODEL, (".", 0), (".", 0o444), ("..", 0)])
def test_a_model_that_may_not_be_read(tmp_path, file, mode):
    inspect_data([{"question": "a", "answer": "b"}])
    model = Path(shutil.copytree(model_location("tinyforge-base"), tmp_path / "in" / "model"))
    open_to_all(tmp_path)
    (model / file).chmod(mode)
    assert as_nobody(lambda: for_models(model)) == []


@needs_root
@pytest.mark.parametrize("file, mode", [("rows.jsonl", 0), (".", 0), (".", 0o444)])
def test_data_that_may_not_be_read(tmp_path, file, mode):
    folder = tmp_path / "in"
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "b"}\n')
    inspect_data(str(rows))
    open_to_all(tmp_path)
    (folder / file).chmod(mode)
    assert as_nobody(lambda: for_data(rows) | for_data(folder)) == []


@POSIX
def test_a_device_without_an_end():
    if os.path.exists("/dev/zero"):
        with pytest.raises(TinyforgeError, match="is a device"):
            inspect_data("/dev/zero")


def test_whatever_the_system_refuses_to_read(copied, loaded, monkeypatch):
    "Without root: every file of an adapter, by a function that refuses to open it."

    def refusing(name, real):
        def opened(file, *options, **more):
            if str(file).endswith(name):
                raise PermissionError(errno.EACCES, "Permission denied", str(file))
            return real(file, *options, **more)

        return opened

    (copied / "chat_template.jinja").write_text("{{ messages }}")
    of_paths, of_system = Path.open, os.open
    for file in sorted(path.name for path in copied.iterdir()):
        monkeypatch.setattr(Path, "open", refusing(file, of_paths))
        monkeypatch.setattr(os, "open", refusing(file, of_system))
        with pytest.raises(TinyforgeError, match=f"{file} cannot be read: Permission denied"):
            read_adapter(copied)


ODD_PATHS = ["~nobody-knows-me", "~nobody-knows-me/a", "a" * 256, "a" * 300 + "/b"]
ODD_PATHS += ["x/" * 3000, "a\0b", "\ud800", "loop", "loop/a"]
ODD_PATHS += ["/dev/null", "/dev/null/a", "", " ", "\n"]


@POSIX
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ODD_PATHS, ids=range(len(ODD_PATHS)))
def test_odd_paths(path, adapter, loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    calls = {"list": lambda: list_adapters(path), **for_adapters(path, loaded)}
    calls |= {"as base": lambda: check_adapter(adapter, path or None)}
    calls |= {"settings": lambda: main(["train", "x.jsonl", "--config", path])}
    if path.strip() and path != "/dev/null":
        calls |= {"write": lambda: write_adapter(read_adapter(adapter), path)}
        calls |= {"merge into": lambda: merge_adapter(adapter, path)}
        calls |= {"combine into": lambda: combine_into(path, [(adapter, 1.0)])}
    assert unsaid({**calls, **for_models(path), **for_data(path)}) == []


@POSIX
@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize("how", ["pipe", "/dev/full"])
def test_an_output_that_takes_nothing(adapter, closed, how):
    if how == "/dev/full" and not os.path.exists(how):
        pytest.skip("this system has no /dev/full")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for name in closed:
        ours, streams[name] = os.pipe()
        os.close(ours)
        if how != "pipe":
            streams[name] = os.open(how, os.O_WRONLY)
    folder = adapter.parent if "stdout" in closed else "nowhere"
    command = [sys.executable, "-m", "tinyforge", "adapters", "list", str(folder)]
    done = subprocess.run(command, **streams, text=True)
    assert done.returncode == (141 if how == "pipe" else 1), done
    assert "Traceback" not in (done.stderr or "") and "ignored" not in (done.stderr or "")


def written(adapter, model, place):
    "What writes a result into a folder."
    noted = place / "noted"
    shutil.copytree(adapter, noted)
    return {
        "write_adapter": lambda: write_adapter(read_adapter(adapter), place / "written"),
        "combine": lambda: combine_into(place / "combined", [(adapter, 1.0)]),
        "note_score": lambda: note_score(noted, **{"x" * 100_000: 0.5}),
        "save_pretrained": lambda: model.model.save_pretrained(place / "saved"),
        "merge": lambda: merge_adapter(adapter, place / "merged"),
    }


@needs_root
def test_a_full_disk(adapter, loaded, tmp_path):
    "On a small file system of its own, with room for a part of what is written."
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        loaded.load_lora(adapter)
        calls = written(adapter, loaded, place)
        free = shutil.disk_usage(place).free
        (place / "fill").write_bytes(b"\0" * max(0, free - 8192))
        for name, call in calls.items():
            with pytest.raises(TinyforgeError, match="No space left on device"):
                call()
            left = names_in(place)
            assert left <= {"fill", "noted", "saved"}, (name, left)
        assert read_adapter(place / "noted").origin == read_adapter(adapter).origin
    finally:
        loaded.active = None
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up(adapter, loaded, tmp_path, monkeypatch):
    "The same without root: files that refuse to be written."

    def full(*given, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    loaded.load_lora(adapter)
    calls = written(adapter, loaded, tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    for call in calls.values():
        with pytest.raises(TinyforgeError, match="No space left on device"):
            call()
    monkeypatch.undo()
    loaded.active = None
    assert names_in(tmp_path) <= {"noted", "saved"}


@POSIX
def test_files_of_a_result_follow_the_umask(adapter, loaded, tmp_path):
    before = os.umask(0o027)
    try:
        write_adapter(read_adapter(adapter), tmp_path / "written")
        combine_into(tmp_path / "combined", [(adapter, 1.0)])
        merge_adapter(adapter, tmp_path / "merged")
        (tmp_path / "full").mkdir()
        write_model(tmp_path / "full", LoadedBase.load(), "chat")
    finally:
        os.umask(before)
    for file in tmp_path.rglob("*.*"):
        if file.is_file():
            assert oct(file.stat().st_mode & 0o777) == "0o640", file


def without_content(tensor):
    return tensor.to("meta")


ODD_TENSORS = {
    "sparse": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "meta": without_content,
    "nested": lambda t: torch.nested.nested_tensor([t[0], t[1]]),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "complex": lambda t: t.to(torch.complex64),
    "whole": lambda t: t.to(torch.int32),
    "truth": lambda t: t > 0,
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "a number": lambda t: torch.tensor(1.0),
    "nothing": lambda t: torch.zeros(0),
    "a list": lambda t: [t],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_odd_tensors(copied, loaded, kind):
    tensors = read_adapter(copied).tensors
    name = max(tensors)
    tensors[name] = ODD_TENSORS[kind](tensors[name])
    files = [(copied / "adapter_model.bin", torch.save)]
    if kind not in ("sparse", "csr", "meta", "nested", "quantised", "a list"):
        files.append((copied / WEIGHTS, save_file))
    (copied / WEIGHTS).unlink()
    for file, write in files:
        write(tensors, file)
        with pytest.raises(TinyforgeError):
            read_adapter(copied)
        assert unsaid(for_adapters(copied, loaded)) == []
        assert "cannot be used" in str(list_adapters(copied.parent))


LONG = "1" + "0" * 400
ODD_NOTES = [
    f'"result": {{"losses": [[1, {LONG}]]}}',
    f'"result": {{"evaluations": [[1, {LONG}]]}}',
    f'"score": {{"exact_match": {LONG}}}',
    f'"data": {{"file": "x", "examples": {LONG}}}',
    f'"combined": {{"parts": [["a", {LONG}]], "error": 1}}',
    f'"combined": {{"parts": [["a", 1]], "error": {LONG}}}',
    '"score": {"exact_match": NaN}',
    '"data": {"file": "x", "examples": true}',
]


@pytest.mark.parametrize("note", ODD_NOTES)
def test_absurd_notes(copied, note):
    (copied / "tinyforge.json").write_text(f'{{"base": "tinyforge-base", {note}}}')
    with pytest.raises(TinyforgeError, match=r"tinyforge\.json has the"):
        read_adapter(copied)
    assert unsaid({"show": lambda: show_adapter(copied)}) == []
    assert "cannot be used" in str(list_adapters(copied.parent))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "setting",
    [{"init_lora_weights": "odd"}, {"eva_config": []}, {"alpha_pattern": None}],
    ids=str,
)
def test_what_only_peft_refuses(copied, setting):
    file = copied / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting}))
    with pytest.raises(TinyforgeError, match="PEFT cannot load it"):
        check_adapter(copied)
