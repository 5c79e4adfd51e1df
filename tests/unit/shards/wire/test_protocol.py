"""The wire: golden bytes of every message, round trips, and that nothing malformed gets through or out as another
exception."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire import protocol
from shards.wire.errors import ERRORS, KVError, MemoryLimit, PreconditionFailed, ProtocolError, Unavailable
from shards.wire.protocol import (
    Activity,
    Atomic,
    AtomicBatch,
    Condition,
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Evict,
    Expire,
    Failed,
    Get,
    Incr,
    MalformedRequest,
    MarkPrefix,
    Once,
    Operation,
    Outcome,
    Patch,
    Placed,
    PrefixMarked,
    Put,
    PutEvent,
    Replaced,
    Replayed,
    Reply,
    Request,
    Results,
    Touch,
    TouchEvent,
    Value,
)

REQUEST_HEADER = (
    b"KVQ1" + b"\x11\0\0\0" + b"\x07\0\0\0\0\0\0\0" + b"\x88\x77\x66\x55\x44\x33\x22\x11" + b"\x63\0\0\0\0\0\0\0"
)
REQUEST_BODY = (
    b"\xdc\x00\x11"
    b"\x98\x01\xc4\x01k\xc4\x01v\xaatext/plain\x05\x00\xc3\xc0"  # Put
    b"\x94\x02\xc4\x01k\xc2\xc0"  # Delete
    b"\x95\x03\xc4\x01k\x00\x09\xc0"  # Touch
    b"\x92\x04\xc4\x01p"  # MarkPrefix
    b"\x96\x05\xc4\x01p\xc4\x01a\xcd\x01\x2c\x0a\xc3"  # DeletePrefix
    b"\x95\x06\xc4\x01k\xfd\x07\xc0"  # Incr
    b"\x94\x07\xc4\x01k\xc4\x02{}\xc0"  # Patch
    b"\x94\x08\xc4\x01k\x05\xc0"  # Get
    b"\x92\x09\x92\x94\x08\xc4\x01k\x05\x92\x91\x09\xc0\x94\x02\xc4\x01k\xc2\xc0"  # AtomicBatch with a check
    b"\x94\x02\xc4\x01k\xc2\x92\x92\x05\xcd\x01\x2c\xc0"  # Delete if it has one of two revisions
    b"\x95\x03\xc4\x01k\x00\x00\x92\xa1*\x90"  # Touch if it exists
    b"\x95\x06\xc4\x01k\x01\x00\x92\xc0\xa1*"  # Incr if it does not
    b"\x94\x07\xc4\x01k\xc4\x04null\x92\x90\xc0"  # Patch never
    b"\x94\x0a\x94\x02\xc4\x01k\xc2\xc0\xc4\x12iiiiiiiiiiiiiiiiii\xc4\x10ffffffffffffffff"  # Delete once
    b"\x94\x0a\x92\x09\x90\xc4\x12iiiiiiiiiiiiiiiiii\xc4\x10ffffffffffffffff"  # AtomicBatch once
    b"\x92\x0b\x92\x92\xc4\x01k\x05\x92\xc4\x01l\xcd\x01\x2c"  # Expire
    b"\x92\x0c\x91\x92\xc4\x01k\x05"  # Evict
)
OPERATIONS: list[protocol.Operation] = [
    Put(b"k", b"v", "text/plain", 5, 0, True),
    Delete(b"k"),
    Touch(b"k", 0, 9),
    MarkPrefix(b"p"),
    DeletePrefix(b"p", b"a", 300, 10),
    Incr(b"k", -3, 7),
    Patch(b"k", b"{}"),
    Get(b"k", 5),
    AtomicBatch([Get(b"k", 5, Condition([9])), Delete(b"k")]),
    Delete(b"k", False, Condition([5, 300])),
    Touch(b"k", 0, 0, Condition("*", [])),
    Incr(b"k", 1, 0, Condition(None, "*")),
    Patch(b"k", b"null", Condition([])),
    Once(Delete(b"k"), b"i" * 18, b"f" * 16),
    Once(AtomicBatch([]), b"i" * 18, b"f" * 16),
    Expire([(b"k", 5), (b"l", 300)]),
    Evict([(b"k", 5)]),
]

REPLY_HEADER = b"KVR1" + b"\x0d\0\0\0" + b"\x07\0\0\0\0\0\0\0"
REPLY_BODY = (
    b"\x9d"
    b"\x95\x01\xcd\x01\x2c\xc3\xc0\x00"  # Done
    b"\x95\x01\x00\xc2\xc0\x00"  # Done of nothing
    b"\x93\x02\x91\xc4\x01a\xc4\x01a"  # Deleted, to be continued
    b"\x93\x02\x90\xc0"  # Deleted, the end
    b"\x95\x03\xabunavailable\xa1x\x00\xc0"  # Failed
    b"\x95\x03\xb3precondition_failed\xa0\x39\xc0"  # Failed, with the revision that is there
    b"\x95\x03\xacmemory_limit\xa0\x00\x81\xa5limit\x07"  # Failed, with a member
    b"\x97\x04\xcd\x01\x2c\xc3\xc4\x01v\x2a\xa3a/b\x39"  # Replaced
    b"\x96\x05\x39\xc3\xc4\x01v\xa3a/b\x09"  # Value
    b"\x96\x05\x00\xc2\xc4\x00\xa0\x00"  # Value of nothing
    b"\x93\x06\x92\x95\x03\xa1c\xa0\x00\xc0\x95\x01\x00\xc2\xc0\x00\x00"  # Results
    b"\x93\x07\x95\x01\x39\xc3\xc0\x00\xc2"  # Replayed Done
    b"\x93\x07\x96\x05\x39\xc3\xc4\x00\xa0\x00\xc3"  # Replayed Value, withheld
)
REPLIES: list[protocol.Reply] = [
    Done(300, True),
    Done(0, False),
    Deleted([b"a"], b"a"),
    Deleted([], None),
    Failed("unavailable", "x"),
    Failed("precondition_failed", "", 57),
    Failed("memory_limit", "", 0, {"limit": 7}),
    Replaced(300, True, b"v", 42, "a/b", 57),
    Value(57, True, b"v", "a/b", 9),
    Value(0, False),
    Results([Failed("c"), Done(0, False)], 0),
    Replayed(Done(57, True)),
    Replayed(Value(57, True), True),
]

EVENTS_PAYLOAD = (
    b"\x96"
    b"\x95\x01\xc4\x01k\xc4\x01v\xa3a/b\x09"  # PutEvent
    b"\x93\x02\xc4\x01k\x00"  # TouchEvent
    b"\x94\x03\xc4\x01k\xa6expire\x00"  # DeleteEvent
    b"\x94\x03\xc4\x01k\xa6prefix\x4d"  # DeleteEvent of a prefix
    b"\x92\x04\xc4\x01p"  # PrefixMarked
    b"\x92\x05\x92\x94\x03\xc4\x01k\xa5evict\x00\x93\x02\xc4\x01x\x01"  # Atomic
)
EVENTS: list[protocol.Event] = [
    PutEvent(b"k", b"v", "a/b", 9),
    TouchEvent(b"k", 0),
    DeleteEvent(b"k", "expire"),
    DeleteEvent(b"k", "prefix", 77),
    PrefixMarked(b"p"),
    Atomic([DeleteEvent(b"k", "evict"), TouchEvent(b"x", 1)]),
]

OUTCOMES_PAYLOAD = (
    b"\x93"
    b"\x93\x02\xc4\x01k\x00"  # TouchEvent
    b"\x97\x06\xc4\x12iiiiiiiiiiiiiiiiii\xc4\x10ffffffffffffffff"  # Outcome
    b"\x00\xcd\x3f\xff\xc2\xc4\x05\x95\x01\xff\xc3\xc0"
    b"\x97\x06\xc4\x12jjjjjjjjjjjjjjjjjj\xc4\x10ffffffffffffffff\x07\x00\xc3\xc4\x00"  # Outcome without its value
)
OUTCOMES = [
    Outcome(b"i" * 18, b"f" * 16, 0, 16383, False, b"\x95\x01\xff\xc3\xc0"),
    Outcome(b"j" * 18, b"f" * 16, 7, 0, True, b""),
]

ACTIVITY_FRAME = b"\x91\x94\x05\xa4read\xc4\x01k\xcf\x00\x00\x01\x8b\xcf\xe5\x68\x00"
ACTIVITY = [Activity(5, "read", b"k", 1_700_000_000_000)]


class TestGolden:
    def test_request(self) -> None:
        assert protocol.encode_request(7, 0x1122334455667788, 99, OPERATIONS) == REQUEST_HEADER + REQUEST_BODY
        assert protocol.decode_request(REQUEST_HEADER + REQUEST_BODY) == Request(7, 0x1122334455667788, 99, OPERATIONS)

    def test_reply(self) -> None:
        assert protocol.encode_reply(7, REPLIES) == REPLY_HEADER + REPLY_BODY
        assert protocol.decode_reply(REPLY_HEADER + REPLY_BODY) == (7, REPLIES)

    def test_events(self) -> None:
        assert protocol.encode_events(EVENTS) == EVENTS_PAYLOAD
        assert protocol.decode_events(EVENTS_PAYLOAD) == EVENTS
        assert protocol.decode_events(memoryview(EVENTS_PAYLOAD)) == EVENTS

    def test_outcomes(self) -> None:
        assert protocol.encode_events([EVENTS[1], *OUTCOMES]) == OUTCOMES_PAYLOAD
        assert protocol.decode_record(OUTCOMES_PAYLOAD) == ([EVENTS[1]], OUTCOMES)
        assert protocol.decode_events(OUTCOMES_PAYLOAD) == [EVENTS[1]]
        assert protocol.decode_record(EVENTS_PAYLOAD) == (EVENTS, [])

    def test_a_place_in_the_order(self) -> None:
        placed = Placed(300, 2, b"state")
        payload = protocol.encode_events([EVENTS[1], *OUTCOMES, placed])
        assert payload.endswith(b"\x94\x07\xcd\x01\x2c\x02\xc4\x05state")
        assert protocol.decode_placed_record(payload) == ([EVENTS[1]], OUTCOMES, placed)
        assert protocol.decode_record(payload) == ([EVENTS[1]], OUTCOMES)
        assert protocol.decode_events(payload) == [EVENTS[1]]
        assert protocol.decode_placed(protocol.encode_placed(placed)) == placed
        with pytest.raises(ProtocolError, match="before another part"):
            protocol.decode_record(protocol.encode_events([placed, EVENTS[1]]))
        with pytest.raises(ProtocolError, match="a place in the order"):
            protocol.decode_placed(b"\x90")

    def test_activity(self) -> None:
        assert protocol.encode_activity(ACTIVITY) == ACTIVITY_FRAME
        assert protocol.decode_activity(ACTIVITY_FRAME) == ACTIVITY

    def test_left_out_fields_have_their_defaults(self) -> None:
        body = b"\x92\x93\x01\xc4\x01k\xc4\x01v\x92\x02\xc4\x01k"
        header = REQUEST_HEADER.replace(b"\x11\0\0\0", b"\x02\0\0\0", 1)
        assert protocol.decode_request(header + body).operations == [Put(b"k", b"v"), Delete(b"k")]


U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**64 - 1)
BYTES = st.binary(max_size=40)
TEXT = st.text(max_size=20)
REVISIONS = st.none() | st.just("*") | st.lists(U64, max_size=3)
CONDITION = st.none() | st.builds(Condition, REVISIONS, REVISIONS)
OF_ONE_KEY = st.one_of(
    st.builds(Put, BYTES, BYTES, TEXT, I64, I64, st.booleans(), CONDITION),
    st.builds(Delete, BYTES, st.booleans(), CONDITION),
    st.builds(Touch, BYTES, I64, I64, CONDITION),
    st.builds(Incr, BYTES, I64, I64, CONDITION),
    st.builds(Patch, BYTES, BYTES, CONDITION),
    st.builds(Get, BYTES, U64),
)
IDENTITY, FINGERPRINT = st.binary(min_size=18, max_size=18), st.binary(min_size=16, max_size=16)
OPERATION = st.one_of(
    OF_ONE_KEY,
    st.builds(
        Once,
        st.one_of(st.builds(Put, BYTES, BYTES), st.builds(AtomicBatch, st.lists(OF_ONE_KEY, max_size=3))),
        IDENTITY,
        FINGERPRINT,
    ),
    st.builds(MarkPrefix, BYTES),
    st.builds(DeletePrefix, BYTES, BYTES, I64, I64),
    st.builds(AtomicBatch, st.lists(OF_ONE_KEY, max_size=3)),
    st.builds(Expire, st.lists(st.tuples(BYTES, U64), max_size=3)),
    st.builds(Evict, st.lists(st.tuples(BYTES, U64), max_size=3)),
)
OF_ONE = st.one_of(
    st.builds(Done, U64, st.booleans(), st.none() | BYTES, U64),
    st.builds(Replaced, U64, st.booleans(), BYTES, U64, TEXT, U64),
    st.builds(Value, U64, st.booleans(), BYTES, TEXT, U64),
    st.builds(Failed, TEXT, TEXT, U64, st.none() | st.dictionaries(TEXT, I64, max_size=2)),
)
REPLY = st.one_of(
    OF_ONE,
    st.builds(Replayed, st.builds(Done, U64, st.booleans()), st.booleans()),
    st.builds(Deleted, st.lists(BYTES, max_size=5), st.none() | BYTES),
    st.builds(Results, st.lists(OF_ONE, max_size=3), st.none() | U64),
)
CHANGE = st.one_of(
    st.builds(PutEvent, BYTES, BYTES, TEXT, U64),
    st.builds(TouchEvent, BYTES, U64),
    st.builds(DeleteEvent, BYTES, st.sampled_from(["request", "prefix", "expire", "evict"]), U64),
    st.builds(PrefixMarked, BYTES),
)
EVENT = CHANGE | st.builds(Atomic, st.lists(CHANGE, max_size=4))
LINES = st.lists(
    st.builds(Activity, U64, st.sampled_from(["read", "list", "delete", "heartbeat"]), BYTES, U64), max_size=4
)


class TestRoundTrip:
    @given(U64, U64, U64, st.lists(OPERATION, min_size=1, max_size=5))
    def test_request(self, id: int, incarnation: int, deadline_ns: int, operations: list[protocol.Operation]) -> None:
        frame = protocol.encode_request(id, incarnation, deadline_ns, operations)
        assert protocol.decode_request(bytes(frame)) == Request(id, incarnation, deadline_ns, operations)

    @given(U64, st.lists(REPLY, max_size=5))
    def test_reply(self, id: int, replies: list[protocol.Reply]) -> None:
        assert protocol.decode_reply(protocol.encode_reply(id, replies)) == (id, replies)

    @given(st.lists(EVENT, max_size=6))
    def test_events(self, events: list[protocol.Event]) -> None:
        assert protocol.decode_events(protocol.encode_events(events)) == events

    @given(
        st.lists(EVENT, max_size=6),
        st.lists(
            st.builds(Outcome, IDENTITY, FINGERPRINT, st.integers(0, 9), st.integers(0, 16383), st.booleans(), BYTES)
        ),
    )
    def test_outcomes(self, events: list[protocol.Event], outcomes: list[Outcome]) -> None:
        assert protocol.decode_record(protocol.encode_events([*events, *outcomes])) == (events, outcomes)

    @given(st.lists(EVENT, min_size=1, max_size=3))
    def test_outcomes_stand_behind_all_events(self, events: list[protocol.Event]) -> None:
        with pytest.raises(ProtocolError, match="before"):
            protocol.decode_record(protocol.encode_events([OUTCOMES[0], *events]))

    @given(LINES)
    def test_activity(self, lines: list[Activity]) -> None:
        assert protocol.decode_activity(protocol.encode_activity(lines)) == lines


class TestChanges:
    def test_flattens_and_numbers(self) -> None:
        numbered = list(protocol.changes(EVENTS, 100))
        assert [revision for revision, _ in numbered] == list(range(100, 107))
        assert [change for _, change in numbered] == [
            *EVENTS[:5],
            DeleteEvent(b"k", "evict"),
            TouchEvent(b"x", 1),
        ]

    @given(st.lists(EVENT, max_size=6))
    def test_counts_what_it_numbers(self, events: list[protocol.Event]) -> None:
        assert protocol.count_changes(events) == len(list(protocol.changes(events, 1)))


def with_body(body: object, count: int = 1) -> bytes:
    """A request whose body is `body`, MessagePack if it is not bytes."""
    header = REQUEST_HEADER.replace(b"\x11\0\0\0", count.to_bytes(4, "little"), 1)
    return header + (body if isinstance(body, bytes) else msgspec.msgpack.encode(body))


class TestWeight:
    @pytest.mark.parametrize(
        ("operation", "size", "count"),
        [
            (Put(b"key", b"value"), 8, 1),
            (Delete(b"key"), 3, 1),
            (Touch(b"key"), 3, 1),
            (MarkPrefix(b"pr"), 2, 1),
            (DeletePrefix(b"pr", b"after", 1, 1), 2, 1),
            (Incr(b"key", 1), 3, 1),
            (Patch(b"key", b"{}"), 5, 1),
            (Get(b"key", 1), 3, 1),
            (AtomicBatch([Put(b"key", b"value"), Get(b"key", 1)]), 11, 2),
            (AtomicBatch([]), 0, 1),
            (Once(Put(b"key", b"value"), b"i" * 18, b"f" * 16), 8, 1),
            (Once(AtomicBatch([Put(b"key", b"value"), Get(b"key", 1)]), b"i" * 18, b"f" * 16), 11, 2),
        ],
    )
    def test_of_every_operation(self, operation: protocol.Operation, size: int, count: int) -> None:
        assert (protocol.size_of(operation), protocol.count_of(operation)) == (size, count)


class TestMalformed:
    @pytest.mark.parametrize(
        "frame",
        [
            b"",
            REQUEST_HEADER[:-1],
            b"\0" + REQUEST_HEADER + REQUEST_BODY,
            b"KVQ2" + REQUEST_HEADER[4:] + REQUEST_BODY,
            REPLY_HEADER + b"\0" * 16 + REQUEST_BODY,
        ],
    )
    def test_header_that_cannot_be_read_has_no_id(self, frame: bytes) -> None:
        with pytest.raises(MalformedRequest) as error:
            protocol.decode_request(frame)
        assert error.value.id == 0

    @pytest.mark.parametrize(
        "frame",
        [
            REQUEST_HEADER,
            REQUEST_HEADER + REQUEST_BODY[:-1],
            REQUEST_HEADER + REQUEST_BODY + b"\0",
            REQUEST_HEADER + b"\0" + REQUEST_BODY,
            with_body(REQUEST_BODY, 4),
            with_body(REQUEST_BODY, 6),
            with_body([], 0),
            with_body({}),
            with_body(None),
            with_body([None]),
            with_body([[]]),
            with_body([[0, b"k"]]),
            with_body([[10, b"k"]]),
            with_body([[6, b"k"]]),
            with_body([[6, b"k", "1"]]),
            with_body([[2, b"k", False, ["?"]]]),
            with_body([[2, b"k", False, [5]]]),
            with_body([[2, b"k", False, [[5], None, None]]]),
            with_body([[9, [[4, b"p"]]]]),
            with_body([[9, [[9, []]]]]),
            with_body([["put", b"k"]]),
            with_body([[1, b"k"]]),
            with_body([[1, "k", b"v"]]),
            with_body([[1, b"k", "v"]]),
            with_body([[1, b"k", b"v", b"text/plain"]]),
            with_body([[1, b"k", b"v", "", 1.5]]),
            with_body([[1, b"k", b"v", "", 0, 0, 1]]),
            with_body([[2, b"k", False, 0]]),
            with_body([[2, b"k", False, None, None]]),
            with_body([{"type": 2, "key": b"k"}]),
            with_body(b"\x91\x94\x01\xc4\x01k\xc4\x01v\xa1\xff"),
            with_body(b"\x91\x94\x01\xc4\x01k\xc4\x01v\xa3\xed\xa0\x80"),
            with_body(b"\xdd\xff\xff\xff\xff"),
            with_body(b"\x91\x92\x02\xc6\xff\xff\xff\xff"),
            with_body(b"\x91" * 100_000),
        ],
    )
    def test_body_that_cannot_be_read_keeps_the_id(self, frame: bytes) -> None:
        with pytest.raises(MalformedRequest) as error:
            protocol.decode_request(frame)
        assert error.value.id == 7
        assert error.value.code == "protocol_error"
        assert error.value.detail

    @given(st.binary(max_size=60))
    def test_any_body_is_read_or_refused(self, body: bytes) -> None:
        for decode in (
            lambda: protocol.decode_request(REQUEST_HEADER + body),
            lambda: protocol.decode_reply(REPLY_HEADER + body),
            lambda: protocol.decode_events(body),
            lambda: protocol.decode_activity(body),
        ):
            try:
                decode()
            except ProtocolError:
                continue

    @given(st.data())
    def test_any_damage_is_read_or_refused(self, data: st.DataObject) -> None:
        body = bytearray(REQUEST_BODY)
        for at in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3)):
            body[at] = data.draw(st.integers(0, 255))
        try:
            request = protocol.decode_request(REQUEST_HEADER + body)
        except MalformedRequest as error:
            assert error.id == 7
        else:
            assert len(request.operations) == len(OPERATIONS)

    @pytest.mark.parametrize(
        "frame",
        [
            b"",
            REPLY_HEADER,
            REPLY_HEADER[:-1],
            REPLY_HEADER + b"\0" + REPLY_BODY,
            b"KVQ1" + REPLY_HEADER[4:] + REPLY_BODY,
            REPLY_HEADER + REPLY_BODY[:-1],
            REPLY_HEADER + b"\x91\x95\x01\x00\xc2\xc0\x00",
            REPLY_HEADER + msgspec.msgpack.encode([[7, b"k"]] * 10),
        ],
    )
    def test_replies(self, frame: bytes) -> None:
        with pytest.raises(ProtocolError):
            protocol.decode_reply(frame)

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            EVENTS_PAYLOAD[:-1],
            EVENTS_PAYLOAD + b"\xc0",
            msgspec.msgpack.encode([[3, b"k", "gone", 0]]),
            msgspec.msgpack.encode([[5, [[5, []]]]]),
            msgspec.msgpack.encode([[6, b"k"]]),
        ],
    )
    def test_events(self, payload: bytes) -> None:
        with pytest.raises(ProtocolError):
            protocol.decode_events(payload)

    def test_activity(self) -> None:
        with pytest.raises(ProtocolError):
            protocol.decode_activity(ACTIVITY_FRAME[:-1])


class TestFailed:
    @pytest.mark.parametrize("cls", ERRORS.values(), ids=ERRORS)
    def test_carries_every_error(self, cls: type[KVError]) -> None:
        [reply] = protocol.decode_reply(protocol.encode_reply(1, [Failed.of(cls("what was wrong"))]))[1]
        assert isinstance(reply, Failed)
        error = reply.error()
        assert type(error) is cls
        assert error.detail == "what was wrong"

    def test_carries_the_revision_that_is_there(self) -> None:
        [reply] = protocol.decode_reply(protocol.encode_reply(1, [Failed.of(PreconditionFailed("x", 57))]))[1]
        assert isinstance(reply, Failed)
        error = reply.error()
        assert isinstance(error, PreconditionFailed)
        assert (error.detail, error.revision) == ("x", 57)

    def test_carries_the_figures_of_the_memory_limit(self) -> None:
        [reply] = protocol.decode_reply(protocol.encode_reply(1, [Failed.of(MemoryLimit.of(100, 90, 11))]))[1]
        assert isinstance(reply, Failed)
        error = reply.error()
        assert isinstance(error, MemoryLimit)
        assert error.members == {"limit": 100, "used": 90, "needed": 11}
        assert error.detail == "90 of 100 bytes are used, 11 more are needed"

    def test_unknown_code_is_an_internal_error(self) -> None:
        error = Failed("from_the_future", "x").error()
        assert type(error) is KVError
        assert error.status == 500

    def test_refusals_say_that_nothing_was_done(self) -> None:
        for code in ("stale_incarnation", "deadline_passed", "unavailable"):
            assert isinstance(Failed(code).error(), Unavailable)


def test_structs_compare_by_type_and_fields() -> None:
    """What the other tests rely on."""
    pairs: list[tuple[Any, Any]] = [(Done(1, True), Done(2, True)), (Delete(b"k"), MarkPrefix(b"k"))]
    assert all(left != right for left, right in pairs)


class TestParts:
    def test_there_and_back(self) -> None:
        replies: list[Reply] = [Done(7, True), Failed("deadline_passed")]
        frame = protocol.encode_part(9, [4, 1], replies)
        assert frame[:16] == b"KVP1" + (2).to_bytes(4, "little") + (9).to_bytes(8, "little")
        assert protocol.is_part(frame) and not protocol.is_part(protocol.encode_reply(9, replies))
        assert protocol.decode_part(frame) == (9, [4, 1], replies)

    @pytest.mark.parametrize("cut", [0, 4, 15, 16, 20])
    def test_what_is_none(self, cut: int) -> None:
        frame = bytes(protocol.encode_part(9, [4], [Done(7, True)]))
        for broken in (frame[:cut], frame[:16] + b"\x92\x92\x01\x02" + frame[18:]):
            with pytest.raises(ProtocolError):
                protocol.decode_part(broken)


@pytest.mark.parametrize(
    ("operations", "plain"),
    [
        ([Put(b"k", b"v", want_previous=True)], True),
        ([Put(b"k", b"v"), Delete(b"k"), Touch(b"k"), Incr(b"n", 1), MarkPrefix(b"")], True),
        ([Patch(b"k", b"{}")], False),
        ([Put(b"k", b"v"), Get(b"k", 1)], False),
        ([DeletePrefix(b"", b"", 1, 1)], False),
        ([AtomicBatch([Put(b"k", b"v")]), Put(b"k", b"v")], True),
        ([AtomicBatch([Put(b"k", b"v"), Patch(b"k", b"{}")])], False),
    ],
)
def test_what_takes_no_longer_than_it_looks(operations: list[Operation], plain: bool) -> None:
    assert protocol.is_plain(operations) == plain


def test_what_is_proposed_counts_by_its_keys() -> None:
    for proposed in (Expire([(b"k", 5), (b"long", 300)]), Evict([(b"k", 5), (b"long", 300)])):
        assert (protocol.count_of(proposed), protocol.size_of(proposed)) == (2, 5)
        assert not protocol.is_plain([proposed])
    assert protocol.count_of(Expire([])) == 1
