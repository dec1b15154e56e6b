"Nothing private travels: names without folders, no secrets; and the base is found again."

import json
import os
import shutil
from pathlib import Path

import pytest

from tinyforge import RealTrainer, TrainingConfig, load_base, read_adapter
from tinyforge.adapters.combining import combine_into
from tinyforge.adapters.exporting import merge_adapter
from tinyforge.adapters.inspecting import note_score
from tinyforge.errors import AdapterError, ConfigError
from tinyforge.generation.holding import base_and_adapter
from tinyforge.models.loading import load_tokenizer

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n + 1}."} for n in range(6)]
QUICK = {"num_epochs": 1, "lora_r": 2, "lora_target_modules": ["q_proj"], "batch_size": 2}
SECRETS = {"hub_token": "hf_hidden", "run_name": "a run", "logging_dir": "alice-logs/deep"}
PRIVATE = ("alice", "hf_hidden")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "What is noted on this machine stays in the test."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def home(tmp_path):
    "A folder with somebody's name, with a base and data in it."
    home = tmp_path / "alice"
    (home / "models").mkdir(parents=True)
    load_base().save_pretrained(home / "models" / "mine")
    load_tokenizer().save_pretrained(home / "models" / "mine")
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name in ("rows.jsonl", "heldout.jsonl"):
        (home / name).write_text(text)
    return home


def trained(home, name="out", **settings):
    folder = home / "results" / name
    given = {
        "model_name": str(home / "models" / "mine"),
        "output_dir": str(folder),
        "eval_data": str(home / "heldout.jsonl"),
        **QUICK,
        **settings,
    }
    trainer = RealTrainer(TrainingConfig(**given))
    trainer.train(str(home / "rows.jsonl"), show=False)
    return folder, trainer


def texts(folder):
    "What stands in every file of a folder, as far as it is text."
    files = (file for file in Path(folder).rglob("*") if file.is_file())
    return {file.name: file.read_bytes().decode("utf-8", "replace") for file in files}


def refuse_private(folder, *more):
    for name, text in texts(folder).items():
        for word in (*PRIVATE, *more):
            assert word not in text, (name, word, text[max(0, text.index(word) - 80) :][:200])


def test_a_result_holds_names_and_no_secrets(home):
    "Of an adapter, its score, a merge and a combination."
    folder, _ = trained(home, trainer_args={"run_name": "x", "logging_dir": "alice/logs"})
    note_score(folder, exact_match=0.5)
    merge_adapter(folder, home / "merged")
    combine_into(home / "combined", [(str(folder), 0.5), (read_adapter(folder), 0.5)])
    for result in (folder, home / "merged", home / "combined"):
        refuse_private(result, str(home.parent))
    origin = json.loads((folder / "tinyforge.json").read_text())
    assert origin["base"] == origin["config"]["model_name"] == "mine"
    assert origin["config"]["eval_data"] == "heldout.jsonl"
    assert origin["config"]["trainer_args"] == {"run_name": "x", "logging_dir": "logs"}
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "mine"


def test_a_model_trained_in_full_holds_names(home):
    folder, _ = trained(home, use_lora=False, num_epochs=1)
    refuse_private(folder, str(home.parent))


def test_secrets_are_left_out(home, monkeypatch):
    "By their names, at any depth, and addresses of the web."
    from tinyforge.models.sharing import shared

    arguments = {
        "hub_token": "hf_hidden",
        "accelerator_config": {"api_key": "hf_hidden", "even_batches": True},
        "trackio_space_id": "https://alice:hf_hidden@example.org/hook",
        "optim": "adafactor",
    }
    written = shared({"base": "a/b", "config": {"trainer_args": arguments}})
    assert written["config"]["trainer_args"] == {
        "accelerator_config": {"even_batches": True},
        "optim": "adafactor",
    }
    both = shared({"config": {"notes": "paths", "trainer_args": arguments}})
    assert "hf_hidden" not in json.dumps(both)


