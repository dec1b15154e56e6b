"""The cases of asking: 13 to 17, evaluating, and the commands that do it."""

import json
import logging
import math
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from tinyforge import RealTrainer, TrainingConfig
from tinyforge.cli import main
from tinyforge.data.chat import encode_prompt
from tinyforge.errors import AdapterError, ConfigError, DataError
from tinyforge.generation.model import AdaptedModel
from tinyforge.models.loading import load_tokenizer
from tinyforge.models.names import model_location

BASE = Path(model_location("tinyforge-base"))
SYSTEM = "You know rocks, and are brief."
ROCKS = {"granite": "from melt", "slate": "from clay", "marble": "from limestone"}
SHORT = {"max_new_tokens": 12}
DEFAULT = "{% if messages[0].role != 'system' %}<|system|>You are kind.{% endif %}"
THINKS = "{% if enable_thinking is defined and not enable_thinking %}Fast! {% endif %}"


def asked(text):
    return {"role": "user", "content": text}


def answered(text):
    return {"role": "assistant", "content": text}


def conversation(rock):
    "Several turns after a system text."
    return [
        {"role": "system", "content": SYSTEM},
        asked("Do you know rocks?"),
        answered("Some."),
        asked(f"How does {rock} form?"),
        answered(f"{rock.title()} forms {ROCKS[rock]}."),
    ]


