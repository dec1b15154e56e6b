"What the tests share: the files of this checkout, and a copy to try commands in."

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def files():
    "Every file that is tracked or would be, relative to the root."
    listed = subprocess.check_output(
        ["git", "ls-files", "-zco", "--exclude-standard"],
        cwd=ROOT,
        text=True,
        encoding="utf-8",
    )
    return [Path(name) for name in sorted(set(listed.split("\0"))) if (ROOT / name).is_file()]


def copy_to(folder):
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def first_rows(folder, count, name="medical_qa"):
    "A file with the first rows of a data set that comes with the package."
    from tinyforge import dataset

    lines = dataset(name).read_text(encoding="utf-8").splitlines(keepends=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(lines[:count]), encoding="utf-8")
    return path


def python(code, cwd=ROOT, **variables):
    "The output of `code` in a fresh interpreter, with what it wrote to stderr if it fails."
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONUTF8": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def differences(old, new, pattern):
    "Names of the files matching `pattern` that are not the same bytes in both folders."
    names = {path.relative_to(top) for top in (old, new) for path in top.glob(pattern)}

    def same(name):
        if not all((top / name).is_file() for top in (old, new)):
            return False
        return (old / name).read_bytes() == (new / name).read_bytes()

    return sorted(name.as_posix() for name in names if not same(name))
