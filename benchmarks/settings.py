"""What the settings of a training do: many small ones, each asked what it never saw.

    python benchmarks/settings.py                      # all studies on the shipped base: hours
    python benchmarks/settings.py rank alpha           # two of them
    python benchmarks/settings.py real --model FOLDER  # a small grid on SmolLM2-135M-Instruct
    python benchmarks/settings.py --list               # the studies, and their numbers of runs

Every run is a whole training with RealTrainer. It is measured by three figures: the loss on
wordings of its questions that were held out, the share of these that it answers to the letter,
and by how much its loss on other text rose (what it forgot). Runs are kept as they end, in
benchmarks/results/settings.json; a second call goes on where the first was stopped. A run that
ends in an error is kept with what was said.

The text that a model may forget is, for the shipped base, new documents of the corpus that it
was pre-trained on; for another model, docstrings of Python's own library.
"""

import argparse
import inspect
import itertools
import json
import multiprocessing
import os
import random
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path

import tinyforge
import torch
from machine import machine
from tinyforge import RealTrainer, TrainingConfig, dataset
from tinyforge.compute.head import token_losses
from tinyforge.errors import TinyforgeError
from tinyforge.learn.corpus import Lexicon, World, documents
from tinyforge.learn.pretraining import token_rows
from tinyforge.models.loading import load_base, load_tokenizer

RESULTS = Path(__file__).parent / "results"
SHIPPED = "tinyforge-base"

# what a run does where its study says nothing else
USUAL = {
    "model": SHIPPED,
    "data": "customer_support",
    "answers": None,  # how many of the answers are trained; None: all of them
    "wordings": None,  # how many wordings of each question are trained; None: all of them
    "use_lora": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "learning_rate": 4e-3,
    "num_epochs": 5,
    "batch_size": 8,
}  # and AdamW's beta2 is 0.9: few steps follow one another
RATES = [5e-4 * 2**i for i in range(7)]  # 0.0005 to 0.032
FULL_RATES = [1.25e-4 * 2**i for i in range(8)]  # 0.000125 to 0.016
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
FIGURES = "loss exact train_loss steps trained forgotten cpu_seconds error".split()
# modules of Python whose docstrings are prose
PROSE = ("cmd", "configparser", "csv", "json", "pdb", "re", "shelve", "site", "socketserver")
REAL = {"answers": 8, "num_epochs": 3, "batch_size": 4}  # the real model is larger


def over(**choices):
    "Every combination of some settings' values."
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


def scaled(ranks, rates, alpha):
    "Ranks and rates, with alpha as a function of the rank."
    return [
        {"lora_r": r, "lora_alpha": alpha(r), "learning_rate": rate}
        for r in ranks
        for rate in rates
    ]


def twice(rank):
    "The alpha of most runs."
    return 2 * rank


def full(rates, **others):
    "Full fine-tuning at some rates."
    none = {"use_lora": False, "lora_r": None, "lora_alpha": None}
    return [{**none, "learning_rate": rate, **others} for rate in rates]


def same_count():
    "Targets with as many trained numbers as rank 12 has on all linear layers."
    targets = {42: ["q_proj", "v_proj"], 21: ATTENTION, 28: MLP, 12: "all-linear"}
    return [
        {"lora_r": r, "lora_alpha": 2 * r, "lora_target_modules": names, "learning_rate": rate}
        for r, names in targets.items()
        for rate in RATES[2:7]
    ]


def methods():
    "DoRA and LoRA+ at several rates; LoRA itself is in the study of ranks."
    return [
        *over(use_dora=[True], learning_rate=RATES[3:7]),
        *over(loraplus_lr_ratio=[4, 16], learning_rate=RATES[1:5]),
    ]


def against_full():
    "LoRA and full fine-tuning to the end, on all three data sets; asks for five seeds."
    long = {"num_epochs": 10}
    return [
        run
        for name in ("customer_support", "code_helper", "medical_qa")
        for run in (
            {**long, "data": name, "lora_r": 32, "lora_alpha": 64},
            *full([1e-3], data=name, **long),
        )
    ]


def by_heart():
    "Facts that can only be learned by heart, at three rates for each rank."
    long = {"num_epochs": 20, "batch_size": 16, "data": "facts-256"}
    rates = {1: RATES[3:6], 8: RATES[2:5], 64: RATES[:4]}
    lora = [run for r in rates for run in scaled((r,), rates[r], twice)]
    return [*({**long, **run} for run in lora), *full([5e-4, 1e-3], **long)]


