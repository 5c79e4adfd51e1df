"""Lines of an export are what was stored, batches what was read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.batches import MESSAGE_PACK
from kvserver.api.scan.steps import run_at_once
from kvserver.api.times import parse_rfc3339
from kvserver.rest.pages import describe_item
from kvserver.transfer.records import (
    ImportBatch,
    ImportRecord,
    LineError,
    body_of,
    group_into_batches,
    lines_of,
    read_record,
    read_streamed,
    write_item,
)
from shards.maps.layout import Item
from shards.wire.keys import MAX_KEY
from shards.wire.protocol import Put

KEYS = st.text(min_size=1, max_size=MAX_KEY // 4).filter(lambda key: key.isprintable() or len(key) < 9)
TYPES = st.sampled_from(["", "text/plain; charset=utf-8", 'a/b; q="c\\"d"', "application/octet-stream"])
LAST_MS = parse_rfc3339("9999-12-31T23:59:59.999Z")


@given(KEYS, st.binary() | st.text().map(str.encode), TYPES, st.just(0) | st.integers(1, LAST_MS))
def test_what_was_stored_is_stored_again(key: str, value: bytes, content_type: str, expires_ms: int) -> None:
    item = Item(7, 7, expires_ms, 1, 2, content_type, value, len(value))
    listed = msgspec.json.encode(describe_item(key.encode(), item, values=True))
    line = write_item(read_streamed(listed))
    assert line.count(b"\n") == 1
    # An item of a list is as good a line as one of an export.
    for text in (line, listed):
        (put,), atomic = run_at_once(MESSAGE_PACK.read_whole(body_of([read_record(1, text)]), 9)) or ([], True)
        assert isinstance(put, Put) and not atomic
        assert (put.key, put.value, put.expires_ms) == (key.encode(), value, expires_ms)
        assert put.content_type == (content_type or "application/octet-stream")
        assert (put.condition, put.ttl_ms) == (None, 0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"key":"k","value":"v"', "not JSON: it breaks off"),
        ("k=v", "not JSON: syntax error at character 0"),
        ('{"key":"k","value":"\ud800"}', "not JSON: it is not UTF-8"),
        (r'{"key":"k","value":"\ud800"}', "not JSON: it has half a pair of surrogates, which is no text"),
        ("[" * 100_000, "array"),
        ('{"value":"v"}', "`key`"),
        ('{"key":"k"}', "give exactly one of `value` and `value_base64`"),
        ('{"key":"k","value":"v","value_base64":"dg=="}', "give exactly one of `value` and `value_base64`"),
        ('{"key":"k","value":null}', "`$.value`"),
        ('{"key":"k","value_base64":"dg"}', "value_base64: expected padded Base64 (RFC 4648, section 4)"),
        ('{"key":"","value":"v"}', "the key has 0 bytes; a key has 1 to 511"),
        (json.dumps({"key": "\u00e9" * 256, "value": ""}), "the key has 512 bytes; a key has 1 to 511"),
        (
            '{"key":"k","value":"v","content_type":"a\\r\\nb"}',
            "content_type: expected a media type of at most 255 ASCII ",
        ),
        ('{"key":"k","value":"v","expires":"soon"}', "expires: a time is written as in RFC 3339"),
        ('{"key":"k","value":"v","ttl":5}', "`ttl`"),
        ('{"end":{"items":3,"cursor":"a.1"}}', "`end`"),
    ],
)
def test_a_line_that_is_no_record_says_why(line: str, why: str) -> None:
    with pytest.raises(LineError) as raised:
        read_record(12, line.encode(errors="surrogatepass"))
    assert raised.value.line == 12
    assert why in raised.value.why


def record(line: int, key: str, size: int = 0) -> ImportRecord:
    return read_record(line, json.dumps({"key": key, "value": "v" * size}).encode())


RECORDS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 300)), max_size=30)


@given(RECORDS, st.integers(1, 5), st.integers(1, 500), st.booleans())
def test_batches_are_all_records_in_order(
    rows: list[tuple[str, int]], most: int, most_bytes: int, breaks_off: bool
) -> None:
    records = [record(number, *row) for number, row in enumerate(rows, 1)]

    def source() -> Iterator[ImportRecord]:
        yield from records
        if breaks_off:
            raise LineError(len(records) + 1, "not JSON")

    made: list[ImportBatch] = []
    try:
        made.extend(group_into_batches(source(), most, most_bytes))
        assert not breaks_off
    except LineError:
        assert breaks_off
    assert [each for batch in made for each in batch.records] == records
    for batch in made:
        names = [each.key for each in batch.records]
        assert 1 <= len(names) <= most
        assert len(set(names)) == len(names) and batch.keys == set(names)
        assert batch.size == sum(each.length for each in batch.records)
        assert batch.size <= most_bytes or len(names) == 1
    assert [len(each.put.value) for each in records] == [size for _, size in rows]


@pytest.mark.parametrize("size", [20, 100, 10_000])
def test_a_full_batch_is_read_in_one_go(size: int) -> None:
    batch = next(group_into_batches(record(number, f"k{number:08d}", size) for number in range(2000)))
    body = body_of(batch.records)
    assert len(body) <= MESSAGE_PACK.sizes.plain
    operations, _ = run_at_once(MESSAGE_PACK.read_whole(body, 9)) or ([], True)
    assert len(operations) == len(batch.records)


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.binary(), st.integers(1, 40))
def test_lines_are_the_same_however_they_come(lines: list[bytes], rest: bytes, size: int) -> None:
    rest = rest.replace(b"\n", b"")
    text = b"".join(line + b"\n" for line in lines) + rest
    assert list(lines_of(text[at : at + size] for at in range(0, len(text), size))) == lines
