"""Every chapter opened in JupyterLab and run from its first cell to its last, at its smallest."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from l2m.chapters.contents import chapters, notebooks_dir
from l2m.files import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.chapters, pytest.mark.slow]

RAW = [
    "{glue",
    "{eval}",
    ":::",
    "{prf:",
    "{math}",
    "{figure}",
    "{numref}",
    "\\begin{",
    "\\mathrm",
    "<div",
]
SETTINGS = {  # all cells are on the screen, not those in view alone
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with copies of the chapters, their profile set to smoke."""
    missing = [
        name for name in ("jupyterlab", "jupyterlab_myst") if not importlib.util.find_spec(name)
    ]
    if missing:
        say = pytest.fail if os.environ.get("L2M_BROWSER") == "required" else pytest.skip
        say(f"{' and '.join(missing)} not installed: pip install '.[lab]' brings them.")
    folder = tmp_path_factory.mktemp("lab")
    for name in chapters():
        text = (notebooks_dir() / f"{name}.ipynb").read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace('profile: str = "book"', 'profile: str = "smoke"')
        nbformat.write(notebook, folder / f"{name}.ipynb")
    for name, values in SETTINGS.items():
        path = folder / ".settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "PYTHONPATH": str(ROOT)}
    own["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / ".workspaces")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}"]
    command += ["--ServerApp.token=", "--ServerApp.port_retries=0", "--allow-root"]
    command += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    environment = os.environ | own
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


RUN = """async () => {
  const app = window.jupyterapp;
  const panel = app.shell.currentWidget;
  await panel.sessionContext.ready;
  await app.commands.execute("notebook:run-all-cells");
}"""
COUNTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter((cell) => cell.model.type === "code").map((cell) => cell.model.executionCount)"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", chapters())
def test_a_chapter_runs_to_its_end_and_shows_no_markup(browser, lab, name):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{lab}/lab/workspaces/{name}/tree/{name}.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.set_default_timeout(800_000)
    page.evaluate(RUN)
    page.wait_for_timeout(2000)  # the prose is set anew after its cells ran
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
    assert errors == []
    counts = page.evaluate(COUNTS)
    assert counts and all(counts), counts
    cells = nbformat.read(notebooks_dir() / f"{name}.ipynb", as_version=4).cells
    folded = [cell for cell in cells if "jupyter" in cell.metadata]
    assert page.locator(".jp-CodeCell .jp-InputPlaceholder").count() == len(folded)
    prose = page.locator(".jp-MarkdownCell")
    text = "\n".join(prose.evaluate_all("cells => cells.map((cell) => cell.innerText)"))
    assert len(text) > 1000
    shown = [line for line in text.splitlines() if any(markup in line for markup in RAW)]
    assert shown == []
    page.close()
