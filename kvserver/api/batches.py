"""Batches as clients write them, in JSON or MessagePack: their schema, and the operations for shards.

Pure. The structs are the schema: other members are refused, and a batch with one malformed operation is refused whole,
since a client that makes one mistake may have made another. Optional members that are absent are UNSET, so a struct
that is encoded again has as many members as its text had, unless one of them came twice.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct

from kvserver.api import batch_answers
from kvserver.api.batch_answers import Writing
from kvserver.api.query import SECONDS, TIME
from kvserver.api.scan import duplicate_names, json_scan, msgpack_scan
from kvserver.api.scan.duplicate_names import Doubles
from kvserver.api.scan.json_scan import MemberSpan, Span
from kvserver.api.scan.steps import Steps
from kvserver.api.times import parse_expires, parse_ttl
from shards.wire.errors import BadKey, BadRequest, CrossSlot
from shards.wire.json_text import explain_unreadable
from shards.wire.keys import MAX_CONTENT_TYPE, MAX_KEY, MEDIA_TYPE, is_content_type, slot_of
from shards.wire.protocol import (
    BATCH_OPS,
    MUST_NOT_EXIST,
    Condition,
    Delete,
    Get,
    Incr,
    OfOneKey,
    Patch,
    Put,
    Touch,
)

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


class _BatchOperation(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", gc=False):
    key: Key


class _Conditional(_BatchOperation, kw_only=True):
    if_revision: Revision | UnsetType = UNSET

    def shard_condition(self) -> Condition | None:
        """0: the key must not exist."""
        if self.if_revision is UNSET:
            return None
        return Condition(if_match=[self.if_revision]) if self.if_revision else MUST_NOT_EXIST


class _Expiring(_Conditional, kw_only=True):
    ttl: Seconds | UnsetType = UNSET
    expires: Time | UnsetType = UNSET

    def shard_expiry(self) -> tuple[int, int]:
        """`ttl_ms` and `expires_ms`."""
        if self.ttl is not UNSET and self.expires is not UNSET:
            raise BadRequest("either ttl or expires, not both")
        expires_ms = 0 if self.expires is UNSET else parse_expires(self.expires)
        return _ttl_ms(self.ttl), expires_ms


class BatchGet(_Conditional, tag="get"):
    """The value. With `if_revision` a check: 412 if it does not hold, which fails an atomic batch."""


class _Put(_Expiring, kw_only=True):
    json: Raw | UnsetType = UNSET
    content_type: ContentType | UnsetType = UNSET


class BatchPutInJson(_Put, tag="put", kw_only=True):
    """Store one of `value`, `json` and `value_base64`."""

    value: str | UnsetType = UNSET
    value_base64: Base64 | UnsetType = UNSET


class BatchPutInMessagePack(_Put, tag="put", kw_only=True):
    """Store `value`, which is of type bin, or `json`, any value, as JSON."""

    value: bytes | UnsetType = UNSET


class BatchDelete(_Conditional, tag="delete"):
    """Delete the key."""


class BatchTouch(_Expiring, tag="touch", kw_only=True):
    """Change the expiry alone: one of `ttl`, `expires` and `persist`."""

    persist: Yes | UnsetType = UNSET


class BatchIncr(_Conditional, tag="incr", kw_only=True):
    """Add to the whole number that the key holds; an absent key holds 0, and gets the lifetime `ttl_if_new`."""

    by: By | UnsetType = UNSET
    ttl_if_new: Seconds | UnsetType = UNSET


class BatchPatch(_Conditional, tag="patch", kw_only=True):
    """Change the JSON that the key holds by a merge patch (RFC 7396); an absent key holds `{}`."""

    patch: Raw


class Envelope(Struct, forbid_unknown_fields=True):
    """Operations, each on its own, or all or nothing: then on keys of one slot, that is with one `{tag}`."""

    ops: Operations
    atomic: Atomic | UnsetType = UNSET

    @property
    def is_atomic(self) -> bool:
        """Whether all operations are executed, or none."""
        return self.atomic is True


PORTION: Final = 500
"""Operations that are read in one step."""
_SHORT: Final = 4 << 10
"""Bytes of a member up to which it is read in one go."""
_BASE64_STEP: Final = 64 << 10
"""Characters of Base64 that one step looks at; whole groups of four."""
_NO_BASE64: Final = "value_base64: expected padded Base64 (RFC 4648, section 4)"

_BRIEF: Final = frozenset(("op", "key", "content_type", "ttl", "expires", "persist", "if_revision", "by", "ttl_if_new"))
"""Members that are shorter, however they are written."""

_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class Sizes(NamedTuple):
    """Largest texts that are read in one go, in bytes: more would delay other requests.

    Attributes:
        plain: of a batch without documents, be it their names alone that it lacks. It takes a few steps.
        whole: of any other batch.
        portion: of operations together.
        single: of one operation.
    """

    plain: int
    whole: int
    portion: int
    single: int


class Format:
    """One of the two ways of writing a batch."""

    def __init__(
        self,
        name: str,
        decode: Callable[..., Any],
        encode: Callable[[Any], bytes],
        put: type[Any],
        json_of: Callable[[Raw], bytes],
        decoder: Callable[[Any], Any],
        answer: Writing,
        twice: Doubles,
        why_unreadable: Callable[[bytes], str],
        sizes: Sizes,
        members: Callable[[bytes, int, str, int], Steps[tuple[list[MemberSpan], list[Span] | None]]],
        document: Callable[[bytes, MemberSpan, int], Steps[bytes]],
        kind: Callable[[bytes, int], Any],
        octets: Callable[[bytes, MemberSpan, int], Steps[bytes]],
    ) -> None:
        self.sizes, self._members, self._document, self._kind, self._octets = sizes, members, document, kind, octets
        self.answer, self._doubles, self._why_unreadable = answer, twice, why_unreadable
        self.name, self.encode, self._decode, self._json_of = name, encode, decode, json_of
        operation: Any = BatchGet | put | BatchDelete | BatchTouch | BatchIncr | BatchPatch
        self._read = decoder(operation).decode
        self._read_whole = decoder(
            defstruct(
                "Whole", [("ops", list[operation]), ("atomic", bool | UnsetType, UNSET)], forbid_unknown_fields=True
            )
        ).decode

    def read_whole(self, body: bytes, batch: int, most: int = BATCH_OPS) -> Steps[tuple[list[OfOneKey], bool] | None]:
        """Read the operations in `body` for their shards, and whether they are atomic.

        Costs an eighth of `read_envelope` and `read_operations`. None: it is too large, has more than `most`
        operations, or something is wrong, and those say what.
        """
        if len(body) > self.sizes.whole and (len(body) > self.sizes.plain or b"json" in body or b"patch" in body):
            return None
        try:
            whole = self._read_whole(body)
            if len(whole.ops) > most:
                return None
            yield
            if self._doubles.may_be(body, whole):
                return None
            operations: list[OfOneKey] = []
            documents: list[bytes] = []
            for begin in range(0, len(whole.ops), PORTION):
                yield
                operations += [self._for_shard(op, batch, documents) for op in whole.ops[begin : begin + PORTION]]
            return None if duplicate_names.may_be_in_json(documents) else (operations, whole.atomic is True)
        except (BadRequest, *_UNREADABLE):
            return None

    def read_envelope(self, body: bytes) -> Steps[Envelope]:
        """Read the batch in `body`, but not its operations. Raises `BadRequest`, also for members that come twice."""
        try:
            members, spans = yield from self._members(body, 0, "ops", BATCH_OPS)
            found = {member.name: self._make_stub(body, member) for member in members}
            envelope: Envelope = self._decode(self.encode(found), type=Envelope)
        except msgspec.ValidationError as error:
            raise BadRequest(f"not a batch in {self.name}: {self._explain(body, error)}") from None
        except _UNREADABLE:
            raise BadRequest(f"not a batch in {self.name}: {self._why_unreadable(body)}") from None
        refuse_twice(members)
        if spans is None:
            return envelope
        if len(spans) > BATCH_OPS:
            raise BadRequest(f"more than {BATCH_OPS} operations")
        if spans and not isinstance(kind := self._kind(body, spans[-1][0]), dict):
            self.read_operation(len(spans) - 1, Raw(self.encode(kind)), 0)
        view = memoryview(body)
        envelope.ops = [Raw(view[begin:end]) for begin, end in spans]
        return envelope

    def _make_stub(self, body: bytes, member: MemberSpan, array: str = "ops") -> Any:
        """Return a short member as it is; for operations, and for long members, an empty value of the same kind."""
        kind = self._kind(body, member.begin)
        if (member.name == array and kind == []) or member.end - member.begin > _SHORT:
            return kind
        return Raw(body[member.begin : member.end])

    def read_large(self, index: int, raw: Raw, batch: int, most: int) -> Steps[OfOneKey]:
        """Read the operation `raw` at `index`, of any size, as `read_operations` does.

        A document of more than `most` bytes is refused as a value in any case, so it is not examined.
        """
        try:
            return (yield from self._read_large(bytes(raw), batch, most))
        except BadRequest as error:
            raise malformed_operation(index, error.detail, type(error)) from None
        except _UNREADABLE as error:
            raise malformed_operation(index, self._explain(raw, error)) from None

    def _read_large(self, text: bytes, batch: int, most: int) -> Steps[OfOneKey]:
        if not isinstance(self._kind(text, 0), dict):
            self._read(self.encode(self._kind(text, 0)))
        members, _ = yield from self._members(text, 0, "", 0)
        refuse_twice(members)
        kept: dict[str, Any] = {}
        ready: bytes | None = None
        for member in members:
            size = member.end - member.begin
            kept[member.name] = Raw(memoryview(text)[member.begin : member.end])
            if size > _SHORT and member.name in ("json", "patch"):
                ready = yield from self._document(text, member, most)
                kept[member.name] = {}
            elif size > _SHORT and member.name in _BRIEF:
                raise (BadKey if member.name == "key" else BadRequest)(f"{member.name}: more than {_SHORT:,} bytes")
            elif size > _SHORT:
                stub = kept[member.name] = self._kind(text, member.begin)
                if member.name in ("value", "value_base64") and isinstance(stub, str | bytes):
                    ready = yield from self._octets(text, member, most)
        return self._for_shard(self._read(self.encode(kept)), batch, [], ready)

    def read_operations(self, first: int, raws: Sequence[Raw], batch: int) -> list[OfOneKey]:
        """Read the operations `raws` for their shards. `first`: index of the first of them; `batch`: goes into gets.

        None of them is longer than `sizes.single`. Raises `BadRequest`.
        """
        try:
            ops, documents = [self._read(raw) for raw in raws], list[bytes]()
            if not self._doubles.may_be_in(raws, ops):
                operations = [self._for_shard(op, batch, documents) for op in ops]
                if not duplicate_names.may_be_in_json(documents):
                    return operations
        except (BadRequest, *_UNREADABLE):
            pass
        return [self.read_operation(first + index, raw, batch) for index, raw in enumerate(raws)]

    def read_operation(self, index: int, raw: Raw, batch: int) -> OfOneKey:
        """Read the operation `raw` at `index`, as `read_operations` does."""
        try:
            op, documents = self._read(raw), list[bytes]()
            operation = self._for_shard(op, batch, documents)
            if self._doubles.may_be_in([raw], [op]) or duplicate_names.may_be_in_json(documents):
                self._look_through(raw)
            return operation
        except BadRequest as error:
            raise malformed_operation(index, error.detail, type(error)) from None
        except _UNREADABLE as error:
            raise malformed_operation(index, self._explain(raw, error)) from None

    def _look_through(self, raw: Raw) -> None:
        """Raise `BadRequest` if an object in `raw` has a name twice, at any depth. Exact, and slow."""
        name = self._doubles.find(bytes(raw))
        if name is not None:
            raise duplicate_names.duplicate_error(name)

    def _explain(self, text: Any, error: Exception) -> str:
        """Say in plain words why `text` cannot be read."""
        if not isinstance(error, msgspec.ValidationError):
            return self._why_unreadable(bytes(text))
        why = str(error)
        return f"{why}; it is one of get, put, patch, incr, touch, delete" if why.endswith("`$.op`") else why

    def _for_shard(self, op: Any, batch: int, documents: list[bytes], ready: bytes | None = None) -> OfOneKey:
        """Make the shard's operation of `op`, and add its JSON, in which names may come twice, to `documents`.

        `ready`: the value or patch, where `op` has only a stub of it.
        """
        key = op.key.encode()
        if not 0 < len(key) <= MAX_KEY:
            raise BadKey(f"the key has {len(key)} bytes" if key else "the key is empty")
        kind = type(op)
        if kind is BatchPutInJson or kind is BatchPutInMessagePack:
            value, content_type = self._value_of_put(op, ready)
            if op.json is not UNSET:
                documents.append(value)
            if op.ttl is UNSET and op.expires is UNSET and op.if_revision is UNSET:
                return Put(key, value, content_type)
            ttl_ms, expires_ms = op.shard_expiry()
            return Put(key, value, content_type, ttl_ms, expires_ms, False, op.shard_condition())
        if kind is BatchGet:
            return Get(key, batch) if op.if_revision is UNSET else Get(key, batch, op.shard_condition())
        if kind is BatchDelete:
            return Delete(key, False, op.shard_condition())
        if kind is BatchTouch:
            return Touch(key, *_touch_expiry(op), op.shard_condition())
        if kind is BatchIncr:
            by = 1 if op.by is UNSET else op.by
            return Incr(key, by, _ttl_ms(op.ttl_if_new), op.shard_condition())
        patch = self._json_of(op.patch) if ready is None else ready
        documents.append(patch)
        return Patch(key, patch, op.shard_condition())

    def _value_of_put(self, op: Any, ready: bytes | None) -> tuple[bytes, str]:
        """Return value and content type of a put. Raises `BadRequest`."""
        coded: Any = op.value_base64 if type(op) is BatchPutInJson else UNSET
        if ready is None and op.value is not UNSET and coded is op.json is op.content_type is UNSET:  # as most are
            return op.value if type(op.value) is bytes else op.value.encode(), ""
        if (op.value is UNSET) + (op.json is UNSET) + (coded is UNSET) != 2:
            names = "value, json, value_base64" if isinstance(op, BatchPutInJson) else "value, json"
            raise BadRequest(f"give exactly one of {names}")
        value: Any = op.value
        content_type = "" if op.content_type is UNSET else op.content_type
        if content_type and not is_content_type(content_type):
            raise BadRequest("content_type: expected a media type of at most 255 ASCII characters, like text/plain")
        if ready is not None:
            return ready, content_type or ("" if op.json is UNSET else JSON_CONTENT)
        if op.json is not UNSET:
            return self._json_of(op.json), content_type or JSON_CONTENT
        if coded is not UNSET:
            try:
                return b64decode(coded, validate=True), content_type
            except ValueError:
                raise BadRequest(_NO_BASE64) from None
        return value if type(value) is bytes else value.encode(), content_type


def refuse_twice(members: Sequence[MemberSpan]) -> None:
    """Raise `BadRequest` if two of `members` have the same name."""
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise duplicate_names.duplicate_error(member.name)
        seen.add(member.name)


def malformed_operation(index: int, why: str, kind: type[BadRequest] = BadRequest) -> BadRequest:
    """Make the error of the operation at `index`."""
    error = kind(f"ops[{index}]: {why}")
    error.members = {"index": index}
    return error


def _touch_expiry(op: BatchTouch) -> tuple[int, int]:
    if op.persist is False or (op.ttl is UNSET) + (op.expires is UNSET) + (op.persist is UNSET) != 2:
        raise BadRequest("give exactly one of ttl, expires and persist (true)")
    return op.shard_expiry()


def _ttl_ms(seconds: Seconds | UnsetType) -> int:
    return 0 if seconds is UNSET else parse_ttl(repr(seconds))


def _json_of_json(raw: Raw) -> bytes:
    text = bytes(raw)
    text.decode()  # what is skipped is not looked at for UTF-8
    return text


def _json_of_msgpack(raw: Raw) -> bytes:
    document = msgspec.msgpack.decode(raw)
    duplicate_names.refuse_in_msgpack(bytes(raw), duplicate_names.write_msgpack(document))
    msgpack_scan.refuse_beyond_json(document)
    return msgspec.json.encode(document)


def _document_of_json(text: bytes, member: MemberSpan, most: int) -> Steps[bytes]:
    document = text[member.begin : member.end]
    if len(document) > most:
        return document
    msgspec.json.decode(document, type=Raw)
    yield
    document.decode()
    yield
    name = yield from json_scan.find_double(document)
    if name is not None:
        raise duplicate_names.duplicate_error(name)
    return document


def _octets_of_json(text: bytes, member: MemberSpan, most: int) -> Steps[bytes]:
    """Decode the value of a put, which is written as a string of JSON."""
    if member.name == "value":
        return (yield from json_scan.decode_string(text, member.begin, member.end, most))
    coded = yield from json_scan.decode_string(text, member.begin, member.end, most * 4 // 3 + 4)
    octets = bytearray()
    for at in range(0, len(coded), _BASE64_STEP):
        part = coded[at : at + _BASE64_STEP]
        try:
            if len(octets) > most:  # then it is no value in any case
                break
            if b"=" in part and at + _BASE64_STEP < len(coded):  # strict in parts, too
                raise ValueError
            octets += b64decode(part, validate=True)
        except ValueError:
            raise BadRequest(_NO_BASE64) from None
        yield
    return bytes(octets)


def _octets_of_msgpack(data: bytes, member: MemberSpan, _: int) -> Steps[bytes]:
    """Return the value of a put, which is of type bin."""
    begin, end, _, _ = msgpack_scan.checked_head(data, member.begin)
    yield
    return data[begin:end]


def _document_of_msgpack(data: bytes, member: MemberSpan, most: int) -> Steps[bytes]:
    return (yield from msgpack_scan.to_json(data, member.begin, most))


JSON: Final = Format(
    "JSON",
    msgspec.json.decode,
    duplicate_names.write_json,
    BatchPutInJson,
    _json_of_json,
    msgspec.json.Decoder,
    batch_answers.JSON,
    duplicate_names.JSON,
    explain_unreadable,
    Sizes(256 << 10, 64 << 10, 256 << 10, 64 << 10),
    json_scan.find_members,
    _document_of_json,
    json_scan.sample_of_kind,
    _octets_of_json,
)
MESSAGE_PACK: Final = Format(
    "MessagePack",
    msgspec.msgpack.decode,
    duplicate_names.write_msgpack,
    BatchPutInMessagePack,
    _json_of_msgpack,
    msgspec.msgpack.Decoder,
    batch_answers.MESSAGE_PACK,
    duplicate_names.MESSAGE_PACK,
    lambda _data: "it is malformed, or breaks off",
    Sizes(256 << 10, 16 << 10, 16 << 10, 4 << 10),
    msgpack_scan.find_members,
    _document_of_msgpack,
    msgpack_scan.sample_of_kind,
    _octets_of_msgpack,
)


def check_one_slot(operations: list[OfOneKey]) -> None:
    """Raise `CrossSlot` unless the keys of an atomic batch have one slot."""
    slot = slot_of(operations[0].key)
    for index, operation in enumerate(operations):
        if slot_of(operation.key) != slot:
            error = CrossSlot(f"ops[{index}]: its key has another slot than that of ops[0]")
            error.members = {"index": index}
            raise error
