"""A map as a file: its name, its layout, and what it says of itself.

A map is an LMDB environment, a directory `shard-<i>.<generation>` (hexadecimal) in the map directory, with four
databases:

- `data`: key to record. A record is a header of 42 bytes, little endian, the content type in UTF-8, the value::

      revision u64 | value_revision u64 | expiry i64 | created_ms u64 | modified_ms u64 | content_type bytes u16

  `revision` is of the last change, `value_revision` of the last one that set the value (a touch leaves it, as it
  leaves `modified_ms`); `expiry` is as in `clock`: 0 never, above 0 a wall time, below 0 a steady one; `created_ms` is
  the wall time since which the key has been live without a break. So the key whose value `hi` of type `text/plain` was
  put as revision 258 at 1,000 ms, then touched as revision 259 to expire at 65,536 ms of wall time, holds::

      03 01 00 00 00 00 00 00  02 01 00 00 00 00 00 00  00 00 01 00 00 00 00 00
      e8 03 00 00 00 00 00 00  e8 03 00 00 00 00 00 00  0a 00
      74 65 78 74 2f 70 6c 61 69 6e  68 69

- `meta`: `identity`, an `Identity` as JSON, and `applied`, two u64: the LSN after the last log record that was
  applied, and that record's last revision. It is written in the transaction that applies the record, so replaying
  a record twice changes nothing. `totals`, three u64, is written with it: the same LSN, the bytes of all keys and
  values, the number of keys with an expiry. (Where its LSN is another one, or it is absent, a version before it has
  written the map.) `outcome_bytes`, u64, is the size of all records of `outcomes`. On a machine of a cluster, `order`
  is a `Placed` as MessagePack: where in the order a restart goes on.
- `outcomes`: what the shard has done once, see `shards.wire.outcomes`; the key is the revision of the last change, u64
  big endian, so the oldest comes first.
- `identities`: from the identity of such an operation to its key in `outcomes`.

The last two are absent in maps of versions before them.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import lmdb
import msgspec

from shards.files.safe_files import open_regular
from shards.maps.space import free_bytes, growth_left
from shards.wire.clock import Now, unix_ms
from shards.wire.errors import NO_SPACE

FORMAT = 2
FORMATS = (1, FORMAT)
"""What a snapshot may have: format 1 had no lifetimes, all its expiries are wall times."""
MAX_READERS = 1024

HEADER = struct.Struct("<QQqQQH")
HEADER_SIZE = HEADER.size
APPLIED = struct.Struct("<QQ")
TOTALS = struct.Struct("<QQQ")

_MAP_SIZE = 256 << 30  # address space, not memory: no map ever has to be resized
_LARGEST_WRITE = 64 << 20  # more than a transaction takes: where there is more room, none of it was missing
_LOCK_FILE = (MAX_READERS + 16) * 64  # LMDB's slots of readers, and its head; a larger file only means more slots
_MAP_NAME = re.compile(r"shard-([0-9]{1,3})\.([0-9a-f]{1,16})")
_PAGES = 128 << 10  # holds two pages of whatever size
_LMDB_META = struct.Struct("<16xI4x16xI36xQ40xQ8xQ")  # magic, page size, the roots of both trees, transaction
_LMDB_MAGIC, _LMDB_NO_PAGE = 0xBEEFC0DE, (1 << 64) - 1
_unpack = HEADER.unpack_from


class MapFull(Exception):
    """The file system of the map has no room for this change, not even without the ballast. Nothing was applied."""


class MapError(Exception):
    """A map cannot be used; the message names it and says why."""


class Item(NamedTuple):
    """The content of a key; see the module's docstring. `size` is that of the value, also where it was left out.

    `expires_ms` is an expiry as it is stored, until `with_wall_times` makes a wall time of it.
    """

    revision: int
    value_revision: int
    expires_ms: int
    created_ms: int
    modified_ms: int
    content_type: str
    value: bytes
    size: int


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The store, run and shard whose view a map is."""

    format: int
    store: str
    epoch: str
    boot_id: str
    shard: int
    shards: int


def map_path(map_dir: Path, shard: int, generation: int) -> Path:
    """Return the directory of a shard's map."""
    return map_dir / f"shard-{shard}.{generation:x}"


