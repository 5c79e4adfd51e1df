"""What connections share: the clock, the heads of answers, the figures."""

from __future__ import annotations

from typing import Any

from kvserver.web.context import SLACK
from tests.api.web import Web, request, scenario


@scenario
async def test_the_date_is_that_of_the_last_tick(web: Web) -> None:
    web.context.set_time(5.0, 784111777.9)
    assert (web.context.clock, web.context.unix_ms) == (5.0, 784111777900)
    answer = await web.ask(request("GET", "/k"))
    assert answer.headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert "access-control-expose-headers" not in answer.headers
    answer = await web.ask(request("GET", "/k", "Origin: http://a"))
    assert answer.headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert "access-control-expose-headers" in answer.headers


@scenario
async def test_connections_are_shown_on_the_board_and_compared_with_others(web: Web) -> None:
    assert not web.context.exceeds_peers(), "there is no other worker"
    _, other = web.board.workers.claim_row()
    other.state = other.UP
    web.context.load.refresh_peers()
    for _ in range(SLACK):
        await web.connect()
    await web.until(lambda: web.row.connections == SLACK)
    assert not web.context.exceeds_peers()
    await web.connect()
    await web.until(lambda: web.row.connections == SLACK + 1)
    assert web.context.exceeds_peers()
    other.connections = 1
    assert not web.context.exceeds_peers()


@scenario
async def test_an_answer_is_counted_and_logged_if_asked_for(web: Web) -> None:
    logged: list[tuple[Any, ...]] = []
    context: Any = web.context
    context.access_log = lambda *fields: logged.append(fields)
    context.record_answer(("192.0.2.1", 1), "GET", "/:key", b"/k?x", 200, 0.0, b"id")
    context.record_answer(None, "PUT", "/:key", b"/k", 201, 0.0)
    assert [(fields[0], *fields[1:4], fields[5]) for fields in logged] == [
        ("192.0.2.1", "GET", b"/k?x", 200, b"id"),
        ("", "PUT", b"/k", 201, b""),
    ]
    assert web.counts.requests == 2
