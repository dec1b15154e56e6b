"""pytest runs every code cell of every notebook in nbs/ as a test.

Each notebook runs in one fresh kernel, its cells in order. Files run side by side, those first
that took longest when they last passed; `-n0` runs one after the other.
"""

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
import notebooks  # noqa: E402

collect_ignore = ["_proc", "_docs", "build", "dist"]
SECONDS = "tinyforge/seconds"  # in pytest's cache: file -> how long it took


def pytest_addoption(parser):
    parser.addoption(
        "--flags",
        default="",
        help='also run cells and tests marked with these flags, e.g. "slow cuda"',
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "flag(name): runs only with --flags NAME")
    if "cuda" not in config.option.flags.split():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is asserted was computed on a CPU
    if config.option.durations is None:
        config.option.durations = 10
    config.option.loadscopereorder = False  # of pytest-xdist: keep the order made here
    os.environ.update(notebooks.threads(in_parallel(config, sys.maxsize)))
    config.pluginmanager.register(Stopwatch(config))


def pytest_runtest_setup(item):
    wanted = {mark.args[0] for mark in item.iter_markers("flag")}
    missing = sorted(wanted - set(item.config.option.flags.split()))
    if missing:
        pytest.skip(f"needs --flags {' '.join(missing)}")


def pytest_collect_file(file_path, parent):
    if file_path.suffix != ".ipynb" or not file_path.is_relative_to(ROOT / "nbs"):
        return None
    if any(part[0] in "._" for part in file_path.relative_to(ROOT).parts):
        return None
    return Notebook.from_parent(parent, path=file_path)


def in_parallel(config, files):
    "How many of some files run at once."
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    return max(1, min(workers, files))


class Stopwatch:
    "Keeps what each file took, and lets those begin first that take longest."

    def __init__(self, config):
        self.config, self.seconds, self.failed = config, {}, set()
        self.is_worker = hasattr(config, "workerinput")

    def known(self):
        "Seconds of each file in earlier runs; all workers get the same."
        if self.is_worker:
            return self.config.workerinput[SECONDS]
        cache = getattr(self.config, "cache", None)
        return cache.get(SECONDS, {}) if cache else {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        node.workerinput[SECONDS] = self.known()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        known = self.known()

        def order(item):
            # what was never timed comes first: tests, then notebooks, the largest first
            name = item.nodeid.partition("::")[0]
            is_test = item.path.suffix == ".py"
            seconds = known.get(name, float("inf"))
            return (-seconds, not is_test, -item.path.stat().st_size, name)

        items.sort(key=order)  # stable: within a file the order stays
        files = len({item.path for item in items})
        self.config.at_once = in_parallel(self.config, files)

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.partition("::")[0]
        self.seconds[name] = self.seconds.get(name, 0) + report.duration
        if report.failed:
            self.failed.add(name)

    def pytest_sessionfinish(self):
        chosen = self.config.option.keyword or any("::" in arg for arg in self.config.args)
        cache = getattr(self.config, "cache", None)
        if self.is_worker or chosen or not cache:
            return
        passed = {f: t for f, t in self.seconds.items() if f not in self.failed and t > 0.1}
        cache.set(SECONDS, {**self.known(), **passed})


class Notebook(pytest.File):
    "A notebook; its kernel starts with the first cell that is run."

    def collect(self):
        self.nb, cells = notebooks.load(self.path, self.config.option.flags.split())
        self.todo = [cell for cell in cells if not cell.skip]
        self.client, self.failed, self.open = None, None, ExitStack()
        for cell in cells:
            yield CellTest.from_parent(self, name=cell.name, cell=cell)

    def run_to(self, cell):
        "Run what was not run yet, up to and with `cell`: also cells that were not selected."
        if not self.client:
            kernel = notebooks.kernel(self.nb, self.config.at_once)
            self.client = self.open.enter_context(kernel)
        while self.todo and self.todo[0].index <= cell.index:
            self.failed = self.todo.pop(0)
            notebooks.run(self.client, self.failed)
            self.failed = None

    def teardown(self):
        self.open.close()


class CellTest(pytest.Item):
    "A code cell of a notebook."

    def __init__(self, *, cell, **kwargs):
        super().__init__(**kwargs)
        self.cell = cell

    def runtest(self):
        if self.cell.skip:
            pytest.skip(self.cell.skip)
        if self.parent.failed:
            pytest.skip(f"an earlier cell failed: {self.parent.failed.name}")
        self.parent.run_to(self.cell)

    def repr_failure(self, excinfo):
        failed = self.parent.failed
        if not failed:
            return super().repr_failure(excinfo)
        message = re.sub(r"\x1b\[[\d;]*m", "", str(excinfo.value)).strip()
        # pytest's summary shows the first line
        parts = [f"{message.splitlines()[-1]} (in cell {failed.name})"]
        if "executing the following cell" not in message:  # the kernel died: no source in it
            parts.append(self.parent.nb.cells[failed.index].source)
        return "\n\n".join([*parts, message])

    def reportinfo(self):
        return self.path, None, f"{self.path.name}: {self.name}"
