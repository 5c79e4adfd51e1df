"""Query strings: what a table names is read, everything else is refused."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import query
from kvserver.api.query import EXPIRY, INTEGER, Kind, Parameter, one_of, parse, table
from shards.wire.errors import BadRequest

TEXT = Kind(str, {"type": "string"})
TABLE = EXPIRY | table(
    Parameter("text", TEXT, ""),
    Parameter("n", INTEGER, ""),
    Parameter("return", one_of("previous"), ""),
    Parameter("many", INTEGER, "", 3),
)


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (b"", {}),
        (b"&", {}),
        (b"n=-5", {"n": -5}),
        (b"n=9223372036854775807&text=", {"n": (1 << 63) - 1, "text": ""}),
        (b"n=-9223372036854775808", {"n": -1 << 63}),
        (b"text=a+b%2Bc%20d", {"text": "a b+c d"}),
        (b"te%78t=a=b", {"text": "a=b"}),
        (b"text", {"text": ""}),
        (b"return=previous&ttl=1.5", {"return": "previous", "ttl": 1500}),
        (b"expires=1970-01-01T01:00:01+01:00", {"expires": 1000}),
        (b"expires=1970-01-01T01%3A00%3A01%2B01%3A00", {"expires": 1000}),
        (b"many=1", {"many": [1]}),
        (b"many=3&n=1&ma%6ey=2&many=3", {"many": [3, 2, 3], "n": 1}),
    ],
)
def test_what_is_read(sent: bytes, found: dict[str, object]) -> None:
    assert parse(sent, TABLE) == found


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (b"tll=60", "'tll'"),
        (b"Text=1", "'Text'"),
        (b"=1", "''"),
        (b"text=1&text=1", "twice"),
        (b"text=1&te%78t=2", "twice"),
        (b"text=%zz", "hexadecimal"),
        (b"text=%", "hexadecimal"),
        (b"text=%FF", "UTF-8"),
        (b"%C3=1", "UTF-8"),
        (b"n=", "'n'"),
        (b"n=1.0", "'n'"),
        (b"n=9223372036854775808", "'n'"),
        (b"n=-9223372036854775809", "'n'"),
        (b"n=" + b"9" * 5000, "'n'"),
        (b"n=%D9%A1", "'n'"),
        (b"n=%2B1", "'n'"),
        (b"return=Previous", "previous"),
        (b"ttl=0", "'ttl'"),
        (b"expires=soon", "'expires'"),
        (b"many=1&many=1&many=1&many=1", "at most 3"),
        (b"many=1&many=x", "'many'"),
    ],
)
def test_what_is_refused_and_named(sent: bytes, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        parse(sent, TABLE)


@given(st.binary(max_size=80) | st.from_regex(rb"(n|ttl|expires|return|text|x)=[0-9%a-fTZ:.+-]{0,30}", fullmatch=True))
def test_no_query_is_a_fault(sent: bytes) -> None:
    try:
        found = parse(sent, TABLE)
    except BadRequest as error:
        assert error.detail
    else:
        assert set(found) <= set(TABLE)


@given(st.dictionaries(st.text(), st.text()))
def test_what_libraries_send_is_read_as_they_meant_it(parameters: dict[str, str]) -> None:
    rows = table(*(Parameter(name, TEXT, "") for name in parameters))
    for sent in (urlencode(parameters), urlencode(parameters, quote_via=quote)):
        if parameters != {"": ""}:
            assert parse(sent.encode(), rows) == parameters


def test_one_expiry() -> None:
    assert query.read_expiry({}) == (0, 0)
    assert query.read_expiry({"ttl": 5}) == (5, 0)
    assert query.read_expiry({"expires": 1001}) == (0, 1001)
    with pytest.raises(BadRequest):
        query.read_expiry({"ttl": 5, "expires": 2000})
