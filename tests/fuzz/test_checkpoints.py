"""Damaged checkpoints: a run goes on to the same bytes, or says which file is damaged.

A few hundred damages always run; `--flags fuzz` tries more.
"""

import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from checkout import first_rows
from tinyforge.errors import TrainingError
from tinyforge.training.checkpoints import LIST, check_whole, read_progress
from tinyforge.training.config import TrainingConfig
from tinyforge.training.trainer import RealTrainer
from transformers import TrainerCallback

TRIES = [pytest.param(300, 8), pytest.param(2000, 60, marks=pytest.mark.flag("fuzz"))]


class StopsAfter(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        if state.global_step == 3:
            raise KeyboardInterrupt


def settings(folder):
    return TrainingConfig(
        output_dir=str(folder), batch_size=4, num_epochs=1, save_steps=2, eval_fraction=0.2,
        eval_steps=2, learning_rate=2e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    "The data and the checkpoint of a run that stopped, and the bytes that it should end at."
    home = tmp_path_factory.mktemp("stopped")
    data = str(first_rows(home, 30))
    whole = RealTrainer(settings(home / "whole"))
    whole.train(data, show=False)
    with pytest.raises(KeyboardInterrupt):
        RealTrainer(settings(home / "adapter")).train(data, show=False, callbacks=StopsAfter)
    (checkpoint,) = (home / "adapter.checkpoints").glob("step-*")
    return data, checkpoint, (home / "whole" / "adapter_model.safetensors").read_bytes()


def flip(file, chance):
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 1, 8, 200])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def cut(file, chance):
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def lengthen(file, chance):
    file.write_bytes(file.read_bytes() + bytes(chance.randrange(1, 100)))


def empty(file, chance):
    file.write_bytes(b"")


def lose(file, chance):
    file.unlink()


def exchange(file, chance):
    others = [f for f in sorted(file.parent.iterdir()) if f != file and f.is_file()]
    other = chance.choice(others)
    content = other.read_bytes()
    other.write_bytes(file.read_bytes())
    file.write_bytes(content)


def become_a_folder(file, chance):
    file.unlink()
    file.mkdir()


def become_a_link(file, chance):
    file.unlink()
    file.symlink_to("/dev/zero" if chance.random() < 0.5 else "nowhere")


def become_a_pipe(file, chance):
    file.unlink()
    os.mkfifo(file)


def another_number(file, chance):
    "A value of a JSON file is another one."
    known = json.loads(file.read_text()) if file.suffix == ".json" else None
    if not isinstance(known, dict) or not known:
        return flip(file, chance)
    name = chance.choice(sorted(known))
    known[name] = chance.choice([None, -1, "x", [], {}, 1e400, [[1, 2], [3, 4]]])
    file.write_text(json.dumps(known))


DAMAGES = [flip, cut, lengthen, empty, lose, exchange, become_a_folder, become_a_link]
DAMAGES += [another_number] + ([become_a_pipe] if hasattr(os, "mkfifo") else [])


def contents(folder):
    "Of each file its bytes; of what is no file None."
    return {p.name: p.read_bytes() if p.is_file() else None for p in folder.iterdir()}


def damaged(checkpoint, target, chance):
    "A copy of a checkpoint in which a file is damaged, or two; what was done, in words."
    shutil.copytree(checkpoint, target)
    done, wanted = [], contents(checkpoint)
    while contents(target) == wanted:  # two files may hold the same
        files = [file for file in sorted(target.iterdir()) if file.is_file()]
        files = [file for file in files if file.stat().st_size and not file.is_symlink()]
        file, damage = chance.choice(files), chance.choice(DAMAGES)
        damage(file, chance)
        done.append(f"{damage.__name__} {file.name}")
    return ", ".join(done)


@pytest.mark.parametrize("tries, trained", TRIES)
def test_a_damaged_checkpoint_is_never_gone_on_from(stopped, tries, trained, tmp_path, capsys):
    "Most are asked alone, some by a whole `train`."
    data, checkpoint, wanted = stopped
    chance, said = random.Random(tries), Counter()
    for number in range(tries):
        out = tmp_path / str(number)
        home = out / "adapter.checkpoints"
        home.mkdir(parents=True)
        what = damaged(checkpoint, home / checkpoint.name, chance)
        before = {path.name for path in home.iterdir()}
        began = time.monotonic()
        with pytest.raises(TrainingError, match="damaged") as e:
            if number % (tries // trained) == 0:
                RealTrainer(settings(out / "adapter")).train(data, show=False, resume=True)
            check_whole(home / checkpoint.name)
        assert time.monotonic() - began < 5, what
        assert str(home) in str(e.value), what
        assert {path.name for path in home.iterdir()} == before, what  # nothing is lost
        assert not (out / "adapter").exists(), what
        words = ("has changed", "is missing", "cannot be read")
        said.update(word for word in words if word in e.value.what)
        shutil.rmtree(out)
    with capsys.disabled():
        print(f"\n{tries} damaged checkpoints, {trained} by train: all refused, {dict(said)}")


def test_an_unharmed_one_is(stopped, tmp_path):
    "To the same bytes; so the test above does not pass because everything is refused."
    data, checkpoint, wanted = stopped
    home = tmp_path / "adapter.checkpoints"
    shutil.copytree(checkpoint, home / checkpoint.name)
    check_whole(home / checkpoint.name)
    RealTrainer(settings(tmp_path / "adapter")).train(data, show=False, resume=True)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == wanted


def relisted(checkpoint, home, changes):
    "A copy with other content whose list says that this is how it was written."
    from tinyforge.training.checkpoints import _listed

    target = home / checkpoint.name
    shutil.copytree(checkpoint, target)
    for name, content in changes.items():
        (target / name).write_text(content)
    (target / LIST).write_text(json.dumps(_listed(target)))
    return target


NO_PROGRESS = ["", "[]", "null", "{}", '{"made_of": 3}', '{"steps": 1}', "\x00", '"text"']
NO_PROGRESS += ["1e999", '{"made_of": {}, "step": "3"}', '{"made_of": {}, "losses": 5}']


@pytest.mark.parametrize("content", NO_PROGRESS)
def test_progress_of_another_kind_is_an_error_too(stopped, content, tmp_path):
    _, checkpoint, _ = stopped
    target = relisted(checkpoint, Path(tmp_path), {"run.json": content})
    check_whole(target)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_progress(target)
