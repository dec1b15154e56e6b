"The site can be built: what nbdev does before Quarto draws it."

import ast
import re
import subprocess

import nbformat
import pytest
import yaml
from checkout import ROOT, copy_to, files, python
from nbdev.config import get_config

PAGES = [path for path in files() if path.suffix == ".ipynb"]


def mixed(source):
    "Whether a cell holds an import and something else, which nbdev would run for the site."
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    body = ast.parse("\n".join(lines)).body
    imports = (ast.Import, ast.ImportFrom)
    holds_one = any(isinstance(node, imports) for part in body for node in ast.walk(part))
    return holds_one and not all(isinstance(node, imports) for node in body)


def is_exported(source):
    return any(line.startswith(("#| export", "#|export")) for line in source.splitlines())


@pytest.mark.parametrize(
    "source, found",
    [
        ("import os\nfrom a import b", False),
        ("x = 1", False),
        ("import os\nx = 1", True),
        ("def f():\n    import os", True),
        ("%matplotlib inline\nimport os", False),
    ],
)
def test_a_mixed_cell_is_seen(source, found):
    assert mixed(source) == found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_import_cells_hold_imports_only(page):
    cells = nbformat.read(ROOT / page, as_version=4).cells
    wrong = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and not is_exported(cell.source) and mixed(cell.source)
    ]
    assert not wrong, (
        f"{page}: {len(wrong)} cells hold an import and code, and nbdev runs such a cell alone"
        f" for the site. Put the imports into a cell of their own. The first:\n{wrong[0]}"
    )


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_title_has_a_cell_of_its_own(page):
    "With its description: what else stands there never reaches the site."
    cells = nbformat.read(ROOT / page, as_version=4).cells
    title = next(c.source for c in cells if c.cell_type == "markdown")
    assert re.fullmatch(r"# [^\n]+\n\n> [^\n]+\n?", title), title


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_link_stands_in_a_link(page):
    "nbdev makes one of a name in backticks, and inside another it breaks both."
    cells = nbformat.read(ROOT / page, as_version=4).cells
    texts = [c.source for c in cells if c.cell_type == "markdown"]
    assert not re.findall(r"\[`[\w.]+`\]\(", "\n".join(texts))


