"A headless browser for tests, and pages served to it from this machine alone."

import os
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")


@contextmanager
def chromium():
    "A headless Chromium: the one in TINYFORGE_BROWSER, the system's, or Playwright's own."
    from playwright.sync_api import sync_playwright

    named = os.environ.get("TINYFORGE_BROWSER")
    found = [named] if named else list(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        path = found[0] if found else None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with browser:
            yield browser


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    "The address under which a folder can be read."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def page_in(browser, home, **options):
    "A page that reads nothing but what lies under one address, and the errors that it meets."
    with browser.new_context(**options) as context:
        context.route(lambda url: not url.startswith(home), lambda route: route.abort())
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
