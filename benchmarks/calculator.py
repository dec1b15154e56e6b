"""The table behind the memory calculator, and 500 settings to hold it against.

    python benchmarks/calculator.py checks  # simulates settings that the table never saw
    python benchmarks/calculator.py table   # writes tinyforge/memory/calculator.json
    python benchmarks/calculator.py errors  # the two, held against each other

The settings are drawn from seed 5 and simulated whole, by `estimate_memory`, as they stand:
25 minutes on one core. A run that was cut off goes on where it was.
"""

import argparse
import json
import random
from pathlib import Path
from statistics import fmean

RECORDED = Path(__file__).parent / "results" / "calculator.json"
TABLE = Path(__file__).parent.parent / "tinyforge" / "memory" / "calculator.json"
SEED, COUNT, FREE = 5, 500, 100  # the last: settings of an invented shape
OTHERS = ("t5", "bert", "roberta")  # not causal


def questions():
    "What is simulated: the name of a model or a shape, and settings."
    from tinyforge.memory.calculator import LIMITS
    from tinyforge.memory.tabulate import invented_shape, random_settings
    from tinyforge.models.names import known_shapes, model_config

    rng, asked = random.Random(SEED), []
    names = {name: model_config(name) for name in known_shapes()}
    names = {name: c for name, c in names.items() if c.model_type not in OTHERS}
    for i in range(COUNT):
        if i % (COUNT // FREE):
            name = rng.choice(list(names))
            model, kind = {"name": name}, names[name].model_type
            longest = names[name].max_position_embeddings
        else:
            model, kind, longest = {"shape": invented_shape(rng)}, "llama", 8192
        shape = {"family": kind, "longest": min(LIMITS["seq_len"][1], longest)}
        asked.append({**model, "settings": random_settings(rng, shape)})
    return asked


def answer(question):
    "The bytes that a simulation says."
    from transformers import AutoConfig

    from tinyforge.memory.estimate import estimate_memory

    model = question.get("name")
    if not model:
        shape = {"max_position_embeddings": 8192, **question["shape"]}
        model = AutoConfig.for_model("llama", **shape)
    report = estimate_memory(model, **question["settings"])
    return {**question, "peak": report.peak, "kinds": list(report.kinds.values())}


def checks():
    "Simulate all, and record after every tenth."
    rows = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    for i, question in enumerate(questions()):
        if i < len(rows):
            continue
        rows.append(answer(question))
        if i % 10 == 9:
            lines = ",\n".join(json.dumps(row) for row in rows)
            RECORDED.write_text(f"[\n{lines}\n]\n")
            print(i + 1, flush=True)


def table():
    "Make the table that ships."
    from tinyforge.memory.tabulate import make_table

    written = json.dumps(make_table(), separators=(",", ":"))
    TABLE.write_text(f"{written}\n", encoding="utf-8")


def errors():
    "How far the table is from what was recorded, in percent."
    from tinyforge.memory.calculator import from_table

    far = []
    for row in json.loads(RECORDED.read_text(encoding="utf-8")):
        model = row.get("name") or row["shape"]
        quick = sum(from_table(model, **row["settings"]).values())
        far.append(100 * abs(quick / row["peak"] - 1))
    print(f"{len(far)} settings: {fmean(far):.3f} % on average, {max(far):.2f} % at most")


def main():
    ways = {"checks": checks, "table": table, "errors": errors}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=ways)
    ways[parser.parse_args().what]()


if __name__ == "__main__":
    main()
