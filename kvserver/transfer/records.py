"""Items as lines of JSON, and lines as the operations of batches. Pure.

A line is an item of a list (`GET /v1/kv?values=true`): `key`, either `value` or `value_base64`, and optionally
`content_type` and `expires`. Other members of a list's items are accepted and ignored.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvserver.api.scan import duplicate_names
from kvserver.api.times import parse_expires, rfc3339
from shards.wire.errors import BadRequest
from shards.wire.json_text import explain_unreadable, strip_byte_order_mark
from shards.wire.keys import MAX_CONTENT_TYPE, MAX_KEY, is_content_type

LINE_BYTES: Final = 256 << 20
"""Longest line in bytes: the largest value with every byte escaped."""
BATCH_RECORDS: Final = 1000
BATCH_BYTES: Final = 56 << 10
"""Limits of a batch, the latter of its lines; a single larger record forms its own batch. A server takes a batch of
up to 64 KiB on its hot path."""


class LineError(Exception):
    """A record that cannot be imported: `line`, counted from 1, and `why`."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line, self.why = line, why


class _Line(Struct, forbid_unknown_fields=True, gc=False):
    key: str
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    content_type: str | UnsetType | None = UNSET
    expires: str | UnsetType | None = UNSET
    revision: Raw | UnsetType = UNSET
    size: Raw | UnsetType = UNSET
    created: Raw | UnsetType = UNSET
    modified: Raw | UnsetType = UNSET


class PutOperation(Struct, tag_field="op", tag="put", omit_defaults=True, gc=False):
    """Operation of a MessagePack batch that stores a record."""

    key: str
    value: bytes
    content_type: str | UnsetType = UNSET
    expires: str | UnsetType = UNSET


class ImportRecord(Struct, frozen=True, gc=False):
    """A parsed line.

    Attributes:
        line: its number in the file, from 1.
        length: its length in bytes.
        put: what stores it.
    """

    line: int
    length: int
    put: PutOperation

    @property
    def key(self) -> str:
        """The key of the item."""
        return self.put.key

    @property
    def expires(self) -> bool:
        """Whether it has an expiry."""
        return self.put.expires is not UNSET


_read_line: Final = msgspec.json.Decoder(_Line).decode
_pack: Final = msgspec.msgpack.Encoder().encode