HUMAN = {"from": "human", "value": "a"}
UNTRAINED = {**answered("c"), "weight": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A trainer after a run on conversations with a system text, the file, and the result."
    folder = tmp_path_factory.mktemp("asking")
    file = folder / "rocks.jsonl"
    rows = [json.dumps({"messages": conversation(rock)}) for rock in ROCKS for _ in range(6)]
    file.write_text("\n".join(rows), encoding="utf-8")
    config = TrainingConfig(
        output_dir=str(folder / "rocks"),
        num_epochs=12,
        learning_rate=5e-3,
        eval_data=str(file),
    )
    trainer = RealTrainer(config)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        result = trainer.train(file, show=False)
    return trainer, file, result


def with_template(folder, template):
    "The shipped base in a folder, with another chat template."
    folder.mkdir()
    for source in BASE.iterdir():
        (folder / source.name).symlink_to(source)
    for name in ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    tokenizer = load_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


def heard(call, *args, **options):
    "What a call returns, and what it says on the standard error."
    log = logging.getLogger("tinyforge")
    with (
        patch.object(log, "hasHandlers", lambda: False),  # pytest listens too
        redirect_stderr(StringIO()) as said,
        redirect_stdout(StringIO()) as printed,
    ):
        found = call(*args, **options)
    return found, said.getvalue() + printed.getvalue()


def command(*args, stdin=""):
    "Status and texts of the command."
    before, sys.stdin = sys.stdin, StringIO(stdin)
    try:
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                status = main([str(arg) for arg in args])
            except SystemExit as e:
                status = e.code
    finally:
        sys.stdin = before
    assert "Traceback" not in err.getvalue()
    return status, out.getvalue(), err.getvalue()


def process(*args, **options):
    start = "import sys; from tinyforge.cli import main; sys.exit(main())"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", start, *map(str, args)], **options)


def test_case_13_asked_as_it_was_trained(trained):
    "Several turns and a system text are asked as they were trained, and answered alike."
    trainer, _, _ = trained
    *question, right = conversation("slate")
    assert trainer.generate(question, **SHORT) == right["content"]
    assert trainer.generate(question[1:], system=SYSTEM, **SHORT) == right["content"]
    assert trainer.generate([question], **SHORT) == [right["content"]]
    assert "".join(trainer.stream(question, **SHORT)) == right["content"]
    single = trainer.generate("How does slate form?", system=SYSTEM, **SHORT)
    assert single == trainer.generate(
        [{"role": "system", "content": SYSTEM}, asked("How does slate form?")], **SHORT
    )


def test_case_13_evaluated_on_what_it_was_trained_on(trained):
    "The loss is the one that the training measured, and exact match counts the last answer."
    trainer, file, result = trained
    report, _ = heard(trainer.evaluate, file, **SHORT)
    assert report.exact_match == 1 and report.missed == []
    assert report.examples == 18 and report.tokens > 18
    _, best = min(result.evaluations, key=lambda e: e[1])
    assert abs(report.loss - best) < 1e-4 * max(1, best)
    assert report.perplexity == math.exp(report.loss)
    assert heard(trainer.exact_match, file, **SHORT)[0] == 1
    rows = [{"messages": conversation(rock)} for rock in ROCKS]
    rows[1]["messages"][-1] = answered("Slate is a cake.")
    report, _ = heard(trainer.evaluate, rows, **SHORT)
    [missed] = report.missed
    assert (missed.line, missed.expected) == (2, "Slate is a cake.")
    assert missed.said == "Slate forms from clay."
    assert missed.prompt == conversation("slate")[:4]
    assert "66.7 % (2 of 3)" in repr(report) and report.to_dict()["exact_match"] == 2 / 3


@pytest.mark.parametrize(
    "rows, options",
    [
        ([{"question": "a", "answer": "b"}], {}),
        ([{"instruction": "a", "input": "c", "output": "b"}], {}),
        ([{"q": "a", "a": "b"}], {"columns": {"q": "question", "a": "answer"}}),
        ([{"conversations": [HUMAN, {"from": "gpt", "value": "b"}]}], {}),
        ([{"prompt": [asked("a")], "completion": [answered("b")]}], {}),
        ([{"messages": [asked("a"), UNTRAINED, asked("d"), answered("b")]}], {}),
        (iter([{"input": "a", "output": "b"}]), {}),
    ],
)
def test_case_13_every_shape_is_evaluated(trained, rows, options):
    "What trains can be evaluated, whatever it is called."
    report, _ = heard(trained[0].evaluate, rows, max_new_tokens=2, **options)
    assert report.examples == 1 and math.isfinite(report.loss)
    assert report.missed[0].expected == "b"


def test_case_13_asked_without_its_system_text(trained):
    "Asked without the system text that it was trained with, it says so, once."
    trainer, _, result = trained
    fresh = AdaptedModel(lora_path=result.output_dir)
    _, said = heard(fresh.generate, "How does slate form?", **SHORT)
    assert SYSTEM in said and "give it as the system text" in said
    assert SYSTEM not in heard(fresh.generate, "How does slate form?", **SHORT)[1]
    fresh = AdaptedModel(lora_path=result.output_dir)
    assert SYSTEM not in heard(fresh.generate, "Hi", system=SYSTEM, **SHORT)[1]


def test_case_13_evaluated_without_its_system_text(trained):
    "Rows without the system text of the training are scored, and it is said."
    trainer, file, result = trained
    fresh = AdaptedModel(lora_path=result.output_dir)
    rows = [{"question": "How does slate form?", "answer": "Slowly."}]
    assert SYSTEM in heard(fresh.evaluate, rows, **SHORT)[1]
    assert SYSTEM not in heard(fresh.evaluate, rows, **SHORT)[1]  # once is enough
    for data, options in ((rows, {"system": SYSTEM}), (file, {})):
        fresh = AdaptedModel(lora_path=result.output_dir)
        assert SYSTEM not in heard(fresh.evaluate, data, **SHORT, **options)[1]


def test_case_13_what_cannot_be_asked(trained, tmp_path):
    "A chat that ends with an answer, two system texts, a system text for plain text."
    trainer, _, _ = trained
    for prompt, message in (
        (conversation("slate"), "last message is of the role assistant"),
        ([{"role": "user"}], "message 1"),
        ({"messages": []}, 'pass its "messages"'),
        ([[asked("Hi")], 3], "prompt 2 of 2: is an int"),
        ("", "is empty"),
    ):
        with pytest.raises(DataError, match=message):
            trainer.generate(prompt, **SHORT)
    with pytest.raises(DataError, match="has a system message of its own"):
        trainer.generate(conversation("slate")[:4], system="Be long.")
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "Anna went home."}\n' * 4, encoding="utf-8")
    folder = str(tmp_path / "text")
    plain = RealTrainer(TrainingConfig(output_dir=folder, num_epochs=1))
    heard(plain.train, file, show=False)
    with pytest.raises(ConfigError, match="was trained on plain text.*a system text"):
        plain.generate("Anna", system="Be brief.")
    with pytest.raises(DataError, match="is a chat, and the model was trained on plain text"):
        plain.generate([asked("Anna")])
    report, _ = heard(plain.evaluate, file)
    assert report.exact_match is None and "not defined" in repr(report)


