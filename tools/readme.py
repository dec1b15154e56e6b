"Write README.md from nbs/index.ipynb; with --check, only say whether it is up to date."

import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbdev.process import extract_directives

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Rendered from nbs/index.ipynb by tools/readme.py: edit the notebook. -->"


def from_root(markdown):
    "Links relative to nbs/ made relative to the root; addresses and anchors stay."

    def link(match):
        return "](" + posixpath.normpath("nbs/" + match[1]) + ")"

    return re.sub(r"\]\((?!\w+:|#|/)([^)\s]+)\)", link, markdown)


def fence(text, language=""):
    return f"```{language}\n{text.rstrip()}\n```"


def render_output(output, alt):
    """An output as Markdown: Markdown as it is, a picture as its alt text, text in a fence.

    Nothing of stderr.
    """
    if output.output_type == "stream":
        return fence(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    if "text/markdown" in data:
        return data["text/markdown"].strip()
    if any(kind.startswith("image/") for kind in data):
        return f"*Figure: {alt}*" if alt else ""
    return fence(data["text/plain"]) if data.get("text/plain", "").strip() else ""


def render(nb):
    parts = [NOTE]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            parts.append(from_root(cell.source.strip()))
        if cell.cell_type != "code":
            continue  # raw cells are front matter
        directives = extract_directives(cell, remove=False)
        if directives.keys() & {"hide", "default_exp"}:
            continue
        code = re.sub(r"^\s*#\s*\|.*\n?", "", cell.source, flags=re.M).strip()
        if code and directives.get("echo:", [""])[0] != "false":
            parts.append(fence(code, "python"))
        alt = " ".join(directives.get("fig-alt:", [])).strip("\"'")
        parts += [render_output(output, alt) for output in cell.outputs]
    return "\n\n".join(filter(None, parts)) + "\n"


def main():
    readme = ROOT / "README.md"
    text = render(nbformat.read(ROOT / "nbs/index.ipynb", as_version=4))
    if "--check" not in sys.argv:
        readme.write_text(text, encoding="utf-8")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != text:
        sys.exit(
            "README.md is not what nbs/index.ipynb renders to. Run: python tools/readme.py"
        )


if __name__ == "__main__":
    main()
