"""What can be said of a JSON text, readable or not: byte order mark, error in words, number of members. Pure.

Web workers check bodies with these functions, and shards the values that a patch changes: both report alike.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAX_DEPTH: Final = 512
"""Levels of JSON that a patch works on. How deep an interpreter can go varies; this limit does not. Of a large document
only those that the patch names count."""
TOO_DEEP: Final = f"it is nested more than {MAX_DEPTH} levels deep"
EXPLAINED_BYTES: Final = 256 << 10
"""Bytes of the largest text in which an error is located: that takes ten times as long as to detect it."""

_UNENDED_STRING = re.compile(r'"(?:[^"\\]|\\.)*\\?\Z', re.DOTALL)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def strip_byte_order_mark(text: bytes) -> bytes:
    """Return `text` without the byte order mark of some editors, which RFC 8259, section 8.1, allows to ignore."""
    if not text.startswith(_BYTE_ORDER_MARK):
        return text  # `removeprefix` of a bytearray would copy it
    return text[len(_BYTE_ORDER_MARK) :]


def explain_unreadable(text: bytes) -> str:
    """Say in plain words why msgspec cannot read `text` as JSON. A library's own words may change with any version."""
    if len(text) > EXPLAINED_BYTES:
        return "it is malformed, or breaks off"
    try:
        characters = text.decode()
        json.loads(characters, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        broken_off = error.pos >= len(characters.rstrip()) or _UNENDED_STRING.match(characters, error.pos)
        return "it breaks off" if broken_off else f"syntax error at character {error.pos}"
    except RecursionError:
        return TOO_DEEP
    except _NotANumber:
        return "NaN and Infinity are not JSON"
    except ValueError:
        return "a whole number has more than 4,300 digits"
    return "it has half a pair of surrogates, which is no text"


class _NotANumber(ValueError):
    """A constant that the standard library accepts as a number."""


def _refuse_constant(_name: str) -> None:
    raise _NotANumber


def count_colons(text: bytes) -> int:
    """Count the colons of the JSON `text`, with its escapes decoded.

    Each member has one, and those in strings survive decoding and encoding. So the count shrinks if, and only if, a
    member was lost on the way: decoders keep one of several members of the same name.
    """
    if b"\\" not in text:
        return text.count(b":")
    single = text.replace(b"\\\\", b"")  # now each backslash begins an escape
    return single.count(b":") + single.count(b"\\u003a") + single.count(b"\\u003A")
