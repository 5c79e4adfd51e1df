"""`kvserver serve`: brings the store up, starts all processes in order, watches them, and stops them in reverse order.

One loop runs in the main thread, several times a second and whenever a signal arrives. Signal handlers only set flags.
Work that may block, such as creating segments or flushing, runs in threads of the store. All children are started from
the main thread, because the kernel's parent-death signal follows the thread.
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

from kvserver import __version__
from kvserver.access import cuts
from kvserver.serve import banner, listening
from kvserver.serve.child_specs import CWD, ENGINE, GATEWAY, ORDER, SHARDS, WEB, ChildSpecs
from kvserver.serve.children import SPAWN_FAILED, CannotStart, Child, Children, is_descendant
from kvserver.serve.cluster.files import ClusterSetup, setup_of
from kvserver.serve.cluster.ports import require_ports
from kvserver.serve.listening import Listeners
from kvserver.serve.signals import Signals, ends_with_terminal
from kvserver.serve.store import Store, StoreError, explain_os_error
from kvserver.serve.watch.new_workers import NewWorkers
from kvserver.serve.watch.scarcity import ScarcityRetry
from kvserver.serve.watch.stalls import StallWatch
from kvserver.settings import ServerSettings
from shards.host.board import BoardError
from shards.host.fences import TESTED
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import NEEDS_A_PEER, become_subreaper, notify_systemd
from shards.host.settings import SettingError, ignored_variables
from shards.keys import last_use

log = logging.getLogger(__name__)

TURN_S = 0.05
"""Longest pause between two passes of the loop."""

WATCH_S = 0.25
"""Interval of the slower checks: directories, clock, stalled processes."""

SLOW_START_S = 15.0
"""Interval of the warnings about processes that are not up yet."""

GATEWAY_GRACE_S = 10.0
"""Time for the gateways to close their feeds."""

FAILED_GRACE_S = 1.0
"""Time for the web workers after a failure, when no request can be answered."""

SHARD_GRACE_S = 15.0
"""Time for the shards to apply what they have appended."""

ENGINE_GRACE_S = 10.0
"""Time for the engine of a cluster to close its files."""

QUIET_S, LAST_CONNECTIONS_S = 0.1, 3.0
"""Listeners are closed once no connection has waited for QUIET_S, but at most LAST_CONNECTIONS_S after a stop."""

STOP_TURN_S = 0.02
"""Pause between two passes while stopping."""


class Failure(Exception):
    """The server cannot continue; the message says why."""


class BeginsAnew(Exception):
    """The store must be replaced by that of another machine of the cluster."""


class Every:
    """An interval on a clock that the caller reads."""

    def __init__(self, seconds: float, due_at: float = 0.0) -> None:
        """`due_at`: when it is due for the first time."""
        self._seconds, self._due_at = seconds, due_at

    def is_due(self, now: float) -> bool:
        """Return whether the interval has passed, and if so begin the next one at `now`."""
        if now < self._due_at:
            return False
        self._due_at = now + self._seconds
        return True


class Supervisor:
    """Runs the main loop over a store that is up and its child processes."""

    def __init__(
        self,
        settings: ServerSettings,
        listeners: Listeners,
        store: Store,
        signals: Signals,
        setup: ClusterSetup | None = None,
    ) -> None:
        """`setup`: how this machine takes part in a cluster, if it does. Raises `OSError`."""
        self._settings, self._listeners, self._store, self._signals = settings, listeners, store, signals
        self._board = store.board
        self._children = Children(CWD)
        self._specs = ChildSpecs(settings, listeners, self._board, store.metrics_dir)
        self._snapshot: Child | None = None
        self._watch = StallWatch(self._board, lambda pid: is_descendant(pid, os.getpid()), self._is_snapshot)
        self._watch_interval = Every(WATCH_S)
        self._new_workers = NewWorkers(self._board)
        self._started_at, self._is_announced, self._is_stopped = time.monotonic(), False, False
        self._scarcity = ScarcityRetry()
        self._run_dir_trouble = ""
        self._map_lock = store.map_dir / "lock"
        self._map_lock_inode = self._map_lock.stat().st_ino
        self._shards: list[Child] = []
        self._children.add(self._specs.exporter())
        if setup is not None:
            for engine in self._specs.engine(setup):
                if (running := store.engine.hand_over()) is not None:
                    engine.adopt_process(running, time.monotonic())
                self._children.add(engine)
            self._children.add(self._specs.order(setup))
        if settings.only is None:
            self._shards = [self._children.add(shard) for shard in self._specs.shards()]
            self._children.add(self._specs.gateway())
            self._children.add(self._specs.web())

    # The loop.

    def run(self) -> None:
        """Serve until a signal asks to stop. Raises `Failure`, `CannotStart` or `StoreError` if the server must end."""
        slow_start = Every(SLOW_START_S, due_at=time.monotonic() + SLOW_START_S)
        while not self._signals.stops:
            self._check_everything()
            if self._signals.take_reload():
                self._reload_tokens()
            if not self._is_announced and self._children.all_up() and self._is_answering():
                self._is_announced = True
                self._announce_ready()
            if not self._is_announced and not self._is_stopped and slow_start.is_due(time.monotonic()):
                missing = [child.name for child in self._children if not child.up]
                log.warning("still waiting for: %s", ", ".join(missing) or "an answer over HTTP")
            self._signals.wait_for_signal(TURN_S)

    def _check_everything(self) -> None:
        """Make one pass over directories, children, log and snapshots."""
        now = time.monotonic()
        watching = self._watch_interval.is_due(now)
        if watching:  # before the children: without these directories they would be restarted in vain
            self._require_directories()
            self._restore_run_dir()
        self._children.reap_and_start(now)
        self._publish_restarts()
        self._heed_final_statuses()
        if self._board.log.broken:
            raise Failure(
                "the log could not be flushed to the disk, so no further write may be acknowledged: see the kernel's "
                "log for the disk's error; a restart checks the log"
            )
        self._store.raise_failure()
        self._scarcity.attempt("starting a snapshot", lambda: self._manage_snapshots(now))
        if watching:
            self._store.watch_clock()
            self._report_new_workers()
            self._scarcity.attempt("the check for stalled processes", lambda: self._kill_culprits(now))

    def _heed_final_statuses(self) -> None:
        """Say once that a shard of a cluster has stopped for good. Raises `BeginsAnew`."""
        if self._settings.only is not None and self._store.must_begin_anew():  # its shards are not our children
            raise BeginsAnew
        for shard in self._shards:
            if shard.wanted or self._is_stopped:
                continue
            if shard.status == NEEDS_A_PEER:
                raise BeginsAnew
            self._is_stopped = True
            log.critical(
                "this machine has stopped: %s. Until it is started again it answers 503", self._board.read_stop()
            )

    def _report_new_workers(self) -> None:
        if self._is_announced and self._settings.only is None:  # else their own supervisor tells
            for kind, pid in self._new_workers.find_new():
                log.info("a new %s is up (pid %d)", kind, pid)

    def _kill_culprits(self, now: float) -> None:
        for culprit in self._watch.find_culprits(now):
            log.warning("killing pid %s: %s", culprit.pid, culprit.why)
            with contextlib.suppress(ProcessLookupError):
                os.kill(culprit.pid, signal.SIGKILL)

    def _require_directories(self) -> None:
        """Raise `Failure` if a directory that all processes of the store share was removed."""
        if self._board.is_over():
            raise Failure(
                f"the run directory {self._settings.run_dir} was removed, or the board in it, so processes can no "
                "longer find the store: start the server again; nothing is lost (--run-dir names another place)"
            )
        try:
            if self._map_lock.stat().st_ino == self._map_lock_inode:
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # does not prove that the directory is gone
            log.debug("cannot check %s: %s", self._map_lock, error)
            return
        raise Failure(
            f"the map directory {self._settings.map_dir} was removed, so no key can be read any more: start the "
            f"server again, {'in memory everything is lost' if self._settings.in_memory else 'nothing is lost'} "
            "(--map-dir names another place)"
        )

    def _restore_run_dir(self) -> None:
        """Restore files that were removed from the run directory, and replace the processes that still use a removed
        one: they and later processes would use different files. Raises `StoreError`."""
        try:
            lost, why = self._store.restore_run_dir(), ""
        except OSError as error:
            lost, why = set(), str(error)
        if why and why != self._run_dir_trouble:
            log.warning("cannot restore what was removed from the run directory, will retry: %s", why)
        self._run_dir_trouble = why
        for name in sorted(lost):
            log.warning("%s was removed from the run directory, or replaced, and has been restored", name)
        if lost & {last_use.NAME, cuts.FILE, "metrics"}:
            self._replace_web_workers("they use a file that was removed")
        if last_use.NAME in lost:
            log.info("replacing the shards: they use a file that was removed")
            for shard in self._shards:
                shard.send_signal(signal.SIGTERM)

    def _publish_restarts(self) -> None:
        board, restarts = self._board, self._children.restarts
        board.log.restarts = restarts.total()
        for row, child in zip(board.shards, self._shards, strict=False):
            row.given_up, row.restarts = int(child.given_up or child.status in child.final), restarts[child.name]
        for name in board.exporter.OTHERS:
            board.exporter.publish_restarts(name, restarts[name])

    def _reload_tokens(self) -> None:
        """Read the tokens again and replace the web workers; the old ones finish their requests. Feeds stay open."""
        self._restore_run_dir()  # a new worker could not start where it is damaged
        self._store.read_tokens_again()
        self._replace_web_workers("SIGHUP")

    def _replace_web_workers(self, why: str) -> None:
        """Start new web workers; the old ones finish their requests."""
        log.info("replacing the web workers: %s", why)
        for child in self._children:
            if child.stage == WEB:
                child.send_signal(signal.SIGHUP)

    def _is_answering(self) -> bool:
        """Return whether /metrics and REST answer real requests."""
        if fetch_status(self._listeners.metrics, "/metrics") not in (200, 401):  # it may need a token
            return False
        return self._listeners.rest is None or fetch_status(self._listeners.rest, "/health/ready") == 200

    def _announce_ready(self) -> None:
        self._new_workers.find_new()
        rest = _url_address(self._listeners.rest)
        where = f" at http://{rest}" if rest else ""
        log.info(
            "kvserver %s is ready%s, %.1f s after its start", __version__, where, time.monotonic() - self._started_at
        )
        banner.print_banner(
            self._settings,
            map_dir=self._store.map_dir,
            rest=rest,
            feed=_url_address(self._listeners.feed),
            metrics=listening.url_address(self._listeners.metrics),
        )
        notify_systemd("READY=1")

    # Snapshots.

    def _is_snapshot(self, pid: int) -> bool:
        return self._snapshot is not None and self._snapshot.pid == pid

    def _manage_snapshots(self, now: float) -> None:
        if self._snapshot is None and self._store.snapshots.is_due(now):
            try:
                self._snapshot = self._children.start_once(
                    "snapshot", [sys.executable, "-m", "shards.maps.snapshot"], self._specs.child_environ(), now
                )
            except OSError as error:
                log.warning("cannot start a snapshot: %s", error)
                self._store.snapshots.note_end(SPAWN_FAILED, now)
        elif self._snapshot is not None and self._snapshot.is_gone:
            self._store.snapshots.note_end(self._snapshot.status, now)
            self._children.drop_child(self._snapshot)
            self._snapshot = None

    # The end.

    def stop(self, orderly: bool = True) -> None:
        """Stop all children, and return when they are gone.

        Web workers stop first, so that requests are answered, then gateways, then shards.

        A second signal cuts the waiting short. Unless `orderly`, running requests are dropped; feeds are still closed
        properly.
        """
        notify_systemd("STOPPING=1")
        if orderly:
            log.info("stopping: %s", self._signals.why)
        self._drain_accept_queues(orderly)
        if not orderly:
            for child in self._children:
                child.wanted = False  # do not restart a child that dies in the meantime
        for listener in self._listeners.client_facing:
            listener.close()
        if self._snapshot is not None:
            self._snapshot.send_signal(signal.SIGKILL)
        self._stop_stage(WEB, self._settings.grace + 2.0 if orderly else FAILED_GRACE_S)
        self._stop_stage(GATEWAY, GATEWAY_GRACE_S)
        self._stop_stage(SHARDS, SHARD_GRACE_S, hurry=False)
        self._stop_stage(ORDER, ENGINE_GRACE_S)
        self._stop_stage(ENGINE, ENGINE_GRACE_S)
        self._listeners.metrics.close()

    def _drain_accept_queues(self, orderly: bool) -> None:
        """Refuse new connections and wait until the workers have accepted the queued ones: closing would reset them."""
        listeners = self._listeners.client_facing
        for listener in listeners:
            listening.drop_new_connections(listener)
        now = quiet_since = time.monotonic()
        give_up_at = now + LAST_CONNECTIONS_S if orderly and listeners else 0.0
        while now < give_up_at and now - quiet_since < QUIET_S and self._signals.stops < 2:
            with contextlib.suppress(CannotStart):
                self._children.reap_and_start(now)
            self._signals.wait_for_signal(STOP_TURN_S)
            now = time.monotonic()
            if any(listening.count_unaccepted(listener) for listener in listeners):
                quiet_since = now

    def _stop_stage(self, stage: int, patience_s: float, hurry: bool = True) -> None:
        self._children.stop_stage(stage, signal.SIGTERM)
        began = time.monotonic()
        while not self._children.is_stage_gone(stage):
            now = time.monotonic()
            in_a_hurry = hurry and self._signals.stops > 1
            self._children.kill_late(stage, now - began, 0.0 if in_a_hurry else patience_s)
            with contextlib.suppress(CannotStart):
                self._children.reap_and_start(now)
            self._signals.wait_for_signal(STOP_TURN_S)


def _url_address(listener: socket.socket | None) -> str | None:
    return None if listener is None else listening.url_address(listener)


def fetch_status(listener: socket.socket, path: str) -> int | None:
    """Return the status of a GET of `path` at our own socket; None without an answer within a second."""
    host, port = listener.getsockname()[:2]
    # A socket bound to all addresses answers at the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            return response.status
    except (OSError, http.client.HTTPException, LookupError):  # LookupError: loading a codec needs a descriptor
        return None
    finally:
        connection.close()


def raise_open_files() -> None:
    """Raise the limit of open files, for this process and its children, to the hard limit: each client needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _exit_at_once(*_: object) -> None:
    raise SystemExit(0)


