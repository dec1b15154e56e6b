"A beginning that examples share is computed once, and nothing of what is learned changes."

import json
import random
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import tinyforge
from tinyforge.compat import quiet
from tinyforge.compute import beginnings, paths
from tinyforge.compute.attention import attention_by_example
from tinyforge.compute.beginnings import SHARED, Sharing, sharing_fault
from tinyforge.compute.head import token_losses
from tinyforge.compute.rounding import distance
from tinyforge.data import trees
from tinyforge.data.batches import flatten
from tinyforge.data.chat import IGNORED, Example
from tinyforge.data.trees import flatten_shared, tree_of
from tinyforge.generation import evaluating
from tinyforge.generation import model as answering
from tinyforge.models.loading import load_tokenizer
from tinyforge.training import forecast, steps, tuning
from tinyforge.training.config import TrainingConfig
from tinyforge.training.trainer import RealTrainer

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2, "initializer_range": 0.2}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
NO_DROPOUT = {"attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0}
FAMILIES = {  # model_type -> what its configuration is given
    "llama": {**WIDE, "num_key_value_heads": 1},
    "qwen3": {**WIDE, "head_dim": 32},
    "mistral": {**WIDE, "sliding_window": 128},
    "gemma3_text": {**WIDE, "head_dim": 16, "sliding_window": 128},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, **NO_DROPOUT},
    "opt": {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.2, "dropout": 0},
    "mixtral": {**WIDE, "num_local_experts": 8},
    "qwen3_moe": {**WIDE, **EXPERTS},
}


def make(kind, **options):
    "A random model of a family, for the tokens of the shipped base."
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    given = {"vocab_size": 3072, **tokens, **FAMILIES[kind], **options}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).eval()


def random_examples(draw, count=8, longest=12):
    "Examples that branch off one another; which of their tokens are trained is drawn too."
    rows = [[]]
    while len(rows) <= count:
        base = draw.choice(rows)
        kept = base[: draw.randrange(len(base) + 1)]
        own = draw.randrange(1, longest)
        rows.append(kept + [draw.randrange(5, 3000) for _ in range(own)])
    masks = [[draw.random() < 0.6 for _ in row] for row in rows]
    return [
        Example(row, [t if m else IGNORED for t, m in zip(row, mask)], n)
        for n, (row, mask) in enumerate(zip(rows, masks))
        if len(row) > 1
    ]


def learned(model, batches):
    "The losses of batches, and the gradient of their sum."
    losses = torch.cat([token_losses(model, batch) for batch in batches])
    found = torch.autograd.grad(losses.sum(), [*model.parameters()], allow_unused=True)
    return losses.detach(), torch.cat([g.flatten() for g in found if g is not None])


def off(model, examples, least=1):
    "How far losses and gradient of a tree are from those of the examples one by one."
    losses, gradient = learned(model, [flatten([e]) for e in examples])
    with attention_by_example(model):
        shared = learned(model, [flatten_shared(examples, least)])
    return max(distance(shared[0], losses), distance(shared[1], gradient))


@pytest.mark.parametrize("kind", FAMILIES)
def test_random_trees_learn_what_their_examples_do(kind):
    "Losses, one by one and in their order, and gradients, of random trees."
    model, draw = make(kind), random.Random(kind)
    assert not sharing_fault(model)
    for least in (1, 1, 2, 4, 99):
        assert off(model, random_examples(draw), least) < 2e-5


@pytest.mark.parametrize("labels", ["answers", "all"])
def test_what_is_trained_may_be_shared(labels):
    "A beginning whose labels are trained counts once for each example that has it."
    model, draw = make("qwen3"), random.Random(0)
    system, shots = ([draw.randrange(5, 3000) for _ in range(n)] for n in (40, 20))
    examples = []
    for n in range(6):
        ids = system + shots * (n % 2) + [draw.randrange(5, 3000) for _ in range(5)]
        trained = ids if labels == "all" else [IGNORED] * (len(ids) - 5) + ids[-5:]
        examples.append(Example(ids, trained, n))
    batch = flatten_shared(examples)
    assert batch["input_ids"].numel() == 40 + 20 + 6 * 5
    usual = flatten(examples)["labels"]
    assert torch.equal(batch["labels"][batch["loss_at"]], usual)
    assert len(batch["labels"]) == (30 if labels == "answers" else 39 + 1 + 20 + 1 + 28)
    assert off(model, examples, least=16) < 2e-5