def open_environment(
    path: Path, *, readonly: bool, subdir: bool = True, lock: bool = True, size: int = 0
) -> lmdb.Environment:
    """The LMDB environment at `path`, with as much address space as this process may have.

    With `size` it is written by way of the mapping, which has so many bytes, and the file too (see `Reserve`). Readers
    may map more.
    Raises `MapError`, and `MapFull` if there is no room for it.
    """
    writemap = size > 0
    size = size or _MAP_SIZE
    if lock and subdir and not readonly:
        _reserve_lock_file(path / "lock.mdb")
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                subdir=subdir,
                readonly=readonly,
                lock=lock,
                mode=0o600,
                sync=False,
                metasync=False,
                max_readers=MAX_READERS,
                max_dbs=4,
                max_spare_txns=2,
                create=not readonly,
                writemap=writemap,
            )
        except lmdb.MemoryError as error:
            size //= 2
            if size < 1 << 30:
                raise MapError(f"no address space for the map {path}: {error}") from None
        except lmdb.Error as error:
            failure = MapFull if not readonly and means_full(error, path) else MapError
            raise failure(f"the map {path} cannot be opened: {error}") from None


def _reserve_lock_file(path: Path) -> None:
    """Take the room of a new map's table of readers: LMDB makes a sparse file and maps it, and where there is no room
    the first touch of a page of it, by a reader too, is a SIGBUS. Raises `MapFull`."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        os.posix_fallocate(fd, 0, _LOCK_FILE)
    except OSError as error:
        path.unlink()
        if error.errno not in NO_SPACE:
            raise
        raise MapFull(f"there is no room for {path}") from None
    finally:
        os.close(fd)


def map_generations(map_dir: Path) -> list[tuple[int, int]]:
    """List shard and generation of every map in `map_dir`."""
    names = [_MAP_NAME.fullmatch(path.name) for path in map_dir.glob("shard-*.*")]
    return [(int(name[1]), int(name[2], 16)) for name in names if name]


Meta = tuple[Identity | None, tuple[int, int]]
"""Whose map it is (None: it is being filled), and what is applied to it: an LSN, a revision."""


class MetaReader(Protocol):
    """`read_meta`, or a function in its place."""

    def __call__(self, path: Path, *, subdir: bool = True) -> Meta: ...


def read_meta(path: Path, *, subdir: bool = True) -> Meta:
    """Read identity and position of the map at `path` (or, unless `subdir`, in that file).

    No process may write the map in the meantime. A forged file may end this process: see `sandbox`. Raises `MapError`.
    """
    data = path / "data.mdb" if subdir else path
    try:
        with os.fdopen(open_regular(data), "rb") as file:
            head, size = file.read(_PAGES), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise MapError(f"the map {path} cannot be read: {error.strerror}") from None
    if not is_whole(head, size):
        raise MapError(f"{data} is not a complete map: it has {size} bytes")
    environment = open_environment(path, readonly=True, subdir=subdir, lock=False)
    try:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(meta) as txn:
            return decode_identity(txn.get(b"identity"), path), _decode_applied(txn.get(b"applied"))
    except lmdb.Error as error:
        raise MapError(f"the map {path} cannot be read: {error}") from None
    finally:
        environment.close()


def is_whole(head: bytes, size: int) -> bool:
    """Whether an LMDB file of `size` bytes that begins with `head` reaches to the roots of its trees. Pure.

    Opening one that was cut is a SIGBUS. A file starts with two meta pages (a page header of 16 bytes, then magic u32,
    version u32, address u64, mapsize u64, two trees of 48 bytes each: page size u32 first, root u64 last; last page
    u64, transaction u64); the one of the later transaction counts.
    """
    if len(head) < 2 * _LMDB_META.size:
        return False
    newest = (-1, 0, 0)
    page_size = _LMDB_META.unpack_from(head)[1]
    for at in (0, page_size):
        if at + _LMDB_META.size > len(head):
            return False
        magic, page_size, free_root, main_root, transaction = _LMDB_META.unpack_from(head, at)
        if magic != _LMDB_MAGIC:
            return False
        newest = max(newest, (transaction, free_root, main_root))
    needed: int = max((root for root in newest[1:] if root != _LMDB_NO_PAGE), default=1)
    return bool((needed + 1) * page_size <= size)


def parse_record(record: memoryview) -> Item:
    """Decode the item of a record of `data`, its value copied."""
    revision, value_revision, expires_ms, created_ms, modified_ms, length = _unpack(record)
    if length:
        value_at = HEADER_SIZE + length
        content_type, value = str(record[HEADER_SIZE:value_at], "utf-8"), record[value_at:].tobytes()
    else:
        content_type, value = "", record[HEADER_SIZE:].tobytes()
    return tuple.__new__(  # the constructor that NamedTuple writes takes a fifth of a lookup's time
        Item, (revision, value_revision, expires_ms, created_ms, modified_ms, content_type, value, len(value))
    )


def with_wall_times(item: Item, now: Now) -> Item:
    """Return `item` with its times by the wall clock at `now`.

    Nothing is shown as created or modified in the future, though the clock may have said so then (RFC 9110, section
    8.8.2.1).
    """
    _, _, expiry, created_ms, modified_ms, _, _, _ = item
    wall_ms = now[0]
    if expiry >= 0 and modified_ms <= wall_ms and created_ms <= wall_ms:
        return item
    return item._replace(
        expires_ms=unix_ms(expiry, now),
        created_ms=min(created_ms, wall_ms),
        modified_ms=min(modified_ms, wall_ms),
    )


def scan(
    txn: lmdb.Transaction[memoryview], database: lmdb._Database, prefix: bytes, after: bytes | None
) -> Iterator[tuple[bytes, memoryview]]:
    """Yield key and record of the keys that start with `prefix` and are above `after`, in key order."""
    cursor = txn.cursor(database)
    start = prefix if after is None or after < prefix else after
    if not (cursor.set_range(start) if start else cursor.first()):
        return
    for key_view, record in cursor:
        key = bytes(key_view)
        if not key.startswith(prefix):
            return
        if key != after:
            yield key, record


def parse_without_value(record: memoryview) -> Item:
    """`parse_record`, with the value left empty."""
    revision, value_revision, expires_ms, created_ms, modified_ms, length = _unpack(record)
    value_at = HEADER_SIZE + length
    content_type = str(record[HEADER_SIZE:value_at], "utf-8") if length else ""
    size = len(record) - value_at
    return tuple.__new__(Item, (revision, value_revision, expires_ms, created_ms, modified_ms, content_type, b"", size))


def read_applied(txn: lmdb.Transaction[memoryview], meta: lmdb._Database) -> tuple[int, int]:
    return _decode_applied(txn.get(b"applied", db=meta))


def _decode_applied(applied: bytes | memoryview | None) -> tuple[int, int]:
    if applied is None:
        return 0, 0
    if len(applied) != APPLIED.size:
        raise MapError(f"a map says in {len(applied)} bytes what is applied to it")
    lsn, revision = APPLIED.unpack(applied)
    return lsn, revision


def decode_identity(text: bytes | None, where: Path) -> Identity | None:
    if text is None:
        return None
    try:
        identity = msgspec.json.decode(text, type=Identity)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MapError(f"the map {where} has a malformed identity record: {error}") from None
    return identity


def check_record(key: bytes, record: memoryview) -> tuple[int, int, int, int]:
    """Check that `record` is possible; return its revision, revision of the value, expiry and size.

    Raises `AssertionError`.
    """
    assert len(record) >= HEADER_SIZE, f"{key!r}: a record of {len(record)} bytes"
    revision, value_revision, expires_ms, created_ms, modified_ms, length = _unpack(record)
    assert 0 < value_revision <= revision < 1 << 53, f"{key!r}: revision {revision}, of the value {value_revision}"
    assert created_ms <= modified_ms, f"{key!r}: created at {created_ms}, modified at {modified_ms}"
    assert len(record) >= HEADER_SIZE + length, f"{key!r}: the content type has {length} bytes"
    str(record[HEADER_SIZE : HEADER_SIZE + length], "ascii")
    return revision, value_revision, expires_ms, len(record) - HEADER_SIZE - length


def means_full(error: lmdb.Error, path: Path) -> bool:
    """Whether `error`, of the map `path`, means that there is no room.

    A file system that fills up, and tmpfs above all, writes less than it was given, which LMDB calls EIO. Where there
    is room, EIO is what it says: the disk fails.
    """
    words = str(error)
    if isinstance(error, lmdb.MapFullError | lmdb.DiskError) or any(
        os.strerror(number) in words for number in (*NO_SPACE, errno.EFBIG)
    ):
        return True
    return os.strerror(errno.EIO) in words and _free_bytes_left(path) < _LARGEST_WRITE


def _free_bytes_left(path: Path) -> int:
    data = path / "data.mdb" if path.is_dir() else path
    size = data.stat().st_size if data.exists() else 0
    return min(free_bytes(data.parent), growth_left(size))
