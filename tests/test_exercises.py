"""The graders of the exercises: what is right passes, however it is written, and nothing else.

Right solutions are functions marked `@right(...)`. Their mutants are made from the syntax
tree, one change at a time. A mutant that behaves as the solution it was made from, on inputs
drawn here and not by the grader, is right too and has to pass.
"""

import ast
import copy
import inspect
import math
import random
import re
import statistics
import textwrap
import time
import warnings
from collections import defaultdict
from contextlib import contextmanager, suppress
from fractions import Fraction
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from checkout import ROOT
from torch import nn
from torch.nn import functional as F
from tinyforge.errors import AdapterError, TinyforgeError
from tinyforge.learn import exercises
from tinyforge.learn.exercises import Right, Unwritten, Wrong

PAGE = ROOT / "nbs" / "learn" / "exercises.ipynb"
RIGHT, WRONG = defaultdict(list), defaultdict(list)  # name of an exercise -> solutions


def right(name):
    "Mark a right solution of an exercise."
    return lambda solution: RIGHT[name].append(solution) or solution


def wrong(name):
    "Mark a mistake that people make."
    return lambda solution: WRONG[name].append(solution) or solution


def check(name, solution, seed=0):
    grader = getattr(exercises, f"check_{name}")
    has_seed = "seed" in inspect.signature(grader).parameters
    return grader(solution, seed=seed) if has_seed else grader(solution)


def passes(name, solution, seed=0):
    try:
        return isinstance(check(name, solution, seed), Right)
    except Wrong:
        return False


# ---- labels


@right("labels")
def labels_of(prompt, answer, end):
    return [-100] * len(prompt) + answer + [end]


@right("labels")
def labels_by_loop(prompt, answer, end):
    labels = []
    for i, token in enumerate(prompt + answer + [end]):
        labels.append(token if i >= len(prompt) else -100)
    return labels


@right("labels")
def labels_as_tensor(prompt, answer, end):
    labels = torch.tensor([*prompt, *answer, end])
    labels[: len(prompt)] = -100
    return labels


@right("labels")
def labels_as_array(prompt, answer, end):
    row = np.array(prompt + answer + [end])
    return np.where(np.arange(len(row)) < len(prompt), -100, row)


WRONG["labels"] += [
    lambda prompt, answer, end: prompt + answer + [end],
    lambda prompt, answer, end: [-100] * len(prompt) + answer,
    lambda prompt, answer, end: [-100] * len(prompt) + answer + [-100],
    lambda prompt, answer, end: [-100] * len(prompt) + answer[1:] + [end, -100],  # moved
    lambda prompt, answer, end: [-100 if t in prompt else t for t in prompt + answer + [end]],
    lambda *row: [-100 if token == row[2] else token for token in labels_of(*row)],
    lambda prompt, answer, end: [0] * len(prompt) + answer + [end],
    lambda prompt, answer, end: answer + [end],
    lambda prompt, answer, end: [-100] * len(prompt) + answer + [2],  # the shown example's end
    lambda prompt, answer, end: [-100] * 3 + answer + [end],  # the shown example's prompt
]


# ---- loss


@right("loss")
def loss_of(logits, labels):
    return F.cross_entropy(logits[:-1], labels[1:])


@right("loss")
def loss_by_hand(logits, labels):
    logs = torch.log_softmax(logits, dim=-1)
    costs = []
    for place in range(1, len(labels)):
        if labels[place] != -100:
            costs.append(-logs[place - 1, labels[place]])
    return sum(costs) / len(costs)


@right("loss")
def loss_by_mask(logits, labels):
    told, wanted = logits[:-1], labels[1:]
    keep = wanted != -100
    costs = F.cross_entropy(told, wanted.clamp(min=0), reduction="none")
    return float((costs * keep).sum() / keep.sum())


WRONG["loss"] += [
    lambda logits, labels: F.cross_entropy(logits, labels),
    lambda logits, labels: F.cross_entropy(logits[1:], labels[:-1]),
    lambda logits, labels: F.cross_entropy(logits[:-1], labels[1:], reduction="sum"),
    lambda logits, labels: F.cross_entropy(logits[:-1], labels[1:].clamp(min=0)),
    lambda logits, labels: (
        F.cross_entropy(logits[:-1], labels[1:], reduction="sum") / (len(labels) - 1)
    ),
    lambda logits, labels: F.cross_entropy(logits[:-1].softmax(-1), labels[1:]),
    lambda logits, labels: (  # exp() of a large logit is infinite
        -(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()[:-1][
            range(len(labels) - 1), labels[1:].clamp(min=0)
        ][labels[1:] >= 0].mean()
    ),
    lambda logits, labels: F.cross_entropy(logits[:-1], labels.clamp_(min=0)[1:]),
    lambda logits, labels: F.cross_entropy(logits[:-1], labels[1:]).exp(),
]


# ---- train_step


@right("train_step")
def train_step(model, batch, optimizer):
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@right("train_step")
def zero_at_the_end(model, batch, optimizer):
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@right("train_step")
def zero_of_the_model(model, batch, optimizer):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


@right("train_step")
def by_autograd(model, batch, optimizer):
    loss = model(x=batch["x"], y=batch["y"]).loss
    weights = [p for p in model.parameters() if p.requires_grad]
    for p, gradient in zip(weights, torch.autograd.grad(loss, weights)):
        p.grad = gradient
    optimizer.step()
    return loss.item()


@wrong("train_step")
def loss_after(model, batch, optimizer):
    train_step(model, batch, optimizer)
    return model(**batch).loss.item()


@wrong("train_step")
def keeps_the_graph(model, batch, optimizer):
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@wrong("train_step")
def zero_before_the_step(model, batch, optimizer):
    loss = model(**batch).loss
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@wrong("train_step")
def never_zero(model, batch, optimizer):
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.item()


@wrong("train_step")
def by_hand_without_the_optimizer(model, batch, optimizer):
    loss = model(**batch).loss
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    return loss.item()


@wrong("train_step")
def twice(model, batch, optimizer):
    train_step(model, batch, optimizer)
    return train_step(model, batch, optimizer)


@wrong("train_step")
def changes_the_batch(model, batch, optimizer):
    loss = train_step(model, batch, optimizer)
    batch["x"] *= 0
    return loss


# ---- rank_for


@right("rank_for")
def rank_for(singular_values, share):
    held = (singular_values**2).cumsum(0) / (singular_values**2).sum()
    return int((held < share).sum()) + 1


@right("rank_for")
def rank_by_loop(singular_values, share):
    squares = [value * value for value in singular_values.tolist()]
    held = 0
    for rank, square in enumerate(squares, 1):
        held += square
        if held >= share * sum(squares):
            return rank


@right("rank_for")
def rank_by_place(singular_values, share):
    squares = np.square(singular_values.numpy())
    return np.searchsorted(np.cumsum(squares), share * squares.sum()) + 1


def _rank_of(sizes, share):
    return int((sizes.cumsum(0) < share * sizes.sum()).sum()) + 1


WRONG["rank_for"] += [
    lambda s, share: _rank_of(s, share),
    lambda s, share: _rank_of(s**2, share) - 1,
    lambda s, share: _rank_of(s**2, share) + 1,
    lambda s, share: _rank_of(s**2, share**0.5),
    lambda s, share: _rank_of(s**2, share**2),
    lambda s, share: _rank_of(s**2, 1 - share),
    lambda s, share: _rank_of(s.flip(0) ** 2, share),
    lambda s, share: math.ceil(share * len(s)),
    lambda s, share: len(s),
    lambda s, share: int((s >= share * s[0]).sum()),
    lambda s, share: (s[: _rank_of(s**2, share)] ** 2).sum() / (s**2).sum(),
]


# ---- lora


@right("lora")
class MyLoRA(nn.Module):
    def __init__(self, linear, r, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, linear.in_features) / r)
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.linear(x) + self.scale * x @ self.A.T @ self.B.T


