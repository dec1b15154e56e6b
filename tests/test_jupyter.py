"A notebook as its reader meets it: opened in JupyterLab, in a browser, and run with Run All."

import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from browser import chromium, page_in
from checkout import copy_to

SETTINGS = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
STATUS = ".jp-Notebook-ExecutionIndicator"
KINDS = ("img", "table", "pre")
MINUTES = 20  # that a notebook may take, on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab in a copy of the checkout, and that copy."
    folder = tmp_path_factory.mktemp("lab")
    copy_to(folder)
    own = tmp_path_factory.mktemp("own")
    settings = own / "user-settings" / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # every cell is in the page
    names = ("CONFIG", "DATA", "RUNTIME")
    variables = {f"JUPYTER_{name}_DIR": str(own / name.lower()) for name in names}
    variables |= {
        "JUPYTERLAB_SETTINGS_DIR": str(own / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    told = (own / "log").open("w+", encoding="utf-8")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    server = subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=told, stderr=told, cwd=folder
    )
    try:
        yield address(server, own / "log"), folder
    finally:
        server.terminate()
        server.wait(30)


def address(server, log):
    "Where a server that has just been started is found, from what it says."
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/", log.read_text())
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab does not start:\n{log.read_text()[-2000:]}")


def start_all(page):
    "Choose Run All until the kernel is at work: a click may come before it is connected."
    from playwright.sync_api import TimeoutError as Late

    for _ in range(6):
        page.wait_for_timeout(2000)  # the kernel's first answer
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.locator(f"{STATUS}[data-status=busy]").wait_for(timeout=20_000)
            return
        except Late:
            page.keyboard.press("Escape")  # a question that stands in the way
    raise AssertionError(f"the kernel does not start: {page.inner_text('body')[-2000:]}")


def run_all(browser, home, notebook):
    "Open a notebook, choose Run All and save; the live report's steps, and what is shown."
    seen = []
    with page_in(browser, home, viewport={"width": 1400, "height": 900}) as page:
        page.goto(f"{home}lab/tree/nbs/{notebook}?reset")
        page.locator(".jp-CodeCell").first.wait_for(timeout=90_000)
        page.locator(f"{STATUS}[data-status=idle]").wait_for(timeout=90_000)
        start_all(page)
        until = time.monotonic() + 60 * MINUTES
        while page.locator(STATUS).get_attribute("data-status") != "idle":
            assert time.monotonic() < until, f"{notebook} runs for more than {MINUTES} minutes"
            shown = page.locator(".jp-OutputArea-output").all_inner_texts()
            seen += re.findall(r"step\s+(\d+) of (\d+)", "\n".join(shown))
            page.wait_for_timeout(300)
        kinds = {k: page.locator(f".jp-OutputArea-output {k}").count() for k in KINDS}
        page.keyboard.press("Control+s")
        page.wait_for_timeout(3000)
        assert not page.errors, page.errors
    return seen, kinds


def problems(notebook):
    "The errors in what a notebook shows, and the code cells that were not run."
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None and cell.source.strip():
            yield f"not run: {cell.source[:80]!r}"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{output.ename}: {output.evalue[:300]} in {cell.source[:80]!r}"


@pytest.mark.flag("browser")
@pytest.mark.parametrize("notebook", ["learn/07_training_to_trust.ipynb", "index.ipynb"])
def test_run_all(lab, notebook):
    home, folder = lab
    with chromium() as browser:
        seen, shown = run_all(browser, home, notebook)
    wrong = list(problems(folder / "nbs" / notebook))
    assert not wrong, "\n".join(wrong)
    assert shown["img"] and shown["table"] and shown["pre"], shown
    if notebook.startswith("learn"):
        steps = {int(step) for step, _ in seen}
        whole = {int(steps) for _, steps in seen}
        assert len(whole) == 1 and whole <= steps, f"the report's last: {seen[-3:]}"
        assert len(steps) > 1, f"the report did not change while the training ran: {seen[:3]}"
