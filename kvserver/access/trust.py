"""Who decides what stands in a file: whether anybody but this user and root could have put something into its place.

A path is walked as the kernel does, component by component. Whoever may write a directory on the way can put another
file, or a link, where the next one is; in a directory with the sticky bit only where nothing is yet, or what is theirs.
Where a file system is mounted read-only nobody writes, whatever the modes say: so come ConfigMaps and Secrets of
Kubernetes, whose directories are 0777.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from pathlib import Path
from typing import Final

_MOST_LINKS: Final = 40  # as the kernel; path_resolution(7)


class Untrusted(Exception):
    """Others could have put something in the file's place; the message says how, and the command that mends it."""


def resolve(path: Path) -> Path:
    """`path` without links, if none but this user and root decides what is there; the last component may be missing.

    Raises `Untrusted`, and `OSError` where it does not lead anywhere.
    """
    left = list(reversed(path.absolute().parts[1:]))
    here, links = Path("/"), 0
    shared = _look_at_directory(here, path)
    while left:
        name = left.pop()
        if name == "..":
            here = here.parent
            shared = _look_at_directory(here, path)
            continue
        entry = here / name
        try:
            status = entry.lstat()
        except FileNotFoundError:
            if left:
                raise
            break
        if shared and status.st_uid not in _trusted():
            raise Untrusted(f"{entry} belongs to {_user(status.st_uid)}: {_elsewhere(path)}")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = entry.readlink()
            if target.is_absolute():
                here = Path("/")
                shared = _look_at_directory(here, path)
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif left:
            here = entry
            shared = _look_at_directory(here, path)
        else:
            break
    else:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if shared:  # the file may be gone for a moment, or another name of it be wanted
        raise Untrusted(f"it lies in {here}, where others can put files: {_mend(here, path)}")
    return here / name


def check(path: Path, status: os.stat_result) -> None:
    """Raise `Untrusted` unless the file of `status` at `path`, without links, is a regular one that only this user and
    root can write."""
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted("it is no regular file")
    if status.st_uid not in _trusted():
        raise Untrusted(
            f"it belongs to {_user(status.st_uid)}, not to {_user(os.geteuid())}: "
            f"chown {shlex.quote(_user(os.geteuid()))} {quoted}"
        )
    if status.st_mode & 0o022 and not _is_read_only(path):
        raise Untrusted(f"others can write it: chmod go-w {quoted}")


def _look_at_directory(directory: Path, path: Path) -> bool:
    """Whether others may write in `directory`, on the way to `path`, but only beside what is there.

    Raises `Untrusted` if they could replace what is there, `OSError`.
    """
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if status.st_uid not in _trusted():
        raise Untrusted(
            f"the directory {directory} belongs to {_user(status.st_uid)}, who can put another file in its place: "
            f"{_elsewhere(path)}"
        )
    if not status.st_mode & 0o022 or _is_read_only(directory):
        return False
    if not status.st_mode & stat.S_ISVTX:
        raise Untrusted(f"others can write in {directory}, and put another file in its place: {_mend(directory, path)}")
    return True


def _mend(directory: Path, path: Path) -> str:
    """The command for a directory that others may write."""
    status = directory.stat()
    if status.st_mode & stat.S_ISVTX or os.geteuid() not in (0, status.st_uid):  # it is meant for all
        return _elsewhere(path)
    return f"chmod go-w {shlex.quote(str(directory))}"


def _elsewhere(path: Path) -> str:
    move = f" && mv {shlex.quote(str(path))} ~/.kvserver/" if os.path.lexists(path) else ""
    return f"keep it in a directory of your own: mkdir -p -m 700 ~/.kvserver{move}"


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