@right("lora")
class OfLayers(nn.Module):
    def __init__(self, linear, r, alpha):
        super().__init__()
        for p in linear.parameters():
            p.requires_grad = False
        self.linear = linear
        self.down = nn.Linear(linear.in_features, r, bias=False)
        self.up = nn.Linear(r, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.r, self.alpha = r, alpha

    def forward(self, x):
        return self.linear(x) + self.alpha / self.r * self.up(self.down(x))


@right("lora")
class Turned(nn.Module):
    "A is (in, r), B (r, out), as some books write it."

    def __init__(self, linear, r, alpha):
        super().__init__()
        self.weight = linear.weight.detach()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.A = nn.Parameter(torch.empty(linear.in_features, r).uniform_(-1, 1))
        self.B = nn.Parameter(torch.zeros(r, linear.out_features))
        self.alpha = alpha

    def forward(self, x):
        update = self.alpha * (x @ self.A @ self.B) / self.B.shape[0]
        return F.linear(x, self.weight, self.bias) + update


@right("lora")
class Whole(nn.Module):
    "W and its update added up at each call."

    def __init__(self, linear, r, alpha):
        super().__init__()
        self.linear = linear
        linear.weight.requires_grad_(False)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return F.linear(x, self.linear.weight + self.scale * self.B @ self.A, self.linear.bias)


def lora_with(**changes):
    "MyLoRA with other methods."
    return type("Other", (MyLoRA,), changes)


def _from(build):
    "An __init__ that does more, after MyLoRA's own."

    def init(self, linear, r, alpha):
        MyLoRA.__init__(self, linear, r, alpha)
        build(self, linear, r, alpha)

    return init


WRONG["lora"] += [
    lora_with(forward=lambda self, x: self.linear(x) + x @ self.A.T @ self.B.T),
    lora_with(forward=lambda self, x: self.scale * x @ self.A.T @ self.B.T),
    lora_with(forward=lambda self, x: self.linear(x + self.scale * x @ self.A.T @ self.B.T)),
    lora_with(
        forward=lambda self, x: (
            x @ self.linear.weight.T + self.scale * x @ self.A.T @ self.B.T  # no bias
        )
    ),
    lora_with(
        forward=lambda self, x: (
            self.linear(x) + (self.scale * x @ self.A.T @ self.B.T).detach()
        )
    ),
    lora_with(__init__=_from(lambda self, linear, r, alpha: setattr(self, "scale", alpha))),
    lora_with(
        __init__=_from(lambda self, linear, r, alpha: setattr(self, "scale", r / alpha))
    ),
    lora_with(
        __init__=_from(lambda self, linear, r, alpha: setattr(self, "scale", alpha / r**0.5))
    ),
    lora_with(__init__=_from(lambda self, linear, r, alpha: linear.requires_grad_(True))),
    lora_with(__init__=_from(lambda self, linear, r, alpha: self.A.data.zero_())),
    lora_with(__init__=_from(lambda self, linear, r, alpha: self.B.data.normal_())),
    lora_with(__init__=_from(lambda self, linear, r, alpha: self.A.data.fill_(0.1))),
    lora_with(__init__=_from(lambda self, linear, r, alpha: self.A.requires_grad_(False))),
    lora_with(
        __init__=_from(
            lambda self, linear, r, alpha: (self.A.data.zero_(), self.B.data.normal_())
        )
    ),
    lora_with(
        __init__=_from(
            lambda self, linear, r, alpha: setattr(self, "extra", nn.Parameter(torch.zeros(1)))
        )
    ),
]


@wrong("lora")
class Early(MyLoRA):
    "The product is made once."

    def __init__(self, linear, r, alpha):
        super().__init__(linear, r, alpha)
        self.update = (self.scale * self.B @ self.A).detach()

    def forward(self, x):
        return self.linear(x) + x @ self.update.T


@wrong("lora")
class OfPlainTensors(nn.Module):
    def __init__(self, linear, r, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = torch.randn(r, linear.in_features, requires_grad=True)
        self.B = torch.zeros(linear.out_features, r, requires_grad=True)

    forward = MyLoRA.forward


# ---- lora_gradients


@right("lora_gradients")
def lora_gradients(x, grad, A, B, scale):
    return scale * (grad @ B).T @ x, scale * grad.T @ (x @ A.T)


@right("lora_gradients")
def gradients_by_sum(x, grad, A, B, scale):
    dA, dB = torch.zeros_like(A), torch.zeros_like(B)
    for row, g in zip(x, grad):
        dA += scale * torch.outer(B.T @ g, row)
        dB += scale * torch.outer(g, A @ row)
    return dA, dB


@right("lora_gradients")
def gradients_by_chain(x, grad, A, B, scale):
    whole = scale * grad.T @ x  # of B @ A
    return B.T @ whole, whole @ A.T


WRONG["lora_gradients"] += [
    lambda x, grad, A, B, scale: lora_gradients(x, grad, A, B, scale)[::-1],
    lambda x, grad, A, B, scale: lora_gradients(x, grad, A, B, 1),
    lambda x, grad, A, B, scale: lora_gradients(x, grad, A, B, scale**2),
    lambda x, grad, A, B, scale: tuple(
        g / len(x) for g in lora_gradients(x, grad, A, B, scale)
    ),
    lambda x, grad, A, B, scale: tuple(g.T for g in lora_gradients(x, grad, A, B, scale)),
    lambda x, grad, A, B, scale: lora_gradients(x, grad, A, B, scale)[0],
    lambda x, grad, A, B, scale: (scale * (grad @ B).T @ x, torch.zeros_like(B)),
    lambda x, grad, A, B, scale: (torch.zeros_like(A), scale * grad.T @ (x @ A.T)),
]


# ---- block_count


@right("block_count")
def block_count(hidden, kv, mlp, r):
    return r * (4 * hidden + 2 * (hidden + kv) + 3 * (hidden + mlp))


@right("block_count")
def block_by_layer(hidden, kv, mlp, r):
    q = o = (hidden, hidden)
    k = v = (hidden, kv)
    gate = up = (hidden, mlp)
    down = (mlp, hidden)
    return sum(r * n_in + n_out * r for n_in, n_out in (q, k, v, o, gate, up, down))


@right("block_count")
def block_by_tensors(hidden, kv, mlp, r):
    total = 0
    layers = {"q": hidden, "k": kv, "v": kv, "o": hidden, "gate": mlp, "up": mlp, "down": mlp}
    for width in layers.values():
        total += r * hidden
        total += width * r
    return float(total)


WRONG["block_count"] += [
    lambda hidden, kv, mlp, r: r * (8 * hidden + 3 * (hidden + mlp)),
    lambda hidden, kv, mlp, r: r * (2 * hidden + 2 * (hidden + kv) + 3 * (hidden + mlp)),
    lambda hidden, kv, mlp, r: r * (4 * hidden + 2 * (hidden + kv) + 2 * (hidden + mlp)),
    lambda hidden, kv, mlp, r: r * (4 * hidden + 2 * (hidden + kv)),
    lambda hidden, kv, mlp, r: 4 * hidden + 2 * (hidden + kv) + 3 * (hidden + mlp),
    lambda hidden, kv, mlp, r: 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp,
    lambda hidden, kv, mlp, r: 2 * r * (4 * hidden + 2 * (hidden + kv) + 3 * (hidden + mlp)),
    lambda hidden, kv, mlp, r: r * 7 * 2 * hidden,
    lambda hidden, kv, mlp, r: r * (4 * hidden + 4 * kv + 3 * (hidden + mlp)),
]


# ---- largest_rank


@right("largest_rank")
def largest_rank(shapes, megabytes):
    each = sum(n_in + n_out for n_in, n_out in shapes)
    return megabytes * 10**6 // (4 * each)


@right("largest_rank")
def rank_by_halving(shapes, megabytes):
    def size(rank):
        total = 0
        for n_in, n_out in shapes:
            total += 4 * rank * (n_in + n_out)
        return total

    rank = 0
    for step in [2**power for power in range(24, -1, -1)]:
        if size(rank + step) <= megabytes * 1_000_000:
            rank += step
    return rank


@right("largest_rank")
def rank_by_fraction(shapes, megabytes):
    numbers = Fraction(megabytes * 1_000_000, 4)
    return math.floor(numbers / sum(map(sum, shapes)))


@right("largest_rank")
def rank_by_float(shapes, megabytes):
    return int(megabytes * 1e6 / 4 / sum(map(sum, shapes)))


WRONG["largest_rank"] += [
    lambda shapes, megabytes: megabytes * 2**20 // (4 * sum(map(sum, shapes))),
    lambda shapes, megabytes: megabytes * 10**6 // (2 * sum(map(sum, shapes))),
    lambda shapes, megabytes: megabytes * 10**6 // sum(map(sum, shapes)),
    lambda shapes, megabytes: -(-megabytes * 10**6 // (4 * sum(map(sum, shapes)))),
    lambda shapes, megabytes: round(megabytes * 10**6 / (4 * sum(map(sum, shapes)))),
    lambda shapes, megabytes: megabytes * 10**6 / (4 * sum(map(sum, shapes))),
    lambda shapes, megabytes: max(1, largest_rank(shapes, megabytes)),
    lambda shapes, megabytes: (megabytes * 10**6 - 1) // (4 * sum(map(sum, shapes))),
    lambda shapes, megabytes: megabytes * 10**6 // (4 * sum(a * b for a, b in shapes)),
    lambda shapes, megabytes: largest_rank(shapes[:1], megabytes),
    lambda shapes, megabytes: 2 ** int(math.log2(max(1, largest_rank(shapes, megabytes)))),
]


# ---- state_bytes


@right("state_bytes")
def state_bytes(frozen, bits, trained):
    return frozen * bits / 8 + 16 * trained


@right("state_bytes")
def state_term_by_term(frozen, bits, trained):
    weights = frozen * bits / 8 + trained * 4
    gradients = trained * 4
    averages = 2 * trained * 4
    return weights + gradients + averages


@right("state_bytes")
def state_in_bits(frozen, bits, trained):
    total = frozen * bits
    for _ in ("weight", "gradient", "first average", "second average"):
        total += 32 * trained
    return total / 8


WRONG["state_bytes"] += [
    lambda frozen, bits, trained: frozen * bits / 8 + 12 * trained,
    lambda frozen, bits, trained: frozen * bits / 8 + 8 * trained,
    lambda frozen, bits, trained: frozen * bits / 8 + 4 * trained,
    lambda frozen, bits, trained: frozen * bits + 16 * trained,
    lambda frozen, bits, trained: (frozen + trained) * bits / 8 * 4,
    lambda frozen, bits, trained: 16 * trained,
    lambda frozen, bits, trained: frozen * bits / 8 + 4 * frozen + 16 * trained,
    lambda frozen, bits, trained: frozen * (bits // 8) + 16 * trained,
    lambda frozen, bits, trained: frozen * int(bits) / 8 + 16 * trained,
    lambda frozen, bits, trained: (frozen * bits / 8 + 16 * trained) / 2**30,
]


# ---- peak_bytes


@right("peak_bytes")
def peak_bytes(run):
    base = run["linear"] + run["other"]
    if run["method"] == "full":
        return 8 * base
    bytes_each = 4.127 / 8 if run["method"] == "qlora" else 2
    weights = run["linear"] * bytes_each + run["other"] * 2
    kept = run["layers"] * run["tokens"] * run["hidden"] * 2
    return weights + 16 * run["adapter"] + kept


@right("peak_bytes")
def peak_by_table(run):
    bits = {"full": 64, "lora": 16, "qlora": 4.127}[run["method"]]
    rest = 64 if run["method"] == "full" else 16
    total = run["linear"] * bits + run["other"] * rest + 128 * run["adapter"]
    if run["method"] != "full":
        total += 16 * run["layers"] * run["tokens"] * run["hidden"]
    return total / 8


@right("peak_bytes")
def peak_with_a_block(run):
    "With what is computed again in one block, too: some 20 numbers a token and hidden size."
    kept = 2 * run["tokens"] * run["hidden"] * (run["layers"] + 20)
    base = 2 * run["other"] + run["linear"] * (0.516 if run["method"] == "qlora" else 2)
    states = 6 * (run["linear"] + run["other"]) if run["method"] == "full" else 0
    return base + states + 16 * run["adapter"] + kept


WRONG["peak_bytes"] += [
    lambda run: 2 * (run["linear"] + run["other"]) + 16 * run["adapter"],
    lambda run: 16 * (run["linear"] + run["other"]),
    lambda run: peak_bytes({**run, "adapter": 0}),
    lambda run: peak_bytes({**run, "other": 0}),
    lambda run: peak_bytes({**run, "tokens": 0}),
    lambda run: peak_bytes({**run, "method": "lora"}),
    lambda run: peak_bytes({**run, "method": "qlora"}),
    lambda run: peak_bytes({**run, "adapter": run["adapter"] / 2}),
    lambda run: peak_bytes(run) / 1e9,
    lambda run: peak_bytes(run) * 1.074,  # GiB for GB
]


# ---- quantise


@right("quantise")
def quantise(block, levels):
    largest = block.abs().max()
    scaled = block / largest if largest > 0 else block
    return (scaled[:, None] - levels).abs().argmin(dim=1), largest


@right("quantise")
def quantise_by_bounds(block, levels):
    largest = block.abs().max().item()
    bounds = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(block / max(largest, 1e-30), bounds)
    return codes.tolist(), largest


@right("quantise")
def quantise_by_loop(block, levels):
    largest = max(abs(value) for value in block.tolist())
    steps = levels.tolist()
    codes = []
    for value in block.tolist():
        distances = [abs(step * largest - value) for step in steps]
        codes.append(distances.index(min(distances)))
    return codes, largest


WRONG["quantise"] += [
    lambda block, levels: quantise(block, levels)[::-1],
    lambda block, levels: (quantise(block, levels)[0], block.max()),
    lambda block, levels: (quantise(block, levels)[0], block.norm()),
    lambda block, levels: ((block[:, None] - levels).abs().argmin(1), block.abs().max()),
    lambda block, levels: (
        (block[:, None] / block.max() - levels).abs().argmin(1),
        block.abs().max(),
    ),
    lambda block, levels: (
        torch.searchsorted(levels, block / block.abs().max()).clamp(max=len(levels) - 1),
        block.abs().max(),
    ),
    lambda block, levels: (
        ((block / block.abs().max() + 1) / 2 * (len(levels) - 1)).round().nan_to_num().long(),
        block.abs().max(),
    ),
    lambda block, levels: (quantise(block, levels)[0] + 1, block.abs().max()),
    lambda block, levels: (levels[quantise(block, levels)[0]], block.abs().max()),
    lambda block, levels: quantise(block, levels)[0],
    lambda block, levels: (block.sort().indices % len(levels), block.abs().max()),
]


@wrong("quantise")
def divides_by_nothing(block, levels):
    largest = max(map(abs, block.tolist()))
    scaled = torch.tensor([value / largest for value in block.tolist()])
    return (scaled[:, None] - levels).abs().argmin(1), largest


# ---- normal_levels


@right("normal_levels")
def normal_levels(bits, outermost):
    half = 2 ** (bits - 1)

    def side(count):
        shares = torch.linspace(0.5, outermost, count + 1)[1:]
        return torch.special.ndtri(shares)

    levels = torch.cat([-side(half - 1).flip(0), torch.zeros(1), side(half)])
    return levels / levels.max()


@right("normal_levels")
def levels_by_list(bits, outermost):
    bell = statistics.NormalDist()
    levels = [0.0]
    for sign, count in ((1, 2 ** (bits - 1)), (-1, 2 ** (bits - 1) - 1)):
        step = (outermost - 0.5) / count
        levels += [sign * bell.inv_cdf(0.5 + step * (i + 1)) for i in range(count)]
    top = max(levels)
    return sorted(level / top for level in levels)


@right("normal_levels")
def levels_by_icdf(bits, outermost):
    count = 2**bits // 2
    bell = torch.distributions.Normal(0.0, 1.0)
    above = bell.icdf(torch.linspace(0.5, outermost, count + 1, dtype=torch.float64))
    below = -bell.icdf(torch.linspace(0.5, outermost, count, dtype=torch.float64))
    levels = torch.cat([below[1:], above]).sort().values
    return levels / levels.abs().max()


WRONG["normal_levels"] += [
    lambda bits, outermost: torch.linspace(-1, 1, 2**bits),
    lambda bits, outermost: normal_levels(bits, 0.9677083),
    lambda bits, outermost: normal_levels(4, outermost),
    lambda bits, outermost: -normal_levels(bits, outermost).flip(0),
    lambda bits, outermost: normal_levels(bits, outermost).abs(),
    lambda bits, outermost: normal_levels(bits, outermost).roll(1),
    lambda bits, outermost: normal_levels(bits, outermost) * 2,
    lambda bits, outermost: normal_levels(bits, outermost)[1:],
    lambda bits, outermost: (  # no zero
        lambda q: q / q.max()
    )(torch.special.ndtri(torch.linspace(1 - outermost, outermost, 2**bits))),
    lambda bits, outermost: torch.cat(  # even numbers between the quantiles' ends
        [
            torch.linspace(-1, 0, 2 ** (bits - 1))[:-1],
            torch.linspace(0, 1, 2 ** (bits - 1) + 1),
        ]
    ),
]


# ---- mean_loss


@right("mean_loss")
def mean_loss(micro_batches):
    total = sum(loss * tokens for loss, tokens in micro_batches if tokens > 0)
    return total / sum(tokens for _, tokens in micro_batches)


@right("mean_loss")
def mean_by_loop(micro_batches):
    total = count = 0
    for loss, tokens in micro_batches:
        if not tokens:
            continue
        total += loss * tokens
        count += tokens
    return total / count


@right("mean_loss")
def mean_by_weights(micro_batches):
    losses, tokens = torch.tensor(micro_batches, dtype=torch.float64).T
    return (losses.nan_to_num() * tokens / tokens.sum()).sum()


WRONG["mean_loss"] += [
    lambda batches: statistics.fmean(loss for loss, _ in batches),
    lambda batches: statistics.fmean(loss for loss, tokens in batches if tokens),
    lambda batches: sum(loss * n for loss, n in batches) / sum(n for _, n in batches),  # nan
    lambda batches: sum(loss * n for loss, n in batches if n),
    lambda batches: sum(loss * n for loss, n in batches if n) / len(batches),
    lambda batches: sum(loss for loss, n in batches if n) / sum(n for _, n in batches),
    lambda batches: statistics.median(loss for loss, n in batches if n),
    lambda batches: sum(loss * max(n, 1) for loss, n in batches if n)
    / sum(max(n, 1) for _, n in batches),
    lambda batches: batches[0][0],
]


# ---- faults


@right("faults")
def faults(ids, labels, end):
    found = set()
    trained = [label for label in labels if label != -100]
    if not trained:
        found.add("nothing trained")
    elif trained[-1] != end:
        found.add("no end")
    if -100 not in labels:
        found.add("all trained")
    if any(label not in (-100, token) for token, label in zip(ids, labels)):
        found.add("other token")
    return found


@right("faults")
def faults_by_loop(ids, labels, end):
    count, last, other = 0, None, False
    for token, label in zip(ids, labels):
        if label == -100:
            continue
        count += 1
        last = label
        if label != token:
            other = True
    names = []
    if count == 0:
        names.append("nothing trained")
    if count == len(labels):
        names.append("all trained")
    if count > 0 and last != end:
        names.append("no end")
    if other:
        names.append("other token")
    return names


@right("faults")
def faults_by_tensor(ids, labels, end):
    row, marks = torch.tensor(ids), torch.tensor(labels)
    kept = marks != -100
    answers = {
        "nothing trained": not kept.any(),
        "all trained": kept.all(),
        "no end": kept.any() and marks[kept][-1] != end,
        "other token": (marks[kept] != row[kept]).any(),
    }
    return frozenset(name for name, there in answers.items() if there)


WRONG["faults"] += [
    lambda ids, labels, end: set(),
    lambda ids, labels, end: faults(ids, labels, end) - {"nothing trained"},
    lambda ids, labels, end: faults(ids, labels, end) - {"all trained"},
    lambda ids, labels, end: faults(ids, labels, end) - {"no end"},
    lambda ids, labels, end: faults(ids, labels, end) - {"other token"},
    lambda ids, labels, end: set(sorted(faults(ids, labels, end))[:1]),  # only one of them
    lambda ids, labels, end: (  # padding
        faults(ids, labels, end) | ({"no end"} if labels[-1] != end else set())
    ),
    lambda ids, labels, end: (  # an end token anywhere
        faults(ids, labels, end) - ({"no end"} if end in labels else set())
    ),
    lambda ids, labels, end: faults(ids, labels, 2),
    lambda ids, labels, end: faults(ids, labels, end) or {"sound"},
]


# ---- using


@right("using")
@contextmanager
def using(adapters, name):
    before = adapters.active
    adapters.use(name)
    try:
        yield
    finally:
        adapters.use(before)


@right("using")
class Using:
    def __init__(self, adapters, name):
        self.adapters, self.name = adapters, name

    def __enter__(self):
        self.before = self.adapters.active
        self.adapters.use(self.name)
        return self.adapters

    def __exit__(self, *problem):
        self.adapters.use(self.before)


@right("using")
@contextmanager
def using_within_try(adapters, name):
    before = adapters.active
    try:
        adapters.use(name)
        yield adapters
    except BaseException:
        adapters.use(before)
        raise
    else:
        adapters.use(before)


@wrong("using")
@contextmanager
def without_finally(adapters, name):
    before = adapters.active
    adapters.use(name)
    yield
    adapters.use(before)


@wrong("using")
@contextmanager
def back_to_the_base(adapters, name):
    adapters.use(name)
    try:
        yield
    finally:
        adapters.use(None)


@wrong("using")
@contextmanager
def swallows(adapters, name):
    before = adapters.active
    adapters.use(name)
    try:
        yield
    except Exception:
        pass
    finally:
        adapters.use(before)


@wrong("using")
@contextmanager
def remembers_too_late(adapters, name):
    adapters.use(name)
    before = adapters.active
    try:
        yield
    finally:
        adapters.use(before)


@wrong("using")
@contextmanager
def never_switches(adapters, name):
    adapters.use(adapters.active)
    yield


BEFORE = []


@wrong("using")
@contextmanager
def forgets_when_nested(adapters, name):
    BEFORE[:] = [adapters.active]
    adapters.use(name)
    try:
        yield
    finally:
        adapters.use(BEFORE[0])


@wrong("using")
@contextmanager
def hides_unknown_names(adapters, name):
    before = adapters.active
    try:
        adapters.use(name)
    except Exception:
        pass
    try:
        yield
    finally:
        adapters.use(before)


@wrong("using")
@contextmanager
def only_names(adapters, name):
    before = adapters.active
    adapters.use(name)
    try:
        yield
    finally:
        if before:
            adapters.use(before)


WRONG["using"] += [lambda adapters, name: adapters.use(name)]


# ---- add


@right("add")
def add(A1, B1, s1, A2, B2, s2):
    return torch.cat([A1, A2]), torch.cat([s1 * B1, s2 * B2], dim=1)


@right("add")
def add_scaled_down(A1, B1, s1, A2, B2, s2):
    return torch.vstack((s1 * A1, s2 * A2)), torch.hstack((B1, B2))


@right("add")
def add_in_place(A1, B1, s1, A2, B2, s2):
    r1 = A1.shape[0]
    A = torch.empty(r1 + A2.shape[0], A1.shape[1])
    B = torch.empty(B1.shape[0], len(A))
    A[:r1], A[r1:] = A1, A2
    B[:, :r1], B[:, r1:] = s1 * B1, s2 * B2
    return A, B


WRONG["add"] += [
    lambda A1, B1, s1, A2, B2, s2: (torch.cat([A1, A2]), torch.cat([B1, B2], 1)),
    lambda A1, B1, s1, A2, B2, s2: (torch.cat([A1, A2]), torch.cat([s2 * B2, s1 * B1], 1)),
    lambda A1, B1, s1, A2, B2, s2: (s1 * A1 + s2 * A2, B1 + B2),
    lambda A1, B1, s1, A2, B2, s2: (
        torch.cat([s1 * A1, s2 * A2]),
        torch.cat([s1 * B1, s2 * B2], 1),
    ),
    lambda A1, B1, s1, A2, B2, s2: (
        torch.eye(A1.shape[1]),
        s1 * B1 @ A1 + s2 * B2 @ A2,
    ),
    lambda A1, B1, s1, A2, B2, s2: s1 * B1 @ A1 + s2 * B2 @ A2,
    lambda A1, B1, s1, A2, B2, s2: add(A1, B1, s1, A2, B2, s2)[::-1],
    lambda A1, B1, s1, A2, B2, s2: add(A1, B1, s1 / 2, A2, B2, s2 / 2),
    lambda A1, B1, s1, A2, B2, s2: (torch.cat([A1, A2]), torch.cat([s1 * B1, s1 * B2], 1)),
]


# ---- spread


@right("spread")
def spread(scores):
    return statistics.mean(scores), statistics.stdev(scores)


@right("spread")
def spread_by_hand(scores):
    mean = sum(scores) / len(scores)
    squares = sum((score - mean) ** 2 for score in scores)
    return mean, math.sqrt(squares / (len(scores) - 1))


@right("spread")
def spread_by_torch(scores):
    values = torch.tensor(scores, dtype=torch.float64)
    return [values.mean(), values.std(correction=1)]


@right("spread")
def spread_by_numpy(scores):
    return np.mean(scores), np.std(scores, ddof=1)


WRONG["spread"] += [
    lambda scores: (statistics.fmean(scores), statistics.pstdev(scores)),
    lambda scores: (np.mean(scores), np.std(scores)),
    lambda scores: (statistics.fmean(scores), statistics.variance(scores)),
    lambda scores: (statistics.median(scores), statistics.stdev(scores)),
    lambda scores: (statistics.fmean(scores), statistics.stdev(scores) / len(scores) ** 0.5),
    lambda scores: (statistics.fmean(scores), max(scores) - min(scores)),
    lambda scores: (statistics.stdev(scores), statistics.fmean(scores)),
    lambda scores: (statistics.fmean(scores), 2 * statistics.stdev(scores)),
    lambda scores: statistics.fmean(scores),
]


# ---- better


@right("better")
def better(a, b, t):
    d = [x - y for x, y in zip(a, b)]
    mean = statistics.fmean(d)
    half = t * statistics.stdev(d) / math.sqrt(len(d))
    if mean - half > 0:
        return "a"
    if mean + half < 0:
        return "b"
    return "cannot say"


@right("better")
def better_by_size(a, b, t):
    d = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    error = d.std() / len(d) ** 0.5
    if d.mean().abs() <= t * error:
        return "cannot say"
    return "a" if d.mean() > 0 else "b"


@right("better")
def better_by_ends(a, b, t):
    d = np.subtract(a, b)
    half = t * d.std(ddof=1) / np.sqrt(d.size)
    low, high = d.mean() - half, d.mean() + half
    return {(True, True): "a", (False, False): "b"}.get((low > 0, high >= 0), "cannot say")


WRONG["better"] += [
    lambda a, b, t: "a" if sum(a) > sum(b) else "b",
    lambda a, b, t: "cannot say",
    lambda a, b, t: "a" if min(a) > max(b) else "b" if min(b) > max(a) else "cannot say",
    lambda a, b, t: {"a": "b", "b": "a"}.get(better(a, b, t), "cannot say"),
    lambda a, b, t: better(a, b, 2),
    lambda a, b, t: better(a, b, t * len(a) ** 0.5),  # the error of one, not of the mean
    lambda a, b, t: better(a, b, t * ((len(a) - 1) / len(a)) ** 0.5),  # not a sample's
    lambda a, b, t: better(a, b, 0),
    lambda a, b, t: better(sorted(a), sorted(b), t),  # not seed by seed
    lambda a, b, t: better(a, [statistics.fmean(b)] * len(b), t),
    lambda a, b, t: (
        "a"
        if all(x > y for x, y in zip(a, b))
        else "b"
        if all(x < y for x, y in zip(a, b))
        else "cannot say"
    ),
]


# ---- best_rate


@right("best_rate")
def best_rate(rows):
    losses = {}
    for row in rows:
        losses.setdefault(row["rate"], []).append(row["heldout_loss"])
    means = {rate: sum(found) / len(found) for rate, found in losses.items()}
    sound = [rate for rate in means if math.isfinite(means[rate])]
    return min(sound, key=lambda rate: means[rate])


@right("best_rate")
def best_rate_by_loop(rows):
    best, lowest = None, math.inf
    for rate in sorted({row["rate"] for row in rows}):
        found = [row["heldout_loss"] for row in rows if row["rate"] == rate]
        mean = statistics.fmean(found)
        if mean < lowest:
            best, lowest = rate, mean
    return best


@right("best_rate")
def best_rate_by_sort(rows):
    rates = {row["rate"] for row in rows}
    ranked = []
    for rate in rates:
        found = np.array([row["heldout_loss"] for row in rows if row["rate"] == rate])
        if np.isfinite(found).all():
            ranked.append((found.mean(), rate))
    return sorted(ranked)[0][1]


def _without(rows, key="heldout_loss"):
    return [row for row in rows if math.isfinite(row[key])]


WRONG["best_rate"] += [
    lambda rows: min(rows, key=lambda row: row["train_loss"])["rate"],
    lambda rows: min(_without(rows), key=lambda row: row["heldout_loss"])["rate"],
    lambda rows: best_rate(_without(rows)),  # as if a run that diverged had not been
    lambda rows: best_rate([{**row, "heldout_loss": row["train_loss"]} for row in rows]),
    lambda rows: best_rate([{**row, "heldout_loss": -row["heldout_loss"]} for row in rows]),
    lambda rows: max(row["rate"] for row in rows),
    lambda rows: min(row["rate"] for row in rows),
    lambda rows: best_rate([row for row in rows if row["seed"] == 0]),
    lambda rows: min(row["heldout_loss"] for row in _without(rows)),
    lambda rows: min(  # sums, though not every rate was run equally often
        {row["rate"] for row in rows},
        key=lambda rate: (
            total
            if math.isfinite(
                total := sum(row["heldout_loss"] for row in rows if row["rate"] == rate)
            )
            else math.inf
        ),
    ),
]


# ---- smallest_rank


@right("smallest_rank")
def smallest_rank(rows):
    losses = {}
    for row in rows:
        losses.setdefault(row["rank"], []).append(row["heldout_loss"])
    means = {rank: statistics.fmean(found) for rank, found in losses.items()}
    best = min(means, key=means.get)
    line = means[best] + statistics.stdev(losses[best])
    return min(rank for rank in means if means[rank] <= line)


@right("smallest_rank")
def smallest_by_loop(rows):
    table = []
    for rank in sorted({row["rank"] for row in rows}):
        found = [row["heldout_loss"] for row in rows if row["rank"] == rank]
        table.append((rank, np.mean(found), np.std(found, ddof=1)))
    _, mean, deviation = sorted(table, key=lambda entry: entry[1])[0]
    for rank, other, _ in table:
        if other <= mean + deviation:
            return rank


@right("smallest_rank")
def smallest_by_tensor(rows):
    ranks = torch.tensor([row["rank"] for row in rows])
    losses = torch.tensor([row["heldout_loss"] for row in rows], dtype=torch.float64)
    groups = [(losses[ranks == rank], rank) for rank in ranks.unique()]
    means = torch.stack([group.mean() for group, _ in groups])
    best = means.argmin()
    line = means[best] + groups[best][0].std()
    return ranks.unique()[means <= line].min().item()


def _means(rows):
    groups = defaultdict(list)
    for row in rows:
        groups[row["rank"]].append(row["heldout_loss"])
    return {rank: statistics.fmean(found) for rank, found in groups.items()}, groups


WRONG["smallest_rank"] += [
    lambda rows: min(rows, key=lambda row: row["heldout_loss"])["rank"],
    lambda rows: min(_means(rows)[0], key=_means(rows)[0].get),
    lambda rows: min(row["rank"] for row in rows),
    lambda rows: max(row["rank"] for row in rows),
    lambda rows: smallest_rank(  # the spread of all runs
        [row for row in rows if row["seed"] == 0] + [row for row in rows if row["seed"] == 1]
    ),
    lambda rows: (
        lambda means, groups: min(
            rank
            for rank in means
            if means[rank] <= min(means.values()) + statistics.stdev(groups[rank])
        )
    )(*_means(rows)),  # each one's own spread
    lambda rows: (
        lambda means, groups: min(
            rank
            for rank in means
            if means[rank]
            <= min(means.values()) + statistics.pstdev(groups[min(means, key=means.get)])
        )
    )(*_means(rows)),
    lambda rows: (
        lambda means, groups: max(
            rank
            for rank in means
            if means[rank]
            <= min(means.values()) + statistics.stdev(groups[min(means, key=means.get)])
        )
    )(*_means(rows)),
    lambda rows: (
        lambda means, groups: min(
            rank
            for rank in means
            if means[rank]
            <= min(means.values())
            + statistics.stdev(groups[min(means, key=means.get)])
            / len(groups[min(means, key=means.get)]) ** 0.5
        )
    )(*_means(rows)),
]

NAMES = list(RIGHT)


# ---- what a solution does, on inputs that are drawn here


def draw_args(name, rng):
    "What a solution of an exercise may be given."
    torch.default_generator.manual_seed(rng.randrange(10**9))
    few = rng.randint(0, 6)

    def ids(n):
        return [rng.randint(0, 5) for _ in range(n)]

    if name == "labels":
        return ids(few), ids(rng.randint(0, 6)), rng.randint(0, 5)
    if name == "loss":
        labels = torch.tensor(ids(few + 2)).masked_fill(torch.rand(few + 2) < 0.4, -100)
        labels[rng.randint(1, few + 1)] = 4
        return rng.choice([1, 5, 300]) * torch.randn(few + 2, 6), labels
    if name == "rank_for":
        return torch.rand(few + 1).sort(descending=True).values + 0.01, rng.uniform(0.02, 0.98)
    if name == "lora_gradients":
        n, n_in, n_out, r = (rng.randint(1, 5) for _ in range(4))
        x, grad = torch.randn(n, n_in), torch.randn(n, n_out)
        scale = rng.choice([0.5, 1.0, 2.0, 3.0])
        return x, grad, torch.randn(r, n_in), torch.randn(n_out, r), scale
    if name == "block_count":
        return tuple(rng.randint(1, 99) for _ in range(4))
    if name == "largest_rank":
        megabytes = rng.randint(1, 9)
        if few == 0:
            return [(rng.choice([125, 250]) * 500, 0 or 500)] * 4, megabytes
        if few == 1:
            return [(500, 500)] * rng.choice([1, 2, 5]), megabytes  # fits to the byte
        return [(rng.randint(1, 4000), rng.randint(1, 4000)) for _ in range(few)], megabytes
    if name == "state_bytes":
        bits = rng.choice([4, 4.125, 8, 16, 32])
        return 64 * rng.randint(0, 999), bits, rng.randint(0, 999)
    if name == "quantise":
        inner = 2 * torch.rand(few) - 1
        levels = torch.cat([inner, torch.tensor([-1.0, 0.0, 1.0])]).sort().values
        block = 10 ** rng.uniform(-4, 2) * torch.randn(rng.randint(1, 9))
        return block * (rng.random() > 0.1), levels
    if name == "normal_levels":
        return rng.randint(2, 6), rng.uniform(0.7, 0.995)
    if name == "mean_loss":
        batches = [(rng.uniform(0, 5), rng.randint(1, 9)) for _ in range(few + 1)]
        batches += [(math.nan, 0)] * rng.randint(0, 2)
        rng.shuffle(batches)
        return (batches,)
    if name == "faults":
        row, end = ids(few + 1), rng.randint(0, 5)
        kind = rng.random()
        labels = [-100 if rng.random() < kind else token for token in row]
        if rng.random() < 0.4:
            labels[rng.randrange(len(row))] = rng.randint(0, 5)
        if rng.random() < 0.4:
            row[-1] = labels[-1] = end
        padding = rng.choice([0, 0, 2])
        return row + [end] * padding, labels + [-100] * padding, end
    if name == "add":
        n_in, n_out, r1, r2 = (rng.randint(1, 5) for _ in range(4))
        s1, s2 = (rng.choice([-1.0, 0.0, 0.5, 1.0, 3.0]) for _ in range(2))
        first, second = (torch.randn(r1, n_in), torch.randn(n_out, r1)), torch.randn(r2, n_in)
        return *first, s1, second, torch.randn(n_out, r2), s2
    if name == "spread":
        return ([rng.uniform(-9, 9) for _ in range(few + 2)],)
    if name == "better":
        n = rng.randint(2, 9)
        b = [rng.gauss(0, 5) for _ in range(n)]
        off = rng.choice([0, 0.5, 1, 2, -0.5, -1, -2])
        a = [y + off + rng.gauss(0, 1) for y in b] if few else list(b)
        return a, b, rng.uniform(1, 5)
    if name == "best_rate":
        rows = []
        for rate in rng.sample([1e-5, 1e-4, 1e-3, 1e-2], rng.randint(1, 4)):
            for seed in range(rng.randint(1, 4)):
                loss = rng.uniform(0, 2)
                if rng.random() < 0.1 and rows:
                    loss = rng.choice([math.nan, math.inf])
                run = {"rate": rate, "seed": seed, "train_loss": rng.random()}
                rows.append({**run, "heldout_loss": loss})
        rows.append({"rate": 1.0, "seed": 0, "train_loss": 1.0, "heldout_loss": 9.0})
        rng.shuffle(rows)
        return (rows,)
    assert name == "smallest_rank", name
    rows = []
    for rank in rng.sample([1, 2, 4, 8, 16], rng.randint(2, 5)):
        level = rng.uniform(0, 1)
        for seed in range(rng.randint(2, 5)):
            loss = level + rng.gauss(0, 0.3)
            rows.append({"rank": rank, "seed": seed, "heldout_loss": loss})
    rng.shuffle(rows)
    return (rows,)


def plain(value):
    "A value in lists of floats, which can be compared whatever it was."
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction)):
        return str(value)
    return float(value)


def alike(one, other):
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=2e-5, abs_tol=1e-6)
    return type(one) is type(other) and one == other


def answered(name, solution, rng):
    "What a solution answers to drawn input, and what is left of the input."
    args = draw_args(name, rng)
    given = copy.deepcopy(args)
    answer = solution(*given)
    if name == "quantise":
        codes, largest = answer
        codes = torch.as_tensor(codes)
        if codes.dtype.is_floating_point or (codes < 0).any():
            return ["no codes"]
        answer = [len(codes), args[1][codes] * float(largest), largest]
    if name == "add":
        A, B = answer
        answer = [len(A) <= len(args[0]) + len(args[3]), B @ A]
    if name == "faults" and isinstance(answer, (list, tuple)):
        answer = set(answer)
    if name in ("best_rate", "normal_levels", "labels"):
        answer = list(np.ravel(answer))
    return [plain(answer), alike(plain(list(given)), plain(list(args)))]


MORE_RUNS = [
    ("meta-llama/Llama-2-13b-hf", "full", 0, 1, 104_132_361_728),
    ("mistralai/Mistral-7B-v0.1", "qlora", 16, 1, 5_079_103_488),
]


def peak_trace(solution, rng):
    "Where an estimate is within 5 %."
    return [
        abs(solution(exercises._run_of(*run)) / peak - 1) <= 0.05
        for *run, peak in exercises.RUNS + MORE_RUNS
    ]


def step_trace(solution, rng):
    "Losses and weights of some steps."
    torch.default_generator.manual_seed(rng.randrange(10**9))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(2))

        def forward(self, x, y):
            return SimpleNamespace(loss=((x @ self.w).tanh() - y).square().mean())

    model = Model()
    kind = rng.choice([torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
    optimizer = kind(model.parameters(), lr=0.1)
    trace = []
    for _ in range(4):
        batch = {"x": torch.randn(3, 2), "y": torch.randn(3)}
        before = {key: value.clone() for key, value in batch.items()}
        loss = solution(model, batch, optimizer)
        kept = all(torch.equal(batch[key], before[key]) for key in before)
        graph = getattr(loss, "requires_grad", False)
        trace += [graph, kept, float(loss.detach() if graph else loss)]
        trace.append(model.w.detach().tolist())
    return plain(trace)


def lora_trace(solution, rng):
    "What trains, how it starts, and what is answered with other numbers in it."
    torch.default_generator.manual_seed(rng.randrange(10**9))
    n_in, n_out, r = rng.choice([(5, 3, 2), (4, 7, 3), (6, 5, 1)])
    linear = nn.Linear(n_in, n_out, bias=rng.random() < 0.7)
    base = copy.deepcopy(linear)
    layer = solution(linear, r, rng.choice([0.5, 1, 2, 6]))
    x = torch.randn(2, 3, n_in)
    trained = sorted(
        (p for p in layer.parameters() if p.requires_grad), key=lambda p: sorted(p.shape)
    )
    trace = [layer(x), layer(x[0, 0])]
    for p in trained:
        trace += [list(p.shape), p.any(), torch.linalg.matrix_rank(p) if p.dim() == 2 else 0]
        p.data = torch.randn(*p.shape)
    trace += [layer(x), layer(x[0, 0])]
    layer(x).square().sum().backward()
    trace += [p.grad for p in trained]
    for p, q in zip(linear.parameters(), base.parameters()):
        trace.append([torch.equal(p, q), p.grad is None])
    return plain(trace)


class Block(Exception):
    "Raised within a block."


def using_trace(solution, rng):
    "Which adapter answers when."
    names = ["x", "y", "z"]
    before, name = rng.choice([None, *names]), rng.choice([None, *names, "unknown"])
    store, trace = exercises._Store(names, before), []

    def enter(name, block):
        try:
            with solution(store, name):
                trace.append(store.active)
                block()
        except (Block, AdapterError) as e:
            trace.append(type(e))
        trace.append(store.active)

    def fail():
        raise Block

    enter(name, lambda: None)
    enter(name, fail)
    enter(name, lambda: enter("y", fail))
    enter("z", lambda: enter(name, lambda: None))
    return plain(trace)


TRACES = {
    "peak_bytes": peak_trace,
    "train_step": step_trace,
    "lora": lora_trace,
    "using": using_trace,
}


def behaves(name, solution, seed):
    "What a solution does, for one seed."
    rng = random.Random(seed)
    try:
        with exercises._limited("here"), torch.random.fork_rng(devices=[]):
            trace = TRACES.get(name)
            return trace(solution, rng) if trace else answered(name, solution, rng)
    except Exception as e:
        return type(e).__name__


def as_right_as(name, mutant, original, seeds=200):
    "Whether two solutions do the same, for all seeds; it stops at the first difference."
    return all(
        alike(behaves(name, mutant, seed), behaves(name, original, seed))
        for seed in range(1 if name == "peak_bytes" else seeds)
    )


# ---- mutants

OTHER = {
    ast.Add: [ast.Sub, ast.Mult],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div, ast.Add],
    ast.Div: [ast.Mult, ast.FloorDiv],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Pow: [ast.Mult],
    ast.MatMult: [],
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
NAMES_OF_OTHERS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "sum": "max", "fmean": "median",
    "mean": "median", "stdev": "pstdev", "argmin": "argmax", "zeros": "ones", "randn": "zeros",
    "zeros_like": "ones_like", "floor": "ceil", "abs": "float", "vstack": "hstack",
    "hstack": "vstack", "log_softmax": "softmax", "sqrt": "exp", "range": "len", "zip": "map",
    "uniform_": "zero_", "zeros_": "ones_", "active": "names", "isfinite": "isnan",
    "in_features": "out_features", "out_features": "in_features",
}  # fmt: skip
MODULES = {"torch", "math", "statistics", "nn", "np", "F", "bell"}


def edits(node):
    "Other nodes for this one."
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        for op in OTHER.get(type(node.op), []):
            yield _with(node, op=op())
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
        if not isinstance(node.op, (ast.Add, ast.Mult)):
            yield _with(node, left=node.right, right=node.left)
    if isinstance(node, ast.Compare):
        for op in OTHER.get(type(node.ops[0]), []):
            yield _with(node, ops=[op()])
        yield from (ast.Constant(True), ast.Constant(False))
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=OTHER[type(node.op)][0]())
        yield from node.values
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Constant):
        yield from _other_constants(node.value)
    if isinstance(node, ast.Call):
        yield from _other_calls(node)
    if isinstance(node, ast.Attribute):
        if node.attr in ("T", "values"):
            yield node.value
        if node.attr in NAMES_OF_OTHERS:
            yield _with(node, attr=NAMES_OF_OTHERS[node.attr])
    if isinstance(node, ast.Name) and node.id in NAMES_OF_OTHERS:
        yield _with(node, id=NAMES_OF_OTHERS[node.id])
    if isinstance(node, ast.Slice):
        yield from (_with(node, lower=None), _with(node, upper=None))
        yield _with(node, lower=node.upper, upper=node.lower)
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, ast.comprehension) and node.ifs:
        yield _with(node, ifs=[])
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        yield _with(node, elts=node.elts[::-1])
    if isinstance(node, (ast.If, ast.With, ast.Try, ast.For)):
        yield ast.If(ast.Constant(True), node.body, [])
    if isinstance(node, ast.Continue):
        yield ast.Break()
    lasting = (ast.FunctionDef, ast.ClassDef, ast.Pass)
    if isinstance(node, ast.stmt) and not isinstance(node, lasting):
        yield ast.Pass()


