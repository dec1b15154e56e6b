"How a notebook is run, for the tests and for run_notebook.py: which cells, what kernel."

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from fastcore.basics import str2bool
from forked import forked_kernels
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, extract_directives

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Cell:
    index: int  # place in the notebook's list of cells
    name: str  # Jupyter's number after "Restart and run all", and the first line of code
    skip: str  # why it is not run; empty if it is


def load(path, flags=()):
    "The notebook at `path`, and its cells that hold code; those with `flags` are run too."
    nb = nbformat.read(path, as_version=4)
    front = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    skip_all = str2bool(getattr(front, "frontmatter_", {}).get("skip_exec", False))
    skip_flags = set(get_config(path=ROOT).tst_flags.split()) - set(flags)

    def why_skipped(cell):  # the rules of nbdev_test
        directives = extract_directives(cell, remove=False)
        if skip_all:
            return "skip_exec: the whole notebook is not run"
        if "nbdev_export(" in cell.source:
            return "calls nbdev_export"
        if directives.get("eval:", [""])[0].lower() == "false":
            return "#| eval: false"
        if found := skip_flags & directives.keys():
            return f"needs --flags {' '.join(sorted(found))}"
        return ""

    cells, number = [], 0
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        number += 1
        lines = (line.strip() for line in cell.source.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), None)
        # "::" would end the file's name in a pytest node id
        if first:
            cells.append(
                Cell(index, f"{number:02d} {first[:70].replace('::', ':')}", why_skipped(cell))
            )
    return nb, cells


def processors():
    "How many this process may use."
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(at_once):
    "The share of the processors of each of so many kernels; what is set already stays."
    share = str(max(1, processors() // at_once))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if at_once > 1 else ()
    return {name: os.environ.get(name, share) for name in names}


@contextmanager
def kernel(nb, at_once=1):
    """A client for `nb` with a fresh kernel of this same Python, in an empty folder.

    `at_once` is how many run side by side. Kernel and folder go at the end, also on Ctrl-C.
    """
    env = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "IN_TEST": "1",  # as nbdev_test does: nbdev's own commands do nothing then
        **threads(at_once),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    # Installed kernel specs may name another Python. Where none is found, Jupyter starts
    # the running one.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        nb,
        km=manager,
        timeout=None,
        record_timing=False,
        shutdown_kernel="immediate",
        extra_arguments=["--log-level=ERROR"],  # no warning that loopback is not encrypted
    )
    with (
        TemporaryDirectory() as folder,
        forked_kernels(),
        client.setup_kernel(cwd=folder, env=env, cleanup_kc=True),
    ):
        yield client


def run(client, cell):
    "Execute `cell`; its outputs go into the client's notebook, an error is raised."
    code = client.nb.cells[cell.index]
    source = code.source
    try:
        extract_directives(code)  # a %%magic must be the first line
        client.execute_cell(code, cell.index)
    finally:
        code.source = source
