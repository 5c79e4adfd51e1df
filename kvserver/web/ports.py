"""The time limits of a connection, and what its exchanges and the hot path need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from kvserver.web.context import WorkerContext
from kvserver.web.flow import ClientFlow
from kvserver.web.limits.peer import Peer

ARRIVAL_S: Final = 10.0
"""How long a head may take to arrive, and the period in which a body must bring what `--min-upload-rate` demands."""
IDLE_S: Final = 75.0
"""How long a connection may wait for its next request."""
QUIET_S: Final = 1.0
"""The same while the worker stops: a client that is about to send a request has sent it by then."""
LINGER_S: Final = 5.0
"""How long bytes that arrive after the last answer are read and dropped."""
DROP_BYTES: Final = 8 << 20
"""Bytes of a connection that are read and dropped between two checks; more waits in the kernel, or at its client."""
STALL_S: Final = 30.0
"""How long a client may read nothing of its answer."""


class Answerable(Protocol):
    """A request that is being answered: an `Exchange`, or a write of the hot path."""

    disconnected: bool
    """Set by the connection when its client has left."""


class ConnectionPort(Protocol):
    """A connection, as an exchange and the hot path see it. See `HttpConnection`."""

    answering: Answerable | None
    app: Callable[..., Awaitable[None]]
    context: WorkerContext
    deadline: float
    flow: ClientFlow
    loop: asyncio.AbstractEventLoop
    peer: Peer
    transport: Any

    @property
    def has_pending_input(self) -> bool:
        """Whether anything arrived after the request that is being answered."""
        ...

    def finish_exchange(self, keep_alive: bool) -> None:
        """The request has its whole answer: take the next one, or unless `keep_alive` end the connection."""
        ...

    def finish_read(self) -> None:
        """The hot path has answered a request at once, and the connection stays open."""
        ...

    def finish_write(self) -> None:
        """The write has its whole answer, and the connection stays open."""
        ...
