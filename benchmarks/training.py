"""The same training through transformers' Trainer with PEFT, TRL, and Tinyforge.

And the least that it could take.

    # for that arm, which is left out where trl is missing; nothing else here needs it
    pip install trl
    # writes benchmarks/results/training_cpu.json, or training_cuda.json where there is a GPU
    python benchmarks/training.py
    python benchmarks/training.py --rounds 1 --steps 3 --layers 2    # to see that it runs

Model, token ids, labels, order of examples, batches, optimizer, schedule and the random start
of the adapter (all linear layers but the head, r=8, alpha=16) are the same in all arms; the
losses of their steps are compared. Arms take turns, each in a process of its own.

transformers  Trainer and get_peft_model, DataCollatorForSeq2Seq (pads to the longest of the
              batch), the model's own loss.
trl           SFTTrainer with completion_only_loss, on input_ids and completion_mask. Of its
              defaults, bf16=True, gradient_checkpointing=True and max_length=1024 are
              switched off: they would be other work. What else differs from the arm above is
              TRL's.
tinyforge     RealTrainer.train on a JSONL file.
floor         Forward, and gradients with respect to activations down to the embeddings, of
              the frozen base: no adapter, no optimizer, no padding, attention example by
              example (on a CPU the fastest of five ways), logits only at labelled positions.
              Eager torch and transformers' model.
least         The floor with two savings that it does not have by its definition: no gradient
              of the first layer's inputs to q, k and v, which no gradient of an adapter
              needs, and a head that makes its gradient in place, 256 positions at a time.

Models on a CPU, in float32: base, the shipped one on customer_support; wide, SmolLM2-135M's
shape with --layers layers, random weights, and rows as long as those of instruction data. On
a GPU, in bfloat16 with random weights: Llama-3.2-1B's and Llama-2-7B's shape. Memory is the
most that was held during the training above what was held when it began: resident memory on a
CPU, torch.cuda.max_memory_allocated on a GPU. Other processes disturb CPU seconds less than
wall seconds; one thread (--threads 1) is disturbed least.
"""

import argparse
import ctypes
import functools
import gc
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import psutil
import torch
import torch.nn.functional as F
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.models.llama.modeling_llama import repeat_kv

from machine import machine
from tinyforge.data.shipped import dataset
from tinyforge.models.loading import load_base, load_tokenizer
from tinyforge.data.chat import IGNORED
from tinyforge.data.examples import load_examples
from tinyforge.training.loop import LongestFirst, training_arguments
from tinyforge.models.names import BASE, model_config
from tinyforge.compat import quiet
from tinyforge.training.trainer import RealTrainer
from tinyforge.training.config import TrainingConfig

CUDA = torch.cuda.is_available()
MODELS = (
    {"1b": 20, "7b": 10} if CUDA else {"base": 40, "wide": 8}
)  # name: steps that are counted
SHAPES = {
    "wide": "HuggingFaceTB/SmolLM2-135M",
    "1b": "meta-llama/Llama-3.2-1B",
    "7b": "meta-llama/Llama-2-7b-hf",
}
ARMS = ("transformers", "trl", "tinyforge", "floor", "least")
RATIOS = [
    (what, other, "tinyforge")
    for what in ("cpu_seconds", "wall_seconds")
    for other in ("transformers", "trl", "floor", "least")
] + [("memory", "tinyforge", other) for other in ("transformers", "trl")]
TARGETS = {
    model: {**dict(zip(RATIOS, (transformers, trl, 0.85))), **dict.fromkeys(RATIOS[-2:], 0.5)}
    for model, transformers, trl in (("base", 1.3, 2), ("wide", 2.5, 4))
}  # memory at most, all others at least
UNCOUNTED, BATCH_SIZE, SEED, LEARNING_RATE, MAX_LENGTH = 2, 8, 0, 1e-3, 512


