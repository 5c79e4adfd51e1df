"""Who may open a feed."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.gateway.sessions.access import FeedAccess, close_code
from kvserver.gateway.sessions.feed_request import Credentials
from shards.wire.errors import BadCursor, BadRequest, BadTicket, Forbidden, Unauthorized

READER = Grants.of("reader", "1", [("read", b"")])


class FakeTokens:
    """Knows two tokens; nobody needs one unless they are required."""

    def __init__(self, required: bool = True) -> None:
        self.required = required

    def authenticate(self, authorization: bytes | None) -> Grants:
        if not self.required:
            return EVERYTHING
        grants = {b"Bearer all": EVERYTHING, b"Bearer reader": READER}.get(authorization or b"")
        if grants is None:
            raise Unauthorized
        return grants


class FakeTickets:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def redeem(self, ticket: bytes, kind: str) -> Grants:
        self.asked.append(("redeem", ticket, kind))
        return EVERYTHING

    def resume_stream(self, ticket: bytes, token: bytes) -> Grants:
        self.asked.append(("resume", ticket, token))
        if token != b"good":
            raise BadTicket("no")
        return EVERYTHING

    def make_resume_token(self, ticket: bytes) -> bytes:
        return b"token of " + ticket


def new_access(required: bool = True) -> tuple[Any, FakeTickets]:
    tickets: Any = FakeTickets()
    tokens: Any = FakeTokens(required)
    return FeedAccess(tokens, tickets), tickets


def test_a_token_goes_before_a_ticket() -> None:
    access, tickets = new_access()
    assert access.authorize(Credentials([b"Bearer all"], b"t", False), "websocket") is EVERYTHING
    assert not tickets.asked
    assert access.authorize(Credentials([], b"t", True), "websocket") is EVERYTHING
    assert tickets.asked == [("redeem", b"t", "websocket")]
    for authorization in ([], [b"Bearer no"]):
        with pytest.raises(Unauthorized):
            access.authorize(Credentials(authorization, None, False), "sse")
    with pytest.raises(BadRequest):
        access.authorize(Credentials([b"Bearer all", b"Bearer all"], None, False), "sse")


def test_some_grant_of_the_feed_is_needed() -> None:
    access, _ = new_access()
    with pytest.raises(Forbidden):
        access.authorize(Credentials([b"Bearer reader"], None, False), "sse")


def test_without_tokens_everybody_is_authorized() -> None:
    access, tickets = new_access(required=False)
    assert access.authorize(Credentials([b"x", b"y"], b"t", False), "sse") is EVERYTHING
    assert access.authorize_resume(Credentials([], b"t", True), b"bad") == (EVERYTHING, None)
    assert not tickets.asked


def test_a_stream_that_a_ticket_opened_is_resumed_with_its_token() -> None:
    access, tickets = new_access()
    grants, new_token = access.authorize_resume(Credentials([], b"t", True), b"")
    assert grants is EVERYTHING and new_token() == b"token of t"
    _, new_token = access.authorize_resume(Credentials([], b"t", True), b"good")
    assert new_token() == b"token of t"
    assert tickets.asked == [("redeem", b"t", "sse"), ("resume", b"t", b"good")]
    with pytest.raises(BadTicket):
        access.authorize_resume(Credentials([], b"t", True), b"bad")
    assert access.authorize_resume(Credentials([b"Bearer all"], b"t", False), b"bad") == (EVERYTHING, None)


def test_close_codes() -> None:
    assert close_code(Unauthorized()) == close_code(BadTicket("x")) == 3000
    assert close_code(Forbidden()) == close_code(BadCursor()) == 3003
