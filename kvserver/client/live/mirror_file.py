"""The copy of a mirror in a file: JSON, of this program alone."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kvserver.client.core.answers import moment_of
from kvserver.client.core.feed.copy import Copy
from kvserver.client.core.values import moment_text
from kvserver.client.errors import ForeignAnswer
from kvserver.client.model import Entry

_FORMAT: Final = 1


def save_copy(path: Path, prefix: str, cursor: str, entries: Iterable[Entry]) -> None:
    """Write a copy, which only this user may read; a reader sees the old file or the new one. Raises `OSError`."""
    document = {
        "mirror": _FORMAT,
        "prefix": prefix,
        "cursor": cursor,
        "entries": [
            {
                "key": entry.key,
                "value": base64.b64encode(entry.value).decode(),
                "revision": entry.revision,
                "content_type": entry.content_type,
                "expires": _text(entry.expires),
                "modified": _text(entry.modified),
            }
            for entry in entries
        ],
    }
    handle, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_copy(path: Path, prefix: str) -> Copy:
    """Read a copy; an empty one if there is no file. Raises `ValueError` for another file, or of another prefix."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Copy()
    try:
        document = json.loads(text)
        if document["mirror"] != _FORMAT:
            raise ValueError("of another version")
        if document["prefix"] != prefix:
            raise ValueError(f"of the prefix {document['prefix']!r}, not {prefix!r}")
        entries = [_entry_of(row) for row in document["entries"]]
        return Copy(str(document["cursor"]), {entry.key: entry for entry in entries})
    except (ValueError, KeyError, TypeError, ForeignAnswer) as error:
        raise ValueError(f"{path} is not the file of this mirror: {error}; delete it to start over") from None


def _entry_of(row: dict[str, Any]) -> Entry:
    value = base64.b64decode(row["value"], validate=True)
    times = (moment_of(row["expires"]), moment_of(row["modified"]))
    return Entry(str(row["key"]), value, int(row["revision"]), str(row["content_type"]), *times)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
