"""gunicorn workers that host WebSockets.

`SocketWorker` serves any `kvserver.gateway.transport.handler.Application`; `GatewayWorker` is the feed's. gunicorn's
configuration needs, beside the worker class,

    worker_connections = 100_000  # clients of one process; with the default of 1,000 the next ones would wait
    preload_app = False           # nothing of ZeroMQ may exist before the fork
    max_requests = 0              # recycling a worker would end its feeds
    graceful_timeout = 5          # closing all clients takes up to 2 s
    timeout = 30                  # the event loop shows a sign of life each second

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
from kvserver.gateway.history.source import Source
from kvserver.gateway.sessions.access import Door
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.handler import Handler, Server
from kvserver.gateway.transport.handover import Reception
from kvserver.gateway.transport.websocket import Keeper
from kvserver.http.counting import Counts
from kvserver.settings import ServerSettings
from shards.host import logs, process
from shards.host.board import Board, BoardError, ProcessRow
from shards.host.logs import Recurring
from shards.host.settings import load_settings
from shards.wire.errors import EXHAUSTED

log = logging.getLogger(__name__)
_exhausted = Recurring(log, logging.ERROR, "a connection cannot be taken or served: %s")

CLOSE_WITHIN_S = 0.8
"""Over how long a stopping process spreads its closes."""
GONE_WITHIN_S = 1.3
"""When it is over for those, too, who do not go by themselves."""
LATEST_S = 3.0
"""The same if telling them all took long: the machine has other work, and they are given time in proportion."""
LAST_WORDS_S = 0.5
"""What who is told last has at least."""
END_S = 2.0
"""How long connections that were ended may take to notice."""
OFTEN_S = 0.2
"""How often is looked whether tokens have changed, and what was counted is shown."""


def post_fork(server: Any, worker: Any) -> None:
    """gunicorn's hook, in the new worker: let it die with its master, which otherwise it outlives."""
    process.die_with(server.pid)


