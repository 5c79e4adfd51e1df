"""Feed connections that no gateway gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvserver.web import handover
from shards.wire.errors import NoFeed
from tests.api.kvserver.web.checks import (
    EVENTS,
    HANDSHAKE,
    check_common,
    refused,
)
from tests.api.web import Web, request, scenario


@pytest.mark.parametrize("is_stopping", [True, False])
def test_without_a_gateway_a_handshake_is_503_but_eventsource_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopping: bool
) -> None:
    """After an answer with 200 it does, after any other never."""

    async def test(web: Web) -> None:
        web.context.load.stopping = is_stopping
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
        monkeypatch.setattr(handover, "COME_S", 0.2)
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
