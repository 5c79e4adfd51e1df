"""What all connections of a worker share: the clock, limits, counts, and the head that answers begin with."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from uvicorn.server import ServerState

from kvserver.access.grants import Grants
from kvserver.access.tokens import Tokens
from kvserver.http.access_log import AccessLog
from kvserver.http.counting import Counts
from kvserver.http.origins import Pages
from kvserver.http.proxies import Proxies
from kvserver.http.responses import Heads
from kvserver.settings import ServerSettings
from kvserver.web.address_quotas import Limits, Share, Shares
from shards.host.board import Board, WorkerRow
from shards.wire.errors import KVError, Overloaded

MOST_IN_FLIGHT: Final = 1024
"""Requests the whole server works on at a time; further ones are told to come again, unless their address and token
have few."""
MOST_BYTES: Final = 256 << 20
"""Bytes of requests that a worker holds, whole or not, and as many of answers that were not taken yet: slow readers
must not keep writers out."""
MOST_OWED_BYTES: Final = MOST_BYTES // 2
"""Bytes of answers that were not taken yet by one address."""
LARGE_ANSWER: Final = 64 << 10
"""Answers below are written whole whatever the client does, and not counted."""


if TYPE_CHECKING:
    from kvserver.web.connection import Protocol
    from kvserver.web.hotpath import HotPath


class Traffic(ServerState):
    """One per worker, handed to every connection.

    Attributes:
        clock: the event loop's time as of the last tick, a fraction of a second old. Deadlines count from it, so that
            a request needs no timer.
        unix_ms: wall time as of then.
        pages: which pages may ask.
        tokens: who may do what.
        heads: what answers begin with, to a request without an Origin and to one that has one.
        access_log: is told of every request, if there is one.
        stopping: answers end their connection.
        bytes_held: of requests that arrive, and of bodies until they are answered.
        bytes_owed: of answers that were not taken yet.
        shares: what each address holds, and each token.
        easy_bytes: while no more than that are held, nobody can have more than its share of them.
        proxies: peers that say on whose behalf they ask.
        foresee: tells of a request's ASGI scope what the application would refuse it for before it reads its body,
            None if nothing.
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
        """`settings`: of limits and proxies; without them the defaults."""
        super().__init__()
        settings = settings or ServerSettings()
        self.set_limits(Limits.of(settings))
        self.proxies = Proxies(settings.trusted_proxies or "")
        self.foresee: Callable[[dict[str, Any]], KVError | None] = lambda scope: None
        self.board, self.row, self.counts, self.pages, self.tokens = board, row, counts, pages, tokens
        self.max_value, self.max_batch = board.facts.max_value, board.facts.max_batch
        self.clock, self.unix_ms = 0.0, 0
        self.stopping = False
        self.bytes_held = self.bytes_owed = 0
        self._in_flight = 0
        self._words = board.words
        self._own_word = row.base + WorkerRow.in_flight.index
        self._other_words: list[int] = []
        self._others_up: list[WorkerRow] = []
        self.heads = Heads(False, pages.origins.all), Heads(True, pages.origins.all)
        self._date = b""
        self.hot_path: HotPath | None = None
        self.access_log: AccessLog | None = None
        self.look_around()

    # Limits

    def set_limits(self, limits: Limits) -> None:
        """Let these hold from now on; there must be no connection."""
        self.limits, self.shares = limits, Shares(limits)
        self.easy_bytes = min(MOST_BYTES, limits.unfinished_bytes or MOST_BYTES)

    def look_around(self) -> None:
        """See which other workers live: what a dead one had in flight does not count. Ten times a second."""
        others = [row for _, row in self.board.workers.living_rows() if row.base != self.row.base]
        self._other_words = [row.base + WorkerRow.in_flight.index for row in others]
        self._others_up = [row for row in others if row.state == WorkerRow.UP]

    def connected(self, connection: Protocol) -> None:
        """Note a new connection."""
        self.connections.add(connection)
        self.row.connections = len(self.connections)

    def disconnected(self, connection: Protocol) -> None:
        """Note that a connection is gone."""
        self.connections.discard(connection)
        self.row.connections = len(self.connections)

    def least_connections_of_others(self) -> int:
        """The fewest connections that another worker has which takes some; 1 << 62 if there is none."""
        return min([row.connections for row in self._others_up], default=1 << 62)

    def places(self, share: Share | None, grants: Grants | None) -> tuple[Share, ...]:
        """Where a request counts that is in flight: in the share of its address, and of its token, if it has those."""
        if grants is None or not grants.id:
            return () if share is None else (share,)
        token = self.shares.of_token(grants.id)
        return (token,) if share is None else (share, token)

    def check_places(self, places: tuple[Share, ...]) -> None:
        """Raise `Overloaded` if the server has as many requests in flight as it takes: of those who have few in this
        worker, some more than of others.

        However many workers there are, one address cannot come by more than half of the spare places: what is few for
        each of them is half of those divided by their number.
        """
        count = self._count_in_flight()
        if count < MOST_IN_FLIGHT:
            return
        spare, few = self.limits.spare, max(1, self.limits.spare // 2 // (1 + len(self._other_words)))
        if count >= MOST_IN_FLIGHT + spare:
            self.counts.overloads += 1
            raise Overloaded(f"{count} requests are in flight")
        for share in places:
            if share.in_flight >= few:
                self.counts.overloads += 1
                raise Overloaded(
                    f"{count} requests are in flight, and {share.whose} has {share.in_flight} of them in this worker: "
                    f"beyond {MOST_IN_FLIGHT}, {spare} places (--spare-places) are for those who have fewer than {few}"
                )

    def enter(self, places: tuple[Share, ...]) -> None:
        """Count a request in."""
        for share in places:
            share.in_flight += 1
        self._in_flight += 1
        self._words[self._own_word] = self._in_flight

    def leave(self, places: tuple[Share, ...]) -> None:
        """Count a request out."""
        for share in places:
            share.in_flight -= 1
        self._in_flight -= 1
        self._words[self._own_word] = self._in_flight

    @property
    def in_flight(self) -> int:
        """Requests of this worker that count towards the limit."""
        return self._in_flight

    def _count_in_flight(self) -> int:
        """Requests of all workers."""
        count, words = self._in_flight, self._words
        for word in self._other_words:
            count += words[word]
        return count

    def owe(self, share: Share | None, size: int) -> None:
        """Count bytes of answers to the address of `share` that it has not taken; negative ones it has."""
        self.bytes_owed += size
        if share is not None:
            share.owed += size

    def is_full(self, share: Share | None, own: int = 0) -> bool:
        """Whether there is no room for another large answer to the address of `share`, or for one that goes on and has
        `own` bytes by now: a single one may be larger than the share."""
        return self.bytes_owed >= MOST_BYTES or (share is not None and share.owed - own >= MOST_OWED_BYTES)

    def check_room(self, share: Share | None, own: int = 0) -> None:
        """Raise `Overloaded` if `is_full`."""
        if not self.is_full(share, own):
            return
        self.counts.overloads += 1
        if self.bytes_owed >= MOST_BYTES:
            raise Overloaded("too many answers wait for clients to take them")
        raise Overloaded(f"answers of {MOST_OWED_BYTES} bytes and more wait for this address to take them")

    def check_bytes(self, more: int) -> None:
        """Raise `Overloaded` if this worker would hold too many bytes of requests with `more` of them."""
        if self.bytes_held + more > MOST_BYTES:
            self.counts.overloads += 1
            raise Overloaded("too many bytes of requests wait to be whole, or to be answered")

    @property
    def at_ease(self) -> bool:
        """Whether nothing asks for more than the plain answer to a plain request."""
        if self.stopping or self.bytes_owed >= MOST_BYTES:
            return False
        count, words = self._in_flight, self._words
        for word in self._other_words:
            count += words[word]
        return count < MOST_IN_FLIGHT

    def set_time(self, clock: float, unix_s: float) -> None:
        """Called every fraction of a second."""
        self.clock, self.unix_ms = clock, int(unix_s * 1000)
        date = formatdate(unix_s, usegmt=True).encode()
        if date != self._date:
            self._date = date
            for heads in self.heads:
                heads.set_date(date)
