"""Adapters on one loaded base, Tinyforge's `Adapters` beside PEFT.

Swapping, loading, answering a batch, compiled.

    # writes benchmarks/results/adapters_cpu.json, or adapters_cuda.json where there is a GPU
    python benchmarks/adapters.py
    python benchmarks/adapters.py --hidden 1024 --parts batch
    # two layers, a few rounds, nothing written: to see that it runs
    python benchmarks/adapters.py --quick

The base is a Llama with random weights in float32, all linear layers of its blocks adapted
(seven a block, 224 with 32 blocks), r=8 where nothing else is said. Adapters are made by
plain PEFT, with random A and B. Both tools stand on the same weights: copies of the model
share them. The files were read before, so that the page cache is warm for both. Arms take
turns in one process, in another order each round, and a round before them is not counted;
what was set up is taken out of the garbage collector's sight first, so that one tool does not
pay for the other's objects. Where what piles up is the question (hundred, memory), each arm
has a process of its own. The exit code says nothing of the targets; wrong results end the run
with an error.

swap     From one of four adapters in memory to another: `store.use` and `set_adapter`. Then a
         forward of one token, after a swap and alone.
load     From the disk to answering: `store.load` and `store.use`; `load_adapter` (with and
         without low_cpu_mem_usage) and `set_adapter`; `hotswap_adapter`, which keeps one
         adapter only, also to other ranks after prepare_model_for_compiled_hotswap. With four
         others in memory. What was loaded is let go outside the measured time. Then with the
         first forward.
hundred  A hundred adapters loaded one after the other: by Tinyforge with eight on the device;
         by PEFT, where they pile up, and where the one before is deleted. Memory for all of
         them was touched once before.
memory   Resident memory and the bytes of all tensors, before and after swaps among twelve
         adapters with eight on the device, every tenth read anew from the disk; by PEFT as
         many loads and deletions as there were reads.
equal    Logits after each of several swaps, against a fresh PeftModel.from_pretrained, to the
         bit.
batch    `generate` for 8 and 16 prompts of 24 tokens, 32 new ones, greedy: one adapter for
         all rows; eight, as many rows for each and those of one together; uneven, where one
         has more rows, one has none or fewer, and they stand in any order; the base alone.
         The answers are those asked one by one.
compile  torch.compile of a small model, then swaps between ranks and targets, the last to an
         adapter not seen before: how often it compiles again.

Seconds are medians. A ratio is the median of the ratios of the rounds, by wall time, in
brackets by CPU seconds, which other processes disturb less.
"""

import argparse
import copy
import ctypes
import gc
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import torch
from machine import machine
from tinyforge.compat import no_warnings, quiet
from tinyforge.adapters.store import Adapters

from torch import _dynamo as dynamo
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, set_seed
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION, MLP = LINEAR[:4], LINEAR[4:]
KINDS = {
    "plain": {},
    "narrow": {"r": 4, "lora_alpha": 6},
    "mixed": {"rank_pattern": {"q_proj": 2, "down_proj": 16}, "alpha_pattern": {"v_proj": 40}},
    "attention": {"r": 16, "target_modules": ATTENTION[::2]},
    "mlp": {"r": 4, "lora_alpha": 6, "target_modules": MLP},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "dora": {"use_dora": True},
    "bfloat16": {},
}
SEED, PROMPT, RESIDENT, ON_DEVICE, HIGHEST = 0, 24, 4, 8, 16  # HIGHEST: the largest rank above
SMALL = {"layers": 2, "hidden": 128, "intermediate": 352}
PILING = {
    "hundred": ("tinyforge", "peft", "peft, deleting"),
    "memory": ("tinyforge", "peft, deleting"),
}  # part: arms with a process each


