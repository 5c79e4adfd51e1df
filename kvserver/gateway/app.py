"""The gateway's application: who gets which feed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from kvserver.access.grants import EVERYTHING
from kvserver.gateway import formats
from kvserver.gateway.handler import run_session
from kvserver.gateway.head import Head, check_upgrade
from kvserver.gateway.socket import Limits, Piece, WebSocket
from kvserver.gateway.source import Follower, Source
from kvserver.gateway.views import View
from kvserver.web import target
from kvserver.web.answers import Origins
from shards.errors import NoSuchResource, Unavailable
from shards.log import Trimmed

log = logging.getLogger(__name__)

BINARY: Final = b"application/octet-stream"
"""The Content-Type of an upgrade whose sender wants binary frames."""


class Wal:
    """A client of `/wal`: every change as one line of text, and what others read."""

    def __init__(self, source: Source, peer: str, binary: bool) -> None:
        """From now on: the position is the history's end at this moment."""
        self._source, self._peer = source, peer
        self._websocket: WebSocket | None = None
        encode = formats.binary_frame if binary else formats.text_frame
        self._follower: Follower = source.join(View.of(encode, EVERYTHING), self._wake)

    def run(self, websocket: WebSocket) -> None:
        """Until the client is gone. What it sends is read and dropped."""
        self._websocket = websocket
        websocket.on_answer = self._answered
        websocket.ping()
        websocket.source = self._next
        websocket.wake()
        while websocket.receive() is not None:
            pass

    def end(self) -> None:
        """Stop following."""
        self._source.leave(self._follower)

    def _next(self) -> Piece | None:
        assert self._websocket is not None
        try:
            return self._follower.next()
        except Trimmed:
            self._source.counts["lag_closed"] += 1
            self._websocket.close(1013, "too far behind: what comes next is no longer kept")
        except Exception:
            log.exception("feeding %s", self._peer)
            self._websocket.close(1011)
        return None

    def _wake(self) -> None:
        if self._websocket is not None:
            self._websocket.wake()

    def _answered(self) -> None:
        self._source.report("heartbeat", self._peer.encode())


class Gateway:
    """`kvserver.gateway.handler.Application` of the feed.

    Attributes:
        source: what clients follow; None while there is no store.
    """

    def __init__(self) -> None:
        self.limits = Limits()
        self.origins = Origins("*")
        self.source: Source | None = None

    def open(self, source: Source, origins: str) -> None:
        """Serve clients from `source`, and pages of `origins`."""
        self.source, self.origins = source, Origins(origins)

    def close(self) -> None:
        """Admit nobody any more."""
        self.source = None

    def admit(self, head: Head, peer: str) -> Wal:
        """A feed for a well-formed upgrade of `/wal`. Raises `KVError`."""
        if head.path.decode() != target.WAL:
            raise NoSuchResource
        check_upgrade(head, self.origins)
        if self.source is None:
            raise Unavailable("the feed is stopping")
        return Wal(self.source, peer, head.first(b"content-type") == BINARY)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        return run_session(environ, start_response)


app = Gateway()
