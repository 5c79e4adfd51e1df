"""The gateway's application: what it admits, and in which order it checks that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.gateway.app import Gateway
from kvserver.gateway.sessions.access import FeedAccess
from kvserver.gateway.sessions.clients import EndedStream
from kvserver.gateway.sessions.wal import WalRefusal, WalSession
from kvserver.gateway.transport.send_budget import BudgetCharge
from kvserver.http import routes
from shards.wire.errors import BadRequest, NoFeed, NoSuchResource, Overloaded, Unauthorized
from tests.unit.kvserver.gateway.sessions.heads import EVENTS, HANDSHAKE, head_of
from tests.unit.kvserver.gateway.sessions.test_access import FakeTickets, FakeTokens
from tests.unit.kvserver.gateway.sessions.test_wal import FakeFollower

PEER = "10.0.0.1:5"


class Tokens(FakeTokens):
    """Nothing changes unless a test says so."""

    changed = False

    def refresh(self) -> bool:
        return self.changed

    def current_grants(self, grants: Any) -> Any:
        return None


def new_gateway(required: bool = False, clients: int = 10) -> Gateway:
    gateway = Gateway()
    follower: Any = FakeFollower()
    tokens: Any = Tokens(required)
    tickets: Any = FakeTickets()
    settings: Any = SimpleNamespace(
        allowed_hosts="",
        host="127.0.0.1",
        origins="*",
        access_log=False,
        slow_ms=0,
        feed_clients=clients,
        feed_clients_per_address=0,
    )
    counts: Any = SimpleNamespace(add=lambda *_: None)
    gateway.open(follower, FeedAccess(tokens, tickets), settings, counts)
    return gateway


def test_two_resources_are_hosted() -> None:
    gateway = new_gateway()
    assert isinstance(gateway.admit(head_of(b"/wal", HANDSHAKE), PEER), WalSession)
    with pytest.raises(NoSuchResource):
        gateway.admit(head_of(b"/v1/kv/a", HANDSHAKE), PEER)
    with pytest.raises(BadRequest):
        gateway.admit(head_of(b"/wal"), PEER)


def test_without_a_store_only_event_streams_are_let_in_and_end() -> None:
    gateway = new_gateway()
    gateway.close()
    with pytest.raises(NoFeed):
        gateway.admit(head_of(b"/wal", HANDSHAKE), PEER)
    with pytest.raises(NoFeed):
        gateway.admit(head_of(), PEER)
    session = gateway.admit(head_of(headers=EVENTS), PEER)
    assert isinstance(session, EndedStream)
    gateway.leave(session)


def test_a_high_budget_refuses_new_clients() -> None:
    gateway = new_gateway()
    part = gateway.budget.of_address(PEER)
    charge = BudgetCharge(part)
    charge.set_bytes(96 << 20)
    with pytest.raises(Overloaded, match="at this address"):
        gateway.admit(head_of(b"/wal", HANDSHAKE), PEER)
    assert isinstance(gateway.admit(head_of(headers=EVENTS), PEER), EndedStream)
    gateway.leave(gateway.admit(head_of(b"/wal", HANDSHAKE), "10.0.0.2:5"))
    charge.set_bytes(192 << 20)
    with pytest.raises(Overloaded, match="for clients to"):
        gateway.admit(head_of(b"/wal", HANDSHAKE), "10.0.0.2:5")


def test_places_are_given_back() -> None:
    gateway = new_gateway(clients=1)
    session = gateway.admit(head_of(b"/wal", HANDSHAKE), PEER)
    with pytest.raises(Overloaded):
        gateway.admit(head_of(b"/wal", HANDSHAKE), PEER)
    gateway.leave(session)
    with pytest.raises(BadRequest):
        gateway.admit(head_of(b"/wal"), PEER)
    gateway.leave(gateway.admit(head_of(b"/wal", HANDSHAKE), PEER))


def test_a_page_of_wal_gets_its_error_in_the_stream() -> None:
    """If its handshake is right; others get the status, whatever their handshake is."""
    gateway = new_gateway(required=True)
    origin = b"Origin: https://a.example\r\n"
    assert isinstance(gateway.admit(head_of(b"/wal", HANDSHAKE + origin), PEER), WalRefusal)
    with pytest.raises(BadRequest):
        gateway.admit(head_of(b"/wal", origin), PEER)
    for headers in (HANDSHAKE, b""):
        with pytest.raises(Unauthorized):
            gateway.admit(head_of(b"/wal", headers), PEER)


def test_revoked_tokens_close_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = new_gateway()
    session: Any = gateway.admit(head_of(b"/wal", HANDSHAKE), PEER)
    gateway.refresh_tokens()
    assert not session._is_revoked
    monkeypatch.setattr(Tokens, "changed", True)
    gateway.refresh_tokens()
    assert session._is_revoked


def test_requests_are_counted_by_route() -> None:
    gateway = new_gateway()
    counted: list[Any] = []
    gateway._counts = SimpleNamespace(add=lambda *figures: counted.append(figures))  # type: ignore[assignment]
    gateway.answered(head_of(b"/wal"), PEER, 101, 0.5, b"")
    gateway.answered(head_of(b"/secret"), PEER, 404, 0.5, b"")
    gateway.answered(None, PEER, 400, 0.5, b"")
    assert [(route, status) for _, route, status, _ in counted] == [
        ("/wal", 101),
        (routes.NOWHERE, 404),
        (routes.NOWHERE, 400),
    ]
