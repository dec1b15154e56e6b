import ast
import re

import nbformat
import pytest
from checkout import ROOT, settings

PACKAGE = settings()["lib_path"]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
NUMBERS = {stem[1]: stem[0] for stem in (path.stem.split("_", 1) for path in NOTEBOOKS)}


def imported(source):
    "Modules of the package that `source` imports, also inside functions."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            module = (
                f"{PACKAGE}.{node.module or ''}".rstrip(".") if node.level else node.module
            )
            names = [f"{module}.{name}" for name in names]
        found |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return found & NUMBERS.keys()


def test_every_form_of_import_is_seen():
    source = (
        "\n".join(
            form.format(PACKAGE, name)
            for form, name in zip(
                [
                    "import {0}.{1}",
                    "from {0} import {1}",
                    "from {0}.{1} import x",
                    "def f(): from .{1} import x",
                    "from . import {1}",
                ],
                NUMBERS,
            )
        )
        + "\ndef f():\n    x = 1\n    def g():\n        nonlocal x"
    )
    assert imported(source) == set(list(NUMBERS)[:5])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_builds_on_earlier_ones(notebook):
    number, name = notebook.stem.split("_", 1)
    source = "\n".join(
        cell.source
        for cell in nbformat.read(notebook, as_version=4).cells
        if cell.cell_type == "code"
    )
    exports_to = re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", source, flags=re.M)
    assert exports_to == [name], (
        f"{notebook.name} exports to {exports_to}. Name the notebook NN_MODULE.ipynb and have"
        f" it say: #| default_exp {name}"
    )
    module = ROOT / PACKAGE / f"{name}.py"
    assert module.exists(), f"{module.name} is missing. Run: nbdev_export"
    later = sorted(
        other
        for other in imported(module.read_text(encoding="utf-8"))
        if NUMBERS[other] >= number
    )
    assert not later, (
        f"{notebook.name} imports from {later}, which do not come before it. Move what both"
        " need to the lower chapter"
    )
