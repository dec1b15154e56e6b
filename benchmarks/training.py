"""The same training through transformers' Trainer with PEFT, TRL, and Tinyforge.

And the least that it could take.

    # for that arm, which is left out where trl is missing; nothing else here needs it
    pip install trl
    # writes benchmarks/results/training_real_cpu.json, or training_cuda.json on a GPU
    python benchmarks/training.py --real FOLDER      # python tools/real_model.py makes one
    python benchmarks/training.py --real FOLDER --threads 2
    # in pieces: what is in the file already is not measured again
    python benchmarks/training.py --real FOLDER --minutes 5
    python benchmarks/training.py --cases base --rounds 1 --steps 3     # to see that it runs

Model, token ids, labels, order of examples, batches, optimizer, schedule and the random start
of the adapter (all linear layers but the head, r=16, alpha=32) are the same in all arms; the
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
              Neither is run with checkpointing.

Cases on a CPU, in float32: real-problems and real-instructions, SmolLM2-135M-Instruct with
its own weights; base, the shipped one on customer_support. On a GPU, in bfloat16: the real
model, and Llama-3.2-1B's and Llama-2-7B's shape with random weights. The rows of `problems`
are random words, as many as the questions and answers of GSM8K's files have tokens of
SmolLM2 (log-normal, medians 58 and 117, spread 0.35 and 0.42, correlation 0.53); those of
`instructions` are of mixed lengths (medians 40 and 60, spread 0.7 and 0.9, at most 512 in
all).

Memory is the most that was held during the training above what was held when it began:
resident memory on a CPU, torch.cuda.max_memory_allocated on a GPU. Other processes disturb
CPU seconds less than wall seconds; one thread is disturbed least. On a GPU each
case also says what share of its arithmetic limit a training reaches: 4 operations a weight
and token (6 with checkpointing), at the rate at which this GPU multiplies matrices of 8,192 x
8,192 in bfloat16.
"""

import argparse
import ctypes
import gc
import itertools
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import psutil
import torch
import torch.nn.functional as F
from filelock import FileLock
from transformers import (
    AttentionInterface,
    AutoConfig,
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
from tinyforge.models import loading
from tinyforge.models.loading import load_base, load_tokenizer
from tinyforge.data.chat import IGNORED
from tinyforge.data.examples import load_examples
from tinyforge.training.loop import LongestFirst, training_arguments
from tinyforge.models.names import BASE, model_config
from tinyforge.training.trainer import RealTrainer
from tinyforge.training.config import TrainingConfig

CUDA = torch.cuda.is_available()
SHAPES = {"1b": "meta-llama/Llama-3.2-1B", "7b": "meta-llama/Llama-2-7b-hf"}


@dataclass(frozen=True)
class Case:
    "What is trained on what."

    model: str  # base, real, or one of SHAPES
    rows: str  # shipped, problems or instructions
    batch_size: int
    steps: int  # that are counted
    checkpointing: bool = False


CASES = (
    {
        "real-problems": Case("real", "problems", 4, 40),
        "1b": Case("1b", "problems", 8, 40),
        "1b-instructions": Case("1b", "instructions", 8, 40),
        "7b": Case("7b", "problems", 8, 25),
        "7b-checkpointing": Case("7b", "problems", 8, 25, checkpointing=True),
    }
    if CUDA
    else {
        "real-problems": Case("real", "problems", 4, 4),
        "real-instructions": Case("real", "instructions", 8, 3),
        "base": Case("base", "shipped", 8, 40),
    }
)
ARMS = ("transformers", "trl", "tinyforge", "floor", "least")
RATIOS = [
    (what, other, "tinyforge")
    for what in ("cpu_seconds", "wall_seconds")
    for other in ("transformers", "trl", "floor", "least")
] + [("memory", "tinyforge", other) for other in ("transformers", "trl")]
TARGETS = {
    case: dict(zip(RATIOS, (transformers, trl))) | {RATIOS[-2]: 0.45}
    for case, transformers, trl in (
        ("real-problems", 1.7, 2.2),
        ("real-instructions", 2, 2.6),
        ("base", 1.4, 2.1),
    )
    if not CUDA
}  # memory at most, all others at least
UNCOUNTED, SEED, LEARNING_RATE, MAX_LENGTH, RANK = 2, 0, 1e-3, 512, 16


def make_shape(name, folder):
    "A configuration and the shipped tokenizer; the weights are made where they are used."
    config, tok = model_config(SHAPES[name]), load_tokenizer()
    config.bos_token_id = None
    config.eos_token_id = tok.eos_token_id
    config.pad_token_id = tok.pad_token_id
    for part in (config, tok):
        part.save_pretrained(folder)


def random_base(place, *options):
    "A model with random weights, in bfloat16, on the GPU."
    set_seed(SEED)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(place), dtype=torch.bfloat16
        ).eval()


