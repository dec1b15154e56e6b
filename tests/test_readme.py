import subprocess
import sys

import pytest
from checkout import ROOT


def test_the_readme_is_the_index_notebook():
    done = subprocess.run(
        [sys.executable, "tools/readme.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["README.md", ".ci/run", ".github/workflows/test.yml"])
def test_ci_runs_what_the_readme_says(name):
    command = 'pip install -e ".[dev]" && pytest'
    assert command in (ROOT / name).read_text(encoding="utf-8"), (
        f"{name} does not hold the test command: {command}"
    )