def on_the_others(rates, full_rates):
    "LoRA and full fine-tuning on the other two data sets."
    names = ["code_helper", "medical_qa"]
    lora = over(data=names, learning_rate=rates)
    return [*lora, *(run for name in names for run in full(full_rates, data=name))]


# name -> settings of its runs; each is run with every seed
STUDIES = {
    "rank": [
        *scaled((1, 4, 8, 32, 64), RATES, twice),
        *scaled((1,), (6.4e-2,), twice),
    ],
    "full": full(FULL_RATES),
    "alpha": [
        *over(lora_alpha=[4, 64], learning_rate=RATES[1:7]),
        *over(lora_alpha=[4], learning_rate=[6.4e-2]),
    ],
    "targets": same_count(),
    "batch": over(batch_size=[4, 32], learning_rate=RATES[2:7]),
    "dropout": over(lora_dropout=[0.1, 0.3], learning_rate=[4e-3, 8e-3]),
    "epochs": over(num_epochs=[1, 2.5, 10, 20]),
    "wordings": [  # the same number of steps, whatever there is to see
        {"wordings": n, "num_epochs": 45 / n} for n in (1, 3, 5, 9)
    ],
    "constant_alpha": scaled((1, 64), RATES[2:7], lambda r: 16),
    "rslora": [
        {**run, "use_rslora": True} for run in scaled((1, 64), RATES[2:6], lambda r: 16)
    ],
    "data": on_the_others(RATES[3:6], FULL_RATES[3:6]),
    "methods": methods(),
    "beta2": over(adam_beta2=[0.99, 0.999], learning_rate=RATES[3:7]),
    "against_full": against_full(),
    "by_heart": by_heart(),
    "real": [
        {**REAL, **run}
        for run in [
            *scaled((2,), RATES[2:6], twice),
            *scaled((8,), RATES[:6], twice),
            *scaled((32,), RATES[:5], twice),
            *({**run, "adam_beta2": 0.999} for run in scaled((32,), RATES[1:4], twice)),
            *full((1e-4, 2e-4, 4e-4)),
        ]
    ],
}


def key_of(run):
    "What tells a run from the others: its settings and its seed."
    return json.dumps(run, sort_keys=True)


def runs_of(studies, seeds, model=SHIPPED):
    "The runs of some studies, seed by seed, none of them twice."
    runs = {}
    for seed, study in itertools.product(range(seeds), studies):
        base = model if study == "real" else SHIPPED
        for settings in STUDIES[study]:
            run = {**USUAL, "model": base, **settings, "seed": seed}
            runs[key_of(run)] = run
    return list(runs.values())


def facts(count):
    "Rows that nothing can be guessed from: the numbers of made-up names."
    rng = random.Random(count)
    names = set()
    while len(names) < count:
        syllables = (rng.choice("BDFGKLMNPRSTVZ") + rng.choice("aeiou") for _ in range(3))
        names.add("".join(syllables).capitalize())
    return [
        {"input": f"What is the number of {name}?", "output": str(rng.randrange(10**4, 10**5))}
        for name in sorted(names)
    ]


def rows_of(name, part, answers=None, wordings=None):
    "Rows of a shipped data set: of its first answers, each with its first wordings."
    if name.startswith("facts-"):
        return facts(int(name.partition("-")[2]))  # asked again as they were trained
    lines = dataset(name, part).read_text(encoding="utf-8").splitlines()
    by_answer = {}
    for row in map(json.loads, lines):
        by_answer.setdefault(row["output"], []).append(row)
    kept = itertools.islice(by_answer.values(), answers)
    return [row for rows in kept for row in rows[:wordings]]


@cache
def corpus_text(tokenizer, rows=64, length=128):
    "New documents of the shipped base's corpus, as rows of token ids (rows, length + 1)."
    words = Path(tinyforge.__file__).parent / "learn" / "words"
    world = World(Lexicon(words / "lexicon.txt"), words / "frames.txt")
    made = token_rows(documents(world, seed=2026), tokenizer, length)
    return torch.tensor([next(made) for _ in range(rows)])


