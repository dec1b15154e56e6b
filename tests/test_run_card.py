"The run card: what it says is what was measured, and what it foresees is what comes."

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from checkout import ROOT
from tinyforge import RealTrainer, TrainingConfig, dataset
from tinyforge.training import card

MEASURED = json.loads((ROOT / "benchmarks/results/run_card_cpu.json").read_text())
ERRORS = MEASURED["errors"]


@pytest.mark.parametrize(
    "said, name",
    [(card.MEMORY_OFF, "memory"), (card.TIME_OFF, "time"), (card.DISK_OFF, "disk")],
)
def test_errors_on_the_card_are_those_that_were_measured(said, name):
    assert said == (ERRORS[name]["mean"], ERRORS[name]["largest"])


def test_the_figures_in_the_file_follow_from_its_rows():
    rows = MEASURED["rows"]
    assert len(rows) == card.MEASURED_ON == len({row["name"] for row in rows})
    off = [100 * (row["foreseen"]["peak"] / row["taken"]["peak"] - 1) for row in rows]
    assert round(max(map(abs, off)), 2) == ERRORS["memory"]["largest"]
    assert round(sum(map(abs, off)) / len(off), 2) == ERRORS["memory"]["mean"]
    assert round(-min(0, *off), 2) == ERRORS["memory"]["below"]
    assert {"device", "date", "versions"} <= MEASURED.keys()


@pytest.fixture
def config(tmp_path):
    return TrainingConfig(output_dir=str(tmp_path / "out"), batch_size=8, num_epochs=0.5)


def test_a_plan_writes_nothing_and_changes_nothing(config, tmp_path):
    rows = dataset("customer_support")
    alone = RealTrainer(replace(config, output_dir=str(tmp_path / "alone")))
    alone.train(rows, show=False)
    planned = RealTrainer(config)
    said = planned.plan(rows)
    seen = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert seen == ["alone"]
    assert said.seconds > 0 and said.peak > 10**8 and said.steps == 24
    result = planned.train(rows, show=False)
    file = "adapter_model.safetensors"
    one, other = ((tmp_path / name / file).read_bytes() for name in ("alone", "out"))
    assert one == other, "a plan before it changed what was trained"
    assert result.steps == said.steps and result.foreseen["disk"] == said.disk
    assert abs(result.taken["disk"] / said.disk - 1) < 0.1
    assert result.foreseen["seconds"] > 0 and result.taken["seconds"] > 0


def test_all_weights_are_put_back_after_a_plan(config):
    trainer = RealTrainer(replace(config, use_lora=False, learning_rate=1e-3))
    rows = dataset("customer_support")
    before = trainer.generate("Where is the kettle?", max_new_tokens=4)
    weights = {name: p.clone() for name, p in trainer.base.named_parameters()}
    trainer.plan(rows)
    after = dict(trainer.base.named_parameters())
    assert all(after[name].equal(p) for name, p in weights.items())
    assert not any(p.requires_grad for p in after.values())
    assert trainer.generate("Where is the kettle?", max_new_tokens=4) == before


def test_dry_run_says_the_card_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "tinyforge", "train", str(dataset("medical_qa"))]
    options = ["--dry-run", "--output-dir", "out", "--num-epochs", "1"]
    ran = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    names = [line.split()[0] for line in lines[:6]]
    assert names == ["data", "tokens", "steps", "memory", "disk", "time"]
    assert max(map(len, lines)) <= 80 and list(tmp_path.iterdir()) == []