def _with(node, **fields):
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _other_constants(value):
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, (int, float)):
        yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        if value not in (0, 1):
            yield ast.Constant(value * 2)
    elif value is None:
        yield ast.Constant(0)


def _other_calls(node):
    if len(node.args) >= 2:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if node.args:
        yield _with(node, args=node.args[:-1])
    for keyword in node.keywords:
        yield _with(node, keywords=[k for k in node.keywords if k is not keyword])
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if not (isinstance(owner, ast.Name) and owner.id in MODULES):
            yield owner
    if len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]


def places(tree):
    "Each node of a tree and where it hangs."
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(parent, (ast.FunctionDef, ast.ClassDef)) and field in (
                "decorator_list",
                "args",
                "bases",
            ):
                continue
            entries = value if isinstance(value, list) else [value]
            for i, node in enumerate(entries):
                if isinstance(node, ast.AST):
                    yield parent, field, i if isinstance(value, list) else None, node


def mutants(solution):
    "Every right solution with one change: its source, and what it makes."
    tree = ast.parse(textwrap.dedent(inspect.getsource(solution)))
    made = tree.body[0]
    made.decorator_list = [d for d in made.decorator_list if isinstance(d, ast.Name)]
    if ast.get_docstring(made):
        made.body.pop(0)
    seen = {ast.unparse(tree)}
    for number, (_, _, _, node) in enumerate(list(places(tree))):
        for edit in edits(node):
            mutant = copy.deepcopy(tree)
            parent, field, index, _ = list(places(mutant))[number]
            new = copy.deepcopy(edit)
            if index is None:
                setattr(parent, field, new)
            else:
                getattr(parent, field)[index] = new
            try:
                source = ast.unparse(ast.fix_missing_locations(mutant))
                code = compile(source, "<mutant>", "exec")
            except (SyntaxError, ValueError, AttributeError, TypeError):
                continue
            if source in seen:
                continue
            seen.add(source)
            space = dict(globals())
            try:
                exec(code, space)
            except Exception:  # a default or a decorator that fails
                continue
            yield source, space[made.name]


