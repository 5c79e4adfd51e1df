"""Clients of `/wal`, without a connection."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.gateway.feed.walk import ClientGone
from kvserver.gateway.sessions.wal import WalRefusal, WalSession, close_reason
from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.wal import formats
from shards.log.files import Trimmed
from shards.wire.errors import BadRequest, Forbidden, Unauthorized
from tests.unit.kvserver.gateway.sessions.followers import FakeWebSocket


class FakeFollower:
    """Gives one reader, which gives what it is set to."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reported: list[tuple[str, bytes]] = []
        self.gives: Any = Piece(b"line")
        self.removed = 0

    def add_wal_reader(self, view: Any, wake: Any, budget: SendBudget) -> Any:
        return SimpleNamespace(view=view, wake=wake, next_piece=self._next_piece, turn=SimpleNamespace())

    def _next_piece(self) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    def remove_wal_reader(self, reader: Any) -> None:
        self.removed += 1

    def report_activity(self, kind: str, subject: bytes) -> None:
        self.reported.append((kind, subject))


def new_session(grants: Grants = EVERYTHING, binary: bool = False) -> tuple[Any, WalSession, Any]:
    follower: Any = FakeFollower()
    websocket: Any = FakeWebSocket()
    return follower, WalSession(follower, grants, SendBudget(), "10.0.0.1:5", binary), websocket


def test_a_session_runs_until_the_client_is_gone() -> None:
    follower, session, websocket = new_session()
    session.run(websocket)
    assert websocket.calls == [("ping",), ("wake",), ("receive",)] and websocket.source() == Piece(b"line")
    websocket.on_answer()
    assert follower.reported == [("heartbeat", b"10.0.0.1:5")]
    session.end()
    assert follower.removed == 1


def test_the_format_is_part_of_the_view() -> None:
    encodes = [new_session(binary=binary)[1]._reader.view.encode for binary in (False, True)]
    assert encodes == [formats.text_frame, formats.binary_frame]


def test_a_client_that_is_too_far_behind_is_closed() -> None:
    follower, session, websocket = new_session()
    session.run(websocket)
    follower.gives = Trimmed(5)
    assert websocket.source() is None and websocket.calls[-1][:2] == ("close", 1013)
    assert follower.counts["lag_closed"] == 1
    follower.gives = ValueError("of ours")
    assert websocket.source() is None and websocket.calls[-1][:2] == ("close", 1011)


def test_a_client_that_is_gone_gets_nothing_more() -> None:
    follower, session, websocket = new_session()
    session.run(websocket)
    assert not session._reader.turn.is_over()
    websocket.closed = True
    assert session._reader.turn.is_over()
    calls, follower.gives = list(websocket.calls), ClientGone()
    assert websocket.source() is None and websocket.calls == calls


def test_grants_that_show_the_same_leave_the_connection_alone() -> None:
    _, session, websocket = new_session(Grants.of("a", "1", [("feed", b"a/")]))
    session.run(websocket)
    session.recheck_grants(Grants.of("b", "2", [("feed", b"a/"), ("write", b"")]))
    assert session.grants.name == "b" and websocket.calls[-1] == ("receive",)
    session.recheck_grants(Grants.of("b", "2", [("feed", b"a")]))
    assert websocket.calls[-1] == ("close", 3000, "revoked")


def test_a_token_that_is_revoked_before_the_connection_runs() -> None:
    _, session, websocket = new_session()
    session.recheck_grants(None)
    session.run(websocket)
    assert websocket.calls[0] == ("close", 3000, "revoked")


def test_a_refusal_closes_with_the_error() -> None:
    for error, code in ((Unauthorized(), 3000), (Forbidden("of it"), 3003)):
        websocket: Any = FakeWebSocket()
        WalRefusal(error).run(websocket)
        assert websocket.calls == [("close", code, close_reason(error)), ("receive",)]


def test_a_reason_fits_into_a_close_frame() -> None:
    assert close_reason(BadRequest("é" * 200)).startswith(BadRequest.title)
    assert len(close_reason(BadRequest("é" * 200)).encode()) in (122, 123)
    assert close_reason(BadRequest()) == BadRequest.title
