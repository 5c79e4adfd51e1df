"""Whether the token file can be trusted: only this user and root may be able to write or replace it.

`shards.files.trusted_path` walks the path to it, with its strictest care.
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
"""Others could have replaced the file; the message says how, and which command fixes that."""


def resolve_trusted(path: Path) -> Path:
    """Resolve the links of `path`, if only this user and root control it; the last component may be missing.

    Raises `Untrusted`, and `OSError` where it does not lead anywhere.
    """
    real = trusted_path.resolve_path(path, Care.RELY)
    if real.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return real


def check_file(path: Path, status: os.stat_result) -> None:
    """Raise `Untrusted` unless the file of `status` at `path`, without links, is a regular one that only this user and
    root can write."""
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise Untrusted(path, "it is no regular file")
    if status.st_uid not in trusted_path.trusted_uids():
        me = _user_name(os.geteuid())
        owner = trusted_path.user_name(status.st_uid)
        raise Untrusted(path, f"it belongs to {owner}, not to {me}: chown {shlex.quote(me)} {quoted}")
    if status.st_mode & 0o022 and not trusted_path.is_read_only(path):
        raise Untrusted(path, f"others can write it: chmod go-w {quoted}")


def _user_name(uid: int) -> str:
    """Return the user as chown(1) takes it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
