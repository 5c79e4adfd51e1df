"""What is remembered of replies, for how long, and in which bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire.clock import Now
from shards.wire.errors import ProtocolError
from shards.wire.outcomes import HELD_MS, KEEP_MS, OutcomeRecord, without_large_values
from shards.wire.protocol import (
    REMEMBERED_BYTES,
    Done,
    Outcome,
    Remembered,
    Replaced,
    Results,
    Value,
    encode_remembered,
)

LARGE = bytes(REMEMBERED_BYTES + 1)
IDENTITY, FINGERPRINT = b"i" * 18, b"f" * 16
RECORD = OutcomeRecord(258, -2, 515, True, IDENTITY, FINGERPRINT, b"reply")


class TestRecord:
    def test_golden(self) -> None:
        encoded = (
            b"\x02\x01\0\0\0\0\0\0" + b"\xfe" + b"\xff" * 7 + b"\x03\x02" + b"\x01" + IDENTITY + FINGERPRINT + b"reply"
        )
        assert RECORD.encode() == encoded
        assert OutcomeRecord.decode(encoded) == OutcomeRecord.decode(memoryview(encoded)) == RECORD

    @given(
        st.builds(
            OutcomeRecord,
            st.integers(0, 2**64 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(0, 16383),
            st.booleans(),
            st.binary(min_size=18, max_size=18),
            st.binary(min_size=16, max_size=16),
            st.binary(),
        )
    )
    def test_round_trip(self, record: OutcomeRecord) -> None:
        assert OutcomeRecord.decode(record.encode()) == record

    @pytest.mark.parametrize("length", [0, 1, 52])
    def test_cut(self, length: int) -> None:
        with pytest.raises(ProtocolError):
            OutcomeRecord.decode(RECORD.encode()[:length])

    def test_of_an_outcome(self) -> None:
        outcome = Outcome(IDENTITY, FINGERPRINT, 3, 7, False, encode_remembered(Done(~3, True)))
        record = OutcomeRecord.of(outcome, 100, Now(5, 6))
        assert record[:4] == (100, 6, 7, False)
        assert record.decode_reply() == Done(103, True)


class TestReply:
    @pytest.mark.parametrize(
        ("logged", "real"),
        [
            (Done(~0, True), Done(100, True)),
            (Done(7, True), Done(7, True)),
            (Replaced(~5, True, b"v", 9, "a/b", ~4), Replaced(105, True, b"v", 9, "a/b", 104)),
            (Replaced(~5, True, b"v", 9, "a/b", 57), Replaced(105, True, b"v", 9, "a/b", 57)),
            (Value(~1, False, b"1"), Value(101, False, b"1")),
            (
                Results([Done(~1, True), Value(57, True, b"x"), Done(0, False), Value(~2, True)]),
                Results([Done(101, True), Value(57, True, b"x"), Done(0, False), Value(102, True)]),
            ),
        ],
    )
    def test_has_real_revisions(self, logged: Remembered, real: Remembered) -> None:
        assert RECORD._replace(revision=100, reply=encode_remembered(logged)).decode_reply() == real

    def test_that_cannot_be_read(self) -> None:
        with pytest.raises(ProtocolError):
            RECORD.decode_reply()


@pytest.mark.parametrize(
    ("reply", "kept", "withheld"),
    [
        (Done(5, True, None, 9), Done(5, True, None, 9), False),
        (Value(5, True, LARGE[1:], "a/b", 9), Value(5, True, LARGE[1:], "a/b", 9), False),
        (Value(5, True, LARGE, "a/b", 9), Value(5, True, b"", "", 9), True),
        (Replaced(5, True, LARGE[1:], 9, "a/b", 4), Replaced(5, True, LARGE[1:], 9, "a/b", 4), False),
        (Replaced(5, True, LARGE, 9, "a/b", 4), Replaced(5, True, None, 9, "", 4), True),
        (Replaced(5, True, None, 9, "a/b", 4), Replaced(5, True, None, 9, "", 4), True),
        (
            Results([Done(5, True, None, 9), Value(6, True, b"x", "a/b")]),
            Results([Done(5, True), Value(6, True, b"x", "a/b")]),
            False,
        ),
        (
            Results([Value(5, True, LARGE[:-3]), Value(6, True, b"", "a/b")]),
            Results([Value(5, True), Value(6, True)]),
            True,
        ),
    ],
)
def test_large_values_are_left_out(reply: Remembered, kept: Remembered, withheld: bool) -> None:
    before = encode_remembered(reply)
    assert without_large_values(reply) == (kept, withheld)
    assert encode_remembered(reply) == before


def test_how_long() -> None:
    record = RECORD._replace(steady_ms=1000)
    assert not record.is_spare(Now(0, 1000 + HELD_MS - 1)) and record.is_spare(Now(0, 1000 + HELD_MS))
    assert not record.is_over(Now(1 << 50, 1000 + KEEP_MS - 1)) and record.is_over(Now(0, 1000 + KEEP_MS))
