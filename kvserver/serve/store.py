"""The store under its supervisor: found or made, recovered, shown on a board, kept in order, closed.

The order is what makes it safe: nobody else serves this data directory (lock), nobody of an earlier run still writes
(locks of append, flush and every shard), then the log's end is found and made durable, then the run begins with a START
record, and only then is there a board that others can open.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec

from kvserver import __version__
from kvserver.access import tokenfile
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import publish
from kvserver.serve.run_dir import RunDir, RunDirError
from kvserver.serve.watch.clock import ClockWatch, is_away, out_of_range
from kvserver.serve.watch.housekeeping import Housekeeping
from kvserver.serve.watch.tokens import TokenWatch
from kvserver.settings import ServerSettings
from shards.backup import archive, restore
from shards.backup.sandbox import Sandbox
from shards.files import locks
from shards.host.board import DRIFT_MS, Board, BoardError, Facts, ProcessRow
from shards.keys.last_use import make_stamps
from shards.log.appender import LogAppender
from shards.log.epoch import boot_id, first_revision, first_revision_of_run, new_epoch, reason_for_new_epoch
from shards.log.files import SEGMENT, LogError
from shards.log.manifest import FORMAT, Manifest, ManifestError, NoManifest
from shards.log.records import Start
from shards.log.recovery import Damaged, Recovered, StillRunning, begin_history, last_board, quiesce, recover_log
from shards.log.segments import Segments
from shards.maps.build import discard_maps, kept_applied
from shards.maps.directory import choose_map_dir
from shards.maps.directory_content import MapDirError
from shards.wire.clock import Now, counted_ms, resumed
from shards.wire.errors import NO_SPACE, what_helps

log = logging.getLogger(__name__)

STORE_WAIT_S, WAIT_S = 2.0, 5.0
"""How long to wait for a supervisor that is dying, and for its children, which may be in the middle of a write."""

FOREIGN_GRACE_S = 10.0
"""How long processes that were started by somebody else may take to see that the run is over."""

SNAPSHOT_RETRY_S, FULL_RETRY_S = 60.0, 5.0
"""Until a snapshot that failed is tried again: while the disk has space for the log, and while writes wait for it."""

IN_MEMORY_RETENTION = 64 << 20

_OURS = {"manifest", "manifest.new", "log", "locks", "snapshots", "maps", "lost+found"}


class StoreError(Exception):
    """The store cannot be brought up, or cannot go on; the message says why and what to do."""


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
)


class Store:
    """A store that is up: locked, recovered, with a board for its processes. A context manager.

    Attributes:
        settings: as given, with every directory resolved and absolute.
        board: installed.
        map_dir, metrics_dir: where they are.
    """

    def __init__(self, given: ServerSettings) -> None:
        """Bring it up. Makes directories and files; may take as long as reading the log does. Raises `StoreError`."""
        self._given, self._finished, self._snapshot_failed_at = given, False, float("-inf")
        self._data_dir = None if given.in_memory else given.data_dir.absolute()
        with ExitStack() as stack, Sandbox() as self._apart:
            try:
                tokens = None if given.tokens is None else tokenfile.read(given.tokens)
                self._take_directories(stack)
                with quiesce(self._lock_dir, WAIT_S):
                    start, tail, next_revision, now = self._begin()
                    self.board = self._make_board(start, next_revision, now)
                    stack.callback(self.board.close)
                    segments = Segments(self.board)
                    segments.adopt_history(tail, next_revision)
                    self._housekeeping = Housekeeping(self.board, segments, self._retention, self._manifest.replay_lsn)
                    discard_maps(self.board, self._apart.read_meta)
                    self._token_watch = None
                    if tokens is not None and self.settings.tokens is not None:
                        publish(self.board, tokens)  # before anybody can see a board without
                        self._token_watch = TokenWatch(self.board, self.settings.tokens, tokens)
                    self.board.install()
            except OSError as error:
                raise StoreError(explain(error, self._data_dir)) from error
            except _EXPECTED as error:
                raise StoreError(str(error)) from error
            self._stack = stack.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads, remove what only the living need, and give the locks up."""
        self._housekeeping.stop()
        if self._token_watch is not None:
            self._token_watch.stop()
        if self._finished or self._data_dir is None:
            try:
                self._run_dir.clean()  # else the board stays: recovery looks at what it says of the last flush
            except OSError as error:
                log.warning("the run directory %s is not tidied up: %s", self._run_dir.path, error)
        self._stack.close()

    # Coming up.

    def _take_directories(self, stack: ExitStack) -> None:
        given, data_dir = self._given, self._data_dir
        if data_dir is not None:
            make_data_dir(data_dir)
            stack.callback(os.close, take_store_lock(data_dir))
        self._run_dir = run_dir_of(given)
        stack.callback(self._run_dir.close)
        self._manifest = load_manifest(data_dir)
        maps = choose_map_dir(given.map_dir, data_dir, self._manifest.store, self._manifest.snapshot_bytes)
        stack.callback(maps.leave if data_dir is not None else maps.remove)
        if maps.notice:
            log.warning("%s", maps.notice)
        self.map_dir, self.metrics_dir = maps.path, self._run_dir.metrics
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
    def _retention(self) -> int:
        return IN_MEMORY_RETENTION if self._given.in_memory else self._given.wal_retention

    def _begin(self) -> tuple[Start, int, int, Now]:
        """Find the log's end and begin a run there: its START, the new tail and next revision, and when it began."""
        boot = boot_id()
        if self._data_dir is not None:
            self._manifest = Manifest.load(
                self._data_dir
            )  # a snapshot of the last run may have been finished meanwhile
        found = self._recover(boot)
        now, offset_ms, reset_ms = self._time(found, boot)
        epoch, next_revision = self._epoch(found, boot, now.wall_ms)
        start = Start(
            store=self._manifest.store,
            epoch=epoch,
            boot_id=boot,
            sync=self._given.sync,
            version=__version__,
            clock_offset_ms=offset_ms,
            reset_ms=reset_ms,
        )
        tail, next_revision = begin_history(self._log_dir, self._manifest.secret, start, found.tail, next_revision, now)
        self._save_manifest(start, tail, next_revision, now)
        return start, tail, next_revision, now

    def _time(self, found: Recovered, boot: str) -> tuple[Now, int, int | None]:
        """This moment, what makes steady time of CLOCK_BOOTTIME, and by how much that is moved now, if it is."""
        clock_ms, boottime_ms, last = time.time_ns() // 1_000_000, _boottime_ms(), found.last_start
        wall_ms = counted_ms(clock_ms)
        offset_ms = resumed(
            found.last, wall_ms, boottime_ms, last.clock_offset_ms if last and last.boot_id == boot else None
        )
        now, reset_ms = Now(wall_ms, boottime_ms + offset_ms), None
        if abs(found.last.behind_ms - now.behind_ms) <= DRIFT_MS:  # so that lifetimes are told to end when they were
            now = Now(now.steady_ms - found.last.behind_ms, now.steady_ms)
        if self._given.clock_reset and is_away(found.last, now):
            log.warning("the clock is taken as right: what was written when it was ahead counts as written now")
            reset_ms = -now.behind_ms
            now, offset_ms = Now(wall_ms, wall_ms), offset_ms + reset_ms
            self._clock = ClockWatch(now, now)
        else:
            self._clock = ClockWatch(found.last, now)
        if wall_ms != clock_ms:
            log.warning("%s", out_of_range(clock_ms))
        if (message := self._clock.at_start()) is not None:
            log.warning("%s", message)
        return now, offset_ms, reset_ms

    def _recover(self, boot: str) -> Recovered:
        manifest = self._manifest
        old = last_board(self._run_dir.path / "board", manifest, boot)
        try:
            return recover_log(
                self._log_dir,
                manifest.secret,
                manifest.replay_lsn,
                manifest.replay_revision,
                last_start=manifest.last_start,
                last=manifest.end_now,
                end_lsn=manifest.end_lsn,
                old_board=old,
                applied=kept_applied(self.map_dir, manifest.store, boot, manifest.epoch, self._apart.read_meta),
            )
        finally:
            if old is not None:
                old.close()

    def _epoch(self, found: Recovered, boot: str, now_ms: int) -> tuple[str, int]:
        """The name of the history that the run goes on with, or begins, and its next revision."""
        reason = reason_for_new_epoch(
            found.last_start,
            boot,
            stopped_clean=found.stopped_clean,
            in_memory=self._given.in_memory,
            copied=self._is_copy(),
            repaired=found.repaired,
            asked=self._manifest.new_history,
        )
        last_known = max(found.next_revision - 1, self._manifest.end_revision)
        if reason is None and found.last_start is not None:
            return found.last_start.epoch, first_revision_of_run(last_known, now_ms)
        if found.last_start is not None:
            log.warning("a new history begins, and readers of the feed must start anew: %s", reason)
        return new_epoch(), first_revision(last_known, now_ms)

    def _is_copy(self) -> bool:
        # Not by device: its number may be another after each boot.
        return self._data_dir is not None and self._data_dir.stat().st_ino != self._manifest.inode

    def _save_manifest(self, start: Start, tail: int, next_revision: int, now: Now) -> None:
        """Put the run on record, before any snapshot can put its START out of the log's reach."""
        self._manifest = msgspec.structs.replace(
            self._manifest,
            epoch=start.epoch,
            last_start=start,
            end_lsn=tail,
            end_revision=next_revision - 1,
            end_wall_ms=now.wall_ms,
            end_steady_ms=now.steady_ms,
            new_history="",
        )
        if self._data_dir is not None:
            status = self._data_dir.stat()
            self._manifest = msgspec.structs.replace(self._manifest, device=status.st_dev, inode=status.st_ino)
            self._manifest.save(self._data_dir)

    def _make_board(self, start: Start, first_revision: int, now: Now) -> Board:
        assert start.clock_offset_ms is not None
        facts = Facts(
            version=__version__,
            store=start.store,
            epoch=start.epoch,
            boot_id=start.boot_id,
            secret=self._manifest.secret,
            shards=self._given.shards,
            sync=start.sync,
            in_memory=self._given.in_memory,
            data_dir=str(self.settings.data_dir),
            lock_dir=str(self._lock_dir),
            log_dir=str(self._log_dir),
            map_dir=str(self.map_dir),
            max_value=self._given.max_value,
            max_batch=self._given.max_batch,
            max_memory=self._given.max_memory or 0,
            on_full=self._given.on_full,
            tokens="" if self.settings.tokens is None else str(self.settings.tokens),
            clock_offset_ms=start.clock_offset_ms,
            supervisor_pid=os.getpid(),
            started_ms=now.wall_ms,
            started_steady_ms=now.steady_ms,
            first_revision=first_revision,
        )
        path = self._run_dir.path / "board"
        try:
            if facts.on_full == "evict":
                make_stamps(self._run_dir.path, facts.started_steady_ms)
            return Board.create(path, facts)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    # While it is up.

    def start_threads(self) -> None:
        """Keep segments ready, trim, mark, follow the file of tokens: from now on."""
        self._housekeeping.start()
        if self._token_watch is not None:
            self._token_watch.start()

    def read_tokens_again(self) -> None:
        """Have the file of tokens looked at now, if there is one, and what is wrong with it said again."""
        if self._token_watch is not None:
            self._token_watch.look_now()

    def watch_clock(self) -> None:
        """Say so if the clock was set. To be called every few seconds."""
        message = self._clock.observe(self.board.now())
        if message is not None:
            log.warning("%s", message)

    def look_after_run_dir(self) -> set[str]:
        """See `RunDir.look_after`. Raises `StoreError`, `OSError`."""
        try:
            return self._run_dir.look_after(self.board)
        except RunDirError as error:
            raise StoreError(str(error)) from None

    def raise_failure(self) -> None:
        """Raise `StoreError` if a thread of the store has failed."""
        if self._housekeeping.failure is not None:
            raise StoreError(f"the log cannot be kept in order: {self._housekeeping.failure}")

    def wants_snapshot(self, now: float) -> bool:
        """Whether a restart would have to replay so much that a snapshot pays, or the disk is full and a snapshot lets
        the log be trimmed. `now`: time.monotonic()."""
        words, shards = self.board.log, self.board.shards
        retry_s = FULL_RETRY_S if words.full else SNAPSHOT_RETRY_S
        if self._data_dir is None or now < self._snapshot_failed_at + retry_s:
            return False
        if words.full:
            wanted = self._snapshot_makes_room()
        else:
            maps = sum(row.read_figures()["map_bytes"] for row in shards)
            wanted = self.board.history()[0] - words.snapshot > snapshot_after(maps)
        return wanted and all(row.state == ProcessRow.UP and row.map_generation for row in shards)

    def _snapshot_makes_room(self) -> bool:
        """Whether a snapshot would let a segment be trimmed, and may fit: it takes at least its keys and values."""
        assert self._data_dir is not None
        if self.board.watermark()[0] // SEGMENT <= self.board.log.snapshot // SEGMENT:
            return False
        status = os.statvfs(self._data_dir)
        return sum(row.read_figures()["bytes"] for row in self.board.shards) < status.f_bavail * status.f_frsize

    def snapshot_ended(self, status: int, now: float) -> None:
        """Take note of a snapshot's end: the log may be trimmed, or it is tried again later."""
        if status != 0:
            log.warning("a snapshot failed with exit status %d; it will be tried again", status)
            self._snapshot_failed_at = now
            return
        assert self._data_dir is not None
        try:
            self._manifest = Manifest.load(self._data_dir)
        except ManifestError as error:
            log.warning("a snapshot was taken, but nothing is trimmed by it, and another one will be taken: %s", error)
            self._snapshot_failed_at = now
            return
        self._housekeeping.snapshot_taken(self._manifest.replay_lsn)

    # Going down.

    def finish(self) -> None:
        """End the run in order: nobody appends any more, everything is flushed, the log says so.

        Processes that were started by somebody else go when they see that the board is gone. Without this, a start
        finds everything as after a crash, which takes longer but loses nothing.
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
                # From now on this end is known: without it a lost tail would look like a shorter history.
                manifest = Manifest.load(self._data_dir)
                msgspec.structs.replace(
                    manifest,
                    end_lsn=stop.end,
                    end_revision=stop.revision - 1,
                    end_wall_ms=stop.now.wall_ms,
                    end_steady_ms=stop.now.steady_ms,
                ).save(self._data_dir)
        except (LogError, StillRunning, ManifestError, OSError) as error:
            log.warning("the log could not be closed: %s", error)
            return
        self._finished = True


def snapshot_after(map_bytes: int) -> int:
    """How many bytes of log since the last snapshot make a new one worth while, if maps take `map_bytes`. Pure."""
    return min(max(256 << 20, map_bytes // 4), 2 << 30)


def make_data_dir(path: Path) -> None:
    """Make the data directory, or see that what is there may be one. Raises `StoreError`, `OSError`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {entry.name for entry in path.iterdir()}
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


