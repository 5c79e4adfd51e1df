"""Takes and reads snapshots: copies of the maps on disk, which make restarts short. Run as `python -m
shards.maps.snapshot`.

The order is what makes it right. The replay position is the board's watermark, taken before the first copy starts: all
up to there is in the maps. Then each map is copied, compacted, by a read transaction beside its writer: each file
is the state at some place after the replay position, which is stored in the file. Then the log is flushed to its tail:
no file may hold what the log could lose. Then files and directories are synced, and only then does the manifest name
them. What the manifest does not name is removed, before the next snapshot too.

The reader of a copy keeps the map from using old pages again. A map that grows by more than 512 MiB, and more than a
quarter of what is free, ends the process; the supervisor tries again later.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import lmdb
import msgspec

from shards.files import locks
from shards.files.disk import DISK
from shards.files.safe_files import open_regular
from shards.host.board import Board, BoardError, ShardRow
from shards.host.logs import configure_logging, report_fatal
from shards.host.process import die_with_starter, keep_standard_streams
from shards.host.settings import ProcessSettings, SettingError, load_settings
from shards.log.appender import LogAppender
from shards.log.files import LogError
from shards.log.manifest import SNAPSHOTS, Manifest, ManifestError, SnapshotFile
from shards.maps.layout import FORMAT, FORMATS, MapError, MapFull, MetaReader, map_path, open_environment, read_meta
from shards.maps.space import free_bytes
from shards.wire.errors import NO_SPACE
from shards.wire.keys import slot_of, slots_of
from shards.wire.outcomes import OutcomeRecord

GROWTH_BYTES = 512 << 20
"""What a map may always grow by while it is copied."""

_CHUNK = 1 << 20
_BATCH = 4 << 20
_LOOK_S = 0.1
_DIRECTORY_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")

log = logging.getLogger(__name__)


Rows = list[tuple[bytes, bytes]]
"""Keys and records of a database, in key order."""


class SnapshotError(Exception):
    """A snapshot cannot be taken or used; the message says why."""


class Snapshot:
    """The snapshot that a manifest names. Every file is verified before it is used."""

    def __init__(self, data_dir: Path, manifest: Manifest, look: MetaReader = read_meta) -> None:
        """`look` is `read_meta`, or `Sandbox.read_meta` where a file that was made up must not end this process."""
        self._directory, self._manifest, self._look = data_dir / SNAPSHOTS, manifest, look

    def files_of(self, slots: range) -> list[SnapshotFile]:
        """Return the files that may hold keys of `slots`."""
        files = [(file, slots_of(file.shard, file.shards)) for file in self._manifest.files]
        return [file for file, held in files if held.start < slots.stop and slots.start < held.stop]

    def copy(self, file: SnapshotFile, target: Path) -> None:
        """Copy one file. Raises `SnapshotError`, and `MapFull` if there is no room for it."""
        fd = DISK.create(target)
        try:
            with self._open_file(file) as source:
                if file.size:
                    os.posix_fallocate(fd, 0, file.size)
                self._check_content(file, source, lambda chunk: _write_chunk(fd, chunk, target))
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise MapFull(f"there is no room for {target}: {file.size} bytes are needed") from None
        finally:
            os.close(fd)
        self._check_identity(file, target)

    def read(self, file: SnapshotFile, slots: range) -> Iterator[Rows]:
        """Yield keys and records of one file as far as they are in `slots`, some MiB at a time. Raises
        `SnapshotError`.
        """
        path = self._directory / file.name
        with self._open_file(file) as source:
            self._check_content(file, source, lambda _: None)
        self._check_identity(file, path)
        with contextlib.closing(open_environment(path, readonly=True, subdir=False, lock=False)) as environment:
            yield from _read_rows(environment, b"data", lambda key, _: slot_of(key) in slots)

    def read_outcomes(self, file: SnapshotFile, slots: range) -> Iterator[Rows]:
        """Yield keys and records of the outcomes in one file, which `read` has verified, as `read` does.

        Raises `ProtocolError`.
        """
        path = self._directory / file.name
        with (
            contextlib.closing(open_environment(path, readonly=True, subdir=False, lock=False)) as environment,
            contextlib.suppress(lmdb.NotFoundError),  # a file of a version without outcomes
        ):
            yield from _read_rows(environment, b"outcomes", lambda _, row: OutcomeRecord.decode(row).slot in slots)

    @contextlib.contextmanager
    def _open_file(self, file: SnapshotFile) -> Iterator[BinaryIO]:
        """A file, which has the size that the manifest says."""
        path = self._directory / file.name
        try:
            fd = open_regular(path)
        except FileNotFoundError:
            raise SnapshotError(f"the snapshot file {path} is missing") from None
        except OSError as error:
            raise SnapshotError(f"the snapshot file {path} cannot be read: {error.strerror}") from None
        with os.fdopen(fd, "rb", buffering=0) as source:
            size = os.fstat(fd).st_size
            if size != file.size:
                raise SnapshotError(
                    f"the snapshot file {path} is damaged or another store's: it has {size} bytes, the manifest says "
                    f"{file.size}"
                )
            yield source

    def _check_content(self, file: SnapshotFile, source: BinaryIO, sink: Callable[[bytes], object]) -> None:
        """Read a file, pass it on to `sink`, compare its checksum."""
        path = self._directory / file.name
        digest = new_digest(self._manifest.secret)
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            sink(chunk)
        if digest.hexdigest() != file.checksum:
            raise SnapshotError(
                f"the snapshot file {path} is damaged or another store's: its checksum is {digest.hexdigest()}, the "
                f"manifest says {file.checksum}"
            )

    def _check_identity(self, file: SnapshotFile, path: Path) -> None:
        """See that the file at `path` is the one that the manifest means."""
        identity, applied = self._look(path, subdir=False)
        wanted = (self._manifest.store, file.shard, file.shards)
        if identity is None or (identity.store, identity.shard, identity.shards) != wanted:
            raise SnapshotError(f"the snapshot file {path} holds {identity}, the manifest says {wanted}")
        if identity.format not in FORMATS:
            raise SnapshotError(
                f"the snapshot file {path} has format {identity.format}, this program knows up to {FORMAT}"
            )
        if applied != (file.lsn, file.revision):
            raise SnapshotError(f"the snapshot file {path} ends at {applied}, not at {(file.lsn, file.revision)}")


def _read_rows(environment: lmdb.Environment, name: bytes, wanted: Callable[[bytes, bytes], bool]) -> Iterator[Rows]:
    """Yield those rows of the database `name` that are `wanted`, some MiB at a time. Raises `lmdb.NotFoundError`."""
    rows: list[tuple[bytes, bytes]] = []
    size = 0
    database = environment.open_db(name, create=False)
    with environment.begin(database) as txn:
        for key, record in txn.cursor():
            if wanted(key, record):
                rows.append((key, record))
                size += len(record)
                if size >= _BATCH:
                    yield rows
                    rows, size = [], 0
    yield rows


def _write_chunk(fd: int, chunk: bytes, path: Path) -> None:
    if os.write(fd, chunk) != len(chunk):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def new_digest(secret: int) -> blake2b:
    """The hash used for the checksums of snapshot files, keyed with the store's secret: another store's file has
    another."""
    return blake2b(digest_size=16, key=secret.to_bytes(8, "little"))


def checksum(path: Path, secret: int) -> str:
    """Compute the checksum of a snapshot file. Raises `OSError`."""
    digest = new_digest(secret)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def take_snapshot(board: Board) -> Manifest:
    """Take a snapshot of all maps of the running store; return the manifest that names it, which is saved.

    Raises `SnapshotError`, `LogError`, `ManifestError`, `MapError`, `OSError`; then the last snapshot is still there.
    May end the process, see the module's docstring.
    """
    facts = board.facts
    if facts.in_memory:
        raise SnapshotError("a store in memory has no snapshots")
    data_dir = Path(facts.data_dir)
    with _hold_snapshot_lock(Path(facts.lock_dir) / "snapshot"):
        before = Manifest.load(data_dir)
        if before.store != facts.store:
            raise SnapshotError(f"{data_dir} contains a different store than the one that is running")
        _remove_unnamed(data_dir / SNAPSHOTS, before)
        lsn, revision = board.watermark()
        name = f"{lsn:016x}-{secrets.token_hex(4)}"
        directory = data_dir / SNAPSHOTS / name
        directory.mkdir(mode=0o700, parents=True)
        try:
            files = [_copy_map(board, shard, directory) for shard in range(facts.shards)]
            now = board.now()
            end_lsn, end_revision = _make_durable(board, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        after = msgspec.structs.replace(
            before,
            replay_lsn=lsn,
            replay_revision=revision,
            files=tuple(files),
            end_lsn=end_lsn,
            end_revision=end_revision,
            end_wall_ms=now.wall_ms,
            end_steady_ms=now.steady_ms,
        )
        after.save(data_dir)
        _remove_unnamed(data_dir / SNAPSHOTS, after)
    return after


@contextlib.contextmanager
def _hold_snapshot_lock(lock: Path) -> Iterator[None]:
    """Hold the lock that only one snapshot at a time may have."""
    fd = locks.open_lock(lock)
    try:
        if not locks.try_acquire_for_life(fd):
            raise SnapshotError("another process is taking a snapshot of this store")
        yield
    finally:
        os.close(fd)


def _remove_unnamed(snapshots: Path, manifest: Manifest) -> None:
    """Remove what a later or a killed snapshot left."""
    named = {file.name.partition("/")[0] for file in manifest.files}
    if snapshots.is_dir():
        for entry in snapshots.iterdir():
            if entry.name not in named and _DIRECTORY_NAME.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)


def _copy_map(board: Board, shard: int, directory: Path) -> SnapshotFile:
    facts = board.facts
    generation = board.shards[shard].load_before_file(ShardRow.map_generation)
    if generation == 0:
        raise SnapshotError(f"shard {shard} has no map yet")
    path = map_path(Path(facts.map_dir), shard, generation)
    target = directory / f"shard-{shard}.mdb"
    environment = open_environment(path, readonly=True)
    fd = DISK.create(target)
    try:
        with growth_watched(path, directory):
            environment.copyfd(fd, compact=True)
        os.fsync(fd)
    except lmdb.Error as error:
        raise SnapshotError(f"the map of shard {shard} could not be copied to {target}: {error}") from None
    finally:
        os.close(fd)
        environment.close()
    identity, (lsn, revision) = read_meta(target, subdir=False)
    if identity is None or (identity.store, identity.epoch, identity.shard) != (facts.store, facts.epoch, shard):
        raise SnapshotError(f"the map {path} is not that of shard {shard} of this run")
    return SnapshotFile(
        name=f"{directory.name}/{target.name}",
        shard=shard,
        shards=facts.shards,
        lsn=lsn,
        revision=revision,
        size=target.stat().st_size,
        checksum=checksum(target, facts.secret),
    )


def _make_durable(board: Board, directory: Path) -> tuple[int, int]:
    """Flush the log to its tail and the names of the files; that tail, and the last revision below it.

    Raises `SnapshotError` if the run is over.
    """
    flusher = LogAppender(board, None)
    tail, following = board.history()
    try:
        flusher.flush(tail)
    finally:
        flusher.close()
    for place in (directory, directory.parent, directory.parent.parent):
        DISK.sync_directory(place)
    if board.is_over():
        raise SnapshotError("this run of the server has ended")
    return tail, following - 1


def allowed_growth(free: int) -> int:
    """Return how many bytes a map may grow while it is copied, if `free` bytes are left for it. Pure."""
    return max(GROWTH_BYTES, free // 4)


@contextlib.contextmanager
def growth_watched(path: Path, directory: Path) -> Iterator[None]:
    """End the process if the map at `path` grows too much during `with`: a copy cannot be stopped otherwise."""
    done = threading.Event()
    fd = os.open(path / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
    begun, allowed = os.fstat(fd).st_size, allowed_growth(free_bytes(path))

    def watch() -> None:
        while not done.wait(_LOOK_S):
            # Through the open file: its shard may have put another map in its place.
            if os.fstat(fd).st_size - begun > allowed:
                log.error("no snapshot: %s grew by more than %d MiB while it was copied", path, allowed >> 20)
                shutil.rmtree(directory, ignore_errors=True)
                os._exit(1)

    watcher = threading.Thread(target=watch, name="growth", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        os.close(fd)


def main() -> int:
    """Take a snapshot of the store that the environment names; the exit status."""
    keep_standard_streams()
    die_with_starter()
    try:
        settings = load_settings(ProcessSettings)
        configure_logging(settings.log_level, "snapshot", settings.log_format)
        board = Board.open(settings.board_path)
        manifest = take_snapshot(board)
    except (SettingError, BoardError, SnapshotError, ManifestError, MapError, LogError, OSError) as error:
        report_fatal(f"no snapshot was taken: {error}")
        return 1
    log.debug("snapshot of %d bytes, replay from %d", manifest.snapshot_bytes, manifest.replay_lsn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
