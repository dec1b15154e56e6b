"Run notebooks in place, each in a fresh kernel, and save their outputs. Cells that the tests skip keep theirs."

import argparse
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbdev.clean import nbdev_clean
from notebooks import kernel, load, run


def run_in_place(path, flags):
    "Run the notebook at `path` and write it, or leave the file as it is and exit where a cell fails."
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
                sys.exit(f"{path}: cell {cell.name} failed, nothing was written\n{e}")
            if any(
                output.get("name") == "stderr" for output in done.cells[cell.index].outputs
            ):
                print(
                    f"{path}: WARNING: cell {cell.name} wrote to stderr, and the output"
                    " keeps it",
                    file=sys.stderr,
                )
    nbformat.write(done, path)
    nbdev_clean.__wrapped__(str(path))
    print(f"{path}: done")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("notebooks", nargs="+", type=Path)
parser.add_argument(
    "--flags", default="", help='also run cells marked with these flags, e.g. "slow cuda"'
)
args = parser.parse_args()
for path in args.notebooks:
    run_in_place(path.resolve(), args.flags.split())
