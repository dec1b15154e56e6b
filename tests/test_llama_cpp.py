"""llama.cpp itself reads what is exported of SmolLM2-135M-Instruct and an adapter on it.

Flags real and slow. TINYFORGE_REAL_MODEL names the model's folder; llama.cpp is the Python
package llama-cpp-python, or the folder in TINYFORGE_NODE_LLAMA_CPP."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_real import ROWS

import tinyforge
from tinyforge.data.shipped import dataset

pytestmark = [pytest.mark.flag("real"), pytest.mark.flag("slow")]


@pytest.fixture(scope="module")
def node():
    "The folder with node-llama-cpp, or None for the Python package."
    node = os.environ.get("TINYFORGE_NODE_LLAMA_CPP")
    assert node or find_spec("llama_cpp"), "install llama-cpp-python, or node-llama-cpp"
    return node


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    "An adapter trained for a few steps; or the one that TINYFORGE_REAL_ADAPTER names."
    given = os.environ.get("TINYFORGE_REAL_ADAPTER")
    if given:
        return Path(given)
    place = tmp_path_factory.mktemp("real")
    lines = [json.dumps({"question": q, "answer": a}) for q, a in ROWS]
    (place / "rows.jsonl").write_text("\n".join(lines))
    config = tinyforge.TrainingConfig(
        model_name=str(Path(os.environ["TINYFORGE_REAL_MODEL"]).resolve()),
        output_dir=str(place / "adapter"),
        num_epochs=3,
        batch_size=len(ROWS),
        learning_rate=1e-3,
    )
    tinyforge.RealTrainer(config).train(place / "rows.jsonl", show=False)
    return place / "adapter"


@pytest.fixture(scope="module")
def prompts():
    "A hundred prompts."
    lines = dataset("customer_support").read_text(encoding="utf-8").splitlines()
    found = list(dict.fromkeys(json.loads(line)["input"] for line in lines))
    return [*(question for question, _ in ROWS), *found][:100]


@pytest.mark.parametrize("to", ["gguf", "gguf-adapter"])
def test_llama_cpp_answers_a_hundred_prompts_as_here(to, adapter, prompts, node, tmp_path):
    out = tmp_path / "out"
    proof = tinyforge.export_adapter(
        adapter, to, out, prompts=prompts, node_llama_cpp=node
    )
    print(proof)
    reader, llama = proof.checks
    assert reader.prompts == llama.prompts == len(prompts) == 100
    assert "llama" in llama.engine
    assert llama.equal + len(llama.ties) == 100
    # where rounding decides, the two logits are as near to each other as rounding goes
    for tie in llama.ties:
        first, second = tie["logits"]
        assert 0 <= first - second <= 2 * (llama.difference + proof.rounding), tie