def explain(error: OSError, data_dir: Path | None) -> str:
    """Say what file or directory `error` is about and what to do; `data_dir` if it does not name one."""
    path = Path(error.filename or data_dir or "the map directory")
    ours = data_dir is not None and (path.is_relative_to(data_dir) or data_dir.is_relative_to(path))
    option = " with --data-dir" if ours else ""
    if error.errno in NO_SPACE:
        return f"there is no space left for {path}: free some, or name a directory on another disk{option}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} cannot be a directory, a file is in its place: name another{option}"
    return f"{path} cannot be used ({error.strerror}): {what_helps(error)}, or name another directory{option}"


def take_store_lock(data_dir: Path, wait_s: float = STORE_WAIT_S) -> int:
    """Hold the lock of the store for life; its descriptor. Raises `StoreError` that names the holder."""
    path = data_dir / "locks" / "store"
    fd = locks.open_lock(path)
    if not locks.acquire_for_life(fd, timeout_s=wait_s):
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreError(
            f"the store in {data_dir} is served by another process" + (f" (pid {holder})" if holder else "")
        )
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # locks for life do not say who holds them
    return fd


def run_dir_of(settings: ServerSettings) -> RunDir:
    """The run directory that the settings ask for, taken. Raises `RunDirError`, `SettingError`."""
    if settings.run_dir is None and settings.in_memory:
        return RunDir.of_a_store_in_memory()
    return RunDir(settings.resolved_run_dir().absolute(), STORE_WAIT_S)


def load_manifest(data_dir: Path | None) -> Manifest:
    """The manifest of the store in `data_dir`, made and saved for a new one; of a store in memory, of no file."""
    if data_dir is None:
        return Manifest(format=FORMAT, store=secrets.token_hex(16), secret=secrets.randbits(64), device=0, inode=0)
    try:
        return Manifest.load(data_dir)
    except NoManifest:
        manifest = Manifest.create(data_dir)
        manifest.save(data_dir)
        return manifest


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
