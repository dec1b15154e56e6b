"""Predicted against measured memory of training steps on a CUDA machine.

Up to a real 7B size, with random weights.

    python benchmarks/memory_gpu.py                 # writes benchmarks/memory_gpu.json
    python benchmarks/memory_gpu.py --device cpu    # two small models, to see that it runs

4-bit rows need bitsandbytes. Each row runs in a process of its own, so that one that fails
takes nothing along.
"""

import argparse
import json
import subprocess
import sys
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


def in_a_process(model, settings, device):
    "The same in a process of its own; its last words if it fails."
    options = ["--device", device, "--one", json.dumps([model, settings])]
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    error = (done.stderr.splitlines() or ["?"])[-1]
    return {"model": model, "settings": settings, "error": error}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--out",
        default=None,
        help="the JSON file (default: memory_DEVICE.json beside this script; cuda is gpu)",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*json.loads(given.one), given.device)))
        return
    rows, ways = [], WAYS
    if given.device == "cpu":
        ways = [{"batch_size": 2, "seq_len": 128, **WAYS[i]} for i in (0, 4, 7)]
    for model in MODELS[given.device]:
        for settings in ways:
            row = in_a_process(model, settings, given.device)
            said = row.get("error")
            if not said:
                said = f"{row['measured'] / 2**30:.2f} GiB"
                said += f", predicted {row['error_percent']:+.2f} %"
            print(model, settings, said, flush=True)
            rows.append(row)
    errors = [abs(row["error_percent"]) for row in rows if "measured" in row]
    result = {
        **machine(given.device, "bitsandbytes"),
        "mean_error_percent": sum(errors) / len(errors) if errors else None,
        "largest_error_percent": max(errors, default=None),
        "rows": rows,
    }
    device = "gpu" if given.device == "cuda" else "cpu"
    out = Path(given.out or Path(__file__).with_name(f"memory_{device}.json"))
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(errors)} of {len(rows)} measured; written to {out}")


if __name__ == "__main__":
    main()
