"""Takes backups: copies a store's last snapshot and the log since, with or without a running server.

No other process waits: the snapshot's files never change, and are opened before anything else, so that a newer snapshot
may remove them in the meantime; the log is pinned (see `pins`) and copied up to an end that was flushed, so a backup
has nothing that the store could lose. Everything is verified while it is copied.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from shards.backup.archive import CLUSTER, FORMAT, LOG, NAME, UNFINISHED, Archive, LogPart, Reach
from shards.backup.copies import BackupCopy, BackupError, DirectoryCopy, Report, StreamCopy
from shards.files import checksummed_json
from shards.files.disk import DISK
from shards.files.safe_files import open_regular
from shards.files.trusted_path import Care, Planted, require_private_directory, resolve_path, user_name
from shards.host.board import Board
from shards.log.appender import LogAppender
from shards.log.files import SEGMENT, segment_name
from shards.log.image import LogFold
from shards.log.manifest import SNAPSHOTS, Manifest, SnapshotFile
from shards.log.pins import pin_log
from shards.log.recovery import examine_log
from shards.wire.clock import counted_ms

_CHUNK = 1 << 20
_OURS = (LOG, SNAPSHOTS, CLUSTER, NAME, UNFINISHED)


class LogEnd(NamedTuple):
    """The end of a log, flushed or at rest: LSN, last revision, and the time at which that was so."""

    lsn: int
    revision: int
    time_ms: int


class BackupSource(Protocol):
    """A store to copy."""

    data_dir: Path

    def tail(self, manifest: Manifest) -> int:
        """Return about where the log ends."""

    def end(self, manifest: Manifest) -> LogEnd:
        """Return the end of the history, durable. Raises `LogError`, `Damaged`, `OSError`."""


class RunningStore:
    """A store with a running server."""

    def __init__(self, board: Board) -> None:
        self.data_dir, self._board = Path(board.facts.data_dir), board

    def tail(self, manifest: Manifest) -> int:
        """See `BackupSource`."""
        return self._board.history()[0]

    def end(self, manifest: Manifest) -> LogEnd:
        """See `BackupSource`. Flushes the log."""
        tail, following = self._board.history()
        now_ms = self._board.now_ms()
        flusher = LogAppender(self._board, None)
        try:
            flusher.flush(tail)
        finally:
            flusher.close()
        return LogEnd(tail, following - 1, now_ms)


class StoppedStore:
    """A store without a server: the caller holds its lock, and the log is at rest (see `recovery.quiesce`)."""

    def __init__(self, data_dir: Path, segment: int = SEGMENT) -> None:
        self.data_dir, self._segment = data_dir, segment
        self._end: LogEnd | None = None

    def tail(self, manifest: Manifest) -> int:
        """See `BackupSource`."""
        return self.end(manifest).lsn

    def end(self, manifest: Manifest) -> LogEnd:
        """See `BackupSource`. A torn tail is left out."""
        if self._end is None:
            found = examine_log(self.data_dir / "log", manifest, segment=self._segment)
            if found.damage:
                raise found.damage
            self._end = LogEnd(found.fold.lsn, found.fold.next_revision - 1, counted_ms(time.time_ns() // 1_000_000))
        return self._end


def back_up(
    source: BackupSource,
    target: Path,
    version: str,
    report: Report,
    *,
    segment: int = SEGMENT,
    within: bool = False,
) -> Archive:
    """Copy the store `source` to the directory `target`, which must be new, or empty and this user's; describe the
    result.

    `within`: `target` may lie in the data directory.

    Raises `BackupError`, `SnapshotError`, `LogError`, `ManifestError`, `NoPlace`, `Damaged`, `OSError`; then `target`
    is as it was before.
    """
    target = _see_that_it_is_ours(target)
    if not within:
        _see_that_it_is_apart(target, source.data_dir)
    with _new_target(target):
        return _copy_store(source, lambda secret: DirectoryCopy(target, secret, report), version, segment)


def stream_backup(
    source: BackupSource, stream: BinaryIO, version: str, report: Report, *, segment: int = SEGMENT
) -> Archive:
    """Write the store `source` to `stream` as a tar archive of what `back_up` puts into a directory; describe it.

    Raises what `back_up` does. The stream is incomplete then: what is unpacked of it is no backup.
    """
    return _copy_store(source, lambda secret: StreamCopy(stream, secret, report), version, segment)


def _copy_store(source: BackupSource, open_copy: Callable[[int], BackupCopy], version: str, segment: int) -> Archive:
    """Copy snapshot and log. `open_copy` is given the secret of the store."""
    with pin_log(source.data_dir / "locks") as held, contextlib.ExitStack() as stack:
        manifest, files = _open_snapshot(source.data_dir, stack)
        held.keep_from(manifest.replay_lsn)
        copy = open_copy(manifest.secret)
        stack.callback(copy.close)
        begin = manifest.replay_lsn - manifest.replay_lsn % segment
        copy.expect(manifest.snapshot_bytes + source.tail(manifest) - begin)
        for file, fd in files:
            _copy_file(copy, file, fd)
        end = source.end(manifest)
        copy.expect(manifest.snapshot_bytes + end.lsn - begin)
        parts, reach = _copy_log(copy, source.data_dir / "log", manifest, end, segment)
        _copy_cluster(copy, source.data_dir / CLUSTER)
        archive = Archive(
            format=FORMAT,
            version=version,
            manifest=manifest,
            log=tuple(parts),
            end_lsn=end.lsn,
            first_revision=reach.revision,
            first_ms=reach.time_ms or end.time_ms,
            last_revision=end.revision,
            taken_ms=end.time_ms,
        )
        copy.finish(archive)
    return archive


def _see_that_it_is_ours(target: Path) -> Path:
    """Resolve `target`. Raises `BackupError` if another user could put something else in its place."""
    try:
        target = resolve_path(target, Care.WRITE)
        if target.is_dir():
            if target.stat().st_uid != os.geteuid():
                raise Planted(target, f"{target} belongs to {user_name(target.stat().st_uid)}: take it as that user")
            require_private_directory(target, Care.WRITE)
    except Planted as error:
        raise BackupError(f"no backup is written into a directory that others can change: {error}") from None
    return target


def _see_that_it_is_apart(target: Path, data_dir: Path) -> None:
    one, other = target.resolve(), data_dir.resolve()
    if one.is_relative_to(other):
        raise BackupError(f"{target} is the data directory, or lies in it: name another directory")
    if other.is_relative_to(one):
        raise BackupError(f"{target} holds the data directory {data_dir}: name another directory")


@contextlib.contextmanager
def _new_target(target: Path) -> Iterator[None]:
    """Make the directory of a backup, marked as not finished, and remove what was put there if that fails."""
    made = [path for path in (target, *target.parents) if not path.exists()]
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise BackupError(f"{target} is a file: name a directory that is new or empty") from None
    names = sorted(entry.name for entry in target.iterdir())
    if names:
        raise BackupError(_why_it_is_taken(target, names))
    try:
        os.close(os.open(target / UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:  # another backup was faster by a hair
        raise BackupError(_why_it_is_taken(target, [UNFINISHED])) from None
    try:
        for path in made:
            DISK.sync_directory(path.parent)
        yield
    except BaseException:
        _remove_written(target)
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def _why_it_is_taken(target: Path, names: list[str]) -> str:
    if NAME in names:
        return f"{target} holds a backup already: name a directory that is new or empty"
    if UNFINISHED in names:
        return f"{target} holds a backup that is being taken or was not finished: remove it, or name another directory"
    return f"{target} is not empty ({names[0]}): name a directory that is new or empty"


def _remove_written(target: Path) -> None:
    for name in _OURS[:2]:
        shutil.rmtree(target / name, ignore_errors=True)
    for name in _OURS[2:]:
        (target / name).unlink(missing_ok=True)


def _open_snapshot(data_dir: Path, stack: contextlib.ExitStack) -> tuple[Manifest, list[tuple[SnapshotFile, int]]]:
    """Load the manifest, and open each file that it names."""
    while True:
        manifest = Manifest.load(data_dir)
        try:
            with contextlib.ExitStack() as opened:
                files = []
                for file in manifest.files:
                    fd = open_regular(data_dir / SNAPSHOTS / file.name)
                    opened.callback(os.close, fd)
                    files.append((file, fd))
                stack.push(opened.pop_all())
                return manifest, files
        except FileNotFoundError as error:
            if Manifest.load(data_dir) == manifest:  # else a newer snapshot took its place
                raise BackupError(
                    f"the snapshot file {error.filename} is missing: `kvserver check` has details"
                ) from None


def _copy_file(copy: BackupCopy, file: SnapshotFile, fd: int) -> None:
    chunks = iter(lambda: os.read(fd, _CHUNK), b"")
    if copy.write(f"{SNAPSHOTS}/{file.name}", file.size, chunks) != file.checksum:
        raise BackupError(
            f"the snapshot file {file.name} of the store is damaged: its checksum is not that in the manifest; "
            "`kvserver check` has details"
        )


def _copy_log(
    copy: BackupCopy, log_dir: Path, manifest: Manifest, end: LogEnd, segment: int
) -> tuple[list[LogPart], Reach]:
    """Copy the log from the segment with the replay position to `end`, and verify it."""
    parts, reach = [], Reach(manifest)
    fold = LogFold(manifest.replay_lsn, manifest.replay_revision + 1, manifest.last_start)
    for number in range(manifest.replay_lsn // segment, -(-end.lsn // segment)):
        base = number * segment
        data = _read_part(log_dir / segment_name(number), min(segment, end.lsn - base))
        for record in fold.walk(data, base, manifest.secret, segment):
            reach.take(record)
        chunks = (data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))
        digest = copy.write(f"{LOG}/{segment_name(number)}", len(data), chunks)
        parts.append(LogPart(number=number, size=len(data), checksum=digest))
    if fold.lsn < end.lsn or fold.next_revision - 1 != end.revision:
        number, offset = divmod(fold.lsn, segment)
        raise BackupError(
            f"the log is damaged in segment {segment_name(number)} at byte {offset}: `kvserver check` has details"
        )
    return parts, reach


def _copy_cluster(copy: BackupCopy, path: Path) -> None:
    """Copy the file that names the cluster, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        text = checksummed_json.read(path)
        copy.write(CLUSTER, len(text), iter([text]))


def _read_part(path: Path, size: int) -> bytes:
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        found = bytearray()
        while len(found) < size and (chunk := file.read(size - len(found))):
            found += chunk
    return bytes(found)