def make_model(name, layers, folder):
    "A model with random weights and the shipped tokenizer, in a folder."
    config, tok = model_config(SHAPES[name]), load_tokenizer()
    if name == "wide":
        config.num_hidden_layers = layers
    config.bos_token_id = None
    config.eos_token_id = tok.eos_token_id
    config.pad_token_id = tok.pad_token_id
    set_seed(SEED)
    with torch.device("cuda" if CUDA else "cpu"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if CUDA else torch.float32
        )
    with quiet():
        for part in (model, tok):
            part.save_pretrained(folder)


def make_rows(name, count):
    """Lines of a JSONL file: the shipped ones, or random words.

    As many as instructions and answers have: medians 40 and 60, at most 512 tokens in all.
    """
    if name == "base":
        return list(
            itertools.islice(
                itertools.cycle(dataset("customer_support").read_text().splitlines()), count
            )
        )
    chance = random.Random(SEED)
    words = sorted(w[1:] for w in load_tokenizer().get_vocab() if re.fullmatch("Ġ[a-z]+", w))

    def text(length):
        return "".join(" " + word for word in chance.choices(words, k=length))

    def row():
        prompt = min(max(1, round(40 * chance.lognormvariate(0, 0.7))), MAX_LENGTH // 2)
        answer = min(
            max(1, round(60 * chance.lognormvariate(0, 0.9))), MAX_LENGTH - prompt - 1
        )  # and the end token
        return {"prompt": text(prompt), "completion": text(answer)}

    return [json.dumps(row()) for _ in range(count)]


class Meter(TrainerCallback):
    "Seconds at the end of each step, the loss of each, and the most memory."

    def __init__(self):
        self.at, self.losses, self.ended, self.sampler = [], [], threading.Event(), None

    def on_train_begin(self, args, state, control, model=None, **kw):
        for p in model.parameters():
            p.sum()  # weights may still be on the disk
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        self.start = self.peak = (
            torch.cuda.memory_allocated() if CUDA else psutil.Process().memory_info().rss
        )
        if CUDA:
            return torch.cuda.reset_peak_memory_stats()
        try:
            Path("/proc/self/clear_refs").write_text(
                "5"
            )  # Linux keeps the peak, and begins anew
        except OSError:
            self.sampler = threading.Thread(target=self.sample)
            self.sampler.start()

    def on_step_end(self, *args, **kw):
        if CUDA:
            torch.cuda.synchronize()
        self.at.append((time.process_time(), time.perf_counter()))

    def on_log(self, args, state, control, logs=None, **kw):
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def on_train_end(self, *args, **kw):
        self.ended.set()
        if CUDA:
            self.peak = torch.cuda.max_memory_allocated()
        elif self.sampler:
            self.sampler.join()
        else:
            self.peak = 1024 * int(
                re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
            )

    def sample(self):
        while not self.ended.wait(0.005):
            self.peak = max(self.peak, psutil.Process().memory_info().rss)


def through_trainer(arm, place, rows, scratch):
    "Train through transformers, TRL or Tinyforge; each makes a Trainer with the meter."
    config = TrainingConfig(
        model_name=place,
        output_dir=f"{scratch}/adapter",
        lora_r=8,
        lora_alpha=16,
        num_epochs=1,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        seed=SEED,
    )
    if arm == "tinyforge":
        return RealTrainer(config).train(rows, show=False)
    from peft import LoraConfig, get_peft_model

    items = [e for batch in batches(place, rows) for e in batch]
    ours = training_arguments(config, scratch, len(items))
    options = {
        name: getattr(ours, name)
        for name in (
            "output_dir",
            "seed",
            "num_train_epochs",
            "per_device_train_batch_size",
            "learning_rate",
            "lr_scheduler_type",
            "warmup_steps",
            "optim",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
            "logging_steps",
            "dataloader_pin_memory",
            "report_to",
            "disable_tqdm",
            "save_strategy",
        )
    } | {"train_sampling_strategy": "sequential"}
    model = load_base(place)
    tok = load_tokenizer(place)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    if arm == "transformers":
        set_seed(SEED)
        data = [{"input_ids": e.input_ids, "labels": e.labels} for e in items]
        Trainer(
            get_peft_model(model, lora),
            TrainingArguments(**options),
            DataCollatorForSeq2Seq(tok),
            data,
        ).train()
    else:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        data = Dataset.from_list(
            [
                {
                    "input_ids": e.input_ids,
                    "completion_mask": [int(label != IGNORED) for label in e.labels],
                }
                for e in items
            ]
        )
        SFTTrainer(
            model,
            SFTConfig(
                **options,
                bf16=False,
                gradient_checkpointing=False,
                max_length=None,
                completion_only_loss=True,
            ),
            train_dataset=data,
            processing_class=tok,
            peft_config=lora,
        ).train()


def batches(place, rows):
    "The examples of each step, in Tinyforge's order."
    examples = load_examples(rows, load_tokenizer(place), MAX_LENGTH)
    order = list(LongestFirst([len(e.input_ids) for e in examples], BATCH_SIZE, SEED))
    return [
        [examples[i] for i in order[at : at + BATCH_SIZE]]
        for at in range(0, len(order), BATCH_SIZE)
    ]


def example_by_example(module, query, key, value, mask, scaling=None, lengths=(), **kw):
    "Causal attention of each example of a row without padding."
    parts = zip(
        *(
            x.split(lengths, 2)
            for x in (
                query,
                repeat_kv(key, module.num_key_value_groups),
                repeat_kv(value, module.num_key_value_groups),
            )
        )
    )
    return (
        torch.cat(
            [
                F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling).transpose(
                    1, 2
                )
                for part in parts
            ],
            1,
        ),
        None,
    )


