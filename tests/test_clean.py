import nbformat
from checkout import ROOT, copy_to, differences, python
from nbformat.v4 import new_code_cell, new_notebook, new_output
from run_notebook import WIDGET, strip_widgets


def test_the_notebooks_are_clean(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        copy_to(folder)
    python("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", cwd=new)
    changed = differences(old, new, "nbs/**/*.ipynb")
    assert not changed, (
        f"{changed} hold metadata or ids that nbdev_clean removes. Run: nbdev_clean"
    )


def test_widgets_are_stripped():
    kept = new_output("display_data", {"text/plain": "a figure", "image/png": "abc"})
    bar = new_output("display_data", {WIDGET: {}, "text/plain": "Loading weights:   0%"})
    said = new_output("stream", text="12 steps")
    nb = new_notebook(cells=[new_code_cell("train()", outputs=[bar, kept, said])])
    nb.metadata["widgets"] = {"state": {}}
    strip_widgets(nb)
    assert nb.cells[0].outputs == [kept, said] and "widgets" not in nb.metadata


def test_no_notebook_holds_a_widget():
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        if any(WIDGET in output.get("data", {}) for output in outputs):
            found.append(path.relative_to(ROOT).as_posix())
    assert not found, (
        f"{found} show progress bars that stand still. Run: python tools/run_notebook.py"
    )