def in_bfloat16(place, folder):
    "A copy of a model as one keeps it for a GPU."
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer(place).save_pretrained(folder)
    return folder


def lengths(kind, chance):
    "How many words a random prompt and its answer have."
    if kind == "instructions":
        prompt = round(40 * chance.lognormvariate(0, 0.7))
        answer = round(60 * chance.lognormvariate(0, 0.9))
    else:
        common = chance.gauss()
        apart = chance.gauss()
        prompt = round(58 * math.exp(0.35 * common))
        answer = round(117 * math.exp(0.42 * (0.53 * common + (1 - 0.53**2) ** 0.5 * apart)))
    prompt = min(max(1, prompt), MAX_LENGTH // 2)
    return prompt, min(max(1, answer), MAX_LENGTH - prompt - 1)  # and the end token


def make_rows(case, place, count):
    "Lines of a JSONL file: the shipped ones, or random words of one token each."
    if case.rows == "shipped":
        lines = dataset("customer_support").read_text().splitlines()
        return list(itertools.islice(itertools.cycle(lines), count))
    chance = random.Random(SEED)
    vocabulary = load_tokenizer(place).get_vocab()
    words = sorted(w[1:] for w in vocabulary if re.fullmatch("Ġ[a-z]+", w))

    def text(length):
        return "".join(" " + word for word in chance.choices(words, k=length))

    pairs = [lengths(case.rows, chance) for _ in range(count)]
    return [json.dumps({"prompt": text(p), "completion": text(a)}) for p, a in pairs]


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


def through_trainer(arm, case, place, rows, scratch):
    "Train through transformers, TRL or Tinyforge; each makes a Trainer with the meter."
    config = TrainingConfig(
        model_name=place,
        output_dir=f"{scratch}/adapter",
        lora_r=RANK,
        lora_alpha=2 * RANK,
        num_epochs=1,
        batch_size=case.batch_size,
        gradient_checkpointing=case.checkpointing,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        seed=SEED,
    )
    if arm == "tinyforge":
        return RealTrainer(config).train(rows, show=False)
    from peft import LoraConfig, get_peft_model

    items = [e for batch in batches(case, place, rows) for e in batch]
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
    } | {
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": case.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    model = load_base(place)
    tok = load_tokenizer(place)
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
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
                max_length=None,
                completion_only_loss=True,
            ),
            train_dataset=data,
            processing_class=tok,
            peft_config=lora,
        ).train()


def batches(case, place, rows):
    "The examples of each step, in Tinyforge's order."
    examples = load_examples(rows, load_tokenizer(place), MAX_LENGTH)
    size = case.batch_size
    order = list(LongestFirst([len(e.input_ids) for e in examples], size, SEED))
    return [[examples[i] for i in order[at : at + size]] for at in range(0, len(order), size)]


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


def frozen_base(arm, case, place, rows, meter):
    "Forward and backward of the base alone."
    AttentionInterface.register("example_by_example", example_by_example)
    model, steps = load_base(place).requires_grad_(False), batches(case, place, rows)
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


def one(arm, case, place, rows, threads, turn):
    "Run one arm of one case when it is its turn; its figures."
    torch.set_num_threads(threads)
    with FileLock(turn), ExitStack() as stack:
        if CASES[case].model in SHAPES:
            for module in (loading, sys.modules[__name__]):
                stack.enter_context(patch.object(module, "load_base", random_base))
        return figures_of(arm, case, place, rows)