class HeadInPlace(torch.autograd.Function):
    "Cross-entropy of a frozen head; the logits turn into their gradient where they stand."

    @staticmethod
    def forward(ctx, hidden, weight, labels):
        gradient, loss = torch.empty_like(hidden), 0
        for h, out, y in zip(*(t.split(256) for t in (hidden, gradient, labels))):
            logits, at = h @ weight.T, (torch.arange(len(y), device=y.device), y)
            torch.softmax(logits, 1, out=logits)
            loss = loss - logits[at].float().log().sum()
            logits[at] -= 1
            torch.mm(logits, weight, out=out)
        ctx.save_for_backward(gradient.div_(len(labels)))
        return loss / len(labels)

    @staticmethod
    def backward(ctx, outer):
        return ctx.saved_tensors[0] * outer, None, None


def frozen_base(arm, place, rows, meter):
    "Forward and backward of the base alone."
    AttentionInterface.register("example_by_example", example_by_example)
    model, steps = load_base(place).requires_grad_(False), batches(place, rows)
    model.set_attn_implementation("example_by_example")
    for name in ("q_proj", "k_proj", "v_proj") if arm == "least" else ():
        getattr(model.model.layers[0].self_attn, name).register_forward_hook(
            lambda layer, inputs, out: out.requires_grad_()
        )

    def step(examples):
        def row(lists):
            return torch.tensor(list(itertools.chain(*lists)), device=model.device)

        ids = row(e.input_ids for e in examples)
        after = row(e.labels[1:] + [IGNORED] for e in examples)
        embedded = model.get_input_embeddings()(ids[None]).requires_grad_(arm == "floor")
        hidden = model.model(
            inputs_embeds=embedded,
            position_ids=row(range(len(e.input_ids)) for e in examples)[None],
            use_cache=False,
            lengths=[len(e.input_ids) for e in examples],
        ).last_hidden_state
        hidden, labels = hidden[0, after != IGNORED], after[after != IGNORED]
        loss = (
            HeadInPlace.apply(hidden, model.lm_head.weight, labels)
            if arm == "least"
            else F.cross_entropy(model.lm_head(hidden).float(), labels)
        )
        loss.backward()
        return loss.item()

    meter.on_train_begin(None, None, None, model)
    for examples in steps:
        meter.losses.append(step(examples))
        meter.on_step_end()
    meter.on_train_end()


