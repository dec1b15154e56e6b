"""The processed pages as HTML, where there is no Quarto: pandoc's body, the theme's colours.

It is close to the site in what a page says and how it is marked up: headings, tables,
pictures, forms, folds and colours. Menus, the search and the layout are Quarto's own, and
are not drawn.
"""

import html
import re

import nbformat
import pypandoc
import yaml
from nbdev.process import extract_directives

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>
{style}
</style></head>
<body class="{scheme}"><main class="content" id="quarto-document-content">
<h1>{title}</h1>
{body}
</main>
{script}
</body></html>
"""
BASE = """
body { background: $paper; color: $ink; font: 17px/1.62 sans-serif; width: 860px }
a { color: $link-color }
code { color: $code-color }
pre { background: $shade; overflow: auto }
pre code { color: $ink }
"""


def variables(*texts):
    "The variables of some SCSS files, later ones written in earlier ones' values."
    found = {}
    for text in texts:
        for name, value in re.findall(r"^\$([\w-]+): ([^;]+);", text, re.M):
            found[name] = value
    for name in found:
        found[name] = filled(found[name], found)
    return found


def filled(text, values):
    "A text with each `$name` replaced by its value."
    while re.search(r"\$[a-z]", text):
        text = re.sub(r"\$([a-z][\w-]*)", lambda found: values[found[1]], text)
    return text


def style(theme, scheme):
    "The theme's rules in its light or its dark colours."
    page = (theme / "page.scss").read_text(encoding="utf-8")
    colours = (theme / f"{scheme}.scss").read_text(encoding="utf-8")
    _, _, rules = page.partition("/*-- scss:rules --*/")
    rules = re.sub(r"^\s*//.*$", "", rules, flags=re.M)
    return filled(BASE + rules, variables(colours, page))


def raw(text):
    return f"\n\n```{{=html}}\n{text}\n```\n\n"


def of_output(output, alt):
    "What a page shows of a cell's output, as pandoc's Markdown."
    if output.output_type == "stream":
        shown = html.escape(re.sub(r"\x1b\[[\d;]*m", "", output.text))
        return raw(f'<div class="cell-output"><pre><code>{shown}</code></pre></div>')
    data = output.get("data", {})
    if "text/html" in data:
        return raw(f'<div class="cell-output-display">{data["text/html"]}</div>')
    if "text/markdown" in data:
        return f"\n\n{data['text/markdown']}\n\n"
    if "image/png" in data:
        source = "data:image/png;base64," + data["image/png"].replace("\n", "")
        return raw(f'<figure><img src="{source}" alt="{html.escape(alt)}"></figure>')
    return raw(f"<pre><code>{html.escape(data.get('text/plain', ''))}</code></pre>")


def of_code(cell):
    "What a page shows of a code cell, as pandoc's Markdown."
    told = extract_directives(cell, remove=False)

    def option(name):
        return " ".join(told.get(f"{name}:", [])).strip('"')

    source = "\n".join(line for line in cell.source.splitlines() if line[:2] != "#|")
    shown = "" if option("echo") == "false" else f"\n\n``` python\n{source}\n```\n\n"
    if shown and option("code-fold") == "true":
        summary = html.escape(option("code-summary") or "Code")
        shown = f"{raw(f'<details><summary>{summary}</summary>')}{shown}{raw('</details>')}"
    alt = re.search(r'^#\| *fig-alt: *"(.*)"', cell.source, re.M)
    if option("output") == "false":
        return shown
    outputs = (of_output(output, alt[1] if alt else "") for output in cell.outputs)
    return shown + "".join(outputs)


def draw(page, theme, scheme):
    "A processed page as HTML."
    front, *cells = nbformat.read(page, as_version=4).cells
    title = html.escape(yaml.safe_load(front.source.strip().strip("-"))["title"])
    parts = [cell.source if cell.cell_type == "markdown" else of_code(cell) for cell in cells]
    reader = "markdown+autolink_bare_uris-implicit_figures"
    how = ["--mathml", "--syntax-highlighting=none"]
    return PAGE.format(
        title=title,
        style=style(theme, scheme),
        scheme=scheme,
        body=pypandoc.convert_text("\n\n".join(parts), "html5", reader, how),
        script=(theme / "scrolling.html").read_text(encoding="utf-8"),
    )