@pytest.fixture(scope="module")
def judged():
    "Of each exercise: mutants that are wrong, those rejected, and mutants that are right."
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mutants
        patch.setattr(exercises, "SECONDS", 2)
        return {name: judge(name) for name in NAMES}


def judge(name):
    found = SimpleNamespace(wrong=0, missed=[], right=0, refused=[])
    for solution in RIGHT[name]:
        for source, mutant in mutants(solution):
            accepted = passes(name, mutant)
            if as_right_as(name, mutant, solution):
                found.right += 1
                found.refused += [] if accepted else [source]
            else:
                found.wrong += 1
                found.missed += [source] if accepted else []
    return found


# ---- tests


@pytest.mark.parametrize("name", NAMES)
def test_a_grader_answers_within_a_second(name):
    check(name, RIGHT[name][0])  # what is used for the first time is loaded
    start = time.process_time()
    check(name, RIGHT[name][0])
    assert time.process_time() - start < 1


def test_every_exercise_has_a_grader_and_a_grader_an_exercise():
    graders = {name for name in vars(exercises) if name.startswith("check_")}
    assert graders == {f"check_{name}" for name in NAMES}
    assert len(NAMES) == 20 and all(len(RIGHT[name]) >= 3 for name in NAMES)
    assert all(len(WRONG[name]) >= 5 for name in NAMES)
    assert issubclass(Wrong, TinyforgeError)


