"""Options of odd types and sizes: an answer or a sentence, in time, and the base as it was.

Seeded; `--flags fuzz` tries more of them. The figures are printed: `pytest -s`.
"""

import contextlib
import hashlib
import io
import math
import random
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tinyforge import RealTrainer, TrainingConfig
from tinyforge.errors import TinyforgeError
from tinyforge.generation.model import AdaptedModel
from transformers import GenerationConfig

SECONDS = 10  # of computing that a case may take
SECONDS_OF_TRAINING = 60  # it takes one when nothing else runs
QUESTION = "How do I reset my password?"
ROWS = [{"question": f"What is {n}?", "answer": f"{n} is a number."} for n in range(4)]
ODD = [
    *(None, True, False, 0, 1, -1, 2, 3.7, -0.5, 0.5, 1.5, 10**30, 2**31, 2**63, -(2**63)),
    *(math.nan, math.inf, -math.inf, 1e308, 1e-320, 10**400, complex(1, 2)),
    *("", "a", "0.5", "auto", "nan", "\0", "\ud800", "a" * 300, "~nobody", b"x", Path("x")),
    *([], [0], [1, 2], [[1]], [[[5], -1.0]], ["a"], [None], (), (1,), range(3)),
    *({}, {"a": 1}, {1: 2}, {(1,): 2.0}, set(), {1}, object(), len, float),
    *(torch.tensor(1.0), torch.tensor([1, 2]), torch.tensor(math.nan), torch.float16),
]
OF_THE_CALL = """max_new_tokens batch_size adapters adapter system chat stop seed n prompt
streamer tokenizer inputs_embeds input_ids attention_mask negative_prompt_ids labels max_tokens
stop_strings logits_processor stopping_criteria prefix_allowed_tokens_fn custom_generate
synced_gpus trust_remote_code position_ids past_key_values use_model_defaults foo""".split()
HUGE = ("num_beams", "num_beam_groups")  # what these take has a limit of its own


def options_known():
    "What may be set, by transformers and here."
    theirs = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    return sorted({*theirs, *OF_THE_CALL} - {"transformers_version", *HUGE})


def some_options(rng, names, values=ODD):
    "One to three options, each with any value."
    return {rng.choice(names): rng.choice(values) for _ in range(rng.choice((1, 1, 2, 3)))}


@pytest.fixture(scope="module")
def cases(request):
    "How many of each are tried."
    return 500 if "fuzz" in request.config.option.flags.split() else 250


@pytest.fixture(scope="module")
def model():
    asked = AdaptedModel()
    asked.load()
    return asked


def state_of(model):
    "What tells whether a base is as it was: weights, settings, and what it answers."
    digest = hashlib.sha256()
    for name, tensor in model.base.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    settings = model.base.config.to_dict(), model.base.generation_config.to_dict()
    return digest.hexdigest(), settings, model.generate(QUESTION, 3)


class Tally:
    "Counts how cases end; what is none of our errors is kept with what caused it."

    def __init__(self, seconds=SECONDS):
        self.seconds, self.ends, self.other = seconds, Counter(), []

    def try_out(self, options, run):
        "Run a case; whether it went right."
        began, end = time.process_time(), "right"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run()
        except TinyforgeError as e:
            assert str(e).strip(), options
            end = "refused"
        except Exception as e:
            end = "other"
            self.other.append((options, repr(e)[:200]))
        seconds = time.process_time() - began
        assert seconds < self.seconds, (options, seconds)
        self.ends[end] += 1
        return end == "right"

    def close(self, what):
        "Print the figures; fails if anything else happened."
        tried = sum(self.ends.values())
        figures = ", ".join(f"{self.ends[end]} {end}" for end in ("right", "refused", "other"))
        print(f"\n{what}: {tried} tried, {figures}")
        assert not self.other, self.other[:5]


@pytest.mark.filterwarnings("ignore")
def test_generation_options(model, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, tally, names, before = random.Random(0), Tally(), options_known(), state_of(model)
    for _ in range(cases):
        options = {"max_new_tokens": 3, **some_options(rng, names)}
        tally.try_out(options, lambda: model.generate(QUESTION, **options))
        assert state_of(model) == before, options
    tally.close("generation options")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "options",
    [
        {"assistant_early_exit": -1},  # cut the base itself, for good
        {"assistant_early_exit": 1},
        {"custom_generate": "a"},  # would load code
        {"trust_remote_code": True},
        {"eos_token_id": math.nan},
        {"pad_token_id": math.inf},
        {"bos_token_id": 1e308},
        {"decoder_start_token_id": -math.inf},
        {"n": torch.tensor([1, 2])},
        {"num_return_sequences": torch.tensor([1, 2])},
        {"penalty_alpha": torch.tensor([1, 2])},
        {"length_penalty": torch.tensor([1, 2])},
        {"temperature": 10**400},
        {"temperature": 0.5, "do_sample": False},
        {"max_new_tokens": True},
    ],
)
def test_odd_options_are_refused(model, options):
    before = state_of(model)
    with pytest.raises(TinyforgeError):
        model.generate(QUESTION, **{"max_new_tokens": 3, **options})
    assert state_of(model) == before


@pytest.mark.parametrize("prompts", [torch.tensor(1.0), 5, b"x", object(), {"a": 1}, None])
def test_odd_prompts_are_refused(model, prompts):
    with pytest.raises(TinyforgeError):
        model.generate(prompts, 3)


def is_quick(config):
    "Whether a training by a configuration is short."
    pieces = config.batch_size * config.gradient_accumulation_steps * config.max_length
    return pieces <= 64 * 1024 and config.num_epochs <= 3 and config.lora_r <= 64


@pytest.mark.filterwarnings("ignore")
def test_training_options(cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, tally, trained = random.Random(1), Tally(), Tally(SECONDS_OF_TRAINING)
    names = [field.name for field in fields(TrainingConfig)]
    may_be = {"here", "here.checkpoints", ".here.tinyforge-lock"}
    left = cases // 25  # trainings, which take longer
    RealTrainer(TrainingConfig(output_dir="here")).train(ROWS)  # the first imports much
    for _ in range(2 * cases):
        options, made = some_options(rng, [*names, "r", "foo"]), []
        tally.try_out(options, lambda: made.append(TrainingConfig(**options)))
        if not made or not left or not is_quick(made[0]):
            continue
        left -= 1
        here = {**options, "output_dir": str(tmp_path / "here"), "overwrite_output_dir": True}
        trained.try_out(here, lambda: RealTrainer(TrainingConfig(**here)).train(ROWS))
        assert {path.name for path in tmp_path.iterdir()} <= may_be, here
    tally.close("fields of TrainingConfig")
    trained.close("trainings by what was accepted")
