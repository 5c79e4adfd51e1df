"""Gives a machine of the cluster that begins anew a backup of this one's store, in the pieces that it asks for.

One backup at a time, in a directory below `donation` of the data directory; a process of its own takes it. It is
removed when nobody has asked for a while, and when another machine asks: by a thread, since to remove gigabytes takes
longer than the shard's loop may be away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from shards.host.process import PARENT_VARIABLE
from shards.order.messages import PIECE_BYTES, Contents, Piece, Want

DIRECTORY: Final = "donation"
IDLE_S: Final = 60.0
"""For which a backup is kept after the last request."""

log = logging.getLogger("shards")


class Donor:
    """Of the store in `data_dir`. Every method takes the time, by `time.monotonic`."""

    def __init__(self, data_dir: Path) -> None:
        self._all = data_dir / DIRECTORY
        self._place = self._all / "0"
        self._transfer = 0  # 0: there is no backup
        self._node = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._files: dict[str, int] = {}
        self._asked_at = 0.0
        shutil.rmtree(self._all, ignore_errors=True)

    def answer(self, node: str, want: Want, now: float) -> Piece:
        """Return the piece that `node` wants; an empty one while the backup is being taken."""
        if self._transfer != want.transfer:
            if self._transfer and self._node != node:
                return self._refuse(want, f"it gives a backup to {self._node} at the moment")
            self._begin(node, want.transfer)
        self._asked_at = now
        try:
            return self._read(want)
        except OSError as error:
            self.drop()
            return self._refuse(want, f"its backup cannot be read: {error.strerror}")

    def look(self, now: float) -> None:
        """Remove the backup if nobody asks for it any more. To be called every second or so."""
        if self._transfer and now >= self._asked_at + IDLE_S:
            self.drop()

    def drop(self) -> None:
        """Give the backup up, and begin to remove it."""
        if self._transfer:
            threading.Thread(target=_remove, args=(self._process, self._place), name="donor", daemon=True).start()
        self._process, self._transfer, self._files = None, 0, {}

    def _begin(self, node: str, transfer: int) -> None:
        self.drop()
        log.info("taking a backup for %s, which begins anew", node)
        self._transfer, self._node, self._place = transfer, node, self._all / f"{transfer:x}"
        environ = os.environ | {PARENT_VARIABLE: str(os.getpid())}
        with contextlib.suppress(OSError):  # then there is no backup, which is said
            self._all.mkdir(mode=0o700, exist_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shards.backup.donate", str(self._place)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=2,
                process_group=0,
            )

    def _read(self, want: Want) -> Piece:
        if self._process is None or self._process.poll():
            self.drop()
            return self._refuse(want, "it could not take a backup: its log says why")
        if self._process.returncode is None:
            return Piece(want.transfer, want.name, want.offset, b"")
        if not self._files:
            self._files = {
                path.relative_to(self._place).as_posix(): path.stat().st_size
                for path in self._place.rglob("*")
                if path.is_file()
            }
        if not want.name:
            piece = msgspec.msgpack.encode(Contents(self._files))
        elif want.name not in self._files:
            return self._refuse(want, f"its backup has no file {want.name!r}")
        else:
            with (self._place / want.name).open("rb") as file:
                piece = os.pread(file.fileno(), PIECE_BYTES, want.offset)
        return Piece(want.transfer, want.name, want.offset, piece)

    @staticmethod
    def _refuse(want: Want, problem: str) -> Piece:
        return Piece(want.transfer, want.name, want.offset, b"", problem)


def _remove(process: subprocess.Popen[bytes] | None, place: Path) -> None:
    """End the process that takes a backup, and remove what there is of it."""
    if process is not None:
        process.kill()
        process.wait()
    shutil.rmtree(place, ignore_errors=True)
