"""Connections: what is refused, in whose words, and that nothing behind a refusal is taken for a request."""

from __future__ import annotations

import asyncio
import json
import socket

from kvserver.http.head_rules import MOST_HEADERS
from kvserver.settings import ServerSettings
from kvserver.web.connection import HttpConnection
from kvserver.web.limits.load import MOST_BYTES, MOST_DROPPED, MOST_IN_FLIGHT
from kvserver.web.ports import ARRIVAL_S, DROP_BYTES, IDLE_S, LINGER_S, QUIET_S, STALL_S
from tests.api.kvserver.web.checks import (
    check_common,
    read_some,
    refused,
    slow_client,
)
from tests.api.web import Client, Web, request, scenario

SPARE = ServerSettings().spare_places

GET = request("GET", "/k")


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
async def test_a_large_body_gives_way_to_others(web: Web) -> None:
    """However much of it has come already: the event loop reads on as long as it is not told otherwise."""
    client, size = await web.connect(), 4 << 20
    await client.send(request("POST", "/v1/batch", "Content-Type: application/json", body=b" " * size)[:-size])
    await web.until(lambda: [each for each in web.context.connections if each.has_pending_input])
    connection = next(each for each in web.context.connections if each.has_pending_input)
    assert isinstance(connection, HttpConnection)
    taken = 0
    while not connection.flow.read_paused:
        connection.data_received(b" " * (64 << 10))  # as the event loop does
        taken += 64 << 10
    assert taken <= 2 << 20
    await client.send(b" " * (size - taken))
    assert (await client.answer()).status == 400


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
    await web.until(lambda: not web.context.connections)


@scenario
async def test_what_a_refused_client_still_sends_is_read_no_faster_than_others_can_bear(web: Web) -> None:
    """It reads its answer all the same."""
    client = await web.connect()
    await client.send(b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n")
    await web.until(lambda: web.counts.requests == 1)
    (connection,) = web.context.connections
    body = 3 * DROP_BYTES
    client.writer.write(bytes(body))
    sent = 0
    while sent + DROP_BYTES <= body:
        await web.until(lambda: web.context.load.dropped >= DROP_BYTES)
        await web.settle()
        assert web.context.load.dropped < DROP_BYTES + (1 << 20), "no more until the next check"
        sent += web.context.load.dropped
        web.tick()
    assert (await client.answer()).status == 413
    await client.writer.drain()
    assert await client.ended()
    assert connection in web.context.connections
    await leave(web, client)


async def leave(web: Web, *clients: Client) -> None:
    """They close; while nothing is read of a connection, only the next check sees that."""
    for client in clients:
        client.writer.close()
    while web.context.connections:
        await web.settle()
        web.tick()


@scenario
async def test_what_refused_clients_send_is_bounded_in_sum(web: Web) -> None:
    clients = [await web.connect() for _ in range(6)]
    for client in clients:
        await client.send(b"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n")
    await web.until(lambda: web.counts.requests == len(clients))
    for client in clients:
        client.writer.write(bytes(DROP_BYTES - 1))
    await web.until(lambda: web.context.load.dropped >= MOST_DROPPED)
    await web.settle()
    assert web.context.load.dropped < MOST_DROPPED + (1 << 20) * len(clients)
    assert (await web.ask(GET)).status == 200
    for client in clients:
        assert (await client.answer()).status == 413
    while any(client.writer.transport.get_write_buffer_size() for client in clients):
        await web.settle()
        web.tick()
    for client in clients:
        assert await client.ended()
    await leave(web, *clients)


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
        assert len(web.context.connections) == 1
        await web.advance(2)
        answer = await client.answer()
        assert (answer.status, answer.body) == (408, b"request timed out")
        check_common(answer)
        await client.send(GET)
        assert await client.ended()
        await web.advance(LINGER_S + 1)
        await web.until(lambda: not web.context.connections)
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
    assert len(web.context.connections) == 2
    await web.advance(2)
    assert await fresh.ended() and await used.ended()


@scenario
async def test_beyond_the_limit_in_flight_requests_are_shed(web: Web) -> None:
    """Workers share the limit: what others have in flight stands on the board."""
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
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
    web.context.load._peer_words.append(web.board.workers[1].base + type(web.row).in_flight.index)
    web.board.workers[1].in_flight = MOST_IN_FLIGHT + SPARE
    assert (await web.ask(GET)).status == 503
    for data in (request("GET", "/health/live"), request("OPTIONS", "/k"), request("OPTIONS", "/k", body=b"x")):
        assert (await web.ask(data)).status == 200
    ready = await web.ask(request("GET", "/health/ready", "Accept: application/problem+json"))
    assert json.loads(ready.body)["code"] == "unavailable", "it is the shard, not the limit"
    assert web.counts.overloads == 1


@scenario
async def test_bodies_are_bounded_in_sum(web: Web) -> None:
    web.context.load.bytes_held = MOST_BYTES - 10
    await refused(web, request("PUT", "/k", body=b"x" * 11), 503)
    await refused(web, request("PUT", "/k", "Transfer-Encoding: chunked") + b"b\r\n" + b"x" * 11 + b"\r\n", 503)
    assert (await web.ask(request("PUT", "/k", body=b"x" * 10))).status == 200
    web.context.load.bytes_held -= MOST_BYTES - 10


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
        await web.until(lambda: web.context.load.bytes_owed > 0)
        await web.settle()
        assert web.context.load.in_flight == 0
        await web.advance(STALL_S - 1)
        await web.advance(2)
        assert len(web.context.connections) == 1, "it was taken in between"
        await web.advance(STALL_S + 1)
        await web.until(lambda: not web.context.connections)


@scenario
async def test_a_client_that_reads_slowly_is_not_cut_off(web: Web) -> None:
    """What it takes comes out of the kernel, which wants more of ours only now and then."""
    web.shards.values[b"k"] = (b"x" * 20_000_000, "")
    with slow_client(web) as slow:
        await web.loop.sock_sendall(slow, GET)
        await read_some(web, slow, 1)
        await web.advance(0)
        for _ in range(5):
            await read_some(web, slow, 65536)
            await web.advance(STALL_S - 1)
            assert len(web.context.connections) == 1
        await web.advance(STALL_S + 1)
        await web.advance(STALL_S + 1)
        await web.until(lambda: not web.context.connections)


@scenario
async def test_a_stopping_worker_answers_and_closes(web: Web) -> None:
    busy, idle, late = await web.connect(), await web.connect(), await web.connect()
    assert (await idle.ask(GET)).status == (await late.ask(GET)).status == 200
    web.shards.gate.clear()
    await busy.send(request("PUT", "/k", body=b"1") + GET)
    await web.until(lambda: web.row.in_flight == 1)
    web.context.load.stopping = True
    for connection in list(web.context.connections):
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
    web.context.load.stopping = True
    for connection in list(web.context.connections):
        connection.shutdown()
    await web.advance(QUIET_S + 0.1)
    answer = await half_head.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    await web.advance(QUIET_S + 0.1)
    assert await half_head.ended()
    await web.until(lambda: len(web.context.connections) == 1)
    answer = await half_body.ask(put[-1:])
    assert (answer.status, answer.headers["connection"]) == (200, "close")
