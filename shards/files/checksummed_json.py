"""Small files that say what others mean: JSON with a checksum of its content, replaced as a whole.

One changed digit of a secret or of a position would make everything it describes look like foreign bytes, so what was
changed is refused. A file is written under a temporary name, fsync, rename, fsync of the directory: it is there whole
or not at all.

The checksum needs no secret, so it does not prove which process wrote a file. Members have ranges (`Count`, `Lsn`, …),
so that whatever is decoded can be computed with, shown and used.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from shards.files import safe_files
from shards.files.disk import DISK

MOST_BYTES = 64 << 20
"""More than any of these files has: that of a backup of 10 TiB of log takes 20 MiB."""

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""Bytes, or how many there are of something."""
Lsn = Annotated[int, Meta(ge=0, le=1 << 62)]
Revision = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
UnixMs = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
"""Unix time in milliseconds, up to the end of the year 9999."""
StoreId = Annotated[str, Meta(pattern=r"^[0-9a-z]{1,32}\Z")]
"""Part of a file name, see `maps.directory`."""
Checksum = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Words = Annotated[str, Meta(pattern=r"^[ -~]{0,256}\Z")]
"""Text to show: printable ASCII."""

_CHECKSUM = "checksum"


class Unreadable(Exception):
    """The content is not what was written; the message says why."""


T = TypeVar("T", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    format: int


def encode(content: msgspec.Struct) -> bytes:
    """Return `content` as the text of a file, with its checksum."""
    plain = msgspec.to_builtins(content)
    return msgspec.json.format(msgspec.json.encode(plain | {_CHECKSUM: _compute_checksum(plain)})) + b"\n"


def write(content: msgspec.Struct, path: Path, temporary: Path) -> None:
    """Put `content` at `path`, durably. `temporary` is in the same directory. Raises `OSError`, which names it; then
    what was at `path` may still be there."""
    fd = DISK.create(temporary)
    try:
        text = encode(content)
        if os.write(fd, text) != len(text):
            raise OSError(errno.ENOSPC, "it is incomplete")
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(temporary)) from None
    finally:
        os.close(fd)
    temporary.rename(path)
    DISK.sync_directory(path.parent)


def read(path: Path) -> bytes:
    """Read the file `path`, which must not be a link. Raises `OSError`."""
    return safe_files.read_regular(path, MOST_BYTES)


def decode(text: bytes, kind: type[T], formats: Collection[int]) -> T | int:
    """The content of a file, a `kind`, or, if it is of none of `formats`, the format it has. Raises `Unreadable`."""
    try:
        version = msgspec.json.decode(text, type=_Version).format
        if version not in formats:
            return version
        _verify_checksum(msgspec.json.decode(text, type=dict[str, Any]))
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def _compute_checksum(content: dict[str, Any]) -> str:
    """Compute the checksum of the content, however it is spaced and ordered."""
    return blake2b(msgspec.json.encode(content, order="deterministic"), digest_size=8).hexdigest()


def _verify_checksum(content: dict[str, Any]) -> None:
    """Raises `msgspec.ValidationError` if `content` is not what was saved."""
    if content.pop(_CHECKSUM, None) != _compute_checksum(content):
        raise msgspec.ValidationError("its checksum does not match")
