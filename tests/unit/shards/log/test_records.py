"""The log's bytes: golden, round trips, and what is no record."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.log import records
from shards.log.records import DATA, FILLER, HEADER, MARK, NO_SHARD, START, STOP, Record, Start
from shards.wire.clock import Now

SECRET = 0x0123_4567_89AB_CDEF

GOLDEN = {
    "data": (
        Record(DATA, 3, 2, 0x1_0000_0040, 0x1_0000_0087, 0x1_0000_0000, 57, 1_764_000_000_123, b"payload"),
        "4b564c31010003000200000007000000400000000100000000000000010000003900000000000000"
        "7be897b69a010000000000000000000000000000102d9b8d7061796c6f6164",
    ),
    "stop": (
        Record(STOP, NO_SHARD, 0, 128, 192, 128, 60, 1_764_000_000_999, b""),
        "4b564c310300ffff0000000000000000800000000000000080000000000000003c00000000000000"
        "e7eb97b69a01000000000000000000000000000086209db0",
    ),
}

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@st.composite
def drawn_records(draw: st.DrawFn, lsn: int | None = None) -> Record:
    """A record of any kind but FILLER, at `lsn` if given."""
    lsn = draw(st.integers(0, 2**60)) if lsn is None else lsn
    payload = draw(st.binary(max_size=200))
    kind = draw(st.sampled_from([DATA, START, STOP, MARK]))
    return Record(
        kind,
        draw(st.integers(0, 0xFFFF)),
        draw(u32),
        lsn,
        lsn + HEADER + len(payload),
        draw(u64),
        draw(u64),
        draw(u64),
        payload,
    )


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[Record]]:
    """Some records one after the other from LSN 4096 on, as bytes, and garbage behind them."""
    found: list[Record] = []
    lsn = 4096
    for _ in range(draw(st.integers(0, 6))):
        found.append(draw(drawn_records(lsn)))
        lsn = found[-1].end
    return b"".join(records.encode(record, SECRET) for record in found), found


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_are_those_of_the_spec(name: str) -> None:
    record, text = GOLDEN[name]
    assert records.encode(record, SECRET).hex() == text
    assert records.decode(bytes.fromhex(text), SECRET) == record


def test_the_crc_covers_payload_then_header_and_is_seeded_with_the_low_half_of_the_secret() -> None:
    raw = bytes.fromhex(GOLDEN["data"][1])
    expected = zlib.crc32(raw[:60], zlib.crc32(raw[64:], 0x89AB_CDEF))
    assert int.from_bytes(raw[60:64], "little") == expected


@given(drawn_records(), st.binary(max_size=100))
def test_a_record_is_read_as_it_was_written(record: Record, behind: bytes) -> None:
    raw = records.encode(record, SECRET)
    assert len(raw) == record.end - record.lsn
    assert records.decode(raw + behind, SECRET) == record
    assert records.decode_header(raw) == record._replace(payload=b"")


@given(drawn_records(), st.data())
def test_one_changed_bit_makes_it_none(record: Record, data: st.DataObject) -> None:
    raw = bytearray(records.encode(record, SECRET))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert list(records.walk(bytes(raw), record.lsn, SECRET)) == []


@given(drawn_records())
def test_another_stores_record_is_none(record: Record) -> None:
    assert records.decode(records.encode(record, SECRET), SECRET + 1) is None


@given(logs(), st.binary(max_size=150))
def test_walk_finds_all_and_stops_at_the_first_byte_that_does_not_fit(
    log: tuple[bytes, list[Record]], behind: bytes
) -> None:
    raw, written = log
    assert list(records.walk(raw + behind, 4096, SECRET)) == written


@given(logs(), st.data())
def test_walk_yields_only_what_is_whole(log: tuple[bytes, list[Record]], data: st.DataObject) -> None:
    raw, written = log
    cut = data.draw(st.integers(0, len(raw)))
    whole = [record for record in written if record.end <= 4096 + cut]
    assert list(records.walk(raw[:cut], 4096, SECRET)) == whole


@given(logs(), st.integers(1, 1 << 40))
def test_old_bytes_of_a_segment_used_again_are_no_records(log: tuple[bytes, list[Record]], moved: int) -> None:
    raw, _ = log
    assert list(records.walk(raw, 4096 + moved, SECRET)) == []
    assert list(records.search(raw, 4096 + moved, SECRET)) == []


@given(st.lists(st.one_of(drawn_records(), st.binary(max_size=80)), max_size=6))
def test_search_finds_what_stands_behind_a_gap(parts: list[Record | bytes]) -> None:
    raw, written = b"", list[Record]()
    for part in parts:
        if isinstance(part, Record):
            lsn = 4096 + len(raw)
            written.append(part._replace(lsn=lsn, end=lsn + part.end - part.lsn))
            raw += records.encode(written[-1], SECRET)
        else:
            raw += part
    assert list(records.search(raw, 4096, SECRET)) == written


def test_a_filler_skips_what_is_not_read() -> None:
    header = records.filler(4096, 1000, 4000, Now(5, 5), SECRET)
    assert len(header) == HEADER
    (record,) = records.walk(header + b"anything", 4096, SECRET)
    assert (record.kind, record.end, record.synced, record.payload) == (FILLER, 4096 + HEADER + 1000, 4000, b"")
    assert records.encode(record, SECRET) == header


@given(st.integers(0, 1 << 50), st.integers(HEADER, 1000))
def test_a_record_goes_to_the_tail_or_to_the_next_segments_start(tail: int, size: int) -> None:
    lsn = records.place(tail, size, 1000)
    assert lsn // 1000 == (lsn + size - 1) // 1000, "it does not cross"
    assert lsn == tail or (lsn % 1000 == 0 and 0 < lsn - tail < size)


@pytest.mark.parametrize(
    ("kind", "revision", "fits"),
    [
        (DATA, 10, True),
        (DATA, 11, False),
        (DATA, 9, False),
        (STOP, 10, True),
        (MARK, 12, False),
        (START, 10, True),
        (START, 500, True),
        (START, 9, False),
        (FILLER, 0, True),
    ],
)
def test_only_a_start_raises_the_revision(kind: int, revision: int, fits: bool) -> None:
    record = Record(kind, NO_SHARD, 0, 0, HEADER, 0, revision, 0, b"")
    assert records.follows(record, 10) is fits


@given(u64, st.lists(u64))
def test_a_tail_is_torn_unless_it_had_been_flushed(cut: int, flushed: list[int]) -> None:
    assert records.is_torn(cut, flushed) is not any(lsn > cut for lsn in flushed)


def test_a_start_says_which_history_it_begins() -> None:
    start = Start(store="s", epoch="0123456789abcdef", boot_id="b", sync="always", version="1")
    assert Start.decode(start.encode()) == start
