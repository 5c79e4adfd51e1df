"""gunicorn workers that host WebSockets.

`SocketWorker` serves any `kvserver.gateway.transport.handler.Application`; `GatewayWorker` is the feed's. gunicorn's
configuration needs, besides the worker class,

    worker_connections = 100_000  # clients of one process; with the default of 1,000 the next ones would wait
    preload_app = False           # nothing of ZeroMQ may exist before the fork
    max_requests = 0              # recycling a worker would end its feeds
    graceful_timeout = 5          # closing all clients takes up to 2 s
    timeout = 30                  # the event loop gives a sign of life each second

and has to call `post_fork` below from the hook of that name.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import time
from types import FrameType
from typing import Any

import gevent  # type: ignore[import-untyped]
from gevent.event import Event  # type: ignore[import-untyped]
from gevent.pool import Pool  # type: ignore[import-untyped]
from geventwebsocket.gunicorn.workers import GeventWebSocketWorker  # type: ignore[import-untyped]
from gunicorn.http.wsgi import base_environ  # type: ignore[import-untyped]

from kvserver.access.tickets import Tickets
from kvserver.access.tokens import Tokens, TokensError
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.sessions.access import FeedAccess
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.handler import GatewayHandler, GatewayServer
from kvserver.gateway.transport.handover import HandoverListener
from kvserver.gateway.transport.monitor import ConnectionMonitor
from kvserver.http.reports.counting import Counts
from kvserver.settings import ServerSettings
from shards.host import logs, process
from shards.host.board import Board, BoardError, ProcessRow
from shards.host.logs import Recurring
from shards.host.settings import load_settings
from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)
_exhausted = Recurring(log, logging.ERROR, "a connection cannot be taken or served: %s")

CLOSE_WITHIN_S = 0.8
"""A stopping process spreads its closes over so long."""
GONE_WITHIN_S = 1.3
"""Connections that do not end by themselves are ended so long after the first close; ..."""
LATEST_S = 3.0
"""... at most so long if closing them all took long: the machine has other work, so they get time in proportion."""
LAST_WORDS_S = 0.5
"""The least time between the last close and that end."""
END_S = 2.0
"""How long the greenlets of ended connections may take."""
REFRESH_S = 0.2
"""How often tokens are checked for changes, and counted requests are published."""


def post_fork(server: Any, worker: Any) -> None:
    """Have the new worker die with its master, which otherwise it outlives: gunicorn's hook."""
    process.die_with(server.pid)


class SocketWorker(GeventWebSocketWorker):  # type: ignore[misc]
    """Hosts an application's connections, and closes them with 1012 when it stops."""

    server_class = GatewayServer
    wsgi_handler = GatewayHandler

    def init_process(self) -> None:
        """Set up this process and call `run`; called by gunicorn after the fork."""
        self.stopping = Event()  # before signals are handled
        super().init_process()

    def run(self) -> None:
        """Serve until `stop`.

        The gevent worker's own loop would notice that only within a second, and would wait for connections that never
        end by themselves.
        """
        allow_many_files()
        process.map_large_memory()
        self.monitor = ConnectionMonitor(self.wsgi.limits, self.wsgi.budget)
        self.servers = [self._new_server(sock) for sock in self.sockets]
        gevent.spawn(self.monitor.run)
        if self.opened():
            for server in self.servers:
                server.start()
        while self.alive:
            self.notify()
            self.each_second()
            self.stopping.wait(1.0)
        for server in self.servers:
            server.close()
        self.closing()
        self._close_all()
        self.closed()

    def _new_server(self, sock: Any) -> GatewayServer:
        sock.setblocking(1)
        environ = base_environ(self.cfg) | {"wsgi.multithread": True, "SERVER_SOFTWARE": "kvserver"}
        pool = Pool(self.worker_connections)
        return self.server_class(
            sock,
            application=self.wsgi,
            spawn=pool,
            log=self.log,
            handler_class=self.wsgi_handler,
            environ=environ,
            monitor=self.monitor,
        )

    def _close_all(self) -> None:
        """Close every connection with 1012, and wait until the clients are gone or their time is over."""
        begun_at = time.monotonic()
        for handler in [handler for server in self.servers for handler in server.shaking_hands]:
            handler.give_up()
        self.monitor.close_all(1012, "the server is stopping", self.ending(), CLOSE_WITHIN_S)
        give_up_at = begun_at + end_after_s(time.monotonic() - begun_at)
        for server in self.servers:
            server.pool.join(timeout=max(0.0, give_up_at - time.monotonic()))
        self.monitor.abort_all()
        for server in self.servers:  # before `closed` releases what their last steps need
            server.pool.kill(timeout=END_S)
            self.notify()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, on SIGTERM."""
        self.stop()

    def stop(self) -> None:
        """End `run` soon."""
        self.alive = False
        self.stopping.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop as properly on SIGINT and SIGQUIT, since it takes only seconds."""
        self.handle_exit(sig, frame)

    # For subclasses

    def opened(self) -> bool:
        """Prepare for the first connection; False if the worker was stopped in the meantime."""
        return True

    def each_second(self) -> None:
        """Do what is due about every second. Must not block."""

    def ending(self) -> Ending:
        """Return why it ends, for its clients."""
        return "stop"

    def closing(self) -> None:
        """Admit no more clients: called before connections are closed."""

    def closed(self) -> None:
        """Release everything: called when all connections are gone."""


