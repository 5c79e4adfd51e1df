"""A server that is no kvserver: it answers every request alike."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kvserver.transfer.remote import Remote

Answer = Callable[[], Iterator[bytes]]


@contextlib.contextmanager
def answering(body: Answer, status: int = 200) -> Iterator[Remote]:
    """A client of a server that answers everything with `status` and what `body` makes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has heard enough
                for piece in body():
                    self.wfile.write(piece)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = Remote(f"http://127.0.0.1:{server.server_address[1]}", None, 1)
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


def line(key: str, **more: object) -> bytes:
    return json.dumps({"key": key, "content_type": None, "expires": None, "value": "v"} | more).encode() + b"\n"


def for_ever(*lines: bytes) -> Answer:
    def make() -> Iterator[bytes]:
        while True:
            yield from lines

    return make


def once(*lines: bytes) -> Answer:
    return lambda: iter(lines)
