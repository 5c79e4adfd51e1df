"""`python -m kvserver.serve.metrics.exporter`: the process that answers GET /metrics.

Every client that reaches the port may scrape, so a separate process serves it: if it hangs or dies, nothing else is
affected. The supervisor keeps the listening socket open, so that scrapers wait during a restart instead of being
refused.

A connection serves one request and lasts at most `DEADLINE_S`, whatever its client sends or leaves unread. There are at
most `MOST` connections. A further one replaces the oldest whose request has not arrived, so that silent clients keep no
scraper out; a request that is being answered is not cut off.
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

from kvserver.access.tokens import Tokens, TokensError
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.serve.listening import METRICS_FD_VARIABLE, is_open_to_others
from kvserver.serve.metrics.collectors import BoardCollector, ProcessFilesCollector
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter
from shards.host.settings import SettingError, load_settings
from shards.wire.clock import counted_ms
from shards.wire.errors import KVError

log = logging.getLogger(__name__)

DEADLINE_S: Final = 10.0
MOST: Final = 64
MAX_HEAD: Final = 16 << 10
LOOK_S: Final = 0.1
SWEEP_S: Final = 2.0
ROOM_WAIT_S: Final = 1.0
_END_OF_GZIP_S: Final = 1 << 32
"""Gzip's time stamp has 32 bits, which end in 2106. With a later clock, answers are not compressed."""


class HeadTooLong(ConnectionError):
    """A client sent more than `MAX_HEAD` bytes before its request ended."""