def off_by_one():
    "What would be a mistake: its name, what it is a part of, and what takes its place."
    table, path_of = paths._table, paths.paths

    def border(rows, least=16):
        tree = tree_of(rows, least)
        tree.borders[1] += 1
        return tree

    def position(rows, least=16):
        tree = tree_of(rows, least)
        start = tree.borders[1]
        tree.positions[start:] = [n - 1 for n in tree.positions[start:]]
        return tree

    def place(rows, least=16):
        tree = tree_of(rows, least)
        tree.places[1] = [*tree.places[1][:-1], tree.places[1][-1] - 1]
        tree.places[0][39] -= 1  # predicts the first token of its own
        return tree

    def shorter(borders, below):
        found = path_of(borders, below)
        return [[*((a, b - 1) for a, b in path[:-1]), path[-1]] for path in found]

    def looks_ahead(own, above, *others):
        return table(own + 1, above, *others)[:, 1:]

    yield "border", (trees, "tree_of", border)
    yield "position", (trees, "tree_of", position)
    yield "place", (trees, "tree_of", place)
    yield "beginning", (paths, "paths", shorter)
    yield "mask", (paths, "_table", looks_ahead)


MISTAKES = dict(off_by_one())


@pytest.mark.parametrize("planted", MISTAKES.values(), ids=MISTAKES)
def test_what_is_off_by_one_is_seen(planted):
    "The comparison above fails when a border, a position or a beginning is off by one."
    model, draw = make("qwen3"), random.Random(0)
    system = [draw.randrange(5, 3000) for _ in range(40)]
    own = [[draw.randrange(5, 3000) for _ in range(6)] for _ in range(3)]
    examples = [Example(system + o, [IGNORED] * 40 + o, 1) for o in own]
    assert off(model, examples, least=16) < 2e-5
    with patch.object(*planted):
        try:
            assert off(model, examples, least=16) > 1e-3
        except (IndexError, RuntimeError):
            pass  # or it cannot be computed at all


@pytest.mark.parametrize("name", ["beginning", "mask"])
def test_the_model_is_asked(name):
    "A model that attends so is refused by the question, and trained without."
    model = make("qwen3")
    assert not sharing_fault(model)
    with patch.object(*MISTAKES[name]):
        assert sharing_fault(model)


