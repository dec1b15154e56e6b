"""Fold in JupyterLab and on Colab what the site hides or folds, in all notebooks or in some.

python tools/fold.py [NOTEBOOK ...]

A cell that is marked `#| hide`, `#| export` or `#| code-fold: true` shows one line there, and
opens with a click. `tools/run_notebook.py` does the same to what it runs.
"""

import argparse
from pathlib import Path

import nbformat
from nbdev.process import extract_directives

ROOT = Path(__file__).resolve().parents[1]
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab's, Colab's


def is_folded(cell):
    "Whether the site shows the code of a cell only to those who ask for it."
    if cell.cell_type != "code":
        return False
    directives = extract_directives(cell, remove=False)
    folds = directives.get("code-fold:") == ["true"]
    return folds or bool(directives.keys() & {"hide", "export", "default_exp"})


def fold(nb):
    "Fold the cells of a notebook, and unfold those that the site shows."
    for cell in nb.cells:
        kept = {key: value for key, value in cell.metadata.items() if key not in FOLDED}
        cell.metadata = nbformat.from_dict({**kept, **(FOLDED if is_folded(cell) else {})})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    paths = parser.parse_args().notebooks or sorted((ROOT / "nbs").rglob("*.ipynb"))
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        fold(nb)
        nbformat.write(nb, path)


if __name__ == "__main__":
    main()
