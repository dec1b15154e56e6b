"What tests and the benchmark of the server share: adapters, questions, requests to an engine."

import json
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tinyforge.generation.prompts import Question, prompt_ids
from tinyforge.serving.answers import Manner
from tinyforge.serving.engine import Job

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUESTIONS = [
    "How do I reset my password?",
    "Hello",
    "What are symptoms of flu?",
    "Write a Python function to sort a list",
    "Where is my order 4711? It should have been here yesterday, and nobody answers.",
]


def write_adapters(root, names, model, base="tinyforge-base", r=4, size=3.0):
    "Adapters of random numbers, large enough to be heard."
    layers = [(n, m) for n, m in model.named_modules() if n.split(".")[-1] in LINEAR]
    for number, name in enumerate(names):
        draw, tensors = torch.Generator().manual_seed(number), {}
        for layer, module in layers:
            out, into = module.weight.shape
            A, B = torch.randn(r, into, generator=draw), torch.randn(out, r, generator=draw)
            tensors[f"base_model.model.{layer}.lora_A.weight"] = A / into**0.5
            tensors[f"base_model.model.{layer}.lora_B.weight"] = size * B / out**0.5
        folder = Path(root) / name
        folder.mkdir(parents=True)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": 2 * r}
        config |= {"base_model_name_or_path": base, "target_modules": list(LINEAR)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "adapter_model.safetensors")


class Listener:
    "Keeps the last piece of each request, and the seconds to its first token."

    def __init__(self):
        self.last, self.first, self._done = {}, {}, threading.Semaphore(0)

    def teller(self, number):
        "What a request tells; its time begins now."
        start = time.monotonic()

        def tell(piece):
            self.first.setdefault(number, time.monotonic() - start)
            if piece.end:
                self.last[number] = piece
                self._done.release()

        return tell

    def wait(self, requests, seconds=900):
        "Wait for so many to end; what they said last, in their order."
        for _ in range(requests):
            assert self._done.acquire(timeout=seconds), "a request was lost"
        return [self.last[number] for number in range(requests)]


def ask_all(engine, live, keys, most, endless=False, gaps=None):
    "The last piece of each (name, question), and seconds to each first token."
    ready = []
    for number, (name, question) in enumerate(keys):
        who = live[name]
        ids = prompt_ids(engine.loaded, question, who.voice)
        ready.append((Question(ids, who.voice, who.key), Manner(most[number])))
    listener, jobs = Listener(), []
    for number, (question, manner) in enumerate(ready):
        if gaps:
            time.sleep(gaps[number])
        jobs.append(Job(question, manner, listener.teller(number)))
        if gaps:
            engine.submit(jobs[-1])
    if not gaps:
        engine.submit(*jobs)
    if endless:
        for job in jobs:
            job.ends = frozenset()
    last = listener.wait(len(keys))
    return last, [listener.first[number] for number in range(len(keys))]
