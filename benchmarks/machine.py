"""On what a benchmark ran, for its JSON file."""

import platform
import re
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from tinyforge import __version__


def device_name(device):
    "Of the GPU where device is cuda; of the processor elsewhere, and its widest vectors."
    if device == "cuda":
        return torch.cuda.get_device_name()
    about = Path("/proc/cpuinfo")
    text = about.read_text(encoding="utf-8") if about.exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    processor = name[1] if name else platform.processor() or platform.machine()
    return f"{processor} ({torch.backends.cpu.get_cpu_capability()})"


def machine(device, *packages):
    "Device, date and versions, of those packages that are installed."
    packages = [p for p in ("torch", "transformers", "peft", *packages) if find_spec(p)]
    versions = {package: version(package) for package in packages}
    return {
        "device": device_name(device),
        "date": date.today().isoformat(),
        "versions": {**versions, "tinyforge": __version__},
    }
