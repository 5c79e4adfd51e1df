"""Paths as text that JSON can carry: the name of a file is bytes, and need not be UTF-8."""

from __future__ import annotations

import os

_MARK = "\0"  # no path has it


def path_to_text(path: str) -> str:
    """Encode `path`, as Python names it, as text that is UTF-8: itself if possible. `text_to_path` decodes it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _MARK + os.fsencode(path).hex()
    return path


def text_to_path(text: str) -> str:
    """Decode a path that `path_to_text` encoded. Raises ValueError for any other text."""
    return os.fsdecode(bytes.fromhex(text.removeprefix(_MARK))) if text.startswith(_MARK) else text
