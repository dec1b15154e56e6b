"""On what a benchmark ran, for its JSON file."""

import platform, re
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from tinyforge import __version__


def device_name(device):
    "Of the GPU where device is cuda, of the processor elsewhere."
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpus = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    return cpus[1] if cpus else platform.processor() or platform.machine()


def machine(device, *packages):
    "Device, date and versions, of those packages that are installed."
    return {
        "device": device_name(device),
        "date": date.today().isoformat(),
        "versions": (
            {
                p: version(p)
                for p in ("torch", "transformers", "peft", *packages)
                if find_spec(p)
            }
            | {"tinyforge": __version__}
        ),
    }
