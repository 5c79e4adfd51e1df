"""From what a key holds to the answer to a GET or HEAD."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.conditions import read_conditions
from kvserver.http.responses import BehindTheEnd
from kvserver.one_key.answers import Answer
from kvserver.one_key.reads import answer_read, check_read
from shards.maps.layout import Item
from shards.wire.errors import BadRequest, Forbidden, NotFound, PreconditionFailed
from tests.unit.kvserver.one_key.requests import WRITES, ask

ITEM = Item(57, 57, 0, 0, 784_111_777_000, "text/plain", b"0123456789", 10)
DATE, EARLIER = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT"


def read(item: Item | None = ITEM, method: str = "GET", **headers: str) -> Answer:
    asked = ask(method, **headers)
    check_read(asked)
    return answer_read(asked, read_conditions(asked.header), item)


def test_a_value() -> None:
    answer = read()
    assert (answer.status, answer.body, answer.coded_type, answer.revision) == (200, ITEM.value, "text/plain", 57)
    assert [name for name, _ in answer.headers] == [
        "content-type",
        "cache-control",
        "etag",
        "kv-revision",
        "last-modified",
        "accept-ranges",
    ]
    assert dict(read(ITEM._replace(content_type="")).headers)["content-type"] == "application/octet-stream"


def test_a_head_tells_the_length() -> None:
    answer = read(ITEM._replace(value=b""), "HEAD")
    assert answer.status == 200 and dict(answer.headers)["content-length"] == "10"
    assert [field for field in answer.headers if field[0] != "content-length"] == read().headers


def test_no_value() -> None:
    with pytest.raises(NotFound):
        read(None, If_None_Match="*")


def test_what_is_refused_by_the_head() -> None:
    with pytest.raises(Forbidden):
        check_read(ask("GET", grants=WRITES))
    with pytest.raises(BadRequest):
        check_read(ask("HEAD", b"x=1"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If_None_Match": '"57"'}, 304),
        ({"If_None_Match": 'W/"57-gzip"'}, 304),
        ({"If_None_Match": '"58"'}, 200),
        ({"If_None_Match": "*"}, 304),
        ({"If_Modified_Since": DATE}, 304),
        ({"If_Modified_Since": EARLIER}, 200),
        ({"If_None_Match": '"58"', "If_Modified_Since": DATE}, 200),
        ({"If_None_Match": '"57"', "Range": "bytes=99-"}, 304),
        ({"If_Match": '"57"'}, 200),
        ({"If_Unmodified_Since": DATE}, 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions(method: str, headers: dict[str, str], status: int) -> None:
    assert read(ITEM, method, **headers).status == status


@pytest.mark.parametrize("headers", [{"If_Match": '"58"'}, {"If_Unmodified_Since": EARLIER}, {"If_Match": 'W/"57"'}])
def test_conditions_that_do_not_hold(headers: dict[str, str]) -> None:
    with pytest.raises(PreconditionFailed) as failed:
        read(ITEM, If_None_Match='"57"', **headers)
    assert failed.value.revision == 57


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"Range": "bytes=2-4"}, b"234"),
        ({"Range": "bytes=-1"}, b"9"),
        ({"Range": "bytes=2-4", "If_Range": '"57"'}, b"234"),
        ({"Range": "bytes=2-4", "If_Range": '"57-gzip"'}, None),
        ({"Range": "bytes=1-2,4-5"}, None),
        ({"If_Range": '"57"'}, None),
    ],
)
def test_ranges(headers: dict[str, str], part: bytes | None) -> None:
    answer = read(ITEM, **headers)
    assert (answer.status, answer.body) == ((200, ITEM.value) if part is None else (206, part))
    assert (part is None) == (answer.coded_type is not None), "a range is one of the bytes themselves"
    assert read(ITEM, "HEAD", **headers).status == 200, "a range is for GET alone"


def test_a_range_behind_the_end() -> None:
    with pytest.raises(BehindTheEnd) as refusal:
        read(ITEM, Range="bytes=10-")
    assert refusal.value.size == 10
    assert read(ITEM, Range="bytes=10-", If_Range='"58"').status == 200


@pytest.mark.parametrize(
    ("known", "sent", "named"),
    [
        ("*", "", ""),
        ("*", "br", "-br"),
        ('"57"', "br", ""),
        ('"57-gzip"', "br", "-gzip"),
        ('"57-gzip", "57-br"', "br", "-br"),
        ('"57-gzip", "57-br"', "zstd", "-gzip"),
        ('"57-gzip", "57-br"', "", "-gzip"),
        ('"57-gzip", "57"', "", ""),
        ('"57-gzip", "57"', "br", "-gzip"),
    ],
)
def test_a_304_names_the_coding_that_a_200_would_have_if_the_client_has_it(known: str, sent: str, named: str) -> None:
    answer = read(ITEM, If_None_Match=known)
    if sent and answer.coded_type is not None:
        answer = answer.with_coding(sent, b"...")
    assert dict(answer.headers)["etag"] == f'"57{named}"'
    assert "content-encoding" not in dict(answer.headers)


@given(st.binary(max_size=20), st.integers(0, 25), st.integers(0, 25))
def test_a_range_is_a_part_of_the_value(value: bytes, first: int, last: int) -> None:
    item = ITEM._replace(value=value, size=len(value))
    try:
        answer = read(item, Range=f"bytes={first}-{last}")
    except BehindTheEnd:
        assert first >= len(value)
    else:
        part = value[first : last + 1] if first <= last else value
        assert answer.body == part and answer.status == (206 if first <= last else 200)