BUILD = """
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

refresh_quarto_yml()
_build_modidx()
if __name__ == "__main__":
    print(proc_nbs(force=True, n_workers=2))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A copy of the checkout in which nbdev has processed every notebook, as `nbdev_docs` does."
    folder = tmp_path_factory.mktemp("site")
    copy_to(folder)
    for command in ("init -q", "add -A", "commit -qm before"):
        who = ["-c", "user.name=site", "-c", "user.email=site@localhost"]
        subprocess.run(["git", *who, *command.split()], cwd=folder, check=True)
    script = folder.with_name("build_site.py")
    script.write_text(BUILD, encoding="utf-8")
    python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", cwd=folder)
    return folder


def test_every_page_is_processed(built):
    made = {path.relative_to(built / "_proc") for path in (built / "_proc").rglob("*.ipynb")}
    expected = {page.relative_to("nbs") for page in PAGES}
    assert made == expected, f"not processed: {sorted(map(str, expected - made))}"


def test_no_cell_sets_an_option_twice(built):
    "Quarto ends with an error where a cell does."
    twice = []
    for path in sorted((built / "_proc").rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            lines = [line for line in cell.source.splitlines() if line.startswith("#|")]
            options = [line.partition(":")[0] for line in lines]
            if len(options) > len(set(options)):
                twice.append(f"{path.name}: {cell.source[:60]!r}")
    assert not twice, "\n".join(twice)


def test_the_index_names_methods_by_their_class(built):
    text = (built / "tinyforge" / "_modidx.py").read_text(encoding="utf-8")
    for name in ("RealTrainer.train", "Adapters.load", "Adapters.merge"):
        assert f".{name}'" in text, f"{name} is not in the site's index"


def test_nothing_is_left_behind(built):
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    left = subprocess.check_output(status, cwd=built, text=True)
    assert not left, f"building the site changes or leaves files:\n{left}"


def slug(heading):
    "The anchor that pandoc gives a heading."
    named = re.search(r"\{#([\w.-]+)", heading)
    if named:
        return named[1]
    text = re.sub(r"\{[^}]*\}\s*$|[`*]", "", heading)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"[^\w\s.-]", "", text.lower())
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", text.strip()))


def text_of(cell):
    "What a cell says in Markdown: its text, or what its code shows as such."
    if cell.cell_type == "markdown":
        return cell.source
    shown = (output.get("data", {}) for output in cell.get("outputs", ()))
    return "\n".join(data["text/markdown"] for data in shown if "text/markdown" in data)


def without_code(markdown):
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", markdown, flags=re.M | re.S)


@pytest.fixture(scope="module")
def processed(built):
    "Each processed page: its cells, and the anchors that it has."
    found = {}
    for path in sorted((built / "_proc").rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(map(text_of, cells))
        fences = re.compile(r"^```.*?^```", re.M | re.S)
        headings = re.findall(r"^#+ +(.+)$", fences.sub("", text), re.M)
        anchors = {slug(heading) for heading in headings}
        found[path] = cells, anchors | set(re.findall(r'\bid="([^"]+)"', text))
    return found


def test_every_link_and_anchor_of_the_site_leads_somewhere(built, processed):
    dead = []
    for path, (cells, own) in processed.items():
        for text in map(without_code, map(text_of, cells)):
            for target in re.findall(r"\]\((?!\w+:)([^)\s]+)", text):
                place, _, anchor = target.partition("#")
                page = (path.parent / place).resolve() if place else path
                _, anchors = processed.get(page, (None, {anchor}))
                if not page.exists() or (anchor and anchor not in anchors):
                    dead.append(f"{path.relative_to(built)}: {target}")
    assert not dead, "\n".join(dead)


def test_every_picture_is_told(processed):
    "A reader who does not see a picture has its alt text."
    silent = []
    for path, (cells, _) in processed.items():
        for cell in cells:
            if cell.cell_type == "markdown":
                bare = re.findall(r"!\[\]\([^)]*\)", cell.source)
                silent += [f"{path.name}: {picture}" for picture in bare]
                continue
            shows = any("image/png" in o.get("data", {}) for o in cell.get("outputs", ()))
            if shows and not re.search(r"#\| *fig-alt: *\S", cell.source):
                silent.append(f"{path.name}: {cell.source[:80]!r}")
    assert not silent, "\n".join(silent)


def test_every_page_has_a_title_and_a_description(processed):
    for path, (cells, _) in processed.items():
        front = cells[0].source
        assert re.search(r"^title: *\S", front, re.M), path.name
        assert re.search(r"^description: *\S", front, re.M), path.name


def test_no_line_of_code_is_wider_than_the_column(processed):
    wide = [
        f"{path.name}: {line}"
        for path, (cells, _) in processed.items()
        for cell in cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if len(line) > 95 and not line.startswith("#|")
    ]
    assert not wide, "\n".join(wide)


def leaves(contents):
    "The pages of a sidebar, in its order."
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        elif "href" in entry:
            yield entry["href"]
        else:
            yield from leaves(entry["contents"])


def test_every_page_is_in_the_sidebar_once():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    listed = [page for bar in site["website"]["sidebar"] for page in leaves(bar["contents"])]
    expected = sorted(str(page.relative_to("nbs")) for page in PAGES)
    assert sorted(listed) == expected


COLAB = re.compile(r"colab\.research\.google\.com/github/([\w./-]+\.ipynb)")
INSTALL = re.compile(r"git\+https://github\.com/([\w./-]+)")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_addresses_are_those_of_the_settings(page):
    config, text = get_config(), (ROOT / page).read_text(encoding="utf-8")
    home = f"{config.user}/{config.repo}"
    assert set(COLAB.findall(text)) <= {f"{home}/blob/{config.branch}/{page}"}
    assert set(INSTALL.findall(text)) <= {home}


def test_the_menu_leads_to_the_repository():
    config = get_config()
    menu = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    assert f"href: https://github.com/{config.user}/{config.repo}\n" in menu