class GatewayWorker(SocketWorker):
    """The feed's worker: a row of the board, the history that clients follow, and connections of the web workers."""

    def opened(self) -> bool:
        """Claim a row, begin to follow the history, and listen for connections that are handed over."""
        self._began_at = time.time()
        settings = load_settings(ServerSettings)
        self._run_dir = settings.resolved_run_dir()
        logs.configure_logging(settings.log_level, "gateway", settings.log_format)
        gevent.get_hub().print_exception = _log_failed_greenlet
        found = self._wait_for_store(settings)
        self._board = None if found is None else found[0]
        if found is None:
            return False
        board, self._tokens = found
        index, self.row = board.gateways.claim_row()
        self.follower = LogFollower(board, self._run_dir, self.row, index)
        self._counts = Counts()
        self.wsgi.open(self.follower, FeedAccess(self._tokens, Tickets(board, self._tokens)), settings, self._counts)
        server = self.servers[0]
        path = self._run_dir / f"gateway-{index}.handover"
        self.handover = HandoverListener(path, server.adopt, server.has_room)
        self.greenlets = [gevent.spawn(run) for run in (self.follower.run, self.handover.run, self._refresh_often)]
        self.greenlets[0].link_exception(self._stop_following)
        gc.freeze()  # the collector need not look again at what lives as long as this process
        self.row.state = ProcessRow.UP
        return True

    def _wait_for_store(self, settings: ServerSettings) -> tuple[Board, Tokens] | None:
        """Return the board and its tokens, once there is a board: the store may be between two runs.

        None if the worker is stopped in the meantime.
        """
        has_logged = False
        while self.alive:
            try:
                board = Board.open(settings.board_path)
                return board, Tokens(board)
            except (BoardError, TokensError) as error:
                if not has_logged:
                    log.warning("waiting: %s", error)
                has_logged = True
            self.notify()
            self.stopping.wait(0.2)
        return None

    def ending(self) -> Ending:
        """Return `reload` if another gateway takes over: `deploy/gateway.conf.py` touches a file when that begins."""
        with contextlib.suppress(OSError):
            if (self._run_dir / "gateway.reload").stat().st_mtime >= self._began_at:
                return "reload"
        return "stop"

    def _refresh_often(self) -> None:
        """Apply changes of the tokens, and publish counted requests and figures, for ever."""
        while True:
            gevent.sleep(REFRESH_S)
            self.wsgi.refresh_tokens()
            self.row.tokens = self._tokens.generation
            self._flush_counts()
            self.follower.publish_figures()

    def _flush_counts(self) -> None:
        with contextlib.suppress(OSError):  # the metrics' directory may be gone, with the run directory
            self._counts.flush()
        for name, count in self._counts.figures.items():
            self.follower.counts[name] = count

    def _stop_following(self, greenlet: gevent.Greenlet) -> None:
        """Stop, since the history cannot be followed: better no feed than a frozen one."""
        log.error("following the log failed: %r", greenlet.exception)
        self.stop()

    def each_second(self) -> None:
        """Give a sign of life on the board; stop if this run of the server has ended."""
        if self._board is None:
            return
        self.row.record_heartbeat()
        if self._board.is_over():
            log.info("this run of the server has ended")
            self.stop()
            return
        self.follower.each_second()
        self.handover.restore_file()

    def closing(self) -> None:
        """Take over no more connections, and admit no more clients."""
        if self._board is not None:
            self.row.state = ProcessRow.STOPPING
            self.handover.close()
            gevent.sleep(0)  # clients taken over already are admitted, and get a farewell
            self.wsgi.close()

    def closed(self) -> None:
        """Release everything."""
        if self._board is not None:
            gevent.killall(self.greenlets)
            self._flush_counts()
            self.follower.close()
            self._board.close()


def _log_failed_greenlet(context: Any, kind: Any, error: Any, traceback: Any) -> None:
    """Log the error of a greenlet; gevent alone would write a traceback to stderr."""
    if isinstance(error, OSError) and error.errno in EXHAUSTED:  # accepting a connection, again and again
        _exhausted.report(error.strerror)
    else:
        log.error("%s failed", type(context).__name__, exc_info=(kind, error, traceback))


def end_after_s(closing_s: float) -> float:
    """Return when connections are ended, in seconds after the first close, if closing all of them took `closing_s`.

    Farewells are written after that, by the connections' own greenlets: without time for it they would be cut off.
    """
    in_proportion = GONE_WITHIN_S * max(1.0, closing_s / CLOSE_WITHIN_S)
    return max(min(in_proportion, LATEST_S), closing_s + LAST_WORDS_S)


def allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
