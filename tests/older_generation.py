"""Run by an older Python environment: ask an export there, and print what it answers.

python older_generation.py FORMAT FOLDER TOLD: FORMAT is peft or merged, TOLD a JSON file with
a list of token ids and the tokens of an answer, for each prompt, and its text."""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

kind, folder, file = sys.argv[1:]
if kind == "peft":
    from peft import AutoPeftModelForCausalLM as Loader
else:
    Loader = AutoModelForCausalLM
model = Loader.from_pretrained(folder, torch_dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
heard = []
for one in json.load(open(file, encoding="utf-8")):
    messages = [{"role": "user", "content": one["prompt"]}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    given = torch.tensor([one["ids"] + one["tokens"][:-1]])
    with torch.no_grad():
        logits = model(input_ids=given).logits[0, len(one["ids"]) - 1 :]
    tokens, most = logits.argmax(-1).tolist(), logits.max(-1).values.tolist()
    heard.append({"ids": list(ids), "tokens": tokens, "logits": most})
print(json.dumps({"version": transformers.__version__, "heard": heard}))
