"The page of claims: what it shows is what was recorded, and each verdict is one of four."

import json
from collections import Counter

import nbformat
from checkout import ROOT

RECORD = ROOT / "benchmarks" / "results" / "claims_found.json"
VERDICTS = {"holds here", "holds in part", "does not hold here", "not tried here"}


def recorded():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_every_claim_has_a_verdict_and_what_was_found():
    for says, (group, verdict, text) in recorded().items():
        assert verdict in VERDICTS and text, says
        assert group.startswith(("seed: ", "others: ")), says


def test_the_seed_and_the_field_are_both_heard():
    of_whom = Counter(group.partition(":")[0] for group, *_ in recorded().values())
    assert of_whom["seed"] >= 28 and of_whom["others"] >= 15, of_whom


def test_the_page_shows_what_was_recorded():
    page = nbformat.read(ROOT / "nbs" / "guides" / "claims.ipynb", as_version=4)
    outputs = [out for cell in page.cells for out in cell.get("outputs", [])]
    shown = "\n".join(out.get("data", {}).get("text/markdown", "") for out in outputs)
    rows = {line.partition("<br>")[0][2:]: line for line in shown.splitlines()}
    for says, (_, verdict, text) in recorded().items():
        assert f"**{verdict.capitalize()}.** {text} |" in rows.get(says, ""), says