class SocketWorker(GeventWebSocketWorker):  # type: ignore[misc]
    """Hosts an application's connections, and closes them with 1012 when it is told to stop."""

    server_class = Server
    wsgi_handler = Handler

    def init_process(self) -> None:
        """Called by gunicorn after the fork; calls `run`."""
        self.stopping = Event()  # before signals are handled
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop. The gevent worker's own loop would notice that only within a second, and waits
        for connections that never end by themselves."""
        allow_many_files()
        process.map_large_memory()
        self.keeper = Keeper(self.wsgi.limits, self.wsgi.debts)
        self.servers = [self._server(sock) for sock in self.sockets]
        gevent.spawn(self.keeper.run)
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

    def _server(self, sock: Any) -> Server:
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
            keeper=self.keeper,
        )

    def _close_all(self) -> None:
        """Close every connection with 1012, and wait until the clients have gone or their time is over."""
        begun_at = time.monotonic()
        for handler in [handler for server in self.servers for handler in server.shaking_hands]:
            handler.give_up()
        self.keeper.close_all(1012, "the server is stopping", self.ending(), CLOSE_WITHIN_S)
        give_up_at = begun_at + patience_s(time.monotonic() - begun_at)
        for server in self.servers:
            server.pool.join(timeout=max(0.0, give_up_at - time.monotonic()))
        self.keeper.abort_all()
        for server in self.servers:  # to their ends, for which they need what `closed` releases
            server.pool.kill(timeout=END_S)
            self.notify()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: stop."""
        self.stop()

    def stop(self) -> None:
        """End `run` soon."""
        self.alive = False
        self.stopping.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: stop as properly, since it takes seconds only."""
        self.handle_exit(sig, frame)

    # For subclasses

    def opened(self) -> bool:
        """Called before the first connection is accepted; False if the worker was told to stop meanwhile."""
        return True

    def each_second(self) -> None:
        """Called about every second; must not block."""

    def ending(self) -> Ending:
        """Why it ends, as its clients are told."""
        return "stop"

    def closing(self) -> None:
        """Called when no more connections are accepted, before those there are get closed."""

    def closed(self) -> None:
        """Called when all connections are gone."""


class GatewayWorker(SocketWorker):
    """The feed's worker: a row of the board, the source that clients follow, and connections of the web workers."""

    def opened(self) -> bool:
        """Claim a row, start to follow the history, listen for connections that are handed over."""
        self._began_at = time.time()
        settings = load_settings(ServerSettings)
        self._run_dir = settings.resolved_run_dir()
        logs.configure_logging(settings.log_level, "gateway", settings.log_format)
        gevent.get_hub().print_exception = _failed_greenlet  # else it writes tracebacks by itself
        found = self._find(settings)
        self._board = None if found is None else found[0]
        if found is None:
            return False
        board, self._tokens = found
        index, self.row = board.gateways.claim_row()
        self.source = Source(board, self._run_dir, self.row, index)
        self._counts = Counts()
        self.wsgi.open(self.source, Door(self._tokens, Tickets(board, self._tokens)), settings, self._counts)
        server = self.servers[0]
        self.reception = Reception(self._run_dir / f"gateway-{index}.handover", server.adopt, server.has_room)
        self.greenlets = [gevent.spawn(run) for run in (self.source.run, self.reception.run, self._often)]
        self.greenlets[0].link_exception(self._failed)
        gc.freeze()  # what lives as long as this process need not be looked at again
        self.row.state = ProcessRow.UP
        return True

    def _find(self, settings: ServerSettings) -> tuple[Board, Tokens] | None:
        """The board and its tokens, once there is one: the store may be between two runs. None if told to stop."""
        told = False
        while self.alive:
            try:
                board = Board.open(settings.board_path)
                return board, Tokens(board)
            except (BoardError, TokensError) as error:
                if not told:
                    log.warning("waiting: %s", error)
                told = True
            self.notify()
            self.stopping.wait(0.2)
        return None

    def ending(self) -> Ending:
        """Whether others take its place: `deploy/gateway.conf.py` notes when the master was told to see to that."""
        with contextlib.suppress(OSError):
            if (self._run_dir / "gateway.reload").stat().st_mtime >= self._began_at:
                return "reload"
        return "stop"

    def _often(self) -> None:
        while True:
            gevent.sleep(OFTEN_S)
            self.wsgi.refresh()
            self.row.tokens = self._tokens.generation
            self._flush_counts()

    def _flush_counts(self) -> None:
        with contextlib.suppress(OSError):  # the metrics' directory may be gone, with the run directory
            self._counts.flush()

    def _failed(self, greenlet: gevent.Greenlet) -> None:
        """The history cannot be followed any more: better no feed than one that stands still."""
        log.error("following the log failed: %r", greenlet.exception)
        self.stop()

    def each_second(self) -> None:
        """Show signs of life; stop if this run of the store is over."""
        if self._board is None:
            return
        self.row.record_heartbeat()
        if self._board.is_over():
            log.info("this run of the store is over")
            self.stop()
            return
        self.source.each_second()
        self.reception.look_after_file()

    def closing(self) -> None:
        """Take no more connections."""
        if self._board is not None:
            self.row.state = ProcessRow.STOPPING
            self.reception.close()
            gevent.sleep(0)  # who was taken over already is let in, and told where to go on
            self.wsgi.close()

    def closed(self) -> None:
        """Release everything."""
        if self._board is not None:
            gevent.killall(self.greenlets)
            self._flush_counts()
            self.source.close()
            self._board.close()


def _failed_greenlet(context: Any, kind: Any, error: Any, traceback: Any) -> None:
    if isinstance(error, OSError) and error.errno in EXHAUSTED:  # accepting a connection, again and again
        _exhausted.report(error.strerror)
    else:
        log.error("%s failed", type(context).__name__, exc_info=(kind, error, traceback))


def patience_s(telling_s: float) -> float:
    """When it is over, from the begin, if it took `telling_s` to tell all clients that the process stops.

    What they are told is written after that, by their own greenlets: without time for it they would be cut off.
    """
    in_proportion = GONE_WITHIN_S * max(1.0, telling_s / CLOSE_WITHIN_S)
    return max(min(in_proportion, LATEST_S), telling_s + LAST_WORDS_S)


def allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
