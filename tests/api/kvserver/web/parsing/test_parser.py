"""Requests that are incomplete: what they hold, what is refused while their body is still to come, and when."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from kvserver.access.grants import VERBS, Grants, Verb
from kvserver.access.tokens import Token, hash_token, publish_tokens
from kvserver.http.head_rules import HEADERS, REQUEST_LINE
from kvserver.http.proxies import Proxies
from kvserver.settings import ServerSettings
from kvserver.web.limits.address_quotas import QuotaLimits
from kvserver.web.limits.load import MOST_BYTES, MOST_IN_FLIGHT
from kvserver.web.parsing.body_rules import TICKET
from kvserver.web.parsing.request import IncomingRequest
from kvserver.web.ports import ARRIVAL_S, LINGER_S, QUIET_S
from shards.host.settings import SettingError, load_settings
from tests.api.web import Client, Web, request, scenario

SPARE = ServerSettings().spare_places

GET = request("GET", "/k")
ALL: list[tuple[Verb, bytes]] = [(verb, b"") for verb in VERBS]
PROBLEM = "Accept: application/problem+json"
OTHER = "X-Forwarded-For: 203.0.113.%d"


def limit(web: Web, **limits: int) -> None:
    """Let these be the limits; there must be no connection."""
    assert not web.context.connections
    web.context.load.set_limits(web.context.load.limits._replace(**limits))


def begun(method: str, path: str, *fields: str, length: int | None = 10) -> bytes:
    """The head of a request that has `length` bytes of body, None: chunks."""
    coding = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return request(method, path, coding, *fields).replace(b"Content-Length: 0\r\n", b"")


async def refused(client: Client, status: int) -> bytes:
    """The next answer has `status`, and the connection ends with it; its body."""
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close"), answer
    assert await client.ended()
    return answer.body


# Places


@scenario
async def test_what_has_not_arrived_whole_has_no_place_in_flight(web: Web) -> None:
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT - 1
    clients = [await web.connect() for _ in range(20)]
    for client in clients:
        await client.send(begun("PUT", "/k", length=4) + b"12")
    await web.settle()
    assert web.context.load.in_flight == 0
    assert (await web.ask(GET)).status == 200
    for client in clients:
        await client.send(b"34")
        assert (await client.answer()).status == 200


@scenario
async def test_a_body_is_not_asked_for_while_there_is_no_place(web: Web) -> None:
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT + SPARE
    client = await web.connect()
    await client.send(begun("PUT", "/k"))
    await refused(client, 503)
    assert web.counts.overloads == 1


# By the head alone


REFUSED = [
    ("POST", "/ping", 405),
    ("PUT", "/health/live", 405),
    ("DELETE", "/docs/", 405),
    ("FOO", "/ping", 405),
    ("GET", "/ping", 413),
    ("HEAD", "/ping", 413),
    ("GET", "/health/ready", 413),
    ("GET", "/v1/openapi.json", 413),
    ("GET", "/docs/errors/", 413),
    ("OPTIONS", "/v1/batch", 413),
    ("OPTIONS", "/k", 413),
    ("OPTIONS", "*", 413),
    ("POST", "/k", 405),
    ("FOO", "/k", 405),
    ("PUT", "/keys", 405),
    ("POST", "/v1/status", 405),
    ("PUT", "/v1/batch", 405),
    ("PUT", "/a/b", 404),
    ("POST", "/v1/nothing", 404),
    ("PUT", "/%ff", 400),
    ("PUT", "/" + "k" * 512, 414),
    ("PUT", "/v1/kv/" + "k" * 512, 414),
    ("PUT", "/v1/kv/k?tll=3", 400),
    ("PATCH", "/v1/kv/k", 415),
    ("POST", "/v1/kv/k?incr=1&incr=2", 400),
    ("POST", "/v1/batch?x=1", 400),
    ("POST", "/v1/kv/k?incr=1", 400),
    ("DELETE", "/v1/kv/k", 400),
]


@pytest.mark.parametrize("fields", [(), ("Expect: 100-continue",)], ids=["plain", "expects"])
def test_what_the_head_decides_is_refused_before_the_body_comes(tmp_path: object, fields: tuple[str, ...]) -> None:
    @scenario
    async def test(web: Web) -> None:
        web.shards.values = {b"k": (b"1", "")}
        for method, path, status in REFUSED:
            for length in (10, None):
                if (length is None and path == "/v1/kv/k?incr=1") or (method == "DELETE" and path == "/v1/kv/k"):
                    continue  # an empty body in chunks is none
                client = await web.connect()
                await client.send(begun(method, path, *fields, length=length))
                answer = await client.answer(method)
                assert (answer.status, answer.headers["connection"]) == (status, "close"), (method, path, answer)
                assert await client.ended()
        assert web.context.load.bytes_held == 0
        assert web.shards.values == {b"k": (b"1", "")}

    test(tmp_path)  # type: ignore[arg-type]


@scenario
async def test_what_a_responder_reads_is_waited_for(web: Web) -> None:
    """Being asked beforehand what it would refuse, it does nothing yet."""
    for method, path, fields in (
        ("PUT", "/k", ()),
        ("PUT", "/v1/kv/k", ()),
        ("POST", "/v1/batch", ()),
        ("POST", "/v1/tickets", ()),
        ("PATCH", "/v1/kv/k", ("Content-Type: application/merge-patch+json",)),
    ):
        for length in (10, None):
            client = await web.connect()
            await client.send(begun(method, path, "Expect: 100-continue", *fields, length=length))
            assert (await client.answer()).status == 100, (method, path)
            client.reset()
    await web.until(lambda: not web.context.connections)
    assert web.shards.values == {} and not web.shards.seen


@scenario
async def test_a_body_that_came_with_its_head_ends_no_connection(web: Web) -> None:
    client = await web.connect()
    for method, path, status in (
        ("POST", "/ping", 405),
        ("PUT", "/a/b", 404),
        ("OPTIONS", "/k", 200),
        ("GET", "/k", 200),
    ):
        answer = await client.ask(request(method, path, body=b"x"))
        assert (answer.status, answer.headers.get("connection")) == (status, None)


@scenario
async def test_a_body_that_nobody_reads_is_not_kept(web: Web) -> None:
    web.shards.values = {b"k": (b"1", "")}
    for method in ("GET", "DELETE"):
        client = await web.connect()
        await client.send(begun(method, "/k", length=90_000) + b"x" * 80_000)
        await web.until(lambda: web.context.load.bytes_held > 0)
        await web.settle()
        assert web.context.load.bytes_held < 2_000
        assert (await client.ask(b"x" * 10_000)).body == b"1"
    client = await web.connect()
    await client.send(begun("DELETE", "/v1/kv/k", length=None) + b"13880\r\n" + b"x" * 80_000 + b"\r\n")
    await web.until(lambda: web.context.load.bytes_held > 0)
    assert web.context.load.bytes_held < 2_000
    assert (await client.ask(b"0\r\n\r\n")).status == 400


@scenario
async def test_a_ticket_wants_a_small_body(web: Web) -> None:
    web.context.max_value = 5_000_000
    client = await web.connect()
    await client.send(begun("POST", "/v1/tickets", length=TICKET + 1))
    assert json.loads(await refused(client, 413))["code"] == "value_too_large"
    client = await web.connect()
    assert (await client.ask(request("POST", "/v1/tickets", body=b"x" * TICKET))).status == 400


# Methods


@scenario
async def test_methods_that_nobody_knows_are_not_allowed(web: Web) -> None:
    client = await web.connect()
    for method in ("FOO", "BREW", "get", "PRI", "SETUP", "M-SEARCH", "SOURCE", "QUERY", "!#$%&'*+.^_`|~", "X" * 2000):
        answer = await client.ask(request(method, "/k"))
        assert (answer.status, answer.body, answer.headers["allow"]) == (405, b"", "GET,HEAD,PUT,DELETE"), method
        assert (await client.ask(request(method, "/keys", body=b"GET /k HTTP/1.1\r\n\r\n"))).status == 405
        assert (await client.ask(request(method, "/a/b"))).status == 404
    problem = json.loads((await client.ask(request("FOO", "/v1/kv/k"))).body)
    assert problem["code"] == "method_not_allowed"
    assert web.shards.seen == []


@scenario
async def test_a_method_in_pieces_is_a_method(web: Web) -> None:
    for data in (request("FOO", "/k"), request("GETX", "/k"), request("GE", "/k"), b"\r\n\r\n" + request("PUTS", "/k")):
        client = await web.connect()
        for byte in data:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).status == 405


@scenario
async def test_what_can_become_no_head_is_refused_at_once(web: Web) -> None:
    for data in (
        b"\x16\x03\x01",
        b"GET /k\r\n",
        b"GET /k HTTP/1.1\n",
        b"GET /k HTTP/1.1\r\nHost: a\n",
        b"hello\r\n",
        b" ",
    ):
        client = await web.connect()
        await client.send(data)
        await refused(client, 400)


# Heads


@scenario
async def test_limits_of_a_head_that_comes_byte_by_byte(web: Web) -> None:
    line = b"GET /" + b"k" * (REQUEST_LINE - len(b"GET / HTTP/1.1")) + b" HTTP/1.1\r\n"
    block = b"Host: a\r\nX: " + b"v" * (HEADERS - len(b"Host: a\r\nX: \r\n")) + b"\r\n"
    for data, at_most, status in (
        (line + b"Host: a\r\n\r\n", None, 200),
        (b"GET /" + b"k" * REQUEST_LINE, REQUEST_LINE + 2, 414),
        (b"GET /k HTTP/1.1\r\n" + block + b"\r\n", None, 200),
        (b"GET /k HTTP/1.1\r\n" + block + b"Y: z\r\n\r\n", None, 431),
    ):
        client = await web.connect()
        sent = data[:at_most]
        for start in range(0, len(sent), 101):
            await client.send(sent[start : start + 101])
            await asyncio.sleep(0)
        answer = await client.answer()
        assert answer.status == status


@scenario
async def test_an_unfinished_head_takes_its_bytes_and_no_more(web: Web) -> None:
    """Hundreds of small fields would take twenty times their bytes."""
    clients = [await web.connect() for _ in range(10)]
    head = b"GET /k HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 400
    for client in clients:
        await client.send(head)
    await web.until(lambda: web.context.load.bytes_held == 10 * len(head))
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, IncomingRequest)]
    assert (await clients[0].ask(b"\r\n")).status == 200
    await web.until(lambda: web.context.load.bytes_held == 9 * len(head))
    await web.advance(ARRIVAL_S + 1)
    for client in clients[1:]:
        assert await refused(client, 408) == b"request timed out"
    assert web.context.load.bytes_held == 0


@scenario
async def test_a_refused_head_is_told_as_its_client_wants(web: Web) -> None:
    client = await web.connect()
    await client.send(request("GET", "/k", PROBLEM, "X-Request-Id: abc")[:-2])
    await web.advance(ARRIVAL_S + 1)
    problem = json.loads(await refused(client, 408))
    assert (problem["code"], problem["request_id"]) == ("request_timeout", "abc")
    client = await web.connect()
    await client.send(b"HEAD /v1/x HTTP/1.1\r\nHost")
    await web.advance(ARRIVAL_S + 1)
    assert (await client.answer("HEAD")).status == 408
    assert await client.ended()


@scenario
async def test_heads_count_towards_the_bytes_that_a_worker_holds(web: Web) -> None:
    web.context.load.bytes_held = MOST_BYTES - 100
    client = await web.connect()
    await client.send(b"GET /k HTTP/1.1\r\nX: " + b"v" * 200)
    await refused(client, 503)
    web.context.load.bytes_held -= MOST_BYTES - 100


# Progress


@scenario
async def test_an_upload_that_makes_progress_may_take_long(web: Web) -> None:
    limit(web, upload_rate=100)
    client = await web.connect()
    await client.send(begun("PUT", "/k", length=5_000))
    for _ in range(4):
        await client.send(b"x" * 1_000)
        await web.advance(ARRIVAL_S - 1)
        await web.advance(1.1)
        assert len(web.context.connections) == 1 and web.context.load.in_flight == 0
    assert (await client.ask(b"x" * 1_000)).status == 200
    assert len(web.shards.values[b"k"][0]) == 5_000


@scenario
async def test_an_upload_that_makes_too_little_progress_is_refused(web: Web) -> None:
    limit(web, upload_rate=100)
    for length, sent in (
        (5_000, b"x" * 999),
        (None, b"3e7\r\n" + b"x" * 999 + b"\r\n"),
        (None, b"1\r\nx\r\n" * 900),
        (None, b"1;" + b"e" * 5_000),
    ):
        client = await web.connect()
        await client.send(begun("PUT", "/k", length=length) + sent)
        await web.advance(ARRIVAL_S + 1)
        await refused(client, 408)
        await web.advance(LINGER_S + 1)
        await web.until(lambda: not web.context.connections)
    client = await web.connect()
    await client.send(begun("PUT", "/v1/kv/k", length=5_000) + b"x" * 1_000)
    await web.advance(ARRIVAL_S + 1)
    await client.send(b"x" * 999)
    await web.advance(ARRIVAL_S + 1)
    assert "999 bytes in 10 seconds, at least 1000 are required" in json.loads(await refused(client, 408))["detail"]
    assert web.shards.values == {}


@scenario
async def test_the_next_head_has_its_own_time(web: Web) -> None:
    client = await web.connect()
    await client.send(GET[:20])
    await web.advance(ARRIVAL_S - 1)
    await client.send(GET[20:] + GET[:20])
    assert (await client.answer()).status == 200
    await web.advance(ARRIVAL_S - 1)
    assert (await client.ask(GET[20:])).status == 200


# What is sent ahead


@scenario
async def test_what_is_sent_ahead_waits_as_it_came(web: Web) -> None:
    client = await web.connect()
    web.shards.gate.clear()
    ahead = GET * 2000
    await client.send(request("PUT", "/k", body=b"1") + ahead)
    await web.until(lambda: web.context.load.bytes_held > 1000)
    await web.settle()
    assert web.context.load.bytes_held <= len(ahead) + 1
    gc.collect()
    assert len([thing for thing in gc.get_objects() if isinstance(thing, IncomingRequest)]) == 1
    client.writer.write_eof()
    await web.settle()
    web.shards.gate.set()
    assert (await client.answer()).body == b""
    for _ in range(2000):
        assert (await client.answer()).body == b"1"
    assert await client.ended()


@scenario
async def test_what_is_sent_ahead_counts_in_the_share(web: Web) -> None:
    limit(web, unfinished_bytes=10_000)
    client = await web.connect()
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"1") + GET * 2000)
    await web.settle()
    web.shards.gate.set()
    assert (await client.answer()).status == 200
    assert await client.ended()
    assert web.counts.requests == 1


# Quotas


@scenario
async def test_connections_of_an_address_are_limited(web: Web) -> None:
    limit(web, connections=3)
    clients = [await web.connect() for _ in range(3)]
    for client in clients:
        assert (await client.ask(GET)).status == 200
    further = await web.connect()
    assert await refused(further, 503) == b"service is overloaded, try again later"
    for client in clients:
        assert (await client.ask(GET)).status == 200
    clients[0].writer.close()
    further.writer.close()
    await web.until(lambda: len(web.context.connections) == 2)
    assert (await web.ask(GET)).status == 200
    assert web.counts.overloads == 1


@scenario
async def test_who_is_turned_away_does_not_stay(web: Web) -> None:
    limit(web, connections=1)
    first = await web.connect()
    assert (await first.ask(GET)).status == 200
    told = [await web.connect() for _ in range(8)]
    for client in told:
        assert (await client.answer()).status == 503
    abrupt = await web.connect()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await abrupt.answer()
    await web.advance(QUIET_S + 0.1)
    await web.until(lambda: len(web.context.connections) == 1)
    assert (await first.ask(GET)).status == 200


@scenario
async def test_unfinished_requests_of_an_address_are_limited(web: Web) -> None:
    limit(web, unfinished=3)
    heads, bodies = GET[:-2], begun("PUT", "/k", length=4) + b"12"
    clients = [await web.connect() for _ in range(3)]
    for client, data in zip(clients, (heads, bodies, heads), strict=True):
        await client.send(data)
    await web.settle()
    for data in (heads, bodies):
        further = await web.connect()
        await further.send(data)
        await refused(further, 503)
    assert (await web.ask(GET)).status == 200  # it comes whole
    assert (await clients[1].ask(b"34")).status == 200
    last = await web.connect()
    await last.send(heads)
    await web.settle()
    assert (await last.ask(b"\r\n")).status == 200


@scenario
async def test_bytes_of_unfinished_requests_of_an_address_are_limited(web: Web) -> None:
    head = begun("PUT", "/k", length=5_000)
    limit(web, unfinished_bytes=10_000)
    one, two, three = [await web.connect() for _ in range(3)]
    await one.send(head + b"x" * 4_000)
    await web.settle()
    await two.send(begun("PUT", "/k", length=6_000))  # would be too much
    await refused(two, 503)
    await three.send(begun("PUT", "/k", length=None) + b"1770\r\n" + b"x" * 6_000)  # is
    await refused(three, 503)
    assert (await one.ask(b"x" * 1_000)).status == 200
    assert (await web.ask(request("PUT", "/k", body=b"x" * 9_000))).status == 200
    assert (await web.ask(request("PUT", "/k", body=b"x" * 20_000))).status == 503  # although it came whole
    assert web.context.load.quotas.is_empty or len(web.context.connections) > 0


@scenario
async def test_each_client_of_a_trusted_proxy_has_its_own_share(web: Web) -> None:
    limit(web, unfinished=1, connections=2)
    web.context.proxies = Proxies("127.0.0.1")
    log: list[str] = []
    web.context.access_log = lambda client, *_: log.append(client)  # type: ignore[assignment]
    proxy = [await web.connect() for _ in range(5)]
    for number, client in enumerate(proxy[:3]):
        await client.send(begun("PUT", "/k", OTHER % number, length=4) + b"12")
    await web.settle()
    await proxy[3].send(begun("PUT", "/k", "X-Forwarded-For: 198.51.100.9, 203.0.113.1", length=4) + b"12")
    await refused(proxy[3], 503)
    for client in proxy[:3]:
        assert (await client.ask(b"34")).status == 200
        assert (await client.ask(request("GET", "/k", OTHER % 7))).status == 200
    assert (await proxy[4].ask(GET)).status == 200
    assert log == [
        "203.0.113.1",
        "203.0.113.0",
        "203.0.113.7",
        "203.0.113.1",
        "203.0.113.7",
        "203.0.113.2",
        "203.0.113.7",
        "127.0.0.1",
    ]


@scenario
async def test_nobody_else_can_say_that_it_asks_for_others(web: Web) -> None:
    limit(web, unfinished=1)
    web.context.proxies = Proxies("10.0.0.0/8")
    one, two = await web.connect(), await web.connect()
    await one.send(begun("PUT", "/k", OTHER % 1))
    await web.settle()
    await two.send(begun("PUT", "/k", OTHER % 2))
    await refused(two, 503)


async def put_without_answer(web: Web, address: str, count: int, *fields: str) -> list[Client]:
    """Clients at `address` each of which has a PUT in flight."""
    before, clients = web.row.in_flight, [await web.connect(address) for _ in range(count)]
    for client in clients:
        await client.send(request("PUT", "/k", *fields, body=b"1"))
    await web.until(lambda: web.row.in_flight == before + count)
    return clients


@scenario
async def test_the_last_places_are_for_those_who_have_few(web: Web) -> None:
    """Of 8 spare places each of 2 workers lets one address have 2, whatever it had before they were touched."""
    limit(web, spare=8)
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT - 3
    web.shards.gate.clear()
    first = await put_without_answer(web, "127.0.0.2", 3)  # the last ones that are for everybody
    for data in (request("PUT", "/k", PROBLEM, body=b"1"), request("GET", "/k", PROBLEM)):
        answer = await (await web.connect("127.0.0.2")).ask(data)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "this address has 3" in json.loads(answer.body)["detail"]
        assert "--spare-places" in json.loads(answer.body)["detail"]
    asked = await web.connect("127.0.0.2")
    await asked.send(begun("PUT", "/k"))
    await refused(asked, 503)  # before its body has come
    second = await put_without_answer(web, "127.0.0.3", 2)
    assert (await (await web.connect("127.0.0.3")).ask(GET)).status == 503
    assert (await (await web.connect("127.0.0.4")).ask(GET)).status == 200
    other.in_flight = MOST_IN_FLIGHT + 8 - web.row.in_flight
    assert (await (await web.connect("127.0.0.4")).ask(GET)).status == 503  # all places are taken
    web.shards.gate.set()
    for client in first + second:
        assert (await client.answer()).status == 200
    assert (await (await web.connect("127.0.0.2")).ask(GET)).status == 200


@scenario
async def test_who_is_alone_may_have_all_places_but_the_spare_ones(web: Web) -> None:
    limit(web, connections=0)
    web.shards.gate.clear()
    first = await put_without_answer(web, "127.0.0.2", MOST_IN_FLIGHT)
    assert (await (await web.connect("127.0.0.2")).ask(request("PUT", "/k", body=b"1"))).status == 503
    second = await put_without_answer(web, "127.0.0.3", 64)
    assert (await (await web.connect("127.0.0.3")).ask(request("PUT", "/k", body=b"1"))).status == 503
    web.shards.gate.set()
    for client in first + second:
        assert (await client.answer()).status == 200


@scenario
async def test_no_place_is_spare(web: Web) -> None:
    limit(web, spare=0)
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT - 5
    web.shards.gate.clear()
    clients = await put_without_answer(web, "127.0.0.2", 5)
    assert (await web.ask(GET)).status == 503
    web.shards.gate.set()
    for client in clients:
        assert (await client.answer()).status == 200


@scenario
async def test_each_client_of_a_trusted_proxy_has_its_own_places(web: Web) -> None:
    limit(web, spare=8)
    web.context.proxies = Proxies("127.0.0.1")
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT
    web.shards.gate.clear()
    clients = await put_without_answer(web, "127.0.0.1", 2, OTHER % 1)
    assert (await web.ask(request("GET", "/k", OTHER % 1))).status == 503
    clients += await put_without_answer(web, "127.0.0.1", 1, OTHER % 2)
    clients += await put_without_answer(web, "127.0.0.1", 3)  # its own: nobody's
    web.shards.gate.set()
    for client in clients:
        assert (await client.answer()).status == 200


@scenario
async def test_each_token_has_its_own_places_wherever_it_is_sent_from(web: Web) -> None:
    publish_tokens(
        web.board, [Token(hash_token(name), Grants.of(name.decode(), name.hex(), ALL)) for name in (b"one", b"two")]
    )
    web.context.tokens.refresh()
    limit(web, spare=8)
    other = web.board.workers[1]
    web.context.load._peer_words.append(other.base + type(other).in_flight.index)
    other.in_flight = MOST_IN_FLIGHT
    web.shards.gate.clear()
    one, two = "Authorization: Bearer one", "Authorization: Bearer two"
    clients = await put_without_answer(web, "127.0.0.2", 1, one)
    clients += await put_without_answer(web, "127.0.0.3", 1, one)
    answer = await (await web.connect("127.0.0.4")).ask(request("GET", "/k", PROBLEM, one))
    assert answer.status == 503
    assert "this token has 2" in json.loads(answer.body)["detail"]
    assert (await (await web.connect("127.0.0.3")).ask(request("GET", "/k", two))).status == 200
    assert (await (await web.connect("127.0.0.4")).ask(request("GET", "/ping"))).status == 200
    web.shards.gate.set()
    for client in clients:
        assert (await client.answer()).status == 200
    assert (await (await web.connect("127.0.0.4")).ask(request("GET", "/k", one))).status == 200


def test_there_are_spare_places_for_every_worker() -> None:
    for text in ("0", "4", "1023"):
        assert load_settings(ServerSettings, {"workers": "2", "spare_places": text}, {}).spare_places == int(text)
    for text in ("3", "1024"):
        with pytest.raises(SettingError):
            load_settings(ServerSettings, {"workers": "2", "spare_places": text}, {})


@scenario
async def test_no_limit(web: Web) -> None:
    limit(web, connections=0, unfinished=0, unfinished_bytes=0)
    clients = [await web.connect() for _ in range(10)]
    for client in clients:
        await client.send(begun("PUT", "/k", length=4) + b"12")
    await web.settle()
    for client in clients:
        assert (await client.ask(b"34")).status == 200
        client.writer.close()
    await web.until(lambda: not web.context.connections)
    assert web.context.load.quotas.is_empty


def test_the_largest_request_must_fit_into_the_share() -> None:
    least = (32 << 20) + (1 << 20)
    for text in ("0", str(least)):
        assert load_settings(
            ServerSettings, {"unfinished_bytes_per_address": text}, {}
        ).unfinished_bytes_per_address == int(text)
    with pytest.raises(SettingError, match=f"at least {least}"):
        load_settings(ServerSettings, {"unfinished_bytes_per_address": str(least - 1)}, {})
    assert QuotaLimits.of(ServerSettings()) == (4096, 1024, 160 << 20, 16 << 10, 128)