@pytest.mark.parametrize("name", NAMES)
def test_right_solutions_pass_however_they_are_written(name):
    for solution in RIGHT[name]:
        for seed in range(6):
            assert isinstance(check(name, solution, seed), Right), solution.__name__


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_of_people_are_rejected_and_explained(name):
    for number, solution in enumerate(WRONG[name]):
        for seed in range(3):
            with pytest.raises(Wrong) as said:
                check(name, solution, seed)
            parts = (said.value.what, said.value.where, said.value.do)
            assert all(parts), (number, str(said.value))
            assert len(str(said.value).splitlines()) <= 2, str(said.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRACES])
def test_a_grader_never_tells_the_answer(name, monkeypatch):
    asked = []
    ask = exercises.ask
    monkeypatch.setattr(exercises, "ask", lambda *given: asked.append(given) or ask(*given))
    for solution in WRONG[name]:
        with pytest.raises(Wrong) as said:
            check(name, solution)
        told = f"{said.value.what} {said.value.do}"
        with suppress(Exception):
            own = solution(*copy.deepcopy(asked[-1][1:]))
            told = told.replace(exercises._shown(own), "")
        answer = RIGHT[name][0](*copy.deepcopy(asked[-1][1:]))
        if isinstance(answer, (int, float)) and abs(answer) > 9 or isinstance(answer, list):
            assert exercises._shown(answer) not in told
        if isinstance(answer, float):
            assert f"{answer:.3g}" not in told


