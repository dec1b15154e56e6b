"""The engine of `tinyforge serve` under load: a hundred adapters, a thousand requests.

    # writes benchmarks/results/serving_cpu.json
    python benchmarks/serving.py
    # a tenth of it, nothing written: to see that it runs
    python benchmarks/serving.py --quick

The base is the shipped one, in float32; adapters are random numbers, r=8, on all linear layers
(size 3, so that each says something else). No HTTP: what is measured is the engine.

equal    1,000 requests over 100 adapters and five questions, 4 to 32 tokens each, all sent at
         once: none lost, each compared with `generate`, asked alone.
batch    16 requests of 40 tokens, end tokens off: of 16 adapters, of one, of the base. Arms
         take turns, in another order each round; CPU seconds, the median of the ratios.
flow     The 1,000 requests for one adapter only, and over 100: tokens a CPU second while rows
         join and leave.
first    Requests come at random times, as many a second as the engine can answer at 60 % of
         its flow: seconds to the first token, median and 95th percentile, by wall time.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from served import QUESTIONS, ask_all, write_adapters  # noqa: E402
from tinyforge import RealTrainer, TrainingConfig, load_base, read_adapter  # noqa: E402
from tinyforge.models.loading import LoadedBase  # noqa: E402
from tinyforge.serving.engine import Engine  # noqa: E402

RESULT = Path(__file__).parent / "results" / "serving_cpu.json"


def cpu(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(folder, keys, most, found):
    "How many answers are those of `generate`, asked alone."
    trainer, known = RealTrainer(TrainingConfig()), {}
    for (name, question), n, piece in zip(keys, most, found):
        if (name, question, n) not in known:
            trainer.load_lora(folder / name, name)
            known[name, question, n] = trainer.generate(question, max_new_tokens=n)
    rows = zip(keys, most, found)
    return sum(known[name, q, n] == piece.whole for (name, q), n, piece in rows)


def batch(ask, names, rounds):
    "CPU seconds of 16 requests, by arm."
    arms = {"mixed": names[:16], "one": names[:1] * 16, "base": [None] * 16}
    seconds = {arm: [] for arm in arms}
    for number in range(rounds + 1):
        order = list(arms)
        random.Random(number).shuffle(order)
        for arm in order:
            keys = [(name, QUESTIONS[i % 5]) for i, name in enumerate(arms[arm])]
            took, (found, _) = cpu(lambda: ask(keys, [40] * 16, endless=True))
            assert all(piece.tokens == 40 for piece in found)
            if number:
                seconds[arm].append(took)
    ratios = [a / b for a, b in zip(seconds["mixed"], seconds["one"])]
    return {
        "tokens_each": 40,
        "cpu_seconds": {arm: round(median(each), 4) for arm, each in seconds.items()},
        "mixed_over_one": round(median(ratios), 3),
        "rounds": rounds,
    }


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    many, rounds = (100, 3) if quick else (1000, 15)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    names = [f"adapter-{i:03}" for i in range(100)]
    write_adapters(folder, names, load_base(), r=8)
    engine = Engine(LoadedBase.load(), most_waiting=many)
    live = {name: engine.add(read_adapter(folder / name), name) for name in names}
    live[None] = engine.base
    ask, draw = partial(ask_all, engine, live), random.Random(0)
    keys = [(draw.choice(names), draw.choice(QUESTIONS)) for _ in range(many)]
    most = [draw.randint(4, 32) for _ in keys]
    result = {"batch": batch(ask, names, rounds)}
    flows = {}
    for arm, asked in (("one", [(names[0], q) for _, q in keys]), ("hundred", keys)):
        steps, rows = engine.counts.steps, engine.counts.rows
        took, (found, _) = cpu(lambda: ask(asked, most))
        tokens = sum(piece.tokens for piece in found)
        steps, rows = engine.counts.steps - steps, engine.counts.rows - rows
        flows[arm] = {
            "requests": len(found),
            "tokens": tokens,
            "tokens_a_cpu_second": round(tokens / took),
            "rows_a_step": round(rows / steps, 1),
        }
    result["flow"] = flows
    rate = 0.6 * flows["hundred"]["tokens_a_cpu_second"] * many / flows["hundred"]["tokens"]
    gaps = [draw.expovariate(rate) for _ in keys]
    _, first = ask(keys, most, gaps=gaps)
    result["first_token_seconds"] = {
        "requests_a_second": round(rate, 1),
        "median": round(median(first), 3),
        "percentile_95": round(percentile(first, 0.95), 3),
    }
    engine.close(1)
    result["equal"] = {"requests": many, "equal": compare(folder, keys, most, found)}
    result |= {"machine": machine("cpu"), "threads": 1, "most_rows": engine.most_rows}
    print(json.dumps(result, indent=1))
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
