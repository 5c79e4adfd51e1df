"""Makes a data directory out of a backup, so that a server can be started on it.

Snapshot and log are put back as they were, the log up to the revision asked for; the server that starts on it replays
them. It begins a new history, far above every revision that the backup knows of: changes after the cut may have been
seen. A machine of a cluster is different: what comes after the cut is the same on all machines, and it gets it from the
order, so it goes on with the history of the machine whose backup it is. The manifest is written last; until then a mark
in the directory keeps a server from starting on it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shards.backup.archive import CLUSTER, LOG, Archive, ArchiveError, Cut
from shards.backup.copies import Report
from shards.backup.sandbox import Sandbox
from shards.files import checksummed_json
from shards.files.disk import DISK
from shards.log import records
from shards.log.files import SEGMENT, segment_name
from shards.log.manifest import NAME, SNAPSHOTS, Manifest
from shards.maps.layout import MetaReader
from shards.maps.snapshot import Snapshot

UNFINISHED = "restore.incomplete"
"""Marks a data directory while it is being restored."""

_WRITTEN = (LOG, SNAPSHOTS, CLUSTER, NAME, NAME + ".new")
_MAY_BE_THERE = {"locks", "lost+found", UNFINISHED}
_LEFT = re.compile(
    r"log/[0-9]{12}\.log|snapshots/[0-9a-f]{16}-[0-9a-f]{8}/shard-[0-9]{1,3}\.mdb|manifest(?:\.new)?|cluster"
    r"|restore\.incomplete|(?:locks|lost\+found)/.*"
)
"""Files that a restore which was broken off has left."""
_CHUNK = 4 << 20


class NotEmpty(Exception):
    """The data directory holds something; the message says what, and what to do."""


def see_that_it_is_empty(data_dir: Path) -> None:
    """Raise `NotEmpty` if `data_dir`, which must exist, holds more than an interrupted restore has left."""
    names = {entry.name for entry in data_dir.iterdir()}
    if UNFINISHED in names:
        strangers = sorted(_foreign_files(data_dir))
        if strangers:
            raise NotEmpty(
                f"{data_dir} is marked as a restore that was not finished, but holds other files ({strangers[0]}): "
                "restore into a new directory"
            )
        return
    if NAME in names:
        raise NotEmpty(f"{data_dir} holds a store: restore into a new directory, or move that one away first")
    if names - _MAY_BE_THERE:
        raise NotEmpty(f"{data_dir} is not empty ({min(names - _MAY_BE_THERE)}): restore into a new directory")


def _foreign_files(data_dir: Path) -> Iterator[str]:
    """Yield the files in `data_dir` that no interrupted restore can have left: the next one must not remove them."""
    for where, directories, names in os.walk(data_dir):
        links = [name for name in directories if (Path(where) / name).is_symlink()]
        for name in (*names, *links):
            path = (Path(where) / name).relative_to(data_dir).as_posix()
            if not _LEFT.fullmatch(path):
                yield path


def restore_backup(
    archive: Archive,
    source: Path,
    data_dir: Path,
    cut: Cut,
    report: Report,
    *,
    for_cluster: bool = False,
    segment: int = SEGMENT,
) -> Manifest:
    """Make `data_dir` the store that the backup in `source` is at `cut`; return its manifest.

    `for_cluster`: make it a machine of the cluster that the backup is of, which goes on where the backup ends; then
    `cut` is that end.

    The caller holds the lock of the store and has seen that the directory is empty. Raises `ArchiveError`,
    `SnapshotError`, `MapError`, `OSError`; then it must be called again before a server can be started.
    """
    os.close(DISK.create(data_dir / UNFINISHED))
    DISK.sync_directory(data_dir)
    for name in _WRITTEN:
        if (data_dir / name).is_dir() and not (data_dir / name).is_symlink():
            shutil.rmtree(data_dir / name)
        (data_dir / name).unlink(missing_ok=True)
    progress = _Progress(report, archive.manifest.snapshot_bytes + cut.end)
    with Sandbox() as sandbox:
        _copy_snapshot(archive, source, data_dir, progress, sandbox.read_meta)
    _write_log(archive, source, data_dir, cut, progress, segment)
    if for_cluster:
        _copy_cluster(source, data_dir)
    status = data_dir.stat()
    manifest = msgspec.structs.replace(
        archive.manifest,
        device=status.st_dev,
        inode=status.st_ino,
        epoch=archive.manifest.epoch if for_cluster else "",
        end_lsn=cut.end,
        end_revision=max(archive.last_revision, archive.manifest.end_revision),
        new_history="" if for_cluster else "the store was restored from a backup",
    )
    manifest.save(data_dir)
    (data_dir / UNFINISHED).unlink()
    DISK.sync_directory(data_dir)
    DISK.sync_directory(data_dir.parent)
    return manifest


class _Progress:
    def __init__(self, report: Report, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def add(self, size: int) -> None:
        self._done += size
        self._report(self._done, max(self._done, self._total))


def _copy_snapshot(archive: Archive, source: Path, data_dir: Path, progress: _Progress, look: MetaReader) -> None:
    snapshot = Snapshot(source, archive.manifest, look)
    (data_dir / SNAPSHOTS).mkdir(mode=0o700)
    for file in archive.manifest.files:
        target = data_dir / SNAPSHOTS / file.name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        snapshot.copy(file, target)
        _sync_file(target)
        progress.add(file.size)
    for directory in {(data_dir / SNAPSHOTS / file.name).parent for file in archive.manifest.files}:
        DISK.sync_directory(directory)
    DISK.sync_directory(data_dir / SNAPSHOTS)


def _copy_cluster(source: Path, data_dir: Path) -> None:
    try:
        text = checksummed_json.read(source / CLUSTER)
    except FileNotFoundError:
        raise ArchiveError(f"the backup in {source} is not of a machine of a cluster") from None
    fd = DISK.create(data_dir / CLUSTER)
    try:
        os.write(fd, text)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_log(archive: Archive, source: Path, data_dir: Path, cut: Cut, progress: _Progress, segment: int) -> None:
    log_dir = data_dir / LOG
    log_dir.mkdir(mode=0o700)
    for part in archive.log:
        base = part.number * segment
        if base >= cut.end:
            break
        data = archive.read(source, part)
        if base <= cut.lsn < base + segment:
            data = data[: cut.lsn - base]
            if cut.rest is not None:
                data += records.encode(cut.rest, archive.manifest.secret)
        _write_segment(log_dir / segment_name(part.number), data, segment)
        progress.add(len(data))
    DISK.sync_directory(log_dir)


def _write_segment(path: Path, data: bytes, segment: int) -> None:
    """Write a whole segment that begins with `data`."""
    fd = DISK.create(path)
    try:
        os.posix_fallocate(fd, 0, segment)  # too little space is said here
        for at in range(0, segment, _CHUNK):
            chunk = data[at : at + _CHUNK].ljust(min(_CHUNK, segment - at), b"\0")
            if os.pwrite(fd, chunk, at) != len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(fd)


def _sync_file(path: Path) -> None:
    fd = DISK.open(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
