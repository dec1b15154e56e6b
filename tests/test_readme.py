import re
import subprocess
import sys

import nbformat
import pytest
from checkout import ROOT, files


def test_the_readme_is_the_index_notebook():
    done = subprocess.run(
        [sys.executable, "tools/readme.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["README.md", ".ci/run", ".github/workflows/test.yml"])
def test_ci_runs_what_the_readme_says(name):
    command = 'pip install -e ".[dev]" && pytest'
    assert command in (ROOT / name).read_text(encoding="utf-8"), (
        f"{name} does not hold the test command: {command}"
    )


def texts(path):
    "What a file says in Markdown: all of a page, or the text cells of a notebook."
    if path.suffix == ".md":
        return [(ROOT / path).read_text(encoding="utf-8")]
    cells = nbformat.read(ROOT / path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def test_every_link_within_the_repository_leads_somewhere():
    dead = []
    for path in files():
        if path.suffix not in (".md", ".ipynb"):
            continue
        for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", "\n".join(texts(path))):
            if not (ROOT / path.parent / target).exists():
                dead.append(f"{path}: {target}")
    assert not dead, dead


def test_the_index_links_every_page():
    index = "\n".join(texts((ROOT / "nbs/index.ipynb").relative_to(ROOT)))
    pages = [p.relative_to("nbs").as_posix() for p in files() if p.suffix == ".ipynb"]
    missing = [page for page in pages if page != "index.ipynb" and f"({page})" not in index]
    assert not missing, f"not linked from nbs/index.ipynb: {missing}"
