"""Real weights: SmolLM2-135M-Instruct, each result beside that of plain transformers and PEFT.

python tools/real_model.py FOLDER; TINYFORGE_REAL_MODEL=FOLDER pytest --flags real
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tinyforge
from tinyforge.compat import quiet
from tinyforge.compute.attention import flattening_fault
from tinyforge.compute.fast import PRODUCTS
from tinyforge.data.batches import pad
from tinyforge.data.examples import load_examples

pytestmark = pytest.mark.flag("real")

QUESTION = "A baker bakes 12 rolls an hour. How many rolls are there after 5 hours?"
ROWS = [  # question and answer, with the sums written out, as public sets of such rows have it
    (QUESTION, "After 5 hours there are 5*12 = <<5*12=60>>60 rolls.\n#### 60"),
    (
        "Ada has 17 stamps and gives 9 of them away. How many are left?",
        "She has 17-9 = <<17-9=8>>8 stamps left.\n#### 8",
    ),
    (
        "A train runs 80 km in the first hour and 95 km in the second. How far is that?",
        "Together it runs 80+95 = <<80+95=175>>175 km.\n#### 175",
    ),
    (
        "Tickets cost 7 euros, and children pay half. What do 2 adults and 4 children pay?",
        "Adults pay 2*7 = <<2*7=14>>14 euros.\nChildren pay 4*3.5 = <<4*3.5=14>>14 euros.\n"
        "Together they pay 14+14 = <<14+14=28>>28 euros.\n#### 28",
    ),
    (
        "A shelf holds 24 books. 3 shelves are full, and a fourth one is half full. How many"
        " books are there?",
        "The full ones hold 3*24 = <<3*24=72>>72 books.\nHalf a shelf is 24/2 = <<24/2=12>>12."
        "\nTogether there are 72+12 = <<72+12=84>>84 books.\n#### 84",
    ),
    ("What is a dozen of dozens?", "It is 12*12 = <<12*12=144>>144.\n#### 144"),
    (
        "Milk costs 1.20 a litre. What do 5 litres cost?",
        "They cost 5*1.2 = $<<5*1.2=6>>6.\n#### 6",
    ),
    (
        "Of 40 seats a quarter is taken. How many are free?",
        "Taken are 40/4 = <<40/4=10>>10.\nFree are 40-10 = <<40-10=30>>30.\n#### 30",
    ),
    (
        "Tom runs 3 rounds of 400 m on each of 5 days. How many metres are that?",
        "A day has 3*400 = <<3*400=1200>>1200 m.\nFive days have 5*1200 = <<5*1200=6000>>6000"
        " m.\n#### 6000",
    ),
    (
        "A rope of 18 m is cut into pieces of 1.5 m. How many pieces are there?",
        "There are 18/1.5 = <<18/1.5=12>>12 pieces.\n#### 12",
    ),
]
STEPS, RATE = 3, 2e-4


@pytest.fixture(scope="module")
def folder():
    "Where `tools/real_model.py` has put the model."
    place = os.environ.get("TINYFORGE_REAL_MODEL")
    assert place, "run tools/real_model.py, and name its folder in TINYFORGE_REAL_MODEL"
    return str(Path(place).resolve())


@pytest.fixture(scope="module")
def plain(folder):
    "The model as transformers loads it."
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder with the ten rows in it."
    place = tmp_path_factory.mktemp("real")
    lines = (json.dumps({"question": q, "answer": a}) for q, a in ROWS)
    (place / "rows.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def trained(folder, work):
    "A trainer after three steps over all rows, and its report."
    config = tinyforge.TrainingConfig(
        model_name=folder,
        output_dir=str(work / "adapter"),
        num_epochs=STEPS,
        batch_size=len(ROWS),
        learning_rate=RATE,
        trainer_args={"lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0},
    )
    trainer = tinyforge.RealTrainer(config)
    return trainer, trainer.train(work / "rows.jsonl", show=False)


def logits(model, text):
    ids = torch.tensor([text])
    with torch.no_grad(), quiet():
        return model(input_ids=ids, use_cache=False).logits


def share(a, b):
    "How far two tensors are apart, as a share of the second."
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def probe(trained):
    "The tokens of a row."
    rows = [{"question": q, "answer": a} for q, a in ROWS]
    return load_examples(rows, trained[0].tokenizer)[0].input_ids


def test_it_is_counted_as_it_is(folder, plain):
    from peft import LoraConfig, get_peft_model

    assert tinyforge.count_parameters(folder).total == plain.num_parameters() == 134_515_008
    with torch.device("meta"):
        shape = type(plain)(plain.config)
    theirs = get_peft_model(shape, LoraConfig(r=8, target_modules="all-linear"))
    ours = tinyforge.count_parameters(folder, r=8)
    assert ours.trainable == theirs.get_nb_trainable_parameters()[0]


def test_what_a_step_takes_is_estimated_before_it_runs(folder):
    settings = {"r": 8, "batch_size": 2, "seq_len": 64, "dtype": "float32", "device": "cpu"}
    guess = tinyforge.estimate_memory(folder, **settings).peak
    took = tinyforge.measure_memory(folder, **settings).peak
    assert abs(guess / took - 1) < 0.02, (guess, took)


def test_case_18_nothing_that_makes_a_step_fast_is_left_out(trained):
    _, result = trained
    used = [what for what in result.used if what != PRODUCTS]  # if a machine gains by it
    assert used == [
        "flattened rows",
        "attention by example",
        "shared beginnings",
        "norms in fewer passes",
        "gates computed again",
        "update in place",
        "frozen head in pieces",
    ]
    assert result.unused == {} and result.steps == STEPS
    assert "fast by" in repr(result)


def test_case_18_words_that_are_foreseen_have_a_head_in_pieces(folder, tmp_path):
    "Where the base is nearly certain, the usual losses are rounded more than its layers."
    repeated = (("what is " + "x " * n, "it is " + "y " * 2 * n) for n in range(5, 13))
    rows = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in repeated]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = tinyforge.TrainingConfig(
        model_name=folder, output_dir=str(tmp_path / "adapter"), num_epochs=1, lora_r=16
    )
    result = tinyforge.RealTrainer(config).train(tmp_path / "rows.jsonl", show=False)
    assert "frozen head in pieces" in result.used, result.unused


@pytest.mark.parametrize("block", [0, 29])
def test_case_18_a_leak_of_a_millionth_is_caught(plain, block):
    def leak(module, args, out):
        return out + 1e-6 * out[:, :1]

    hook = plain.model.layers[block].register_forward_hook(leak)
    try:
        assert "see each other" in flattening_fault(plain, by_example=True)
    finally:
        hook.remove()


def test_it_is_trained_as_transformers_and_peft_train_it(folder, work, trained):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    trainer, result = trained
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        torch.manual_seed(0)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
        model = get_peft_model(base, lora).train()
    batch = pad(list(load_examples(work / "rows.jsonl", trainer.tokenizer)), 0)
    labels = torch.nn.functional.pad(batch.pop("labels"), (1, 0), value=-100)[:, :-1]
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    ours = [loss for _, loss in result.losses]
    assert ours == pytest.approx(losses, rel=1e-4)
    saved = load_file(work / "adapter" / "adapter_model.safetensors")
    theirs = {name.replace(".default", ""): p for name, p in model.named_parameters()}
    for name, tensor in saved.items():
        # the first steps of Adam turn tiny gradients into whole steps
        assert share(tensor, theirs[name].detach()) < 0.05, name


def test_its_adapter_opens_in_plain_peft(plain, work, trained, probe):
    from peft import PeftModel

    trainer, _ = trained
    with quiet():
        theirs = PeftModel.from_pretrained(plain, work / "adapter").eval()
    try:
        ours, bare = logits(trainer.model, probe), logits(trainer.base, probe) * 0
        assert share(ours, logits(theirs, probe)) < 1e-5
        with theirs.disable_adapter():
            bare = logits(theirs, probe)
        assert share(ours, bare) > 1e-4  # it has learned something
        ids = trainer.tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad(), quiet():
            written = theirs.generate(**ids, max_new_tokens=24, do_sample=False)
        new = written[0, ids["input_ids"].shape[1] :]
        answer = trainer.tokenizer.decode(new, skip_special_tokens=True)
        assert trainer.generate(QUESTION, max_new_tokens=24) == answer and answer.strip()
    finally:
        theirs.unload()


def test_it_is_reloaded_merged_and_swapped(folder, plain, work, trained, probe):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer, _ = trained
    said = logits(trainer.model, probe)
    other = work / "other"
    other.mkdir()
    tensors = load_file(work / "adapter" / "adapter_model.safetensors")
    changed = {n: -2 * t if "lora_B" in n else t for n, t in tensors.items()}
    save_file(changed, other / "adapter_model.safetensors", {"format": "pt"})
    config = (work / "adapter" / "adapter_config.json").read_text()
    (other / "adapter_config.json").write_text(config)
    again = tinyforge.RealTrainer(tinyforge.TrainingConfig(model_name=folder))
    again.load_lora(work / "adapter", "first")
    again.load_lora(other, "second")
    for name in ("first", "second", "first"):
        again.active = name
        place = work / "adapter" if name == "first" else other
        with quiet():
            theirs = PeftModel.from_pretrained(plain, place).eval()
        try:
            assert share(logits(again.model, probe), logits(theirs, probe)) < 1e-5
        finally:
            theirs.unload()
    assert share(logits(again.model, probe), said) < 1e-6
    tinyforge.merge_adapter(work / "adapter", work / "merged", dtype="float32")
    with quiet():
        merged = AutoModelForCausalLM.from_pretrained(work / "merged", dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, work / "adapter").merge_and_unload()
    assert share(logits(merged, probe), logits(theirs, probe)) < 1e-5