def figures_of(arm, case, place, rows):
    case, meter, make = CASES[case], Meter(), Trainer.__init__

    @wraps(make)
    def make_with_meter(
        self, *args, **options
    ):  # RealTrainer makes its Trainer inside train(), so all Trainers get the meter from here
        make(self, *args, **options)
        self.add_callback(meter)

    Trainer.__init__ = make_with_meter
    warm_up(place)
    with tempfile.TemporaryDirectory() as scratch:
        if arm in ("floor", "least"):
            frozen_base(arm, case, place, rows, meter)
        else:
            through_trainer(arm, case, place, rows, scratch)
    seconds = [end - begin for (_, begin), (_, end) in zip(meter.at, meter.at[1:])]
    counted = [e for batch in batches(case, place, rows)[UNCOUNTED:] for e in batch]
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
        "step_seconds": seconds[UNCOUNTED - 1 :],
        "memory": meter.peak - meter.start,
        "peak": meter.peak,
        "losses": meter.losses,
    }


def operations_per_second():
    "Operations (two a multiplication) of a product of matrices in bfloat16 on this GPU."
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    taken = []
    for _ in range(20):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return 2 * 8192**3 / median(taken)


def weights_in_products(config):
    "How many numbers of a model a token is multiplied with: all but what is only looked up."
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return sum(layer.weight.numel() for layer in linear)


def share_of_limit(case, place, tokens_per_second, rate):
    "What a training reaches of 4 operations a weight and token, 6 with checkpointing."
    weights = weights_in_products(AutoConfig.from_pretrained(place))
    return tokens_per_second * (6 if case.checkpointing else 4) * weights / rate


def name_of(case, threads):
    "What a case is called in the results: the number of threads where it is not one."
    return case if threads == 1 or CUDA else f"{case}, {threads} threads"


