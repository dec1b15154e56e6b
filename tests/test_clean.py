import nbformat
from checkout import ROOT, copy_to, differences, python
from fold import FOLDED, is_folded
from nbformat.v4 import new_code_cell, new_notebook, new_output
from run_notebook import WIDGET, tidied, tidy_outputs


def test_the_notebooks_are_clean(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        copy_to(folder)
    python("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", cwd=new)
    changed = differences(old, new, "nbs/**/*.ipynb")
    assert not changed, (
        f"{changed} hold metadata or ids that nbdev_clean removes. Run: nbdev_clean"
    )


def test_saved_outputs_are_tidy():
    kept = new_output("display_data", {"text/plain": "a figure", "image/png": "abc"})
    bar = new_output("display_data", {WIDGET: {}, "text/plain": "Loading weights:   0%"})
    shown = new_output("execute_result", {"text/plain": "'/tmp/tmpab12_xyz/adapter'"})
    said = [new_output("stream", text=text) for text in ("12 steps", ", in /tmp/tmpab12_xyz")]
    bars = "\rLoading:   0%|   | 0/2\rLoading: 100%|███| 2/2\n"
    warned = new_output("stream", name="stderr", text=f"{bars}a row is cut\n")
    gone = new_output("stream", name="stderr", text=bars)
    cell = new_code_cell("train()", outputs=[bar, kept, *said, gone, warned, shown])
    nb = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    tidy_outputs(nb)
    assert nb.cells[0].outputs == [
        kept,
        new_output("stream", text="12 steps, in /tmp/folder"),
        new_output("stream", name="stderr", text="a row is cut\n"),
        new_output("execute_result", {"text/plain": "'/tmp/folder/adapter'"}),
    ]
    assert "widgets" not in nb.metadata
    assert tidied(nb.cells[0].outputs) == nb.cells[0].outputs


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


def test_what_the_site_folds_is_folded_in_jupyterlab_and_on_colab():
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            shown = {key: cell.metadata.get(key) for key in FOLDED if key in cell.metadata}
            if shown != (FOLDED if is_folded(cell) else {}):
                found.append(path.relative_to(ROOT).as_posix())
    assert not found, f"{sorted(set(found))}: run python tools/fold.py"
