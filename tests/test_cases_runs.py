"""Runs as people bring them: cases 29 to 34 of the list, each with what a user sees."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkout import first_rows

SLOW = pytest.mark.flag("slow")
QUICK = {"num_epochs": 1, "learning_rate": 1e-2, "batch_size": 8}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return first_rows(tmp_path_factory.mktemp("data"), 22)


@pytest.fixture(scope="module")
def adapter(rows, tmp_path_factory):
    "A folder with an adapter of the shipped base."
    from tinyforge import RealTrainer, TrainingConfig

    folder = tmp_path_factory.mktemp("trained") / "adapter"
    RealTrainer(TrainingConfig(output_dir=str(folder), **QUICK)).train(rows, show=False)
    return folder


def weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def farthest(a, b):
    "The largest difference between the weights in two folders."
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def report_in(folder):
    notes = json.loads((Path(folder) / "tinyforge.json").read_text(encoding="utf-8"))
    return notes["result"]


def test_case_29_second_training(rows, adapter, tmp_path, monkeypatch):
    "A second training takes a new folder, or is refused; the first adapter stays as it is."
    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    short = {**QUICK, "num_epochs": 0.3}
    first, second = (
        RealTrainer(TrainingConfig(**short)).train(rows, show=False).output_dir
        for _ in range(2)
    )
    assert first != second and Path(first).is_dir() and Path(second).is_dir()
    shutil.copytree(adapter, "mine")
    before = (Path("mine") / "adapter_model.safetensors").read_bytes()
    trainer = RealTrainer(TrainingConfig(output_dir="mine", **{**short, "seed": 5}))
    for resume in (None, False, True):
        with pytest.raises(ConfigError, match="holds an adapter trained on rows.jsonl") as e:
            trainer.train(rows, show=False, resume=resume)
    assert "overwrite_output_dir=True" in e.value.do and trainer.base is None
    assert (Path("mine") / "adapter_model.safetensors").read_bytes() == before
    told = TrainingConfig(output_dir="mine", overwrite_output_dir=True, **short)
    RealTrainer(told).train(rows, show=False)
    assert (Path("mine") / "adapter_model.safetensors").read_bytes() != before


SCRIPT = """
import json, sys
from tinyforge import RealTrainer, TrainingConfig

