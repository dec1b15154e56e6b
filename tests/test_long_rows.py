"A conversation of hundreds of turns: the same ids and labels, in a time that grows with it."

import copy
import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tinyforge.data.tokens
from tinyforge.data.chat import Encoder
from tinyforge.data.records import Row
from tinyforge.data.tokens import by_heads
from tinyforge.models.loading import load_tokenizer

ASK = "{% if add_generation_prompt %}"
TEMPLATES = {
    "no tokens between turns": (
        "{% for m in messages %}{% set who = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<turn>' + who + '\n' + m.content | trim + '<end>\n' }}{% endfor %}"
        + ASK
        + "{{ '<turn>model\n' }}{% endif %}"
    ),
    "names and lines": (
        "{% for m in messages %}{{ m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
        + ASK
        + "{{ 'assistant:\n' }}{% endif %}"
    ),
    "an end token": (
        "{% for m in messages %}{{ '[' + m.role + '] ' + m.content }}"
        "{% if m.role == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{% endfor %}"
        + ASK
        + "[assistant] {% endif %}"
    ),
    "numbered turns": (
        "{% for m in messages %}{{ '(' ~ loop.index ~ ' ' + m.role + ')\n' }}"
        "{{ m.content + '\n' }}{% endfor %}" + ASK + "({{ messages | length + 1 }}"
        " assistant)\n{% endif %}"
    ),
}
WORDS = """where is the ball in garden behind a tree and now what does it cost three hundred
isn't naïve 東京 42 don't   spaces\ttabs ok.""".split(" ")


def talk(turns, seed=0):
    "A row of so many turns, in words that come again."
    draw = random.Random(seed)
    roles = ("user", "assistant")
    said = [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))).strip() for _ in range(turns)]
    messages = [
        {"role": roles[n % 2], "content": text or "a"} for n, text in enumerate(said)
    ]
    return Row(1, "chat", messages)


def trained_on_words(model, trainer, **parts):
    "A small tokenizer of another kind than the shipped base's."
    backend = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    texts = [m["content"] for m in talk(60).messages] + [*"<>()[]:\n", "user assistant model"]
    backend.train_from_iterator(texts * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"
    )


def tokenizer_kinds():
    special = {"special_tokens": ["<unk>", "</s>"], "show_progress": False}
    metaspace = pre_tokenizers.Metaspace()
    yield "byte-level", load_tokenizer()
    yield (
        "metaspace",
        trained_on_words(
            models.BPE(unk_token="<unk>"),
            trainers.BpeTrainer(vocab_size=400, **special),
            pre_tokenizer=metaspace,
            decoder=decoders.Metaspace(),
        ),
    )
    yield (
        "a blank before the text",
        trained_on_words(
            models.BPE(unk_token="<unk>"),
            trainers.BpeTrainer(vocab_size=400, **special),
            normalizer=normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            ),
        ),
    )
    yield (
        "unigram",
        trained_on_words(
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", **special),
            pre_tokenizer=metaspace,
        ),
    )
    yield (
        "pieces of words",
        trained_on_words(
            models.WordPiece(unk_token="<unk>"),
            trainers.WordPieceTrainer(vocab_size=400, **special),
            normalizer=normalizers.NFC(),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        ),
    )


TOKENIZERS = dict(tokenizer_kinds())


def encoder(kind, template):
    tokenizer = copy.deepcopy(TOKENIZERS[kind])
    tokenizer.chat_template = TEMPLATES[template]
    return Encoder(tokenizer)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_ids_and_labels_as_from_the_heads(kind, template, monkeypatch):
    "Windows change no token and no label: those of each head alone are the measure."
    rows = [talk(turns, seed) for seed, turns in enumerate((2, 3, 8, 31, 60, 61))]
    quick = [encoder(kind, template).example(row, 1 << 20) for row in rows]
    monkeypatch.setattr(tinyforge.data.tokens, "by_windows", by_heads)
    assert quick == [encoder(kind, template).example(row, 1 << 20) for row in rows]


class Counted:
    "A tokenizer's work: the characters that it read, and the messages that it wrote."

    def __init__(self, kind, template):
        self.encoder, self.characters, self.messages = encoder(kind, template), 0, 0
        self.encoder.tokens.ids = self.counted(self.encoder.tokens.ids, "characters")
        tokenizer = self.encoder.tokenizer
        tokenizer.apply_chat_template = self.counted(
            tokenizer.apply_chat_template, "messages"
        )

    def counted(self, function, what):
        def call(given, *args, **kwargs):
            setattr(self, what, getattr(self, what) + len(given))
            return function(given, *args, **kwargs)

        return call

    def of(self, turns):
        self.characters = self.messages = 0
        self.encoder.example(talk(turns, turns), 1 << 20)
        return self.characters, self.messages


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_row_of_400_turns_grows_as_it_does(kind, template):
    "Four times the turns are at most six times the characters and messages that are read."
    counted = Counted(kind, template)
    counted.of(8)  # what is asked of a tokenizer once
    for few, many in zip(counted.of(100), counted.of(400)):
        assert many < 6 * few
