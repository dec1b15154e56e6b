"""Run notebooks in place, each in a fresh kernel, and save their outputs.

Cells that the tests skip keep the outputs they have. A notebook in which a cell fails is left
as it was, and the next one runs; the exit status says that one failed.
"""

import argparse
import ast
import re
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from fold import fold
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbdev.clean import nbdev_clean
from nbdev.process import extract_directives
from notebooks import kernel, load, run

WIDGET = "application/vnd.jupyter.widget-view+json"


def is_bar(line):
    return bool(re.search(r"\d%\|", line))


def unnamed(text):
    "A text without the names of folders that only last as long as a run."
    return re.sub(r"\btmp[a-z0-9_]{8}\b", "folder", text)


def tidied(outputs):
    """Outputs as a saved page shows them.

    No progress bars, which stand still there, at 0 % or at nothing; what was written to one
    stream in one piece; folders for the time of a run under one name."""
    tidy = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue
        if output.output_type == "stream":
            if output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not is_bar(line)).lstrip()
            output.text = unnamed(output.text)
            if not output.text:
                continue
            if tidy and tidy[-1].get("name") == output.name:
                tidy[-1].text += output.text
                continue
        for form, content in output.get("data", {}).items():
            if form.startswith("text/"):
                output.data[form] = unnamed(content)
        tidy.append(output)
    return tidy


def tidy_outputs(nb):
    "Make a notebook's outputs tidy, and drop what is kept of its widgets."
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = tidied(cell.outputs)
    nb.metadata.pop("widgets", None)


def is_import(cell):
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:  # a %magic or a !command
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def is_hidden(cell):
    return "hide" in extract_directives(cell, remove=False)


def strip_hidden_warnings(nb):
    "What a hidden import warns of is nobody's concern: optional kernels that are not there."
    for cell in nb.cells:
        if cell.cell_type == "code" and (is_hidden(cell) or is_import(cell)):
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]


def writes_to_stderr(cell):
    hidden = is_hidden(cell) or is_import(cell)
    return not hidden and any(output.get("name") == "stderr" for output in cell.outputs)


def run_in_place(path, flags):
    "Run the notebook at `path` and write it; False, and the file as it was, if a cell fails."
    nb, cells = load(path, flags)
    done = deepcopy(nb)
    with kernel(done) as client:
        for cell in cells:
            if cell.skip:
                print(f"{path}: kept {cell.name} ({cell.skip})")
                continue
            try:
                run(client, cell)
            except (CellExecutionError, DeadKernelError) as e:
                print(f"{path}: cell {cell.name} failed, nothing was written\n{e}")
                return False
            if writes_to_stderr(done.cells[cell.index]):
                print(f"{path}: WARNING: cell {cell.name} wrote to stderr, which is kept")
    tidy_outputs(done)
    fold(done)
    strip_hidden_warnings(done)
    nbformat.write(done, path)
    nbdev_clean.__wrapped__(str(path))
    print(f"{path}: done", flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--flags", default="", help='also run cells marked with these flags, e.g. "slow cuda"'
    )
    given = parser.parse_args()
    paths, flags = [path.resolve() for path in given.notebooks], given.flags.split()
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}")
    failed = [str(path) for path in paths if not run_in_place(path, flags)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
