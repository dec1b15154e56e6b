"""Try every family of models that transformers has: small, with random weights.

python tools/families.py [FAMILY ...] [--output FILE] [--keep FOLDER]

A small model of each, with the shipped base's tokenizer, is saved as a folder. An adapter is
trained on it for three steps, asked, saved and read again; plain PEFT puts it on the same
model, and the logits have to be equal. How it ended is written as JSON: "works" with what was
adapted and what was left, "refused" with the reason, or "fails" with the error. Each family
has a process of its own, with a limit on time and memory.
"""

import argparse
import contextlib
import dataclasses
import inspect
import io
import json
import multiprocessing
import platform
import re
import resource
import shutil
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path

SECONDS, BYTES = 240, 8 << 30  # of a family: CPU time, address space
ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("What is red?", "A colour."), ("And two?", "A number."), ("Oak?", "A tree."))
]

# numbers of a configuration that are made small: pattern of their names -> at most
SMALL = {
    r"(^|_)(vocab_size|vocabulary_size|n_tokens|n_words|vocab_size_per_layer_input)$": 3072,
    r"^(hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|embedding_dim|n_embed|emb_dim"
    r"|word_embed_proj_dim|model_dim|hidden_dim|text_hidden_size|vision_hidden_size|proj_dim"
    r"|projection_dim|projector_hidden_size|output_dim|out_hidden_size|vision_output_dim"
    r"|d_embed|lm_hidden_size)$": 64,
    r"intermediate_size|ffn_hidden_size|ffn_dim|d_ff|n_inner|dim_ff|inner_dim|mlp_hidden"
    r"|ff_dim|mlp_dim|ffn_size|shared_expert_intermediate": 96,
    r"^(n_layers?|num_blocks|depth|.*_layers)$": 2,
    r"key_value_heads|kv_heads|n_kv|num_kv|kv_n_heads": 2,
    r"^(.*n_heads?|attention_heads|.*_attention_heads|.*num_heads)$": 4,
    r"^(d_kv|kv_channels|attention_head_size|.*head_dim)$": 16,
    r"rotary_dim": 8,
    r"_lora_rank$|altup|laurel_rank": 16,
    r"^(n_group|topk_group)$": 1,
    r"max_position|n_positions|n_ctx|max_seq|seq_length|context_length|max_length": 512,
    r"^(n_routed_experts|num_local_experts|moe_num_experts|n_experts|.*num_experts)$": 4,
    r"experts_per_tok|top_k|num_selected|moe_k|experts_per_token|topk": 2,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
# where a configuration leaves these out
MISSING = {
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "is_decoder": True,
}
LAYERS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
HALF = {**SECTIONS, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
ONE_OF_EACH = {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}

# what a family needs beside these rules; a name with a dot is of a part's configuration
BESIDE: dict[str, dict] = {
    "bamba": {"attn_layer_indices": [1]},
    "chameleon": {"vocabulary_map": {"<image>": 2}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 96, "moe_top_k": 2},
    },
    "dots3_note": {
        "vision_config.adapter_in_dim": 64,
        "vision_config.adapter_out_dim": 64,
        "audio_config.adapter_input_size": 64,
        "audio_config.adapter_out_dim": 64,
    },
    "emu3": {"vocabulary_map": {"<image>": 2}},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "glm46v": {"text_config.rope_parameters": SECTIONS},
    "glm4v": {"text_config.rope_parameters": SECTIONS},
    "glm4v_moe": {"text_config.rope_parameters": HALF},
    "glm_ocr": {"text_config.rope_parameters": SECTIONS},
    "glmga": {"text_config.rope_parameters": SECTIONS},
    "granitemoehybrid": ONE_OF_EACH,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": 8, "n_groups": 2},
    "paddleocr_vl": {"text_config.rope_parameters": SECTIONS},
    "qwen2_5_omni_thinker": {"text_config.rope_parameters": SECTIONS},
    "qwen2_5_vl": {"text_config.rope_parameters": SECTIONS},
    "qwen2_vl": {"text_config.rope_parameters": SECTIONS},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 64},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 48],
    },
    "rembert": {"input_embedding_size": 64, "output_embedding_size": 64},
    "xlm": {"is_decoder": True, "causal": True},
    "xlstm": {"head_dim": ...},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
}


