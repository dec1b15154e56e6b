"""What the guide "Claims, checked" needs and settings.py does not try.

    python benchmarks/claims.py                        # all parts: a quarter of an hour
    python benchmarks/claims.py speed --real FOLDER    # one part, with SmolLM2-135M-Instruct

`trained` makes LoRA, LoRA on four bits and full fine-tuning with three seeds each, and asks
the results further: how their weights changed, whether a merge or a sum loses anything.
`speed` times training steps and answers in turns, in CPU seconds. Everything is kept as it
ends, in benchmarks/results/claims.json, and a second call goes on from there.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from machine import machine
from peft import LoraConfig, get_peft_model
from settings import SHIPPED, name_of, rows_of, text_loss, untrained_loss
from tinyforge import (
    Adapters,
    RealTrainer,
    TrainingConfig,
    load_base,
    merge_adapter,
    read_adapter,
)
from tinyforge.adapters.combining import combine_into
from transformers import TrainerCallback

RESULT = Path(__file__).parent / "results" / "claims.json"
SEEDS = range(3)
LORA = {"lora_r": 8, "lora_alpha": 16, "learning_rate": 8e-3}
WAYS = {  # name -> data set, settings
    "lora": ("customer_support", LORA),
    "four_bits": ("customer_support", {**LORA, "load_in_4bit": True}),
    "code": ("code_helper", LORA),
    "full": ("customer_support", {"use_lora": False, "learning_rate": 1e-3}),
}
TOP, NEAR = 10, 0.5  # singular vectors looked at, and the cosine of an old one (2410.21228)
ROUNDS = 7


def trained(way, seed, folder):
    "A trainer after its training, and what came of it."
    data, settings = WAYS[way]
    config = TrainingConfig(
        output_dir=str(folder),
        num_epochs=5,
        batch_size=8,
        seed=seed,
        trainer_args={"adam_beta2": 0.9},
        **settings,
    )
    trainer = RealTrainer(config)
    result = trainer.train(rows_of(data, "train"), show=False)
    return trainer, {"trained": result.trainable_parameters, **asked(trainer, data)}


def asked(trainer, data="customer_support"):
    "Held-out loss and exact answers, and what was forgotten of the base's own text."
    report = trainer.evaluate(rows_of(data, "heldout"))
    forgotten = text_loss(trainer.model, SHIPPED) - untrained_loss(SHIPPED)
    return {"loss": report.loss, "exact": report.exact_match, "forgotten": forgotten}


def matrices(model):
    "The weights of the blocks' linear layers, by layer."
    return {
        name.removesuffix(".weight"): weight.detach().clone()
        for name, weight in model.named_parameters()
        if name.endswith("proj.weight")
    }


def updates(way, trainer, folder):
    "What a training added to each matrix."
    old = matrices(load_base())
    if way == "full":
        return {name: new - old[name] for name, new in matrices(trainer.model).items()}
    return {name: f.delta() for name, f in read_adapter(folder).factors.items()}


def intruders(old, update):
    "How many of the largest left singular vectors of a changed weight are far from all old."
    before, *_ = torch.linalg.svd(old)
    after, *_ = torch.linalg.svd(old + update)
    return int(((after[:, :TOP].T @ before).abs().amax(1) < NEAR).sum())


def shape_of(changes):
    "How a training changed the matrices: means over them."
    old = matrices(load_base())
    values = {name: torch.linalg.svdvals(change) for name, change in changes.items()}
    held = [(s[:8].square().sum() / s.square().sum()).item() for s in values.values()]
    sizes = [(change.norm() / old[name].norm()).item() for name, change in changes.items()]
    found = [intruders(old[name], change) for name, change in changes.items()]
    return {
        "matrices": len(changes),
        "intruders": found,
        "held_by_rank_8": sum(held) / len(held),
        "size_of_weights": sum(sizes) / len(sizes),
    }


def merged(folder, dtype, place):
    "An adapter merged into weights of one type, and asked."
    report = merge_adapter(folder, place, dtype=dtype)
    config = TrainingConfig(model_name=str(place), output_dir=str(place) + "-unused")
    trainer = RealTrainer(config)
    answered = trainer.evaluate(rows_of("customer_support", "heldout"))
    return {
        "difference": report.difference,
        "largest": report.largest,
        "of_update": report.of_update,
        "saved_bytes": report.saved_bytes,
        "loss": answered.loss,
        "exact": answered.exact_match,
    }


def added(folders, place):
    "The sum of two adapters, asked for what each of them knows; and a mean of them."
    found = {}
    for name, weight in {"sum": 1.0, "mean": 0.5}.items():
        made = combine_into(place / name, {folder: weight for folder in folders})
        trainer = RealTrainer(TrainingConfig(output_dir=str(place / "unused")))
        trainer.load_lora(place / name)
        found[name] = {
            "error": made.error,
            "support": asked(trainer),
            "code": asked(trainer, "code_helper"),
        }
    return found


def of_seed(seed, keep):
    "All trainings of one seed, and what is asked of them."
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for way in WAYS:
            trainer, row = trained(way, seed, place / way)
            if way in ("lora", "full"):
                row |= shape_of(updates(way, trainer, place / way))
            keep({"way": way, "seed": seed, **row})
        for dtype in ("float32", "bfloat16"):
            row = merged(place / "lora", dtype, place / f"merged-{dtype}")
            keep({"way": f"merged_{dtype}", "seed": seed, **row})
        row = added([place / "lora", place / "code"], place)
        keep({"way": "added", "seed": seed, **row})


def stamper(stamps):
    "A callback that notes the CPU time after each step."

    class Stamper(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            stamps.append(time.process_time())

    return Stamper()


def step_seconds(model, rows, folder, **settings):
    "CPU seconds of a training step, of the second half of a short training."
    stamps = []
    config = TrainingConfig(
        model_name=model,
        output_dir=str(folder),
        num_epochs=1,
        batch_size=4,
        learning_rate=1e-4,
        overwrite_output_dir=True,
        **settings,
    )
    RealTrainer(config, callbacks=[stamper(stamps)]).train(rows, show=False)
    counted = stamps[len(stamps) // 2 :]
    return (counted[-1] - counted[0]) / (len(counted) - 1)


def with_random_adapter(model, folder):
    "PEFT's model with an adapter beside every linear layer of the blocks, B drawn by lot."
    settings = {"r": 8, "target_modules": "all-linear", "init_lora_weights": False}
    torch.manual_seed(0)
    wrapped = get_peft_model(load_base(model), LoraConfig(**settings))
    wrapped.save_pretrained(folder)
    return wrapped


@torch.no_grad()
def answer_seconds(model, tokens):
    "CPU seconds of one forward pass over so many tokens."
    ids = torch.randint(1000, (1, tokens), generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    model(ids, use_cache=False)
    return time.process_time() - start


def training_speed(model):
    "CPU seconds of training steps, three times each in turns."
    rows = rows_of("customer_support", "train")[: 64 if model == SHIPPED else 32]
    ways = {"lora": {}, "full": {"use_lora": False}, "four_bits": {"load_in_4bit": True}}
    seconds = {way: [] for way in ways}
    for _ in range(3):
        for way, settings in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder, way)
                seconds[way].append(step_seconds(model, rows, place, **settings))
    return seconds


def answering_speed(model):
    "CPU seconds of forward passes, in turns. A merged model computes what the base does."
    with tempfile.TemporaryDirectory() as folder:
        wrapped = with_random_adapter(model, folder)
        store = Adapters(load_base(model))
        store.add(read_adapter(folder), "random", Path(folder))
    store.use("random")
    forms = {"merged": load_base(model), "adapter": store.model, "peft": wrapped}
    seconds = {tokens: {form: [] for form in forms} for tokens in (1, 64)}
    for turn in range(ROUNDS + 1):
        for tokens in seconds:
            for form, its in forms.items():
                taken = answer_seconds(its.eval(), tokens)
                if turn:  # the first warms up
                    seconds[tokens][form].append(taken)
    return seconds


def kept(path):
    "The rows of a file."
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="trained, speed")
    parser.add_argument("--real", help="folder of SmolLM2-135M-Instruct, for speed")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    rows, parts = kept(given.output), given.parts or ["trained", "speed"]
    torch.set_num_threads(1)

    def keep(row):
        same = [r for r in rows if r["way"] == row["way"] and r.get("seed") == row.get("seed")]
        for old in same:
            if old.get("model") == row.get("model"):
                rows.remove(old)
        rows.append(row)
        content = {**machine("cpu", "bitsandbytes"), "rows": rows}
        given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print({k: v for k, v in row.items() if not isinstance(v, dict)}, flush=True)

    done = {row["seed"] for row in rows if row["way"] == "added"}  # the last of a seed
    for seed in SEEDS if "trained" in parts else ():
        if seed not in done:
            of_seed(seed, keep)
    for model in filter(None, [SHIPPED, given.real] if "speed" in parts else ()):
        name = name_of({"model": model})["model"]
        keep({"way": "training_speed", "model": name, "seconds": training_speed(model)})
        keep({"way": "answering_speed", "model": name, "seconds": answering_speed(model)})


if __name__ == "__main__":
    main()
