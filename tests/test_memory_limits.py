"Memory: the limits of a process are read, and running out has its sentence; nothing is lost."

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch

from tinyforge import RealTrainer, TrainingConfig, load_base
from tinyforge.errors import ConfigError, ModelError, TrainingError
from tinyforge.generation.model import AdaptedModel
from tinyforge.memory.measure import most_allocated

FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
ROWS = [{"question": f"What is {n}?", "answer": f"It is {n + 1}."} for n in range(8)]
QUICK = {"lora_r": 2, "lora_target_modules": ["q_proj"], "batch_size": 2, "num_epochs": 2}


def with_limit(code, *limits):
    "What a process prints that may only take so many bytes more than it has: name, bytes."
    start = "\n".join(
        (
            "import resource, psutil, torch",
            "torch.set_num_threads(1)",
            "import tinyforge",
            "from tinyforge import RealTrainer, TrainingConfig",
            "from tinyforge.limits import free_memory",
            "RealTrainer(TrainingConfig()).load()",
            "def limit(name, more):",
            "    taken = psutil.Process().memory_info()",
            "    now = taken.vms if name == 'RLIMIT_AS' else taken.data",
            "    most = resource.getrlimit(getattr(resource, name))[1]",
            "    resource.setrlimit(getattr(resource, name), (now + more, most))",
        )
    )
    run = [sys.executable, "-c", start + "\n" + code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_shells_limit_is_read_before_a_run(name):
    "`ulimit -v` and `ulimit -d` count as the machine's memory does."
    code = f"""
limit({name!r}, 900 << 20)
assert free_memory("cpu") <= 900 << 20, free_memory("cpu")
rows = [{{"text": "ball " * 511}}] * 64
config = TrainingConfig(batch_size=64, max_length=512, use_lora=False)
try:
    RealTrainer(config).train(rows, show=False)
except tinyforge.TinyforgeError as e:
    print(type(e).__name__, e)
"""
    said = with_limit(code)
    assert "ConfigError" in said and "are free" in said and "batch_size=" in said, said


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit")
def test_a_real_allocator_that_runs_out():
    "Beams beyond the limit, where the check was wrong: the error says what to change."
    code = """
import tinyforge.generation.answering as a
a.free_memory = lambda device: 1 << 60
trainer = RealTrainer(TrainingConfig())
trainer.load()
limit("RLIMIT_AS", 300 << 20)
try:
    trainer.generate("What is red?", num_beams=10_000)
except tinyforge.TinyforgeError as e:
    print(type(e).__name__, e)
print(trainer.generate("What is red?", max_new_tokens=2))
"""
    said = with_limit(code)
    assert "ConfigError generate: memory ran out in an answer" in said, said
    assert "fewer num_beams" in said and "Traceback" not in said


def test_a_step_that_runs_out_keeps_what_was_trained(tmp_path):
    "The weights before the step are kept; the trainer is as it was, and trains again."
    from tinyforge.training import steps

    config = TrainingConfig(output_dir=str(tmp_path / "out"), save_steps=2, **QUICK)
    trainer, losses = RealTrainer(config), []
    real = steps.token_losses

    def losing(*args):
        losses.append(1)
        if len(losses) == 4:
            raise FULL
        return real(*args)

    with patch.object(steps, "token_losses", losing):
        with pytest.raises(TrainingError, match="memory ran out in step 4") as error:
            trainer.train(ROWS, show=False)
    for way in ("batch_size", "gradient_checkpointing", "max_length", "load_in_4bit"):
        assert way in error.value.do
    assert "resume=True goes on from step-000000002" in error.value.do
    assert "before-000000004, to begin from" in error.value.do
    kept = tmp_path / "out.checkpoints" / "before-000000004"
    RealTrainer(TrainingConfig(lora_path=str(kept))).load()
    result = RealTrainer(config).train(ROWS, show=False, resume=True)
    assert result.steps == 8
    whole = TrainingConfig(output_dir=str(tmp_path / "whole"), save_steps=2, **QUICK)
    RealTrainer(whole).train(ROWS, show=False)
    names = [f / "adapter_model.safetensors" for f in (tmp_path / "out", tmp_path / "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize("error", [FULL, MemoryError(), torch.OutOfMemoryError("CUDA out")])
def test_every_place_says_it(error, tmp_path):
    "Loading, answering, streaming, evaluating, sorting."
    with patch("transformers.AutoModelForCausalLM.from_pretrained", side_effect=error):
        with pytest.raises(ModelError, match="memory ran out while it was loaded") as said:
            load_base()
    assert "load_in_4bit" in said.value.do
    model = AdaptedModel()
    model.load()
    calls = (
        lambda: model.generate("Hi"),
        lambda: "".join(model.stream("Hi")),
        lambda: model.evaluate(ROWS, show=False),
    )
    for call in calls:
        with patch.object(type(model.base), "forward", side_effect=error):
            with pytest.raises(ConfigError, match="memory ran out") as said:
                call()
        assert "batch_size" in said.value.do
    assert model.generate("Hi", max_new_tokens=2)


def test_beams_are_counted_before_they_are_asked(capsys):
    "10,000 beams are refused where they do not fit, and are said where they do."
    model = AdaptedModel()
    model.load()
    with patch("tinyforge.generation.answering.free_memory", lambda device: 1 << 29):
        asked = patch.object(type(model.base), "forward", side_effect=AssertionError("asked"))
        for ask in (model.generate, lambda *a, **o: "".join(model.stream(*a, **o))):
            with asked, pytest.raises(ConfigError, match="10,000 beams") as error:
                ask("What is red?", num_beams=10_000)
            assert "fewer num_beams" in error.value.do
        assert model.generate("What is red?", num_beams=4, max_new_tokens=2)


@pytest.mark.parametrize("beams", [100, 400])
def test_what_answers_take_is_known(beams):
    "The estimate is near what the allocator counts."
    from tinyforge.generation.answering import answer_bytes

    model, ids = load_base(), torch.full((1, 9), 5)
    told = {"num_beams": beams, "max_new_tokens": 24, "min_new_tokens": 24}

    def ask():
        with torch.no_grad():
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **told)

    measured = most_allocated(ask, "cpu")
    assert 0.7 * measured < answer_bytes(model, 9, 24, beams) < 1.6 * measured


def test_the_command_says_it(capsys):
    from tinyforge.cli import main

    with patch("tinyforge.count_parameters", side_effect=MemoryError()):
        assert main(["params", "tinyforge-base"]) == 1
    assert "memory ran out in params" in capsys.readouterr().err