def test_case_13_template_options(tmp_path):
    "Options reach the chat template, and one that it does not read is named."
    usual = load_tokenizer().chat_template
    model = AdaptedModel(with_template(tmp_path / "thinks", THINKS + usual))
    off = model.generate("Hi", chat={"enable_thinking": False}, **SHORT)
    on = model.generate("Hi", chat={"enable_thinking": True}, **SHORT)
    assert on == model.generate("Hi", **SHORT) != off
    with pytest.raises(ConfigError, match="does not read think_hard.*\n.*enable_thinking"):
        model.generate("Hi", chat={"think_hard": True})
    with pytest.raises(ConfigError, match='no option .enable_thinking.*\n.*chat={"enable'):
        model.generate("Hi", enable_thinking=False)


def test_case_13_one_call_by_another_adapter(trained, tmp_path):
    "adapter= answers one call, and what is active stays so."
    trainer, _, result = trained
    fresh = AdaptedModel()
    *question, right = conversation("marble")
    by_folder = fresh.generate(question, adapter=result.output_dir, **SHORT)
    assert by_folder == right["content"] and fresh.active is None
    assert fresh.generate(question, **SHORT) != by_folder
    assert "".join(fresh.stream(question, adapter=result.output_dir, **SHORT)) == by_folder
    with pytest.raises(AdapterError, match="no adapter is loaded as 'nobody'"):
        fresh.generate("Hi", adapter="nobody")


def test_case_14_default_system_text_is_said(tmp_path):
    "A system text that the template writes by itself is in training and asking, and said."
    usual = load_tokenizer().chat_template
    base = with_template(tmp_path / "kind", DEFAULT + usual)
    model = AdaptedModel(base)
    answer, said = heard(model.generate, "Hi", **SHORT)
    assert "You are kind." in said and "You are kind." in repr(model)
    assert "You are kind." not in heard(model.generate, "Hi", **SHORT)[1]
    assert answer == model.generate("Hi", system="You are kind.", **SHORT)
    assert answer != model.generate("Hi", system="You are cross.", **SHORT)
    ids = encode_prompt("Hi", model.tokenizer)
    assert "You are kind." in model.tokenizer.decode(ids)


