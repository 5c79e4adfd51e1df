"""The store under its supervisor: found or created, recovered, published on a board, maintained, closed.

The order makes it safe. First the lock on the data directory shows that no other server uses it; then the locks of
append, flush and every shard show that no process of an earlier run still writes. Then `bringup` finds the log's end,
makes it durable and begins the run with a START record. Only then does a board exist that other processes can open.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from kvserver import __version__
from kvserver.access import tokenfile
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import publish_tokens
from kvserver.serve.bringup import Bringup, Run
from kvserver.serve.cluster import fetching
from kvserver.serve.cluster.files import ClusterError
from kvserver.serve.cluster.first_engine import FirstEngine
from kvserver.serve.joining import CannotJoin, Origin, find_origin
from kvserver.serve.run_dir import RunDir, RunDirError
from kvserver.serve.watch.housekeeping import Housekeeping
from kvserver.serve.watch.snapshots import SnapshotSchedule
from kvserver.serve.watch.tokens import TokenWatch
from kvserver.settings import ServerSettings
from shards.backup import archive, restore
from shards.backup.sandbox import Sandbox
from shards.files import locks
from shards.host.board import Board, BoardError, Facts
from shards.keys.last_use import create_last_use_table
from shards.log.appender import LogAppender
from shards.log.files import LogError
from shards.log.manifest import FORMAT, Manifest, ManifestError, NoManifest
from shards.log.recovery import Damaged, StillRunning, quiesce
from shards.log.segments import Segments
from shards.maps.build import discard_all_maps, discard_maps
from shards.maps.directory.choose import choose_map_dir
from shards.maps.directory.ownership import MapDirError
from shards.maps.layout import MetaReader
from shards.wire.errors import NO_SPACE, what_helps

log = logging.getLogger(__name__)

STORE_WAIT_S, WAIT_S = 2.0, 5.0
"""Seconds to wait for a dying supervisor, and for its children, which may be in the middle of a write."""

FOREIGN_GRACE_S = 10.0
"""Seconds that processes not started by this supervisor may take to notice that the run is over."""

IN_MEMORY_RETENTION = 64 << 20

_OURS = {
    *("manifest", "manifest.new", "cluster", "cluster.new", "log", "locks", "snapshots", "maps", "engine"),
    *("donation", fetching.DIRECTORY),
    "lost+found",
}


class StoreError(Exception):
    """The store cannot start or cannot continue; the message says why and what to do."""


_EXPECTED = (
    RunDirError,
    ManifestError,
    MapDirError,
    Damaged,
    StillRunning,
    BoardError,
    LogError,
    OverflowError,
    TokenFileError,
    CannotJoin,
    ClusterError,
)


class Store:
    """A store that is up: locked, recovered, with a board for its processes. A context manager.

    Attributes:
        settings: as given, with absolute directories.
        board: installed, so other processes can open it.
        map_dir: the map directory in use.
        snapshots: decides when a snapshot is due.
        engine: of a machine of a cluster, if it had to run before the store could be made.
    """

    def __init__(self, given: ServerSettings) -> None:
        """Bring the store up. Creates directories and files; takes as long as reading the log. Raises `StoreError`."""
        self._given, self._finished = given, False
        self._data_dir = None if given.in_memory else given.data_dir.absolute()
        with ExitStack() as stack, Sandbox() as apart:
            self.engine = stack.enter_context(FirstEngine())
            try:
                tokens = None if given.tokens is None else tokenfile.read_file(given.tokens)
                self._take_directories(stack)
                with quiesce(self._lock_dir, WAIT_S):
                    if not self._manifest.epoch:  # new or restored: maps are of another log, whatever they say
                        discard_all_maps(self.map_dir)
                    run = self._bringup(apart.read_meta).begin_run()
                    self._clock = run.clock
                    self.board = self._make_board(run)
                    stack.callback(self.board.close)
                    if self._origin is not None:
                        self.board.show(*run.shown)
                    segments = Segments(self.board)
                    segments.adopt_history(run.tail, run.next_revision)
                    self._housekeeping = Housekeeping(
                        self.board, segments, self._retention_bytes, run.manifest.replay_lsn
                    )
                    self.snapshots = SnapshotSchedule(self.board, self._data_dir, self._housekeeping)
                    discard_maps(self.board, apart.read_meta)
                    self._token_watch = None
                    if tokens is not None and self.settings.tokens is not None:
                        # Before the board is installed: no process may see a board without tokens.
                        publish_tokens(self.board, tokens)
                        self._token_watch = TokenWatch(self.board, self.settings.tokens, tokens)
                    self.board.note_stop("")
                    self.board.install()
            except OSError as error:
                raise StoreError(explain_os_error(error, self._data_dir)) from error
            except _EXPECTED as error:
                raise StoreError(str(error)) from error
            self._stack = stack.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads, empty the run directory if the run ended cleanly, and release the locks."""
        self._housekeeping.stop()
        if self._token_watch is not None:
            self._token_watch.stop()
        if self._finished or self._data_dir is None:
            try:
                self._run_dir.remove_contents()  # otherwise keep the board: recovery reads from it what was flushed
            except OSError as error:
                log.warning("cannot clean up the run directory %s: %s", self._run_dir.path, error)
        self._stack.close()

    # Coming up.

    def _take_directories(self, stack: ExitStack) -> None:
        given, data_dir = self._given, self._data_dir
        if data_dir is not None:
            make_data_dir(data_dir)
            stack.callback(os.close, take_store_lock(data_dir))
        self._run_dir = run_dir_of(given)
        stack.callback(self._run_dir.close)
        self._origin = find_origin(replace(given, run_dir=self._run_dir.path), data_dir, self.engine)
        self._manifest = load_manifest(data_dir, self._origin)
        maps = choose_map_dir(given.map_dir, data_dir, self._manifest.store, self._manifest.snapshot_bytes)
        stack.callback(maps.leave if data_dir is not None else maps.remove)
        if maps.notice:
            log.warning("%s", maps.notice)
        self.map_dir = maps.path
        home = data_dir or maps.path
        self._lock_dir, self._log_dir = home / "locks", home / "log"
        for directory in (self._lock_dir, self._log_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
        self.settings = replace(
            given,
            data_dir=given.data_dir.absolute(),
            run_dir=self._run_dir.path,
            map_dir=maps.path,
            tokens=None if given.tokens is None else given.tokens.absolute(),
        )

    @property
    def metrics_dir(self) -> Path:
        """Directory of the counter files of web workers and gateways."""
        return self._run_dir.metrics

    @property
    def _retention_bytes(self) -> int:
        return IN_MEMORY_RETENTION if self._given.in_memory else self._given.wal_retention

    def _bringup(self, read_meta: MetaReader) -> Bringup:
        return Bringup(
            self._given,
            self._data_dir,
            self._manifest,
            self._run_dir.path / "board",
            self._log_dir,
            self.map_dir,
            read_meta,
            self._origin,
        )

    def _make_board(self, run: Run) -> Board:
        start, now, origin = run.start, run.now, self._origin
        max_value, max_memory = self._given.max_value, self._given.max_memory or 0
        if origin is not None:  # decisions depend on them, so they are the same on all machines
            max_value, max_memory = origin.limits.get("max_value", max_value), origin.limits.get("max_memory", 0)
        assert start.clock_offset_ms is not None
        facts = Facts(
            version=__version__,
            store=start.store,
            epoch=start.epoch,
            boot_id=start.boot_id,
            secret=run.manifest.secret,
            shards=self._given.shards,
            sync=start.sync,
            in_memory=self._given.in_memory,
            data_dir=str(self.settings.data_dir),
            lock_dir=str(self._lock_dir),
            log_dir=str(self._log_dir),
            map_dir=str(self.map_dir),
            max_value=max_value,
            max_batch=self._given.max_batch,
            max_memory=max_memory,
            on_full=self._given.on_full,
            tokens="" if self.settings.tokens is None else str(self.settings.tokens),
            clock_offset_ms=start.clock_offset_ms,
            supervisor_pid=os.getpid(),
            started_ms=now.wall_ms,
            started_steady_ms=now.steady_ms,
            first_revision=run.next_revision,
            node=self._given.node or "",
            cluster=self._given.cluster or "",
            reads=self._given.reads,
            nodes="" if origin is None else ",".join(origin.nodes),
            order_name="" if origin is None else origin.order,
            order_created_ns=0 if origin is None else origin.created_ns,
            order_base=0 if origin is None else origin.base,
        )
        path = self._run_dir.path / "board"
        try:
            if facts.on_full == "evict":
                create_last_use_table(self._run_dir.path, facts.started_steady_ms)
            return Board.create(path, facts)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    # While it is up.

    def start_threads(self) -> None:
        """Start housekeeping and the watch on the token file."""
        self._housekeeping.start()
        if self._token_watch is not None:
            self._token_watch.start()

    def read_tokens_again(self) -> None:
        """Check the token file now, if there is one, and report any error in it again."""
        if self._token_watch is not None:
            self._token_watch.check_now()

    def watch_clock(self) -> None:
        """Log a warning if the clock was set. Call it every few seconds."""
        message = self._clock.step_message(self.board.now())
        if message is not None:
            log.warning("%s", message)

    def restore_run_dir(self) -> set[str]:
        """Call `RunDir.restore_missing` and return its result. Raises `StoreError`, `OSError`."""
        try:
            return self._run_dir.restore_missing(self.board)
        except RunDirError as error:
            raise StoreError(str(error)) from None

    def raise_failure(self) -> None:
        """Raise `StoreError` if a housekeeping thread has failed."""
        if self._housekeeping.failure is not None:
            raise StoreError(f"log maintenance failed: {self._housekeeping.failure}")

    # Going down.

    def must_begin_anew(self) -> bool:
        """Whether a shard of a cluster has found that the store must be replaced by that of another machine."""
        return self._data_dir is not None and (self._data_dir / fetching.DIRECTORY).exists()

    def close_log(self) -> None:
        """End the run cleanly: wait until no process appends, flush everything, and append a STOP record.

        Processes started by others exit when they see that the board is gone. Without this call the next start recovers
        as after a crash, which takes longer but loses nothing.
        """
        self._housekeeping.stop_marking()
        self.board.path.unlink(missing_ok=True)
        try:
            with quiesce(self._lock_dir, FOREIGN_GRACE_S):
                pass
            closing = LogAppender(self.board, None)
            try:
                stop = closing.append_stop(self.board.now())
            finally:
                closing.close()
            if self._data_dir is not None:
                # Record the end, so that a lost tail cannot pass for a shorter history.
                manifest = Manifest.load(self._data_dir)
                msgspec.structs.replace(
                    manifest,
                    end_lsn=stop.end,
                    end_revision=stop.revision - 1,
                    end_wall_ms=stop.now.wall_ms,
                    end_steady_ms=stop.now.steady_ms,
                ).save(self._data_dir)
        except (LogError, StillRunning, ManifestError, OSError) as error:
            log.warning("cannot close the log: %s", error)
            return
        self._finished = True


def make_data_dir(path: Path) -> None:
    """Create the data directory, or check that an existing one is usable. Raises `StoreError`, `OSError`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {entry.name for entry in path.iterdir()}
    if fetching.DIRECTORY in names:
        (path / "locks").mkdir(mode=0o700, exist_ok=True)
        return  # what is left of a store is replaced
    if restore.UNFINISHED in names:
        raise StoreError(f"a restore into {path} was not finished: repeat it (`kvserver restore`)")
    if archive.NAME in names or archive.UNFINISHED in names:
        raise StoreError(f"{path} is a backup: `kvserver restore {path}` makes a data directory of it")
    if "manifest" in names:
        (path / "locks").mkdir(mode=0o700, exist_ok=True)  # a backup need not have them
        return
    if any(name in names and any((path / name).iterdir()) for name in ("log", "snapshots")):
        raise StoreError(f"the manifest of the store in {path} is missing: restore the data directory from a backup")
    if names - _OURS:
        raise StoreError(
            f"{path} holds other files ({min(names - _OURS)}) and no store: name an empty directory, or a new one, "
            "with --data-dir"
        )
    (path / "locks").mkdir(mode=0o700, exist_ok=True)


def explain_os_error(error: OSError, data_dir: Path | None) -> str:
    """Return a message that names the file or directory of `error` and says what to do.

    `data_dir` is named if the error names no file.
    """
    path = Path(error.filename or data_dir or "the map directory")
    ours = data_dir is not None and (path.is_relative_to(data_dir) or data_dir.is_relative_to(path))
    option = " with --data-dir" if ours else ""
    if error.errno in NO_SPACE:
        return f"there is no space left for {path}: free some, or name a directory on another disk{option}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} cannot be a directory, a file is in its place: name another{option}"
    return f"{path} cannot be used ({error.strerror}): {what_helps(error)}, or name another directory{option}"


def take_store_lock(data_dir: Path, wait_s: float = STORE_WAIT_S) -> int:
    """Take the store's lock for the life of the process and return its descriptor.

    Raises `StoreError`, naming the holder, if the lock is not free within `wait_s` seconds.
    """
    path = data_dir / "locks" / "store"
    fd = locks.open_lock(path)
    if not locks.acquire_for_life(fd, timeout_s=wait_s):
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreError(
            f"the store in {data_dir} is served by another process" + (f" (pid {holder})" if holder else "")
        )
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # such a lock does not tell who holds it
    return fd


def run_dir_of(settings: ServerSettings) -> RunDir:
    """Take the run directory that the settings name. Raises `RunDirError`, `SettingError`."""
    if settings.run_dir is None and settings.in_memory:
        return RunDir.for_memory_store()
    return RunDir(settings.resolved_run_dir().absolute(), STORE_WAIT_S)


def load_manifest(data_dir: Path | None, origin: Origin | None = None) -> Manifest:
    """Load the manifest of the store in `data_dir`, or create and save one for a new store, of the cluster of `origin`.

    `data_dir`: None for a store in memory, whose manifest is never saved. Raises `ManifestError`, `OSError`.
    """
    store = secrets.token_hex(16) if origin is None else origin.store
    if data_dir is None:
        return Manifest(format=FORMAT, store=store, secret=secrets.randbits(64), device=0, inode=0)
    try:
        return Manifest.load(data_dir)
    except NoManifest:
        manifest = msgspec.structs.replace(Manifest.create(data_dir), store=store)
        manifest.save(data_dir)
        return manifest
