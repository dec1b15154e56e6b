"""A run that is killed and continued ends with the adapter of a run that never was killed.

A short set always runs; `--flags slow` adds sixty kills at random moments, and one at every
file that is opened, renamed or removed from the last step to the end: over a hundred.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
from checkout import first_rows

if sys.platform == "win32":
    pytest.skip("Windows has no fork server and no SIGTERM", allow_module_level=True)

PROCESSES = multiprocessing.get_context("forkserver")
# once for all runs
PROCESSES.set_forkserver_preload(
    ["torch", "transformers.trainer", "peft", "tinyforge.training.trainer"]
)
RESULT = "adapter_model.safetensors"
EVERYWHERE = {"save": 0.01, "fsync": 0.01, "rename": 0.01}  # seconds, see `run`


def slowed(function, pause):
    "The same function, which takes so many seconds more."

    def slow(*values, **options):
        done = function(*values, **options)
        time.sleep(pause)
        return done

    return slow


def run(out, data, pauses, said):
    """In a process of its own: begin the run, or go on with it.

    `pauses` says how many seconds longer each torch.save takes ("save"), how many each file
    on its way to the disk ("fsync"), and how many each folder's new name ("rename"); whether
    two folders can exchange their names ("exchange"); and at which of what happens to files
    the run is killed ("at"; 0: what happens is written down).
    """
    import tempfile

    tempfile.tempdir = str(out.parent / "tmp")
    os.makedirs(tempfile.tempdir, exist_ok=True)
    import torch
    from tinyforge import folders
    from tinyforge.training.config import TrainingConfig
    from tinyforge.training.trainer import RealTrainer

    if not pauses.get("exchange", True):
        folders._exchanged = lambda one, other: False
    if "at" in pauses:
        sys.addaudithook(Counted(out, pauses["at"]))

    sys.stdout = sys.stderr = said.open("a", buffering=1, encoding="utf-8")
    torch.set_num_threads(1)  # the same sums in the same order
    torch.save = slowed(torch.save, pauses.get("save", 0))
    os.fsync = slowed(os.fsync, pauses.get("fsync", 0))
    Path.rename = slowed(Path.rename, pauses.get("rename", 0))
    config = TrainingConfig(
        output_dir=str(out),
        overwrite_output_dir=True,  # an earlier result lies there in one of the tests
        lora_dropout=0.2,
        num_epochs=3,
        batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        eval_fraction=0.2,
        eval_steps=5,
        save_steps=2,
    )
    print("begins")
    RealTrainer(config).train(str(data), show=False, resume=True)


class Counted:
    "Counts what happens to the files of a run, and kills the process before one of these."

    OF_FILES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")

    def __init__(self, out, last):
        self.out, self.last, self.count = str(out), last, 0
        self.log = None if last else out.with_suffix(".events")

    def __call__(self, event, values):
        if event not in self.OF_FILES or (event == "open" and not writes(values)):
            return
        path = os.fspath(values[0]) if isinstance(values[0], (str, os.PathLike)) else ""
        beneath = event in ("os.remove", "os.rmdir") and values[1] != -1  # of shutil.rmtree
        if not beneath and self.out not in path and f".{Path(self.out).name}." not in path:
            return
        if str(self.log) in path or path.endswith(".said"):
            return
        self.count += 1
        if self.log:
            with self.log.open("a", encoding="utf-8") as told:
                told.write(f"{event} {path}\n")
        if self.count == self.last:
            os.kill(os.getpid(), 9)


def writes(values):
    "Whether a file is opened to be written."
    _, _, flags = values
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def what_it_said(out):
    return out.with_suffix(".said").read_text(encoding="utf-8")


def start(out, data, **pauses):
    said = out.with_suffix(".said")
    process = PROCESSES.Process(target=run, args=(out, data, pauses, said))
    process.start()
    return process


def whole(out, data, **pauses):
    "Let the run end."
    process = start(out, data, **pauses)
    process.join()
    assert process.exitcode == 0, what_it_said(out)


def wait_for(path, process, out):
    "Until a file or a folder is there that a run makes."
    while not path.exists():
        assert process.is_alive(), what_it_said(out)
        time.sleep(0.001)


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode == -9  # SIGKILL


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return first_rows(tmp_path_factory.mktemp("data"), 30)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    "The folder of a run that nobody killed, and the seconds that it took."
    folder = tmp_path_factory.mktemp("undisturbed") / "adapter"
    began = time.monotonic()
    whole(folder, data, **EVERYWHERE)
    return folder, time.monotonic() - began


def result_in(folder):
    return json.loads((folder / "tinyforge.json").read_text(encoding="utf-8"))["result"]


def assert_same(out, undisturbed):
    "The result is, bit for bit, that of the undisturbed run, and nothing else is left."
    wanted, _ = undisturbed
    assert (out / RESULT).read_bytes() == (wanted / RESULT).read_bytes()
    for name in ("losses", "evaluations", "best_step", "steps"):
        assert result_in(out)[name] == result_in(wanted)[name], name
    left = {p.name for p in out.parent.iterdir()}
    assert left == {out.name, f"{out.name}.said", f".{out.name}.tinyforge-lock", "tmp"}
    assert not any((out.parent / "tmp").iterdir())


SLOW = pytest.mark.flag("slow")


@pytest.mark.parametrize("wanted", [2, pytest.param(60, marks=SLOW)])
def test_killed_at_random_moments(wanted, data, undisturbed, tmp_path):
    "Moments are drawn at random; a run that was faster is compared, and begins anew."
    out, moments, kills, halves = tmp_path / "adapter", random.Random(wanted), 0, 0
    while kills < wanted:
        process = start(out, data, **EVERYWHERE)
        process.join(moments.uniform(0.0, 0.9 * undisturbed[1]))
        process.kill()
        process.join()
        if process.exitcode == -9:  # SIGKILL
            kills += 1
            halves += Path(f"{out}.checkpoints/.writing").exists()
        else:  # it was faster
            assert process.exitcode == 0
            assert_same(out, undisturbed)
            shutil.rmtree(out)
    whole(out, data)
    assert_same(out, undisturbed)
    print(f"{halves} of {kills} kills came while a checkpoint was written")


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=SLOW)])
def test_killed_while_a_checkpoint_is_written(kills, data, undisturbed, tmp_path):
    "Half of one lies there, and the run goes on from the one before."
    out = tmp_path / "adapter"
    written = Path(f"{out}.checkpoints/.writing/optimizer.pt")
    for _ in range(kills):
        process = start(out, data, save=0.3)
        wait_for(written, process, out)
        kill(process)
        assert written.parent.exists()
    whole(out, data)
    assert_same(out, undisturbed)


def test_killed_while_the_result_is_written(data, undisturbed, tmp_path):
    "Of an earlier result in the same folder, too."
    out = tmp_path / "adapter"
    shutil.copytree(undisturbed[0], out)
    (out / "notes.md").write_text("mine")
    made = json.loads((out / "tinyforge.json").read_text(encoding="utf-8"))
    made["run"] = "another"  # as if it were of other settings
    (out / "tinyforge.json").write_text(json.dumps(made), encoding="utf-8")
    process = start(out, data, rename=0.3, exchange=False)
    wait_for(tmp_path / ".adapter.tinyforge-old", process, out)
    kill(process)
    # the earlier one gone, the new one not there yet
    assert not out.exists() and (tmp_path / ".adapter.tinyforge-new").exists()
    whole(out, data)
    assert (out / "notes.md").read_text() == "mine"
    assert_same(out, undisturbed)


@pytest.fixture(scope="module")
def events(data, tmp_path_factory):
    "What happens to files in a run, and the number at which its last checkpoint is begun."
    out = tmp_path_factory.mktemp("events") / "adapter"
    whole(out, data, at=0)
    told = out.with_suffix(".events").read_text(encoding="utf-8").splitlines()
    begun = [n for n, line in enumerate(told, 1) if line.endswith(".writing")]
    mkdirs = [n for n in begun if told[n - 1].startswith("os.mkdir")]
    return len(told), mkdirs[-1]


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=SLOW)])
def test_killed_at_what_happens_to_files(share, data, undisturbed, events, tmp_path):
    "From the last checkpoint to the end of clearing; nothing is lost, and nothing is left."
    total, first = events
    outcomes = {"the same bytes": 0, "complete": 0}
    for at in range(first, total + 1, share):
        out = tmp_path / f"adapter-{at}" / "adapter"
        out.parent.mkdir()
        process = start(out, data, at=at)
        process.join()
        assert process.exitcode == -9, (at, what_it_said(out))
        killed = len(what_it_said(out))
        whole(out, data)
        assert_same(out, undisturbed)
        complete = "this run is complete" in what_it_said(out)[killed:]
        outcomes["complete" if complete else "the same bytes"] += 1
        shutil.rmtree(out.parent)
    print(f"{sum(outcomes.values())} kills at one of {total - first + 1} events: {outcomes}")
    assert outcomes["complete"], "no kill came after the result had its name"


def test_asked_to_end(data, undisturbed, tmp_path):
    "SIGTERM, as a computing centre sends it: a checkpoint is written; the next run goes on."
    out = tmp_path / "adapter"
    process = start(out, data, save=0.05)
    while not list(tmp_path.glob("adapter.checkpoints/step-*")):
        assert process.is_alive(), what_it_said(out)
        time.sleep(0.001)
    process.terminate()
    process.join()
    assert process.exitcode == 1
    assert "resumed, the training goes on" in what_it_said(out)
    whole(out, data)
    assert_same(out, undisturbed)
