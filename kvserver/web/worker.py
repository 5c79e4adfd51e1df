"""gunicorn's worker class of the web workers: uvicorn's server with our connections, and a row on the board.

A worker dies with its gunicorn master, and ends when its run of the store is over. It stops in order: it accepts until
no more clients come, answers requests that still arrive with `Connection: close`, closes idle connections, and gives
requests in progress the grace to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn.config import Config
from uvicorn.server import Server as UvicornServer
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from kvserver.access.tokens import Tokens, TokensError
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.http.reports.access_log import AccessLog
from kvserver.http.reports.counting import Counts
from kvserver.settings import ServerSettings
from kvserver.store.client import StoreClient
from kvserver.web import acceptor
from kvserver.web.acceptor import Acceptor
from kvserver.web.connection import HttpConnection
from kvserver.web.context import WorkerContext
from kvserver.web.hot.hotpath import HotPath
from shards.host.board import Board, BoardError, ProcessRow
from shards.host.logs import Recurring, configure_logging
from shards.host.process import die_with, schedule_process
from shards.host.settings import SettingError, load_settings
from shards.wire.errors import EXHAUSTED

log = logging.getLogger("kvserver.worker")
_exhausted = Recurring(acceptor.log, logging.ERROR, "no connection can be taken: %s")

TICK_S: Final = 0.1
"""uvicorn's main loop calls `on_tick` this often."""

POLL_S: Final = 0.01
"""How often a stopping worker looks for new connections."""
QUIET_S: Final = 0.1
"""A stopping worker keeps accepting until no client has connected for this long. It may be the last that has the
socket, and closing that resets the connections that wait."""
LAST_CONNECTIONS_S: Final = 1.0
"""The most that it keeps accepting."""


def post_fork(server: Any, worker: Any) -> None:
    """gunicorn's hook of that name: let the worker die with its master (else it would live on and keep answering), and
    have as many connections as the system allows."""
    die_with(server.pid)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def report_exhausted(error: OSError) -> None:
    """Log a lack of descriptors or memory; raise any other error."""
    if error.errno not in EXHAUSTED:
        raise error
    _exhausted.report(error.strerror)