def make_base(given, **shape):
    "A Llama with random weights."
    set_seed(SEED)

    def of(name):
        return shape.get(name, getattr(given, name))

    config = LlamaConfig(
        hidden_size=of("hidden"),
        intermediate_size=of("intermediate"),
        num_hidden_layers=of("layers"),
        num_attention_heads=max(1, of("hidden") // 64),
        vocab_size=4096,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(DEVICE):
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def twin(base):
    return copy.deepcopy(
        base, {id(p): p for p in base.parameters()}
    )  # other modules, the same weights


def make_adapters(base, folder, kind, count=1):
    "Folders of adapters, made by PEFT."
    model = get_peft_model(
        twin(base),
        LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": LINEAR} | KINDS[kind]),
    )
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    folders = [f"{folder}/{kind}{i}" for i in range(count)]
    for i, path in enumerate(folders):
        set_seed(1 + i)
        for name, p in trained:
            p.data = (
                p * torch.empty_like(p).uniform_(0.9, 1.1)
                if "magnitude" in name
                else torch.randn_like(p) * 0.05
            ).to(torch.bfloat16 if kind == "bfloat16" else p.dtype)
        model.save_pretrained(path)
    return folders


def prompt(rows, length):
    return torch.randint(
        1, 4096, (rows, length), generator=torch.Generator().manual_seed(SEED)
    ).to(DEVICE)


def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


def fresh(base, path):
    return PeftModel.from_pretrained(twin(base), path).eval()


def wait():
    if CUDA:
        torch.cuda.synchronize()


class Watch:
    "Wall and CPU seconds of what is done inside."

    def __enter__(self):
        wait()
        self.begun = time.perf_counter(), time.process_time()
        return self

    def now(self):
        wait()
        return [
            at - begun
            for at, begun in zip((time.perf_counter(), time.process_time()), self.begun)
        ]

    def __exit__(self, *_):
        self.taken = self.now()


def in_turns(rounds, arms):
    """Each arm is called with the number of the round, and gives [wall, CPU] seconds by what.

    Together: {what: [those of each round]}.
    """
    taken, order = {}, list(arms)
    gc.collect()
    gc.freeze()
    for number in range(rounds + 1):
        for name in order:
            for what, seconds in arms[name](number).items():
                taken.setdefault(f"{name}{what}", [])
                if number:
                    taken[f"{name}{what}"].append(seconds)
        order = order[1:] + order[:1]
    gc.unfreeze()
    return taken


def ratio(taken, top, bottom, least=None, most=None):
    "A ratio of two arms, and its target."
    wall, cpu = ([a[i] / b[i] for a, b in zip(taken[top], taken[bottom])] for i in (0, 1))
    value = median(wall)
    return {
        "name": f"{top} / {bottom}",
        "value": value,
        "cpu": median(cpu),
        "each": wall,
        **aim(value, least, most),
    }


def aim(value, least=None, most=None):
    return {
        "target": (
            f"at least {least:g}"
            if least is not None
            else f"at most {most:g}"
            if most is not None
            else None
        ),
        "met": (
            value >= least
            if least is not None
            else value <= most
            if most is not None
            else None
        ),
    }


def fact(name, value, least=None, most=None):
    return {"name": name, "value": value, **aim(value, least, most)}


def resident(base, folders):
    "A store and a PeftModel with the same adapters, `a0` and so on."
    store = Adapters(twin(base), ON_DEVICE)
    model = PeftModel.from_pretrained(twin(base), folders[0], adapter_name="a0").eval()
    for i, path in enumerate(folders):
        store.load(path, f"a{i}")
        if i:
            model.load_adapter(path, f"a{i}")
    for i in reversed(range(len(folders))):
        store.use(f"a{i}")
    model.set_adapter("a0", inference_mode=True)
    return store, model


def swap(given):
    base, token = make_base(given), prompt(1, 1)
    store, model = resident(base, [f"{given.folder}/plain{i}" for i in range(RESIDENT)])
    next_name = itertools.cycle([f"a{i}" for i in range(1, RESIDENT)] + ["a0"]).__next__
    ways = {
        "tinyforge, use": (store.use, store.model, 100),
        "peft, set_adapter": (model.set_adapter, model, 2),
        "peft, set_adapter(inference_mode=True)": (
            lambda name: model.set_adapter(name, inference_mode=True),
            model,
            2,
        ),
    }

    def arm(change, model, times):
        def one(number):
            names = [next_name() for _ in range(RESIDENT * times)]
            with Watch() as swaps:
                for name in names:
                    change(name)
            change(name := next_name())
            logits(model, token)
            with Watch() as alone:
                logits(model, token)
            with Watch() as both:
                change(next_name())
                logits(model, token)
            return {
                "": [t / len(names) for t in swaps.taken],
                " + forward": both.taken,
                ", forward alone": alone.taken,
            }

        return one

    taken = in_turns(given.rounds * 2, {name: arm(*way) for name, way in ways.items()})
    for i in range(RESIDENT):
        store.use(f"a{i}")
        model.set_adapter(f"a{i}", inference_mode=True)
        assert torch.equal(logits(store.model, token), logits(model, token))
    return {
        "taken": taken,
        "ratios": (
            [ratio(taken, name, "tinyforge, use", least=8) for name in list(ways)[1:]]
            + [ratio(taken, f"{name} + forward", f"{name}, forward alone") for name in ways]
        ),
    }


def load(given):
    base, ids = make_base(given), prompt(1, 2)
    plain, others = (
        [f"{given.folder}/plain{i}" for i in numbers]
        for numbers in (range(8), range(given.loads - RESIDENT, given.loads))
    )
    ranks = [plain[0], f"{given.folder}/narrow0"]
    for file in Path(given.folder).glob("*/*"):
        file.read_bytes()
    expected = {path: logits(fresh(base, path), ids) for path in [*plain, *ranks]}
    store, model = resident(base, others)
    models = {True: model, False: resident(base, others)[1]}
    hot = [fresh(base, plain[0]) for _ in range(2)]
    crowded = Adapters(twin(base), max_on_device=2)
    prepare_model_for_compiled_hotswap(hot[1], target_rank=HIGHEST)
    for path in plain:
        crowded.load(path, path)

    def timed(model, path, *changes):
        with Watch() as both:
            for change in changes:
                change()
            alone = both.now()
            result = logits(model, ids)
        torch.testing.assert_close(
            result,
            expected[path],
            **{"atol": 1e-4, "rtol": 1e-4} if model is hot[1] else {"atol": 0, "rtol": 0},
        )  # other ranks are padded with zeros
        return {"": alone, " + forward": both.taken}

    def ours(number):
        path = plain[number % 8]
        taken = timed(
            store.model, path, lambda: store.load(path, "it"), lambda: store.use("it")
        )
        store.unload("it")
        return taken

    def back(number):
        path = plain[number % 8]
        assert path not in crowded.on_device
        return timed(crowded.model, path, lambda: crowded.use(path))

    def theirs(low):
        def one(number):
            model, path = models[low], plain[number % 8]
            taken = timed(
                model,
                path,
                lambda: model.load_adapter(path, "it", low_cpu_mem_usage=low),
                lambda: model.set_adapter("it", inference_mode=True),
            )
            model.set_adapter("a0", inference_mode=True)
            model.delete_adapter("it")
            return taken

        return one

    def hotswap(model, paths):
        return lambda number: timed(
            model,
            paths[number % len(paths)],
            lambda: hotswap_adapter(
                model, paths[number % len(paths)], "default", torch_device=DEVICE
            ),
        )

    arms = {
        "tinyforge, load and use": ours,
        "peft, load_adapter and set_adapter": theirs(False),
        "peft, the same with low_cpu_mem_usage": theirs(True),
        "peft, hotswap_adapter": hotswap(hot[0], plain),
        "peft, hotswap_adapter, other ranks": hotswap(hot[1], ranks),
        "tinyforge, use of one off the device": back,
    }
    taken, (first, *others) = in_turns(given.rounds, arms), list(arms)
    mixed = [f"{given.folder}/mixed{i}" for i in range(2)]
    wrong = fresh(base, mixed[0])
    hotswap_adapter(wrong, mixed[1], "default", torch_device=DEVICE)
    off = (logits(wrong, ids) - logits(fresh(base, mixed[1]), ids)).abs().max().item()
    return {
        "taken": taken,
        "ratios": [
            ratio(
                taken, name + end, first + end, least=None if "hotswap" in name or end else 3
            )
            for end in ("", " + forward")
            for name in others[:4]
        ],
        "facts": [
            fact(
                "peft, hotswap_adapter, with rank_pattern and alpha_pattern: largest error of"
                " a logit",
                off,
            )
        ],
    }


def held():
    "Resident bytes, and those of all tensors."
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    storages = {
        s.data_ptr(): s.nbytes()
        for s in (
            t.untyped_storage()
            for t in gc.get_objects()
            if issubclass(type(t), torch.Tensor) and t.layout == torch.strided
        )
    }
    return {"resident": psutil.Process().memory_info().rss, "tensors": sum(storages.values())}


def by_peft(base, first):
    "A model that is given one adapter after the other, and keeps them or only the last."
    model = PeftModel.from_pretrained(twin(base), first, adapter_name="first").eval()
    names = itertools.count()

    def take(path, keep=False):
        before, name = model.active_adapter, f"n{next(names)}"
        model.load_adapter(path, name, low_cpu_mem_usage=True)
        model.set_adapter(name, inference_mode=True)
        if not keep:
            model.delete_adapter(before)

    return model, take


def hundred(given, arm):
    base, folders = make_base(given), [f"{given.folder}/plain{i}" for i in range(given.loads)]
    for folder in folders:
        for file in Path(folder).iterdir():
            file.read_bytes()
    store = Adapters(twin(base), ON_DEVICE)
    model, take = by_peft(base, folders[0])

    def ours(path):
        store.use(store.load(path))

    change = ours if arm == "tinyforge" else lambda path: take(path, keep=arm == "peft")
    size = sum(file.stat().st_size for folder in folders for file in Path(folder).iterdir())
    # touched once and freed: a virtual machine may get memory from its host only then, which
    # takes longer than a load
    torch.ones(2 * size, dtype=torch.uint8)
    change(folders[-1])  # code is read from disk at its first use
    if arm == "tinyforge":
        store.unload(store.active)
    before, taken = held(), []
    for path in folders:
        with Watch() as w:
            change(path)
        taken.append(w.taken)
    return {"taken": taken, "grown": {what: n - before[what] for what, n in held().items()}}


def memory(given, arm):
    base = make_base(given)
    folders = [f"{given.folder}/plain{i}" for i in range(ON_DEVICE + 4)]
    ids = prompt(1, 2)
    store = Adapters(twin(base), ON_DEVICE)
    model, take = by_peft(base, folders[0])

    def ours(i):
        if i % 10 == 9 and folders[i % 12] in store:
            store.unload(folders[i % 12])
        store.use(store.load(folders[i % 12]))

    change, every = (ours, 1) if arm == "tinyforge" else (lambda i: take(folders[i % 12]), 10)

    def run(swaps):
        for i in range(0, swaps, every):
            change(i // every if every > 1 else i)
            if i % 50 == 0:
                logits(store.model if arm == "tinyforge" else model, ids)

    run(max(120, given.swaps // 5))
    before = held()
    with Watch() as w:
        run(given.swaps)
    return {
        "before": before,
        "after": held(),
        "changes": len(range(0, given.swaps, every)),
        "seconds": w.taken,
    }


def equal(given):
    base, ids = make_base(given), prompt(2, 9)
    folders = [
        f"{given.folder}/{kind}{i}"
        for kind in KINDS
        for i in range(2 if kind == "plain" else 1)
    ]
    expected = {path: logits(fresh(base, path), ids) for path in folders} | {
        None: logits(base, ids)
    }
    store, chance = Adapters(twin(base), max_on_device=3), random.Random(SEED)
    for path in folders:
        store.load(path, path)
    order = [path for _ in range(3) for path in chance.sample(list(expected), len(expected))]
    for path in order:
        store.use(path)
        assert torch.equal(logits(store.model, ids), expected[path]), (
            f"{path}: the logits are not PEFT's"
        )
    assert len({tuple(e[0, -1, :8].tolist()) for e in expected.values()}) == len(expected)
    return {
        "facts": [
            fact(
                f"swaps among {', '.join(KINDS)} and none, with PEFT's logits to the bit",
                len(order),
                least=len(order),
            )
        ]
    }


class Clock(LogitsProcessor):
    "Notes when the logits of each new token are there."

    def __init__(self, watch):
        self.watch, self.at = watch, []

    def __call__(self, ids, scores):
        self.at.append(self.watch.now())
        return scores


def batch(given):
    base, names = make_base(given), [f"a{i}" for i in range(ON_DEVICE)]
    store, model = resident(base, [f"{given.folder}/plain{i}" for i in range(ON_DEVICE)])
    taken, ratios = {}, []

    def generate(of, ids, **options):
        return of.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=given.tokens,
            do_sample=False,
            **options,
        )

    for rows in given.prompts:
        ids, asked, answers = prompt(rows, PROMPT), sorted(names * (rows // len(names))), {}
        uneven = random.Random(SEED).sample([*asked[1:], asked[-1]], rows)

        def together(asked):
            with store.rows(asked):
                return generate(store.model, ids, logits_processor=[clock])

        def one_adapter():
            store.use("a0")
            return generate(store.model, ids, logits_processor=[clock])

        ways = {
            "tinyforge, one adapter": one_adapter,
            "tinyforge, eight": lambda: together(asked),
            "tinyforge, uneven": lambda: together(uneven),
            "peft, one adapter": lambda: generate(model, ids, logits_processor=[clock]),
            "peft, eight": lambda: generate(
                model, ids, logits_processor=[clock], adapter_names=asked
            ),
            "peft, uneven": lambda: generate(
                model, ids, logits_processor=[clock], adapter_names=uneven
            ),
            "base": lambda: generate(base, ids, logits_processor=[clock]),
        }

        def arm(name):
            def one(number):
                nonlocal clock
                with Watch() as watch:
                    clock = Clock(watch)
                    answers[name] = ways[name]()
                return {
                    "": watch.taken,
                    ", first token": clock.at[0],
                    ", further token": [
                        (last - first) / (given.tokens - 1)
                        for first, last in zip(clock.at[0], clock.at[-1])
                    ],
                }

            return one

        clock = None
        here = in_turns(given.rounds, {name: arm(name) for name in ways})
        assert torch.equal(answers["tinyforge, one adapter"], answers["peft, one adapter"])
        for i, way in itertools.product(range(rows), ("eight", "uneven")):
            store.use(name := (asked if way == "eight" else uneven)[i])
            assert torch.equal(
                generate(store.model, ids[i : i + 1])[0], answers[f"tinyforge, {way}"][i]
            ), f"row {i} of the batch is not what {name} answers alone"
        assert not any(
            torch.equal(a, b) for a, b in zip(answers["tinyforge, eight"], answers["base"])
        )
        here = {f"{rows}: {name}": times for name, times in here.items()}
        for tool, way, what in itertools.product(
            ("tinyforge", "peft"),
            ("eight", "uneven"),
            ("", ", first token", ", further token"),
        ):
            ratios.append(
                ratio(
                    here,
                    f"{rows}: {tool}, {way}{what}",
                    f"{rows}: {tool}, one adapter{what}",
                    most=1.15 if (tool, way, what) == ("tinyforge", "eight", "") else None,
                )
            )
        ratios += [
            ratio(here, f"{rows}: {name}", f"{rows}: {other}")
            for name, other in (
                ("tinyforge, one adapter", "base"),
                ("peft, one adapter", "base"),
                ("tinyforge, one adapter", "peft, one adapter"),
                ("peft, eight", "tinyforge, eight"),
            )
        ]
        taken |= here
    return {"taken": taken, "ratios": ratios}


def backend_here():
    "inductor, where it can compile."
    try:
        torch.compile(lambda x: x.sin() + 1, backend="inductor")(torch.ones(3, device=DEVICE))
    except Exception:
        return "aot_eager"
    return "inductor"


def compiled(given):
    backend = given.backend or backend_here()
    base = make_base(given, **SMALL)
    ids = prompt(1, 12)
    with tempfile.TemporaryDirectory() as folder:
        first, new, *others = (
            make_adapters(base, folder, kind)[0]
            for kind in ("plain", "narrow", "attention", "mlp")
        )
        order = [*others, first] * 4
        expected = {path: logits(fresh(base, path), ids) for path in (first, new, *others)}

        def count(model, change, forbidden="default"):
            dynamo.reset()
            counter = CompileCounterWithBackend(backend)
            run = torch.compile(model, backend=counter)

            def ask(path):
                change(path)
                torch.testing.assert_close(
                    logits(run, ids), expected[path], atol=1e-4, rtol=1e-4
                )

            with Watch() as start:
                ask(first)
            once = counter.frame_count
            with Watch() as swaps, torch.compiler.set_stance(forbidden):
                for path in [*order, new]:
                    ask(path)
            return {
                "again": counter.frame_count - once,
                "first": start.taken[0],
                "swaps": swaps.taken[0],
            }

        store = Adapters(twin(base), ON_DEVICE)
        for path in (first, *others):
            store.load(path, path)
        store.prepare_for_compile(HIGHEST, list(store[first].saved.layers))
        model = fresh(base, first)
        for path in (new, *others):
            model.load_adapter(path, path)
        hot = fresh(base, first)
        prepare_model_for_compiled_hotswap(hot, target_rank=HIGHEST)
        model.base_model.set_adapter("default", inference_mode=True)
        by = {
            "tinyforge, use": count(
                store.model,
                lambda path: store.use(store.load(path, path)),
                "fail_on_recompile",
            ),
            "peft, set_adapter": count(
                model,
                lambda path: model.set_adapter(
                    "default" if path == first else path, inference_mode=True
                ),
            ),
            "peft, hotswap_adapter, from the disk": count(
                hot, lambda path: hotswap_adapter(hot, path, "default", torch_device=DEVICE)
            ),
        }
    dynamo.reset()
    swaps, limit = len(order) + 1, dynamo.config.recompile_limit
    return {
        "facts": (
            [
                fact(
                    f"{name}: graphs compiled again in {swaps} swaps, {backend}",
                    n["again"],
                    most=0 if name.startswith("tinyforge") else None,
                )
                for name, n in by.items()
            ]
            + [
                fact(
                    f"{name}: seconds of those swaps and forwards (first forward:"
                    f" {n['first']:.1f})",
                    n["swaps"],
                )
                for name, n in by.items()
            ]
            + [fact("graphs of one function, after which torch.compile gives up", limit)]
        )
    }


def make(given):
    base = make_base(given)
    for kind in KINDS:
        make_adapters(
            base,
            given.folder,
            kind,
            given.loads if kind == "plain" else 2 if kind == "mixed" else 1,
        )
    return {}


PARTS = {
    "swap": swap,
    "load": load,
    "hundred": hundred,
    "memory": memory,
    "equal": equal,
    "batch": batch,
    "compile": compiled,
}


def one(part, arm, given):
    "A part, or one arm of it; its figures."
    torch.set_num_threads(given.threads)
    with torch.no_grad(), quiet(), no_warnings():
        return (PARTS | {"make": make})[part](*((given, arm) if arm else (given,)))


def apart(part, arm, given):
    "The same in a process of its own."
    if given.quick:
        return one(part, arm, given)
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps([part, arm, vars(given)], default=str)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{part} {arm or ''} failed\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def piling(part, given):
    "Arms that take turns, a process each; their medians side by side."
    results = {arm: [] for arm in PILING[part]}
    for number, arm in itertools.product(range(given.rounds_apart), results):
        results[arm].append(apart(part, arm, given))
        print(part, number, arm, flush=True)
    if part == "memory":
        facts = []
        for arm, (one, *_) in results.items():
            for what in ("tensors", "resident"):
                before, after = one["before"][what], one["after"][what]
                facts.append(
                    fact(
                        f"{arm}: {what} after {one['changes']}"
                        f" {'swaps' if arm == 'tinyforge' else 'loads and deletions'}, against"
                        f" before ({before / 1e6:,.1f} MB)",
                        after / before,
                        most=(
                            {"tensors": 1, "resident": 1.01}[what]
                            if arm == "tinyforge"
                            else None
                        ),
                    )
                )
        return {"facts": facts, "each": results}
    some, taken, ratios = max(1, given.loads // 10), {}, []
    for arm, runs in results.items():
        start = f"{arm}, loads 1 to {some}"
        end = f"{arm}, loads {given.loads - some + 1} to {given.loads}"
        for name, part_of in ((start, slice(some)), (end, slice(-some, None))):
            taken[name] = [
                [median(column) for column in zip(*run["taken"][part_of])] for run in runs
            ]
        ratios.append(ratio(taken, end, start, most=1.1 if arm == "tinyforge" else None))
    grown = [
        fact(
            f"{arm}: resident MB more after {given.loads} loads",
            median(run["grown"]["resident"] for run in runs) / 1e6,
        )
        for arm, runs in results.items()
    ]
    tenths = {
        arm: [
            [
                median(cpu for _, cpu in run["taken"][at : at + some])
                for at in range(0, given.loads, some)
            ]
            for run in runs
        ]
        for arm, runs in results.items()
    }
    return {"taken": taken, "ratios": ratios, "facts": grown, "cpu_seconds_by_tenth": tenths}


def show(part, result):
    "The tables of one part."
    print(f"\n{part}")

    def amount(seconds):
        return f"{1e6 * seconds:,.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:,.1f} ms"

    if result.get("taken"):
        print(f"  {'':66}{'wall':>14}{'CPU':>14}")
    for name, times in result.get("taken", {}).items():
        print(
            f"  {name:66}" + "".join(f"{amount(median(column)):>14}" for column in zip(*times))
        )
    for line in result.get("ratios", []) + result.get("facts", []):
        spread = (
            f" [{line['cpu']:,.2f}]  ({min(line['each']):,.2f} to {max(line['each']):,.2f})"
            if "each" in line
            else ""
        )
        goal = (
            f"   {line['target']}: {'met' if line['met'] else 'MISSED'}"
            if line["target"]
            else ""
        )
        digits = 3 if line["value"] < 10 else 1
        if isinstance(line["value"], int):
            digits = 0
        print(f"  {line['name']:110}{line['value']:10,.{digits}f}{spread}{goal}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument(
        "--intermediate", type=int, help="width of the MLP (default: 11/4 of --hidden)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="where arms take turns in one process"
    )
    parser.add_argument(
        "--rounds-apart", type=int, default=2, help="where they have processes of their own"
    )
    parser.add_argument("--loads", type=int, default=100)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--backend",
        help=(
            "of torch.compile (default: inductor where there is a compiler, aot_eager"
            " elsewhere)"
        ),
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / f"adapters_{DEVICE}.json",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        part, arm, settings = json.loads(given.one)
        print(json.dumps(one(part, arm, argparse.Namespace(**settings))))
        return
    given.tokens, given.prompts = 32, [8, 16]
    if given.quick:
        vars(given).update(
            layers=2,
            hidden=64,
            rounds=2,
            rounds_apart=1,
            loads=12,
            swaps=60,
            tokens=4,
            prompts=[8],
            backend="aot_eager",
        )
    given.intermediate = given.intermediate or given.hidden * 11 // 4
    results = {}
    with tempfile.TemporaryDirectory() as given.folder:
        apart("make", None, given)
        for part in given.parts:
            results[part] = piling(part, given) if part in PILING else apart(part, None, given)
            show(part, results[part])
    if given.quick:
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        name: getattr(given, name)
        for name in (
            "layers",
            "hidden",
            "intermediate",
            "rounds",
            "rounds_apart",
            "loads",
            "swaps",
            "tokens",
            "prompts",
        )
    }
    given.out.write_text(
        json.dumps(
            {
                **machine(DEVICE, "accelerate", "safetensors"),
                "threads": given.threads,
                "settings": settings,
                "results": results,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"\nwritten to {given.out}")


if __name__ == "__main__":
    main()
