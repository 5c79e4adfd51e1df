"""`kvserver serve`: brings the store up, starts everything else in order, watches, and stops in reverse order.

One loop in the main thread, a few times a second and whenever a signal arrives. Signals only set flags; all that may
block (making segments, flushing) is in threads of the store; everything that is started is started from this thread,
because the kernel's "die with your parent" follows the thread.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import platform
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import kvserver
from kvserver.access import cuts
from kvserver.serve import banner, listening
from kvserver.serve.children import SPAWN_FAILED, CannotStart, Child, Children, is_descendant
from kvserver.serve.signals import Signals, ends_with_terminal
from kvserver.serve.store import Store, StoreError
from kvserver.serve.watch.scarcity import Patience
from kvserver.serve.watch.stalls import Watch
from kvserver.settings import ServerSettings
from shards.host.board import BoardError, ProcessRow
from shards.host.fences import TESTED
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import PARENT_VARIABLE, become_subreaper, notify_systemd
from shards.host.settings import SettingError, ignored_variables, to_environ
from shards.keys import last_use

log = logging.getLogger(__name__)

SHARDS, GATEWAY, WEB = range(3)
"""Stages: the shards are started first, then all others; they are stopped in the reverse of this order. What serves
/metrics goes with the shards, so that it can be seen how far they are."""

TURN_S = 0.05
WATCH_S = 0.25
SLOW_START_S = 15.0
GATEWAY_GRACE_S = 10.0
FAILED_GRACE_S = 1.0
QUIET_S, LAST_CONNECTIONS_S = 0.1, 3.0
"""For how long nobody may wait to be accepted before the listeners are closed, and for how long that is waited for."""
SHARD_GRACE_S = 15.0
EXPORTER_GRACE_S = 2.0
"""It has nothing to finish."""

_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "GUNICORN_CMD_ARGS", "GUNICORN_FD", "GUNICORN_PID")


class Failure(Exception):
    """The server cannot go on; the message says why."""


class Listeners:
    """The TCP sockets, bound before anything slow. The supervisor keeps them open as long as it lives, so that no
    connection is refused while who accepts there is restarted. It never accepts one itself."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises `ListenError`."""
        with contextlib.ExitStack() as stack:
            self.rest = self.feed = None
            if settings.only is None:
                self.rest = stack.enter_context(listening.bind(settings.host, settings.port, "port"))
                if settings.feed_port is not None:
                    self.feed = stack.enter_context(listening.bind(settings.host, settings.feed_port, "feed_port"))
            self.metrics = stack.enter_context(
                listening.bind(listening.METRICS_HOST, settings.metrics_port, "metrics_port")
            )
            stack.pop_all()

    def close(self) -> None:
        """Close what is not closed yet; new connections are refused when the workers have closed theirs as well."""
        for listener in (self.rest, self.feed, self.metrics):
            if listener is not None:
                listener.close()


