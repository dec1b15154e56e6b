"""What a run card foresees, beside what the runs took.

    # writes benchmarks/results/run_card_cpu.json; what is in it already is not run again
    python benchmarks/run_card.py --real FOLDER      # python tools/real_model.py makes one
    python benchmarks/run_card.py --real FOLDER --names base-21 real-21  # some of them
    python benchmarks/run_card.py --show             # the errors of what is there

The configurations are drawn at random, by a seed: model, rank, targets, micro-batch,
accumulation, lengths of the rows and their spread, checkpointing, dropout, all weights or an
adapter, held-out rows, threads. None of them was used to make the rules of
`tinyforge.memory.process` and `tinyforge.training.forecast`; those eighteen had other seeds.
When the errors of numbers below 41 had been seen, one rule was changed: short runs are watched
for longer. The others were drawn afterwards. Models: SmolLM2-135M-Instruct with its own
weights, the shipped base, and shapes of Llama, Qwen2 and GPT-2 with random weights. Rows are
random words.

Each run is `RealTrainer.train` in a process of its own, in float32. Foreseen and taken are as
in its `TrainResult`. Memory is the peak of the process, as the system counts it (ru_maxrss).
Time is that of the processor, since other programs were at work on the same machine; what the
clock said stands beside it. Its error is counted twice: of the whole run, and of what was
left when the time was foreseen, which is stricter.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import torch
from filelock import FileLock

from machine import machine

OUT = Path(__file__).parent / "results" / "run_card_cpu.json"
NUMBERS = {
    "real": [n for n in range(21, 33) if n != 31],  # it showed what a rule lacked
    "base": [*range(21, 31), *range(41, 51)],
    "shape": [*range(21, 33), *range(41, 53)],
}
TOKENS = {"real": 1000, "base": 8000, "shape": 4000}  # of a run, about
WORDS = "the of and to in is was for on as with by at from his her they were which this have"


def drawn(name):
    "A configuration, by its name."
    kind, number = name.split("-")
    chance = random.Random(f"run card {name}")
    mean_length = chance.choice({"base": (30, 50, 80)}.get(kind, (40, 80, 120)))
    batch = chance.choice((1, 2, 4) if kind == "real" else (1, 2, 4, 8))
    accumulation = chance.choice((1, 1, 1, 2))
    rank = chance.choice((2, 4, 8, 16, 32))
    settings = {
        "lora_r": rank,
        "lora_alpha": 2 * rank,
        "batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": chance.random() < 0.2,
        "lora_dropout": chance.choice((0.0, 0.0, 0.0, 0.1)),
        "lora_target_modules": chance.choice(("all-linear", "all-linear", "attention", "mlp")),
        "eval_fraction": chance.choice((0.0, 0.0, 0.0, 0.1)),
        "learning_rate": 1e-4,
        "num_epochs": 1,
        "max_length": 1024,
        "seed": int(number),
    }
    if kind != "real" and chance.random() < 0.2:
        settings = {**settings, "use_lora": False, "lora_dropout": 0.0}
    rows = max(6 * batch * accumulation, TOKENS[kind] // mean_length)
    return {
        "model": chance.choice(("llama", "qwen2", "gpt2")) if kind == "shape" else kind,
        "width": chance.choice((128, 192, 256, 384)),
        "layers": chance.choice((3, 6, 10, 14)),
        "tokenizer": chance.choice(("base", "base", "real")),
        "mean_length": mean_length,
        "spread": chance.choice((0.1, 0.3, 0.6)),
        "rows": rows,
        "threads": chance.choice((1, 1, 2)),
        "settings": settings,
    }


def make_shape(about, real, folder):
    "A model with random weights, and a tokenizer."
    from tinyforge.models.loading import load_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    tok = load_tokenizer(real) if about["tokenizer"] == "real" else load_tokenizer()
    width, layers, heads = about["width"], about["layers"], about["width"] // 32
    shape = dict(vocab_size=len(tok), eos_token_id=tok.eos_token_id, bos_token_id=None)
    if about["model"] == "gpt2":
        shape |= dict(n_embd=width, n_layer=layers, n_head=heads, n_positions=1024)
    else:
        shape |= dict(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=1024,
        )
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(about["model"], **shape))
    made.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def make_rows(about, path):
    "A file of questions and answers of random words."
    chance = random.Random(f"rows {about['settings']['seed']}")
    words = WORDS.split()

    def text():
        length = about["mean_length"] / 2 * chance.lognormvariate(0, about["spread"])
        return " ".join(chance.choices(words, k=min(400, max(2, round(length)))))

    rows = [{"prompt": text(), "completion": text()} for _ in range(about["rows"])]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def one(about, place, rows, folder):
    "Foreseen and taken of a run, in this process."
    torch.set_num_threads(about["threads"])
    from tinyforge import RealTrainer, TrainingConfig

    config = TrainingConfig(model_name=place, output_dir=folder, **about["settings"])
    result = RealTrainer(config).train(rows, show=False)
    return {
        "foreseen": result.foreseen,
        "taken": result.taken,
        "steps": result.steps,
        "tokens": round(result.tokens_per_second * result.seconds),
        "batching": result.batching,
    }


def in_a_process(name, real):
    "A run, in a process of its own."
    about = drawn(name)
    with tempfile.TemporaryDirectory() as folder:
        rows, out = Path(folder, "rows.jsonl"), f"{folder}/result"
        make_rows(about, rows)
        place = {"real": real, "base": "tinyforge-base"}.get(about["model"])
        place = place or make_shape(about, real, f"{folder}/model")
        given = json.dumps([about, str(place), str(rows), out])
        command = [sys.executable, __file__, "--one", given]
        # a thread that waits for another does not use its processor up meanwhile
        waits = {**os.environ, "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
        ran = subprocess.run(command, capture_output=True, text=True, env=waits)
    found = re.search(r"^RESULT (.*)", ran.stdout, re.M)
    if not found:
        raise RuntimeError(f"{name}: {ran.stderr[-2000:]}")
    return {"name": name, **about, **json.loads(found[1])}


def off(row, what):
    "How far a figure was off, in percent of what was taken."
    return 100 * (row["foreseen"][what] / row["taken"][what] - 1)


def off_of_rest(row, what):
    "The same for a time, of what was left when it was foreseen."
    miss = row["foreseen"][what] - row["taken"][what]
    return 100 * miss / (row["taken"][what] - row["foreseen"][f"{what}_known_after"])


def errors(rows):
    "Of each figure: on average, the largest, the farthest below."
    found = {}
    for name, of, what in (
        ("memory", off, "peak"),
        ("disk", off, "disk"),
        ("time", off, "cpu_seconds"),
        ("time left", off_of_rest, "cpu_seconds"),
        ("time on the clock", off, "seconds"),
    ):
        all_of_them = [of(row, what) for row in rows]
        found[name] = {
            "mean": round(mean(map(abs, all_of_them)), 2),
            "largest": round(max(map(abs, all_of_them)), 2),
            "below": round(-min(0, *all_of_them), 2),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [f"{kind}-{n}" for kind, numbers in NUMBERS.items() for n in numbers]
    parser.add_argument("--real", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--names", nargs="+", default=names)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("RESULT", json.dumps(one(*json.loads(given.one))))
        return
    if not given.real and not given.show:
        parser.error("the real model needs --real; python tools/real_model.py makes a folder")

    def there():
        return json.loads(given.out.read_text())["rows"] if given.out.exists() else []

    for name in [] if given.show else given.names:
        if any(row["name"] == name for row in there()):
            continue
        row = in_a_process(name, given.real)
        said = {what: round(off(row, what), 1) for what in ("peak", "cpu_seconds", "disk")}
        print(name, said, flush=True)
        with FileLock(f"{given.out}.lock"):
            rows = [*there(), row]
            rows.sort(key=lambda r: names.index(r["name"]))
            about = {**machine("cpu"), "errors": errors(rows), "rows": rows}
            given.out.write_text(json.dumps(about, indent=1) + "\n")
    for name, found in errors(there()).items():
        print(f"{name:18}", found)


if __name__ == "__main__":
    main()
