"""The file that keeps a cursor, so that a watch continues where the last one ended."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 8192


class CursorFile:
    """A file with one cursor. It always holds a whole cursor, after a crash of the machine too."""

    def __init__(self, path: Path) -> None:
        """`path`: made at the first `save`, if it is not there."""
        self._path = path
        self._saved: str | None = None

    def load(self) -> str | None:
        """Return the cursor, or None if there is no file or nothing in it. Raises `OSError`, `ValueError`."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1).decode("ascii", "strict").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise ValueError(f"{self._path} holds no cursor") from None
        if len(text) >= _MOST_BYTES or any(letter.isspace() or not letter.isprintable() for letter in text):
            raise ValueError(f"{self._path} holds no cursor")
        return text or None

    def save(self, cursor: str) -> None:
        """Replace the content, and return when it is on the disk. Raises `OSError`."""
        if cursor == self._saved:
            return
        directory = self._path.parent
        fd, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=directory)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(f"{cursor}\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        _sync_directory(directory)
        self._saved = cursor


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