class Supervisor:
    """A store that is up, its children, and the loop over both."""

    def __init__(self, settings: ServerSettings, listeners: Listeners, store: Store, signals: Signals) -> None:
        self._settings, self._listeners, self._store, self._signals = settings, listeners, store, signals
        self._board = store.board
        self._children = Children(cwd=Path(kvserver.__file__).parent.parent)
        self._snapshot: Child | None = None
        self._watch = Watch(self._board, lambda pid: is_descendant(pid, os.getpid()), self._is_snapshot)
        self._watch_at = 0.0
        self._patience = Patience()
        self._run_dir_trouble = ""
        self._map_lock = store.map_dir / "lock"
        self._map_lock_inode = self._map_lock.stat().st_ino
        self._shards: list[Child] = []
        self._children.add(self._exporter())
        if settings.only is None:
            self._shards = [self._children.add(self._shard(i)) for i in range(settings.shards)]
            self._children.add(self._gunicorn("gateway", GATEWAY, "gateway.conf.py", "kvserver.gateway:app"))
            self._children.add(self._gunicorn("web", WEB, "gunicorn.conf.py", "kvserver.app:app"))

    # The children.

    def _exporter(self) -> Child:
        argv = [sys.executable, "-m", "kvserver.serve.metrics.exporter"]  # not imported: this process needs none of it
        environ, fd = self._environ(), self._listeners.metrics.fileno()
        environ[listening.METRICS_FD_VARIABLE] = str(fd)
        return Child(
            "metrics", argv, lambda pid: self._board.exporter.pid == pid, SHARDS, environ, [fd], EXPORTER_GRACE_S
        )

    def _shard(self, index: int) -> Child:
        argv = [sys.executable, "-m", "shards", "--index", str(index)]
        return Child(f"shard {index}", argv, self._is_shard_up(index), SHARDS, self._environ())

    def _gunicorn(self, name: str, stage: int, conf: str, app: str) -> Child:
        """A gunicorn master, which is told the descriptor of its listener, if it has one."""
        argv = [sys.executable, "-m", "gunicorn", "-c", str(conf_file(conf)), app]
        listener, variable, is_up = (
            (self._listeners.rest, "KVSERVER_LISTEN_FD", self._is_web_up)
            if stage == WEB
            else (self._listeners.feed, "KVSERVER_FEED_FD", self._is_gateway_up)
        )
        environ, fds = self._environ(), []
        if listener is not None:
            fds.append(listener.fileno())
            environ[variable] = str(listener.fileno())
        return Child(name, argv, is_up, stage, environ, fds, after=GATEWAY)  # web does not wait for the gateway

    def _environ(self) -> dict[str, str]:
        base = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
        return to_environ(self._settings, base) | {
            PARENT_VARIABLE: str(os.getpid()),
            "PROMETHEUS_MULTIPROC_DIR": str(self._store.metrics_dir),
        }

    def _is_shard_up(self, index: int) -> Callable[[int], bool]:
        row = self._board.shards[index]
        return lambda pid: row.pid == pid and row.state == ProcessRow.UP

    def _is_gateway_up(self, pid: int) -> bool:
        rows = [row for _, row in self._board.gateways.living_rows() if row.state == ProcessRow.UP]
        return len(rows) >= self._settings.gateways

    def _is_web_up(self, pid: int) -> bool:
        rows = [row for _, row in self._board.workers.living_rows() if row.state == ProcessRow.UP]
        return len(rows) >= self._settings.workers

    # The loop.

    def run(self) -> None:
        """Serve until a signal asks to stop. Raises `Failure` or `CannotStart` if the server cannot go on."""
        announced, complain_at = False, time.monotonic() + SLOW_START_S
        while not self._signals.stops:
            self._turn()
            if self._signals.take_reload():
                self._reload()
            if not announced and self._children.all_up() and self._answers():
                announced = True
                self._announce()
            if not announced and time.monotonic() >= complain_at:
                complain_at += SLOW_START_S
                missing = [child.name for child in self._children if not child.up]
                log.warning("still waiting for: %s", ", ".join(missing) or "an answer over HTTP")
            self._signals.wait(TURN_S)

    def _turn(self) -> None:
        """One look at everything."""
        now = time.monotonic()
        watching = now >= self._watch_at
        if watching:  # first: children that find the ground gone would be started again and again
            self._look_at_directories()
            self._look_after_run_dir()
        self._children.turn(now)
        self._tell_board()
        if self._board.log.broken:
            raise Failure(
                "the log could not be flushed to the disk, so nothing more may be acknowledged: see the kernel's log "
                "for the disk's error; a restart checks what is there"
            )
        self._store.raise_failure()
        self._patience.attempt("the look after snapshots", lambda: self._snapshots(now))
        if watching:
            self._watch_at = now + WATCH_S
            self._store.watch_clock()
            self._patience.attempt("the watch over who stands still", lambda: self._kill_culprits(now))

    def _kill_culprits(self, now: float) -> None:
        for culprit in self._watch.culprits(now):
            log.warning("pid %s is killed: %s", culprit.pid, culprit.why)
            with contextlib.suppress(ProcessLookupError):
                os.kill(culprit.pid, signal.SIGKILL)

    def _look_at_directories(self) -> None:
        """Raise `Failure` if what all processes of the store meet in was removed under it."""
        if self._board.is_over():
            raise Failure(
                f"the run directory {self._settings.run_dir} was removed, or the board in it, so no process can find "
                "the store any more: start the server again; nothing is lost (--run-dir names another place)"
            )
        try:
            if self._map_lock.stat().st_ino == self._map_lock_inode:
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # that says nothing of what is there
            log.debug("%s cannot be looked at: %s", self._map_lock, error)
            return
        raise Failure(
            f"the map directory {self._settings.map_dir} was removed, so nothing can be read any more: start the "
            f"server again, {'in memory everything is lost' if self._settings.in_memory else 'nothing is lost'} "
            "(--map-dir names another place)"
        )

    def _look_after_run_dir(self) -> None:
        """Have made again what somebody has removed there, and replace those who have the removed one: they and who
        starts later would go by different ones. Raises `StoreError`."""
        try:
            lost, why = self._store.look_after_run_dir(), ""
        except OSError as error:
            lost, why = set(), str(error)
        if why and why != self._run_dir_trouble:
            log.warning("what was removed from the run directory cannot be made again, and is tried again: %s", why)
        self._run_dir_trouble = why
        for name in sorted(lost):
            log.warning("%s was removed from the run directory by somebody: it is made again", name)
        if lost & {last_use.NAME, cuts.FILE, "metrics"}:
            self._replace_web_workers()
        if last_use.NAME in lost:
            for shard in self._shards:
                shard.send(signal.SIGTERM)

    def _tell_board(self) -> None:
        board, restarts = self._board, self._children.restarts
        board.log.restarts = restarts.total()
        for row, child in zip(board.shards, self._shards, strict=False):
            row.given_up, row.restarts = int(child.given_up), restarts[child.name]
        for name in board.exporter.OTHERS:
            board.exporter.publish_restarts(name, restarts[name])

    def _reload(self) -> None:
        """Tokens are read again, everywhere. New web workers; the old ones finish what they have. Feeds stay where they
        are."""
        self._store.read_tokens_again()
        self._replace_web_workers()

    def _replace_web_workers(self) -> None:
        """New ones come, the old ones finish what they have."""
        for child in self._children:
            if child.stage == WEB:
                child.send(signal.SIGHUP)

    def _answers(self) -> bool:
        """Whether everything that a client can ask answers: really asked."""
        if not asks_well(self._listeners.metrics, "/metrics"):
            return False
        return self._listeners.rest is None or asks_well(self._listeners.rest, "/health/ready")

    def _announce(self) -> None:
        banner.show(
            self._settings,
            map_dir=self._store.map_dir,
            rest=_address(self._listeners.rest),
            feed=_address(self._listeners.feed),
            metrics=listening.address(self._listeners.metrics),
        )
        notify_systemd("READY=1")

    # Snapshots.

    def _is_snapshot(self, pid: int) -> bool:
        return self._snapshot is not None and self._snapshot.pid == pid

    def _snapshots(self, now: float) -> None:
        if self._snapshot is None and self._store.wants_snapshot(now):
            try:
                self._snapshot = self._children.once(
                    "snapshot", [sys.executable, "-m", "shards.maps.snapshot"], self._environ(), now
                )
            except OSError as error:
                log.warning("no snapshot can be begun: %s", error)
                self._store.snapshot_ended(SPAWN_FAILED, now)
        elif self._snapshot is not None and self._snapshot.gone:
            self._store.snapshot_ended(self._snapshot.status, now)
            self._children.forget(self._snapshot)
            self._snapshot = None

    # The end.

    def stop(self, orderly: bool = True) -> None:
        """Stop all children: web first, so that requests are answered, then the feeds, then the shards.

        A second signal cuts the waiting short; unless `orderly`, requests are not waited for, but feeds are told.
        Returns when nothing is left of them.
        """
        notify_systemd("STOPPING=1")
        self._let_in_the_last(orderly)
        if not orderly:
            for child in self._children:
                child.wanted = False  # what ends meanwhile would only end again
        for listener in (self._listeners.rest, self._listeners.feed):
            if listener is not None:
                listener.close()
        if self._snapshot is not None:
            self._snapshot.send(signal.SIGKILL)
        self._stop_stage(WEB, self._settings.grace + 2.0 if orderly else FAILED_GRACE_S)
        self._stop_stage(GATEWAY, GATEWAY_GRACE_S)
        self._stop_stage(SHARDS, SHARD_GRACE_S, hurry=False)
        self._listeners.metrics.close()

    def _let_in_the_last(self, orderly: bool) -> None:
        """Take no new connections, and wait until the workers have accepted those there are: closing resets them."""
        listeners = [each for each in (self._listeners.rest, self._listeners.feed) if each is not None]
        for listener in listeners:
            listening.take_no_more(listener)
        now = quiet_since = time.monotonic()
        give_up_at = now + LAST_CONNECTIONS_S if orderly and listeners else 0.0
        while now < give_up_at and now - quiet_since < QUIET_S and self._signals.stops < 2:
            with contextlib.suppress(CannotStart):
                self._children.turn(now)
            self._signals.wait(0.02)
            now = time.monotonic()
            if any(listening.waiting(listener) for listener in listeners):
                quiet_since = now

    def _stop_stage(self, stage: int, patience_s: float, hurry: bool = True) -> None:
        self._children.stop(stage, signal.SIGTERM)
        began = time.monotonic()
        while not self._children.gone(stage):
            now = time.monotonic()
            in_a_hurry = hurry and self._signals.stops > 1
            self._children.kill_late(stage, now - began, 0.0 if in_a_hurry else patience_s)
            with contextlib.suppress(CannotStart):
                self._children.turn(now)
            self._signals.wait(0.02)


