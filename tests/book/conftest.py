"""A browser for the rendered pages, and a server of them. Tests that need a browser are skipped where none is installed."""

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))


@pytest.fixture(scope="session")
def browser():
    from browser import executable, launched

    if executable() is None:
        pytest.skip("no Chromium or Chrome is installed: the pages are not tested in a browser")
    with launched() as chromium:
        yield chromium


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":  # browsers ask for it, whatever the page says
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture(scope="session")
def server():
    """The address of the built book over http."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=HTML)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