def warm_up(place):
    """A forward and a backward pass.

    Code is read from disk at its first use, which is to be before the measurement in all arms.
    """
    model = load_base(place).requires_grad_(False)
    model.model.layers[0].input_layernorm.weight.requires_grad_()
    ids = torch.ones((1, 64), dtype=torch.long, device=model.device)
    model(input_ids=ids, labels=ids).loss.backward()


def one(arm, place, rows, threads):
    "Run one arm on one model; its figures."
    torch.set_num_threads(threads)
    meter, make = Meter(), Trainer.__init__

    @functools.wraps(make)
    def make_with_meter(
        self, *args, **options
    ):  # RealTrainer makes its Trainer inside train(), so all Trainers get the meter from here
        make(self, *args, **options)
        self.add_callback(meter)

    Trainer.__init__ = make_with_meter
    warm_up(place)
    with tempfile.TemporaryDirectory() as scratch:
        if arm in ("floor", "least"):
            frozen_base(arm, place, rows, meter)
        else:
            through_trainer(arm, place, rows, scratch)
    counted = [e for batch in batches(place, rows)[UNCOUNTED:] for e in batch]
    tokens = sum(len(e.input_ids) for e in counted)
    labelled = sum(label != IGNORED for e in counted for label in e.labels[1:])
    cpu, wall = (end - begin for begin, end in zip(meter.at[UNCOUNTED - 1], meter.at[-1]))
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "tokens": tokens,
        "labelled_tokens": labelled,
        "cpu_us_per_token": 1e6 * cpu / tokens,
        "cpu_us_per_labelled_token": 1e6 * cpu / labelled,
        "tokens_per_second": tokens / wall,
        "memory": meter.peak - meter.start,
        "peak": meter.peak,
        "losses": meter.losses,
    }


def summary(model, rows):
    "Medians over rounds, ratios within rounds, and how far the losses are from Tinyforge's."
    by = {
        (row["round"], row["arm"]): row
        for row in rows
        if row["model"] == model and "error" not in row
    }
    arms = [a for a in ARMS if any(a == arm for _, arm in by)]
    rounds = sorted({r for r, _ in by})
    medians = {
        arm: {
            key: median(by[r, arm][key] for r in rounds if (r, arm) in by)
            for key in (
                "cpu_us_per_labelled_token",
                "cpu_us_per_token",
                "tokens_per_second",
                "memory",
                "peak",
            )
        }
        for arm in arms
    }
    ratios = []
    for what, top, bottom in RATIOS:
        each = [
            by[r, top][what] / by[r, bottom][what]
            for r in rounds
            if (r, top) in by and (r, bottom) in by
        ]
        target = TARGETS.get(model, {}).get((what, top, bottom))
        if each:
            ratios.append(
                {
                    "name": f"{what}, {top} / {bottom}",
                    "median": median(each),
                    "each": each,
                    "target": target,
                    "met": (
                        target
                        and (
                            median(each) <= target
                            if what == "memory"
                            else median(each) >= target
                        )
                    ),
                }
            )

    def apart(arm):  # in the first step only for those that do not learn
        pairs = [
            pair
            for r in rounds
            if {(r, arm), (r, "tinyforge")} <= by.keys()
            for pair in list(
                zip(by[r, arm]["losses"], by[r, "tinyforge"]["losses"], strict=True)
            )[: 1 if arm in ("floor", "least") else None]
        ]
        return max((abs(one - other) for one, other in pairs), default=None)

    return {
        "medians": medians,
        "ratios": ratios,
        "loss_difference": {arm: apart(arm) for arm in arms},
    }


