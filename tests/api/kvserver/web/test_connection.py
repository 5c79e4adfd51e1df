"""Connections: what is refused, in whose words, and that nothing behind a refusal is taken for a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from kvserver.http.access_log import AccessLog
from kvserver.http.head_rules import MOST_HEADERS
from kvserver.http.responses import COMMON, INERT
from kvserver.settings import ServerSettings
from kvserver.web import handoff
from kvserver.web.connection import ARRIVAL_S, IDLE_S, LINGER_S, QUIET_S, STALL_S
from kvserver.web.handoff import LATE_NS
from kvserver.web.traffic import MOST_BYTES, MOST_IN_FLIGHT, MOST_OWED_BYTES
from shards.wire.errors import NoFeed, OutcomeUnknown, Unavailable
from tests.api.web import Answer, Client, Web, request, scenario

SPARE = ServerSettings().spare_places

GET = request("GET", "/k")


def check_common(answer: Answer) -> None:
    """Every answer of every layer has these."""
    for name, value in COMMON:
        assert answer.headers[name.decode()] == value.decode()
    for name, value in INERT:
        assert answer.headers[name.decode()] == value.decode()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "date" in answer.headers


async def refused(web: Web, data: bytes, status: int, body: bytes | None = None) -> Answer:
    """`data` is answered with `status`, and the connection takes no other request."""
    client = await web.connect()
    answer = await client.ask(data)
    assert answer.status == status, answer
    if body is not None:
        assert answer.body == body
    check_common(answer)
    assert answer.headers["connection"] == "close"
    assert "x-request-id" in answer.headers
    assert await client.ended()
    return answer


@scenario
async def test_put_get_delete_on_one_connection(web: Web) -> None:
    client = await web.connect()
    assert await client.ask(request("PUT", "/k", body=b"one")) == await client.ask(GET.replace(b"/k", b"/absent"))
    for data, body in (
        (GET, b"one"),
        (request("PUT", "/k", body=b"two"), b"one"),
        (request("DELETE", "/k"), b"two"),
        (GET, b""),
    ):
        answer = await client.ask(data)
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "connection" not in answer.headers
        check_common(answer)
    answer = await client.ask(request("DELETE", "/k"))
    assert (answer.status, answer.body) == (404, b"")
    assert "content-type" not in answer.headers


@scenario
async def test_pipelined_requests_are_answered_in_order(web: Web) -> None:
    client = await web.connect()
    puts = [request("PUT", f"/{i}", body=b"%d" % i) for i in range(600)]
    gets = [request("GET", f"/{i}") for i in range(600)]
    await client.send(b"".join(puts + gets) + b"bad\r\n")
    for _ in puts:
        assert (await client.answer()).body == b""
    for i in range(len(gets)):
        assert (await client.answer()).body == b"%d" % i
    assert (await client.answer()).status == 400
    assert web.counts.requests == 1201


@scenario
async def test_one_client_with_many_requests_does_not_keep_others_waiting(web: Web) -> None:
    many, one = await web.connect(), await web.connect()
    await many.send(GET * 2000)
    assert (await one.ask(GET)).status == 200
    assert web.counts.requests < 2000
    await many.send(b"GET /k HTTP/1.1\r\n")
    for _ in range(2000):
        assert (await many.answer()).status == 200
    assert (await many.ask(b"Host: a\r\n\r\n")).status == 200


@scenario
async def test_requests_cut_at_any_byte(web: Web) -> None:
    data = (
        request("PUT", "/k", "Expect: 100-continue", "X-A: b", body=b"hello")
        + request("PUT", "/k", "Transfer-Encoding: chunked")
        + b"5;x=y\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
    )
    for cut in range(1, len(data)):
        client = await web.connect()
        await client.send(data[:cut])
        await asyncio.sleep(0)
        await client.send(data[cut:])
        assert (await client.answer()).status == 100
        answers = [await client.answer(), await client.answer()]
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[1].body == b"hello"
        client.writer.close()


@scenario
async def test_malformed_requests_are_refused(web: Web) -> None:
    for data in (
        b"GET /k HTTP/1.1\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /k HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /<k> HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /` HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET k HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /k HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"CONNECT kv.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        *(
            b"GET /k HTTP/1.1\r\nHost: %b\r\n\r\n" % host
            for host in (b"a b", b"a,b", b"a/", b"u@a", b"a?", b"#", b"a\tb")
        ),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        await refused(web, data, 400)
    assert web.shards.seen == []


@scenario
async def test_what_could_smuggle_a_request_is_refused_whole(web: Web) -> None:
    """Behind each stands a request that must never be answered."""
    chunk = b"0\r\n\r\n"
    hidden = request("PUT", "/smuggled", body=b"x")
    for fields in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X: a\nContent-Length: 5\r\n",
        b" Content-Length: 5\r\n",
    ):
        await refused(web, b"PUT /k HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n" + chunk + hidden, 400)
    await refused(web, b"PUT /k HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + hidden, 400)
    assert web.shards.values == {}


@scenario
async def test_bad_chunks_are_refused(web: Web) -> None:
    head = request("PUT", "/k", "Transfer-Encoding: chunked")
    for body in (b"x\r\n", b"-1\r\n", b"5\r\nhelloX\r\n", b"5\nhello\n0\n\n", b"fffffffffffffffff\r\n"):
        await refused(web, head + body + GET, 400)
    assert web.shards.values == {}


@scenario
async def test_too_large_by_length_is_refused_before_it_is_read(web: Web) -> None:
    head = "PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n"
    await refused(web, (head + "\r\n").encode(), 413, b"length limit exceeded")
    await refused(web, (head + "Expect: 100-continue\r\n\r\n").encode(), 413, b"length limit exceeded")
    assert (await web.ask(request("PUT", "/k", body=b"x" * 100_000))).status == 200
    assert len(web.shards.values[b"k"][0]) == 100_000


@scenario
async def test_a_client_that_goes_on_sending_reads_the_refusal(web: Web) -> None:
    """Closing at once would reset the connection, and the answer be lost; what is sent is no request."""
    client = await web.connect()
    await client.send(b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n")
    await web.until(lambda: web.counts.requests == 1)
    await client.send(request("PUT", "/smuggled", body=b"x") * 10_000)
    assert (await client.answer()).status == 413
    assert await client.ended()
    assert web.shards.values == {}
    await web.advance(LINGER_S + 1)
    await web.until(lambda: not web.traffic.connections)


@scenario
async def test_too_large_in_chunks(web: Web) -> None:
    head = request("PUT", "/k", "Transfer-Encoding: chunked")
    await refused(web, head + b"186a1\r\n" + b"x" * 100_001 + b"\r\n0\r\n\r\n" + GET, 413, b"length limit exceeded")
    await refused(web, head + b"8000\r\n" + (b"x" * 0x8000 + b"\r\n8000\r\n") * 5, 413, b"length limit exceeded")
    assert web.shards.values == {}


@scenario
async def test_chunk_headers_and_trailers_are_bounded(web: Web) -> None:
    head = request("PUT", "/k", "Transfer-Encoding: chunked")
    for endless in (head + b"1;", head + b"0\r\nX: "):
        client = await web.connect()
        await client.send(endless)
        for _ in range(80):
            await client.send(b"x" * 65536)
        assert (await client.answer()).status in (400, 413)


@scenario
async def test_long_request_lines_and_headers(web: Web) -> None:
    room = 8192 - len("GET / HTTP/1.1")
    assert (await web.ask(request("GET", "/" + "k" * room))).status == 200
    await refused(web, request("GET", "/" + "k" * (room + 1)), 414, b"")
    assert (await web.ask(request("GET", "/k", *(f"X-{i}: {'v' * 1000}" for i in range(60))))).status == 200
    await refused(web, request("GET", "/k", *(f"X-{i}: {'v' * 1000}" for i in range(66))), 431, b"")
    await refused(web, request("GET", "/k", "X: " + "v" * 66_000), 431, b"")
    assert (await web.ask(request("GET", "/k", *["a: b"] * (MOST_HEADERS - 1)))).status == 200
    await refused(web, request("GET", "/k", *["a: b"] * MOST_HEADERS), 431, b"")
    client = await web.connect()
    await client.send(b"GET /k HTTP/1.1\r\nX: ")
    for _ in range(100):
        await client.send(b"v" * 16384)
    assert (await client.answer()).status == 431


@scenario
async def test_a_head_that_is_refused_has_no_body(web: Web) -> None:
    """Its method is known before its head is whole."""
    for data, status in (
        (b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 100_000, 431),
        (b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n", 400),
        (b"HEAD \x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"HEAD /v1/" + b"k" * 9000, 414),
        (b"HEAD /v1/x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ):
        client = await web.connect()
        answer = await client.ask(data)
        assert answer.status == status
        assert await client.ended()


@scenario
async def test_what_version_1_refuses_is_a_problem_from_the_first_line_on(web: Web) -> None:
    for line in (
        b"BREW /v1/x HTTP/1.1",
        b"\r\n\r\nBREW /v1/x HTTP/1.1",
        b"GET http://a/v1/x HTTP/1.1",
        b"GET /v1/x HTTP/1.1",
    ):
        answer = await refused(web, line + b"\r\nHost: a b\r\n\r\n", 400)
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["detail"]


@scenario
async def test_slow_requests_time_out(web: Web) -> None:
    for part in (b"G", b"GET /k HTTP/1.1\r\nHo", b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"):
        client = await web.connect()
        await client.send(part)
        await web.advance(ARRIVAL_S - 1)
        assert len(web.traffic.connections) == 1
        await web.advance(2)
        answer = await client.answer()
        assert (answer.status, answer.body) == (408, b"request timed out")
        check_common(answer)
        await client.send(GET)
        assert await client.ended()
        await web.advance(LINGER_S + 1)
        await web.until(lambda: not web.traffic.connections)
    assert web.shards.seen == []


@scenario
async def test_the_time_of_a_request_does_not_run_while_another_is_answered(web: Web) -> None:
    client = await web.connect()
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"1") + b"GET /k HTTP/1.1\r\n")
    await web.advance(ARRIVAL_S * 2)
    await web.advance(ARRIVAL_S * 2)
    web.shards.gate.set()
    assert (await client.answer()).status == 200
    await client.send(b"Host: a\r\n\r\n")
    assert (await client.answer()).body == b"1"


@scenario
async def test_idle_connections_are_closed_quietly(web: Web) -> None:
    fresh, used = await web.connect(), await web.connect()
    assert (await used.ask(GET)).status == 200
    await web.advance(IDLE_S - 1)
    assert len(web.traffic.connections) == 2
    await web.advance(2)
    assert await fresh.ended() and await used.ended()


@scenario
async def test_beyond_the_limit_in_flight_requests_are_shed(web: Web) -> None:
    """Workers share the limit: what others have in flight stands on the board."""
    other = web.board.workers[1]
    web.traffic._other_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT + SPARE - 1
    web.shards.gate.clear()
    first, second = await web.connect(), await web.connect()
    await first.send(request("PUT", "/k", body=b"1"))
    await web.until(lambda: web.row.in_flight == 1)
    answer = await second.ask(GET)
    assert (answer.status, answer.body) == (503, b"service is overloaded, try again later")
    assert answer.headers["retry-after"] == "1"
    check_common(answer)
    await refused(web, request("PUT", "/k", "Expect: 100-continue", body=b"").replace(b"h: 0", b"h: 9"), 503)
    web.shards.gate.set()
    assert (await first.answer()).status == 200
    assert (await second.ask(GET)).body == b"1"  # it was let live, and now there is room
    assert web.counts.overloads == 2


@scenario
async def test_health_can_be_asked_beyond_the_limit_in_flight(web: Web) -> None:
    web.traffic._other_words.append(web.board.workers[1].base + type(web.row).in_flight.index)
    web.board.workers[1].in_flight = MOST_IN_FLIGHT + SPARE
    assert (await web.ask(GET)).status == 503
    for data in (request("GET", "/health/live"), request("OPTIONS", "/k"), request("OPTIONS", "/k", body=b"x")):
        assert (await web.ask(data)).status == 200
    ready = await web.ask(request("GET", "/health/ready", "Accept: application/problem+json"))
    assert json.loads(ready.body)["code"] == "unavailable", "it is the shard, not the limit"
    assert web.counts.overloads == 1


@scenario
async def test_bodies_are_bounded_in_sum(web: Web) -> None:
    web.traffic.bytes_held = MOST_BYTES - 10
    await refused(web, request("PUT", "/k", body=b"x" * 11), 503)
    await refused(web, request("PUT", "/k", "Transfer-Encoding: chunked") + b"b\r\n" + b"x" * 11 + b"\r\n", 503)
    assert (await web.ask(request("PUT", "/k", body=b"x" * 10))).status == 200
    web.traffic.bytes_held -= MOST_BYTES - 10


@scenario
async def test_answers_that_are_not_taken_are_bounded_in_sum(web: Web) -> None:
    """Beyond, what is large is refused before anything is done; all else goes on."""
    web.traffic.max_value = 5_000_000
    values = {b"big": (b"x" * 5_000_000, ""), b"small": (b"x", "")} | {b"%0500d" % i: (b"", "") for i in range(200)}
    web.shards.values = values.copy()
    readers = [await web.connect(f"127.0.0.{2 + i % 2}") for i in range(1 + MOST_BYTES // 5_000_000)]
    for reader in readers:
        reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader.send(request("GET", "/big"))
    await web.until(lambda: web.traffic.is_full(None))
    assert web.traffic.bytes_held == 0 == web.traffic.in_flight
    for method, path in (
        ("GET", "/big"),
        ("PUT", "/big"),
        ("DELETE", "/big"),
        ("GET", "/keys"),
        ("DELETE", "/keys/b"),
    ):
        answer = await web.ask(request(method, path))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert web.shards.values == values
    assert (await web.ask(request("GET", "/keys/b"))).body == b'["big"]'
    assert (await web.ask(request("PUT", "/small", body=b"y" * 5_000_000))).body == b"x"
    for reader in readers:
        reader.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await reader.answer()).body) == 5_000_000
    assert (await web.ask(request("GET", "/small"))).body == b"y" * 5_000_000
    assert web.counts.overloads == 5


@scenario
async def test_half_of_what_is_not_taken_is_for_others(web: Web) -> None:
    """Who does not take answers of 128 MiB gets no further large one; everybody else does."""
    web.traffic.max_value = 5_000_000
    web.shards.values = {b"big": (b"x" * 5_000_000, ""), b"small": (b"x", "")}
    readers = [await web.connect() for _ in range(1 + MOST_OWED_BYTES // 5_000_000)]
    for reader in readers[:-1]:
        reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader.send(request("GET", "/big"))
    await web.until(lambda: web.traffic.bytes_owed == 5_000_000 * (len(readers) - 1))
    readers[-1].writer.transport.pause_reading()  # type: ignore[attr-defined]
    await readers[-1].send(request("GET", "/big"))  # one that is under it may pass it
    await web.until(lambda: web.traffic.bytes_owed == 5_000_000 * len(readers))
    answer = await web.ask(request("GET", "/big", "Accept: application/problem+json"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "this address" in json.loads(answer.body)["detail"]
    assert (await web.ask(request("GET", "/small"))).body == b"x"
    stranger = await web.connect("127.0.0.2")
    assert len((await stranger.ask(request("GET", "/big"))).body) == 5_000_000
    for reader in readers:
        reader.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await reader.answer()).body) == 5_000_000
    assert (await web.ask(request("GET", "/big"))).status == 200


@scenario
async def test_a_body_counts_as_answer_while_its_client_does_not_read(web: Web) -> None:
    web.traffic.max_value = 5_000_000
    web.shards.values[b"k"] = (b"x" * 5_000_000, "")
    client = await web.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(request("PUT", "/k", body=b"y" * 5_000_000))
    await web.until(lambda: web.traffic.bytes_owed)
    assert (web.traffic.bytes_held, web.traffic.bytes_owed) == (0, 10_000_000)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await client.answer()).body) == 5_000_000


@scenario
async def test_expect_continue(web: Web) -> None:
    client = await web.connect()
    head = b"PUT /k HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert (await client.ask(head)).status == 100
    assert (await client.ask(b"abc")).status == 200
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"def") + head)
    await web.settle()
    web.shards.gate.set()
    assert (await client.answer()).body == b"abc"  # never a 100 before the answer of the request before
    assert (await client.answer()).status == 100
    assert (await client.ask(b"ghi")).body == b"def"


@scenario
async def test_http_1_0(web: Web) -> None:
    client = await web.connect()
    answer = await client.ask(b"GET /k HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.ended()
    client = await web.connect()
    for _ in range(2):
        answer = await client.ask(b"GET /k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


@scenario
async def test_connection_close_ends_the_connection(web: Web) -> None:
    client = await web.connect()
    answer = await client.ask(request("GET", "/k", "Connection: close") + request("PUT", "/smuggled", body=b"x"))
    assert answer.headers["connection"] == "close"
    assert await client.ended()
    assert web.shards.values == {}


@scenario
async def test_a_client_that_ends_its_side_gets_its_answers(web: Web) -> None:
    client = await web.connect()
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"1") + GET + b"GET /half")
    client.writer.write_eof()
    await web.settle()
    web.shards.gate.set()
    assert (await client.answer()).body == b""
    assert (await client.answer()).body == b"1"
    assert await client.ended()


@scenario
async def test_a_write_whose_client_left_is_done(web: Web) -> None:
    client = await web.connect()
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"1"))
    await web.until(lambda: web.row.in_flight == 1)
    client.reset()
    await web.until(lambda: not web.traffic.connections)
    web.shards.gate.set()
    await web.until(lambda: web.shards.values.get(b"k"))


@scenario
async def test_an_offer_of_another_protocol_is_ignored_with_its_body_read(web: Web) -> None:
    """curl --http2 and Java's client send it with everything; the body is no request."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    body = request("PUT", "/smuggled", body=b"x")
    client = await web.connect()
    assert (await client.ask(request("PUT", "/k", *offer, body=body) + request("GET", "/k", *offer))).status == 200
    assert (await client.answer()).body == body
    chunked = request("PUT", "/c", *offer, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    assert (await client.ask(chunked)).status == 200
    assert web.shards.values == {b"k": (body, ""), b"c": (b"abc", "")}


@scenario
async def test_a_client_that_reads_nothing_is_cut_off(web: Web) -> None:
    web.shards.values[b"k"] = (b"x" * 100_000, "")
    with socket.create_connection(("127.0.0.1", web.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await web.loop.sock_sendall(slow, GET * 200)
        await web.until(lambda: web.traffic.bytes_owed > 0)
        await web.settle()
        assert web.traffic.in_flight == 0
        await web.advance(STALL_S - 1)
        await web.advance(2)
        assert len(web.traffic.connections) == 1, "it was taken in between"
        await web.advance(STALL_S + 1)
        await web.until(lambda: not web.traffic.connections)


def _slow_client(web: Web) -> socket.socket:
    """A client whose kernel takes little; not blocking."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(("127.0.0.1", web.port))
    client.setblocking(False)
    return client


async def _read(web: Web, client: socket.socket, size: int) -> None:
    while size:
        size -= len(await web.loop.sock_recv(client, size))


@scenario
async def test_a_client_that_reads_slowly_is_not_cut_off(web: Web) -> None:
    """What it takes comes out of the kernel, which wants more of ours only now and then."""
    web.shards.values[b"k"] = (b"x" * 20_000_000, "")
    with _slow_client(web) as slow:
        await web.loop.sock_sendall(slow, GET)
        await _read(web, slow, 1)
        await web.advance(0)
        for _ in range(5):
            await _read(web, slow, 65536)
            await web.advance(STALL_S - 1)
            assert len(web.traffic.connections) == 1
        await web.advance(STALL_S + 1)
        await web.advance(STALL_S + 1)
        await web.until(lambda: not web.traffic.connections)


@scenario
async def test_an_answer_that_is_cut_off_does_not_look_whole(web: Web) -> None:
    """Where the end of the connection is the end of the answer, only a reset can say so."""
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(40_000)}
    for stall in (True, False):
        with _slow_client(web) as slow:
            await web.loop.sock_sendall(slow, b"GET /keys HTTP/1.0\r\n\r\n")
            await _read(web, slow, 1)
            await web.until(lambda: web.traffic.bytes_owed)
            await web.settle()
            (connection,) = web.traffic.connections
            if stall:
                await web.advance(0)
                await web.advance(STALL_S + 1)
            else:
                connection.cut_off()  # type: ignore[union-attr]
            await web.until(lambda: not web.traffic.connections)
            try:
                while await web.loop.sock_recv(slow, 1 << 20):
                    pass
            except ConnectionResetError:
                continue
            raise AssertionError("the list looked whole")


@scenario
async def test_a_list_that_breaks_off_does_not_look_whole(web: Web) -> None:
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(4000)}
    client = await web.connect()
    answer = await client.ask(request("GET", "/keys"))
    assert len(json.loads(answer.body)) == 4000
    assert answer.headers["transfer-encoding"] == "chunked"
    web.shards.break_list_after = 3
    await client.send(request("GET", "/keys"))
    try:
        await client.answer()
    except asyncio.IncompleteReadError:
        pass
    else:
        raise AssertionError("the list looked whole")
    client = await web.connect()
    await client.send(request("GET", "/keys").replace(b"1.1", b"1.0"))
    try:
        await client.answer()
    except ConnectionResetError:
        pass
    else:
        raise AssertionError("the list looked whole")


@scenario
async def test_a_prefix_delete_whose_client_left_goes_on(web: Web) -> None:
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(8000)}
    client = await web.connect()
    await client.send(request("DELETE", "/keys/0"))
    await client.reader.readuntil(b"\r\n\r\n")
    client.reset()
    await web.until(lambda: not web.shards.values)
    assert len(web.shards.deleted) == 8000


@scenario
async def test_a_prefix_delete_does_not_wait_for_its_client(web: Web) -> None:
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(40_000)}
    client = await web.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(request("DELETE", "/keys/0"))
    await web.until(lambda: not web.shards.values)
    assert web.traffic.bytes_owed > 10_000_000
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(json.loads((await client.answer("DELETE")).body)) == 40_000
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(8000)}
    web.shards.break_list_after = 6
    await client.send(request("DELETE", "/keys/0"))
    with contextlib.suppress(asyncio.IncompleteReadError):
        assert not await client.answer("DELETE"), "the list looked whole"


@scenario
async def test_a_stopping_worker_answers_and_closes(web: Web) -> None:
    busy, idle, late = await web.connect(), await web.connect(), await web.connect()
    assert (await idle.ask(GET)).status == (await late.ask(GET)).status == 200
    web.shards.gate.clear()
    await busy.send(request("PUT", "/k", body=b"1") + GET)
    await web.until(lambda: web.row.in_flight == 1)
    web.traffic.stopping = True
    for connection in list(web.traffic.connections):
        connection.shutdown()
    answer = await late.ask(GET)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await web.advance(QUIET_S + 0.1)
    assert await idle.ended()
    web.shards.gate.set()
    answer = await busy.answer()
    assert (answer.status, answer.headers.get("connection")) == (200, None)
    answer = await busy.answer()
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"1", "close")


@scenario
async def test_a_stopping_worker_waits_for_bodies_and_not_for_heads(web: Web) -> None:
    """A client that sent half a head may never send the rest: it must not hold up what stops after the workers."""
    half_head, half_body = await web.connect(), await web.connect()
    await half_head.send(GET[:-2])
    put = request("PUT", "/k", body=b"1234")
    await half_body.send(put[:-1])
    await web.settle()
    web.traffic.stopping = True
    for connection in list(web.traffic.connections):
        connection.shutdown()
    await web.advance(QUIET_S + 0.1)
    answer = await half_head.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    await web.advance(QUIET_S + 0.1)
    assert await half_head.ended()
    await web.until(lambda: len(web.traffic.connections) == 1)
    answer = await half_body.ask(put[-1:])
    assert (answer.status, answer.headers["connection"]) == (200, "close")


@scenario
async def test_errors_of_shards(web: Web) -> None:
    for error, status, body in (
        (Unavailable("shard 0 is down"), 503, b"service is overloaded, try again later"),
        (OutcomeUnknown(), 504, b""),
    ):
        web.shards.fail = error
        answer = await web.ask(request("PUT", "/k", body=b"1"))
        assert (answer.status, answer.body) == (status, body)
        check_common(answer)
        problem = await web.ask(
            request("PUT", "/k", "Accept: application/problem+json", "X-Request-Id: a.b-1", body=b"1")
        )
        assert problem.headers["content-type"] == "application/problem+json"
        document = json.loads(problem.body)
        assert document["code"] == error.code and document["status"] == status and document["hint"]
        assert document["request_id"] == problem.headers["x-request-id"] == "a.b-1"


@scenario
async def test_a_fault_of_ours_is_500(web: Web) -> None:
    web.shards.fail = ZeroDivisionError()
    answer = await web.ask(GET)
    assert (answer.status, answer.body) == (500, b"")
    check_common(answer)


@scenario
async def test_request_ids(web: Web) -> None:
    assert (await web.ask(request("GET", "/k", "X-Request-Id: abc"))).headers["x-request-id"] == "abc"
    assert "x-request-id" not in (await web.ask(request("GET", "/k", "X-Request-Id: a b"))).headers
    assert "x-request-id" not in (await web.ask(GET)).headers
    assert (await web.ask(request("GET", "/a/b", "X-Request-Id: abc"))).headers["x-request-id"] == "abc"
    assert len((await web.ask(request("GET", "/a/b"))).headers["x-request-id"]) == 16
    for path in ("/k", "/a/b"):  # the first counts on every road
        answer = await web.ask(request("GET", path, "X-Request-Id: abc", "X-Request-Id: def"))
        assert answer.headers["x-request-id"] == "abc"
        answer = await web.ask(request("GET", path, "X-Request-Id: a b", "X-Request-Id: def"))
        assert answer.headers.get("x-request-id") != "def"


@pytest.mark.usefixtures("no_gateway")
def test_each_refusal_is_logged_with_the_id_that_its_answer_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every layer, and in the access log; neither has a query, where a ticket may stand."""
    refused = [
        request("GET", "/a/b?ticket=kvt_x"),
        request("GET", "/v1/kv/k?ticket=kvt_x"),
        request("PUT", "/ping"),
        request("BREW", "/k?ticket=kvt_x"),
        request("GET", "/k?ticket=kvt_x", host=None),
        request("DELETE", "/k"),
        request("GET", "/k<?ticket=kvt_x"),
        request("PUT", "/k", "Content-Length: 900000000"),
        b"nonsense\r\n\r\n",
        request("GET", "/k?ticket=" + "x" * 9000),
        request("GET", "/wal?ticket=kvt_x"),
        request("GET", "/v1/feed?ticket=kvt_x"),
    ]

    async def test(web: Web) -> None:
        web.traffic.access_log = AccessLog()
        for data in refused:
            for sent in (data, data.replace(b"\r\n", b"\r\nX-Request-Id: abc\r\n", 1)):
                caplog.clear()
                answer = await web.ask(sent)
                assert answer.status >= 400
                told, accessed = (
                    [record.getMessage() for record in caplog.records if record.name.startswith(name)]
                    for name in ("kvserver.web", "kvserver.access")
                )
                told += [record.getMessage() for record in caplog.records if record.name == "kvserver.app"]
                suffix = f"(request {answer.headers['x-request-id']})"
                assert len(accessed) == 1 and accessed[0].endswith(f" s {suffix}"), sent
                assert [line.endswith(suffix) for line in told] == [True], (sent, told)
                assert "kvt_x" not in caplog.text
        caplog.clear()
        await web.ask(request("GET", "/k", "X-Request-Id: abc"))
        await web.ask(GET)
        of_answers = [r.getMessage().endswith("(request abc)") for r in caplog.records if r.name == "kvserver.access"]
        assert of_answers == [True, False]

    caplog.set_level("DEBUG", "kvserver")
    scenario(test)(tmp_path)


def test_the_log_names_requests_as_their_clients_know_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(web: Web) -> None:
        for error in (OutcomeUnknown(), ZeroDivisionError()):
            web.shards.fail = error
            for fields in ((), ("X-Request-Id: abc",)):
                caplog.clear()
                answer = await web.ask(request("PUT", "/k", *fields, body=b"1"))
                assert f"(request {answer.headers['x-request-id']})" in caplog.text
        web.shards.values = {b"%0500d" % i: (b"", "") for i in range(4000)}
        web.shards.break_list_after = 3
        with contextlib.suppress(asyncio.IncompleteReadError):
            await web.ask(request("GET", "/keys", "X-Request-Id: abc"))
        assert "(request abc)" in caplog.text

    caplog.set_level("DEBUG", "kvserver")
    scenario(test)(tmp_path)


async def _hand_over(web: Web, client: Client, data: bytes) -> tuple[list[object], socket.socket, socket.socket]:
    """Take the connection over as a gateway would; its channel is not answered yet."""
    import msgspec

    listener = web.listener  # type: ignore[attr-defined]
    await client.send(data)
    channel, _ = await web.loop.sock_accept(listener)
    message, descriptors, _, _ = socket.recv_fds(channel, 1 << 17, 1)
    return msgspec.msgpack.decode(message), socket.socket(fileno=descriptors[0]), channel


def _listen(web: Web) -> socket.socket:
    index, row = web.board.gateways.claim_row()
    row.state = row.UP
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(web.run_dir / f"gateway-{index}.handover"))
    listener.listen()
    listener.setblocking(False)
    web.listener = listener  # type: ignore[attr-defined]
    return listener


HANDSHAKE = (
    "Upgrade: WebSocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@scenario
async def test_a_handshake_is_handed_over_behind_earlier_answers(web: Web) -> None:
    with _listen(web):
        client = await web.connect()
        web.shards.gate.clear()
        head = request("GET", "/wal?x=1", *HANDSHAKE)
        taking = asyncio.create_task(_hand_over(web, client, request("PUT", "/k", body=b"1") + head + b"\x81\x80frame"))
        await web.settle()
        assert not taking.done()
        web.shards.gate.set()
        (version, peer, sent, rest), connection, channel = await taking
        assert version == 1
        assert peer == "{}:{}".format(*client.writer.get_extra_info("sockname"))
        assert sent.lower() == head.lower()  # type: ignore[attr-defined]
        assert rest == b"\x81\x80frame"
        assert (await client.answer()).status == 200
        with connection, channel:
            connection.setblocking(False)
            channel.setblocking(False)
            await client.send(b"more")
            await web.settle()
            channel.send(b"\x01")
            await web.until(lambda: not web.traffic.connections)
            assert await web.loop.sock_recv(connection, 100) == b"more"
            await web.loop.sock_sendall(connection, b"HTTP/1.1 101 \r\n\r\n")
            assert (await client.answer()).status == 101


@scenario
async def test_a_gateway_that_stands_still_is_asked_last(web: Web) -> None:
    """It would have the fewest clients, and not answer."""
    with _listen(web) as stands_still:
        ((_, row),) = web.board.gateways.living_rows()
        row.heartbeat_ns -= LATE_NS
        with _listen(web):
            web.board.gateways.living_rows()[1][1].clients = 100
            client = await web.connect()
            _, connection, channel = await _hand_over(web, client, request("GET", "/wal", *HANDSHAKE))
            with connection, channel:
                channel.send(b"\x01")
                await web.until(lambda: not web.traffic.connections)
            with pytest.raises(BlockingIOError):
                stands_still.accept()
        client = await web.connect()
        web.listener = stands_still  # type: ignore[attr-defined]
        _, connection, channel = await _hand_over(web, client, request("GET", "/wal", *HANDSHAKE))
        with connection, channel:  # there is no other any more
            channel.send(b"\x01")
            await web.until(lambda: not web.traffic.connections)


@scenario
async def test_a_client_that_comes_while_gateways_are_replaced_waits_for_the_next_one(web: Web) -> None:
    """A 503 would end an EventSource for good."""
    client = await web.connect()
    await client.send(request("GET", "/v1/feed", "Accept: text/event-stream"))
    await asyncio.sleep(0.2)
    with _listen(web):
        _, connection, channel = await _hand_over(web, client, b"")
        with connection, channel:
            channel.send(b"\x01")
            await web.until(lambda: not web.traffic.connections)


EVENTS = request("GET", "/v1/feed", "Accept: text/event-stream", "Origin: https://a.example")


@scenario
async def test_who_waits_at_a_gateway_that_dies_goes_to_the_next(web: Web) -> None:
    """Whether it died with the connection in its hands or in its queue."""
    client, queued = await web.connect(), await web.connect()
    with _listen(web):
        _, connection, channel = await _hand_over(web, client, EVENTS)
        await queued.send(EVENTS)
        await web.settle()
        connection.close()
        channel.close()
    web.board.gateways.living_rows()[0][1].state = web.board.gateways.living_rows()[0][1].STOPPING
    with _listen(web):
        for _ in range(2):
            _, connection, channel = await _hand_over(web, client, b"")
            with connection, channel:
                channel.send(b"\x01")
        await web.until(lambda: not web.traffic.connections)


def test_a_gateway_that_stands_still_too_long_cannot_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two of them would serve one connection."""

    async def test(web: Web) -> None:
        client = await web.connect()
        with _listen(web) as stands_still:
            _, connection, channel = await _hand_over(web, client, EVENTS)
            _, again, later = await _hand_over(web, client, b"")  # by then the first offer is over
            with connection, channel, again, later:
                with pytest.raises(BrokenPipeError):
                    channel.send(b"\x01")
                later.send(b"\x01")
                await web.until(lambda: not web.traffic.connections)
            with pytest.raises(BlockingIOError):
                stands_still.accept()

    monkeypatch.setattr(handoff, "ACCEPT_S", 0.1)
    scenario(test)(tmp_path)


@pytest.mark.parametrize("is_stopping", [True, False])
def test_without_a_gateway_a_handshake_is_503_but_eventsource_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopping: bool
) -> None:
    """After an answer with 200 it does, after any other never."""

    async def test(web: Web) -> None:
        web.traffic.stopping = is_stopping
        for more in ((), ("Accept: text/event-stream",)):
            answer = await web.ask(request("GET", "/v1/feed", *HANDSHAKE, *more))
            assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
            assert answer.headers["retry-after"]
            problem = json.loads(answer.body)
            assert (problem["code"], problem["title"]) == ("feed_unavailable", NoFeed.title)
            assert "shard" not in "".join(map(str, problem.values()))
        await refused(web, request("GET", "/wal", *HANDSHAKE), 503)
        client = await web.connect()
        await client.send(EVENTS)
        answer = await client.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert (answer.body, answer.headers["cache-control"]) == (b"retry: 2000\n", "no-store, no-transform")
        assert await client.ended()

    if not is_stopping:
        monkeypatch.setattr(handoff, "COME_S", 0.2)
    scenario(test)(tmp_path)


@scenario
async def test_handshakes_that_are_none_are_told_why(web: Web) -> None:
    def without(*names: str) -> bytes:
        return request("GET", "/wal", *(field for field in HANDSHAKE if not field.startswith(names)))

    for data, text in (
        (without("Connection"), b"Connection header did not include 'upgrade'"),
        (without("Upgrade"), b"`Upgrade` header did not include 'websocket'"),
        (without("Sec-WebSocket-Version"), b"`Sec-WebSocket-Version` header did not include '13'"),
        (without("Sec-WebSocket-Key"), b"`Sec-WebSocket-Key` header missing"),
    ):
        answer = await web.ask(data)
        assert (answer.status, answer.body) == (400, text)
        assert ("sec-websocket-version" in answer.headers) == (b"Version" in text)
        check_common(answer)
    for method, status, allow in (("HEAD", 405, "GET"), ("POST", 405, "GET,HEAD"), ("OPTIONS", 200, "GET,HEAD")):
        answer = await web.ask(request(method, "/wal"))
        assert (answer.status, answer.headers["allow"]) == (status, allow)
