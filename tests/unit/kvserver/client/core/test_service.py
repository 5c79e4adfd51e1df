"""The calls about the server itself: what counts as an answer of one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.client.core import service
from kvserver.client.core.calls import Answer
from kvserver.client.errors import BadRequest, ForeignAnswer
from kvserver.client.model import Grant, TicketFor

JSON = {"content-type": "application/json"}
PROBLEM = {"content-type": "application/problem+json"}


def test_a_server_is_ready_or_not() -> None:
    read = service.ready().read
    assert read(Answer(200, JSON, b'{"status":"ready"}')) is True
    assert read(Answer(503, PROBLEM, b'{"code":"unavailable"}')) is False


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"content-type": "text/html"}, b"<h1>Welcome</h1>"),
        Answer(200, JSON, b"{}"),
        Answer(200, JSON, b'{"status":"UP"}'),
        Answer(204, {}, b""),
        Answer(503, {"content-type": "text/html"}, b"<h1>Busy</h1>"),
    ],
)
def test_the_readiness_of_another_server_is_none(answer: Answer) -> None:
    with pytest.raises(ForeignAnswer):
        service.ready().read(answer)


def test_a_ticket_for_requests_has_grants_below_the_client_s_prefix() -> None:
    grant = Grant("7/", ("read", "feed"))
    assert json.loads(service.ticket("kv", "rooms/", [grant], 60).body or b"") == {
        "for": "kv",
        "grants": [{"prefix": "rooms/7/", "allow": ["read", "feed"]}],
        "ttl": 60,
    }
    assert json.loads(service.ticket("kv", "", [grant], None).body or b"").keys() == {"for", "grants"}
    assert json.loads(service.ticket("sse", "rooms/", None, None).body or b"") == {"for": "sse"}


@pytest.mark.parametrize(("purpose", "grants", "ttl"), [("kv", None, None), ("sse", [], None), ("websocket", None, 5)])
def test_grants_and_ttl_are_those_of_a_ticket_for_requests(purpose: TicketFor, grants: Any, ttl: int | None) -> None:
    with pytest.raises(BadRequest, match="has grants and may have a ttl"):
        service.ticket(purpose, "", grants, ttl)