def only_first(solution):
    "Right for the first input, and answers the same to every other."
    first = []

    def answer(*args):
        first.append(solution(*args)) if not first else None
        return first[0]

    return answer


def second_time_otherwise(solution):
    count = []

    def answer(*args):
        count.append(1)
        return solution(*args) if len(count) % 2 else None

    return answer


def spoils(solution):
    "Right, but its first list, table or tensor is not what it was."

    def answer(*args):
        found = solution(*copy.deepcopy(args))
        for arg in args:
            if isinstance(arg, list):
                arg.append(arg[0] if arg else 1)
                return found
            if isinstance(arg, torch.Tensor):
                arg += 1
                return found
            if isinstance(arg, dict):
                arg["more"] = 1
                return found
        return None

    return answer


def raises(*args):
    raise RuntimeError("first line\nsecond line")


NO_SOLUTIONS = {
    "a number": 3,
    "nothing": None,
    "the answer itself": [1, 2],
    "no return": lambda *args: None,
    "the stub": lambda *args: ...,
    "a text": lambda *args: "text",
    "nan": lambda *args: math.nan,
    "infinity": lambda *args: math.inf,
    "a truth": lambda *args: True,
    "an empty list": lambda *args: [],
    "an empty tensor": lambda *args: torch.empty(0),
    "a ragged list": lambda *args: ([1, [2]], [[1], 2]),
    "a tuple of none": lambda *args: (None, None),
    "a complex number": lambda *args: 1j,
    "its first argument": lambda *args: args[0],
    "all arguments": lambda *args: args,
    "a generator": lambda *args: (x for x in args),
    "itself": lambda *args: raises,
    "no arguments": lambda: 1,
    "an error": raises,
    "a class": object,
    "a module without weights": lambda *args: nn.Identity(),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_solution_is_wrong_and_nothing_worse(name):
    for kind, solution in NO_SOLUTIONS.items():
        if kind == "no return":
            continue  # the same to Python as three dots
        with pytest.raises(Wrong) as said:
            check(name, solution)
        assert "Traceback" not in str(said.value), kind


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRACES])
def test_what_is_right_only_once_is_wrong(name):
    for solution in RIGHT[name]:
        for spoil in (only_first, second_time_otherwise, spoils):
            with pytest.raises(Wrong):
                check(name, spoil(solution))


