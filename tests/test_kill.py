"""A run that is killed at any moment, and continued, ends with the adapter of a run that never was."""

import json
import multiprocessing
import os
import random
import signal
import shutil
import sys
import time
from pathlib import Path

import pytest

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch", "transformers.trainer", "peft", "tinyforge.training.trainer"]
)  # once for all runs


def run(out, data, pause, said):
    "In a process of its own: begin the run, or go on with it. Each file that is saved, and each rename, takes `pause` seconds."
    import torch
    from tinyforge.training.trainer import RealTrainer
    from tinyforge.training.config import TrainingConfig

    sys.stdout = sys.stderr = said.open("a", buffering=1)
    torch.set_num_threads(1)  # the same sums in the same order

    def slow(function):
        def slowed(*values, **options):
            done = function(*values, **options)
            time.sleep(pause)
            return done

        return slowed

    torch.save, os.fsync, Path.rename = slow(torch.save), slow(os.fsync), slow(Path.rename)
    config = TrainingConfig(
        output_dir=str(out),
        lora_dropout=0.2,
        num_epochs=4,
        batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        eval_fraction=0.2,
        eval_steps=7,
        save_steps=2,
    )
    print("begins")
    RealTrainer(config).train(str(data), show=False, resume=True)


def start(out, data, pause=0.0):
    process = PROCESSES.Process(target=run, args=(out, data, pause, out.with_suffix(".said")))
    process.start()
    return process


def whole(out, data):
    "Let the run end."
    process = start(out, data)
    process.join()
    assert process.exitcode == 0, out.with_suffix(".said").read_text()


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tinyforge.data.shipped import dataset

    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(dataset("medical_qa").open(encoding="utf-8").readlines()[:30]))
    return path


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    "The folder of a run that nobody killed, and the seconds that it took with slow checkpoints."
    folder = tmp_path_factory.mktemp("undisturbed")
    whole(folder / "warm", data)
    began = time.monotonic()
    start(folder / "adapter", data, pause=0.01).join()
    return folder / "adapter", time.monotonic() - began


def assert_same(out, undisturbed):
    "The result is, bit for bit, that of the undisturbed run, and nothing else is left."
    read = lambda folder: json.loads((folder / "tinyforge.json").read_text())["result"]
    assert (out / "adapter_model.safetensors").read_bytes() == (
        undisturbed[0] / "adapter_model.safetensors"
    ).read_bytes()
    for name in ("losses", "evaluations", "best_step", "steps"):
        assert read(out)[name] == read(undisturbed[0])[name], name
    assert {p.name for p in out.parent.iterdir()} == {out.name, out.name + ".said"}


def test_killed_at_random_moments(data, undisturbed, tmp_path):
    "A dozen kills at moments drawn at random; a run that was faster is compared, and begins anew."
    out, moments, kills, halves = tmp_path / "adapter", random.Random(0), 0, 0
    while kills < 12:
        process = start(out, data, pause=0.01)
        process.join(moments.uniform(0.0, 0.9 * undisturbed[1]))
        if process.exitcode is None:
            kill(process)
            kills += 1
            halves += Path(f"{out}.checkpoints/.writing").exists()
        else:
            assert_same(out, undisturbed)
            shutil.rmtree(out)
    whole(out, data)
    assert_same(out, undisturbed)
    print(f"{halves} of {kills} kills came while a checkpoint was written")


def test_killed_while_a_checkpoint_is_written(data, undisturbed, tmp_path):
    "Half of one lies there, and the run goes on from the one before."
    out = tmp_path / "adapter"
    for _ in range(3):
        process = start(out, data, pause=0.3)
        written = Path(f"{out}.checkpoints/.writing/optimizer.pt")
        while not written.exists():
            assert process.is_alive(), out.with_suffix(".said").read_text()
        kill(process)
        assert written.parent.exists()
    whole(out, data)
    assert_same(out, undisturbed)


def test_killed_while_the_result_is_written(data, undisturbed, tmp_path):
    "Of an earlier result in the same folder, too."
    out = tmp_path / "adapter"
    whole(out, data)
    (out / "notes.md").write_text("mine")
    made = json.loads((out / "tinyforge.json").read_text())
    (out / "tinyforge.json").write_text(
        json.dumps({**made, "run": "another"})
    )  # as if it were of other settings
    process = start(out, data, pause=0.3)
    while not (tmp_path / ".adapter.tinyforge-old").exists():
        assert process.is_alive(), out.with_suffix(".said").read_text()
    kill(process)
    assert (
        not out.exists() and (tmp_path / ".adapter.tinyforge-new").exists()
    )  # the earlier one gone, the new one not there yet
    whole(out, data)
    assert (out / "notes.md").read_text() == "mine"
    assert_same(out, undisturbed)


def test_asked_to_end(data, undisturbed, tmp_path):
    "SIGTERM, as a computing centre sends it: the run writes a checkpoint and ends, and the next one goes on."
    out = tmp_path / "adapter"
    process = start(out, data, pause=0.05)
    while not list(tmp_path.glob("adapter.checkpoints/step-*")):
        assert process.is_alive()
    process.terminate()
    process.join()
    assert (
        process.exitcode == 1
        and "train(..., resume=True) goes on" in out.with_suffix(".said").read_text()
    )
    whole(out, data)
    assert_same(out, undisturbed)