def test_case_15_temperature_and_seed():
    "Temperature 0 is greedy, above it is drawn, and a seed makes it the same again."
    model = AdaptedModel()
    greedy = model.generate("Hi", **SHORT)
    assert model.generate("Hi", temperature=0, **SHORT) == greedy
    assert model.generate("Hi", temperature=0.0, top_p=0.9, **SHORT) == greedy
    assert model.generate("Hi", top_k=1, **SHORT) == greedy
    drawn = {model.generate("Hi", temperature=2, seed=seed, **SHORT) for seed in range(4)}
    again = {model.generate("Hi", temperature=2, seed=seed, **SHORT) for seed in range(4)}
    assert drawn == again and len(drawn) > 1
    same = {"top_p": 0.99, "seed": 1, **SHORT}
    assert model.generate("Hi", **same) == model.generate("Hi", do_sample=True, **same)
    for options in (
        {"temperature": 0, "do_sample": True},
        {"top_p": 0.5, "do_sample": False},
    ):
        with pytest.raises(ConfigError, match="leave one of them out"):
            model.generate("Hi", **options)
    for options, message in (
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 50}, "top_p is 50"),
        ({"max_tokens": 5}, "pass max_new_tokens"),
        ({"no_such_option": 5}, "no_such_option"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.generate("Hi", **options)


def test_case_15_stop_strings_need_no_tokenizer():
    "An answer ends before a stop string, streamed too, and no part of one is shown."
    model = AdaptedModel()
    whole = model.generate("What is the opposite of hot?", **SHORT)
    for stop in (whole[4:9], [whole[6], "zzz"], [whole[2:4], whole[8:10]]):
        stops = [stop] if isinstance(stop, str) else stop
        wanted = whole[: min(whole.index(s) for s in stops if s in whole)]
        assert model.generate("What is the opposite of hot?", stop=stop, **SHORT) == wanted
        pieces = list(model.stream("What is the opposite of hot?", stop=stop, **SHORT))
        assert "".join(pieces) == wanted
    both = model.generate(["What is the opposite of hot?", "Hi"], stop=whole[4:9], **SHORT)
    assert both == [whole[:4], model.generate("Hi", stop=whole[4:9], **SHORT)]
    with pytest.raises(ConfigError, match="stop is ''"):
        model.generate("Hi", stop="")


def test_case_15_on_the_command_line(trained, tmp_path):
    "system, temperature, top-p, stop, stream and a file of prompts are options."
    _, _, result = trained
    folder, question = result.output_dir, "How does slate form?"
    told = ("--system", SYSTEM, "--max-new-tokens", 12)
    status, usual, _ = command("generate", folder, question, *told)
    assert status == 0 and usual.strip()
    greedy = ("--temperature", 0)
    for options in (("--stream",), greedy, (*greedy, "--top-p", 1)):
        assert command("generate", folder, question, *told, *options)[1] == usual
    drawn = [
        command("generate", folder, question, *told, "--temperature", 3, "--seed", 5)[1]
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    first = usual.split(" ")[0]
    assert command("generate", folder, question, *told, "--stop", " ")[1] == first + "\n"
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"messages": conversation("slate")[:4]}), encoding="utf-8")
    status, out, _ = command("generate", folder, "--file", file, "--json", *told[2:])
    assert json.loads(out)["answer"] == "Slate forms from clay."
    status, out, _ = command("generate", folder, *told, stdin=f"{question}\n")
    assert out == usual


def test_case_15_a_conversation(trained):
    "chat asks what was said before along; a line that fails is said, and the rest goes on."
    _, _, result = trained
    lines = f"/system {SYSTEM}\nDo you know rocks?\na<|end|>b\nHow does slate form?\n"
    status, out, err = command("chat", result.output_dir, "--max-new-tokens", 12, stdin=lines)
    assert status == 1 and "<|end|>" in err  # one line could not be asked
    assert out.splitlines() == ["Some.", "Slate forms from clay."]
    status, out, _ = command("chat", "tinyforge-base", stdin="/exit\nHi")
    assert (status, out) == (0, "")


def test_case_15_evaluate_and_data_check(trained, tmp_path):
    "The commands print the reports, or write them as JSON."
    _, file, result = trained
    status, out, _ = command("evaluate", result.output_dir, file, "--max-new-tokens", 12)
    assert status == 0 and "100.0 % (18 of 18)" in out and "held-out loss" in out
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text('{"q": "a", "a": "b", "id": 3}\n' * 2, encoding="utf-8")
    columns = ("--columns", "q=question", "a=answer")
    status, out, _ = command("evaluate", "tinyforge-base", theirs, *columns, "--json")
    assert status == 0 and json.loads(out)["examples"] == 2
    status, out, _ = command("data", "check", theirs, *columns, "--json")
    found = json.loads(out)
    assert status == 0 and found["unused"] == {"id": 2} and found["twice"]
    status, out, _ = command("data", "check", theirs)
    assert status == 1 and "2 rows cannot be used" in out
    assert "--columns " in out and "columns=" not in out
    theirs.write_text('{"ticket": "17", "ask": "a", "reply": "b"}\n', encoding="utf-8")
    assert "--columns ask=question reply=answer" in command("data", "check", theirs)[1]


