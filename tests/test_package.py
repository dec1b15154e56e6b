import ast
import re
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib.metadata import packages_distributions
from types import SimpleNamespace

import pytest
from checkout import ROOT, copy_to, files, python, settings

PACKAGE = settings()["lib_path"]
FACE = ROOT / PACKAGE / "__init__.py"


def test_import_leaves_the_heavy_libraries_alone():
    heavy = {"torch", "transformers", "peft", "bitsandbytes", "numpy", "matplotlib"}
    loaded = heavy & set(python(f"import sys, {PACKAGE}; print(*sys.modules)").split())
    assert not loaded, (
        f"import {PACKAGE} imports {sorted(loaded)}. Import them in the functions that need"
        " them"
    )


def test_import_is_fast():
    def seconds(code):
        start = time.perf_counter()
        python(code)
        return time.perf_counter() - start

    # in turn, so that a busy machine slows both
    extra = statistics.median(seconds(f"import {PACKAGE}") - seconds("pass") for _ in range(7))
    assert extra < 0.3, (
        f"import {PACKAGE} takes {extra:.2f} s. See what with: python -X importtime -c 'import"
        f" {PACKAGE}'"
    )


def names_for_type_checkers():
    "What the face imports for editors and type checkers: name -> module, without the package."
    found = {}
    for block in ast.parse(FACE.read_text(encoding="utf-8")).body:
        if not (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"):
            continue
        for line in block.body:
            assert isinstance(line, ast.ImportFrom) and not line.level, ast.unparse(line)
            for alias in line.names:
                assert alias.asname == alias.name, f"{alias.name} is not seen: say `as` too"
                found[alias.name] = line.module.removeprefix(f"{PACKAGE}.")
    return found


def test_the_two_lists_of_the_face_agree():
    listed = python(f"import json, {PACKAGE} as p; print(json.dumps(p._MODULES))")
    assert names_for_type_checkers() == ast.literal_eval(listed)


def test_every_public_name_is_there():
    python(
        f"import {PACKAGE} as p\n"
        "for name in p.__all__:\n"
        "    assert getattr(p, name) is getattr(p, name), name\n"
        "    assert name in dir(p)\n"
        "try:\n"
        "    p.no_such_name\n"
        "except AttributeError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError"
    )


def plain(requirement):
    "The name of a distribution, without versions and as indexes compare them."
    name = re.match(r"[\w.-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_from_others():
    "The packages of others that the library imports, anywhere: name -> files."
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name != PACKAGE:
                    found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


NEED_NOT_BE_THERE = {"llama_cpp": "llama-cpp-python"}  # a package -> its distribution


def test_every_import_is_required():
    config = settings()
    extras = [key for key in config if key.endswith("_requirements") and key[:3] != "dev"]
    required = " ".join(config[key] for key in ("requirements", *extras)).split()
    declared = {plain(requirement) for requirement in required}
    installed = packages_distributions()
    missing = {}
    for name, where in imported_from_others().items():
        known_as = [NEED_NOT_BE_THERE.get(name, name)]
        distributions = {plain(each) for each in installed.get(name, known_as)}
        if not distributions & declared:
            missing[name] = sorted(distributions), sorted(where)
    assert not missing, f"settings.ini does not require {missing}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A wheel and a source distribution built from this checkout, and the names of their files."
    folder = tmp_path_factory.mktemp("build")
    copy_to(folder)
    # the hooks pip calls, in this environment: nothing is downloaded
    python("from setuptools import build_meta as b; b.build_wheel('dist')", cwd=folder)
    python("from setuptools import build_meta as b; b.build_sdist('dist')", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as inside:
        in_wheel = set(inside.namelist())
    with tarfile.open(sdist) as inside:
        in_sdist = {name.partition("/")[2] for name in inside.getnames()}
    return SimpleNamespace(path=wheel, wheel=in_wheel, sdist=in_sdist)


def test_the_whole_package_is_in_the_wheel(built):
    expected = {name.as_posix() for name in files() if name.parts[0] == PACKAGE}
    assert f"{PACKAGE}/py.typed" in expected
    missing = sorted(expected - built.wheel)
    assert not missing, f"the wheel lacks {missing}. Add them to package_data in setup.py"


def test_the_sources_are_in_the_sdist(built):
    # what stands in the root is no folder: its files are named by their parts alone
    folders = {PACKAGE, "nbs", "tests", "tools", "benchmarks"}
    single = {"conftest.py", "pyproject.toml", "settings.ini", "setup.py", "README.md"}
    expected = {
        name.as_posix()
        for name in files()
        if name.parts[0] in folders or name.as_posix() in single
    }
    missing = sorted(expected - built.sdist)
    assert not missing, f"the source distribution lacks {missing}. Name them in MANIFEST.in"


TRY_IT = f"""
from pathlib import Path
import {PACKAGE}
from {PACKAGE}.cli import main
from {PACKAGE}.data.shipped import DATASETS
from {PACKAGE}.models.loading import load_tokenizer

print(Path({PACKAGE}.__file__).parent)
assert {PACKAGE}.load_base("tinyforge-base")
assert load_tokenizer().chat_template
for name in DATASETS:
    for part in ("train", "heldout"):
        assert {PACKAGE}.dataset(name, part).is_file()
assert "124" in str({PACKAGE}.count_parameters("gpt2", 8))
words = Path({PACKAGE}.__file__).parent / "learn" / "words"
assert {{p.name for p in words.iterdir()}} >= {{"frames.txt", "lexicon.txt"}}
assert main(["params", "tinyforge-base"]) == 0
"""


def test_the_wheel_works_elsewhere(built, tmp_path):
    "Installed and used far from the checkout: base, data sets, shapes, words, command."
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", installed, built.path], check=True)
    said = python(TRY_IT, cwd=elsewhere, PYTHONPATH=str(installed), HF_HUB_OFFLINE="1")
    assert said.splitlines()[0] == str(installed / PACKAGE)
    assert not list(elsewhere.iterdir())
    scripts = [path.name for path in installed.rglob("entry_points.txt")]
    assert scripts, "the command is not declared"


def test_nothing_installs_the_other_tinyforge():
    # the bare name on PyPI is another project's; also as an extra, in quotes, after options
    wrong = re.compile(rf"pip3? install (?:-\S+ )*[\"']?{PACKAGE}(?![-\w/])")
    found = []
    for name in files():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {match[0]}" for match in wrong.finditer(text.replace('\\"', '"'))]
    assert not found, (
        f"{found} install somebody else's package. Say: pip install -e . (from a checkout)"
    )


SHIPPED = ("data/datasets", "learn/words", "models/base")  # what is no code


def test_what_is_shipped_says_its_licence(built):
    "Data, lexicon and weights: a note beside them, in the checkout and in the wheel."
    heavy = (".jsonl", ".safetensors", ".txt", ".gguf", ".parquet", ".csv")
    inside = {name.parent for name in files() if name.suffix in heavy}
    ours = {folder for folder in inside if folder.parts[0] == PACKAGE}
    for folder in ours:
        assert any(folder.is_relative_to(f"{PACKAGE}/{place}") for place in SHIPPED), (
            f"{folder} is shipped without a licence note: write LICENSE.txt, and name it here"
        )
    for place in SHIPPED:
        note = f"{PACKAGE}/{place}/LICENSE.txt"
        assert note in built.wheel and f"{note}" in built.sdist, note
        text = (ROOT / note).read_text(encoding="utf-8")
        assert "SPDX-License-Identifier: Apache-2.0" in text
    assert any(name.endswith("LICENSE") and "dist-info" in name for name in built.wheel)
