"""What people bring as a model: cases 19 to 28, each small.

A model here is the shipped base, changed, or a small one with random weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tinyforge.adapters.exporting import merge_adapter
from tinyforge.adapters.files import read_adapter
from tinyforge.adapters.peft_layers import LoraSettings, add_layers, target_layers
from tinyforge.errors import AdapterError, ConfigError, ModelError
from tinyforge.generation.model import AdaptedModel
from tinyforge.models.loading import (
    LoadedBase,
    load_base,
    load_tokenizer,
    quantization_config,
    resize_embeddings,
)
from tinyforge.models.names import model_location
from tinyforge.models.tasks import CAUSAL
from tinyforge.training.config import TrainingConfig
from tinyforge.training.trainer import RealTrainer

ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("What is red?", "A colour."), ("And two?", "A number."))
]
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
SMALL = {"vocab_size": 3072, "hidden_size": 64, "num_attention_heads": 4, **ENDS}
TEXT = {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 96}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows():
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return "rows.jsonl"


def copied_base(folder="base"):
    shutil.copytree(model_location("tinyforge-base"), folder)
    return Path(folder)


def changed(base, **settings):
    "The configuration of a folder, with other settings."
    given = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**given, **settings}))


def small_model(config, folder, auto=transformers.AutoModelForCausalLM):
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)


def trained(name, output="adapter", **options):
    config = TrainingConfig(
        model_name=str(name),
        output_dir=output,
        learning_rate=1e-2,
        max_length=64,
        **{"trainer_args": {"max_steps": 2}, **options},
    )
    trainer = RealTrainer(config)
    trainer.train(rows(), show=False)
    return trainer


def logits(model):
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def check_in_peft(base, adapter, auto):
    "Plain transformers and PEFT give the logits that we do."
    ours = AdaptedModel(str(base), adapter)
    ours.load_lora(adapter)
    plain = auto.from_pretrained(base)
    bare = logits(plain)
    theirs = logits(PeftModel.from_pretrained(plain, adapter))
    assert (logits(ours.model) - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert not torch.equal(bare, theirs)


# 19


def test_case_19_more_tokens_than_rows():
    "Refused before anything is loaded, with both numbers; written with more rows, if asked."
    base = copied_base()
    tokenizer = load_tokenizer()
    tokenizer.add_tokens(["<thought>", "</thought>"])
    tokenizer.save_pretrained(base)
    for use in (trained, lambda name: AdaptedModel(name).generate("Hi")):
        with pytest.raises(ModelError, match="(?s)3074 tokens.*3072 rows.*resize_embeddings"):
            use(str(base))
    resize_embeddings(str(base), "resized")
    options = {"modules_to_save": ["embed_tokens"]}
    assert trained("resized", "resized-adapter", **options).generate("Hi", max_new_tokens=2)


def test_case_19_a_vocabulary_that_is_filled_up():
    "More rows than tokens is how many models come."
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": 3200})
    small_model(config, "wide")
    assert isinstance(trained("wide").generate("Hi", max_new_tokens=2), str)


def test_case_19_a_token_that_no_file_names():
    "Qwen2's class adds a special token by itself; no text holds it, and the model is taken."
    small_model(transformers.Qwen2Config(**TEXT), "qwen2")
    assert len(load_tokenizer("qwen2")) == 3073
    assert isinstance(trained("qwen2").generate("Hi", max_new_tokens=2), str)


# 20, 21


def saved_in_bits(folder, **bits):
    "The shipped base's folder as bitsandbytes saved it."
    quantised = load_base(load_in_4bit=True) if not bits else None
    if bits:
        config = transformers.BitsAndBytesConfig(**bits)
        quantised = transformers.AutoModelForCausalLM.from_pretrained(
            model_location("tinyforge-base"), quantization_config=config, device_map="cpu"
        )
    quantised.save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)


def test_case_20_a_folder_in_four_bits():
    "What was loaded decides, not the flag: it learns, and is noted as what it is."
    saved_in_bits("four")
    assert LoadedBase.load("four").load_in_4bit
    for module in load_base("four").modules():
        assert not getattr(module, "support_avx512bf16_for_cpu", False)
    trained("four")
    saved = read_adapter("adapter")
    assert saved.origin["config"]["load_in_4bit"]
    assert all(f.B.any() for f in saved.factors.values())


@pytest.mark.parametrize("place", ["model.layers.0", "model.layers.1", "model.norm"])
def test_case_20_a_gradient_that_is_cut(place):
    "A run whose adapter gets no gradient does not begin."
    trainer = RealTrainer(TrainingConfig(output_dir="cut", trainer_args={"max_steps": 1}))
    trainer.load()
    module = trainer.base.get_submodule(place)
    module.register_forward_hook(lambda module, inputs, out: out.detach())
    with pytest.raises(AdapterError, match="no gradient reaches"):
        trainer.train(rows(), show=False)
    assert not Path("cut").exists()


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "hqq"},
    ],
)
def test_case_21_four_bits_of_what_is_quantised_already(quantised):
    "Refused by name; the flag would be ignored."
    base = copied_base()
    config = json.loads((base / "config.json").read_text())
    text = json.dumps({**config, "quantization_config": quantised})
    (base / "config.json").write_text(text)
    with pytest.raises(ModelError, match="quantised already .*leave load_in_4bit out|already"):
        load_base(str(base), load_in_4bit=True)


# 22


def wrappers():
    yield "gemma3", transformers.Gemma3Config(
        text_config={**TEXT, "head_dim": 16}, vision_config={**VISION, "image_size": 56}
    )
    yield "llava", transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config={**VISION, "model_type": "clip_vision_model", "image_size": 56},
    )
    yield "idefics3", transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**TEXT), vision_config=VISION
    )


@pytest.mark.parametrize("name, config", list(wrappers()))
def test_case_22_a_wrapper_that_sees(name, config, capsys):
    "Its text half is trained, and this is said; PEFT opens it whole; a merge keeps all."
    auto = transformers.AutoModelForImageTextToText
    small_model(config, name, auto)
    Path(name, "preprocessor_config.json").write_text('{"size": 56}')
    trained(name)
    assert "outside the half of the model that reads texts" in capsys.readouterr().out
    layers = read_adapter("adapter").layers
    assert layers and not any("vision" in layer for layer in layers)
    check_in_peft(name, "adapter", auto)
    merge_adapter("adapter", "merged")
    whole, merged = auto.from_pretrained(name), auto.from_pretrained("merged")
    assert type(whole) is type(merged)
    kept, now = whole.state_dict(), merged.state_dict()
    assert kept.keys() == now.keys()
    changed = [n for n in kept if not torch.equal(kept[n], now[n])]
    assert changed and not any("vision" in n for n in changed)
    assert Path("merged/preprocessor_config.json").exists()


# 23

HYBRIDS = {
    "mixtral": transformers.MixtralConfig(**TEXT, num_local_experts=4),
    "qwen3_next": transformers.Qwen3NextConfig(
        **TEXT,
        num_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
    ),
    "mamba": transformers.MambaConfig(**{**SMALL, "num_hidden_layers": 2}),
    "falcon_h1": transformers.FalconH1Config(**TEXT, mamba_d_ssm=64, mamba_n_heads=4),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_case_23_default_targets(name, capsys):
    "What PEFT can adapt is adapted, and the rest is named."
    small_model(HYBRIDS[name], name)
    trained(name)
    said = capsys.readouterr().out
    assert "not adapted: " in said and "leave it out" not in said
    check_in_peft(name, "adapter", transformers.AutoModelForCausalLM)


def test_case_23_a_list_is_strict():
    "Layers that were named and cannot be adapted are refused, with PEFT's reason."
    small_model(HYBRIDS["mamba"], "mamba")
    with pytest.raises(ConfigError, match="'out_proj' cannot .* it is refused by PEFT"):
        target_layers(load_base("mamba"), ["out_proj"])


def test_case_23_layers_that_nothing_reads():
    "A layer whose result is thrown away gets no adapter by default, and is refused by name."
    base = load_base()
    mlp = base.model.layers[0].mlp
    mlp.register_forward_hook(lambda module, inputs, out: torch.zeros_like(out))
    names = target_layers(base, None)
    assert len(names) == 11 and not any("layers.0.mlp" in name for name in names)
    with pytest.raises(ConfigError, match="changes nothing in what the model says"):
        target_layers(base, ["layers.0.mlp.up_proj"])


# 24


def turned(weight, heads):
    "A projection's rows in the order in which llama.cpp keeps them."
    pairs = weight.reshape(heads, 2, len(weight) // heads // 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def as_gguf(file):
    "The shipped base as a GGUF file, its matrices in eight bits."
    import gguf

    model, tokenizer = load_base(), load_tokenizer()
    config, vocabulary = model.config, tokenizer.get_vocab()
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    eight = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in model.state_dict().items():
        if name.startswith("lm_head"):
            continue
        place = name.removesuffix(".weight").split(".", 3)
        key = place[3] if name.startswith("model.layers") else ".".join(place)
        tensor = turned(tensor, 8) if PLACES[key] in ("attn_q", "attn_k") else tensor
        block = f"blk.{place[2]}." if name.startswith("model.layers") else ""
        data, called = tensor.float().numpy(), f"{block}{PLACES[key]}.weight"
        if data.ndim == 2:
            writer.add_tensor(called, gguf.quants.quantize(data, eight), raw_dtype=eight)
        else:
            writer.add_tensor(called, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_case_24_a_gguf_file_is_a_base(capsys):
    "It is loaded and this is said; trained, asked, read again, moved, merged like any other."
    as_gguf("base.gguf")
    base = load_base("base.gguf")
    said = capsys.readouterr().out
    assert "Q8_0" in said and "float32" in said and "MB of memory" in said
    assert (logits(base) - logits(load_base())).abs().max() < 0.1 * logits(base).abs().max()
    assert load_tokenizer("base.gguf").chat_template == load_tokenizer().chat_template
    answer = trained("base.gguf").generate("What is red?", max_new_tokens=4)
    saved = read_adapter("adapter")
    assert saved.origin["base"] == "base.gguf" and len(saved.origin["base_sha256"]) == 64
    Path("elsewhere").mkdir()
    shutil.move("base.gguf", "elsewhere/renamed.gguf")
    moved = AdaptedModel("elsewhere/renamed.gguf", "adapter")
    assert moved.generate("What is red?", max_new_tokens=4) == answer
    merge_adapter("adapter", "merged", model_name="elsewhere/renamed.gguf")
    plain = transformers.AutoModelForCausalLM.from_pretrained("merged")
    assert not hasattr(plain.config, "quantization_config")
    off = (logits(plain) - logits(moved.model)).abs().max()
    assert off < 1e-4 * logits(plain).abs().max()
    content = Path("elsewhere/renamed.gguf").read_bytes()
    Path("cut.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cut.gguf is cut off"):
        load_base("cut.gguf")


def test_case_24_a_gguf_file(monkeypatch):
    "What cannot be read is refused by name: no package, no file, no GGUF, one of several."
    Path("model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="model.gguf"):
        load_base("model.gguf")
    Path("text.gguf").write_text("not one")
    with pytest.raises(ModelError, match="is no GGUF file"):
        load_tokenizer("text.gguf")
    with pytest.raises(ModelError, match="there is no such file"):
        load_tokenizer("nowhere.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ModelError, match="(?s)not installed.*pip install gguf"):
        model_location("model.gguf")


# 25


def damage(file, how):
    content = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    made = {"cut": content[: len(content) // 2], "empty": b"", "pointer": pointer}
    file.write_bytes(made[how])


@pytest.mark.parametrize("how", ["cut", "empty", "pointer"])
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_case_25_a_damaged_file(file, how):
    "The file is named, with what to do about it."
    base = copied_base()
    damage(base / file, how)
    with pytest.raises(ModelError, match=file) as e:
        RealTrainer(TrainingConfig(model_name=str(base))).train(rows(), show=False)
    assert ("git lfs pull" in e.value.do) == (how == "pointer")


def in_two_parts(base):
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for part, held in ((1, names[:9]), (2, names[9:])):
        file = f"model-{part}-of-2.safetensors"
        save_file({n: tensors[n] for n in held}, base / file, {"format": "pt"})
        places |= dict.fromkeys(held, file)
    index = {"metadata": {}, "weight_map": places}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    return base / "model-1-of-2.safetensors", base / "model-2-of-2.safetensors"


def test_case_25_parts_of_a_model():
    "A part that is cut off, missing, or another one is named."
    base = copied_base()
    first, second = in_two_parts(base)
    assert load_base(str(base)).made_at_random == []
    kept = first.read_bytes()
    for content, message in (
        (kept[:-5], "model-1-of-2.safetensors is cut off"),
        (second.read_bytes(), "model-1-of-2.safetensors does not hold"),
        (None, "model-1-of-2.safetensors is missing"),
    ):
        first.unlink()
        if content:
            first.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            load_base(str(base))
        first.write_bytes(kept)


def test_case_25_weights_as_torch_writes_them():
    "A folder with pytorch_model.bin alone is loaded; a cut one is named."
    base = copied_base()
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert load_base(str(base)).made_at_random == []
    damage(base / "pytorch_model.bin", "cut")
    with pytest.raises(ModelError, match="pytorch_model.bin is cut off"):
        load_base(str(base))


# 26


def own_code(base, *files):
    "Code of its own for a model's configuration and tokenizer, which says that it ran."
    (base / "mine.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    auto = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    auto["AutoTokenizer"] = ["mine.T", None]
    for file in files:
        given = json.loads((base / file).read_text())
        changed = {**given, "auto_map": auto}
        kind = "model_type" if file == "config.json" else "tokenizer_class"
        (base / file).write_text(json.dumps({**changed, kind: "mine"}))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_case_26_code_in_the_repository(file, monkeypatch):
    "It is not run, nobody is asked, and the argument is named."
    base = copied_base()
    own_code(base, file)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="(?s)is not run.*trust_remote_code=True"):
        RealTrainer(TrainingConfig(model_name=str(base))).train(rows(), show=False)
    assert not Path("it-ran").exists()


def test_case_26_code_where_it_is_not_needed():
    "A kind of model that transformers knows is loaded by its own code."
    base = copied_base()
    own_code(base)
    given = json.loads((base / "config.json").read_text())
    given["auto_map"] = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    (base / "config.json").write_text(json.dumps(given))
    (base / "custom_generate").mkdir()
    shutil.copy(base / "mine.py", base / "custom_generate" / "generate.py")
    assert type(load_base(str(base))).__name__ == "LlamaForCausalLM"
    assert AdaptedModel(str(base)).generate("Hi", max_new_tokens=2) is not None
    assert not Path("it-ran").exists()


def test_case_26_code_that_is_asked_for():
    "With the argument a model of its own code is trained, asked and merged."
    base = copied_base()
    (base / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig):\n    model_type = 'mine'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
    )
    auto = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    changed(base, model_type="mine", auto_map=auto, architectures=["M"])
    trainer = trained(str(base), trust_remote_code=True)
    answer = trainer.generate("Hi", max_new_tokens=4)
    again = AdaptedModel(str(base), "adapter", trust_remote_code=True)
    assert again.generate("Hi", max_new_tokens=4) == answer
    with pytest.raises(ModelError, match="is not run"):
        merge_adapter("adapter", "merged")
    merge_adapter("adapter", "merged", trust_remote_code=True)
    merged = AdaptedModel("merged", trust_remote_code=True)
    assert merged.generate("Hi", max_new_tokens=4) == answer


# 27


def test_case_27_an_old_package_beside(version="0.3.0"):
    "An old torchao stops PEFT: said before a training, with the way out."
    site = Path("site").resolve()
    (site / "torchao").mkdir(parents=True)
    (site / "torchao/__init__.py").write_text(f"__version__ = {version!r}\n")
    (site / f"torchao-{version}.dist-info").mkdir()
    meta = f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n"
    (site / f"torchao-{version}.dist-info/METADATA").write_text(meta)
    (site / f"torchao-{version}.dist-info/top_level.txt").write_text("torchao\n")
    code = (
        "from tinyforge import RealTrainer, TrainingConfig\n"
        "from tinyforge.errors import ConfigError\n"
        "try:\n"
        f"    RealTrainer(TrainingConfig()).train({rows()!r}, show=False)\n"
        "except ConfigError as e:\n"
        "    print(e)\n"
    )
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert "torchao" in done.stdout and "pip uninstall torchao" in done.stdout


def test_case_27_a_broken_package_beside():
    "What fails while it is imported is said at the first name, with the way out."
    site = Path("broken").resolve()
    (site / "bitsandbytes").mkdir(parents=True)
    (site / "bitsandbytes/__init__.py").write_text("raise RuntimeError('CUDA Setup failed')")
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", "from tinyforge import RealTrainer"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert "ConfigError: RealTrainer: a package" in done.stderr
    assert "CUDA Setup failed" in done.stderr and "bitsandbytes" in done.stderr.split("\n")[-2]


# 28


def test_case_28_folders_that_4_57_reads():
    "Tokenizer and configuration are written as both generations of transformers know them."
    rope = {"rope_type": "default", "rope_theta": 5e5}
    small_model(transformers.LlamaConfig(**TEXT, rope_parameters=rope), "base")
    trained("base")
    merge_adapter("adapter", "merged")
    for folder in ("adapter", "merged"):
        given = json.loads(Path(folder, "tokenizer_config.json").read_text())
        assert given["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not isinstance(given.get("extra_special_tokens"), list)
    config = json.loads(Path("merged/config.json").read_text())
    assert config["rope_theta"] == 5e5
    assert load_tokenizer("merged").get_vocab() == load_tokenizer().get_vocab()


def test_four_bits_come_with_a_choice():
    "What the tests above load in four bits is what QLoRA chose."
    assert quantization_config().bnb_4bit_quant_type == "nf4"
    model, noted = add_layers(load_base(load_in_4bit=True), LoraSettings(), CAUSAL)
    assert noted == {"load_in_4bit": True, "quantised": "bitsandbytes, 4 bits"}


def test_case_19_tokens_added_in_memory():
    "Tokens, or rows, that no file would hold are refused, before they are trained or asked."
    trainer = RealTrainer(TrainingConfig())
    trainer.tokenizer.add_tokens(["<new>"])
    for use in (lambda: trainer.generate("Hi"), lambda: trainer.train(ROWS, show=False)):
        with pytest.raises(ModelError, match="1 tokens were added .*3072 rows.*no vector"):
            use()
    trainer = RealTrainer(TrainingConfig())
    trainer.load()
    trainer.base.resize_token_embeddings(3073)
    with pytest.raises(ModelError, match="3073 rows in memory, and 3072 in its files"):
        trainer.train(ROWS, show=False)


def test_case_25_more_layers_than_said():
    "A configuration with fewer layers than the files hold is another model's."
    base = copied_base()
    changed(base, num_hidden_layers=1)
    with pytest.raises(ModelError, match="hold model.layers.1.* config.json has 1 layers"):
        load_base(str(base))


def test_case_25_links_and_pointers():
    "A link that leads nowhere, and a pointer in the place of a GGUF file, are called so."
    base = copied_base()
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").symlink_to("gone")
    with pytest.raises(ModelError, match="model.safetensors is a link to gone"):
        load_base(str(base))
    pointer = Path("small.gguf")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(ModelError, match="only a pointer that Git LFS left"):
        load_base(str(pointer))
    Path("blob").write_bytes(b"GGUF and more")
    with pytest.raises(ModelError, match="does not end in .gguf"):
        load_base("blob")


def test_case_21_mlx():
    "Weights that MLX quantised are called so."
    base = copied_base()
    changed(base, quantization_config={"bits": 4, "group_size": 64})
    with pytest.raises(ModelError, match="quantised by MLX"):
        load_base(str(base))