def small(name, value):
    "A number made small; None where it stays."
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return None
    for pattern, most in SMALL.items():
        if re.search(pattern, name):
            return min(value, most)
    return None


def defaults(cls):
    "The settings of a class of configurations that have a usual value."
    found = {}
    if dataclasses.is_dataclass(cls):
        found = {f.name: f.default for f in dataclasses.fields(cls)}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        found.setdefault(name, parameter.default)
    return found


def part_classes(cls):
    "The classes of the configurations that are parts of another, by their names."
    from transformers import AutoConfig, PretrainedConfig

    usual = None
    with contextlib.suppress(Exception):
        usual = cls()
    for name, part in (cls.sub_configs or {}).items():
        made = getattr(usual, name, None)
        part = type(made) if isinstance(made, PretrainedConfig) else part
        if isinstance(part, type) and part is not AutoConfig:
            yield name, part


def usual(cls):
    "A configuration as its class makes it without being told anything; None if it cannot."
    with contextlib.suppress(Exception):
        return cls()


def kinds_of_layers(cls):
    "As many layers as there are kinds of them, and which layer is of which."
    kinds = {}
    for name in LAYERS:
        value = getattr(usual(cls), name, None)
        if name in defaults(cls) and isinstance(value, list) and value:
            kinds[name] = list(dict.fromkeys(value))
    if not kinds:
        return {}
    n = max(2, *map(len, kinds.values()))
    given = {name: (found + found[-1:] * n)[:n] for name, found in kinds.items()}
    return {**given, "num_hidden_layers": n} if "num_hidden_layers" in defaults(cls) else given


def rotary(cls):
    "The numbers of a rotary embedding in three sections, for heads of 16."
    rope = getattr(usual(cls), "rope_parameters", None) or {}
    if "mrope_section" not in rope:
        return {}
    half = int(8 * rope.get("partial_rotary_factor", 1))
    third = half // 3
    return {"rope_parameters": {**rope, "mrope_section": [half - 2 * third, third, third]}}


def settings_of(cls, beside):
    "The settings of a small configuration."
    parts, known = dict(part_classes(cls)), defaults(cls)
    given = {}
    for name, value in known.items():
        made = small(name, value)
        if name not in parts and made is not None:
            given[name] = made
        if name in MISSING and not value:
            given[name] = MISSING[name]
        if name in TOKENS:
            given[name] = TOKENS[name]
    given |= kinds_of_layers(cls) | rotary(cls)
    if {"kv_lora_rank", "num_key_value_heads"} <= known.keys():
        given["num_key_value_heads"] = 4
    for name, part in parts.items():
        inner = {
            key.removeprefix(name + "."): value
            for key, value in beside.items()
            if key.startswith(name + ".")
        }
        given[name] = {**settings_of(part, inner), "model_type": part.model_type}
    given |= {key: value for key, value in beside.items() if "." not in key}
    return {key: value for key, value in given.items() if value is not ...}


def families():
    "Every kind of model that writes, with or without seeing."
    from transformers.models.auto import modeling_auto as auto

    texts = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    wrappers = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return list(dict.fromkeys([*texts, *wrappers]))


def maker(kind):
    "The auto class that makes a model of a kind."
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def make(kind, folder):
    "Write a small model of a kind; returns its number of weights."
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from tinyforge.models.loading import load_tokenizer

    cls = CONFIG_MAPPING[kind]
    config = cls(**settings_of(cls, BESIDE.get(kind, {})))
    torch.manual_seed(0)
    model = maker(kind).from_config(config)
    for p in model.parameters():
        if p.is_floating_point() and not p.isfinite().all():
            torch.nn.init.normal_(p, std=0.02)  # what no one initialises
    model.save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def logits_of_peft(base, adapter, inputs):
    "What plain transformers and PEFT make of token ids."
    import torch
    import transformers
    from peft import PeftModel

    config = transformers.AutoConfig.from_pretrained(base)
    plain = getattr(transformers, config.architectures[0]).from_pretrained(base)
    with torch.no_grad():
        bare = plain.eval()(**inputs).logits
        return bare, PeftModel.from_pretrained(plain, adapter).eval()(**inputs).logits