def read_record(number: int, text: bytes) -> ImportRecord:
    """Parse line `number`, which is `text`. Raises `LineError`."""
    length, text = len(text), strip_byte_order_mark(text)
    try:
        line = _read_line(text)
        if text.count(b":") != _count_members(line) and duplicate_names.JSON.may_be(text, line):
            duplicate_names.refuse_in_json(text)
    except BadRequest as error:
        raise LineError(number, error.detail) from None
    except msgspec.ValidationError as error:
        raise LineError(number, str(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise LineError(number, f"not JSON: {explain_unreadable(text)}") from None
    try:
        put = PutOperation(
            _checked_key(line.key),
            _decode_value(line),
            _checked_content_type(line.content_type),
            _normal_expires(line.expires),
        )
    except BadRequest as error:
        raise LineError(number, error.detail) from None
    return ImportRecord(number, length, put)


def _count_members(line: _Line) -> int:
    """Count the members of `line` that an export writes. Each has a colon: a line with no more colons has no other
    member, and none twice."""
    has_type, has_expiry = line.content_type is not UNSET, line.expires is not UNSET
    return 1 + (line.value is not UNSET) + (line.value_base64 is not UNSET) + has_type + has_expiry


def _checked_key(key: str) -> str:
    size = len(key) if key.isascii() else len(key.encode())
    if not 0 < size <= MAX_KEY:
        raise BadRequest(f"the key has {size} bytes; a key has 1 to {MAX_KEY}")
    return key


def _decode_value(line: _Line) -> bytes:
    if (line.value is UNSET) == (line.value_base64 is UNSET):
        raise BadRequest("give exactly one of `value` and `value_base64`")
    if line.value is not UNSET:
        return line.value.encode()
    assert line.value_base64 is not UNSET
    try:
        return b64decode(line.value_base64, validate=True)
    except ValueError:
        raise BadRequest("value_base64: expected padded Base64 (RFC 4648, section 4)") from None


def _checked_content_type(text: str | UnsetType | None) -> str | UnsetType:
    if not text:
        return UNSET
    if not is_content_type(text):
        raise BadRequest(f"content_type: expected a media type of at most {MAX_CONTENT_TYPE} ASCII characters")
    return text


def _normal_expires(text: str | UnsetType | None) -> str | UnsetType:
    if text is None or text is UNSET:
        return UNSET
    try:
        return rfc3339(parse_expires(text))
    except BadRequest as error:
        raise BadRequest(f"expires: {error.detail}") from None


@dataclass(slots=True)
class ImportBatch:
    """Records with distinct keys. `size`: bytes of their lines."""

    records: list[ImportRecord] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    size: int = 0

    def add(self, record: ImportRecord) -> None:
        """Append `record`."""
        self.records.append(record)
        self.keys.add(record.put.key)
        self.size += record.length


def group_into_batches(
    records: Iterable[ImportRecord], most: int = BATCH_RECORDS, most_bytes: int = BATCH_BYTES
) -> Iterator[ImportBatch]:
    """Group `records`, in order, into batches of at most `most` records and `most_bytes` bytes.

    No key occurs twice in a batch: a retry of the first record could overwrite the second. A `LineError` of `records`
    is raised after the batch of the preceding records.
    """
    batch = ImportBatch()
    try:
        for record in records:
            is_full = batch.size + record.length > most_bytes or len(batch.records) >= most
            if batch.records and (is_full or record.put.key in batch.keys):
                yield batch
                batch = ImportBatch()
            batch.add(record)
    except LineError:
        if batch.records:
            yield batch
        raise
    if batch.records:
        yield batch


def body_of(records: list[ImportRecord]) -> bytes:
    """Encode the batch that stores `records` in MessagePack."""
    return _pack({"ops": [record.put for record in records]})


class StreamEnd(Struct):
    """End marker of a complete list stream: its number of items."""

    items: int


class StreamError(Struct):
    """Error marker of a list stream that broke off."""

    title: str = ""
    detail: str = ""


class StreamLine(Struct):
    """Line of a list stream: an item, or the last line."""

    key: str = ""
    content_type: str | None = None
    expires: str | None = None
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    end: StreamEnd | None = None
    error: StreamError | None = None


class _Exported(Struct):
    key: str
    content_type: str | None
    expires: str | None
    value: str | UnsetType
    value_base64: str | UnsetType


read_streamed: Final = msgspec.json.Decoder(StreamLine).decode
"""Parse a line of a stream. Raises `msgspec.DecodeError`, `ValueError`."""
_write_line: Final = msgspec.json.Encoder().encode


_OBEYED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that JSON allows in strings and terminals interpret; see `shards.host.logs.escape_controls`."""


def escape_controls(line: bytes) -> bytes:
    """Escape the control characters of a line of JSON; its meaning and its end stay the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()


def write_item(item: StreamLine) -> bytes:
    """Format `item` as a line of an export, without members that depend on the store."""
    line = _Exported(item.key, item.content_type, item.expires, item.value, item.value_base64)
    return _write_line(line) + b"\n"


def lines_of(pieces: Iterable[bytes], most_bytes: int = LINE_BYTES) -> Iterator[bytes]:
    """Yield the lines, without their ends, of a text that arrives in `pieces`; drop an incomplete last line.

    Raises `ValueError` for a line of more than `most_bytes`.
    """
    begun: list[bytes] = []
    size = 0
    for piece in pieces:
        first, *following = piece.split(b"\n")
        begun.append(first)
        size += len(first)
        if size > most_bytes:
            raise ValueError(f"a line has more than {most_bytes} bytes")
        if following:
            yield b"".join(begun)
            yield from following[:-1]
            begun, size = [following[-1]], len(following[-1])