def test_case_16_a_base_that_lies_elsewhere(trained, tmp_path):
    "The command says --model-name, and takes it; Python says model_name."
    _, _, result = trained
    moved = tmp_path / "moved"
    moved.mkdir()
    for source in Path(result.output_dir).iterdir():
        if source.is_file():
            (moved / source.name).write_bytes(source.read_bytes())
    for name in ("adapter_config.json", "tinyforge.json"):
        content = json.loads((moved / name).read_text())
        for key in ("base", "base_model_name_or_path"):
            if key in content:
                content[key] = "/train/models/shipped"
        (moved / name).write_text(json.dumps(content))
    status, _, err = command("generate", moved, "Hi")
    assert status == 1 and "/train/models/shipped is not here" in err
    assert "--model-name" in err and "known_shapes" not in err and "model_name" not in err
    for words in (("check", moved), ("merge", moved, "--output-dir", tmp_path / "whole")):
        status, _, err = command("adapters", *words)
        assert status == 1 and "/train/models/shipped is not here" in err
        assert "--model-name" in err
    told = ("--max-new-tokens", 12, "--system", SYSTEM)
    status, out, err = command("generate", moved, "Hi", "--model-name", BASE, *told)
    assert (status, out) == command("generate", result.output_dir, "Hi", *told)[:2]
    with pytest.raises(AdapterError, match="pass model_name"):
        AdaptedModel("/train/models/shipped", moved).generate("Hi")


def test_case_16_errors_speak_of_options(tmp_path):
    "What the library says in Python, the command says in its own words."
    bad = tmp_path / "bad.jsonl"
    rows = '{"input": "a", "output": "b"}\n' * 19 + '{"input": "a"}\n'
    bad.write_text(rows, encoding="utf-8")
    status, _, err = command("train", bad, "--output-dir", tmp_path / "x")
    assert status == 1 and "--on-bad-line skip" in err and "on_bad_line" not in err
    settings = tmp_path / "zero.yaml"
    settings.write_text("lora_r: 0\n", encoding="utf-8")
    status, _, err = command("train", bad, "--config", settings)
    assert status == 1 and "zero.yaml: --lora-r is 0" in err and "TrainingConfig" not in err
    status, _, err = command("generate", "tinyforge-base", "Hi", "--top-p", 7)
    assert status == 1 and "--top-p is 7" in err


def test_case_17_output_that_cannot_be_encoded(tmp_path):
    "What an encoding lacks is written as an escape, in answers and in errors."
    narrow = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    words = ("generate", "tinyforge-base", "☃ é", "--json", "--max-new-tokens", 2)
    done = process(*words, env=narrow)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("cp1252"))["prompt"] == "☃ é"
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "a", "answer": "b", "☃": 1}', encoding="utf-8")
    done = process("data", "check", file, env=narrow)
    assert done.returncode == 0 and rb"not used: \u2603 (1)" in done.stdout, done.stderr
    done = process("generate", "./☃", "Hi", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1 and rb"\u2603" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "evaluate --help"])
def test_case_17_a_closed_pipe(words):
    "A reader who left ends the command as a closed pipe ends others, without a word."
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*words.split(), stdout=writer)
    os.close(writer)
    assert done.returncode == 141 and not done.stderr, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_case_17_a_full_disk():
    "An output that cannot be written is said, with status 1."
    with open("/dev/full", "w") as full:
        done = process("--version", stdout=full)
    assert done.returncode == 1 and b"cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_classes_are_evaluated(tmp_path):
    "A classifier has its accuracy, by class, and what it takes for what."
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = BertConfig(vocab_size=3072, intermediate_size=64, pad_token_id=0, **sizes)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    load_tokenizer().save_pretrained(tmp_path / "bert")
    model = AdaptedModel(str(tmp_path / "bert"))
    model.load(("calm", "angry"))
    rows = [{"text": f"text {n}", "label": "calm"} for n in range(4)]
    said = model.predict([row["text"] for row in rows])
    report, _ = heard(model.evaluate, rows)
    assert report.right == said.count("calm") and report.classes["calm"][1] == 4
    assert report.perplexity is None and "accuracy" in repr(report)
    wrong = said.count("angry")
    assert report.confusions == ([("calm", "angry", wrong)] if wrong else [])


