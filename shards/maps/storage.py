"""The file of a map as its owner holds it: transactions that make room for themselves, and how much room is left.

In memory a map is written by way of its mapping, and its file is filled before; on a disk by system calls. A
transaction that finds no room lets the file grow, then drops the ballast, and only then fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import lmdb

from shards.maps.layout import MapError, MapFull, means_full, open_environment
from shards.maps.space import (
    GROWTH_BYTES,
    Ballast,
    PinWatch,
    Reserve,
    free_bytes,
    growth_left,
    in_memory,
    parse_readers,
)

T = TypeVar("T")


class MapStorage:
    """The LMDB environment of a map, open to its one writer.

    Attributes:
        env: the environment; for reads. Writes go through `transact`.
        data, meta, outcomes, identities: its databases, see `layout`.
        ballast: the file that is dropped when there is no room; None: no ballast.
    """

    def __init__(self, path: Path, ballast: Path | None = None) -> None:
        """Open the map at `path`, or make an empty one there. Raises `MapFull`, `MapError`."""
        self.path = path
        self._reserve, self.env = _open_to_write(path)
        self.ballast = Ballast(ballast) if ballast else None
        self.data, self.meta = self._open_database(b"data"), self._open_database(b"meta")
        self.outcomes, self.identities = self._open_database(b"outcomes"), self._open_database(b"identities")
        self._pins = PinWatch()

    def transact(self, write: Callable[[lmdb.Transaction[memoryview]], T]) -> T:
        """Run `write` in one transaction on `data`, commit it, and return its result.

        May run it several times: where there is no room, the file grows, then the ballast is dropped. Raises `MapFull`
        if neither helps, `MapError` if LMDB fails otherwise; then nothing is written.
        """
        growth = GROWTH_BYTES
        while True:
            try:
                with self.env.begin(self.data, None, True, True) as txn:
                    return write(txn)
            except lmdb.Error as error:
                is_full = means_full(error, self.path)
                if not (is_full and self._grow_or_drop_ballast(growth)):
                    raise (MapFull if is_full else MapError)(f"{self.path}: {error}") from None
                growth *= 2

    @property
    def full(self) -> bool:
        """Whether the ballast had to be dropped: what grows must be refused until `restore_ballast` succeeds."""
        return self.ballast is not None and not self.ballast.there

    def restore_ballast(self) -> bool:
        """Put the ballast back if there is room again; whether it is there now."""
        return self.ballast is None or self.ballast.restore()

    def free_bytes(self) -> int:
        """Return how much the map can take: its free pages, and what file system and memory still give."""
        used = self.size_bytes()
        size = self._reserve.size if self._reserve is not None else used
        return size - used + self.spare_bytes() + min(free_bytes(self.path), growth_left(size))

    def spare_bytes(self) -> int:
        """Return the bytes of the map's free pages. Old readers may still need some, and few of them may be
        adjacent.
        """
        with self.env.begin() as txn:
            databases = self.data, self.meta, self.outcomes, self.identities
            stats = [txn.stat(), *map(txn.stat, databases)]
        used = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return max(self.env.info()["last_pgno"] - 1 - used, 0) * stats[0]["psize"]

    def size_bytes(self) -> int:
        """Return the bytes of the map's file, free pages included."""
        return (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]

    def reader_check(self) -> int:
        """Free the slots of readers that died, and return their number."""
        return self.env.reader_check()

    def pinning_readers(self, now_s: float) -> list[tuple[int, float]]:
        """Readers that keep old pages while the map grows: pid, and for how many seconds. Call it once a second."""
        return self._pins.observe(now_s, parse_readers(self.env.readers()), self.env.info()["last_pgno"])

    def close(self) -> None:
        """Close the environment; the map stays."""
        self.env.close()
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None

    def _open_database(self, name: bytes) -> lmdb._Database:
        """Open a database, or make it: maps of versions before it may be full. Raises `MapFull`, `MapError`."""
        growth = GROWTH_BYTES
        while True:
            try:
                return self.env.open_db(name)
            except lmdb.Error as error:
                is_full = means_full(error, self.path)
                if not (is_full and self._grow_or_drop_ballast(growth)):
                    self.close()
                    failure = MapFull if is_full else MapError
                    raise failure(f"{self.path}: {error}") from None
                growth *= 2

    def _grow_or_drop_ballast(self, growth: int) -> bool:
        """Let the map grow, and drop the ballast if it cannot; False if neither can be done."""
        if self._reserve is not None and self._reserve.grow(growth):
            self.env.set_mapsize(self._reserve.size)
            return True
        return self.ballast is not None and self.ballast.drop()


def _open_to_write(path: Path) -> tuple[Reserve | None, lmdb.Environment]:
    """The environment at `path`, which is made if it is not there. In memory it is written by way of its mapping, which
    applies a group in half the time; where there is no room for that, and on a disk, by system calls."""
    data = path / "data.mdb"
    if not in_memory(path):
        return None, open_environment(path, readonly=False)
    if not data.exists() or data.stat().st_size == 0:
        open_environment(path, readonly=False).close()
    try:
        reserve = Reserve(data)
    except OSError:
        return None, open_environment(path, readonly=False)
    try:
        return reserve, open_environment(path, readonly=False, size=reserve.size)
    except BaseException:
        reserve.close()
        raise
