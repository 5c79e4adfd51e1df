"""What `--json` prints: the API's items. Pure."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from typing import Any

from kvserver.client.model import Entry, Item, Meta
from kvserver.commands.parts.texts import moment_text


def value_member(value: bytes) -> dict[str, str]:
    """Return a value as the API does: `value` if it is UTF-8, else `value_base64`."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": b64encode(value).decode()}


def entry_document(entry: Entry) -> dict[str, Any]:
    """Return an entry as an item of a list, with its value."""
    return {**_document(entry, len(entry.value)), **value_member(entry.value)}


def meta_document(meta: Meta) -> dict[str, Any]:
    """Return what is known of a key as an item of a list."""
    return _document(meta, meta.size)


def item_document(item: Item) -> dict[str, Any]:
    """Return an item of a list."""
    document = {
        "key": item.key,
        "revision": item.revision,
        "size": item.size,
        "content_type": item.content_type,
        "created": _time(item.created),
        "modified": _time(item.modified),
        "expires": _time(item.expires),
    }
    return document if item.value is None else {**document, **value_member(item.value)}


def _document(entry: Entry | Meta, size: int) -> dict[str, Any]:
    return {
        "key": entry.key,
        "revision": entry.revision,
        "size": size,
        "content_type": entry.content_type,
        "modified": _time(entry.modified),
        "expires": _time(entry.expires),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment_text(moment)
