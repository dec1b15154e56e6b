"""Write README.md, and its picture, from nbs/index.ipynb.

With --check, only say whether they are up to date. What only the site can lay out (boxes and
buttons, between lines of colons) stands in plain Markdown here.
"""

import posixpath
import re
import sys
from base64 import b64decode
from pathlib import Path

import nbformat
from nbdev.process import extract_directives

ROOT = Path(__file__).resolve().parent.parent
PICTURE = "nbs/theme/result.png"
NOTE = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: edit the notebook. -->"


def from_root(markdown):
    "Links relative to nbs/ made relative to the root; addresses and anchors stay."

    def link(match):
        return "](" + posixpath.normpath("nbs/" + match[1]) + ")"

    return re.sub(r"\]\((?!\w+:|#|/)([^)\s]+)\)", link, markdown)


def fence(text, language=""):
    return f"```{language}\n{text.rstrip()}\n```"


def render_output(output, alt):
    """An output as Markdown: Markdown as it is, a picture by its name, text in a fence.

    Nothing of stderr.
    """
    if output.output_type == "stream":
        return fence(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    if any(kind.startswith("image/") for kind in data):
        return f"![{alt}]({PICTURE})"
    return fence(data["text/plain"]) if data.get("text/plain", "").strip() else ""


def plain(markdown):
    "Without the lines that make boxes; links on lines of their own become a list."
    lines = [line for line in markdown.splitlines() if not line.startswith(":::")]
    return "\n".join(re.sub(r"^(\[[^\]]+\]\([^)]+\))$", r"- \1", line) for line in lines)


def picture(nb):
    "The one picture of the page, as PNG."
    outputs = (output for cell in nb.cells for output in cell.get("outputs", ()))
    found = [data["image/png"] for o in outputs if "image/png" in (data := o.get("data", {}))]
    (only,) = found
    return b64decode(only)


def render(nb):
    parts = [NOTE]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            parts.append(from_root(plain(cell.source.strip())))
        if cell.cell_type != "code":
            continue  # raw cells are front matter
        directives = extract_directives(cell, remove=False)
        if directives.keys() & {"hide", "default_exp"}:
            continue
        code = re.sub(r"^\s*#\s*\|.*\n?", "", cell.source, flags=re.M).strip()
        if code and directives.get("echo:", [""])[0] != "false":
            parts.append(fence(code, "python"))
        alt = re.sub(r"\s+# noqa.*", "", " ".join(directives.get("fig-alt:", []))).strip("\"'")
        parts += [render_output(output, alt) for output in cell.outputs]
    return "\n\n".join(filter(None, parts)) + "\n"


def main():
    nb = nbformat.read(ROOT / "nbs/index.ipynb", as_version=4)
    wanted = {"README.md": render(nb).encode(), PICTURE: picture(nb)}
    for name, content in wanted.items():
        file = ROOT / name
        if "--check" not in sys.argv:
            file.write_bytes(content)
        elif not file.exists() or file.read_bytes() != content:
            sys.exit(f"{name} is not what nbs/index.ipynb holds. Run: python tools/readme.py")


if __name__ == "__main__":
    main()
