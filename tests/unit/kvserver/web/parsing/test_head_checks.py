"""What a head alone decides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.access.grants import EVERYTHING, NOTHING
from kvserver.http.proxies import Proxies
from kvserver.http.scope import GRANTS
from kvserver.web.limits.load import MOST_IN_FLIGHT
from kvserver.web.limits.peer import Peer
from kvserver.web.parsing.body_rules import BodyAllowance, NoBody
from kvserver.web.parsing.head_checks import authenticate, examine_head
from kvserver.web.parsing.request import IncomingRequest, RequestHead
from shards.wire.errors import KVError, NotFound, Overloaded, Unauthorized, ValueTooLarge
from tests.unit.kvserver.web.limits.stub import make_load


class Tokens:
    """One token."""

    generation = 7

    def authenticate(self, authorization: bytes | None) -> Any:
        if authorization != b"Bearer good":
            raise Unauthorized
        return EVERYTHING


TOKENS: Any = Tokens()


def a_request(method: str, path: bytes, **attributes: Any) -> IncomingRequest:
    request = IncomingRequest(0.0, method, path)
    for name, value in attributes.items():
        setattr(request, name, value)
    return request


def test_a_good_token_gives_its_grants() -> None:
    request = a_request("GET", b"/k", authorization=b"Bearer good")
    authenticate(TOKENS, request)
    assert request.error is None and request.scope[GRANTS] is EVERYTHING and request.token_generation == 7


@pytest.mark.parametrize(
    ("method", "path", "accept", "is_refused"),
    [
        ("GET", b"/k", b"", True),
        ("PUT", b"/docs", b",text/html", True),
        ("GET", b"/docs", b",text/html", False),
        ("GET", b"/docs", b",*/*", True),
        ("OPTIONS", b"/k", b"", False),
        ("GET", b"/health/live", b"", False),
    ],
)
def test_without_a_token_only_what_is_open_is_answered(
    method: str, path: bytes, accept: bytes, is_refused: bool
) -> None:
    request = a_request(method, path, accept=accept)
    authenticate(TOKENS, request)
    assert isinstance(request.error, Unauthorized) == is_refused
    assert request.scope[GRANTS] is NOTHING


def examine(
    available: int = 0,
    refusal: KVError | None = None,
    in_flight: int = 0,
    allowed: BodyAllowance | None = None,
    **message: Any,
) -> bool:
    load, _ = make_load(unfinished_bytes=1000, spare=0)
    load._in_flight = in_flight
    context: Any = SimpleNamespace(load=load, find_refusal=lambda scope: refusal)
    head = RequestHead(b"", False)
    head.allowance = allowed or BodyAllowance(500, 500)
    for name, value in message.items():
        setattr(head, name, value)
    peer = Peer(load, Proxies(""))
    peer.connect(("192.0.2.1", 1))
    return examine_head(context, peer, a_request("PUT", b"/k"), head, available)


def test_a_body_that_is_here_is_not_refused_by_its_head() -> None:
    assert not examine(10, NotFound(), MOST_IN_FLIGHT, length=10)
    with pytest.raises(NotFound):
        examine(9, NotFound(), length=10)
    with pytest.raises(NotFound):
        examine(10, NotFound(), codings=1)


def test_a_body_is_not_waited_for_in_vain() -> None:
    with pytest.raises(ValueTooLarge):
        examine(501, length=501)
    with pytest.raises(NoBody):
        examine(length=1, allowed=BodyAllowance(500, 0, NoBody, True))
    with pytest.raises(Overloaded):
        examine(length=1, in_flight=MOST_IN_FLIGHT)
    with pytest.raises(Overloaded):
        examine(length=1001, allowed=BodyAllowance(5000, 5000))


def test_who_waits_for_100_continue_gets_it() -> None:
    assert examine(length=10, expects_continue=True)
    assert examine(10, length=10, expects_continue=True)
    assert not examine(length=10)