class _BoundedReader(io.RawIOBase):
    """Reads from a client, up to `MAX_HEAD` bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, MAX_HEAD

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Raises `HeadTooLong`, `OSError`."""
        if not self._left:
            raise HeadTooLong
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class MetricsRequestHandler(MetricsHandler):
    """Answers GET and HEAD of /metrics; refuses web pages that are not allowed, and scrapers without a token they need.

    Attributes:
        pages: which web pages may ask. Host is checked whether there are tokens or not: mostly no token is needed here.
        tokens: those of the store, if a scraper needs one that grants admin; else None.
    """

    pages = Pages(Origins("*"), Hosts())
    tokens: Tokens | None = None
    requestline = command = ""
    request_version = "HTTP/1.0"
    _asks_for_token = False

    def setup(self) -> None:
        """Limit the bytes read from the client."""
        super().setup()
        self.rfile = io.BufferedReader(_BoundedReader(self.connection))

    def parse_request(self) -> bool:
        """Read the head, mark the request as arrived, and refuse web pages that are not allowed."""
        well_formed = super().parse_request()
        assert isinstance(self.server, MetricsServer)
        self.server.mark_asked(self.connection)
        if not well_formed:
            return False
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        refusal = self.pages.find_refusal(self.command, self.path.encode("latin-1"), headers)
        if refusal is None:
            refusal = self._find_missing_right()
        if refusal is not None:
            self.send_error(refusal.status, explain=f"{refusal}. {refusal.hint}")
        return refusal is None

    def _find_missing_right(self) -> KVError | None:
        """Return why the client may not read the metrics; None if it may."""
        if self.tokens is None:
            return None
        try:
            self.tokens.refresh()
            given = self.headers.get("Authorization", "").encode("latin-1")
            self.tokens.authenticate(given).require_all("admin", b"")
        except KVError as error:
            return error
        return None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error page; one that asks for a token says so in its header, too."""
        self._asks_for_token = code == HTTPStatus.UNAUTHORIZED
        super().send_error(code, message, explain)

    def end_headers(self) -> None:
        """End the head of an answer."""
        if self._asks_for_token:
            self.send_header("WWW-Authenticate", "Bearer")
        super().end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Format the Date of an answer. The library fails after the year 9999."""
        return super().date_time_string(counted_ms(round(1000 * (timestamp or time.time()))) / 1000)

    def handle(self) -> None:
        """Answer one request."""
        try:
            super().handle()
        except HeadTooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def do_GET(self) -> None:
        """Answer with the metrics as text."""
        path, _, _ = self.path.partition("?")
        if path == "/metrics":
            if not 0 <= time.time() < _END_OF_GZIP_S:
                del self.headers["Accept-Encoding"]
            self.path = path  # without the query: the library would filter names by it, which fails with ours
            super().do_GET()
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        """Answer as GET does, without the text."""
        self.send_response(200 if self.path.partition("?")[0] == "/metrics" else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()


class MetricsServer(ThreadingHTTPServer):
    """Serves what `registry` collects, in a thread for each connection.

    Attributes:
        each_second: function called about once a second, between requests.
    """

    daemon_threads = True

    def __init__(
        self,
        listener: socket.socket,
        registry: CollectorRegistry,
        pages: Pages = MetricsRequestHandler.pages,
        tokens: Tokens | None = None,
    ) -> None:
        self.address_family = listener.family
        handler = MetricsRequestHandler.factory(registry)
        handler.pages, handler.tokens = pages, tokens  # type: ignore[attr-defined]  # of a class made for this registry
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # a client that leaves between select and accept must not block the loop
        self.each_second: Callable[[], None] = lambda: None
        self._second_at = 0.0
        self._room = threading.Condition()
        self._asking: dict[socket.socket, float] = {}
        self._answered: dict[socket.socket, float] = {}
        """Connections, oldest first, with their deadlines by time.monotonic()."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next connection. Raises `OSError`."""
        try:
            connection, address = super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            # Most likely out of descriptors. The waiting connection would make the loop spin, so pause here.
            self._drop_oldest(self._asking or self._answered)
            time.sleep(LOOK_S)
            raise
        connection.setblocking(True)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, dropping the oldest connection if there are too many."""
        with self._room:
            if not self._has_room():
                self._drop_oldest(self._asking)
                if not self._room.wait_for(self._has_room, ROOM_WAIT_S):
                    self._drop_oldest(self._answered)
            self._asking[request] = time.monotonic() + DEADLINE_S
        super().process_request(request, client_address)

    def _has_room(self) -> bool:
        return len(self._asking) + len(self._answered) < MOST

    def mark_asked(self, connection: socket.socket) -> None:
        """Mark the request of `connection` as arrived: it is no longer dropped for a new one."""
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
        """Close connections past their deadline; the server loop calls this after each turn."""
        now = time.monotonic()
        with self._room:
            for connections in (self._asking, self._answered):
                for connection in [each for each, ends_at in connections.items() if ends_at <= now]:
                    _shut_down(connection)
        if now >= self._second_at:
            self._second_at = now + 1.0
            self.each_second()

    def _drop_oldest(self, connections: dict[socket.socket, float]) -> None:
        """Close the oldest of `connections`, if there is one."""
        with self._room:
            oldest = next(iter(connections), None)
            if oldest is not None:
                _shut_down(oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a scraper that disconnected during its request."""
        log.debug("%s disconnected", client_address, exc_info=True)


def _shut_down(connection: socket.socket) -> None:
    """Wake the thread that waits for the client; it then closes the connection."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("a connection is already closed: %s", error)


class Chores:
    """Periodic work next to answering, about once a second."""

    def __init__(self, board: Board, counted: ProcessFilesCollector) -> None:
        self._board, self._counted, self._sweep_at = board, counted, 0.0

    def __call__(self) -> None:
        """Exit when the store's run is over; fold the counters of dead processes."""
        if self._board.is_over():
            log.info("the run of the store is over: stopping /metrics")
            sys.exit(0)
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            try:
                self._counted.fold_dead()
            except OSError as error:
                log.debug("cannot fold the counters of dead processes: %s", error)


def main() -> int:
    """Serve until SIGTERM. Returns the exit status."""
    die_with_starter()
    try:
        settings = load_settings(ServerSettings)
        configure_logging(settings.log_level, "metrics", settings.log_format)
        board = Board.open(settings.board_path)
        listener = socket.socket(fileno=int(os.environ[METRICS_FD_VARIABLE]))
        tokens = Tokens(board) if is_open_to_others(settings.metrics_host) else None
    except (SettingError, BoardError, TokensError) as error:
        report_fatal(str(error))
        return 1
    except (KeyError, ValueError, OSError) as error:
        report_fatal(
            f"{METRICS_FD_VARIABLE} names no listening socket ({error!r}): /metrics is started by `kvserver serve`"
        )
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    counted = ProcessFilesCollector(Path(board.path.with_name("metrics")))
    registry = CollectorRegistry()
    registry.register(BoardCollector(board))
    registry.register(counted)
    hosts = Hosts.of(settings.allowed_hosts, settings.metrics_host, has_tokens=False)
    server = MetricsServer(listener, registry, Pages(Origins(settings.origins), hosts), tokens)
    server.each_second = Chores(board, counted)
    board.exporter.pid = os.getpid()
    server.serve_forever(LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
