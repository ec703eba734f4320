"""The built site, served, and a browser: for the tests that look at pages as readers do."""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from l2m.chapters.publish import BUILD
from l2m.files import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_path(playwright) -> str:
    """Return the path of a browser: $L2M_BROWSER's, the system's, or Playwright's own.

    Without one the test is skipped, or fails where $L2M_BROWSER is ``required``.
    """
    asked = os.environ.get("L2M_BROWSER", "")
    own = playwright.chromium.executable_path
    for path in (asked, *map(shutil.which, NAMES), own):
        if path and Path(path).is_file():
            return path
    say = pytest.fail if asked == "required" else pytest.skip
    return say(
        "no browser is installed: `apt install chromium` or "
        "`python -m playwright install --with-deps chromium` brings one, "
        "and L2M_BROWSER can name the path of another."
    )


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium or Chrome."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install '.[test]'")
    with sync_api.sync_playwright() as playwright:
        # A container's root has no sandbox, and little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(
            executable_path=browser_path(playwright), args=arguments
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def site_folder(tmp_path_factory) -> Path:
    """The pages, built once from the tracked files alone, without a network."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not folder.exists():  # a failed build is not tried again for every page
            build(folder)
            (folder / "done").touch()
    assert (folder / "done").exists(), "the pages were not built: see the first test that failed"
    return folder / "_build" / "html"


def build(folder: Path) -> None:
    """Build the book in `folder` from copies; fail when there is a warning."""
    listed = ["git", "ls-files", "_config.yml", "_toc.yml", "book"]
    tracked = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = os.environ | nowhere | {"NO_COLOR": "1"}
    done = subprocess.run(BUILD, cwd=folder, env=environment, capture_output=True, text=True)
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert done.returncode == 0, "\n".join(warnings)


@pytest.fixture(scope="session")
def site(site_folder) -> str:
    """The address of the built site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
