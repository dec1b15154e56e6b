"Small models of every family that llama.cpp reads, adapters on them, and files gone wrong."

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from tinyforge.compat import no_warnings, quiet
from tinyforge.data.shipped import dataset
from tinyforge.exports.families import gguf_package
from tinyforge.exports.vocabulary import RULES

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|end|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 256,
}
_PART = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
_LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}

# name -> model type, what is other than usual, and the tokenizer's rule for cutting a text
CASES = {
    "llama": ("llama", {}, "llama-bpe"),
    "llama, stretched": ("llama", {"head_dim": 32, "rope_parameters": _LLAMA3}, "llama-bpe"),
    "llama, head shared, biases": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "smollm",
    ),
    "llama, linear": ("llama", {"rope_parameters": _LINEAR}, "gpt-2"),
    "mistral": ("mistral", {"sliding_window": 256}, "first"),
    "mistral, tekken": ("mistral", {"head_dim": 32, "sliding_window": None}, "tekken"),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, "qwen2"),
    "qwen2, yarn": ("qwen2", {"rope_parameters": _YARN}, "qwen2"),
    "qwen3": ("qwen3", {"head_dim": 32}, "qwen2"),
    "gemma3": (
        "gemma3_text",
        {
            "num_hidden_layers": 7,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
        "never",
    ),
    "phi3": ("phi3", {"pad_token_id": 0, "original_max_position_embeddings": 512}, "prepend"),
    "phi3, stretched": (
        "phi3",
        {
            "pad_token_id": 0,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 256,
            "rope_parameters": _LONG,
        },
        "prepend",
    ),
    "phi4-mini": (
        "phi3",
        {
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "original_max_position_embeddings": 512,
            "rope_parameters": _PART,
        },
        "gpt-4o",
    ),
}


def _texts():
    names = "customer_support", "code_helper"
    return [line for n in names for line in dataset(n).read_text().splitlines()]


def _over_bytes(rule):
    "A byte-level tokenizer that cuts a text by one of llama.cpp's rules."
    steps = []
    for step in next(steps for steps, name in RULES.items() if name == rule):
        if step == "Digits":
            steps.append(pre_tokenizers.Digits(True))
        elif step.startswith("ByteLevel"):
            steps.append(pre_tokenizers.ByteLevel(False, use_regex=step != "ByteLevel"))
        else:
            steps.append(pre_tokenizers.Split(Regex(step), "isolated"))
    made = Tokenizer(models.BPE(ignore_merges=rule in ("llama-bpe", "tekken")))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=[*SPECIAL, "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", bos_token="<s>")


def _over_characters(how):
    "A tokenizer over characters: Llama 2's (prepend), Mistral's (first) or Gemma's (never)."
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    space = normalizers.Replace(" ", "\u2581")
    made.normalizer = space
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    made.train_from_iterator(_texts(), trainer)
    written = json.loads(made.to_str())
    added = [t for t in written["added_tokens"] if not t["content"].startswith("<0x")]
    for token in added:
        plain = ("<unk>", "<s>", "<|endoftext|>")
        token["rstrip"] = how == "prepend" and token["content"] not in plain
    made = Tokenizer.from_str(json.dumps({**written, "added_tokens": added}))
    if how == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space])
        made.pre_tokenizer = None
    if how == "first":
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if how == "never":
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="<|end|>"
    )


def made_base(case, folder, seed=0):
    "A small model of a case with random weights, written with its tokenizer."
    kind, changes, rule = CASES[case]
    over_bytes = rule in RULES.values()
    tokenizer = _over_bytes(rule) if over_bytes else _over_characters(rule)
    tokenizer.chat_template = CHAT
    named = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    rows = len(tokenizer) + 5  # an embedding with rows that belong to no token
    config = AutoConfig.for_model(kind, **{**SMALL, "vocab_size": rows, **named, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "bias" in name:
                p.add_(0.3 * torch.randn_like(p))
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


def made_adapter(model, folder, **options):
    "An adapter made by PEFT alone, with B drawn by lot instead of learned."
    torch.manual_seed(0)
    usual = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    usual |= {"target_modules": "all-linear", "rank_pattern": {"v_proj": 2}}
    with quiet(), no_warnings():
        made = get_peft_model(model, LoraConfig(**{**usual, **options})).eval()
        made.save_pretrained(folder)
        made.unload()


def rewritten(file: Path, new: Path, fields=None, tensors=None):
    "Write a GGUF file of float32 again with other fields (None: without), or other tensors."
    gguf = gguf_package()
    reader, fields = gguf.GGUFReader(str(file)), fields or {}
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(str(new), arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = fields.get(name, field.contents())
        if value is None:
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, value, field.types[0], inner)
    arrays = {t.name: t.data for t in reader.tensors}
    for name, array in arrays.items():
        changed = array if tensors is None else tensors(arrays, name, array)
        if changed is not None:
            writer.add_tensor(name, changed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
