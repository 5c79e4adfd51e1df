"""Walks the way to a file, and refuses what another user but root could have put there.

A path is walked as the kernel does, component by component. A user who may write a directory on the way can put another
file, or a link, in the place of the next component; with the sticky bit, as in /tmp, only under a free name or in place
of an own file. On a read-only mount no user writes, whatever the modes say: ConfigMaps and Secrets of Kubernetes are
mounted so, with directories of mode 0777.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import shlex
import stat
from enum import IntEnum
from pathlib import Path
from typing import Final

DESCRIPTOR: Final = re.compile(r"/proc/[0-9]+(?:/task/[0-9]+)?/fd/[0-9]+")
"""The name of an open file, to which /dev/stdout leads."""
_MOST_LINKS: Final = 40  # as the kernel; path_resolution(7)


class Care(IntEnum):
    """What the file is for, and so what is refused on the way to it. Each level refuses what lower levels do, too."""

    READ = 1
    """Its content is read: refuses links that another user may have made."""
    WRITE = 2
    """It is written, or handed over: also refuses directories of others, and those that everybody may write."""
    RELY = 3
    """Its content decides on access: also refuses directories that a group may write, and a sticky last directory that
    everybody may write: another user's file may come first when the file is gone for a moment."""


class Planted(PermissionError):
    """Another user may have put something into a file's place; `strerror`, and the text, say how, and what helps."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, why, str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def resolve_path(path: Path, care: Care) -> Path:
    """Return the absolute path of `path`, with no link in it; missing components may follow.

    The name of an open descriptor (`DESCRIPTOR`) is returned as it is: what is open may have no other name.
    Raises `Planted`, and `OSError` where it leads nowhere; with `Care.RELY` if more than the last component is missing.
    """
    left = list(reversed(path.absolute().parts[1:]))
    here, links = Path("/"), 0
    shared = _enter_directory(here, path, care)
    while left:
        name = left.pop()
        if name == "..":
            here = here.parent
            shared = _enter_directory(here, path, care)
            continue
        entry = here / name
        try:
            status = entry.lstat()
        except FileNotFoundError:
            if left and care is Care.RELY:
                raise
            return _accept_or_refuse(entry.joinpath(*reversed(left)), here, path, shared and care is Care.RELY)
        if DESCRIPTOR.fullmatch(str(entry)):
            return entry.joinpath(*reversed(left))
        if shared and status.st_uid not in trusted_uids():
            raise Planted(path, f"{entry} belongs to {user_name(status.st_uid)}: {_suggest_place(path, care)}")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = _follow_link(entry, status, path, care)
            if target.is_absolute():
                here = Path("/")
                shared = _enter_directory(here, path, care)
            left += reversed([part for part in target.parts if part != "/"])
        elif left:
            here = entry
            shared = _enter_directory(here, path, care)
        else:
            return _accept_or_refuse(entry, here, path, shared and care is Care.RELY)
    return here


def require_private_directory(directory: Path, care: Care) -> None:
    """Raise `Planted` if another user owns `directory`, or everybody may write there, sticky or not.

    For a directory in which files are to be made. Raises `OSError`.
    """
    if _look_at(directory, directory, care):
        raise Planted(directory, f"others can put files into {directory}: {_suggest_fix(directory, directory, care)}")


def _accept_or_refuse(found: Path, directory: Path, path: Path, refuse: bool) -> Path:
    if refuse:  # the file may be gone for a moment, or another name of it be wanted
        raise Planted(
            path, f"it lies in {directory}, where others can put files: {_suggest_fix(directory, path, Care.RELY)}"
        )
    return found


def _follow_link(link: Path, status: os.stat_result, path: Path, care: Care) -> Path:
    """Return the target of `link`. Raises `Planted` unless only this user or root can have made it."""
    target = link.readlink()
    if status.st_uid not in trusted_uids():
        raise Planted(path, f"{link} is a link that belongs to {user_name(status.st_uid)}: name {target} itself")
    if care is Care.READ:
        try:
            _look_at(link.parent, path, care)
        except Planted as error:
            raise Planted(path, f"{link} is a link, and {str(error).partition(':')[0]}: name {target} itself") from None
    return target


def _enter_directory(directory: Path, path: Path, care: Care) -> bool:
    """Whether others may add names in `directory`, on the way to `path`.

    For a file that is only read, directories are not checked, but the links in them are.
    """
    return care is not Care.READ and _look_at(directory, path, care)


def _look_at(directory: Path, path: Path, care: Care) -> bool:
    """Whether others may add names in `directory`. Raises `Planted` if they could replace existing ones, `OSError`."""
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if status.st_uid not in trusted_uids():
        raise Planted(
            path,
            f"the directory {directory} belongs to {user_name(status.st_uid)}, who can put another file in its place: "
            f"{_suggest_place(path, care)}",
        )
    others = stat.S_IWGRP | stat.S_IWOTH if care is Care.RELY else stat.S_IWOTH
    if not status.st_mode & others or is_read_only(directory):
        return False
    if not status.st_mode & stat.S_ISVTX:
        fix = _suggest_fix(directory, path, care)
        raise Planted(path, f"others can write in {directory}, and put another file in its place: {fix}")
    return True


def _suggest_fix(directory: Path, path: Path, care: Care) -> str:
    """Return the command that fixes a directory in which others may write."""
    status = directory.stat()
    if status.st_mode & stat.S_ISVTX or os.geteuid() not in (0, status.st_uid):  # it is meant for all
        return _suggest_place(path, care)
    return f"chmod {'go-w' if care is Care.RELY else 'o-w'} {shlex.quote(str(directory))}"


def _suggest_place(path: Path, care: Care) -> str:
    if care is not Care.RELY:
        return "name one in a directory of your own"
    move = f" && mv {shlex.quote(str(path))} ~/.kvserver/" if os.path.lexists(path) else ""
    return f"keep it in a directory of your own: mkdir -p -m 700 ~/.kvserver{move}"


def is_read_only(path: Path) -> bool:
    """Whether the file system of `path` is mounted read-only, for every user."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def trusted_uids() -> tuple[int, int]:
    """Return the ids of the users whose files are trusted: root and this process's."""
    return 0, os.geteuid()


def trusted_about(data_dir: Path) -> tuple[int, ...]:
    """Return the users whose files about the store in `data_dir` are trusted: root also trusts the store's owner."""
    with contextlib.suppress(OSError):
        if os.geteuid() == 0:
            return (*trusted_uids(), data_dir.stat().st_uid)
    return trusted_uids()


def user_name(uid: int) -> str:
    """Return the name of a user for messages."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"the user with id {uid}"
