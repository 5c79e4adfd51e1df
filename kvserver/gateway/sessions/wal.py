"""Clients of `/wal`: every change that a client may see as one line of text, and the activity of others."""

from __future__ import annotations

import logging

from kvserver.access.grants import Grants
from kvserver.gateway.feed.walk import ClientGone
from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.history.wal_readers import WalReader
from kvserver.gateway.sessions.access import close_code
from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.transport.websocket import WebSocket
from kvserver.gateway.wal import formats
from kvserver.gateway.wal.views import View
from shards.host.logs import Recurring
from shards.log.reader import Trimmed
from shards.wire.errors import Forbidden, KVError, Unauthorized

log = logging.getLogger(__name__)
_failed = Recurring(log, logging.ERROR, "feeding %s")


class WalSession:
    """A client of `/wal`.

    Attributes:
        grants: as its token has them.
    """

    protocol = ""

    def __init__(self, follower: LogFollower, grants: Grants, budget: SendBudget, peer: str, binary: bool) -> None:
        """Follow the history from its end at this moment.

        Args:
            budget: of the client's address.
            binary: whether lines travel in binary frames.
        """
        self.grants = grants
        self._follower, self._peer = follower, peer
        self._websocket: WebSocket | None = None
        self._is_revoked = False
        self._encode = formats.binary_frame if binary else formats.text_frame
        self._reader: WalReader = follower.add_wal_reader(View.of(self._encode, grants), self._wake, budget)

    def run(self, websocket: WebSocket) -> None:
        """Serve the connection until the client is gone. What it sends is read and dropped."""
        self._websocket = websocket
        if self._is_revoked:
            self._close_revoked()
        self._reader.turn.is_over = lambda: websocket.closed
        websocket.on_answer = self._report_heartbeat
        websocket.ping()
        websocket.source = self._next_piece
        websocket.wake()
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Stop following."""
        self._follower.remove_wal_reader(self._reader)
        self._websocket = None

    def recheck_grants(self, grants: Grants | None) -> None:
        """Close the connection if its token was revoked (None), or shows something else than before."""
        if grants is None or View.of(self._encode, grants) != self._reader.view:
            self._is_revoked = True
            self._close_revoked()
        else:
            self.grants = grants

    def _close_revoked(self) -> None:
        if self._websocket is not None:
            self._websocket.close(3000, "revoked")

    def _next_piece(self) -> Piece | None:
        assert self._websocket is not None
        try:
            return self._reader.next_piece()
        except Trimmed:
            self._follower.counts["lag_closed"] += 1
            self._websocket.close(1013, "too far behind: what comes next is no longer kept")
        except ClientGone:
            pass
        except Exception:
            _failed.report(self._peer, error=True)
            self._websocket.close(1011)
        return None

    def _wake(self) -> None:
        if self._websocket is not None:
            self._websocket.wake()

    def _report_heartbeat(self) -> None:
        self._follower.report_activity("heartbeat", self._peer.encode())


class WalRefusal:
    """A page's connection that is accepted only to be closed with the error, since a page cannot see a refusal."""

    protocol = ""

    def __init__(self, error: Unauthorized | Forbidden) -> None:
        self._error = error.with_traceback(None)  # its frames lead back to here

    def run(self, websocket: WebSocket) -> None:
        """Close with the error, and wait until the client is gone."""
        websocket.close(close_code(self._error), close_reason(self._error))
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Do nothing: there is nothing to release."""


def close_reason(error: KVError) -> str:
    """Return an error in the words of a close frame, whose reason has at most 123 bytes (RFC 6455, 5.5)."""
    text = f"{error.title}: {error.detail}" if error.detail not in ("", error.title) else error.title
    return text.encode()[:123].decode(errors="ignore")