def _address(listener: socket.socket | None) -> str | None:
    return None if listener is None else listening.address(listener)


def conf_file(name: str) -> Path:
    """gunicorn's configuration file `name`: installed within the package, or beside it in a checkout."""
    package = Path(kvserver.__file__).parent
    installed = package / "deploy" / name
    return installed if installed.exists() else package.parent / "deploy" / name


def asks_well(listener: socket.socket, path: str) -> bool:
    """Whether a GET of `path` at our own socket is answered with 200 within a second."""
    host, port = listener.getsockname()[:2]
    # What is bound to all addresses is asked at the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            return response.status == 200
    except (OSError, http.client.HTTPException, LookupError):  # the last: a codec wants a descriptor to be loaded
        return False
    finally:
        connection.close()


def raise_open_files() -> None:
    """As many descriptors as may be had, for this process and its children: each client takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _interrupted(*_: object) -> None:
    raise SystemExit(0)


def run(settings: ServerSettings) -> int:
    """Run the server until it is told to stop. Returns the exit status: 0, or 1 after a message on standard error."""
    configure_logging(settings.log_level, "kvserver", settings.log_format)
    if platform.machine() not in TESTED:
        log.warning("kvserver was never tested on a processor of this kind (%s)", platform.machine())
    for sentence in ignored_variables(ServerSettings):
        log.warning("%s", sentence)
    # While the store is brought up there is nothing to stop in order; recovery may be broken off anywhere.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)
    with_terminal = ends_with_terminal()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if settings.only is None:
            listening.refuse_openly(settings, settings.tokens is not None)
        raise_open_files()
        become_subreaper()
        listeners = Listeners(settings)
        try:
            return _run(settings, listeners, with_terminal)
        finally:
            listeners.close()
    except (SettingError, listening.ListenError, StoreError, BoardError) as error:
        report_fatal(str(error))
        return 1


def _run(settings: ServerSettings, listeners: Listeners, with_terminal: bool) -> int:
    with Store(settings) as store:
        signals = Signals(with_terminal)
        try:
            supervisor = Supervisor(store.settings, listeners, store, signals)
            store.start_threads()
            try:
                supervisor.run()
            except (Failure, CannotStart, StoreError) as failure:
                report_fatal(str(failure))
                supervisor.stop(orderly=False)
                return 1
            supervisor.stop()
            store.finish()
        finally:
            signals.close()
    return 0
