"""Who decides what stands in the file of tokens: nobody but this user and root, else it is not relied on.

The way to it is walked by `shards.files.trusted_path`, with the most care that there is.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from pathlib import Path

from shards.files import trusted_path
from shards.files.trusted_path import Care, Planted

Untrusted = Planted
"""Others could have put something in the file's place; the message says how, and the command that mends it."""


def resolve(path: Path) -> Path:
    """`path` without links, if none but this user and root decides what is there; the last component may be missing.

    Raises `Untrusted`, and `OSError` where it does not lead anywhere.
    """
    real = trusted_path.resolve_path(path, Care.RELY)
    if real.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return real


def check(path: Path, status: os.stat_result) -> None:
    """Raise `Untrusted` unless the file of `status` at `path`, without links, is a regular one that only this user and
    root can write."""
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted(path, "it is no regular file")
    if status.st_uid not in trusted_path.trusted_uids():
        me = _name(os.geteuid())
        owner = trusted_path.user_name(status.st_uid)
        raise Untrusted(path, f"it belongs to {owner}, not to {me}: chown {shlex.quote(me)} {quoted}")
    if status.st_mode & 0o022 and not trusted_path.is_read_only(path):
        raise Untrusted(path, f"others can write it: chmod go-w {quoted}")


def _name(uid: int) -> str:
    """As chown(1) takes it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
