"""Predicted against measured memory of training steps on a CUDA machine.

Up to a real 7B size, with random weights.

    python benchmarks/memory_gpu.py               # writes benchmarks/results/memory_cuda.json
    python benchmarks/memory_gpu.py --device cpu  # two small models, to see that it runs

4-bit rows need bitsandbytes. Each model has a process of its own, some of them beside each
other (--workers): what is measured is what torch's allocator held in that process. A process
that dies takes only the row it was at along.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from machine import machine

WAYS = [
    dict(),
    dict(gradient_checkpointing=True),
    dict(targets="attention", lora_dropout=0.1),
    dict(adapter_dtype="bfloat16"),
    dict(path="plain"),
    dict(path="padded", padding=True),
    dict(labelled_fraction=0.25),
    dict(method="qlora"),
    dict(method="qlora", gradient_checkpointing=True),
    dict(method="full"),
    dict(method="full", optimizer="adamw_8bit"),
    dict(dtype="float32"),
]
MODELS = {
    "cuda": [
        "HuggingFaceTB/SmolLM2-135M",
        "openai-community/gpt2-medium",
        "EleutherAI/pythia-1.4b",
        "meta-llama/Llama-3.2-1B",
        "Qwen/Qwen2.5-1.5B",
        "google/gemma-2-2b",
        "microsoft/phi-2",
        "meta-llama/Llama-2-7b-hf",
        "mistralai/Mistral-7B-v0.1",
    ],
    "cpu": ["tinyforge-base", "HuggingFaceTB/SmolLM2-135M"],
}


def one(model, settings, device):
    "Measure and predict one configuration; a dictionary."
    from tinyforge.errors import TinyforgeError
    from tinyforge.memory.estimate import estimate_memory
    from tinyforge.memory.measure import measure_memory

    try:
        guess = estimate_memory(model, device=device, **settings)
        real = measure_memory(model, device=device, **settings)
    except TinyforgeError as e:
        return {"model": model, "settings": settings, "error": str(e).splitlines()[0]}
    return {
        "model": model,
        "settings": asdict(real.settings),
        "predicted": guess.peak,
        "measured": real.peak,
        "error_percent": 100 * (guess.peak / real.peak - 1),
        "predicted_phase": guess.phase,
        "measured_phase": real.phase,
        "kinds": {"predicted": guess.kinds, "measured": real.kinds},
        "device_overhead": real.overhead,
    }


def several(model, ways, device):
    "Rows of one model, each printed as soon as it is there."
    import gc

    import torch

    for settings in ways:
        print(json.dumps(one(model, settings, device)), flush=True)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def in_processes(model, ways, device):
    "All rows of a model; where the process dies, its last words are that row's error."
    rows = []
    while len(rows) < len(ways):
        options = ["--device", device, "--rows", json.dumps([model, ways[len(rows) :]])]
        command = [sys.executable, __file__, *options]
        with tempfile.TemporaryFile("w+") as errors:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as worker:
                for line in worker.stdout:
                    if line[0] == "{":
                        rows.append(json.loads(line))
                        tell(rows[-1], ways[len(rows) - 1])
            errors.seek(0)
            last = (errors.read().splitlines() or ["?"])[-1]
        if len(rows) < len(ways):
            rows.append({"model": model, "settings": ways[len(rows)], "error": last})
            tell(rows[-1], ways[len(rows) - 1])
    return rows


def tell(row, settings):
    "Print one row."
    said = row.get("error")
    if not said:
        said = f"{row['measured'] / 2**30:.2f} GiB, predicted {row['error_percent']:+.2f} %"
    print(row["model"], settings, said, flush=True)


def write(rows, device, out):
    "Write what has been measured so far."
    errors = [abs(row["error_percent"]) for row in rows if "measured" in row]
    result = {
        **machine(device, "bitsandbytes"),
        "mean_error_percent": sum(errors) / len(errors) if errors else None,
        "largest_error_percent": max(errors, default=None),
        "rows": rows,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(errors)} of {len(rows)} measured; written to {out}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--out",
        default=None,
        help="the JSON file (default: results/memory_DEVICE.json)",
    )
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--workers", type=int, default=1, help="models measured at once")
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rows:
        several(*json.loads(given.rows), given.device)
        return
    ways = WAYS
    if given.device == "cpu":
        ways = [{"batch_size": 2, "seq_len": 128, **WAYS[i]} for i in (0, 4, 7)]
    models = given.models or MODELS[given.device]
    results = Path(__file__).with_name("results")
    out = Path(given.out or results / f"memory_{given.device}.json")
    with ThreadPoolExecutor(given.workers) as pool:
        rows = []
        for of_model in pool.map(lambda m: in_processes(m, ways, given.device), models):
            rows += of_model
            write(rows, given.device, out)


if __name__ == "__main__":
    main()
