"The house: where a module may stand, and whom it may import."

import ast
import re
from pathlib import Path

import nbformat
import pytest
from checkout import ROOT, settings

PACKAGE = settings()["lib_path"]
LAYERS = [  # from the ground up; what stands on one line may not import its neighbours
    {"errors"},
    {"paths"},
    {"reports", "settings", "folders", "compat", "figures", "limits"},
    {"models"},
    {"data"},
    {"compute"},
    {"adapters"},
    {"generation"},
    {"memory"},
    {"training"},
    {"exports"},
    {"serving"},
    {"demo"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(
    path.relative_to(ROOT / PACKAGE).with_suffix("")
    for path in (ROOT / PACKAGE).rglob("*.py")
    if path.stem not in ("__init__", "__main__", "_modidx")
)


def when_it_runs(node):
    "The nodes of a tree, without what only a type checker reads."
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from when_it_runs(child)


def imported(source, module):
    "What `source`, the text of a module, imports from the package: a/b for a.b."
    found = set()
    for node in when_it_runs(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = (PACKAGE, *module.parts)[: -node.level] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names} | {start}
    names = [name.split(".")[1:] for name in found if name.split(".")[0] == PACKAGE]
    known = {module.as_posix() for module in MODULES}
    return {
        "/".join(name[:length])
        for name in names
        for length in range(1, len(name) + 1)
        if "/".join(name[:length]) in known
    }


def imports_of(module):
    source = (ROOT / PACKAGE / module).with_suffix(".py").read_text(encoding="utf-8")
    return imported(source, module)


def complaint(module, other):
    "Why `module` may not import `other`; empty if it may."
    here, there = Path(module).parts[0], Path(other).parts[0]
    if here == "learn":
        return ""
    if there == "learn":
        return f"{module} imports {other}: the library never imports what the chapters build"
    if here == there:
        return ""  # circles within a package are looked for below
    if LEVEL[there] < LEVEL[here]:
        return ""
    return f"{module} imports {other}, which stands above it: move what both need down"


def test_every_form_of_import_is_seen():
    forms = [
        f"import {PACKAGE}.errors",
        f"from {PACKAGE} import reports",
        f"from {PACKAGE}.models.names import BASE",
        f"from {PACKAGE}.models import targets",
        "from ..folders import why",
        "from .loading import load_base",
        "from . import tasks",
        "def f():\n    from ..compat import quiet",
        "if TYPE_CHECKING:\n    from ..training.trainer import RealTrainer",
    ]
    expected = {"errors", "reports", "models/names", "models/targets", "folders"}
    expected |= {"models/loading", "models/tasks", "compat"}
    assert imported("\n".join(forms), Path("models/parameters")) == expected


def test_what_is_wrong_is_seen():
    assert "above it" in complaint("models/names", "data/chat")
    assert "above it" in complaint("reports", "folders")
    assert "chapters" in complaint("models/names", "learn/lora")
    assert not complaint("training/trainer", "models/names")
    assert not complaint("learn/lora", "training/trainer")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_arrows_point_down(module):
    assert module.parts[0] in LEVEL or module.parts[0] == "learn", f"{module} is in no layer"
    wrong = [complaint(module.as_posix(), other) for other in sorted(imports_of(module))]
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_there_are_no_circles():
    left = {module.as_posix(): imports_of(module) - {module.as_posix()} for module in MODULES}
    while left:
        free = [module for module, needs in left.items() if not needs & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for module in free:
            del left[module]


def notebooks():
    "Every notebook that exports a module: its path within nbs/, and the module."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if any(part[0] in "._" for part in path.relative_to(ROOT).parts):
            continue
        cells = nbformat.read(path, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for name in re.findall(r"^#\|\s*default_exp\s+(\S+)", source, flags=re.M):
            yield path.relative_to(ROOT / "nbs"), name


def test_a_notebook_lies_where_its_module_does():
    places = {name: path for path, name in notebooks()}
    assert {name.replace(".", "/") for name in places} == {m.as_posix() for m in MODULES}
    for name, path in places.items():
        wing, *folders = path.with_suffix("").parts
        if wing == "library":
            assert ".".join(folders) == name, f"{path} exports {name}"
        else:
            assert wing == "learn" and name.startswith("learn."), f"{path} exports {name}"


def test_no_page_counts_chapters():
    "The old numbers (07e, chapter 12) are gone, also from titles and comments."
    old = re.compile(r"\bchapters? \d|\b0\d[a-l]\b|^# \d\d", re.M)
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if any(part[0] in "._" for part in path.relative_to(ROOT).parts):
            continue
        for cell in nbformat.read(path, as_version=4).cells:
            found += [f"{path.name}: {match[0]}" for match in old.finditer(cell.source)]
    assert not found, found