def write_rows(path, shared, count=16, groups=1):
    "Lines of a file whose questions begin alike, in turn with one of several beginnings."
    draw = random.Random(0)
    words = "order parcel refund address invoice account delivery return price card".split()

    def text(length):
        return " ".join(draw.choices(words, k=length))

    begun = [text(shared) for _ in range(groups)]
    rows = [
        {"prompt": f"{begun[n % groups]} {n} {text(4)}", "completion": text(6)}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def trained(folder, rows, name, **options):
    "A report, and the adapter's weights."
    config = tinyforge.TrainingConfig(
        output_dir=str(folder / name),
        num_epochs=1,
        learning_rate=1e-3,
        **{"batch_size": 4, **options},
    )
    with quiet():
        result = tinyforge.RealTrainer(config).train(rows, show=False)
    weights = load_file(folder / name / "adapter_model.safetensors")
    return result, torch.cat([weights[key].flatten() for key in sorted(weights)])


def without():
    return patch.object(tuning, "choose_sharing", lambda *args: Sharing())


@pytest.mark.parametrize("options", [{}, {"train_on_prompt": True}, {"eval_fraction": 0.25}])
def test_a_run_learns_the_same(options, tmp_path):
    "Losses, held-out ones too, counted tokens and weights are those without; it is said."
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    result, weights = trained(tmp_path, rows, "shared", **options)
    with without():
        usual, expected = trained(tmp_path, rows, "usual", **options)
    assert SHARED in result.used and SHARED not in usual.used and SHARED in repr(result)
    assert distance(weights, expected) < 1e-4
    for what in ("losses", "evaluations"):
        mine, theirs = ([loss for _, loss in getattr(r, what)] for r in (result, usual))
        assert mine == pytest.approx(theirs, 1e-5)
    counted = [r.tokens_per_second * r.seconds for r in (result, usual)]
    assert counted[0] == pytest.approx(counted[1])


def test_sharers_meet_within_their_step(tmp_path):
    "Examples of one step change their micro-batches, and no step has others than before."
    rows = write_rows(tmp_path / "rows.jsonl", 40, count=24, groups=4)
    seen = {"shared": [], "usual": []}
    original = steps.LabelledTokenTrainer.get_batch_samples

    def noted(self, *args):
        batches, count = original(self, *args)
        name = "shared" if self.sharing.training else "usual"
        seen[name].append([b["lines"].tolist() for b in batches])
        return batches, count

    with patch.object(steps.LabelledTokenTrainer, "get_batch_samples", noted):
        trained(tmp_path, rows, "shared", gradient_accumulation_steps=3)
        with without():
            trained(tmp_path, rows, "usual", gradient_accumulation_steps=3)
    sets = {name: [sorted(sum(step, [])) for step in found] for name, found in seen.items()}
    assert sets["shared"] == sets["usual"] and seen["shared"] != seen["usual"]

    def kinds(found):
        return sum(len({line % 4 for line in micro}) for step in found for micro in step)

    assert kinds(seen["shared"]) < kinds(seen["usual"])


def test_nothing_shared_changes_nothing(tmp_path):
    "Where nothing is shared the weights are those of before, to the last bit."
    rows = write_rows(tmp_path / "rows.jsonl", 3)
    result, weights = trained(tmp_path, rows, "shared")
    with without():
        usual, expected = trained(tmp_path, rows, "usual")
    assert torch.equal(weights, expected) and result.losses == usual.losses
    assert SHARED not in result.used and SHARED not in result.unused


def test_dropout_is_drawn_for_each_example(tmp_path):
    "With dropout a training does without, says so, and learns what it did before."
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    result, weights = trained(tmp_path, rows, "shared", lora_dropout=0.1)
    with without():
        _, expected = trained(tmp_path, rows, "usual", lora_dropout=0.1)
    assert torch.equal(weights, expected)
    assert SHARED not in result.used and "dropout" in result.unused[SHARED]
    noisy, _ = trained(tmp_path, rows, "n", trainer_args={"neftune_noise_alpha": 5})
    assert "NEFTune" in noisy.unused[SHARED]


def test_a_window_that_is_too_short_is_said(tmp_path):
    "A model whose window is shorter than the examples is trained without, with the reason."
    with quiet():
        make("mistral", sliding_window=16).save_pretrained(tmp_path / "base")
    load_tokenizer().save_pretrained(tmp_path / "base")
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    result, _ = trained(tmp_path, rows, "adapter", model_name=str(tmp_path / "base"))
    assert result.unused[SHARED] == "attention by example is not used"


def test_the_question_is_asked_only_where_something_is_shared(tmp_path):
    "Data without a shared beginning costs no question."
    asked = []
    with patch.object(beginnings, "sharing_fault", lambda model: asked.append(1) or ""):
        trained(tmp_path, write_rows(tmp_path / "a.jsonl", 3), "a")
        assert not asked
        trained(tmp_path, write_rows(tmp_path / "b.jsonl", 40), "b")
    assert asked == [1]


@pytest.mark.parametrize("adapter", [None, "of-a-run"])
def test_an_evaluation_gives_the_same_losses(adapter, tmp_path):
    "The loss of `evaluate`, whole and of each row, with an adapter and without."
    rows = write_rows(tmp_path / "rows.jsonl", 40, groups=2)
    trainer = tinyforge.RealTrainer(tinyforge.TrainingConfig(output_dir=str(tmp_path / "a")))
    if adapter:
        with quiet():
            trainer.train(rows, show=False)
    reports = []
    for shares in (False, True):
        seen = []

        def noted(examples, *args):
            seen.append(len(examples))
            return flatten_shared(examples, *args)

        with ExitStack() as stack:
            stack.enter_context(patch.object(evaluating, "flatten_shared", noted))
            if not shares:
                stack.enter_context(patch.object(answering, "can_share", lambda *args: False))
            reports.append(trainer.evaluate(rows, max_new_tokens=2, show=False))
        assert bool(seen) == shares
    usual, shared = reports
    assert shared.loss == pytest.approx(usual.loss, 1e-5)
    for mine, theirs in zip(shared.missed, usual.missed, strict=True):
        assert mine.said == theirs.said and mine.loss == pytest.approx(theirs.loss, 1e-4)


def test_the_plan_of_a_run_has_the_batches_that_it_trains_on(tmp_path, monkeypatch):
    "Beginnings are shared, sharers meet, and the time is foreseen for just these batches."
    draw = random.Random(0)
    words = "the cat sat on a mat and then went to buy some milk for an old friend".split()
    heads = [" ".join(draw.choices(words, k=60)) for _ in range(3)]
    ends = [" ".join(draw.choices(words, k=draw.randint(4, 20))) for _ in range(26)]
    rows = [{"text": f"{draw.choice(heads)} {end}"} for end in ends]
    planned, trained = [], []
    plan, flatten = forecast.planned_work, steps.flatten_shared

    def planning(run, work, *rest):
        def noted(examples):
            planned.append([e.line for e in examples])
            return work(examples)

        return plan(run, noted, *rest)

    def flattening(examples):
        trained.append([e.line for e in examples])
        return flatten(examples)

    monkeypatch.setattr(forecast, "planned_work", planning)
    monkeypatch.setattr(steps, "flatten_shared", flattening)
    config = TrainingConfig(
        output_dir=str(tmp_path / "a"),
        num_epochs=2,
        batch_size=4,
        gradient_accumulation_steps=3,
        max_length=128,
    )
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    result = RealTrainer(config).train(file, show=False)
    assert SHARED in result.used
    assert planned == trained and len(trained) == 14
    assert [line for batch in trained[:7] for line in batch] != sorted(range(1, 27))
