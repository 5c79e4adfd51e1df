"""Batches as clients write them, JSON or MessagePack: their schema, and what becomes of it for shards.

Pure. The structs are the schema: whatever they do not name is refused, and a batch with one malformed operation is
refused whole, since a client that writes one thing wrong may mean another. What need not be given is UNSET where it is
not: so a struct that is written again has as many members as its text had, unless one of them came twice.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct

from kvserver import doubles
from kvserver.doubles import Doubles
from kvserver.query import SECONDS, TIME
from kvserver.times import parse_expires, parse_ttl
from shards.edits import why_unreadable
from shards.errors import BadKey, BadRequest, CrossSlot
from shards.limits import MAX_CONTENT_TYPE, MAX_KEY, MEDIA_TYPE, is_content_type
from shards.protocol import BATCH_OPS, MUST_NOT_EXIST, Condition, OfOneKey
from shards.protocol import Delete as ShardDelete
from shards.protocol import Get as ShardGet
from shards.protocol import Incr as ShardIncr
from shards.protocol import Patch as ShardPatch
from shards.protocol import Put as ShardPut
from shards.protocol import Touch as ShardTouch
from shards.slots import slot_of

Revision = Annotated[
    int,
    Meta(ge=0, le=(1 << 63) - 1, description="Only if the key has this revision; 0: only if there is no such key."),
]
By = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1, extra_json_schema={"default": 1})]
Key = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_KEY})]
Seconds = Annotated[float, Meta(extra_json_schema=SECONDS.schema)]
Time = Annotated[str, Meta(extra_json_schema=TIME.schema)]
Base64 = Annotated[
    str,
    Meta(
        extra_json_schema={
            "contentEncoding": "base64",
            "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        }
    ),
]
Yes = Annotated[bool, Meta(extra_json_schema={"enum": [True]})]
Operations = Annotated[list[Raw], Meta(extra_json_schema={"maxItems": BATCH_OPS})]
Atomic = Annotated[bool, Meta(extra_json_schema={"default": False})]
ContentType = Annotated[
    str,
    Meta(
        description="Media type of the value; without it octets, and JSON for `json`.",
        extra_json_schema={"pattern": MEDIA_TYPE, "maxLength": MAX_CONTENT_TYPE},
    ),
]

JSON_CONTENT: Final = "application/json"
"""The type of a value that was given as JSON, unless another is given."""


class _Operation(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", gc=False):
    key: Key


class _Conditional(_Operation, kw_only=True):
    if_revision: Revision | UnsetType = UNSET

    def condition(self) -> Condition | None:
        """0: the key must not exist."""
        if self.if_revision is UNSET:
            return None
        return Condition(if_match=[self.if_revision]) if self.if_revision else MUST_NOT_EXIST


class _Expiring(_Conditional, kw_only=True):
    ttl: Seconds | UnsetType = UNSET
    expires: Time | UnsetType = UNSET

    def expiry(self) -> tuple[int, int]:
        """`ttl_ms` and `expires_ms`."""
        if self.ttl is not UNSET and self.expires is not UNSET:
            raise BadRequest("either ttl or expires, not both")
        expires_ms = 0 if self.expires is UNSET else parse_expires(self.expires)
        return _ttl_ms(self.ttl), expires_ms


class Get(_Operation, tag="get"):
    """The value."""


class _Put(_Expiring, kw_only=True):
    json: Raw | UnsetType = UNSET
    content_type: ContentType | UnsetType = UNSET


class PutInJson(_Put, tag="put", kw_only=True):
    """Store one of `value`, `json` and `value_base64`."""

    value: str | UnsetType = UNSET
    value_base64: Base64 | UnsetType = UNSET


class PutInMessagePack(_Put, tag="put", kw_only=True):
    """Store `value`, which is of type bin, or `json`, any value, as JSON."""

    value: bytes | UnsetType = UNSET


class Delete(_Conditional, tag="delete"):
    """Delete the key."""


class Touch(_Expiring, tag="touch", kw_only=True):
    """Change the expiry alone: one of `ttl`, `expires` and `persist`."""

    persist: Yes | UnsetType = UNSET


class Incr(_Conditional, tag="incr", kw_only=True):
    """Add to the whole number that the key holds; an absent key holds 0, and gets the lifetime `ttl_if_new`."""

    by: By | UnsetType = UNSET
    ttl_if_new: Seconds | UnsetType = UNSET


class Patch(_Conditional, tag="patch", kw_only=True):
    """Change the JSON that the key holds by a merge patch (RFC 7396); an absent key holds `{}`."""

    patch: Raw


class Envelope(Struct, forbid_unknown_fields=True):
    """Operations, each for itself, or all or nothing: then on keys of one slot, that is with one `{tag}`."""

    ops: Operations
    atomic: Atomic | UnsetType = UNSET

    @property
    def is_atomic(self) -> bool:
        """Whether all of it is done, or nothing."""
        return self.atomic is True


_COUNTED_BYTES: Final = 1 << 20
"""Bytes of a body from which on its elements are counted before they are kept."""


class _Element(Struct, gc=False):
    """An operation of which nothing is kept but that it was there."""

    counted: ClassVar[list[None]] = []

    op: Raw
    key: Raw

    def __post_init__(self) -> None:
        self.counted.append(None)
        if len(self.counted) > BATCH_OPS:
            raise ValueError("too many")


class _Elements(Struct, gc=False):
    ops: list[_Element]


_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


Fragments = Callable[[Iterable[bytes], int], Iterator[bytes | memoryview]]
"""From pieces of an array of results, each written for itself, and how many results there are, to the answer."""


class Format:
    """One of the two ways of writing a batch."""

    def __init__(
        self, name: str, decode: Callable[..., Any], encode: Callable[[Any], bytes], put: type[Any],
        json_of: Callable[[Raw], bytes], decoder: Callable[[Any], Any], fragments: Fragments, twice: Doubles,
        why_unreadable: Callable[[bytes], str],
    ) -> None:  # fmt: skip
        self.fragments, self._doubles, self._why_unreadable = fragments, twice, why_unreadable
        self.name, self.encode, self._decode, self._json_of = name, encode, decode, json_of
        operation: Any = Get | put | Delete | Touch | Incr | Patch
        self._read = decoder(operation).decode
        self._read_whole = decoder(defstruct("Whole", [("ops", list[operation]), ("atomic", bool | UnsetType, UNSET)],
                                             forbid_unknown_fields=True)).decode  # fmt: skip

    def small(self, body: bytes, batch: int) -> tuple[list[OfOneKey], bool] | None:
        """The operations in `body` for their shards, and whether they are atomic: what `envelope` and `operation` give
        at a third of their cost, but in one go. None: let those say what is wrong."""
        try:
            whole = self._read_whole(body)
            if len(whole.ops) > BATCH_OPS or self._doubles.may_be(body, whole):
                return None
            documents: list[bytes] = []
            operations = [self._for_shard(op, batch, documents) for op in whole.ops]
            return None if doubles.may_be_in_json(documents) else (operations, whole.atomic is True)
        except (BadRequest, *_UNREADABLE):
            return None

    def envelope(self, body: bytes) -> Envelope:
        """The batch in `body`. Raises `BadRequest`."""
        if len(body) > _COUNTED_BYTES:
            self._count(body)
        try:
            envelope: Envelope = self._decode(body, type=Envelope)
        except _UNREADABLE as error:
            raise BadRequest(f"not a batch in {self.name}: {self._why(body, error)}") from None
        if len(envelope.ops) > BATCH_OPS:
            raise BadRequest(f"{len(envelope.ops)} operations; a batch has at most {BATCH_OPS}")
        return envelope

    def _count(self, body: bytes) -> None:
        """Raise `BadRequest` at the first element that is too many or no operation, before all are kept: of millions of
        small ones that takes fifty times the memory of the body. What else is wrong is told by who reads it."""
        counted = _Element.counted = []
        try:
            self._decode(body, type=_Elements)
        except msgspec.ValidationError as error:
            if len(counted) > BATCH_OPS:
                raise BadRequest(f"more than {BATCH_OPS} operations") from None
            why = self._why(body, error)
            raise malformed(len(counted), why) if counted else BadRequest(f"not a batch: {why}") from None
        except _UNREADABLE:
            pass

    def is_plain(self, body: bytes) -> bool:
        """Whether the envelope in `body` is seen to have no member twice; where not, `look_through` it."""
        return self._doubles.is_plain_envelope(body, self._decode(body, type=dict[str, Raw]))

    def look_through(self, text: bytes | Raw) -> None:
        """Raise `BadRequest` if an object in `text` has a name twice, at any depth. Exact, and slow."""
        name = self._doubles.find(bytes(text))
        if name is not None:
            raise doubles.told(name)

    def operations(self, first: int, raws: Sequence[Raw], batch: int) -> list[OfOneKey]:
        """The operations `raws`, the first of which is the one at `first`, for their shards; `batch` goes into gets.

        Names that come twice in a text longer than `doubles.LARGE` are left to `look_through`. Raises `BadRequest`.
        """
        try:
            ops, documents = [self._read(raw) for raw in raws], list[bytes]()
            if not self._doubles.may_be_in(raws, ops):
                operations = [self._for_shard(op, batch, documents) for op in ops]
                if not doubles.may_be_in_json(documents):
                    return operations
        except (BadRequest, *_UNREADABLE):
            pass
        return [self.operation(first + index, raw, batch) for index, raw in enumerate(raws)]

    def operation(self, index: int, raw: Raw, batch: int) -> OfOneKey:
        """The operation `raw`, the one at `index`; as `operations`."""
        try:
            op, documents = self._read(raw), list[bytes]()
            operation = self._for_shard(op, batch, documents)
            if self._doubles.may_be_in([raw], [op]) or doubles.may_be_in_json(documents):
                self.look_through(raw)
            return operation
        except BadRequest as error:
            raise malformed(index, error.detail, type(error)) from None
        except _UNREADABLE as error:
            raise malformed(index, self._why(raw, error)) from None

    def _why(self, text: Any, error: Exception) -> str:
        """In plain words, why `text` cannot be read."""
        if not isinstance(error, msgspec.ValidationError):
            return self._why_unreadable(bytes(text))
        why = str(error)
        return f"{why}; it is one of get, put, patch, incr, touch, delete" if why.endswith("`$.op`") else why

    def _for_shard(self, op: Any, batch: int, documents: list[bytes]) -> OfOneKey:
        """`op` as a shard takes it. What it has of JSON, in which names may come twice, is added to `documents`."""
        key = op.key.encode()
        if not 0 < len(key) <= MAX_KEY:
            raise BadKey(f"the key has {len(key)} bytes" if key else "the key is empty")
        kind = type(op)
        if kind is Get:
            return ShardGet(key, batch)
        if kind is PutInJson or kind is PutInMessagePack:
            value, content_type = self._value(op)
            if op.json is not UNSET:
                documents.append(value)
            if op.ttl is UNSET and op.expires is UNSET and op.if_revision is UNSET:
                return ShardPut(key, value, content_type)
            ttl_ms, expires_ms = op.expiry()
            return ShardPut(key, value, content_type, ttl_ms, expires_ms, False, op.condition())
        if kind is Delete:
            return ShardDelete(key, False, op.condition())
        if kind is Touch:
            return ShardTouch(key, *_touch(op), op.condition())
        if kind is Incr:
            by = 1 if op.by is UNSET else op.by
            return ShardIncr(key, by, _ttl_ms(op.ttl_if_new), op.condition())
        patch = self._json_of(op.patch)
        documents.append(patch)
        return ShardPatch(key, patch, op.condition())

    def _value(self, op: Any) -> tuple[bytes, str]:
        """Value and content type of a put."""
        coded: Any = op.value_base64 if type(op) is PutInJson else UNSET
        if (op.value is UNSET) + (op.json is UNSET) + (coded is UNSET) != 2:
            names = "value, json, value_base64" if isinstance(op, PutInJson) else "value, json"
            raise BadRequest(f"exactly one of {names} is wanted")
        content_type = "" if op.content_type is UNSET else op.content_type
        if content_type and not is_content_type(content_type):
            raise BadRequest("content_type: a media type of at most 255 ASCII characters is wanted, like text/plain")
        if op.json is not UNSET:
            return self._json_of(op.json), content_type or JSON_CONTENT
        if coded is not UNSET:
            try:
                return b64decode(coded, validate=True), content_type
            except ValueError:
                raise BadRequest("value_base64: Base64 of RFC 4648, section 4, padded, is wanted") from None
        return op.value if isinstance(op.value, bytes) else op.value.encode(), content_type


def malformed(index: int, why: str, kind: type[BadRequest] = BadRequest) -> BadRequest:
    """The error of the operation at `index`."""
    error = kind(f"ops[{index}]: {why}")
    error.members = {"index": index}
    return error


def _touch(op: Touch) -> tuple[int, int]:
    if op.persist is False or (op.ttl is UNSET) + (op.expires is UNSET) + (op.persist is UNSET) != 2:
        raise BadRequest("exactly one of ttl, expires and persist (true) is wanted")
    return op.expiry()


def _ttl_ms(seconds: Seconds | UnsetType) -> int:
    return 0 if seconds is UNSET else parse_ttl(repr(seconds))


def _json_of_json(raw: Raw) -> bytes:
    text = bytes(raw)
    text.decode()  # what is skipped is not looked at for UTF-8
    return text


def _json_of_msgpack(raw: Raw) -> bytes:
    document = msgspec.msgpack.decode(raw)
    doubles.refuse_in_msgpack(bytes(raw), doubles.write_msgpack(document))
    _check_json(document)
    return msgspec.json.encode(document)


def _check_json(document: Any) -> None:
    """Raise `BadRequest` for what JSON has no form for: the encoder would make something else of it, of NaN a null,
    which in a patch deletes."""
    if isinstance(document, dict):
        for name, value in document.items():
            if not isinstance(name, str):
                raise BadRequest("in JSON the names of a map are text")
            _check_json(value)
    elif isinstance(document, list):
        for value in document:
            _check_json(value)
    elif isinstance(document, float) and not isfinite(document):
        raise BadRequest("JSON has no NaN and no infinity")
    elif not isinstance(document, str | int | float | None):
        raise BadRequest("JSON has no bytes, times and extension types; as `value` a put takes bytes")


def _fragments_of_json(pieces: Iterable[bytes], _: int) -> Iterator[bytes | memoryview]:
    """What joined is the document whose only member is `results`: the arrays that `pieces` are as one."""
    between = b'{"results":['
    for piece in pieces:
        if len(piece) > 2:
            yield between
            yield memoryview(piece)[1:-1]
            between = b","
    yield b"]}" if between == b"," else between + b"]}"


def _fragments_of_msgpack(pieces: Iterable[bytes], count: int) -> Iterator[bytes | memoryview]:
    """The same in MessagePack; there are `count` results, at most `BATCH_OPS`."""
    yield b"\x81\xa7results\xdc" + count.to_bytes(2, "big")
    for piece in pieces:
        yield memoryview(piece)[{0xDC: 3, 0xDD: 5}.get(piece[0], 1) :]


JSON: Final = Format(
    "JSON", msgspec.json.decode, doubles.write_json, PutInJson, _json_of_json, msgspec.json.Decoder, _fragments_of_json,
    doubles.JSON, why_unreadable,
)  # fmt: skip
MESSAGE_PACK: Final = Format(
    "MessagePack", msgspec.msgpack.decode, doubles.write_msgpack, PutInMessagePack, _json_of_msgpack,
    msgspec.msgpack.Decoder, _fragments_of_msgpack, doubles.MESSAGE_PACK,
    lambda _data: "it is malformed, or breaks off",
)  # fmt: skip


def check_one_slot(operations: list[OfOneKey]) -> None:
    """Raise `CrossSlot` unless the keys of an atomic batch have one slot."""
    slot = slot_of(operations[0].key)
    for index, operation in enumerate(operations):
        if slot_of(operation.key) != slot:
            error = CrossSlot(f"ops[{index}]: its key has another slot than that of ops[0]")
            error.members = {"index": index}
            raise error
