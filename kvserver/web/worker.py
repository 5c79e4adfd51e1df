"""gunicorn's worker class of the web workers: uvicorn's server with our connections, and a row on the board.

A worker dies with its gunicorn master, ends when its run of the store is over, and stops in order: it accepts until
no more clients come, answers what still arrives with `Connection: close`, lets idle connections go quietly, and gives
what is being answered the grace to finish.
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
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn.config import Config
from uvicorn.server import Server as UvicornServer
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from kvserver.access.tokens import Tokens, TokensError
from kvserver.http.access_log import AccessLog
from kvserver.http.counting import Counts
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.settings import ServerSettings
from kvserver.store.client import Router
from kvserver.web.acceptor import Acceptor
from kvserver.web.connection import Protocol
from kvserver.web.hotpath import HotPath
from kvserver.web.traffic import Traffic
from shards.host.board import Board, BoardError, ProcessRow
from shards.host.logs import configure_logging
from shards.host.process import die_with
from shards.host.settings import SettingError, load_settings

log = logging.getLogger("kvserver.worker")

TICK_S = 0.1
"""uvicorn's main loop calls `on_tick` this often."""

LOOK_S, QUIET_S, LAST_CONNECTIONS_S = 0.01, 0.1, 1.0
"""A stopping worker goes on to accept until nobody has come for so long, at most so long. It may be the last that has
the socket, and closing that resets the connections that wait."""


def post_fork(server: Any, worker: Any) -> None:
    """gunicorn's hook of that name: the worker dies with its master (it would live on and keep answering), and may
    have as many connections as the system lets it."""
    die_with(server.pid)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server(UvicornServer):
    """uvicorn's server, which keeps the board's row and its own way to stop."""

    def __init__(self, config: Config, traffic: Traffic, router: Router, grace_s: float, notify: Any) -> None:
        super().__init__(config)
        self.server_state = self.traffic = traffic
        self._router, self._grace_s, self._notify = router, grace_s, notify
        self._loop = asyncio.get_running_loop()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: the clock; deadlines and metrics less often; once a second, what others can see."""
        self.traffic.set_time(self._loop.time(), self.traffic.board.now_ms() / 1000)
        self.traffic.look_around()
        self.traffic.tokens.refresh()
        self.traffic.row.tokens = self.traffic.tokens.generation
        if counter % 4 == 0:
            self._check_connections()
            self._flush_counts()
        if counter % 10 == 0:
            self._beat()
        return self.should_exit

    def _check_connections(self) -> None:
        now = self.traffic.clock
        for connection in list(self.traffic.connections):
            connection.check(now)  # type: ignore[union-attr]

    def _beat(self) -> None:
        self._notify()
        self.traffic.row.record_heartbeat()
        self._publish()
        if self.traffic.board.is_over():
            log.warning("this run of the store is over: this worker ends")
            self._grace_s, self.should_exit = 0.0, True

    def _publish(self) -> None:
        traffic, row = self.traffic, self.traffic.row
        row.publish_figures(
            self._router.counters()
            | {"requests": traffic.counts.requests, "refused_overload": traffic.counts.overloads}
        )

    def _make_protocol(self) -> Protocol:
        return Protocol(self.config, self.traffic, {})

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so on the board."""
        await self.on_tick(0)
        self._acceptor = Acceptor(sockets, self._make_protocol, self.traffic)
        self.started = True
        self.traffic.row.state = ProcessRow.UP
        gc.freeze()  # what lives as long as the worker need not be looked at again

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop in order; what is not done when the grace ends is cut off."""
        traffic = self.traffic
        traffic.row.state = ProcessRow.STOPPING
        traffic.stopping = True
        give_up_at = self._loop.time() + self._grace_s
        self._let_idle_ones_go()
        await self._accept_the_last(min(give_up_at, self._loop.time() + LAST_CONNECTIONS_S))
        await self._acceptor.close()
        self._let_idle_ones_go()
        for listener in sockets:
            listener.close()
        counter = 0
        while (traffic.connections or traffic.tasks) and self._loop.time() < give_up_at:
            await asyncio.sleep(TICK_S)
            counter += 1
            await self.on_tick(counter)
            self._check_connections()
        self._cut_off()
        await asyncio.sleep(0)
        self._flush_counts()
        self._publish()

    def _let_idle_ones_go(self) -> None:
        for connection in list(self.traffic.connections):
            connection.shutdown()

    async def _accept_the_last(self, give_up_at: float) -> None:
        known = set(self.traffic.connections)
        quiet_since = now = self._loop.time()
        while now < give_up_at and now - quiet_since < QUIET_S:
            await asyncio.sleep(LOOK_S)
            self.traffic.tokens.refresh()  # who comes late is held to what holds now
            now = self._loop.time()
            fresh = self.traffic.connections - known
            if fresh:
                known |= fresh
                quiet_since = now

    def _flush_counts(self) -> None:
        with contextlib.suppress(OSError):  # the metrics' directory may be gone, with the run directory
            self.traffic.counts.flush()

    def _cut_off(self) -> None:
        traffic = self.traffic
        if traffic.connections:
            log.warning("%d connections were cut off when the grace ended", len(traffic.connections))
        for connection in list(traffic.connections):
            connection.cut_off()  # type: ignore[union-attr]
        for task in list(traffic.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the main loop. (uvicorn raises them again afterwards: the worker would seem to be killed.)"""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, self._grace_s)
        self._loop.add_signal_handler(signal.SIGQUIT, self._stop, 0.0)
        yield

    def _stop(self, grace_s: float) -> None:
        self._grace_s = min(self._grace_s, grace_s)
        self.should_exit = True


class Worker(UvicornWorker):  # type: ignore[misc]
    """The worker class; its application is what `kvserver.app:app` makes of a router and a board."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
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
            board = Board.open(settings.board_path)
            _, row = board.workers.claim_row()
            tokens = Tokens(board)
        except (BoardError, SettingError, TokensError) as error:
            self.log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        router = Router(board, settings.resolved_run_dir(), asyncio.get_running_loop())
        router.start()
        hosts = Hosts.of(settings.allowed_hosts, settings.host, tokens.required)
        traffic = Traffic(board, row, Counts(), Pages(Origins(settings.origins), hosts), tokens, settings)
        traffic.access_log = AccessLog() if settings.access_log else None
        if not settings.no_hot_path:
            traffic.hot_path = HotPath(router, traffic)
        self.config.app = self.wsgi(router, board, traffic)
        server = Server(self.config, traffic, router, settings.grace, self.notify)
        try:
            await server.serve(sockets=self.sockets)
        finally:
            router.close()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
