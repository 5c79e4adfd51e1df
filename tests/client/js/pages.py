"""Serves the files of the JavaScript client to pages, from an origin that is not the server's."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.client.sdks import SDK

FILES = SDK / "js"


class Files:
    """A web server on loopback, for the files below `root`."""

    def __init__(self, root: Path = FILES) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(root)))
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port

    def origin(self, name: str = "127.0.0.1") -> str:
        """The origin of its pages, under a name that leads to it."""
        return f"http://{name}:{self.port}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know."""
