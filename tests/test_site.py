"The site can be built: what nbdev does before Quarto draws it."

import ast
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from browser import chromium, page_in, served
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


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_code_and_tables_of_a_text_are_whole(page):
    "Each fence has its end, and each table the line below its head."
    for cell in nbformat.read(ROOT / page, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        lines = cell.source.splitlines()
        assert sum(line.startswith("```") for line in lines) % 2 == 0, cell.source[:200]
        before = ["", *lines]
        heads = [n for n, line in enumerate(lines) if line[:1] == "|" and before[n][:1] != "|"]
        for n in heads:
            assert re.fullmatch(r"[|:\- ]+", lines[n + 1]), lines[n]


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


class Colab:
    "What an install cell asks of IPython, on a machine with or without the package."

    def __init__(self, has_it):
        self.has_it, self.asked, self.installed = has_it, [], []

    def __str__(self):
        return "<google.colab._shell.Shell object>"

    def getoutput(self, command):
        self.asked.append(command)
        error = "ModuleNotFoundError: No module named 'tinyforge'"
        return [] if self.has_it else ["Traceback (most recent call last):", error]

    def run_line_magic(self, name, line):
        "Colab's `%pip` says when a package that is loaded was replaced: restart the session."
        self.installed.append(f"%{name} {line}")


INSTALLS = {
    page: cell.source
    for page in PAGES
    for cell in nbformat.read(ROOT / page, as_version=4).cells
    if cell.cell_type == "code" and "google.colab" in cell.source
}


@pytest.mark.parametrize("page", INSTALLS, ids=str)
def test_on_colab_the_package_is_installed_once_and_nothing_else_is_touched(page):
    config = get_config()
    address = f"git+https://github.com/{config.user}/{config.repo}"
    for has_it in (True, False):
        shell = Colab(has_it)
        exec(INSTALLS[page], {"get_ipython": lambda: shell})
        assert shell.asked == ["python -c 'import tinyforge'"]
        # no --upgrade: pip then keeps what is there, where the requirements allow it
        plain = f"%pip install -q {address}"
        with_gguf = f"%pip install -q '{config.lib_name}[gguf] @ {address}'"
        assert shell.installed in ([[]] if has_it else [[plain], [with_gguf]])
    elsewhere = Colab(True)
    exec(INSTALLS[page], {"get_ipython": lambda: object()})
    assert not elsewhere.asked and not elsewhere.installed


def test_a_page_that_is_opened_on_colab_installs_the_package():
    badges = {p for p in PAGES if COLAB.search((ROOT / p).read_text(encoding="utf-8"))}
    assert badges and badges <= set(INSTALLS)


def test_no_requirement_makes_pip_replace_a_newer_package():
    exact = [r for r in get_config().requirements.split() if re.search("==|<|~=", r)]
    assert not exact


def test_the_menu_leads_to_the_repository():
    config = get_config()
    menu = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    assert f"href: https://github.com/{config.user}/{config.repo}\n" in menu


@pytest.fixture(scope="module")
def drawn(request, tmp_path_factory):
    """Folders with every page as HTML, light and dark.

    TINYFORGE_SITE names a site that Quarto has built; without one, pandoc draws the pages.
    """
    if "TINYFORGE_SITE" in os.environ:
        site = Path(os.environ["TINYFORGE_SITE"])
        return {"light": site, "dark": site}
    from drawn import draw

    folders = {scheme: tmp_path_factory.mktemp(scheme) for scheme in ("light", "dark")}
    proc = request.getfixturevalue("built") / "_proc"
    for page in sorted(proc.rglob("*.ipynb")):
        for scheme, folder in folders.items():
            made = (folder / page.relative_to(proc)).with_suffix(".html")
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(draw(page, ROOT / "nbs" / "theme", scheme), encoding="utf-8")
    return folders


AXE = """rules => axe.run(document, {resultTypes: ["violations"], ...rules}).then(
    found => found.violations.flatMap(fault => fault.nodes.map(node =>
        [fault.impact, fault.id, node.target.join(" "), node.html.slice(0, 120)])))"""
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


def faults(page, **rules):
    "What axe-core finds on an open page that keeps somebody from reading it."
    import axe_playwright_python

    axe = Path(axe_playwright_python.__file__).with_name("axe.min.js")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate(AXE, rules)
    return [": ".join(fault) for fault in found if fault[0] in ("serious", "critical")]


@pytest.mark.flag("browser")
def test_axe_finds_what_is_wrong(tmp_path):
    wrong = "<html lang=en><title>t</title><main><img src=x.png><p style='color: #ccc'>pale"
    (tmp_path / "wrong.html").write_text(wrong, encoding="utf-8")
    with chromium() as browser, served(tmp_path) as home, page_in(browser, home) as page:
        page.goto(f"{home}wrong.html")
        assert {"image-alt", "color-contrast"} <= {f.split(": ")[1] for f in faults(page)}


@pytest.mark.flag("browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read_with_a_keyboard_and_a_screen_reader(drawn, scheme):
    "axe-core on each page; what does not depend on colours is asked once."
    folder = drawn[scheme]
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    rules = {} if scheme == "light" else COLOURS
    wrong = []
    with chromium() as browser, served(folder) as home:
        with page_in(browser, home, color_scheme=scheme) as page:
            for name in pages:
                page.goto(home + name, wait_until="load")
                wrong += [f"{name}: {fault}" for fault in faults(page, **rules)]
            # Quarto's pages ask for scripts that are not on this machine
            assert "TINYFORGE_SITE" in os.environ or not page.errors, page.errors
    assert not wrong, f"{len(wrong)} faults\n" + "\n".join(wrong[:40])
