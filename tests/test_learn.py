"Learn: what a chapter may ask of a tired reader."

import re

import nbformat
import pytest
from checkout import ROOT
from nbdev.process import extract_directives

CHAPTERS = sorted((ROOT / "nbs" / "learn").glob("[0-9][0-9]_*.ipynb"))
WORDS, ALL_WORDS, CELLS, LINES = 900, 9000, 25, 12


def cells_of(path):
    "The cells of a chapter, each with its directives."
    cells = nbformat.read(path, as_version=4).cells
    return [(cell, extract_directives(cell, remove=False)) for cell in cells]


def is_shown(cell, directives):
    "Whether a page shows a cell unasked."
    if cell.cell_type == "markdown":
        return True
    out_of_sight = directives.keys() & {"hide", "default_exp", "export"}
    folded = directives.get("code-fold:", [""])[0] == "true"
    return not out_of_sight and not folded


def words_of(path):
    texts = [cell.source for cell, _ in cells_of(path) if cell.cell_type == "markdown"]
    prose = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", "\n".join(texts))  # no addresses, no tags
    return len(re.findall(r"\S*\w\S*", prose))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_short(path):
    shown = [cell for cell, directives in cells_of(path) if is_shown(cell, directives)]
    assert len(shown) <= CELLS, f"{len(shown)} cells are shown, {CELLS} may be"
    assert words_of(path) <= WORDS, f"{words_of(path)} words, {WORDS} may be"
    for cell in shown:
        code = cell.source.splitlines() if cell.cell_type == "code" else []
        lines = [line for line in code if line.strip() and not line.startswith("#|")]
        assert len(lines) <= LINES, f"{len(lines)} lines, {LINES} may be:\n{cell.source}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_lets_the_reader_predict(path):
    text = "\n".join(cell.source for cell, _ in cells_of(path) if cell.cell_type == "markdown")
    assert text.count("**Predict.**") >= 3
    assert "## What you know now" in text and "**You need**" in text and "**It runs**" in text


def test_all_chapters_are_an_evening():
    assert sum(map(words_of, CHAPTERS)) <= ALL_WORDS
