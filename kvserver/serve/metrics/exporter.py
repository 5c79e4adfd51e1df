"""`python -m kvserver.serve.metrics.exporter`: the process that answers GET /metrics.

Whoever reaches the port may ask, so this is a process of its own: it may be held up, or die, and nothing else is
touched. The supervisor keeps the listening socket, so that scrapers wait instead of being refused while it is started
again.

A connection is for one request. It may last `DEADLINE_S`, whatever its client sends or leaves unread; there are at most
`MOST` of them, and where one more comes, the oldest is dropped that has not finished asking: silent clients keep no
scraper out, and however many come, who is being answered is.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.serve.listening import METRICS_FD_VARIABLE, METRICS_HOST
from kvserver.serve.metrics.collectors import BoardCollector, CountedByWorkers
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter
from shards.host.settings import SettingError, load_settings
from shards.wire.clock import counted_ms

log = logging.getLogger(__name__)

DEADLINE_S: Final = 10.0
MOST: Final = 64
MAX_HEAD: Final = 16 << 10
LOOK_S: Final = 0.1
SWEEP_S: Final = 2.0
ROOM_WAIT_S: Final = 1.0
_END_OF_GZIP_S: Final = 1 << 32
"""What is compressed says when, in 32 bits: until 2106. By a clock that says a later time nothing is compressed."""


class HeadTooLong(ConnectionError):
    """A client sent more than `MAX_HEAD` bytes before its request ended."""


class _Bounded(io.RawIOBase):
    """What a client sends, up to `MAX_HEAD` bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, MAX_HEAD

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises `HeadTooLong`, `OSError`."""
        if not self._left:
            raise HeadTooLong
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class Handler(MetricsHandler):
    """GET and HEAD of /metrics, nothing else, and not for pages in a browser.

    Attributes:
        pages: which pages may ask. Nobody needs a token here, so the Host counts whether there are tokens or not.
    """

    pages = Pages(Origins("*"), Hosts())
    requestline = command = ""
    request_version = "HTTP/1.0"

    def setup(self) -> None:
        """Bound what is read."""
        super().setup()
        self.rfile = io.BufferedReader(_Bounded(self.connection))

    def parse_request(self) -> bool:
        """Read the head, note that the client has asked, and refuse pages that may not."""
        well_formed = super().parse_request()
        assert isinstance(self.server, Server)
        self.server.asked(self.connection)
        if not well_formed:
            return False
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        refusal = self.pages.refusal(self.command, self.path.encode("latin-1"), headers)
        if refusal is not None:
            self.send_error(refusal.status, explain=f"{refusal}. {refusal.hint}")
        return refusal is None

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date of an answer. The library would fail behind the year 9999."""
        return super().date_time_string(counted_ms(round(1000 * (timestamp or time.time()))) / 1000)

    def handle(self) -> None:
        """Answer one request."""
        try:
            super().handle()
        except HeadTooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        """The text."""
        path, _, _ = self.path.partition("?")
        if path == "/metrics":
            if not 0 <= time.time() < _END_OF_GZIP_S:
                del self.headers["Accept-Encoding"]
            self.path = path  # the library would take a query for a choice of names, which it cannot make of ours
            super().do_GET()
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        """What GET would say, without the text."""
        self.send_response(200 if self.path.partition("?")[0] == "/metrics" else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()


class Server(ThreadingHTTPServer):
    """Serves what `registry` collects, in a thread for each connection.

    Attributes:
        each_second: called about once a second, between requests.
    """

    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: CollectorRegistry, pages: Pages = Handler.pages) -> None:
        self.address_family = listener.family
        handler = Handler.factory(registry)
        handler.pages = pages  # type: ignore[attr-defined]  # of a class made for this registry
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # who has gone between select and accept must not stop the loop
        self.each_second: Callable[[], None] = lambda: None
        self._second_at = 0.0
        self._room = threading.Condition()
        self._asking: dict[socket.socket, float] = {}
        self._answered: dict[socket.socket, float] = {}
        """Connections, oldest first, and when they are cut off, by time.monotonic()."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises `OSError`."""
        try:
            connection, address = super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            # Want of descriptors, most likely. What waits makes the loop turn at once, so it must rest here.
            self._drop(self._asking or self._answered)
            time.sleep(LOOK_S)
            raise
        connection.setblocking(True)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start its thread, when there is room."""
        with self._room:
            if not self._has_room():
                self._drop(self._asking)
                if not self._room.wait_for(self._has_room, ROOM_WAIT_S):
                    self._drop(self._answered)
            self._asking[request] = time.monotonic() + DEADLINE_S
        super().process_request(request, client_address)

    def _has_room(self) -> bool:
        return len(self._asking) + len(self._answered) < MOST

    def asked(self, connection: socket.socket) -> None:
        """Note that a client's request has arrived."""
        with self._room:
            ends_at = self._asking.pop(connection, None)
            if ends_at is not None:
                self._answered[connection] = ends_at

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._room:
            self._asking.pop(request, None)
            self._answered.pop(request, None)
            self._room.notify()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who is late; called again and again."""
        now = time.monotonic()
        with self._room:
            for connections in (self._asking, self._answered):
                for connection in [each for each, ends_at in connections.items() if ends_at <= now]:
                    _cut(connection)
        if now >= self._second_at:
            self._second_at = now + 1.0
            self.each_second()

    def _drop(self, connections: dict[socket.socket, float]) -> None:
        """Drop the oldest of `connections`, if there is one."""
        with self._room:
            oldest = next(iter(connections), None)
            if oldest is not None:
                _cut(oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away in the middle is no event."""
        log.debug("%s went away", client_address, exc_info=True)


def _cut(connection: socket.socket) -> None:
    """Wake the thread that waits for a client; it closes the connection."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("a connection is gone already: %s", error)


class Chores:
    """What is done beside answering, about once a second."""

    def __init__(self, board: Board, counted: CountedByWorkers) -> None:
        self._board, self._counted, self._sweep_at = board, counted, 0.0

    def __call__(self) -> None:
        """End with the run of the store; fold what the dead have counted."""
        if self._board.is_over():
            log.info("this run of the store is over: /metrics ends")
            sys.exit(0)
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            try:
                self._counted.sweep()
            except OSError as error:
                log.debug("what the dead have counted stays where it is: %s", error)


def main() -> int:
    """Serve until SIGTERM; the exit status."""
    die_with_starter()
    try:
        settings = load_settings(ServerSettings)
        configure_logging(settings.log_level, "metrics", settings.log_format)
        board = Board.open(settings.board_path)
        listener = socket.socket(fileno=int(os.environ[METRICS_FD_VARIABLE]))
    except (SettingError, BoardError) as error:
        report_fatal(str(error))
        return 1
    except (KeyError, ValueError, OSError) as error:
        report_fatal(
            f"{METRICS_FD_VARIABLE} names no listening socket ({error!r}): /metrics is started by `kvserver serve`"
        )
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    counted = CountedByWorkers(Path(board.path.with_name("metrics")))
    registry = CollectorRegistry()
    registry.register(BoardCollector(board))
    registry.register(counted)
    hosts = Hosts.of(settings.allowed_hosts, METRICS_HOST, has_tokens=False)
    server = Server(listener, registry, Pages(Origins(settings.origins), hosts))
    server.each_second = Chores(board, counted)
    board.exporter.pid = os.getpid()
    server.serve_forever(LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
