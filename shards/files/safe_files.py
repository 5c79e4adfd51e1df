"""Opens, creates and replaces files so that nothing that was planted is followed, waited for or destroyed.

- Only regular files are read, and no links. A FIFO would block, a device has no end.
- Created files are new: `O_EXCL` and `O_NOFOLLOW` (open(2)), so that a planted link is not written through.
- On the way to a path that a person names, nothing may be that another user can have put there: see `trusted_path`.

Every refusal is an `OSError` whose `strerror` says what is there instead, so code that reports errors of the system
reports these, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.files.trusted_path import DESCRIPTOR, Care, Planted, resolve_path, trusted_uids, user_name

_LOOK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, flags: int = os.O_RDONLY, directory: int | None = None) -> int:
    """Open the regular file `path` to read it, or as `flags` say, without waiting. Raises `OSError`, for a link too.

    `path` is relative to the open `directory`, if one is given.
    """
    try:
        fd = os.open(path, flags | _LOOK, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link; a socket
            raise
        mode = os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode
        raise _not_a_file(path, mode) from None
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise _not_a_file(path, mode)
    return fd


def read_regular(path: Path, most: int, directory: int | None = None) -> bytes:
    """Read the whole regular file `path`, in the open `directory` if one is given.

    Raises `OSError`, also if it has more than `most` bytes.
    """
    with os.fdopen(open_regular(path, directory=directory), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, at most {most} can be right", str(path))
        found = bytearray()
        while chunk := file.read(most + 1 - len(found)):
            found += chunk
            if len(found) > most:
                raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
        return bytes(found)


def create(path: Path) -> int:
    """Create the empty file `path` (mode 0600), in place of one that exists, and open it. Raises `OSError`."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def open_named(path: Path, care: Care) -> BinaryIO:
    """Open a path that a person named, to read it: a file, a pipe or /dev/stdin.

    Links on the way are followed only where no other user can have made them, and no FIFO of another user is waited
    for. Raises `Planted`, `OSError`.
    """
    real = resolve_path(path, care)
    number = _own_descriptor(real)
    fd = _open_to_read(real) if number is None else _dup(number, path)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_a_file(path, stat.S_IFDIR)
    return os.fdopen(fd, "rb")


def _open_to_read(real: Path) -> int:
    """Open what is at `real`, a path that `resolve_path` returned. Raises `Planted`, `OSError`."""
    opened = DESCRIPTOR.fullmatch(str(real))  # by another process, and named by a link
    look = os.open(real, os.O_PATH | os.O_CLOEXEC | (0 if opened else os.O_NOFOLLOW))
    try:
        status = os.fstat(look)
        if not opened and stat.S_ISFIFO(status.st_mode):
            _require_ours(real, status)
        # What was looked at, whatever is at its path by now; a FIFO of ours is waited for.
        return os.open(f"/proc/self/fd/{look}", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, Planted):
            raise
        raise OSError(error.errno, error.strerror, str(real)) from None
    finally:
        os.close(look)


def _dup(number: int, path: Path) -> int:
    """Duplicate the descriptor `number` of this process.

    Raises `OSError` for a standard stream that was closed when the process began: something else is in its place now,
    see `keep_standard_streams`.
    """
    if number < 2 and (sys.stdin, sys.stdout)[number] is None:
        raise OSError(errno.EBADF, "it is closed", str(path))
    return os.dup(number)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Write a new file that takes the name `path` when `with` ends without an error: whole and durable, or not at all.

    Only its owner may read it (mode 0600). `path` must have no links (see `resolve_path`). Raises `OSError`, also if
    something other than a regular file is at `path`.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=".kvserver-", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot create a file in {path.parent}: {error.strerror}", str(path)) from None
    begun = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        require_replaceable(path)
        begun.replace(path)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def require_replaceable(path: Path) -> None:
    """Raise `OSError` if `path` is not a regular file: to replace it would destroy it."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise _not_a_file(path, mode)


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable: syncing a file says nothing about its name. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[BinaryIO]:
    """Write to what `path` names.

    A file, or a free name, gets a whole new file (see `replacing_file`). A FIFO, a terminal or what this process has
    open (`/dev/stdout`) is written to in place.

    Raises `Planted` if another user may have put there what would be followed or written to, `OSError`.
    """
    path = resolve_path(path, Care.WRITE)
    number = _own_descriptor(path)
    if number is not None:  # not reopened: what others have written to it stays, and what they write comes after
        with os.fdopen(_dup(number, path), "wb") as file:
            yield file
        return
    opened = DESCRIPTOR.fullmatch(str(path))  # by another process
    mode = _mode_of(path)
    if not opened and (mode is None or stat.S_ISREG(mode)):
        with replacing_file(path) as file:
            yield file
        return
    if mode is not None and (stat.S_ISSOCK(mode) or stat.S_ISDIR(mode)):
        raise _not_a_file(path, mode)
    if not opened:
        _require_ours(path, path.lstat())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
        yield file


def _require_ours(path: Path, status: os.stat_result) -> None:
    """Raise `Planted` if another user made `path`, and so would read what is written to it, or never write what is
    waited for.
    """
    if status.st_uid not in trusted_uids():
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something")
        raise Planted(path, f"{path} is {kind} that belongs to {user_name(status.st_uid)}: name another")


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _own_descriptor(path: Path) -> int | None:
    """Return the number of this process's descriptor that `path`, as `resolve_path` returns it, names; else None."""
    if not DESCRIPTOR.fullmatch(str(path)):
        return None
    _, _, process, *_, number = path.parts
    return int(number) if process == Path("/proc/self").readlink().name else None


def _not_a_file(path: Path, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind}, not a file", str(path))