@pytest.mark.flag("real")
def test_real_model_is_asked():
    "A real model: its own system text is said, chats are asked, its loss is transformers'."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = os.environ["TINYFORGE_REAL_MODEL"]
    model = AdaptedModel(folder)
    turns = [asked("My name is Ann."), answered("Hello Ann."), asked("What is 2+2?")]
    answer, said = heard(model.generate, turns, **SHORT)
    assert "helpful AI assistant" in said
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    before = ids["input_ids"].shape[1]
    written = plain.generate(**ids, max_new_tokens=12, do_sample=False)
    assert answer == tokenizer.decode(written[0, before:], skip_special_tokens=True)
    report, _ = heard(model.evaluate, [{"messages": [*turns, answered("4")]}], **SHORT)
    whole = tokenizer.apply_chat_template(
        [*turns, answered("4")], return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        logits = plain(whole).logits[0].log_softmax(-1)
    first = tokenizer.apply_chat_template(
        turns[:1], tokenize=False, add_generation_prompt=True
    )
    begin = len(tokenizer(first, add_special_tokens=False)["input_ids"])
    hello = len(tokenizer("Hello Ann.<|im_end|>", add_special_tokens=False)["input_ids"])
    last = len(tokenizer("4<|im_end|>", add_special_tokens=False)["input_ids"])
    places = [*range(begin, begin + hello), *range(before, before + last)]
    nats = -sum(logits[i - 1, whole[0, i]].item() for i in places)
    assert report.tokens == len(places) and abs(report.loss - nats / len(places)) < 1e-3


def test_a_trained_model_keeps_its_settings(trained):
    "Evaluating makes examples as the training did, whatever is configured now."
    trainer, file, _ = trained
    whole, _ = heard(trainer.evaluate, file, **SHORT)
    shorter = AdaptedModel(lora_path=trainer.config.output_dir)
    assert abs(heard(shorter.evaluate, file, **SHORT)[0].loss - whole.loss) < 1e-5
    assert replace(trainer.config, max_length=16).max_length == 16


def test_case_13_asked_without_its_template_options(tmp_path):
    "Options of the template that every row brought are said to whoever omits them, once."
    base = str(with_template(tmp_path / "thinks", THINKS + load_tokenizer().chat_template))
    folder = str(tmp_path / "adapter")
    options = {"enable_thinking": False}
    row = {"question": "Is it?", "answer": "It is.", "chat_template_kwargs": options}
    config = TrainingConfig(model_name=base, output_dir=folder, learning_rate=1e-2)
    RealTrainer(config).train([row] * 8, show=False)
    again = AdaptedModel(base, folder)
    assert f"was trained with chat={options}" in heard(again.generate, "Is it?", **SHORT)[1]
    assert "was trained with chat" not in heard(again.generate, "Is it?", **SHORT)[1]
    given = AdaptedModel(base, folder)
    assert "with chat" not in heard(given.generate, "Is it?", chat=options, **SHORT)[1]


def test_options_stand_between_folder_and_question(trained):
    "The order of options and of what is asked is free."
    folder = trained[2].output_dir
    asked = ["How does slate form?", "Hi"]
    usual = command("generate", "--max-new-tokens", 4, folder, *asked)
    assert usual[0] == 0 and usual[1].count("\n") == 2
    assert command("generate", folder, "--max-new-tokens", 4, *asked)[:2] == usual[:2]
    assert command("generate", folder, *asked, "--max-new-tokens", 4)[:2] == usual[:2]
    apart = command("generate", folder, asked[0], "--max-new-tokens", 4, asked[1])
    assert apart[:2] == usual[:2]


def test_options_stand_between_files(tmp_path):
    "The same for commands that have commands of their own."
    for name in ("a", "b"):
        (tmp_path / name).write_text('{"question": "Is it?", "answer": "It is."}')
    files = [tmp_path / "a", tmp_path / "b"]
    usual = command("data", "check", *files, "--json")
    assert usual[0] == 0 and json.loads(usual[1])["total"] == 2
    assert command("data", "check", files[0], "--json", files[1])[:2] == usual[:2]


@pytest.mark.parametrize("args", [["train"], ["evaluate", "some-adapter"]])
def test_a_missing_file_is_said_before_anything_is_loaded(args):
    "No library of models is imported to find that a file of rows is not there."
    start = (
        "import sys; from tinyforge.cli import main; status = main();"
        " sys.exit(status + 10 * ('transformers' in sys.modules))"
    )
    options = {"capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", start, *args, "none.jsonl"], **options)
    assert done.returncode == 1 and "none.jsonl: there is no such file" in done.stderr