class WebServer(UvicornServer):
    """uvicorn's server, which keeps its row of the board up to date and stops in its own way."""

    def __init__(self, config: Config, context: WorkerContext, store: StoreClient, grace_s: float, notify: Any) -> None:
        super().__init__(config)
        self.server_state = self.context = context
        self._store, self._grace_s, self._notify = store, grace_s, notify
        self._loop = asyncio.get_running_loop()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: set the clock; check deadlines and publish counts less often; beat once a second."""
        context = self.context
        context.set_time(self._loop.time(), context.board.now_ms() / 1000)
        context.load.refresh_peers()
        context.tokens.refresh()
        context.row.tokens = context.tokens.generation
        if counter % 4 == 0:
            self._check_connections()
            self._flush_counts()
            self._publish_figures()
        if counter % 10 == 0:
            self._beat()
        return self.should_exit

    def _check_connections(self) -> None:
        now = self.context.clock
        for connection in list(self.context.connections):
            connection.check_deadline(now)  # type: ignore[union-attr]

    def _beat(self) -> None:
        """Show gunicorn and the board that this worker lives; stop if its run of the store is over."""
        self._notify()
        self.context.row.record_heartbeat()
        if self.context.board.is_over():
            log.warning("this run of the server has ended: this worker ends")
            self._grace_s, self.should_exit = 0.0, True

    def _publish_figures(self) -> None:
        context = self.context
        own = {"requests": context.counts.requests, "refused_overload": context.counts.overloads}
        context.row.publish_figures(self._store.links.read_counters() | own | context.counts.figures)

    def _make_connection(self) -> HttpConnection:
        return HttpConnection(self.config, self.context, {})

    async def startup(self, sockets: Any = None) -> None:
        """Accept connections, and show so on the board."""
        await self.on_tick(0)
        self._acceptor = Acceptor(sockets, self._make_connection, self.context.exceeds_peers, report_exhausted)
        self.started = True
        self.context.row.state = ProcessRow.UP
        gc.freeze()  # everything so far lives as long as the worker: the collector need not look at it again

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop cleanly; cut off what is not done when the grace ends."""
        context = self.context
        context.row.state = ProcessRow.STOPPING
        context.load.stopping = True
        give_up_at = self._loop.time() + self._grace_s
        self._close_idle_connections()
        await self._accept_last_connections(min(give_up_at, self._loop.time() + LAST_CONNECTIONS_S))
        await self._acceptor.close()
        self._close_idle_connections()
        for listener in sockets:
            listener.close()
        counter = 0
        while (context.connections or context.tasks) and self._loop.time() < give_up_at:
            await asyncio.sleep(TICK_S)
            counter += 1
            await self.on_tick(counter)
            self._check_connections()
        self._cut_off_connections()
        await asyncio.sleep(0)
        self._flush_counts()
        self._publish_figures()

    def _close_idle_connections(self) -> None:
        for connection in list(self.context.connections):
            connection.shutdown()

    async def _accept_last_connections(self, give_up_at: float) -> None:
        known = set(self.context.connections)
        quiet_since = now = self._loop.time()
        while now < give_up_at and now - quiet_since < QUIET_S:
            await asyncio.sleep(POLL_S)
            self.context.tokens.refresh()  # late clients, too, are held to the tokens in effect
            now = self._loop.time()
            fresh = self.context.connections - known
            if fresh:
                known |= fresh
                quiet_since = now

    def _flush_counts(self) -> None:
        with contextlib.suppress(OSError):  # the metrics' directory may be gone, with the run directory
            self.context.counts.flush()

    def _cut_off_connections(self) -> None:
        context = self.context
        if context.connections:
            log.warning("%d connections were cut off when the grace ended", len(context.connections))
        for connection in list(context.connections):
            connection.flow.cut_off(connection.answering is not None)  # type: ignore[union-attr]
        for task in list(context.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the main loop. (uvicorn raises them again afterwards: the worker would seem to be killed.)"""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop_within, self._grace_s)
        self._loop.add_signal_handler(signal.SIGQUIT, self._stop_within, 0.0)
        yield

    def _stop_within(self, grace_s: float) -> None:
        self._grace_s = min(self._grace_s, grace_s)
        self.should_exit = True


class Worker(UvicornWorker):  # type: ignore[misc]
    """The worker class; `kvserver.app:app` makes its application of a store, a board and a context."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": HttpConnection,
        "ws": "none",
        "lifespan": "off",
        "interface": "asgi3",
        "proxy_headers": False,
        "access_log": False,
    }

    async def _serve(self) -> None:
        try:
            settings = load_settings(ServerSettings)
            configure_logging(settings.log_level, "web", settings.log_format)
            schedule_process(settings.scheduling)  # before ZeroMQ starts its thread
            board = Board.open(settings.board_path)
            _, row = board.workers.claim_row()
            tokens = Tokens(board)
            store = StoreClient(board, settings.resolved_run_dir(), asyncio.get_running_loop())
        except (BoardError, SettingError, TokensError) as error:
            self.log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        store.start()
        hosts = Hosts.of(settings.allowed_hosts, settings.host, tokens.required)
        context = WorkerContext(board, row, Counts(), Pages(Origins(settings.origins), hosts), tokens, settings)
        context.access_log = AccessLog.of(settings.access_log, settings.slow_ms)
        if not settings.no_hot_path:
            context.hot_path = HotPath(store, context)
        self.config.app = self.wsgi(store, board, context)
        server = WebServer(self.config, context, store, settings.grace, self.notify)
        try:
            await server.serve(sockets=self.sockets)
        finally:
            store.close()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