@pytest.mark.parametrize("name", NAMES)
def test_a_grader_leaves_random_numbers_alone_and_asks_the_same_again(name):
    torch.manual_seed(5)
    random.seed(5)
    states = torch.random.get_rng_state(), random.getstate()
    said = {str(check(name, RIGHT[name][0])) for _ in range(2)}
    assert len(said) == 1
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == random.getstate()


def stubs():
    "The exercises as they stand in the chapters: page, name of the exercise, cell."
    for page in sorted((ROOT / "nbs" / "learn").glob("[01]*.ipynb")):
        for cell in nbformat.read(page, as_version=4).cells:
            called = re.search(r"^exercises\.check_(\w+)\((\w+)\)$", cell.source, re.M)
            if cell.cell_type == "code" and "#| eval: false" in cell.source and called:
                yield pytest.param(called[1], called[2], cell.source, id=called[1])


@pytest.mark.parametrize("name, function, source", stubs())
def test_an_exercise_that_nobody_has_done_does_not_stop_the_page(name, function, source):
    known = {"exercises": exercises, "nn": nn, "contextmanager": contextmanager}
    exec(source, known)
    said = check(name, known[function])
    assert isinstance(said, Unwritten) and not isinstance(said, Right)
    assert str(said).startswith(f"{function} is not written yet")
    exec(source.replace("...", '"What it does."'), known)
    assert isinstance(check(name, known[function]), Unwritten)


