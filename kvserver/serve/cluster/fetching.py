"""Fetches the store of another machine of the cluster: for one that needs messages which the order no longer has.

The files of a backup come in pieces over the order's process, so no further port is needed. They are put into the
directory `fetched` of the data directory. While that exists, the store is not what it should be: a start that finds it
fetches everything anew.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Final

import msgspec

from shards.backup.archive import CLUSTER, Archive, ArchiveError, RestoreTarget, find_cut
from shards.backup.restore import restore_backup
from shards.host.board import FETCHED
from shards.maps.layout import MapError, MapFull
from shards.maps.snapshot import SnapshotError
from shards.order.jetstream import JetStreamOrder
from shards.order.messages import PIECE_BYTES, Ask, Contents, Piece, Want, decode_tidings, encode_tidings

DIRECTORY: Final = FETCHED

_LISTEN_S: Final = 1.0  # for which machines are listened to before one is chosen
_REPEAT_S: Final = 2.0  # after which a piece is asked for again
_SILENCE_S: Final = 15.0  # after which a machine is given up
_PAUSE_S: Final = 2.0  # before another machine is tried
_SAY_S: Final = 10.0
_WINDOW: Final = 16  # pieces that are asked for at once
_LOOK_S: Final = 0.005
_MIB: Final = 1 << 20
_NAME: Final = re.compile(r"backup|cluster|log/[0-9]{12}\.log|snapshots/[0-9a-f]{16}-[0-9a-f]{8}/shard-[0-9]{1,3}\.mdb")

log = logging.getLogger(__name__)


class FetchError(Exception):
    """A machine cannot give its store; the message says why. Another one may."""


def fetch_store(order: JetStreamOrder, data_dir: Path) -> None:
    """Put a backup of another machine into the directory `fetched` of `data_dir`, however long that takes.

    `order`: is open. Raises `OrderError`, `OSError`.
    """
    place, said_at = data_dir / DIRECTORY, time.monotonic()
    failed: set[str] = set()
    while True:
        node = find_donor(order, failed)
        if node is None:
            failed.clear()
            if time.monotonic() >= said_at + _SAY_S:
                said_at = time.monotonic()
                log.warning("still waiting for a machine of the cluster that has the store")
            continue
        log.info("fetching the store of %s", node)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        try:
            _Transfer(order, node, place).run()
            return
        except FetchError as error:
            log.warning("the store of %s cannot be fetched, will try again: %s", node, error)
            failed.add(node)
            time.sleep(_PAUSE_S)


def restore_fetched(data_dir: Path) -> None:
    """Make `data_dir` the store that was fetched. The caller holds its lock. Raises `FetchError`, `OSError`."""
    place = data_dir / DIRECTORY
    try:
        archive = Archive.load(place)
        cut = find_cut(archive, place, RestoreTarget())
        restore_backup(archive, place, data_dir, cut, lambda done, total: None)
    except (ArchiveError, SnapshotError, MapError, MapFull) as error:
        raise FetchError(f"what another machine has sent is not its store: {error}") from None


def find_donor(order: JetStreamOrder, without: set[str]) -> str | None:
    """Listen to the others, and return the member that is furthest; None: there is none."""
    found: dict[str, int] = {}
    give_up_at = time.monotonic() + _LISTEN_S
    while time.monotonic() < give_up_at:
        order.take()
        for node, payload in order.told():
            tidings = decode_tidings(payload)
            if isinstance(tidings, Ask) and tidings.entered and node not in without:
                found[node] = tidings.applied
        time.sleep(_LOOK_S)
    return max(found, key=lambda node: found[node], default=None)


class _Transfer:
    """One backup from one machine."""

    def __init__(self, order: JetStreamOrder, node: str, place: Path) -> None:
        self._order, self._node, self._place = order, node, place
        self._transfer = secrets.randbits(62) + 1
        self._heard_at = self._said_at = time.monotonic()
        self._fetched = self._size = 0  # bytes

    def run(self) -> None:
        """Fetch all files. Raises `FetchError`, `OrderError`, `OSError`."""
        files = self._fetch_contents()
        self._size = sum(files.values())
        log.info("the store of %s has %.1f MiB to fetch", self._node, self._size / _MIB)
        for name, size in files.items():
            if not _NAME.fullmatch(name):
                raise FetchError(f"its backup has a file {name!r}, which does not belong there")
            self._fetch_file(name, size)
        for name in (CLUSTER, "backup"):
            if not (self._place / name).is_file():
                raise FetchError(f"its backup has no file {name}")

    def _fetch_contents(self) -> dict[str, int]:
        asked_at = 0.0
        while True:
            if time.monotonic() >= asked_at + _REPEAT_S / 4:
                asked_at = time.monotonic()
                self._ask("", 0)
            for piece in self._receive():
                if not piece.name and piece.piece:
                    try:
                        return msgspec.msgpack.decode(piece.piece, type=Contents).files
                    except msgspec.MsgspecError as error:
                        raise FetchError(f"its answer cannot be read: {error}") from None

    def _fetch_file(self, name: str, size: int) -> None:
        path = self._place / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        waiting: dict[int, float] = {}  # offset, and when it was asked for
        following = 0
        with path.open("wb") as file:
            while waiting or following < size:
                while len(waiting) < _WINDOW and following < size:
                    waiting[following] = 0.0
                    following += PIECE_BYTES
                now = time.monotonic()
                for offset, asked_at in waiting.items():
                    if now >= asked_at + _REPEAT_S:
                        waiting[offset] = now
                        self._ask(name, offset)
                for piece in self._receive():
                    if piece.name != name or waiting.pop(piece.offset, None) is None:
                        continue
                    if len(piece.piece) != min(PIECE_BYTES, size - piece.offset):
                        raise FetchError(f"{name} has changed")
                    file.seek(piece.offset)
                    file.write(piece.piece)
                    self._note_fetched(len(piece.piece))

    def _note_fetched(self, size: int) -> None:
        """Say now and then how far it is."""
        self._fetched += size
        if time.monotonic() >= self._said_at + _SAY_S:
            self._said_at = time.monotonic()
            log.info("fetched %.1f of %.1f MiB of the store of %s", self._fetched / _MIB, self._size / _MIB, self._node)

    def _ask(self, name: str, offset: int) -> None:
        self._order.ask(self._node, encode_tidings(Want(self._transfer, name, offset)))

    def _receive(self) -> list[Piece]:
        """Return the pieces that have come, or wait a little. Raises `FetchError` if none come."""
        self._order.take()
        found = []
        for node, payload in self._order.told():
            tidings = decode_tidings(payload)
            if node == self._node and isinstance(tidings, Piece) and tidings.transfer == self._transfer:
                self._heard_at = time.monotonic()
                if tidings.problem:
                    raise FetchError(tidings.problem)
                found.append(tidings)
        if time.monotonic() > self._heard_at + _SILENCE_S:
            raise FetchError(f"it has not answered for {_SILENCE_S:g} s")
        if not found:
            time.sleep(_LOOK_S)
        return found


def forget_fetched(data_dir: Path) -> None:
    """Remove what was fetched: the store is complete."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(data_dir / DIRECTORY)
