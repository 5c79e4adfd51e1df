"""Command line, environment and readiness check of each process that the supervisor starts."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kvserver
from kvserver.serve import listening
from kvserver.serve.children import Child
from kvserver.serve.cluster.files import ClusterSetup
from kvserver.serve.cluster.processes import engine_argv, is_answering, order_argv
from kvserver.serve.listening import Listeners
from kvserver.settings import ServerSettings
from shards.host.board import Board, ProcessRow
from shards.host.process import NEEDS_A_PEER, PARENT_VARIABLE, STOPPED_FOR_GOOD
from shards.host.settings import to_environ
from shards.order import link

ENGINE, ORDER, SHARDS, GATEWAY, WEB = range(-3, 2)
"""Stages. What a cluster needs starts first, then shards, then everything else; stages stop in reverse order. The
process that serves /metrics belongs to the shards' stage, so that it shows their progress at start and stop."""

CWD = Path(kvserver.__file__).parent.parent
"""Working directory of all children; `python -m` finds our packages there first."""

_ORDER_GRACE_S = 3.0
"""What is on its way was told to nobody: whoever starts it again sends it again."""

_EXPORTER_GRACE_S = 2.0
"""The exporter has nothing to finish."""

# The supervisor's own relation to systemd, and settings of another gunicorn.
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "GUNICORN_CMD_ARGS", "GUNICORN_FD", "GUNICORN_PID")


class ChildSpecs:
    """Makes the children of one store. Starts nothing itself."""

    def __init__(self, settings: ServerSettings, listeners: Listeners, board: Board, metrics_dir: Path) -> None:
        """`metrics_dir`: where web workers and gateways keep their counter files."""
        self._settings, self._listeners, self._board, self._metrics_dir = settings, listeners, board, metrics_dir

    def exporter(self) -> Child:
        """Return the process that serves /metrics."""
        argv = [sys.executable, "-m", "kvserver.serve.metrics.exporter"]  # by name: the supervisor needs none of it
        environ, fd = self.child_environ(), self._listeners.metrics.fileno()
        environ[listening.METRICS_FD_VARIABLE] = str(fd)
        return Child(
            "metrics",
            argv,
            lambda pid: self._board.exporter.pid == pid,
            SHARDS,
            environ,
            [fd],
            _EXPORTER_GRACE_S,
            after=ENGINE,
        )

    def engine(self, setup: ClusterSetup) -> Iterator[Child]:
        """Return the engine of a machine of a cluster, if this server starts one. Writes its configuration.

        Raises `OSError`.
        """
        own = setup.own
        if own is not None:
            argv = engine_argv(setup, self._settings)
            yield Child("engine", argv, lambda _: is_answering(own.monitor), ENGINE, self.child_environ())

    def order(self, setup: ClusterSetup) -> Child:
        """Return the process that carries the order of a cluster to the shard. Raises `OSError`."""
        run_dir = self._board.path.parent
        argv, socket_path = order_argv(setup, self._settings, run_dir), run_dir / link.SOCKET_NAME
        environ = self.child_environ()
        return Child("order", argv, lambda _: socket_path.is_socket(), ORDER, environ, grace_s=_ORDER_GRACE_S)

    def shards(self) -> Iterator[Child]:
        """Return all shards, in the order of their numbers."""
        for index in range(self._settings.shards):
            argv = [sys.executable, "-m", "shards", "--index", str(index)]
            check, environ = self._shard_check(index), self.child_environ()
            yield Child(f"shard {index}", argv, check, SHARDS, environ, final=(STOPPED_FOR_GOOD, NEEDS_A_PEER))

    def gateway(self) -> Child:
        """Return the gunicorn master of the feed gateways."""
        return self._gunicorn_master(
            "gateway",
            GATEWAY,
            ["gateway.conf.py", "kvserver.gateway:app"],
            self._is_gateway_up,
            (self._listeners.feed, "KVSERVER_FEED_FD"),
        )

    def web(self) -> Child:
        """Return the gunicorn master of the web workers."""
        return self._gunicorn_master(
            "web",
            WEB,
            ["gunicorn.conf.py", "kvserver.app:app"],
            self._is_web_up,
            (self._listeners.rest, "KVSERVER_LISTEN_FD"),
        )

    def _gunicorn_master(
        self,
        name: str,
        stage: int,
        conf_and_app: list[str],
        is_up: Callable[[int], bool],
        listening_socket: tuple[socket.socket | None, str],
    ) -> Child:
        """Return a gunicorn master; a variable passes on the descriptor of its listener, if it has one."""
        conf, app = conf_and_app
        argv = [sys.executable, "-m", "gunicorn", "-c", str(conf_file(conf)), app]
        environ, fds = self.child_environ(), []
        listener, variable = listening_socket
        if listener is not None:
            fds.append(listener.fileno())
            environ[variable] = str(listener.fileno())
        # Both wait for the shards alone: the web workers must not wait for the gateway.
        return Child(name, argv, is_up, stage, environ, fds, after=GATEWAY)

    def child_environ(self) -> dict[str, str]:
        """Return the environment of every child: ours, with the settings and the supervisor's pid."""
        base = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
        return to_environ(self._settings, base) | {
            PARENT_VARIABLE: str(os.getpid()),
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_dir),
        }

    def _shard_check(self, index: int) -> Callable[[int], bool]:
        row = self._board.shards[index]
        return lambda pid: row.pid == pid and row.state == ProcessRow.UP

    def _is_gateway_up(self, pid: int) -> bool:
        rows = [row for _, row in self._board.gateways.living_rows() if row.state == ProcessRow.UP]
        return len(rows) >= self._settings.gateways

    def _is_web_up(self, pid: int) -> bool:
        rows = [row for _, row in self._board.workers.living_rows() if row.state == ProcessRow.UP]
        return len(rows) >= self._settings.workers


def conf_file(name: str) -> Path:
    """Return the path of gunicorn's configuration file `name`: in the package, or next to it in a checkout."""
    package = Path(kvserver.__file__).parent
    installed = package / "deploy" / name
    return installed if installed.exists() else package.parent / "deploy" / name
