"What makes a step fast is used where the model itself, asked once, agrees that it is right."

import json
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tinyforge
from tinyforge.compat import onednn_linear, quiet
from tinyforge.compute.attention import choose_batching, flattening_fault
from tinyforge.compute.fast import GATES, IN_PLACE, PRODUCTS, fast_step, short_step
from tinyforge.data.batches import pad
from tinyforge.data.chat import Example
from tinyforge.models.loading import load_tokenizer

ALL = [
    "flattened rows",
    "attention by example",
    "norms in fewer passes",
    "gates computed again",
    "update in place",
    "frozen head in pieces",
]
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2, "initializer_range": 0.2}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {  # model_type -> what its configuration is given
    "llama": WIDE,
    "mixtral": {**WIDE, "num_local_experts": 8},
    "qwen3_moe": {**WIDE, **EXPERTS},
    "gemma2": {**WIDE, "head_dim": 16},
    "mistral": {**WIDE, "sliding_window": 8},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    "opt": {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.2},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
}


def make(kind, **options):
    "A random model of a family, for the tokens of the shipped base."
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=3072, **tokens, **FAMILIES[kind], **options)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def trained(kind, folder):
    "The report of two steps on a random model of a family."
    with quiet():
        make(kind).save_pretrained(folder / "base")
    load_tokenizer().save_pretrained(folder / "base")
    rows = [{"question": f"What is {n}?", "answer": f"It is {n} and more."} for n in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = tinyforge.TrainingConfig(
        model_name=str(folder / "base"),
        output_dir=str(folder / "adapter"),
        learning_rate=1e-2,
        trainer_args={"max_steps": 2},
    )
    return tinyforge.RealTrainer(config).train(folder / "rows.jsonl", show=False)


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_moe"])
def test_case_18_all_of_it_is_used(kind, tmp_path):
    "A dense model and two mixtures: everything that makes a step fast is used, and said."
    result = trained(kind, tmp_path)
    used = [what for what in result.used if what != PRODUCTS]  # if a machine gains by it
    usual = [what for what in ALL if what != GATES or kind == "llama"]  # mixtures have others
    assert used == usual and not result.unused and result.batching == "flattened"
    assert "fast by" in repr(result)


@pytest.mark.parametrize(
    "kind, what, why",
    [
        ("gemma2", "frozen head in pieces", "something is done to its logits"),
        ("mistral", "attention by example", "window of 8 tokens"),
        ("bloom", "flattened rows", ""),
        ("mamba", "flattened rows", ""),
    ],
)
def test_case_18_what_is_not_used_has_a_reason(kind, what, why, tmp_path):
    "What a model does not read rightly is left out, with the reason in the report."
    result = trained(kind, tmp_path)
    assert what not in result.used and why in result.unused[what]
    assert (result.batching == "padded") == (what == "flattened rows")
    assert f"{what}: {result.unused[what]}" in repr(result)


@pytest.mark.parametrize("kind", ["bloom", "opt"])
def test_case_18_still_false(kind):
    "Laid end to end with a mask alone, the examples of these two see each other."
    assert flattening_fault(make(kind))


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_moe"])
def test_case_18_a_leak_of_a_millionth(kind):
    "One part in a million of another example is caught, in mixtures too."
    model = make(kind)
    assert not flattening_fault(model) and not flattening_fault(model, by_example=True)
    block = model.model.layers[0]
    hook = block.register_forward_hook(lambda module, args, out: out + 1e-6 * out[:, :1])
    assert "see" in flattening_fault(model)
    assert "see" in flattening_fault(model, by_example=True)
    hook.remove()


def adapted(kind):
    "A random model with an adapter whose B is not zero."
    lora = LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False)
    with quiet():
        return get_peft_model(make(kind), lora).train()


EXAMPLES = [
    Example(ids, [-100, *ids[1:]], line)
    for line, ids in enumerate(([9, 8, 7, 6, 5], [21, 22, 23], [31, 32, 33, 34, 35, 36, 37]))
]


def step_of(model, batch):
    "Losses and gradients of a batch, of the labelled tokens of all its examples."
    return short_step(model, batch, sum(len(e.input_ids) - 1 for e in EXAMPLES))


def off_by_one(batch):
    "The batch with a border or positions that are wrong by one."
    borders, positions = batch.get("cu_seq_lens_q"), batch["position_ids"]
    for at, by in ((1, 1), (1, -1), (2, -1)) if borders else ():
        moved = [border + by * (i == at) for i, border in enumerate(borders)]
        yield {**batch, "cu_seq_lens_q": moved}
    first = len(EXAMPLES[0].input_ids)
    later, shifted = positions.clone(), positions.clone()
    later[0, first] = first  # the second example begins a token later
    shifted[0, first + 1 :] += 1
    yield {**batch, "position_ids": later}
    yield {**batch, "position_ids": shifted}


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_moe", "gemma2", "mistral"])
def test_all_that_makes_a_step_fast_gives_the_usual_step(kind):
    "Together, beside padded rows and the model's own code; borders are kept to the token."
    model = adapted(kind)
    usual = step_of(model, pad(EXAMPLES, 0))
    batching = choose_batching(model, 7, len(EXAMPLES), 0)
    assert batching.name == "flattened", batching.unused
    with batching.context, fast_step(model, batching.collate, EXAMPLES, "default") as fast:
        assert IN_PLACE in fast.used, fast.unused
        batch = batching.collate(EXAMPLES)
        assert step_of(model, batch).off(usual) < 1e-5
        for wrong in off_by_one(batch):
            assert step_of(model, wrong).off(usual) > 1e-4
    assert step_of(model, pad(EXAMPLES, 0)).off(usual) < 1e-6  # and nothing is left behind


MANY_LENGTHS = """
import psutil, torch
from tinyforge.compat import onednn_linear

torch.set_num_threads(1)
product = onednn_linear()
weight = torch.randn(512, 512)
for rows in range(100, 110):
    product(torch.randn(rows, 512), weight, None)
before = psutil.Process().memory_info().rss
for rows in range(110, 400):
    product(torch.randn(rows, 512), weight, None)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(onednn_linear() is None, reason="torch has no oneDNN here")
def test_batches_of_many_lengths_do_not_fill_the_memory():
    "oneDNN keeps code for each shape, a megabyte; here it keeps few of them."
    usual = {k: v for k, v in os.environ.items() if "CACHE_CAPACITY" not in k}
    command = [sys.executable, "-c", MANY_LENGTHS]
    said = subprocess.check_output(command, text=True, env=usual)
    assert int(said) < 150e6
