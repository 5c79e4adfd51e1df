"""Requests that proxies pass on, on the hot path beside the ordinary road: the same answers, for the same clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.http.proxies import Proxies
from kvserver.web.limits.load import MOST_IN_FLIGHT
from tests import effort
from tests.api.kvserver.web.hot.test_hot_batch import batch, op
from tests.api.kvserver.web.hot.test_hotpath import (
    EVERYDAY,
    MAX_VALUE,
    Roads,
    ask,
    delete,
    get,
    of_one_key,
    put,
    roads,
    same,
)
from tests.api.site import Site, running_site

__all__ = ["roads"]  # a fixture

NGINX = ("X-Forwarded-For: 203.0.113.5", "X-Forwarded-Proto: https")
TRACED = (
    "X-Request-Id: 6b2f0c1e9a",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate: vendor=1",
    "Via: 1.1 proxy.example",
    "Forwarded: for=203.0.113.5;proto=https",
    "X-Real-IP: 203.0.113.5",
)
_MADE = re.compile(rb"[0-9a-f]{16}")


class Proxied(NamedTuple):
    """Two stores behind a trusted proxy. Each notes of its answers client, method, path, status and id, and of what it
    sends to its shard whose requests are in flight."""

    roads: Roads
    noted: tuple[list[Any], list[Any]]
    charged: tuple[list[Any], list[Any]]

    def __repr__(self) -> str:
        return "Proxied()"

    def ask(self, *pieces: bytes) -> bytes:
        """What both answer; both note the same."""
        for notes in (*self.noted, *self.charged):
            notes.clear()
        answer = same(self.roads, *pieces)
        assert self.noted[0] == self.noted[1] and self.charged[0] == self.charged[1]
        return answer


@pytest.fixture(scope="module")
def proxied(roads: Roads) -> Iterator[Proxied]:
    with ExitStack() as stack:
        sites = [stack.enter_context(running_site(1, MAX_VALUE, hot=hot)) for hot in (True, False)]
        noted: tuple[list[Any], list[Any]] = [], []
        charged: tuple[list[Any], list[Any]] = [], []
        for site, notes, charges in zip(sites, noted, charged, strict=True):
            context = site.front.context
            context.proxies = Proxies("127.0.0.1")
            context.access_log = _note_in(notes)  # type: ignore[assignment]
            _note_charges(site, charges)
        yield Proxied(Roads(sites[0], sites[1], roads.taken), noted, charged)


def _note_in(notes: list[Any]) -> Any:
    def note(client: str, method: str, path: bytes, status: int, seconds: float, request_id: bytes) -> None:
        notes.append((client, method, path, status, _MADE.sub(b"ID", request_id)))

    return note


def _note_charges(site: Site, charges: list[Any]) -> None:
    """Note which addresses have a request in flight whenever one is sent to the shard."""
    link, load = site.client.links.of_key(b"a"), site.front.context.load
    enqueue = link.enqueue

    def noted(pending: Any) -> None:
        charges.append([name for name, quota in load.quotas._by_name.items() if quota.in_flight])
        enqueue(pending)

    link.enqueue = noted  # type: ignore[method-assign]


def passed_on(request: bytes, *fields: str) -> bytes:
    """`request` with more header fields."""
    return request.replace(b"\r\nHost:", "\r\n".join(["", *fields, "Host:"]).encode(), 1)


def test_what_proxies_pass_on_takes_the_hot_path(proxied: Proxied) -> None:
    asked = [
        *[passed_on(request, *NGINX, *TRACED) for request, _ in EVERYDAY],
        *[passed_on(request, *NGINX) for request in (put("/a", b"x"), get("/a"), delete("/a"), delete("/a"))],
        passed_on(get("/v1/kv?limit=2"), *NGINX, *TRACED),
        passed_on(batch(op("get")), *NGINX, *TRACED),
        passed_on(batch(op("put", value="1")), *NGINX, *TRACED),
    ]
    proxied.ask(get("/keys").replace(b"GET", b"DELETE"))
    for request in asked:
        proxied.roads.taken.clear()
        answer = proxied.ask(request)
        assert len(proxied.roads.taken) == 1, request
        assert (b"\r\nx-request-id: 6b2f0c1e9a\r\n" in answer) == (b"X-Request-Id" in request)
        [(client, *_, request_id)] = proxied.noted[0]
        assert client == "203.0.113.5"
        assert request_id == (b"6b2f0c1e9a" if b"X-Request-Id" in request else request_id)


FORWARDED = st.sampled_from(
    [
        "203.0.113.5",
        "198.51.100.7",
        "198.51.100.7, 203.0.113.5",
        "203.0.113.5,127.0.0.1",
        "127.0.0.1",
        "[2001:db8::1]:4711",
        "2001:db8::2",
        "unknown",
        ",",
        "",
        "203.0.113.5, " * 30 + "203.0.113.5",
    ]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "X-Forwarded-For": FORWARDED,
        "x-forwarded-proto": st.sampled_from(["http", "https"]),
        "X-Forwarded-Host": st.just("other.example"),
        "X-Forwarded-Port": st.just("443"),
        "Forwarded": st.sampled_from(["for=198.51.100.7", ""]),
        "Via": st.just("1.1 proxy"),
        "X-Real-IP": FORWARDED,
        "X-Request-Id": st.sampled_from(["mine", "i" * 64, "i" * 65, "no good", ""]),
        "traceparent": st.sampled_from(["00-1-2-01", ""]),
        "Tracestate": st.just("a=b"),
        "X-Amzn-Trace-Id": st.just("Root=1-67891233-abcdef012345678912345678"),
        "X-Unknown": st.just("1"),
    },
)
REQUESTS = st.one_of(
    of_one_key(),
    st.sampled_from(
        [
            get("/a"),
            put("/a", b"x"),
            delete("/a"),
            get("/v1/kv?limit=2"),
            batch(op("get")),
            batch(op("put", value="x"), op("incr", "n")),
            get("/v1/whoami"),
        ]
    ),
)


@st.composite
def requests_passed_on(draw: st.DrawFn) -> bytes:
    """A request with what proxies add; some fields come twice."""
    lines = [f"{name}: {value}" for name, value in draw(FIELDS).items()]
    if lines and draw(st.integers(0, 5)) == 0:
        lines.append(draw(st.sampled_from(lines)))
    return passed_on(draw(REQUESTS), *lines)


@settings(max_examples=effort.times(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(requests_passed_on(), min_size=1, max_size=6), st.booleans())
def test_any_request_that_is_passed_on_has_one_answer(proxied: Proxied, asked: list[bytes], trusted: bool) -> None:
    for site in (proxied.roads.hot, proxied.roads.plain):
        site.front.context.proxies = Proxies("127.0.0.1" if trusted else "")
    try:
        proxied.ask(get("/keys").replace(b"GET", b"DELETE"))
        proxied.ask(*asked, get("/v1/kv/a"), b"GET /v1/kv/a HTTP/1.1\r\nno field\r\n\r\n")
        clients = {client for client, *_ in proxied.noted[0]}
        assert trusted or clients == {"127.0.0.1"}, "anybody can send the header"
    finally:
        for site in (proxied.roads.hot, proxied.roads.plain):
            site.front.context.proxies = Proxies("127.0.0.1")


def test_a_client_behind_a_proxy_has_a_share_of_its_own(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    """When only the spare places are left, both roads refuse who has many, and nobody else on the same connection."""
    one, other = ("X-Forwarded-For: 203.0.113.5",), ("X-Forwarded-For: 203.0.113.6",)
    held = []
    for site in (proxied.roads.hot, proxied.roads.plain):
        load = site.front.context.load
        quota = load.quotas.of_address("203.0.113.5")
        quota.in_flight = 64
        held.append(quota)
        monkeypatch.setattr(load, "_in_flight", MOST_IN_FLIGHT)
    try:
        for site in (proxied.roads.hot, proxied.roads.plain):
            assert site.run(site.front.ask(passed_on(put("/a", b"x"), *one))).status == 503
            assert site.run(site.front.ask(passed_on(put("/a", b"x"), *other))).status == 200
            assert site.run(site.front.ask(put("/a", b"x"))).status == 200, "the proxy itself has no quota"
    finally:
        for quota in held:
            quota.in_flight = 0


def test_the_client_of_the_last_request_is_forgotten(proxied: Proxied) -> None:
    """What comes next on the connection, and is no request, is the proxy's."""
    for request in (get("/a"), put("/a", b"x"), get("/v1/kv/a"), ask("HEAD", "/v1/kv/a"), batch(op("put", value="1"))):
        proxied.ask(passed_on(request, *NGINX), b"nonsense\r\n\r\n")
        assert [client for client, *_ in proxied.noted[0]] == ["203.0.113.5", "127.0.0.1"], request
