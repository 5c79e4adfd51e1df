"""Small lists on the hot path beside the ordinary road: byte for byte the same answers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.access.tokens import publish_tokens
from tests import effort
from tests.api.kvserver.web.hot.test_hotpath import MAX_VALUE, Roads, get, put, roads, same, token
from tests.api.site import running_site

__all__ = ["roads"]  # a fixture

LINES = "Accept: application/x-ndjson"
KEYS = ["a/b", "a/c:1", "a/c:2", "a:1", "b", "bé", "c/1", "c/2", "d&e=f+g", "é/x"]


@pytest.fixture
def filled(roads: Roads) -> Roads:
    """Both stores with a few keys: values of text and of bytes, with a type and an expiry, large ones."""
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    same(roads, *[put(f"/v1/kv/{quote(key, safe='')}", key.encode()) for key in KEYS])
    same(roads, put("/v1/kv/a:bytes?ttl=1000", b"\xff\0"), put("/v1/kv/a:typed", b"x", "Content-Type: text/plain"))
    same(roads, put("/v1/kv/large:1", b"v" * 40_000), put("/v1/kv/large:2", b"v" * 40_000))
    same(roads, put("/v1/kv/large:3", b"v" * 70_000), put("/v1/kv/many/", b""))
    roads.taken.clear()
    return roads


def listed(**parameters: Any) -> bytes:
    return get("/v1/kv" + ("?" + urlencode(parameters, doseq=True) if parameters else ""))


TAKEN = [
    listed(),
    get("/v1/kv?"),
    listed(prefix="a"),
    listed(prefix="a", limit=1),
    listed(prefix="a", limit=100, after="a/b"),
    listed(prefix="a", limit=2, reverse="true"),
    listed(prefix="a", limit=2, reverse="true", before="a:1"),
    listed(prefix="a", values="true"),
    listed(prefix="a", values="false", reverse="false", count="false"),
    listed(delimiter="/", limit=3),
    listed(delimiter=["/", ":"], limit=3),
    listed(delimiter=["/", ""], limit=3),
    listed(prefix="é"),
    listed(prefix="d&e=f+g", limit=1),
    listed(prefix="none"),
    listed(prefix="large"),
    listed(prefix="large:1", values="true"),
    get("/v1/kv?prefix=a&&limit=2"),
    get("/v1/kv?limit=2", "Origin: http://page"),
    get("/v1/kv?limit=2", "Accept: application/json"),
    get("/v1/kv?limit=2", "Accept: application/x-ndjson;q=0.5, application/json"),
    get("/v1/kv?limit=2", "Accept-Encoding: identity"),
    get("/v1/kv?limit=2", "X-Request-Id: mine"),
    get("/v1/kv?limit=2", "Accept-Encoding: gzip"),
]
LEFT = [
    listed(limit=101),
    listed(limit=0),
    listed(limit="x"),
    listed(count="true"),
    listed(nothing=1),
    listed(prefix=["a", "b"]),
    listed(prefix="k" * 512),
    listed(prefix="large", values="true"),
    listed(prefix="large:3", values="true"),
    listed(prefix="large", values="true", limit=1, after="large:2"),
    get("/v1/kv?prefix=%zz"),
    get("/v1/kv?prefix=%ff"),
    get("/v1/kv?prefix=a#b"),
    get("/v1/kv", LINES),
    get("/v1/kv?limit=2", LINES),
    get("/v1/kv?limit=2", "If-None-Match: *"),
    get("/v1/kv?limit=2", "Content-Length: 0"),
    put("/v1/kv?limit=2", b"x", method="GET"),
    get("/v1/kv?limit=2").replace(b"GET", b"HEAD"),
    get("/v1/kv/?limit=2"),
    get("/v1/kv?limit=2") + get("/b"),
]


def test_small_lists_take_the_hot_path(filled: Roads) -> None:
    answers = same(filled, *TAKEN)
    assert answers.count(b"HTTP/1.1 200 OK") == len(TAKEN)
    assert [data for data in TAKEN if data not in filled.taken] == []


@pytest.mark.parametrize(("coding", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
@pytest.mark.parametrize("path", ["/v1/kv", "/v1/kv?prefix=large:1&values=true"])
def test_pages_have_codings(filled: Roads, coding: str, decode: Callable[[bytes], bytes], path: str) -> None:
    """Their bytes differ, as times do, but not their text, nor the order of their headers."""
    asked = get(path, f"Accept-Encoding: {coding}")
    hot, plain = (site.run(site.front.ask(asked)) for site in (filled.hot, filled.plain))
    assert asked in filled.taken and list(hot.headers) == list(plain.headers)
    assert hot.headers["content-encoding"] == plain.headers["content-encoding"] == coding
    for site, answer in ((filled.hot, hot), (filled.plain, plain)):
        assert answer.headers["content-length"] == str(len(answer.body))
        assert decode(answer.body) == site.ask("GET", path).body


def test_other_lists_are_left_to_the_ordinary_road(filled: Roads) -> None:
    for data in LEFT:
        same(filled, data, get("/v1/kv/b"))
        assert data not in filled.taken
        same(filled, data[:9], data[9:], get("/v1/kv/b"))


def test_a_walk_over_many_expired_keys_is_left_to_the_ordinary_road(filled: Roads) -> None:
    puts = [put(f"/v1/kv/gone{number:03}?ttl=1", b"") for number in range(250)]
    same(filled, b"".join(puts))
    for site in (filled.hot, filled.plain):
        site.advance(2)
    filled.taken.clear()
    few, many = listed(prefix="gone00"), listed(prefix="gone")
    same(filled, few, many)
    assert filled.taken == [few]


TEXTS = st.sampled_from(["", "a", "a/", "a/c", "a:", "b", "bé", "c/", "d&e=f+g", "é", "é/x", "m", "z"])
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "prefix": TEXTS,
        "after": TEXTS,
        "before": TEXTS,
        "limit": st.sampled_from([1, 2, 3, 99, 100, 101]),
        "reverse": st.sampled_from(["true", "false"]),
        "values": st.sampled_from(["true", "false", "maybe"]),
        "delimiter": st.lists(st.sampled_from(["/", ":", "", "c", "é"]), max_size=3),
    },
)


@settings(max_examples=effort.times(100), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PARAMETERS, min_size=1, max_size=4))
def test_any_lists_have_one_answer(filled: Roads, asked: list[dict[str, Any]]) -> None:
    same(filled, *[listed(**parameters) for parameters in asked])


def test_tokens_count_in_lists_on_both(roads: Roads) -> None:
    tokens = [token("all", (b"",), (b"",)), token("some", (b"a", b"c/"), ()), token("writes", (), (b"",))]
    asked = [listed(), listed(prefix="a"), listed(prefix="a/", limit=1), listed(prefix="b"), listed(delimiter="/")]
    with ExitStack() as stack:
        sites = [stack.enter_context(running_site(2, MAX_VALUE, hot=hot)) for hot in (True, False)]
        for site in sites:
            for key in KEYS:  # one by one: of keys filled at once the shards' order is open
                site.fill([key])
            publish_tokens(site.store.board, tokens)
            assert site.front.context.tokens.refresh()
        closed = Roads(*sites, roads.taken)
        for bearer, count in {"all": 5, "some": 4, "writes": 0, "nobody": 0}.items():
            roads.taken.clear()
            same(closed, *[each[:-2] + f"Authorization: Bearer {bearer}\r\n\r\n".encode() for each in asked])
            assert len(roads.taken) == count, bearer


def test_a_list_is_reported(filled: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, bytes]] = []
    for site in (filled.hot, filled.plain):
        monkeypatch.setattr(site.client, "report_activity", lambda kind, subject: reported.append((kind, subject)))
    same(filled, listed(prefix="a"), listed())
    assert filled.taken == [listed(prefix="a"), listed()]
    assert reported == [("list_prefix", b"a"), ("list", b"")] * 2
    reported.clear()
    same(filled, listed(prefix="large:3", values="true"))
    assert reported == [("list_prefix", b"large:3")] * 2, "once on either road"
