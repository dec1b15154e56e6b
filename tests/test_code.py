"What tools see of the code: ruff, mypy, an editor, and a reader's screen."

import ast
import re
import subprocess
import sys

import jedi
import nbformat
import pytest
from checkout import ROOT, files, settings

PACKAGE = settings()["lib_path"]
COLUMNS = 95
PYTHON = [path for path in files() if path.suffix == ".py" and path.name != "_modidx.py"]
NOTEBOOKS = [path for path in files() if path.suffix == ".ipynb"]


def run(*command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def code_of(path):
    "The code of a file: a module's text, or the code cells of a notebook."
    if path.suffix == ".py":
        text = (ROOT / path).read_text(encoding="utf-8")
        return [re.sub(r"^__all__ = \[.*?\]$", "", text, flags=re.M | re.S)]  # nbdev wraps it
    cells = nbformat.read(ROOT / path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_ruff_finds_nothing():
    status, said = run("ruff", "check", "--quiet", ".")
    assert status == 0, said


@pytest.mark.parametrize("path", [*PYTHON, *NOTEBOOKS], ids=str)
def test_lines_fit_a_screen(path):
    wide = [
        line
        for source in code_of(path)
        for line in source.splitlines()
        if len(line) > COLUMNS and not line.startswith("#|")
    ]
    assert not wide, f"{path}: {len(wide)} lines over {COLUMNS} columns, such as\n{wide[0]}"


def test_types_hold_for_a_user():
    status, said = run("mypy", "tests/user_code.py", PACKAGE)
    assert status == 0, said


def test_a_wrong_use_is_a_wrong_type(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from tinyforge import RealTrainer, TrainingConfig\n"
        "RealTrainer(TrainingConfig(lora_rank=8)).trian('a.jsonl')\n",
        encoding="utf-8",
    )
    status, said = run("mypy", str(wrong))
    assert status and 'no attribute "trian"' in said and 'argument "lora_rank"' in said, said


def attached(source):
    "Names to which `source` attaches something from outside: Trainer.train = train."
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                    yield f"{part.value.id}.{part.attr}"


def test_an_attached_method_is_seen():
    assert list(attached("A.f, A.g = f, g\nx = 1\nB.h = h")) == ["A.f", "A.g", "B.h"]


def test_nothing_is_attached_to_a_class_from_outside():
    found = [
        f"{path}: {name}"
        for path in PYTHON
        if path.parts[0] == PACKAGE
        for name in attached((ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not found, found


@pytest.mark.parametrize("name", ["RealTrainer", "Adapters", "TrainingConfig", "Factors"])
def test_an_editor_completes_every_public_name(name):
    from tinyforge.adapters.format import Factors

    import tinyforge

    cls = Factors if name == "Factors" else getattr(tinyforge, name)
    start = f"from {cls.__module__} import {name}" if name == "Factors" else ""
    start = start or f"from {PACKAGE} import {name}"
    script = jedi.Script(f"{start}\n{name}.", project=jedi.Project(ROOT))
    completed = {completion.name for completion in script.complete(2, len(name) + 1)}
    public = {attribute for attribute in dir(cls) if not attribute.startswith("_")}
    assert public <= completed, f"not completed: {sorted(public - completed)}"


def test_help_shows_every_field():
    import pydoc

    from tinyforge import TrainingConfig

    shown = pydoc.render_doc(TrainingConfig, renderer=pydoc.plaintext)
    signature = shown.split("Method resolution order")[0]
    missing = [name for name in TrainingConfig.__dataclass_fields__ if name not in signature]
    assert not missing, missing
