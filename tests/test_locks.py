"""Only one process at a time trains or writes into a folder.

A few hundred turns always run; `--flags slow` takes more.
"""

import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import pytest
from tinyforge.errors import ConfigError
from tinyforge.folders import written_whole
from tinyforge.training.checkpoints import Checkpoints

PROCESSES = multiprocessing.get_context("spawn")


def claim(inside):
    "Make a file that only one at a time can make, and take it away again."
    handle = os.open(inside, os.O_CREAT | os.O_EXCL)
    time.sleep(random.random() / 2000)
    os.close(handle)
    os.unlink(inside)


def take_turns(out, seconds, number, told):
    "Take the lock again and again; count turns, refusals, and turns with somebody else."
    random.seed(number)
    inside = Path(out).with_name("inside")
    turns = refused = together = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with Checkpoints(out).only_one():
                turns += 1
                try:
                    claim(inside)
                    if random.random() < 0.2:  # a result is written in between
                        with written_whole(out, is_locked=True) as new:
                            (new / "tinyforge.json").write_text("{}")
                except FileExistsError:
                    together += 1
        except ConfigError:
            refused += 1
    told.put((turns, refused, together))


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.flag("slow"))])
def test_two_are_never_in_one_folder(seconds, tmp_path, capsys):
    told = PROCESSES.Queue()
    given = [(str(tmp_path / "adapter"), seconds, number, told) for number in range(4)]
    processes = [PROCESSES.Process(target=take_turns, args=args) for args in given]
    for process in processes:
        process.start()
    counts = [told.get(timeout=seconds + 100) for _ in processes]
    for process in processes:
        process.join()
    turns, refused, together = map(sum, zip(*counts))
    with capsys.disabled():
        print(f"\n{turns} turns, {refused} refused, {together} with somebody else")
    assert together == 0
    assert turns > 50 and refused > 10  # they met
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"adapter", ".adapter.tinyforge-lock"}


@pytest.mark.skipif(sys.platform == "win32", reason="a process is killed with a signal")
def test_the_lock_of_a_killed_process_is_open(tmp_path):
    out = str(tmp_path / "adapter")
    told = PROCESSES.Queue()
    process = PROCESSES.Process(target=take_turns, args=(out, 60, 0, told))
    process.start()
    lock = tmp_path / ".adapter.tinyforge-lock"
    while not lock.exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    with Checkpoints(out).only_one():
        assert lock.exists()