settings = json.loads(sys.argv[1])
rows = settings.pop("rows")
print("once")
result = RealTrainer(TrainingConfig(**settings)).train(rows, show=False)
print("examples", result.examples)
"""


def train_in(processes, folder, rows, batch_size, launcher=(), **settings):
    "A run of 22 examples in steps of eight, as a launcher starts it."
    script = folder.parent / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    usual = {"num_epochs": 2, "learning_rate": 1e-3, "eval_fraction": 0.2, "eval_steps": 2}
    given = {**usual, **settings, "rows": str(rows), "output_dir": str(folder)}
    given["batch_size"] = batch_size
    command = [sys.executable, str(script)]
    if processes > 1:
        many = ["--nproc-per-node", str(processes), str(script)]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *many]
    command = [*launcher, str(script)] if launcher else command
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    text = json.dumps(given)
    return subprocess.run(
        [*command, text], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def alone(rows, tmp_path_factory):
    "The folder of the run that one process makes."
    folder = tmp_path_factory.mktemp("alone") / "adapter"
    done = train_in(1, folder, rows, 8)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(folder, alone):
    here, there = report_in(folder), report_in(alone)
    for name in ("examples", "steps", "best_step", "trainable_parameters", "batching"):
        assert here[name] == there[name], name
    for name in ("losses", "evaluations"):
        assert [step for step, _ in here[name]] == [step for step, _ in there[name]]
        pairs = zip(here[name], there[name])
        assert max(abs(a[1] - b[1]) for a, b in pairs) < 1e-4, name
    read, wanted = (r["tokens_per_second"] * r["seconds"] for r in (here, there))
    assert abs(read - wanted) < 1
    assert farthest(folder, alone) < 5e-5


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=SLOW)])
def test_case_30_processes(processes, rows, alone, tmp_path):
    "Several processes with the same total batch make the run that one process makes."
    done = train_in(processes, tmp_path / "many", rows, 8 // processes)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "many", alone)


@SLOW
def test_case_30_spread_weights(rows, alone, tmp_path):
    "Under FSDP, too; the adapter is saved whole."
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"]
    launcher += ["--fsdp_version", "2", "--num_processes", "2"]
    done = train_in(2, tmp_path / "spread", rows, 4, launcher)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "spread", alone)


@SLOW
def test_case_30_failure_ends_all(rows, alone, tmp_path):
    "What stops a run is said, and no process waits for ever."
    shutil.copytree(alone, tmp_path / "taken")
    done = train_in(2, tmp_path / "taken", rows, 4, learning_rate=2e-3)
    assert done.returncode != 0 and "holds an adapter" in done.stderr


def test_case_31_callbacks(rows, tmp_path):
    "Callbacks see Trainer's events and a model that answers, and may end the run."
    from tinyforge import RealTrainer, TrainingConfig
    from transformers import TrainerCallback

    seen = {"logs": set()}

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kw):
            seen["begun"] = True

        def on_log(self, args, state, control, logs=None, **kw):
            seen["logs"] |= logs.keys()

        def on_evaluate(self, args, state, control, metrics=None, **kw):
            seen["eval_loss"] = metrics["eval_loss"]

        def on_step_end(self, args, state, control, model=None, **kw):
            ids = trainer.tokenizer("What is", return_tensors="pt")["input_ids"]
            seen["written"] = model.generate(ids, max_new_tokens=3, do_sample=False)
            seen["logits"] = model(ids).logits.shape[-1]
            control.should_training_stop = state.global_step == 2

        def on_train_end(self, args, state, control, **kw):
            seen["ended"] = state.global_step

    config = TrainingConfig(
        output_dir=str(tmp_path / "out"), report_to="none", eval_fraction=0.2, **QUICK
    )
    trainer = RealTrainer(config, callbacks=[Watch])
    result = trainer.train(rows, show=False)
    assert seen["begun"] and seen["ended"] == 2 == result.steps
    assert "a callback asked to stop" in result.stopped
    named = "loss grad_norm learning_rate epoch eval_loss train_runtime train_loss".split()
    assert seen["logs"].issuperset(named)
    assert seen["logits"] == 3072 and seen["written"].shape[1] > 3
    assert result.evaluations[-1] == (2, seen["eval_loss"])


def test_case_31_reporters(rows, tmp_path):
    "A missing reporter is said before the training; tensorboard has the right figures."
    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import ConfigError

    config = TrainingConfig(output_dir=str(tmp_path / "out"), report_to="wandb", **QUICK)
    trainer = RealTrainer(config)
    with pytest.raises(ConfigError, match="report_to: 'wandb' cannot be used"):
        trainer.train(rows, show=False)
    assert trainer.base is None
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer.config = TrainingConfig(
        output_dir=str(tmp_path / "out"), report_to="tensorboard", eval_fraction=0.2, **QUICK
    )
    result = trainer.train(rows, show=False)
    [file] = (tmp_path / "out" / "runs").glob("*/*")
    events = EventAccumulator(str(file))
    events.Reload()
    logged = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert [step for step, _ in logged] == [step for step, _ in result.losses]
    assert all(abs(a[1] - b[1]) < 1e-4 for a, b in zip(logged, result.losses))


def test_case_31_push_to_hub(rows, tmp_path):
    "Nobody learns after the training that nothing can be pushed."
    from unittest.mock import patch

    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import ConfigError

    config = TrainingConfig(output_dir=str(tmp_path / "out"), push_to_hub=True, **QUICK)
    trainer = RealTrainer(config)
    with patch("tinyforge.training.publishing.offline", lambda: True):
        with pytest.raises(ConfigError, match="push_to_hub: the Hub cannot be reached"):
            trainer.train(rows, show=False)
    assert trainer.base is None and not (tmp_path / "out").exists()


def test_case_32_save_pretrained(adapter, tmp_path):
    "`trainer.model.save_pretrained` writes the adapter that answers, not the bare base."
    import copy
    import pickle

    from tinyforge import RealTrainer, TrainingConfig

    trainer = RealTrainer(TrainingConfig(lora_path=str(adapter)))
    trainer.load_lora(adapter)
    trainer.model.save_pretrained(tmp_path / "saved")
    assert farthest(tmp_path / "saved", adapter) == 0
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    with pytest.warns(UserWarning, match="without .*adapter"):
        trainer.model.state_dict()
    for bare in (copy.deepcopy(trainer.model), pickle.loads(pickle.dumps(trainer.model))):
        bare.save_pretrained(tmp_path / "bare")
        assert (tmp_path / "bare" / "model.safetensors").exists()
    trainer.active = None
    trainer.model.save_pretrained(tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors").exists()


ALONE = """
import sys
from peft import AutoPeftModelForCausalLM
import torch
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    print(model(torch.tensor([[5, 6, 7]])).logits.double().sum().item())
assert not any(name.startswith("tinyforge") for name in sys.modules)
"""


def as_peft_sees_it(folder, where):
    "The sum of the logits in a process that knows PEFT only, in another folder."
    run = [sys.executable, "-c", ALONE, str(folder)]
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    outside["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(run, capture_output=True, text=True, cwd=where, env=outside)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def logits_of(trainer):
    import torch

    with torch.no_grad():
        return trainer.model(torch.tensor([[5, 6, 7]])).logits.double().sum().item()


def test_case_33_plain_peft(adapter, tmp_path):
    "AutoPeftModelForCausalLM finds a base whose path is noted; an adapter can be moved."
    from tinyforge import RealTrainer, TrainingConfig, read_adapter
    from tinyforge.adapters.files import write_adapter

    trainer = RealTrainer(TrainingConfig(lora_path=str(adapter)))
    trainer.load_lora(adapter)
    saved = read_adapter(adapter)
    saved.origin["config"]["notes"] = "paths"
    write_adapter(saved, tmp_path / "with-paths")
    seen = as_peft_sees_it(tmp_path / "with-paths", tmp_path)
    assert seen == pytest.approx(logits_of(trainer), rel=1e-6)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    moved = shutil.copytree(adapter, tmp_path / "moved")
    settings["base_model_name_or_path"] = "/elsewhere/tinyforge/models/base"
    (moved / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    RealTrainer(TrainingConfig()).load_lora(moved)
    (moved / "tinyforge.json").unlink()  # and by that path alone
    RealTrainer(TrainingConfig()).load_lora(moved)


def test_case_33_relative_base(rows, tmp_path, monkeypatch):
    "A base given as ../models/mine is found from another folder, by PEFT and by this library."
    from tinyforge import RealTrainer, TrainingConfig, load_base, read_adapter
    from tinyforge.models.loading import load_tokenizer

    load_base().save_pretrained(tmp_path / "models" / "mine")
    load_tokenizer().save_pretrained(tmp_path / "models" / "mine")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = {"model_name": "../models/mine", "output_dir": "out", "notes": "paths", **QUICK}
    trainer = RealTrainer(TrainingConfig(**given))
    trainer.train(rows, show=False)
    other = tmp_path / "some" / "other"
    other.mkdir(parents=True)
    monkeypatch.chdir(other)
    out = tmp_path / "work" / "out"
    assert as_peft_sees_it(out, other) == pytest.approx(logits_of(trainer))
    base = read_adapter(out).base
    assert Path(base) == tmp_path / "models" / "mine"
    RealTrainer(TrainingConfig(model_name=base)).load_lora(out)


def test_case_34_threads(adapter, tmp_path):
    "What changes the weights waits for a batch; each answer is that of one state."
    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import AdapterError

    trainer = RealTrainer(TrainingConfig())
    trainer.load_lora(adapter, "mine")
    question, short = "What is anaemia?", {"max_new_tokens": 4}
    mine = trainer.generate(question, **short)
    trainer.active = None
    known, faults = {mine, trainer.generate(question, **short)}, []
    store, held, ended = trainer.adapters, threading.Event(), threading.Event()
    store.merge("mine")

    def unmerge():
        held.wait()
        store.unmerge()
        ended.set()

    waiting = threading.Thread(target=unmerge)
    waiting.start()
    with store.lock:
        held.set()
        assert not ended.wait(0.3) and store.merged is not None
    waiting.join()
    assert store.merged is None

    def repeat(*calls):
        for _ in range(8):
            for call in calls:
                try:
                    call()
                except AdapterError:
                    pass  # it was merged, or was not
                except BaseException as e:
                    faults.append(e)

    def ask():
        said = trainer.generate(question, **short)
        if said not in known:
            faults.append(said)

    jobs = [
        (ask, lambda: list(store), store.list),
        (lambda: store.merge("mine"), store.unmerge),
        (lambda: store.use("mine"), lambda: store.use(None)),
        (lambda: store.unload("mine"), lambda: trainer.load_lora(adapter, "mine")),
    ]
    threads = [threading.Thread(target=repeat, args=calls) for calls in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_case_31_what_a_callback_is_given(rows, tmp_path):
    "The tokenizer is there; what is no callback is named, before anything is trained."
    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import ConfigError
    from transformers import TrainerCallback

    lengths = []

    class Reads(TrainerCallback):
        def on_step_end(self, args, state, control, processing_class=None, **kw):
            lengths.append(len(processing_class("Hi")["input_ids"]))

    class Needs(TrainerCallback):
        def __init__(self, something):
            self.something = something

    short = {**QUICK, "num_epochs": 0.2, "output_dir": str(tmp_path / "adapter")}
    trainer = RealTrainer(TrainingConfig(**short), callbacks=Reads)
    trainer.train(rows, show=False)
    assert lengths and min(lengths) > 0
    for given, message in ((3, "int is no callback"), ([Needs], "made without arguments")):
        with pytest.raises(ConfigError, match=message):
            trainer.train(rows, show=False, callbacks=given)


def test_case_31_settings_by_their_older_names(rows, tmp_path):
    "What TrainingArguments no longer takes is called by its successor."
    from tinyforge import RealTrainer, TrainingConfig
    from tinyforge.errors import ConfigError

    for name, value, successor in (
        ("warmup_ratio", 0.1, "warmup_steps"),
        ("max_seq_length", 64, "max_length"),
        ("evaluation_strategy", "epoch", "eval_steps"),
    ):
        config = TrainingConfig(output_dir=str(tmp_path / "a"), trainer_args={name: value})
        with pytest.raises(ConfigError) as e:
            RealTrainer(config).train(rows, show=False)
        assert successor in e.value.do
