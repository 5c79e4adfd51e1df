"""Network namespaces of this thread, by the names that `ip netns` gives them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Move this thread there, and the processes that it starts from now on."""
    fd = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    try:
        _enter(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def namespace_of_this_thread() -> Iterator[None]:
    """Bring this thread back to where it is now."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
