"""Times as clients write and read them: lifetimes, RFC 3339, HTTP dates. Pure.

Everything inside counts in milliseconds of Unix time; HTTP's dates in seconds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from shards.wire.errors import BadRequest
from shards.wire.keys import MAX_TTL_MS

_TTL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?", re.ASCII)
# The sign of an offset may have come as a space: that is what a plus in a query means to forms.
_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+ -])([0-9]{2}):([0-9]{2}))"
)
_HTTP_DATES: Final = (
    re.compile(r"[A-Z][a-z]{2}, (?P<d>[0-9]{2}) (?P<m>[A-Z][a-z]{2}) (?P<y>[0-9]{4}) (?P<t>[0-9:]{8}) GMT"),
    re.compile(r"[A-Z][a-z]{5,8}, (?P<d>[0-9]{2})-(?P<m>[A-Z][a-z]{2})-(?P<y>[0-9]{2}) (?P<t>[0-9:]{8}) GMT"),
    re.compile(r"[A-Z][a-z]{2} (?P<m>[A-Z][a-z]{2}) (?P<d>[0-9 ][0-9]) (?P<t>[0-9:]{8}) (?P<y>[0-9]{4})"),
)
"""IMF-fixdate, RFC 850 and asctime, all of which RFC 9110 wants to be read."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999
"""The last millisecond that a year of four digits can name."""


def parse_ttl(text: str) -> int:
    """Read a lifetime, in seconds with up to three decimals, above 0, at most ten years; return milliseconds.

    Raises `BadRequest`.
    """
    found = _TTL.fullmatch(text)
    ttl_ms = int(found[1]) * 1000 + int((found[2] or "").ljust(3, "0")) if found else 0
    if not 0 < ttl_ms <= MAX_TTL_MS:
        raise BadRequest("a lifetime is in seconds, above 0 and at most ten years, with up to three decimals")
    return ttl_ms


def parse_rfc3339(text: str) -> int:
    """Read a time like `2026-11-22T11:40:00.123Z`; return Unix milliseconds, without further decimals.

    A second 60 is read where there can be one, as the last of a month in UTC, and means the second after it.
    Raises `BadRequest`; also for times before 1970.
    """
    found = _RFC_3339.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        day, minute, second, fraction, sign, hours, minutes = found.groups()
        leap = second == "60"
        moment = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}+00:00") - _EPOCH
        if sign:
            if int(hours) > 23 or int(minutes) > 59:
                raise ValueError
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            moment += offset if sign == "-" else -offset
        if leap:
            moment += timedelta(seconds=1)
            if moment % timedelta(days=1) or (_EPOCH + moment).day != 1:
                raise ValueError
    except (ValueError, OverflowError):  # the last leap second of the year 9999
        raise BadRequest("a time is written as in RFC 3339, like 2026-11-22T11:40:00.123Z") from None
    milliseconds = moment // timedelta(seconds=1) * 1000 + int((fraction or "")[:3].ljust(3, "0"))
    if milliseconds < 0:
        raise BadRequest("the time is before 1970")
    return milliseconds


def parse_expires(text: str) -> int:
    """Read an expiry as `parse_rfc3339` does, but never return 0, which means no expiry. Raises `BadRequest`."""
    return max(parse_rfc3339(text), 1)


def rfc3339(unix_ms: int) -> str:
    """Return a time as `2026-11-22T11:40:00.123Z`; for times after the year 9999, its last millisecond."""
    unix_ms = min(unix_ms, _LAST_MS)
    return f"{_format_second(unix_ms // 1000)}.{unix_ms % 1000:03}Z"


@lru_cache(4096)  # lists are full of times that lie close together
def _format_second(unix_s: int) -> str:
    minutes, seconds = divmod(unix_s, 60)
    return f"{_format_minute(minutes)}:{seconds:02}"


@lru_cache(4096)
def _format_minute(minutes: int) -> str:
    return (_EPOCH + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M")


def http_date(unix_ms: int) -> str:
    """Return a time as `Sun, 22 Nov 2026 11:40:00 GMT`, in any locale."""
    return _format_http_date(min(unix_ms, _LAST_MS) // 1000)


@lru_cache(maxsize=4096)
def _format_http_date(unix_s: int) -> str:
    moment = _EPOCH + timedelta(seconds=unix_s)
    return f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year} {moment:%H:%M:%S} GMT"


def parse_http_date(text: str) -> int | None:
    """Read an HTTP date in any of its three forms; return Unix seconds, None for malformed dates."""
    found = next((found for form in _HTTP_DATES if (found := form.fullmatch(text))), None)
    if found is None or found["m"] not in _MONTHS:
        return None
    year = int(found["y"])
    if len(found["y"]) == 2:
        year += 1900 if year >= 70 else 2000
    try:
        hour, minute, second = map(int, found["t"].split(":"))
        moment = datetime(
            year, _MONTHS.index(found["m"]) + 1, int(found["d"]), hour, minute, min(second, 59), tzinfo=UTC
        )
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(seconds=1) + (second == 60)