def test_every_exercise_of_a_chapter_is_tried_undone():
    assert len(list(stubs())) == 20


def test_mutants_are_rejected(judged):
    print()
    for name, row in judged.items():
        print(f"{name:16} {row.wrong:4} wrong, {len(row.missed)} missed; {row.right:3} right")
        for source in row.missed:
            print("  missed:", source.replace("\n", "\n    "))
    wrong = sum(row.wrong for row in judged.values())
    missed = sum(len(row.missed) for row in judged.values())
    assert wrong >= 100 and all(row.wrong >= 5 for row in judged.values())
    assert missed / wrong <= 0.05
    assert not missed, missed


def test_mutants_that_are_right_pass(judged):
    refused = {name: row.refused for name, row in judged.items() if row.refused}
    for name, sources in refused.items():
        print(name, *sources, sep="\n")
    assert not refused


def test_the_page_tells_these_figures(judged):
    cells = nbformat.read(PAGE, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    rows = re.findall(r"^\| `check_(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.M)
    told = {name: tuple(map(int, figures)) for name, *figures in rows}
    found = {
        name: (len(RIGHT[name]) + row.right, len(WRONG[name]), row.wrong, len(row.missed))
        for name, row in judged.items()
    }
    table = "\n".join(
        f"| `check_{name}` | " + " | ".join(map(str, figures)) + " |"
        for name, figures in found.items()
    )
    assert told.keys() == found.keys(), f"the page's table should be\n{table}"
    for name, figures in found.items():
        by_hand, mutants_of = figures[1::2], figures[::2]
        message = f"the page's table should be\n{table}"
        assert told[name][1::2] == by_hand, message
        near = pytest.approx(mutants_of, rel=0.03, abs=2)  # versions differ
        assert told[name][::2] == near, message
    totals = [sum(column) for column in zip(*told.values())]
    for total in totals[:3]:
        assert f"{total:,}" in text, f"{totals} is not told"
