"pytest runs every code cell of every notebook in nbs/ as a test: each notebook in one fresh kernel, in order."

import re
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402

collect_ignore = ["_proc", "_docs", "build", "dist"]


def pytest_addoption(parser):
    parser.addoption(
        "--flags", default="", help='also run cells marked with these flags, e.g. "slow cuda"'
    )


def pytest_configure(config):
    if config.option.durations is None:
        config.option.durations = 10


def pytest_collect_file(file_path, parent):
    inside = file_path.is_relative_to(ROOT / "nbs") and file_path.relative_to(ROOT).parts
    if inside and file_path.suffix == ".ipynb" and not any(part[0] in "._" for part in inside):
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        self.nb, cells = notebooks.load(self.path, self.config.option.flags.split())
        self.todo = [cell for cell in cells if not cell.skip]
        self.client, self.failed, self.open = None, None, ExitStack()
        for cell in cells:
            yield CellTest.from_parent(self, name=cell.name, cell=cell)

    def run_to(self, cell):
        "Run what was not run yet, up to and with `cell`: cells that were not selected run too."
        if not self.client:
            self.client = self.open.enter_context(notebooks.kernel(self.nb))
        while self.todo and self.todo[0].index <= cell.index:
            self.failed = self.todo.pop(0)
            notebooks.run(self.client, self.failed)
            self.failed = None

    def teardown(self):
        self.open.close()


class CellTest(pytest.Item):
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
        source = self.parent.nb.cells[failed.index].source
        # pytest's summary shows the first line; nbclient's message holds the source, unless the kernel died
        summary = f"{message.splitlines()[-1]} (in cell {failed.name})"
        return "\n\n".join(
            [
                summary,
                *([] if "executing the following cell" in message else [source]),
                message,
            ]
        )

    def reportinfo(self):
        return self.path, None, f"{self.path.name}: {self.name}"
