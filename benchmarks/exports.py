"""Format by family: how many answers of an export are the adapter's, and how far its logits
are off, in the engine that reads it.

    python benchmarks/exports.py [--node-llama-cpp FOLDER] [--real ADAPTER] [--prompts FILE]

Small models with random weights, one of each family and shape, an adapter with random weights
on every linear layer; `--real` adds an adapter of a real model. llama.cpp is asked through
llama-cpp-python where it is installed, or through node-llama-cpp."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from exported import CASES, made_adapter, made_base  # noqa: E402

from tinyforge import export_adapter  # noqa: E402
from tinyforge.compat import quiet  # noqa: E402
from tinyforge.errors import TinyforgeError  # noqa: E402

RESULT = Path(__file__).parent / "results" / "exports.json"
FORMATS = {
    "peft": {"to": "peft"},
    "merged, float32": {"to": "merged", "dtype": "float32"},
    "merged, bfloat16": {"to": "merged", "dtype": "bfloat16"},
    "gguf-adapter": {"to": "gguf-adapter"},
    "gguf, f32": {"to": "gguf", "dtype": "f32"},
    "gguf, f16": {"to": "gguf", "dtype": "f16"},
    "gguf, q8_0": {"to": "gguf", "dtype": "q8_0"},
}


def row_of(family, format, proof):
    "What of a proof is a row of the table."
    found = {"family": family, "format": format, "effect": proof.effect}
    found |= {"largest": proof.largest, "rounding": proof.rounding, "engines": []}
    for check in proof.checks:
        found["engines"].append(
            {
                "engine": check.engine,
                "prompts": check.prompts,
                "equal": check.equal,
                "decided_by_rounding": len(check.ties),
                "ties": check.ties[:5],
                "difference": check.difference,
                "share_of_effect": check.share,
            }
        )
    return found


def exported(family, adapter, place, base, node, prompts=None):
    "A row of the table for each format."
    for format, options in FORMATS.items():
        given = {**options, "model_name": base, "prompts": prompts}
        if node and options["to"].startswith("gguf"):
            given["node_llama_cpp"] = node
        try:
            with quiet():
                proof = export_adapter(
                    adapter, output_dir=place / format.replace(", ", "-"), **given
                )
        except TinyforgeError as e:
            yield {"family": family, "format": format, "refused": e.what}
            continue
        yield row_of(family, format, proof)


def shown(row):
    "A row as one line."
    if "refused" in row:
        return f"{row['family']:28} {row['format']:18} refused: {row['refused']}"
    parts = [
        f"{e['equal']}+{e['decided_by_rounding']} of {e['prompts']}, {e['difference']:.1e}"
        for e in row["engines"]
    ]
    return f"{row['family']:28} {row['format']:18} " + " | ".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-llama-cpp", metavar="FOLDER")
    parser.add_argument("--real", metavar="ADAPTER")
    parser.add_argument("--prompts", metavar="FILE")
    parser.add_argument("--only", nargs="+", help="families")
    parser.add_argument("--out", default=str(RESULT), help="file (default: %(default)s)")
    given = parser.parse_args()
    prompts = Path(given.prompts).read_text().splitlines() if given.prompts else None
    rows = []
    for case in given.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            model = made_base(case, place / "base")
            made_adapter(model, place / "adapter")
            more = place, str(place / "base"), given.node_llama_cpp
            for row in exported(case, place / "adapter", *more):
                rows.append(row)
                print(shown(row), flush=True)
    if given.real:
        with tempfile.TemporaryDirectory() as folder:
            more = Path(folder), None, given.node_llama_cpp, prompts
            for row in exported("SmolLM2-135M-Instruct", given.real, *more):
                rows.append(row)
                print(shown(row), flush=True)
    text = json.dumps({**machine("cpu", "gguf"), "rows": rows}, indent=1, ensure_ascii=False)
    Path(given.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
