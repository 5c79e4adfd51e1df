"""Words of a command line as values: durations, revisions, content types. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:  # older click has no type arguments
    _Seconds = click.ParamType[float]
    _Whole = click.ParamType[int]
    _Word = click.ParamType[str]
else:
    _Seconds = _Whole = _Word = click.ParamType

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "": 1.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw]?)", re.ASCII)
_LONGEST: Final = 40

TYPES: Final = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "bytes": "application/octet-stream",
}
"""Short names of content types."""


def parse_duration(text: str) -> float:
    """Return the seconds that `30`, `30s`, `500ms`, `1.5h` or `1h30m` say. Raises `ValueError`."""
    word = text.strip().lower()
    parts = _PART.findall(word) if len(word) < _LONGEST else []
    units = [unit for _, unit in parts]
    if not parts or "".join(number + unit for number, unit in parts) != word or (len(parts) > 1 and "" in units):
        raise ValueError(f"{text!r} is not a duration: write 30s, 500ms, 15m, 12h, 7d or 1h30m")
    if len(set(units)) < len(units):
        raise ValueError(f"{text!r} names a unit twice")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def content_type_of(word: str) -> str:
    """Return the content type that `json`, `text`, `bytes` or a type itself says."""
    return TYPES.get(word, word)


class Duration(_Seconds):
    """Seconds, as `parse_duration` reads them."""

    name = "duration"

    def __init__(self, above_zero: bool = False) -> None:
        """`above_zero`: nothing is no such duration."""
        self._above_zero = above_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds. Raises `click.BadParameter`."""
        if isinstance(value, (int, float)):
            return float(value)
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._above_zero and seconds <= 0:
            self.fail(f"{value!r} is not a valid time: it must be above 0", param, ctx)
        return seconds


class Revision(_Whole):
    """A revision: a whole number from 0, which means that the key is absent."""

    name = "revision"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Raises `click.BadParameter`."""
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-9]{1,19}", value, re.ASCII):
            self.fail(f"{value!r} is not a revision: `kvserver get --revision-only KEY` prints a key's", param, ctx)
        return int(value)


class ContentType(_Word):
    """A content type, or a short name of one."""

    name = "type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type; the server refuses what is none."""
        return content_type_of(value)
