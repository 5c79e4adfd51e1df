"""Answers: their memory, their end, their errors, and the ids by which they are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from kvserver.http.reports.access_log import AccessLog
from kvserver.web.limits.load import MOST_BYTES, MOST_OWED_BYTES
from kvserver.web.ports import STALL_S
from shards.wire.errors import OutcomeUnknown, Unavailable
from tests.api.kvserver.web.checks import (
    check_common,
    read_some,
    slow_client,
)
from tests.api.web import Web, request, scenario

GET = request("GET", "/k")


@scenario
async def test_answers_that_are_not_taken_are_bounded_in_sum(web: Web) -> None:
    """Beyond, what is large is refused before anything is done; all else goes on."""
    web.context.max_value = 5_000_000
    values = {b"big": (b"x" * 5_000_000, ""), b"small": (b"x", "")} | {b"%0500d" % i: (b"", "") for i in range(200)}
    web.shards.values = values.copy()
    readers = [await web.connect(f"127.0.0.{2 + i % 2}") for i in range(1 + MOST_BYTES // 5_000_000)]
    for reader in readers:
        reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader.send(request("GET", "/big"))
    await web.until(lambda: web.context.load.answers_full(None))
    assert web.context.load.bytes_held == 0 == web.context.load.in_flight
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
    web.context.max_value = 5_000_000
    web.shards.values = {b"big": (b"x" * 5_000_000, ""), b"small": (b"x", "")}
    readers = [await web.connect() for _ in range(1 + MOST_OWED_BYTES // 5_000_000)]
    for reader in readers[:-1]:
        reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader.send(request("GET", "/big"))
    await web.until(lambda: web.context.load.bytes_owed == 5_000_000 * (len(readers) - 1))
    readers[-1].writer.transport.pause_reading()  # type: ignore[attr-defined]
    await readers[-1].send(request("GET", "/big"))  # one that is under it may pass it
    await web.until(lambda: web.context.load.bytes_owed == 5_000_000 * len(readers))
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
    web.context.max_value = 5_000_000
    web.shards.values[b"k"] = (b"x" * 5_000_000, "")
    client = await web.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(request("PUT", "/k", body=b"y" * 5_000_000))
    await web.until(lambda: web.context.load.bytes_owed)
    assert (web.context.load.bytes_held, web.context.load.bytes_owed) == (0, 10_000_000)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await client.answer()).body) == 5_000_000


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
async def test_a_write_whose_client_left_is_done(web: Web) -> None:
    client = await web.connect()
    web.shards.gate.clear()
    await client.send(request("PUT", "/k", body=b"1"))
    await web.until(lambda: web.row.in_flight == 1)
    client.reset()
    await web.until(lambda: not web.context.connections)
    web.shards.gate.set()
    await web.until(lambda: web.shards.values.get(b"k"))


@scenario
async def test_an_answer_that_is_cut_off_does_not_look_whole(web: Web) -> None:
    """Where the end of the connection is the end of the answer, only a reset can say so."""
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(40_000)}
    for stall in (True, False):
        with slow_client(web) as slow:
            await web.loop.sock_sendall(slow, b"GET /keys HTTP/1.0\r\n\r\n")
            await read_some(web, slow, 1)
            await web.until(lambda: web.context.load.bytes_owed)
            await web.settle()
            (connection,) = web.context.connections
            if stall:
                await web.advance(0)
                await web.advance(STALL_S + 1)
            else:
                connection.flow.cut_off(True)  # type: ignore[union-attr]
            await web.until(lambda: not web.context.connections)
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
    assert web.context.load.bytes_owed > 10_000_000
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(json.loads((await client.answer("DELETE")).body)) == 40_000
    web.shards.values = {b"%0500d" % i: (b"", "") for i in range(8000)}
    web.shards.break_list_after = 6
    await client.send(request("DELETE", "/keys/0"))
    with contextlib.suppress(asyncio.IncompleteReadError):
        assert not await client.answer("DELETE"), "the list looked whole"


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
        web.context.access_log = AccessLog()
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
