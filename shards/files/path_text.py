"""Paths as text that JSON can carry: the name of a file is bytes, and need not be UTF-8."""

from __future__ import annotations

import os

_MARK = "\0"  # no path has it


def path_to_text(path: str) -> str:
    """`path`, as Python names it, as text of UTF-8; `text_to_path` turns it back. It is itself if it can be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _MARK + os.fsencode(path).hex()
    return path


def text_to_path(text: str) -> str:
    """The path that `text`, made by `path_to_text`, is about. Raises ValueError for what it cannot have made."""
    return os.fsdecode(bytes.fromhex(text.removeprefix(_MARK))) if text.startswith(_MARK) else text
