"""ETags and conditional requests (RFC 9110, section 13). Pure.

The ETag of a value is its revision: `"57"`, or `"57-gzip"` for that value in a content coding. Conditions take all of
them as revision 57; If-Range, which joins bytes, only the first. `W/"57"`, what a proxy that recodes makes of it, may
match where nothing is overwritten: in If-None-Match.

A tag that is no revision of ours matches nothing. A header that is no list of tags is refused: to ignore it could
overwrite what its sender wanted to keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from kvserver.api.times import parse_http_date
from shards.wire.errors import BadRequest, PreconditionFailed
from shards.wire.protocol import Condition, Revisions

_TAG = re.compile(r'(W/)?"([!#-~\x80-\xff]*)"')
_ONE_OF_OURS = re.compile(r'"([1-9][0-9]{0,18})"')
_BETWEEN = re.compile(r"[ \t]*(?:,[ \t]*)*")
_OURS = re.compile(r"([1-9][0-9]{0,18})(?:-(gzip|br|zstd|deflate))?")


class Tag(msgspec.Struct, frozen=True):
    """An ETag that this server made."""

    revision: int
    coding: str = ""
    weak: bool = False


Tags = Sequence[Tag] | Literal["*"]

_ANY: Final = "*"


class Preconditions(msgspec.Struct, frozen=True):
    """The conditions of a request. Times are Unix seconds."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None
    modified_since: int | None = None
    unmodified_since: int | None = None

    def for_shard(self) -> Condition | None:
        """Return the condition for the shard to check, None without one. Dates are not for shards."""
        if self.if_match is None and self.if_none_match is None:
            return None
        return Condition(_revisions_of(self.if_match, weak=False), _revisions_of(self.if_none_match, weak=True))

    def check(self, revision: int, modified: int) -> None:
        """Raise `PreconditionFailed` unless If-Match and If-Unmodified-Since hold for a key that has `revision`, and
        whose value was modified at `modified`, Unix seconds."""
        if self.if_match is not None:
            wanted = _revisions_of(self.if_match, weak=False)
            if wanted is not None and wanted != _ANY and revision not in wanted:
                raise PreconditionFailed("the key has another revision", revision)
        if self.unmodified_since is not None and modified > self.unmodified_since:
            raise PreconditionFailed("the key was modified since", revision)

    def fresh_codings(self, revision: int, modified: int) -> Sequence[str] | None:
        """Return the codings in which the client has the value of `revision`, modified at `modified`, Unix seconds.

        None if it does not have the value; empty if it has, in a coding it did not name.
        """
        if self.if_none_match is None:
            since = self.modified_since
            return () if since is not None and modified <= since else None
        if isinstance(self.if_none_match, str):
            return ()
        return [tag.coding for tag in self.if_none_match if tag.revision == revision] or None


_NO_PRECONDITIONS: Final = Preconditions()


def _revisions_of(tags: Tags | None, *, weak: bool) -> Revisions | None:
    if tags is None:
        return None
    if isinstance(tags, str):
        return _ANY
    return [tag.revision for tag in tags if weak or not tag.weak]


def read_conditions(header: Callable[[str], str | None]) -> Preconditions:
    """Read the conditions of a request; `header` returns its headers. Raises `BadRequest`.

    Malformed dates, and dates that come with tags, are ignored (RFC 9110, 13.1.3 and 13.1.4).
    """
    if_match = parse_tags("If-Match", header("If-Match"))
    if_none_match = parse_tags("If-None-Match", header("If-None-Match"))
    unmodified = header("If-Unmodified-Since") if if_match is None else None
    modified = header("If-Modified-Since") if if_none_match is None else None
    if if_match is None and if_none_match is None and modified is None and unmodified is None:
        return _NO_PRECONDITIONS
    return Preconditions(
        if_match,
        if_none_match,
        None if modified is None else parse_http_date(modified.strip()),
        None if unmodified is None else parse_http_date(unmodified.strip()),
    )


def parse_tags(name: str, text: str | None) -> Tags | None:
    """Return the tags of ours in the header `name`, or `*`; None without a header. Raises `BadRequest`."""
    if text is None:
        return None
    one = _ONE_OF_OURS.fullmatch(text)
    if one is not None:  # as most are
        return [Tag(int(one[1]))]
    text = text.strip(" \t")
    if text == _ANY:
        return _ANY
    tags: list[Tag] = []
    at = _skip_between(text, 0)
    while at < len(text):
        found = _TAG.match(text, at)
        end = _skip_between(text, found.end()) if found else 0
        if found is None or (end < len(text) and "," not in text[found.end() : end]):
            raise BadRequest(f'{name}: expected a list of quoted ETags, like "57", or *')
        ours = _OURS.fullmatch(found[2])
        if ours:
            tags.append(Tag(int(ours[1]), ours[2] or "", bool(found[1])))
        at = end
    return tags


def _skip_between(text: str, at: int) -> int:
    between = _BETWEEN.match(text, at)
    return between.end() if between else at


def etag(revision: int, coding: str = "") -> str:
    """Return the ETag of a value in a content coding, empty for none."""
    return f'"{revision}-{coding}"' if coding else f'"{revision}"'


def may_join(if_range: str | None, revision: int) -> bool:
    """Whether a range may be sent: If-Range is absent, or names exactly the bytes of `revision`."""
    return if_range is None or if_range.strip() == etag(revision)