def run_server(settings: ServerSettings) -> int:
    """Run the server until it is stopped, anew if its store has to be replaced.

    Returns the exit status: 0, or 1 after a message on standard error.
    """
    configure_logging(settings.log_level, "kvserver", settings.log_format)
    if platform.machine() not in TESTED:
        log.warning("kvserver is not tested on this processor type (%s)", platform.machine())
    for sentence in ignored_variables(ServerSettings):
        log.warning("%s", sentence)
    # Until the store is up, exit at once on a signal: recovery may be interrupted at any point.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_at_once)
    with_terminal = ends_with_terminal()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if settings.only is None:
            listening.refuse_open_access(settings, settings.tokens is not None)
        setup = setup_of(settings)
        raise_open_files()
        become_subreaper()
        while True:
            listeners = Listeners(settings)
            try:
                if setup is not None and setup.own is not None:
                    require_ports(setup.own, settings)
                return _serve_store(settings, listeners, with_terminal, setup)
            except BeginsAnew:
                log.debug("the store is replaced")
            finally:
                listeners.close()
    except (SettingError, listening.ListenError, StoreError, BoardError) as error:
        report_fatal(str(error))
        return 1


def _serve_store(
    settings: ServerSettings, listeners: Listeners, with_terminal: bool, setup: ClusterSetup | None
) -> int:
    with Store(settings) as store:
        listeners.listen()
        signals = Signals(with_terminal)
        try:
            try:
                supervisor = Supervisor(store.settings, listeners, store, signals, setup)
            except OSError as error:  # of the files that a cluster needs
                raise StoreError(explain_os_error(error, store.settings.data_dir)) from error
            store.start_threads()
            try:
                supervisor.run()
            except BeginsAnew:
                supervisor.stop(orderly=False)
                store.close_log()
                raise
            except (Failure, CannotStart, StoreError) as failure:
                report_fatal(str(failure))
                supervisor.stop(orderly=False)
                return 1
            supervisor.stop()
            store.close_log()
            log.info("stopped")
        finally:
            signals.close()
    return 0