def attempt(kind, folder):
    "Train, ask, save, read again and hold against plain PEFT."
    import torch

    from tinyforge.generation.model import AdaptedModel
    from tinyforge.training.config import TrainingConfig
    from tinyforge.training.trainer import RealTrainer

    base, adapter, data = folder / "base", folder / "adapter", folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    config = TrainingConfig(
        model_name=str(base),
        output_dir=str(adapter),
        learning_rate=1e-2,
        batch_size=2,
        max_length=64,
        trainer_args={"max_steps": 3},
    )
    trainer = RealTrainer(config)
    result = trainer.train(data, show=False)
    answer = trainer.generate("What is red?", max_new_tokens=4)
    again = AdaptedModel(str(base), str(adapter))
    assert again.generate("What is red?", max_new_tokens=4) == answer, "read again, it differs"
    ids = torch.randint(2, 3000, (1, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids}
    if again.model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    bare, theirs = logits_of_peft(base, adapter, inputs)
    with torch.no_grad():
        ours = again.model(**inputs).logits
    off = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    assert off < 1e-5, f"plain PEFT's logits differ by {off:.1e} of the largest"
    assert not torch.equal(bare, theirs), "the adapter changes nothing"
    layers = again.adapters[again.active].saved.layers
    places = sorted({re.sub(r"\.\d+(?=\.)", ".*", name) for name in layers})
    return {"adapted": places, "batching": result.batching, "off": off}


def one(kind, folder, pipe):
    "In a process of its own: what a family ends with."
    from tinyforge.errors import TinyforgeError

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    said = io.StringIO()
    found = {}
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        try:
            found["weights"] = make(kind, folder / "base")
        except BaseException as e:
            pipe.send({"ends": "not made", "why": brief(e), "trace": traceback.format_exc()})
            return
        try:
            found |= {"ends": "works", **attempt(kind, folder)}
        except TinyforgeError as e:
            found |= {"ends": "refused", "why": e.what, "do": e.do}
            found["trace"] = traceback.format_exc()
        except BaseException as e:
            found |= {"ends": "fails", "why": brief(e), "trace": traceback.format_exc()}
    found["said"] = [line for line in said.getvalue().splitlines() if line.strip()]
    pipe.send(found)


def brief(error):
    "An error in a line."
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def tried(kind, keep=None):
    "What a family ends with, tried in a process of its own."
    folder = Path(keep, kind) if keep else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=one, args=(kind, folder, there))
    began = time.time()
    process.start()
    there.close()
    found = None
    with contextlib.suppress(EOFError):
        found = here.recv() if here.poll(2 * SECONDS) else {"ends": "fails", "why": "no end"}
    process.kill()
    process.join()
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    died = {"ends": "fails", "why": f"its process ended with {process.exitcode}"}
    return {**(found or died), "seconds": round(time.time() - began, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--keep", help="a folder in which the models stay")
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    import peft
    import torch
    import transformers
    import transformers.trainer  # noqa: F401 - loaded once, before processes are forked

    import tinyforge.training.trainer  # noqa: F401

    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    results = {}
    if given.output and given.output.exists():  # of other families, tried before
        results = json.loads(given.output.read_text())["families"]
    for kind in given.families or families():
        results[kind] = found = tried(kind, given.keep)
        why = found.get("why", "")
        print(f"{kind:24}{found['ends']:9}{found['seconds']:6} {why}", flush=True)
        trace = found.pop("trace", "")
        if given.trace:
            print(trace, found)
        if given.output:
            about = {"date": str(date.today()), "python": platform.python_version()}
            ordered = {name: results[name] for name in families() if name in results}
            text = json.dumps({"tried": about | versions, "families": ordered}, indent=1)
            given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
