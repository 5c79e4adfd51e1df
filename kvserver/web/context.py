"""What all connections of a worker share."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from time import perf_counter
from typing import Any, Final, Protocol

from uvicorn.server import ServerState

from kvserver.access.grants import Grants
from kvserver.access.tokens import Tokens
from kvserver.http.origins import Pages
from kvserver.http.proxies import Proxies
from kvserver.http.reports.access_log import AccessLog
from kvserver.http.reports.counting import Counts
from kvserver.http.responses import ResponseHeads
from kvserver.one_key.answers import Answer
from kvserver.settings import ServerSettings
from kvserver.web.limits.address_quotas import Quota, QuotaLimits
from kvserver.web.limits.load import WorkerLoad
from shards.host.board import Board, WorkerRow
from shards.wire.errors import KVError

SLACK: Final = 1
"""A worker may have so many connections more than another, and an eighth, before it leaves new ones to others."""


class FastPath(Protocol):
    """Answers requests for one key without the parser: see `hot.hotpath`."""

    def take(self, connection: Any, data: bytes) -> bool:
        """Answer `data`, or return False and do nothing."""
        ...


MakeAnswer = Callable[[], Answer]
LateAnswer = Callable[[Callable[[MakeAnswer], None]], None]
"""Begins what an answer waits for, and calls its argument, once, with what makes the answer, as soon as that can be
made."""


class SmallBatches(Protocol):
    """Executes small batches: see `rest.batch`."""

    def take(self, content_type: str, body: bytes, grants: Grants, quota: Quota | None) -> Answer | LateAnswer | None:
        """Return the answer, or what gets it; None, with nothing done, if the batch has to take the ordinary path."""
        ...


class SmallLists(Protocol):
    """Makes small pages of lists: see `rest.many`."""

    def take(self, query: bytes, accept: str, grants: Grants) -> Answer | None:
        """Return the answer; None, with nothing done, if the list has to take the ordinary path."""
        ...


class WorkerContext(ServerState):
    """One per worker, handed to every connection.

    Attributes:
        board, row: of the store, and of this worker.
        counts: figures of answered requests.
        pages: which web pages may use the store.
        tokens: the rights of each token.
        proxies: peers whose X-Forwarded-For is believed.
        load: requests and bytes that the worker holds, and their limits.
        clock: the event loop's time as of the last tick, a fraction of a second old. Deadlines count from it, so that
            a request needs no timer.
        unix_ms: wall time as of then.
        heads: how answers begin, to a request without an Origin and to one that has one.
        max_value, max_batch: bytes of the largest value, and of the largest batch.
        find_refusal: returns the error that the application will answer a request with whatever its body is, given the
            request's ASGI scope; None if there is no such error.
        small_batches: is offered small batches by the hot path, if set.
        small_lists: is offered lists by the hot path, if set.
        hot_path: is offered every buffer that begins with a request, if set.
        access_log: is called for every answered request, if set.
    """

    def __init__(
        self,
        board: Board,
        row: WorkerRow,
        counts: Counts,
        pages: Pages,
        tokens: Tokens,
        settings: ServerSettings | None = None,
    ) -> None:
        """`settings`: of limits and proxies; None: the defaults."""
        super().__init__()
        settings = settings or ServerSettings()
        self.board, self.row, self.counts, self.pages, self.tokens = board, row, counts, pages, tokens
        self.proxies = Proxies(settings.trusted_proxies or "")
        self.load = WorkerLoad(board, row, counts, QuotaLimits.of(settings))
        self.max_value, self.max_batch = board.facts.max_value, board.facts.max_batch
        self.clock, self.unix_ms = 0.0, 0
        self.heads = ResponseHeads(False, pages.origins.all), ResponseHeads(True, pages.origins.all)
        self.find_refusal: Callable[[dict[str, Any]], KVError | None] = lambda scope: None
        self.small_batches: SmallBatches | None = None
        self.small_lists: SmallLists | None = None
        self.hot_path: FastPath | None = None
        self.access_log: AccessLog | None = None

    def add_connection(self, connection: Any) -> None:
        """Register a new connection, and show their number on the board."""
        self.connections.add(connection)
        self.row.connections = len(self.connections)

    def remove_connection(self, connection: Any) -> None:
        """Forget a lost connection, and show their number on the board."""
        self.connections.discard(connection)
        self.row.connections = len(self.connections)

    def exceeds_peers(self) -> bool:
        """Whether this worker has so many connections more than another that it leaves new ones to that."""
        fewest = self.load.fewest_peer_connections()
        return len(self.connections) > fewest + fewest // 8 + SLACK

    def set_time(self, clock: float, unix_s: float) -> None:
        """Set the clocks, the Date of answers, and the count of dropped bytes; called every fraction of a second."""
        self.clock, self.unix_ms, self.load.dropped = clock, int(unix_s * 1000), 0
        date = formatdate(unix_s, usegmt=True).encode()
        for heads in self.heads:
            heads.set_date(date)

    def record_answer(
        self,
        client: tuple[str, int] | None,
        method: str,
        route: str,
        path: bytes,
        status: int,
        begun_at: float,
        request_id: bytes = b"",
    ) -> None:
        """Count an answered request, and log it if every request is to be logged.

        `client`: its address. `begun_at`: when its first byte arrived, by `perf_counter`. `request_id`: empty if it has
        none.
        """
        seconds = perf_counter() - begun_at
        self.counts.add(method, route, status, seconds)
        if self.access_log is not None:
            self.access_log(client[0] if client else "", method, path, status, seconds, request_id)
