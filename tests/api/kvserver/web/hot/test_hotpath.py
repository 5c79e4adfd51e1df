"""The hot path beside the ordinary road: the same bytes on both, and byte for byte the same answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvserver.access.grants import Grants
from kvserver.access.tokens import Token, hash_token, publish_tokens
from kvserver.http.origins import Hosts, Origins, Pages
from kvserver.web.hot.hotpath import HotPath
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.limits.load import MOST_IN_FLIGHT
from tests import effort
from tests.api.site import Site, running_site

MAX_VALUE = 200_000

_VARIES = (
    (re.compile(rb"(?<=\r\ndate: )[^\r]*"), b"DATE"),
    (re.compile(rb"(?<=\r\nlast-modified: )[^\r]*"), b"DATE"),
    (re.compile(rb"(?<=\r\nx-request-id: )[0-9a-f]{16}(?=\r)"), b"ID"),
    (re.compile(rb'(?<="request_id":")[0-9a-f]{16}(?=")'), b"ID"),
    (re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}\.[0-9]+"), b"CURSOR"),
    (re.compile(rb"(?<![0-9])1[0-9]{15}(?![0-9])"), b"REVISION"),
    (re.compile(rb'(?<=")[0-9-]{10}T[0-9:.]{12}Z(?=")'), b"TIME"),
    (re.compile(rb"(?<=\r\nkv-expires: )[^\r]*"), b"TIME"),
)


class Roads(NamedTuple):
    """Two stores: one is asked with the hot path, the other without."""

    hot: Site
    plain: Site
    taken: list[bytes]

    def __repr__(self) -> str:
        return "Roads()"  # Hypothesis shows the arguments of what failed


@pytest.fixture(scope="module")
def roads() -> Iterator[Roads]:
    taken: list[bytes] = []
    take = HotPath.take

    def noted(self: HotPath, connection: object, data: bytes) -> bool:
        was_taken = take(self, connection, data)  # type: ignore[arg-type]
        if was_taken:
            taken.append(data)
        return was_taken

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(HotPath, "take", noted)
        hot = stack.enter_context(running_site(2, MAX_VALUE, hot=True))
        plain = stack.enter_context(running_site(2, MAX_VALUE))
        yield Roads(hot, plain, taken)


_CLOSE = re.compile(rb"connection: close\r\n")
_REFUSED_LAST = re.compile(rb"HTTP/1\.1 4(?:(?!HTTP/1\.1 ).)*connection: close\r\n(?:(?!HTTP/1\.1 ).)*\Z", re.DOTALL)
"""The last answer is a refusal, and ends the connection."""
TURNS = 8
"""Of the loop that client and server quota, in which what is written to a loopback connection has been read."""


def with_revision(site: Site, piece: bytes) -> bytes:
    """`piece` with the revision of the key `a` at that site in place of `@`."""
    if b"@" not in piece:
        return piece
    item = site.client.describe(b"a")
    return piece.replace(b"@", b"%d" % (1 if item is None else item.revision))


async def transcript(site: Site, pieces: Sequence[bytes], patient: bool) -> bytes:
    """Everything that a connection answers that is sent `pieces`, each after the one before was taken in, and if
    `patient` after it was answered."""
    front = site.front
    transport, listener = await front.loop.create_connection(Listener, "127.0.0.1", front.port)
    try:
        for piece in pieces:
            if listener.over.is_set() or transport.is_closing():
                break
            transport.write(with_revision(site, piece))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if patient:
                await front.until(lambda: all(connection.answering is None for connection in front.context.connections))
        if not transport.is_closing():
            transport.write_eof()
        async with asyncio.timeout(20):
            await listener.over.wait()
    finally:
        transport.close()  # whatever went wrong: what comes next waits for the end of all connections
    await front.until(lambda: not front.context.connections and not front.context.load.in_flight)
    return bytes(listener.found)


class Listener(asyncio.Protocol):
    """What a client gets until the connection ends. (A StreamReader forgets what was not read when it is reset, which
    the server does to who still sends after it has asked for the end.)"""

    def __init__(self) -> None:
        self.found, self.over = bytearray(), asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.found += data

    def eof_received(self) -> bool:
        self.over.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()


def same(roads: Roads, *pieces: bytes, patient: bool = True) -> bytes:
    """What both roads answer, what varies masked. Unless `patient`, that is also what is done because a body has not
    come when the answer before it is ready: it is asked for (RFC 9110, 10.1.1), or refused by its head, which ends the
    connection.
    """
    answers = []
    for site in (roads.hot, roads.plain):
        answer = site.run(transcript(site, pieces, patient))
        if not patient:
            answer = answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        for pattern, mask in _VARIES:
            answer = pattern.sub(mask, answer)
        answers.append(answer)
    if not patient and any(_REFUSED_LAST.search(answer) for answer in answers):
        shortest = min(len(_CLOSE.sub(b"", answer)) for answer in answers)
        answers = [_CLOSE.sub(b"", answer)[:shortest] for answer in answers]
    at = next((i for i, (a, b) in enumerate(zip(*answers, strict=False)) if a != b), min(map(len, answers)))
    assert answers[0] == answers[1], [answer[max(at - 200, 0) : at + 100] for answer in answers]
    return answers[0]


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: kv.example", *fields, "", ""]).encode("latin-1")


def put(path: str, body: bytes, *fields: str, method: str = "PUT") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: kv.example", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def delete(path: str, *fields: str) -> bytes:
    return get(path, *fields).replace(b"GET", b"DELETE", 1)


PLAIN = [
    get("/a"),
    put("/a", b"one"),
    get("/a"),
    put("/a", b""),
    get("/a"),
    delete("/a"),
    delete("/a"),
    get("/v1/kv/a/b"),
    put("/v1/kv/a/b", b"x", "Content-Type: text/plain; charset=utf-8"),
    get("/v1/kv/a/b"),
    put("/v1/kv/a/b", b"y"),
    get("/a%2Fb"),
    delete("/v1/kv/a/b"),
    delete("/v1/kv/a/b"),
    put("/user%3A1%2fname", b"Zo\xc3\xab"),
    get("/v1/kv/user:1/name"),
    get("/v1/kv/user%3A1%2Fname"),
    put("/v1/kv/%E4%BD%A0", b"x"),
    get("/%e4%bd%a0"),
    delete("/%E4%BD%A0"),
    put("/%70ing", b"no pong"),
    get("/%70ing"),
    put("/" + "%61" * 511, b"long"),
    get("/" + "a" * 511),
    delete("/v1/kv/" + "%61" * 511),
    get("/%zz"),
    get("/%"),
]


def test_plain_requests_take_the_hot_path(roads: Roads) -> None:
    roads.taken.clear()
    answers = same(roads, *PLAIN)
    assert answers.count(b"HTTP/1.1 ") == len(PLAIN)
    assert [data for data in PLAIN if data not in roads.taken] == []
    assert roads.taken.count(get("/v1/kv/a/b")) == 2, "the 404 of an absent key, too"


def ask(method: str, path: str, *fields: str) -> bytes:
    return get(path, *fields).replace(b"GET", method.encode(), 1)


MERGE = "Content-Type: application/merge-patch+json"
PAST, FUTURE = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
EVERYDAY = [
    (put("/v1/kv/a?ttl=600", b"one"), 201),
    (put("/v1/kv/a?expires=2100-01-01T00:00:00Z", b"two", "Content-Type: text/plain"), 204),
    (put("/v1/kv/a?return=previous", b"three"), 200),
    (get("/v1/kv/a", 'If-None-Match: "@"'), 304),
    (get("/v1/kv/a", 'If-None-Match: "1", W/"@"'), 304),
    (get("/v1/kv/a", 'If-None-Match: "1"'), 200),
    (get("/v1/kv/a", "If-None-Match: *"), 304),
    (get("/v1/kv/a", f"If-Modified-Since: {FUTURE}"), 304),
    (get("/v1/kv/a", f"If-Modified-Since: {PAST}"), 200),
    (get("/v1/kv/a", 'If-Match: "@"'), 200),
    (get("/v1/kv/a", 'If-Match: "1"'), 412),
    (get("/v1/kv/a", f"If-Unmodified-Since: {PAST}"), 412),
    (get("/v1/kv/a", "If-Match: 1"), 400),
    (get("/v1/kv/a?x=1"), 400),
    (get("/v1/kv/a", "Range: bytes=1-2"), 206),
    (get("/v1/kv/a", "Range: bytes=1-2", 'If-Range: "@"'), 206),
    (get("/v1/kv/a", "Range: bytes=1-2", 'If-Range: "1"'), 200),
    (get("/v1/kv/a", "Range: bytes=7-"), 416),
    (ask("HEAD", "/v1/kv/a"), 200),
    (ask("HEAD", "/v1/kv/a", 'If-None-Match: "@"'), 304),
    (ask("HEAD", "/v1/kv/a", 'If-Match: "1"'), 412),
    (ask("HEAD", "/v1/kv/absent"), 404),
    (get("/v1/kv/absent"), 404),
    (put("/v1/kv/a", b"four", 'If-Match: "@"'), 204),
    (put("/v1/kv/a", b"five", 'If-Match: "1"'), 412),
    (put("/v1/kv/a", b"five", "If-None-Match: *"), 412),
    (put("/v1/kv/new", b"five", "If-None-Match: *"), 201),
    (put("/v1/kv/a", b"six", f"If-Unmodified-Since: {FUTURE}"), 204),
    (put("/v1/kv/a", b"six", f"If-Unmodified-Since: {PAST}"), 412),
    (put("/v1/kv/a?tll=5", b"six"), 400),
    (put("/v1/kv/a?ttl=5", b"six", "Idempotency-Key: everyday"), 204),
    (put("/v1/kv/a?ttl=5", b"six", "Idempotency-Key: everyday"), 204),
    (put("/v1/kv/a?ttl=6", b"six", "Idempotency-Key: everyday"), 422),
    (ask("POST", "/v1/kv/a?incr=1"), 409),
    (ask("POST", "/v1/kv/n?incr=1&ttl_if_new=60", "Content-Length: 0"), 201),
    (ask("POST", "/v1/kv/n?incr=-3"), 200),
    (ask("POST", "/v1/kv/n?ttl=60"), 204),
    (ask("POST", "/v1/kv/n?persist=true"), 204),
    (ask("POST", "/v1/kv/absent?ttl=60"), 404),
    (ask("POST", "/v1/kv/n"), 400),
    (put("/v1/kv/j", b'{"a":1}', MERGE, method="PATCH"), 201),
    (put("/v1/kv/j", b'{"b":{}}', MERGE, method="PATCH"), 200),
    (put("/v1/kv/j", b'{"a":1,"a":2}', MERGE, method="PATCH"), 400),
    (put("/v1/kv/j", b"{}", method="PATCH"), 415),
    (put("/v1/kv/new", b"{}", MERGE, method="PATCH"), 409),
    (delete("/v1/kv/a", 'If-Match: "1"'), 412),
    (delete("/v1/kv/a", 'If-Match: "@"'), 204),
    (delete("/v1/kv/a"), 404),
    (get("/a", 'If-None-Match: "1"', "Range: bytes=0-1"), 200),
    (put("/a", b"x", "If-None-Match: *"), 200),
]
"""Requests in this order, and the status of their answers."""


def test_everyday_requests_take_the_hot_path(roads: Roads) -> None:
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    for request, status in EVERYDAY:
        roads.taken.clear()
        answer = same(roads, request)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (request, answer)
        assert len(roads.taken) == 1, request


@pytest.mark.parametrize(
    "data",
    [
        ask("HEAD", "/a"),
        get("/a?x"),
        put("/v1/kv/a", b"x", "If-Match: *", "If-Match: *"),
        put("/v1/kv/a", b"x", "Expect: 100-continue"),
        ask("POST", "/v1/kv/a?ttl=1", "Content-Length: 1") + b"x",
        ask("DELETE", "/v1/kv/a", "If-Match: *", "Content-Length: 1") + b"x",
        ask("HEAD", "/v1/kv/a", "Content-Length: 0"),
        ask("PUT", "/v1/kv/a?ttl=1"),
        ask("PATCH", "/v1/kv/a", MERGE),
        put("/v1/kv/a", b'{"a":"%b"}' % (b"x" * (64 << 10)), MERGE, method="PATCH"),
        put("/v1/kv/a?ttl=9", b"x" * (64 << 10), "Idempotency-Key: large"),
        get("/v1/kv/large", "Range: bytes=0-1"),
        get("/v1/kv/text", "Accept-Encoding: gzip", "If-None-Match: *"),
        ask("HEAD", "/v1/kv/text", "Accept-Encoding: gzip"),
        get("/v1/kv/a", "If-None-Match: " + ", ".join(['"1"'] * 600)),
        put("/v1/kv/a?" + "ttl=1&" * 100, b"x"),
        get("/v1/kv/a", "If-None-Match: *", "Authorization: a", "Authorization: b"),
        put("/v1/kv/a?ttl=10", b"x" * (MAX_VALUE + 1)),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_left_to_the_ordinary_road(roads: Roads, data: bytes) -> None:
    same(roads, put("/v1/kv/large", b"x" * (64 << 10)), put("/v1/kv/text", b"to be or not to be " * 100))
    roads.taken.clear()
    same(roads, data)
    assert not roads.taken


REFUSED_ON_BOTH = [
    # two readings of where a request ends
    put("/a", b"xGET /b HTTP/1.1\r\nHost: h\r\n\r\n", "Content-Length: 1"),
    put("/a", b"x", "Transfer-Encoding: chunked"),
    put("/a", b"5\r\nhello\r\n0\r\n\r\n").replace(b"Content-Length: 16", b"Transfer-Encoding: chunked"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: +5"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: 5, 5"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: 0x5"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: 005"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length : 5"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: 5\t"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length:5"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length: 99999999999999999999"),
    put("/a", b"hello").replace(b"Content-Length: 5", b"Content-Length:"),
    put("/a", b"hello").replace(b"Content-Length: 5\r\n", b""),
    put("/a", b"", "Expect: 100-continue"),
    put("/a", b"abc", "Expect: 100-continue"),
    get("/a", "Content-Length: 3") + b"abc",
    delete("/a", "Content-Length: 3") + b"abc",
    get("/a", "Content-Length: 0"),
    get("/a", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    get("/a", "Content-Length:"),
    delete("/a", "Content-Length:"),
    delete("/a", "Content-Length: "),
    # lines
    get("/a").replace(b"\r\n", b"\n"),
    get("/a").replace(b"\r\n\r\n", b"\n\n"),
    get("/a", " folded: x"),
    get("/a", "X: 1\rHost: evil"),
    get("/a", "A: b\nHost: evil"),
    b"\r\n" + get("/a"),
    b"\r\n\r\n\r\n" + get("/a"),
    get("/a", ": x"),
    get("/a", "X"),
    get("/a", "X:"),
    get("/a", "Accept: \x00"),
    get("/a", "Accept: \x80"),
    get("/a", "Accept: "),
    get("/a", "Accept:  two"),
    get("/a", "Accept: behind  "),
    get("/a", "Accept: one", "Accept: two"),
    # hosts
    get("/a", "Host: two"),
    get("/a").replace(b"Host: kv.example\r\n", b""),
    get("/a").replace(b"kv.example", b""),
    get("/a").replace(b"kv.example", b"a/b"),
    get("/a").replace(b"kv.example", b"a b"),
    get("/a").replace(b"kv.example", b"[::1]:8080"),
    get("/a").replace(b"Host", b"hOsT"),
    get("/a").replace(b"kv.example", b"k_v-.example:80"),
    get("/a").replace(b"kv.example", b"u@h"),
    # targets
    get("/"),
    get("//a"),
    get("/a/"),
    get("/a?x=1"),
    get("/a#f"),
    get("http://kv.example/a"),
    get("http://kv.example"),
    get("*"),
    get("a"),
    get("/keys"),
    get("/keys/a"),
    get("/ping"),
    get("/wal"),
    get("/v1"),
    get("/v1/kv"),
    get("/v1/kv/"),
    get("/v1/kv//a"),
    get("/v1/kv/../a"),
    get("/v1/kv/a/"),
    get("/v1/kv/a?x=1"),
    get("/v1/batch"),
    get("/v1/whoami"),
    put("/v1/whoami", b"x"),
    get("/v1/kv?delimiter=%2F&delimiter=:"),
    get("/docs"),
    get("/console"),
    get("/console/"),
    get("/console/app.js"),
    get("/docs", "Accept: text/html"),
    get("/sdk"),
    get("/sdk", "Accept: text/html"),
    put("/sdk", b"x"),
    get("/sdk/"),
    get("/sdk/client.js"),
    get("/sdk/client.js", "If-None-Match: *"),
    get("/sdk/nothing"),
    put("/sdk/client.js", b"x"),
    get("/."),
    get("/.."),
    get("/%61"),
    get("/%zz"),
    get("/%ff"),
    get("/v1/kv/%zz"),
    get("/v1/kv/%"),
    get("/v1/kv/%ff"),
    get("/v1/kv/%2F"),
    get("/%00"),
    put("/%0d%0aX:%20y", b"x"),
    get("/v1/kv/%0D%0AX:%20y"),
    put("/%ff", b"x"),
    delete("/v1/kv/%ff"),
    put("/v1/kv/%e4%bd", b"x"),
    get("/%6Beys"),
    get("/k%65ys/a"),
    get("/v1/%6Bv/a"),
    get("/v1%2Fkv%2Fa"),
    put("/" + "%61" * 512, b"x"),
    get("/v1/kv/" + "%61" * 512),
    delete("/%2e"),
    get("/v1/kv/a%3Fttl=1"),
    put("/v1/kv/a%3fttl=1", b"x"),
    get("/{a}"),
    get("/a|b"),
    get("/a<b"),
    get('/"'),
    get("/a`b"),
    get("/" + "k" * 511),
    get("/" + "k" * 512),
    put("/" + "k" * 512, b"x"),
    get("/v1/kv/" + "k" * 512),
    delete("/" + "k" * 512),
    get("/" + "k" * 9000),
    get("/health/live"),
    get("/v1/status?x"),
    put("/keys", b""),
    put("/ping", b""),
    put("/docs", b"d"),
    delete("/wal"),
    delete("/docs"),
    # request lines
    get("/a").replace(b"HTTP/1.1", b"HTTP/1.0"),
    get("/a").replace(b"HTTP/1.1", b"HTTP/1.2"),
    get("/a").replace(b"HTTP/1.1", b"HTTP/2.0"),
    get("/a").replace(b"HTTP/1.1", b"http/1.1"),
    get("/a").replace(b" HTTP", b"  HTTP"),
    get("/a").replace(b"GET /a", b"GET  /a"),
    get("/a").replace(b"GET", b"get"),
    get("/a").replace(b"GET", b"HEAD"),
    get("/a").replace(b"GET", b"POST"),
    get("/a").replace(b"GET", b"OPTIONS"),
    get("/a").replace(b"GET", b"GETX"),
    get("/v1/kv/a").replace(b"GET", b"PATCH"),
    get("/a").replace(b" HTTP/1.1", b""),
    # what changes an answer
    get("/a", "Connection: close"),
    get("/a", "Connection: Keep-Alive"),
    get("/a", "Connection: keep-alive, x"),
    get("/a", "Connection: upgrade", "Upgrade: h2c"),
    get("/a", "Upgrade: websocket"),
    get("/a", "X-Request-Id: mine"),
    get("/a", "X-Request-Id: no good"),
    get("/a", "X-Request-Id: a", "X-Request-Id: b"),
    get("/a", "X-Request-Id: no good", "X-Request-Id: b"),
    get("/a", "X-Request-Id: "),
    get("/a", "X-Request-Id : a"),
    get("/v1/kv/a/b/c", "X-Request-Id: mine"),
    ask("HEAD", "/v1/kv/a", "X-Request-Id: mine"),
    put("/v1/kv/a?return=previous", b"x", "X-Request-Id: " + "i" * 64),
    put("/v1/kv/a?return=previous", b"x", "X-Request-Id: " + "i" * 65),
    get("/a", "Service-Worker: script"),
    get("/v1/kv/a", "Range: bytes=0-1"),
    get("/v1/kv/a", "Range: bytes=0-1", "Range: bytes=1-1"),
    get("/v1/kv/a", "Range : bytes=0-1"),
    get("/v1/kv/a", "Range: bytes=0-1", " ,2-3"),
    get("/v1/kv/a", "Range:"),
    get("/v1/kv/a", "If-Match: ", 'If-Match: "1"'),
    get("/v1/kv/a", 'If-Match: "1"\rX: y'),
    get("/v1/kv/a", 'If-Match: "\xe9"'),
    get("/v1/kv/a", "If-None-Match: \t*\t"),
    get("/v1/kv/a").replace(b"Host", b"If-None-Match: *\r\nHost"),
    get("/v1/kv/a", "If-None-Match: *", "X: y"),
    get("/v1/kv/a?"),
    get("/v1/kv/a??"),
    get("/v1/kv/a?%"),
    get("/v1/kv/%61?x=%zz"),
    get("/v1/kv/?ttl=1"),
    put("/v1/kv/" + "%61" * 512 + "?ttl=1", b"x"),
    put("/v1/kv/" + "k" * 512 + "?ttl=1", b"x"),
    put("/v1/kv/%ff?ttl=1", b"x"),
    put("/v1/kv/a?ttl=1 ", b"x"),
    put("/v1/kv/a?ttl=1#ttl=2", b"x"),
    put("/v1/kv/a?tt%6C=600", b"x"),
    put("/v1/kv/a?ttl=+600", b"x"),
    put("/v1/kv/a?ttl=600", b"x", "Transfer-Encoding: chunked"),
    put("/v1/kv/a?ttl=600", b"", "Expect: 100-continue"),
    put("/v1/kv/a?ttl=600", b"xGET /b HTTP/1.1\r\nHost: h\r\n\r\n", "Content-Length: 1"),
    put("/v1/kv/a", b"{}", MERGE, "Content-Length: 1", method="PATCH"),
    put("/v1/kv/a", b"{}", MERGE, MERGE, method="PATCH"),
    ask("POST", "/v1/kv/a?incr=1", "Content-Length: 3") + b"abc",
    ask("POST", "/v1/kv/a?incr=1", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    ask("HEAD", "/v1/kv/a", "Content-Length: 3") + b"abc",
    ask("HEAD", "/v1/kv/a", "Connection: close"),
    get("/v1/kv/a", "If-None-Match: *", "Service-Worker: script"),
    get("/v1/kv/a", 'If-None-Match: "1"'),
    get("/v1/kv/a", "If-None-Match: *"),
    get("/v1/kv/a", "If-Match: *"),
    put("/v1/kv/a", b"x", "If-None-Match: *"),
    put("/v1/kv/a", b"x", "Content-Encoding: gzip"),
    put("/a", b"x", "Content-Encoding: gzip"),
    put("/v1/kv/a", b"x", "Content-Range: bytes 0-0/1"),
    put("/v1/kv/a", b"x", "Content-Type: not a type"),
    put("/a", b"x", "Content-Type: not a type"),
    get("/v1/kv/a"),
    put("/a", b"x", "Content-Type: application/x-www-form-urlencoded"),
    get("/v1/kv/a"),
    put("/v1/kv/a", b"x", "Content-Type: " + "t/" + "x" * 300),
    put("/a", b"x", "Content-Type: t/a", "Content-Type: t/b"),
    get("/v1/kv/a"),
    put("/v1/kv/a?ttl=100", b"x"),
    get("/v1/kv/a"),
    get("/a"),
    get("/v1/kv/absent", "Accept: text/plain"),
    delete("/absent", "Accept: application/problem+json"),
    delete("/v1/kv/absent"),
    get("/a", "Origin: http://page"),
    get("/a", "Authorization: Bearer x"),
    get("/a", "Cookie: a=b"),
    get("/a", "Forwarded: for=x"),
    get("/a", "Via: 1.1 x"),
]


@pytest.mark.parametrize("data", REFUSED_ON_BOTH, ids=lambda data: repr(data[:60]))
@pytest.mark.parametrize(
    "begin", [[], [get("/a")], [put("/a", b"before")]], ids=["first", "after a get", "after a put"]
)
def test_odd_requests_have_one_answer(roads: Roads, begin: list[bytes], data: bytes) -> None:
    same(roads, *begin, data, get("/a"), put("/a", b"after"), get("/a"))
    same(roads, *begin, data + get("/a") + put("/b", b"behind") + get("/b"))


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 16 << 10, (64 << 10) - 1, 64 << 10, MAX_VALUE, MAX_VALUE + 1])
@pytest.mark.parametrize("kind", ["text/plain", "image/png", "image/svg+xml", "text/event-stream"])
def test_values_of_every_size(roads: Roads, size: int, kind: str) -> None:
    value = (b"ab" * size)[:size]
    for path in ("/big", "/v1/kv/big"):
        same(
            roads,
            put(path, value, f"Content-Type: {kind}"),
            get(path),
            get(path, "Accept-Encoding: gzip, br"),
            get(path, "Accept-Encoding: identity"),
            put(path, b"", "Accept-Encoding: gzip"),
            put(path, value),
            delete(path),
        )


FIELDS = [
    "Accept: */*",
    "Idempotency-Key: a",
    "idempotency-key: b",
    "Idempotency-Key: ",
    "Accept: application/problem+json",
    "Accept-Encoding: gzip",
    "User-Agent: curl/8",
    "Connection: close",
    "Connection: keep-alive",
    "Content-Type: text/plain",
    "Content-Type: x",
    "Cache-Control: no-cache",
    "Cookie: c=d",
    "If-Match: *",
    "X-Request-Id: id",
    "Range: bytes=0-0",
    "Expect: 100-continue",
    "Sec-Fetch-Mode: cors",
    "Host: again",
    "Origin: http://page",
]
paths = st.sampled_from(
    [
        "/a",
        "/b",
        "/v1/kv/a",
        "/v1/kv/c/d",
        "/keys/x",
        "/ping",
        "/c%2Fd",
        "/v1/kv/%61",
        "/%e4",
        "/a?q=1",
        "/wal",
        "/" + "k" * 600,
    ]
)
fields = st.lists(st.sampled_from(FIELDS), max_size=3)
bodies = st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * 2000, b"y" * 70_000]))
requests = st.one_of(
    st.builds(lambda path, fields: get(path, *fields), paths, fields),
    st.builds(lambda path, fields: delete(path, *fields), paths, fields),
    st.builds(lambda path, body, fields: put(path, body, *fields), paths, bodies, fields),
    st.builds(lambda path, body, fields: put(path, body, *fields, method="POST"), paths, bodies, fields),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with some bytes of its beginning changed."""
    data = bytearray(draw(requests))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, min(len(data), 120) - 1))
        junk = draw(
            st.sampled_from([b"", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"/", b"%", b"\xff", b"0", b"a"])
        )
        data[at : at + draw(st.integers(0, 2))] = junk
    return bytes(data)


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Requests as they may come: one by one, several in one piece, one in several."""
    data, pieces = draw(st.lists(damaged(), min_size=1, max_size=5)), []
    for each in data:
        if draw(st.integers(0, 3)) == 0 and len(each) > 1:
            at = draw(st.integers(1, min(len(each), 150) - 1))
            pieces += [each[:at], each[at:]]
        elif pieces and draw(st.integers(0, 3)) == 0:
            pieces[-1] += each
        else:
            pieces.append(each)
    return pieces


@settings(max_examples=effort.times(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations(), st.booleans())
@example([get("/a")[:-2], b"\r\n" + get("/b")], True)
@example([put("/a", b"hello")[:-5], get("/b")], True)
def test_any_conversation_has_one_answer(roads: Roads, pieces: list[bytes], patient: bool) -> None:
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    same(roads, *pieces, patient=patient)


QUERIES = st.sampled_from(
    [
        "",
        "?",
        "?ttl=600",
        "?ttl=600.5",
        "?ttl=0",
        "?ttl=x",
        "?ttl=1&ttl=2",
        "?ttl=600&expires=2100-01-01T00:00:00Z",
        "?expires=2100-01-01T00:00:00%2B01:00",
        "?expires=2001-01-01T00:00:00Z",
        "?incr=1",
        "?incr=-5&ttl_if_new=600",
        "?incr=9223372036854775807",
        "?incr=9223372036854775808",
        "?incr=1&persist=true",
        "?ttl_if_new=5&ttl=600",
        "?persist=true",
        "?persist=false",
        "?return=previous",
        "?return=previous&ttl=600",
        "?return=next",
        "?&&",
        "?%69ncr=2",
        "?tt%zz=1",
        "?x=%ff",
        "?unknown",
    ]
)
TAGS = st.sampled_from(["*", '"@"', 'W/"@"', '"@-gzip"', '"@-br", "@-gzip"', '"1"', '"1" , "@"', '"x"', "", "@", '"@'])
DATES = st.sampled_from([PAST, FUTURE, "yesterday"])
VARYING = st.fixed_dictionaries(
    {},
    optional={
        "If-Match": TAGS,
        "If-None-Match": TAGS,
        "If-Modified-Since": DATES,
        "If-Unmodified-Since": DATES,
        "Range": st.sampled_from(["bytes=0-1", "bytes=-1", "bytes=1-", "bytes=9-", "bytes=0-0,2-3", "lines=1-2"]),
        "If-Range": st.sampled_from(['"@"', '"1"', 'W/"@"', FUTURE]),
        "Idempotency-Key": st.sampled_from(["k", "l", "a b", "k" * 65]),
        "Accept-Encoding": st.sampled_from(["gzip", "br, gzip", "identity"]),
        "Accept": st.sampled_from(["*/*", "text/html"]),
        "Content-Type": st.sampled_from(
            ["text/plain", "application/merge-patch+json", "application/x-www-form-urlencoded", "image/png", "x"]
        ),
        "Authorization": st.sampled_from(["all", "reads", "writes", "other", "nobody"]).map("Bearer {}".format),
    },
)
CONTENTS = st.sampled_from(
    [
        b"",
        b"7",
        b"text",
        b'{"a":1}',
        b'{"a":1,"a":2}',
        b'\xef\xbb\xbf{"b":null}',
        b'{"long":"%b"}' % (b"to be or not to be " * 80),
        b"to be or not to be " * 80,
        b"to be or not to be " * 1000,
        b"x" * (64 << 10),
    ]
)


@st.composite
def of_one_key(draw: st.DrawFn) -> bytes:
    """A request of version 1 for one key, with any query and conditions; some have a field twice."""
    method = draw(st.sampled_from(["GET", "HEAD", "PUT", "PUT", "PATCH", "POST", "DELETE"]))
    path = "/v1/kv/" + draw(st.sampled_from(["a", "a", "a", "%61", "b", "c/d"])) + draw(QUERIES)
    lines = [f"{name}: {value}" for name, value in draw(st.permutations(sorted(draw(VARYING).items())))]
    if lines and draw(st.integers(0, 9)) == 0:
        lines.append(draw(st.sampled_from(lines)))
    if method in ("PUT", "PATCH") or draw(st.integers(0, 9)) == 0:
        return put(path, draw(CONTENTS), *lines, method=method)
    return ask(method, path, *lines)


@pytest.fixture(scope="module")
def closed(roads: Roads) -> Iterator[Roads]:
    """Two stores that require tokens."""
    tokens = [
        token("all", (b"",), (b"",)),
        token("reads", (b"",), ()),
        token("writes", (), (b"a",)),
        token("other", (b"b",), (b"b",)),
    ]
    with ExitStack() as stack:
        sites = [stack.enter_context(running_site(1, MAX_VALUE, hot=hot)) for hot in (True, False)]
        for site in sites:
            publish_tokens(site.store.board, tokens)
            assert site.front.context.tokens.refresh()
        yield Roads(*sites, roads.taken)


ALL = "Authorization: Bearer all"


@settings(max_examples=effort.times(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(of_one_key(), min_size=1, max_size=6))
def test_any_request_for_one_key_has_one_answer(roads: Roads, asked: list[bytes]) -> None:
    same(roads, delete("/a"), delete("/b"), delete("/c%2Fd"))
    same(roads, *asked, get("/v1/kv/a"), get("/v1/kv/b"))


@settings(max_examples=effort.times(100), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(of_one_key(), min_size=1, max_size=6))
def test_any_request_for_one_key_has_one_answer_where_tokens_count(closed: Roads, asked: list[bytes]) -> None:
    same(closed, *[delete(path, ALL) for path in ("/a", "/b", "/c%2Fd")])
    same(closed, put("/v1/kv/a", b"1", ALL), *asked, get("/v1/kv/a", ALL), get("/v1/kv/b", ALL))


def keyed(*pieces: bytes, key: str = "k") -> list[bytes]:
    return [
        piece.replace(b"Host: kv.example", b"Host: kv.example\r\nIdempotency-Key: %b" % key.encode())
        for piece in pieces
    ]


def test_a_repeat_is_answered_alike_on_both(roads: Roads) -> None:
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    plain = [
        *keyed(*[put("/v1/kv/a", b"one")] * 3, key="first"),
        *keyed(*[put("/v1/kv/a", b"two", "Content-Type: text/plain")] * 2, key="second"),
        *keyed(*[delete("/v1/kv/a")] * 2, key="third"),
        *keyed(get("/v1/kv/a/b"), put("/a", b"x"), get("/a"), get("/v1/kv/a"), delete("/a"), key="third"),
        *keyed(*[delete("/v1/kv/a")] * 2, key="fourth"),
        *keyed(put("/v1/kv/a", b"three"), put("/v1/kv/b", b"one"), delete("/v1/kv/a"), key="first"),
    ]
    others = [
        *keyed(put("/v1/kv/a?ttl=50", b"one"), put("/v1/kv/a", b"one", "If-Match: *"), key="first"),
        *keyed(put("/v1/kv/a", b"x"), key="k" * 65),
        *keyed(put("/v1/kv/a", b"x"), key="a b"),
        *keyed(put("/v1/kv/a", b"x"), key=" a"),
        *keyed(put("/v1/kv/a", b"x", "Idempotency-Key: a")),
        *keyed(put("/v1/kv/a", b"x", "idempotency-key: k")),
    ]
    roads.taken.clear()
    answers = same(roads, *plain)
    assert answers.count(b"idempotency-replayed: true") == 4
    assert answers.count(b"HTTP/1.1 422 ") == 3
    assert [data for data in plain if data not in roads.taken] == []
    roads.taken.clear()
    answers = same(roads, *others)
    assert answers.count(b"HTTP/1.1 422 ") == 2 and answers.count(b"HTTP/1.1 400 ") == 4
    assert roads.taken == others[:4], "but for two keys, and those with white space"


def test_a_repeat_may_take_the_other_road(roads: Roads) -> None:
    """One store knows a request, whichever road it came by."""
    writes = (put("/v1/kv/o", b"x", "Content-Type: a/b"), put("/v1/kv/o", b"x"), delete("/v1/kv/o"))
    for number, piece in enumerate(writes):
        for first_hot in (True, False):
            [hot] = keyed(piece, key=f"{number}-{first_hot}")
            by_parser = hot.replace(b"Host", b"X-Unknown: 1\r\nHost")
            roads.taken.clear()
            answers = same(roads, put("/v1/kv/o", b""), *([hot, by_parser] if first_hot else [by_parser, hot]))
            assert roads.taken[1:] == [hot]
            assert answers.count(b"HTTP/1.1 204") >= 2 and answers.count(b"idempotency-replayed: true") == 1


def test_what_expires(roads: Roads) -> None:
    path = "/v1/kv/soon"
    shown = same(roads, put(path + "?ttl=1000", b"x"), get(path), get("/soon"))
    assert shown.count(b"kv-expires: TIME") == 2
    for site in (roads.hot, roads.plain):
        site.advance(2000)
    assert b"404 Not Found" in same(roads, get(path), get("/soon"), put(path, b"again"), delete(path))


def token(name: str, read: tuple[bytes, ...], write: tuple[bytes, ...]) -> Token:
    known = hash_token(name.encode())
    return Token(known, Grants(name, known.hex()[:16], read=read, write=write))


def test_tokens_count_on_both(closed: Roads) -> None:
    for bearer in ("all", "reads", "writes", "other", "nobody", ""):
        fields = [f"Authorization: Bearer {bearer}"] if bearer else []
        closed.taken.clear()
        for path in ("/a", "/v1/kv/a", "/b"):
            same(closed, put(path, b"x", *fields), get(path, *fields), delete(path, *fields), get(path, *fields * 2))
        assert bool(closed.taken) == (bearer not in ("nobody", "")), bearer


def test_what_a_token_may_not_read_is_not_told(closed: Roads) -> None:
    """On the hot path either."""
    writes = "Authorization: Bearer writes"
    same(closed, put("/v1/kv/a", b"1", ALL))
    closed.taken.clear()
    asked = [
        (put("/v1/kv/a", b"2", 'If-Match: "999"', writes), 412),
        (ask("POST", "/v1/kv/a?incr=1", writes), 204),
        (put("/v1/kv/a", b"{}", MERGE, writes, method="PATCH"), 204),
        (put("/v1/kv/a?return=previous", b"x", writes), 403),
        (get("/v1/kv/a", "If-None-Match: *", writes), 403),
        (get("/v1/kv/a", writes), 403),
        (put("/v1/kv/b?ttl=1", b"x", writes), 403),
        (put("/v1/kv/a?ttl=60", b"x", writes), 204),
        (ask("POST", "/v1/kv/a?incr=1", writes), 409),
    ]
    for request, status in asked:
        answer = same(closed, request)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert status == 204 or b"\r\netag: " not in answer, "the revision that is there"
        assert b"the value has" not in answer
    assert len(closed.taken) == len(asked)


ASKERS = [
    [f"{name}: {value}" for name, value in pairs]
    for pairs in (
        [],
        [("Origin", "https://a.example")],
        [("Origin", "https://evil.example")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "https://a.example"), ("Origin", "https://evil.example")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "Cross-Site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "https://a.example"), ("Sec-Fetch-Site", "cross-site")],
    )
]
HOSTS = [
    "kv.example",
    "localhost:80",
    "LocalHost.",
    "127.0.0.1",
    "[::1]:1",
    "evil.example",
    "127.0.0.1.evil.example",
    "",
    "::1",
]


@pytest.mark.parametrize("origins", ["*", "https://a.example"])
@pytest.mark.parametrize("names", [("*",), (), ("kv.example",)], ids=str)
def test_who_may_ask_counts_on_both(roads: Roads, origins: str, names: tuple[str, ...]) -> None:
    """Requests by each name of the server, from each page."""
    with ExitStack() as stack:
        pages = Pages(Origins(origins), Hosts(names))
        sites = [stack.enter_context(running_site(1, MAX_VALUE, hot=hot, pages=pages)) for hot in (True, False)]
        guarded = Roads(*sites, roads.taken)
        for host, fields in product(HOSTS, ASKERS):
            expected = (421,) * 4 if not pages.hosts.is_accepted(host.encode()) else _statuses(origins, fields)
            asked = [
                put("/a", b"x", *fields),
                get("/v1/kv/a", *fields),
                get("/no", *fields),
                delete("/v1/kv/a", *fields),
            ]
            roads.taken.clear()
            for request, status in zip(asked, expected, strict=True):
                answer = same(guarded, request.replace(b"Host: kv.example", f"Host: {host}".encode()), get("/a"))
                assert answer.startswith(b"HTTP/1.1 %d " % status), (host, fields)
            taken = [request for request in roads.taken if request != get("/a")]
            assert len(taken) == (4 if not fields and expected[0] == 200 else len(taken)), "whatever is listed"
            assert not taken or expected[0] == 200, "the ordinary road tells refusals"


def _statuses(origins: str, fields: list[str]) -> tuple[int, ...]:
    """Of a PUT, two GETs and a DELETE with these headers."""
    given = [field.partition(": ")[2] for field in fields if field.startswith("Origin")]
    is_foreign = any(value != "https://a.example" for value in given) if given else "cross-site" in str(fields).lower()
    return (403,) * 4 if origins != "*" and is_foreign else (200, 200, 200, 204)


def test_reads_are_shown_and_kept_from_eviction(roads: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bool]] = []
    for site in (roads.hot, roads.plain):
        monkeypatch.setattr(site.client, "record_read", lambda key, there: seen.append((key, there)))
    same(roads, put("/there", b"x"), get("/there"), get("/v1/kv/there"), get("/absent"), get("/v1/kv/absent"))
    assert seen == [(b"there", True), (b"there", True), (b"absent", False), (b"absent", False)] * 2


def test_writes_count_in_the_share_of_their_address(roads: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    """On either road, and reads have no place; when only the spare places are left, both refuse who has many."""
    held: list[tuple[int, int]] = []
    for site in (roads.hot, roads.plain):
        link, quota = site.client.links.of_key(b"a"), site.front.context.load.quotas.of_address("127.0.0.1")

        def noted(pending: Any, enqueue: Any = link.enqueue, quota: Quota = quota) -> None:
            held.append((quota.in_flight, quota.bytes))
            enqueue(pending)

        monkeypatch.setattr(link, "enqueue", noted)
    roads.taken.clear()
    same(roads, put("/a", b"xyz"), get("/a"), delete("/a"))
    assert len(roads.taken) == 3
    assert held == [(1, 3), (1, 0)] * 2
    quotas = [site.front.context.load.quotas.of_address("127.0.0.1") for site in (roads.hot, roads.plain)]
    assert all(quota.is_empty for quota in quotas)
    for site, quota in zip((roads.hot, roads.plain), quotas, strict=True):
        quota.in_flight = 64
        monkeypatch.setattr(site.front.context.load, "_in_flight", MOST_IN_FLIGHT)
    roads.taken.clear()
    try:
        for request in (put("/a", b"x"), get("/a"), delete("/a")):
            for site in (roads.hot, roads.plain):
                assert site.run(site.front.ask(request)).status == 503
        assert not roads.taken
    finally:
        for quota in quotas:
            quota.in_flight = 0


def test_a_stopping_worker_closes_after_the_answer(roads: Roads) -> None:
    for site in (roads.hot, roads.plain):
        site.front.context.load.stopping = True
    try:
        assert b"connection: close" in same(roads, get("/a"))
        assert b"connection: close" in same(roads, put("/a", b"x"))
    finally:
        for site in (roads.hot, roads.plain):
            site.front.context.load.stopping = False
