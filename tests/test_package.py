import re
import statistics
import tarfile
import time
import zipfile

import pytest
from checkout import ROOT, copy_to, files, python, settings

PACKAGE = settings()["lib_path"]


def test_import_leaves_the_heavy_libraries_alone():
    heavy = {"torch", "transformers", "peft", "bitsandbytes"}
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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "Names of the files in a wheel and in a source distribution built from this checkout."
    folder = tmp_path_factory.mktemp("build")
    copy_to(folder)
    # the hooks pip calls, in this environment: nothing is downloaded
    python("from setuptools import build_meta as b; b.build_wheel('dist')", cwd=folder)
    python("from setuptools import build_meta as b; b.build_sdist('dist')", cwd=folder)
    with zipfile.ZipFile(*(folder / "dist").glob("*.whl")) as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(*(folder / "dist").glob("*.tar.gz")) as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    return {"wheel": in_wheel, "sdist": in_sdist}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_whole_package_is_built(built, kind):
    expected = {name.as_posix() for name in files() if name.parts[0] == PACKAGE}
    missing = sorted(expected - built[kind])
    assert not missing, (
        f"the {kind} lacks {missing}. Add their endings to package_data in setup.py"
    )


def test_nothing_installs_the_other_tinyforge():
    # the bare name on PyPI is another project's; also with an extra, in quotes, or after options
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
