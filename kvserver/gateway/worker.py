"""gunicorn workers that host WebSockets.

`SocketWorker` serves any `kvserver.gateway.handler.Application`; `GatewayWorker` is the feed's. A configuration for
gunicorn needs

    worker_class = "kvserver.gateway.worker.GatewayWorker"
    preload_app = False           # nothing of ZeroMQ may exist before the fork
    worker_connections = 10_000   # clients of one process; the default of 1,000 would let the next ones wait
    max_requests = 0              # recycling a worker ends its feeds
    graceful_timeout = 10         # closing takes up to about 4 s
    keepalive, timeout            # as you like; the loop ticks every second

and calls `post_fork` below from gunicorn's hook of that name.
"""

from __future__ import annotations

import contextlib
import resource
import time
from types import FrameType
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from geventwebsocket.gunicorn.workers import GeventWebSocketWorker  # type: ignore[import-untyped]
from gunicorn.http.wsgi import base_environ

from kvserver.gateway.handler import Handler, Server
from kvserver.gateway.socket import Keeper
from shards import process

CLOSE_WITHIN_S = 2.0
"""Over how long a stopping process spreads its closes."""


def post_fork(server: Any, worker: Any) -> None:
    """gunicorn's hook, in the new worker: let it die with its master, which otherwise it outlives."""
    process.die_with(server.pid)


class SocketWorker(GeventWebSocketWorker):  # type: ignore[misc]
    """Hosts an application's connections, and closes them with 1012 when it is told to stop."""

    server_class = Server
    wsgi_handler = Handler

    def run(self) -> None:
        """Serve until told to stop. The gevent worker's own loop would notice that only within a second, and waits
        for connections that never end by themselves."""
        allow_many_files()
        self.stopping = Event()
        self.keeper = Keeper(self.wsgi.limits)
        self.servers = [self._server(sock) for sock in self.sockets]
        gevent.spawn(self.keeper.run)
        self.opened()
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
            sock, application=self.wsgi, spawn=pool, log=self.log, handler_class=self.wsgi_handler,
            environ=environ, keeper=self.keeper,
        )  # fmt: skip

    def _close_all(self) -> None:
        """Close every connection with 1012, and wait until the clients have gone or their time is over."""
        give_up_at = time.monotonic() + CLOSE_WITHIN_S + 2 * self.wsgi.limits.linger_s
        self.keeper.close_all(1012, "the server is stopping", CLOSE_WITHIN_S)
        for server in self.servers:
            server.pool.join(timeout=max(0.0, give_up_at - time.monotonic()))
            self.notify()
            server.pool.kill(block=False)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: stop."""
        super().handle_exit(sig, frame)
        self.stopping.set()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: stop as properly, since it takes seconds only."""
        self.handle_exit(sig, frame)

    # For subclasses

    def opened(self) -> None:
        """Called before the first connection is accepted."""

    def each_second(self) -> None:
        """Called about every second; must not block."""

    def closing(self) -> None:
        """Called when no more connections are accepted, before those there are get closed."""

    def closed(self) -> None:
        """Called when all connections are gone."""


def allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