@cache
def python_text(tokenizer, rows=16, length=256):
    "Docstrings of Python's library, as rows of token ids (rows, length + 1)."
    texts = [inspect.cleandoc(import_module(name).__doc__) for name in PROSE]
    ids = tokenizer("\n\n".join(texts))["input_ids"][: rows * (length + 1)]
    return torch.tensor(ids).reshape(rows, length + 1)


@torch.no_grad()
def text_loss(model, base):
    "Nats per token on text that has nothing to do with the training."
    text = (corpus_text if base == SHIPPED else python_text)(tokenizer_of(base))
    model.eval()
    losses = [
        token_losses(model, {"input_ids": rows[:, :-1], "labels": rows[:, 1:]})
        for rows in text.split(4)
    ]
    return torch.cat(losses).mean().item()


@cache
def tokenizer_of(base):
    return load_tokenizer(base)


@cache
def untrained_loss(base):
    "Of the base itself, on the same text."
    return text_loss(load_base(base), base)


def configuration(run, folder):
    "The settings of a run as RealTrainer takes them."
    ours = ("model", "data", "answers", "wordings", "adam_beta2")
    given = {name: value for name, value in run.items() if name not in ours}
    return TrainingConfig(
        model_name=run["model"],
        output_dir=folder,
        trainer_args={"adam_beta2": run.get("adam_beta2", 0.9)},
        **{name: value for name, value in given.items() if value is not None},
    )


def measured(run):
    "Train once; what became of it."
    start = time.process_time()
    choice = {"answers": run["answers"]}
    rows = rows_of(run["data"], "train", wordings=run["wordings"], **choice)
    held_out = rows_of(run["data"], "heldout", **choice)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RealTrainer(configuration(run, os.path.join(folder, "result")))
        try:
            result = trainer.train(rows, show=False)
        except TinyforgeError as e:
            return {"error": e.what}
        report = trainer.evaluate(held_out)
        base = run["model"]
        forgotten = text_loss(trainer.model, base) - untrained_loss(base)
        return {
            "loss": report.loss,
            "exact": report.exact_match,
            "train_loss": result.final_loss,
            "steps": result.steps,
            "trained": result.trainable_parameters,
            "forgotten": forgotten,
            "cpu_seconds": round(time.process_time() - start, 1),
        }


def finished(run):
    "A run with its figures, in a process that has one thread."
    torch.set_num_threads(1)
    return {**run, **measured(run)}


def kept(path):
    "The runs that a file holds."
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def settings_of(entry):
    "The settings of a finished run."
    return {name: value for name, value in entry.items() if name not in FIGURES}


def name_of(run):
    "A model as the file names it: no folder of this machine."
    return {**run, "model": Path(run["model"]).name}


def save(path, runs):
    "Write the file whole, or not at all."
    content = {**machine("cpu"), "usual": USUAL, "runs": runs}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def go(runs, path, workers):
    "Run what is not in the file yet, and keep each run as it ends."
    runs_there = kept(path)
    known = {key_of(settings_of(entry)) for entry in runs_there}
    left = [run for run in runs if key_of(name_of(run)) not in known]
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them there")
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, maxtasksperchild=20) as pool:
        for done, entry in enumerate(pool.imap_unordered(finished, left), 1):
            runs_there.append(name_of(entry))
            save(path, runs_there)
            line = {name: entry.get(name) for name in FIGURES if name in entry}
            print(f"{done}/{len(left)}", changed(entry), line, flush=True)


def changed(entry):
    "What a run does otherwise than usual."
    settings = settings_of(entry)
    return {name: value for name, value in settings.items() if USUAL.get(name, None) != value}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", help="folder of SmolLM2-135M-Instruct, for the study real")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--output", type=Path, default=RESULTS / "settings.json")
    parser.add_argument("--list", action="store_true", help="name the studies, and run none")
    given = parser.parse_args()
    unknown = sorted(set(given.studies) - set(STUDIES))
    if unknown:
        parser.error(f"no study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    if "real" in given.studies and not given.model:
        parser.error("the study real needs --model; python tools/real_model.py makes one")
    studies = given.studies or [name for name in STUDIES if name != "real"]
    if given.list:
        for name in STUDIES:
            print(f"{name:15} {len(STUDIES[name])} runs a seed")
        return
    go(runs_of(studies, given.seeds, given.model), given.output, given.workers)


if __name__ == "__main__":
    main()