def show(model, about):
    "The table of one model."
    print(
        f"\n{model:14}{'CPU us per labelled':>20}{'and per real token':>20}"
        f"{'real tokens/s':>16}{'memory MB':>12}{'peak MB':>10}{'loss differs by':>18}"
    )
    apart = about["loss_difference"]
    for arm, m in about["medians"].items():
        print(
            f"{arm:14}{m['cpu_us_per_labelled_token']:20,.0f}{m['cpu_us_per_token']:20,.0f}"
            f"{m['tokens_per_second']:16,.0f}{m['memory'] / 1e6:12,.0f}"
            f"{m['peak'] / 1e6:10,.0f}{apart[arm] or 0:18.1e}"
        )
    agree = all(each is not None and each <= 1e-3 for each in apart.values())
    print(f"  losses agree within 0.001: {'met' if agree else 'MISSED'}")
    for ratio in about["ratios"]:
        goal = (
            f"   {'at most' if ratio['name'].startswith('memory') else 'at least'}"
            f" {ratio['target']}: {'met' if ratio['met'] else 'MISSED'}"
            if ratio["target"]
            else ""
        )
        print(
            f"  {ratio['name']:42}{ratio['median']:6.2f}  ({min(ratio['each']):.2f} to"
            f" {max(ratio['each']):.2f}){goal}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps",
        type=int,
        help=(
            f"counted steps of a run, after {UNCOUNTED} that are not (default:"
            f" {', '.join(f'{n} for {m}' for m, n in MODELS.items())})"
        ),
    )
    parser.add_argument("--layers", type=int, default=6, help="of the model wide")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent
        / "results"
        / f"training_{'cuda' if CUDA else 'cpu'}.json",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*json.loads(given.one))))
        return
    rows, arms = [], [arm for arm in ARMS if arm != "trl" or find_spec("trl")]
    if "trl" not in arms:
        print("trl is not installed: its arm is left out")
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            place = BASE if model == "base" else f"{folder}/{model}"
            data = Path(folder, f"{model}.jsonl")
            if model != "base":
                make_model(model, given.layers, place)
            data.write_text(
                "\n".join(
                    make_rows(model, (UNCOUNTED + (given.steps or MODELS[model])) * BATCH_SIZE)
                )
                + "\n"
            )
            for number, arm in itertools.product(range(given.rounds), arms):
                done = subprocess.run(
                    [
                        sys.executable,
                        __file__,
                        "--one",
                        json.dumps([arm, place, str(data), given.threads]),
                    ],
                    capture_output=True,
                    text=True,
                )
                rows.append(
                    {
                        "model": model,
                        "round": number,
                        "arm": arm,
                        **(
                            json.loads(done.stdout.splitlines()[-1])
                            if done.returncode == 0
                            else {"error": (done.stderr.splitlines() or ["?"])[-1]}
                        ),
                    }
                )
                print(
                    model,
                    number,
                    arm,
                    rows[-1].get("error")
                    or f"{rows[-1]['cpu_seconds']:.2f} CPU s,"
                    f" {rows[-1]['wall_seconds']:.2f} s, {rows[-1]['memory'] / 1e6:,.0f} MB",
                    flush=True,
                )
    results = {model: summary(model, rows) for model in given.models}
    for model, about in results.items():
        show(model, about)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps(
            {
                **machine("cuda" if CUDA else "cpu", "accelerate", "trl"),
                "threads": given.threads,
                "settings": {
                    "batch_size": BATCH_SIZE,
                    "learning_rate": LEARNING_RATE,
                    "seed": SEED,
                    "max_length": MAX_LENGTH,
                    "uncounted_steps": UNCOUNTED,
                    "layers_of_wide": given.layers,
                    "rounds": given.rounds,
                    "steps": {model: given.steps or MODELS[model] for model in given.models},
                },
                "results": results,
                "rows": rows,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"\nwritten to {given.out}")


if __name__ == "__main__":
    main()
