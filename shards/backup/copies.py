"""Where a backup is written to: a directory, or a stream in the format of tar that unpacks to such a directory."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from shards.backup.archive import NAME, UNFINISHED, Archive
from shards.files import checksummed_json
from shards.files.disk import DISK
from shards.maps.snapshot import new_digest

FLUSH_BYTES: Final = 8 << 20
"""Bytes of a file after which it is flushed: one large flush would delay those of the log."""

Report = Callable[[int, int], object]
"""Called while something long is done: bytes done, bytes in all."""


class BackupError(Exception):
    """A backup cannot be taken; the message says why."""


class BackupCopy(Protocol):
    """Takes the files of a backup, and reports its progress."""

    def expect(self, total: int) -> None:
        """Set the total of bytes. Raises `BackupError` if there is no room for the rest of them."""

    def write(self, name: str, size: int, chunks: Iterator[bytes]) -> str:
        """Write the file `name` of `size` bytes, made of `chunks`; return its checksum.

        Raises `BackupError` if the chunks have another size, `OSError`.
        """

    def finish(self, archive: Archive) -> None:
        """Write the description of the backup, which completes it. Raises `OSError`."""

    def close(self) -> None:
        """Write nothing more, finished or not."""


class _Progress:
    """Counts bytes for a report."""

    def __init__(self, report: Report) -> None:
        self._report, self.done, self.total = report, 0, 0

    def add(self, size: int) -> None:
        """Count `size` further bytes."""
        self.done += size
        self._report(self.done, max(self.total, self.done))


class DirectoryCopy:
    """Writes a backup to a directory, durably.

    Args:
        target: exists, and holds nothing else.
        secret: of the store, for checksums.
    """

    def __init__(self, target: Path, secret: int, report: Report) -> None:
        self._target, self._secret, self._progress = target, secret, _Progress(report)
        self._directories: list[Path] = []

    def expect(self, total: int) -> None:
        """See `BackupCopy`."""
        self._progress.total = total
        status = os.statvfs(self._target)
        free, missing = status.f_bavail * status.f_frsize, total - self._progress.done
        if missing > free:
            raise BackupError(
                f"there is no room for the backup in {self._target}: it takes {missing >> 20} MiB more, "
                f"{free >> 20} are free"
            )

    def write(self, name: str, size: int, chunks: Iterator[bytes]) -> str:
        """See `BackupCopy`."""
        path = self._target / name
        self._make_directory(path.parent)
        digest, written = new_digest(self._secret), 0
        fd = DISK.create(path)
        try:
            for chunk in chunks:
                if os.write(fd, chunk) != len(chunk):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                digest.update(chunk)
                written += len(chunk)
                if written % FLUSH_BYTES < len(chunk):
                    os.fdatasync(fd)
                self._progress.add(len(chunk))
            os.fsync(fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            os.close(fd)
        _require_size(name, size, written)
        return digest.hexdigest()

    def finish(self, archive: Archive) -> None:
        """See `BackupCopy`."""
        for directory in (*self._directories, self._target):
            DISK.sync_directory(directory)
        checksummed_json.write(archive, self._target / NAME, self._target / UNFINISHED)

    def close(self) -> None:
        """See `BackupCopy`. No file is open between two calls."""

    def _make_directory(self, path: Path) -> None:
        if path not in self._directories and path != self._target:
            self._make_directory(path.parent)
            path.mkdir(mode=0o700)
            self._directories.append(path)


class StreamCopy:
    """Writes a backup to a stream, as tar (POSIX.1-2001, pax) with the files that a directory would have.

    The description comes last, so what is unpacked of a stream that broke off is no backup.
    """

    def __init__(self, stream: BinaryIO, secret: int, report: Report) -> None:
        """`stream`: is written in order, and not closed."""
        self._tar = tarfile.open(mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._secret, self._progress = secret, _Progress(report)
        self._directories: set[str] = set()

    def expect(self, total: int) -> None:
        """See `BackupCopy`. Nothing is known of the room at the other end."""
        self._progress.total = total

    def write(self, name: str, size: int, chunks: Iterator[bytes]) -> str:
        """See `BackupCopy`."""
        self._make_directory(name.rpartition("/")[0])
        file = _ChunkReader(chunks, self._progress, new_digest(self._secret))
        info = self._describe(name, tarfile.REGTYPE, 0o600, size)
        try:
            self._tar.addfile(info, io.BufferedReader(file, 1 << 20))
        except OSError as error:
            if error.errno is None:  # tarfile's own: the file ended before its size
                _require_size(name, size, file.taken)
            raise
        _require_size(name, size, file.taken + sum(map(len, chunks)))
        return str(file.digest.hexdigest())

    def finish(self, archive: Archive) -> None:
        """See `BackupCopy`."""
        text = checksummed_json.encode(archive)
        self._tar.addfile(self._describe(NAME, tarfile.REGTYPE, 0o600, len(text)), io.BytesIO(text))
        self._tar.close()

    def _make_directory(self, name: str) -> None:
        if name and name not in self._directories:
            self._make_directory(name.rpartition("/")[0])
            self._tar.addfile(self._describe(name, tarfile.DIRTYPE, 0o700))
            self._directories.add(name)

    def close(self) -> None:
        """See `BackupCopy`. Otherwise tarfile ends the archive when it is collected, where that may fail."""
        if self._tar.fileobj is not None:
            self._tar.fileobj.closed = True  # type: ignore[attr-defined]  # its own stream, which has no other way

    @staticmethod
    def _describe(name: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, size, int(time.time())
        return info


class _ChunkReader(io.RawIOBase):
    """A file whose content comes in chunks.

    Attributes:
        taken: bytes read so far.
        digest: of them.
    """

    def __init__(self, chunks: Iterator[bytes], progress: _Progress, digest: Any) -> None:
        self._chunks, self._progress, self.digest = chunks, progress, digest
        self._rest = memoryview(b"")
        self.taken = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`; return the number of bytes, 0 at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        self.digest.update(part)
        self.taken += len(part)
        self._progress.add(len(part))
        return len(part)


def _require_size(name: str, expected: int, found: int) -> None:
    if found != expected:
        raise BackupError(f"{name} has {found} bytes, expected {expected}: `kvserver check` has details")
