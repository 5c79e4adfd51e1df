"""What an error of the operating system says, and what helps: no errno is told as another. Pure; see errno(3)."""

from __future__ import annotations

import errno
from typing import Final

from shards.wire.errors import InsufficientStorage, KVError, Overloaded

NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""There is no room for it, or none for this user."""
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Process or machine has no more of something, for the moment."""

_WHAT_HELPS: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "this user's quota is used up, make room there",
    errno.EACCES: "give this user the right to",
    errno.EPERM: "give this user the right to",
    errno.EROFS: "mount its file system so that it can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the machine has no descriptor left, raise fs.file-max",
    errno.ENOMEM: "free some memory",
    errno.EIO: "the disk fails, see the kernel's log",
    errno.ENAMETOOLONG: "shorten the path",
}


def refusal(error: OSError, what: str) -> KVError:
    """The error that a client is told who asked for something that failed with `error`; `what`: what could not be
    done, as a clause."""
    detail = f"{what}: {error.strerror}"
    if error.errno in NO_SPACE:
        return InsufficientStorage(detail)
    return Overloaded(detail) if error.errno in EXHAUSTED else KVError(detail)


def what_helps(error: OSError) -> str:
    """What the operator can do about `error`, as part of a sentence."""
    return _WHAT_HELPS.get(error.errno or 0, "see to it")