def summary(case, threads, rows):
    "Medians over rounds, ratios within rounds, and how far the losses are from Tinyforge's."
    by = {
        (row["round"], row["arm"]): row
        for row in rows
        if (row["case"], row["threads"]) == (case, threads) and "error" not in row
    }
    arms = [a for a in ARMS if any(a == arm for _, arm in by)]
    rounds = sorted({r for r, _ in by})

    def middle(arm, key):
        return median(by[r, arm][key] for r in rounds if key in by.get((r, arm), ()))

    medians = {
        arm: {
            key: middle(arm, key)
            for key in (
                "cpu_us_per_labelled_token",
                "cpu_us_per_token",
                "tokens_per_second",
                *(["share_of_limit"] if CUDA else []),
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
        if not each:
            continue
        target = TARGETS.get(case, {}).get((what, top, bottom))
        reached = median(each)
        met = target and (reached <= target if what == "memory" else reached >= target)
        name = f"{what}, {top} / {bottom}"
        ratios.append(
            {"name": name, "median": reached, "each": each, "target": target, "met": met}
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


def show(case, about):
    "The table of one case."
    print(
        f"\n{case:18}{'CPU us per labelled':>20}{'and per real token':>20}"
        f"{'real tokens/s':>16}{'of the limit':>14}{'memory MB':>12}{'peak MB':>10}"
        f"{'loss differs by':>18}"
    )
    apart = about["loss_difference"]
    for arm, m in about["medians"].items():
        share = f"{m['share_of_limit']:.0%}" if "share_of_limit" in m else ""
        print(
            f"{arm:18}{m['cpu_us_per_labelled_token']:20,.0f}{m['cpu_us_per_token']:20,.0f}"
            f"{m['tokens_per_second']:16,.0f}{share:>14}{m['memory'] / 1e6:12,.0f}"
            f"{m['peak'] / 1e6:10,.0f}{apart[arm] or 0:18.1e}"
        )
    agree = all(each is not None and each <= 1e-3 for each in apart.values())
    print(f"  losses agree within 0.001: {'met' if agree else 'MISSED'}")
    for ratio in about["ratios"]:
        goal = ""
        if ratio["target"]:
            side = "at most" if ratio["name"].startswith("memory") else "at least"
            goal = f"   {side} {ratio['target']}: {'met' if ratio['met'] else 'MISSED'}"
        print(
            f"  {ratio['name']:42}{ratio['median']:6.2f}  ({min(ratio['each']):.2f} to"
            f" {max(ratio['each']):.2f}){goal}"
        )


def in_a_process(*what):
    "The figures of one arm, from a process of its own, or the last line of its error."
    command = [sys.executable, __file__, "--one", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"error": (done.stderr.splitlines() or ["?"])[-1]}


def arms_of(case):
    "The arms that can be run here for a case."
    left_out = {"floor", "least"} if case.checkpointing else set()
    if not find_spec("trl"):
        left_out.add("trl")
    return [arm for arm in ARMS if arm not in left_out]


def about(given, rate):
    "What is equal in all rows of a file."
    return {
        **machine("cuda" if CUDA else "cpu", "accelerate", "trl"),
        "operations_per_second": rate,
        "settings": {
            "rank": RANK,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
            "max_length": MAX_LENGTH,
            "uncounted_steps": UNCOUNTED,
        },
        "cases": {
            name: asdict(case) | ({"steps": given.steps} if given.steps else {})
            for name, case in CASES.items()
        },
    }


def found_before(given, now):
    "The rows of the file that is there, if they were measured with the same on the same."
    if CUDA or not given.out.exists():
        return []
    before = json.loads(given.out.read_text())
    same = ("device", "versions", "settings", "cases")
    if any(before.get(name) != now[name] for name in same):
        raise SystemExit(f"{given.out} was measured with other settings or versions: move it")
    return [row for row in before["rows"] if "error" not in row]


def write(given, now, rows):
    "Write what has been measured so far."
    kinds = sorted({(row["threads"], list(CASES).index(row["case"])) for row in rows})
    names = [(list(CASES)[place], threads) for threads, place in kinds]
    results = {name_of(*kind): summary(*kind, rows) for kind in names}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**now, "results": results, "rows": rows}, indent=1)
    part = given.out.with_suffix(".part")
    part.write_text(text + "\n")
    part.replace(given.out)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--real", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=1 if CUDA else 5)
    parser.add_argument(
        "--steps", type=int, help=f"counted steps of a run, after {UNCOUNTED} that are not"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none later")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent
        / "results"
        / f"training_{'cuda' if CUDA else 'real_cpu'}.json",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*json.loads(given.one))))
        return
    chosen = {name: CASES[name] for name in given.cases}
    if not given.real and any(case.model == "real" for case in chosen.values()):
        parser.error("the real model needs --real; python tools/real_model.py makes a folder")
    if not find_spec("trl"):
        print("trl is not installed: its arm is left out")
    begun = time.monotonic()
    now = about(given, operations_per_second() if CUDA else None)
    rate, rows = now["operations_per_second"], found_before(given, now)
    there = {(row["case"], row["threads"], row["round"], row["arm"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        places = {"base": BASE, "real": given.real}
        for name, case in chosen.items():
            if case.model not in places:
                places[case.model] = f"{folder}/{case.model}"
                make_shape(case.model, places[case.model])
            if CUDA and case.model == "real" and places["real"] == given.real:
                places["real"] = in_bfloat16(given.real, f"{folder}/real")
            place, data = places[case.model], Path(folder, f"{name}.jsonl")
            if CUDA:
                gc.collect()
                torch.cuda.empty_cache()
            count = (UNCOUNTED + (given.steps or case.steps)) * case.batch_size
            data.write_text("\n".join(make_rows(case, place, count)) + "\n")
            turn = f"{folder}/turn"  # on a GPU all get ready at once, and run one by one

            def run(number, arm):
                found = in_a_process(arm, name, place, str(data), given.threads, turn)
                if CUDA and "error" not in found:
                    found["share_of_limit"] = share_of_limit(
                        case, place, found["tokens_per_second"], rate
                    )
                said = found.get("error") or (
                    f"{found['cpu_seconds']:.2f} CPU s, {found['wall_seconds']:.2f} s,"
                    f" {found['memory'] / 1e6:,.0f} MB"
                )
                print(name, number, arm, said, flush=True)
                about_it = {"case": name, "threads": given.threads, "round": number}
                return {**about_it, "arm": arm, **found}

            for number in range(given.rounds):
                arms = [
                    arm
                    for arm in arms_of(case)
                    if arm in given.arms and (name, given.threads, number, arm) not in there
                ]
                if not arms or time.monotonic() - begun > 60 * given.minutes:
                    continue
                with ThreadPoolExecutor(len(arms) if CUDA else 1) as pool:
                    rows += pool.map(partial(run, number), arms)
                write(given, now, rows)
    for name in chosen:
        if any((row["case"], row["threads"]) == (name, given.threads) for row in rows):
            show(name_of(name, given.threads), summary(name, given.threads, rows))
    print(f"\nwritten to {given.out}")


if __name__ == "__main__":
    main()