def test_the_shipped_base_is_named_without_its_path(home):
    folder, _ = trained(home, model_name="tinyforge-base")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tinyforge-base"
    refuse_private(folder, "site-packages", os.path.dirname(os.__file__))


def test_a_base_on_this_machine_is_found_again(home, monkeypatch):
    "From another folder, in every command, and after the adapter was moved."
    folder, trainer = trained(home)
    question, short = "What is 3?", {"max_new_tokens": 4}
    answer = trainer.generate(question, **short)
    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    moved = shutil.move(folder, elsewhere / "moved")
    for place in (moved, "moved"):
        again = RealTrainer.from_pretrained(place)
        assert again.generate(question, **short) == answer
    assert Path(read_adapter("moved").base).resolve() == home / "models" / "mine"
    merge_adapter("moved", "merged")
    combine_into("combined", {"moved": 1.0})
    assert Path(read_adapter("combined").base).resolve() == home / "models" / "mine"
    refuse_private("combined", str(home.parent))


def test_a_base_is_found_beside_the_adapter(home, monkeypatch):
    "On another machine, where nothing is noted: beside it, or it is asked for."
    folder, _ = trained(home)
    shutil.rmtree(home.parent / "cache")
    other = home.parent / "other"
    shutil.copytree(folder, other / "adapters" / "support")
    monkeypatch.chdir(home.parent)
    gone = home.parent / "gone"
    shutil.move(home / "models", gone)
    with pytest.raises(AdapterError, match="mine is not here") as error:
        RealTrainer.from_pretrained(other / "adapters" / "support").generate("Hi")
    assert "model_name" in error.value.do
    RealTrainer.from_pretrained(other / "adapters" / "support", str(gone / "mine"))
    shutil.copytree(gone / "mine", other / "mine")
    base, _ = base_and_adapter(other / "adapters" / "support")
    assert Path(base).resolve() == other / "mine"


def test_another_model_of_that_name_is_not_taken(home, monkeypatch):
    "A folder beside the adapter with the same name and other weights is not its base."
    import torch

    folder, _ = trained(home)
    model = load_base()
    with torch.no_grad():
        model.get_input_embeddings().weight[0] += 1
    model.save_pretrained(folder.parent / "mine")
    assert Path(read_adapter(folder).base).resolve() == home / "models" / "mine"


def test_an_option_for_nothing(home):
    "Of data, settings and versions nothing is written; a run that is complete is known."
    folder, trainer = trained(home, notes="none")
    origin = json.loads((folder / "tinyforge.json").read_text())
    assert origin.keys() <= {"base", "base_digest", "kind", "run", "result"}
    assert origin["base"] == "mine" and "rows.jsonl" not in json.dumps(origin)
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    config = trainer.config
    result = RealTrainer(config).train(str(home / "rows.jsonl"), show=False, resume=True)
    assert result.steps == 3 and result.output_dir == str(folder)
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert RealTrainer.from_pretrained(folder).generate("What is 3?", max_new_tokens=2)


def test_an_option_for_paths(home):
    "For other programs on this machine; not for the Hub."
    folder, _ = trained(home, notes="paths")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == (home / "models" / "mine").as_posix()
    with pytest.raises(ConfigError, match="push_to_hub"):
        TrainingConfig(notes="paths", push_to_hub=True)


def test_what_notes_say_makes_no_other_run(home):
    "A run goes on, or is complete, whatever is noted of it."
    folder, trainer = trained(home)
    run = json.loads((folder / "tinyforge.json").read_text())["run"]
    other, _ = trained(home, "other", notes="none")
    assert json.loads((other / "tinyforge.json").read_text())["run"] == run


def test_a_merge_replaces_only_one_of_the_same_adapter(home):
    "Another adapter of the same name is told apart, though no path is written."
    folder, _ = trained(home)
    merge_adapter(folder, home / "merged")
    merge_adapter(folder, home / "merged")
    other = shutil.copytree(folder, home / "others" / folder.name)
    with pytest.raises(ConfigError, match="holds a merge"):
        merge_adapter(other, home / "merged")
