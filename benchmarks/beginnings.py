"""What it saves to compute the beginnings that examples share once.

    # writes benchmarks/results/beginnings_cpu.json
    python benchmarks/beginnings.py --real FOLDER    # python tools/real_model.py makes one
    python benchmarks/beginnings.py --cases base-one --rounds 1     # to see that it runs

The same training (`RealTrainer.train` on a JSONL file, LoRA r=16 on all linears, float32)
with shared beginnings and without: the flattened row with attention by example. Both take
turns, each in a process of its own; the losses of their steps are compared.

one      300 tokens that all examples share, 60 of their own (20 asked, 40 answered), batch 8.
two      200 tokens that all share, and 200 that half of them share each, 40 of their own (20
         asked, 20 answered), batch 16.
prompt   as `one`, with the prompt trained too: shared tokens have labels.
nothing  the same lengths as `one`, and nothing shared.

Words are random, one token each; every step has other ones. Seconds are those of the steps
after the first. Memory is the most that is resident in training, above what is when it begins.
The real model recomputes its blocks (gradient_checkpointing) in `two`, in both arms: without
it 7,040 tokens do not fit into 16 GB.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from machine import machine
from tinyforge.compute.beginnings import SHARED, Sharing
from tinyforge.models.loading import load_tokenizer
from tinyforge.models.names import BASE
from tinyforge.training import tuning
from tinyforge.training.config import TrainingConfig
from tinyforge.training.trainer import RealTrainer
from training import Meter

ARMS = ("flattened", "shared")
UNCOUNTED = 1  # steps; the first one is longer than others


@dataclass(frozen=True)
class Case:
    "What is trained on what."

    model: str  # base or real
    shared: tuple[int, ...]  # tokens of each level; each level below the first is halved
    asked: int  # tokens of one's own
    answered: int
    batch_size: int
    steps: int  # that are counted
    on_prompt: bool = False
    checkpointing: bool = False


CASES = {
    "base-one": Case("base", (300,), 20, 40, 8, 6),
    "base-two": Case("base", (200, 200), 20, 20, 16, 4),
    "base-prompt": Case("base", (300,), 20, 40, 8, 6, on_prompt=True),
    "base-nothing": Case("base", (), 320, 40, 8, 10),
    "real-one": Case("real", (300,), 20, 40, 8, 1),
    "real-two": Case("real", (200, 200), 20, 20, 16, 1, checkpointing=True),
    "real-nothing": Case("real", (), 320, 40, 8, 1),
}
TARGETS = {  # times faster at least; memory at most
    "one": (3, 0.4),
    "two": (4, None),
    "nothing": (1 / 1.01, None),
}


def make_rows(case, place):
    "Lines of a JSONL file, in an order in which each half of a batch shares its second level."
    draw = random.Random(0)
    vocabulary = load_tokenizer(place).get_vocab()
    words = sorted(w[1:] for w in vocabulary if re.fullmatch("Ġ[a-z]+", w))

    def text(length):
        return "".join(" " + word for word in draw.choices(words, k=length))

    count = (UNCOUNTED + case.steps) * case.batch_size
    beginnings = [text(case.shared[0]) if case.shared else ""] * 2
    for length in case.shared[1:]:
        beginnings = [begun + text(length) for begun in beginnings]
    for n in range(count):
        prompt = beginnings[n % 2] + text(case.asked)
        yield json.dumps({"prompt": prompt, "completion": text(case.answered - 1)})


def one(arm, name, place, data, threads):
    "One training, in this process."
    torch.set_num_threads(threads)
    case = CASES[name]
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = TrainingConfig(
            model_name=place,
            output_dir=f"{folder}/adapter",
            lora_r=16,
            num_epochs=1,
            batch_size=case.batch_size,
            train_on_prompt=case.on_prompt,
            gradient_checkpointing=case.checkpointing,
            trainer_args={"logging_steps": 1, "lr_scheduler_type": "constant"},
        )
        if arm == "flattened":
            nothing = patch.object(tuning, "choose_sharing", lambda *args: Sharing())
            stack.enter_context(nothing)
        result = RealTrainer(config, callbacks=[meter]).train(data, show=False)
    (cpu, wall), (end_cpu, end_wall) = meter.at[UNCOUNTED - 1], meter.at[-1]
    return {
        "cpu_seconds": (end_cpu - cpu) / case.steps,
        "wall_seconds": (end_wall - wall) / case.steps,
        "memory": meter.peak - meter.start,
        "losses": [loss for _, loss in result.losses],
        "used": result.used,
    }


def in_a_process(*given):
    "The same in a process of its own."
    command = [sys.executable, __file__, "--one", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def summary(name, rounds):
    "Medians of each arm, and of the ratios of each round."

    def ratios(what):
        return [turn["flattened"][what] / turn["shared"][what] for turn in rounds]

    kind = name.split("-")[1]
    faster, memory = TARGETS.get(kind, (None, None))
    pairs = [zip(turn["flattened"]["losses"], turn["shared"]["losses"]) for turn in rounds]
    return {
        **{
            arm: {
                what: median(turn[arm][what] for turn in rounds)
                for what in ("cpu_seconds", "wall_seconds", "memory")
            }
            for arm in ARMS
        },
        "times_faster_cpu": median(ratios("cpu_seconds")),
        "times_faster_wall": median(ratios("wall_seconds")),
        "spread_cpu": [min(ratios("cpu_seconds")), max(ratios("cpu_seconds"))],
        "memory_share": 1 / median(ratios("memory")),
        "target_times_faster": faster,
        "target_memory_share": memory,
        "largest_difference_of_a_loss": max(abs(a - b) for pair in pairs for a, b in pair),
        "shares": SHARED in rounds[0]["shared"]["used"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--real", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "beginnings_cpu.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*json.loads(given.one))))
        return
    if not given.real and any(CASES[name].model == "real" for name in given.cases):
        parser.error("the real model needs --real; python tools/real_model.py makes a folder")
    places = {"base": BASE, "real": given.real}
    found = json.loads(given.out.read_text()) if given.out.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.cases:
            case, data = CASES[name], Path(folder, f"{name}.jsonl")
            place = str(places[case.model])
            data.write_text("\n".join(make_rows(case, place)) + "\n")
            rounds = []
            for number in range(given.rounds):
                turn = {}
                for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
                    turn[arm] = in_a_process(arm, name, place, str(data), given.threads)
                    said = f"{turn[arm]['cpu_seconds']:.2f} CPU s a step"
                    memory = f"{turn[arm]['memory'] / 1e6:,.0f} MB"
                    print(name, number, arm, said, memory, flush=True)
                rounds.append(turn)
            known = {"rounds": given.rounds, "threads": given.threads, **machine("cpu")}
            found["cases"][name] = {**asdict(case), **known, **summary(name, rounds)}
            faster = found["cases"][name]["times_faster_cpu"]
            share = found["cases"][name]["memory_share"]
            print(f"{name}: {faster:.2f} times faster, {share:.2f} of the memory\n")
            given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
