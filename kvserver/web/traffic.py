"""What all connections of a worker share: the clock, limits, counts, and the head that answers begin with."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from uvicorn.server import ServerState

from kvserver.access.tokens import Tokens
from kvserver.web.accesslog import AccessLog
from kvserver.web.answers import ALLOW_ORIGIN, COMMON, INERT, STATUS_LINES, Headers, LargeBatch, Origins, lines
from kvserver.web.counting import Counts
from kvserver.web.target import BATCH
from shards.board import Board, WorkerRow
from shards.errors import KVError, Overloaded, ValueTooLarge

MOST_IN_FLIGHT: Final = 1024
"""Requests the whole server works on at a time; further ones are told to come again."""
MOST_BYTES: Final = 256 << 20
"""Bytes of bodies that arrive a worker holds, and as many of answers that were not taken yet: slow readers must not
keep writers out."""
LARGE_ANSWER: Final = 64 << 10
"""Answers below are written whole whatever the client does, and not counted."""


if TYPE_CHECKING:
    from kvserver.web.hotpath import HotPath
    from kvserver.web.http import Protocol

_BATCH: Final = BATCH.encode()


class Traffic(ServerState):
    """One per worker, handed to every connection.

    Attributes:
        clock: the event loop's time as of the last tick, a fraction of a second old. Deadlines count from it, so that
            a request needs no timer.
        unix_ms: wall time as of then.
        tokens: who may do what.
        access_log: is told of every request, if there is one.
        stopping: answers end their connection.
        bytes_held: of bodies that arrive.
        bytes_owed: of answers that were not taken yet.
    """

    def __init__(self, board: Board, row: WorkerRow, counts: Counts, origins: Origins, tokens: Tokens) -> None:
        super().__init__()
        self.board, self.row, self.counts, self.origins, self.tokens = board, row, counts, origins, tokens
        self.max_value, self.max_batch = board.facts.max_value, board.facts.max_batch
        self.clock, self.unix_ms = 0.0, 0
        self.stopping = False
        self.bytes_held = self.bytes_owed = 0
        self._in_flight = 0
        self._words = board.words
        self._own_word = row.base + WorkerRow.in_flight.index
        self._other_words: list[int] = []
        self._others_up: list[WorkerRow] = []
        self._heads: dict[int, bytes] = {}
        self._bare_heads: dict[int, bytes] = {}
        self._date = b""
        self.hot_path: HotPath | None = None
        self.access_log: AccessLog | None = None
        self.look_around()

    # Limits

    def most_of_body(self, path: bytes) -> int:
        """Bytes that the body of a request for `path` may have."""
        return self.max_batch if path == _BATCH else self.max_value

    def too_large(self, path: bytes) -> KVError:
        """What becomes of a request for `path` whose body has more."""
        return LargeBatch() if path == _BATCH else ValueTooLarge()

    def look_around(self) -> None:
        """See which other workers live: what a dead one had in flight does not count. Ten times a second."""
        others = [row for _, row in self.board.workers.alive() if row.base != self.row.base]
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

    def enter(self) -> bool:
        """Count a request in, unless the server has as many as it takes."""
        count = self._in_flight
        for word in self._other_words:
            count += self._words[word]
        if count >= MOST_IN_FLIGHT:
            self.counts.overloads += 1
            return False
        self._in_flight += 1
        self._words[self._own_word] = self._in_flight
        return True

    def leave(self) -> None:
        """Count a request out."""
        self._in_flight -= 1
        self._words[self._own_word] = self._in_flight

    @property
    def in_flight(self) -> int:
        """Requests of this worker that count towards the limit."""
        return self._in_flight

    @property
    def full(self) -> bool:
        """Whether there is no room for another large answer."""
        return self.bytes_owed >= MOST_BYTES

    def check_room(self) -> None:
        """Raise `Overloaded` if there is no room for another large answer."""
        if self.full:
            self.counts.overloads += 1
            raise Overloaded("too many answers wait for clients to take them")

    @property
    def at_ease(self) -> bool:
        """Whether nothing asks for more than the plain answer to a plain request."""
        if self.stopping or self.bytes_owed >= MOST_BYTES or not self.origins.all:
            return False
        count, words = self._in_flight, self._words
        for word in self._other_words:
            count += words[word]
        return count < MOST_IN_FLIGHT

    # Heads

    def set_time(self, clock: float, unix_s: float) -> None:
        """Called every fraction of a second."""
        self.clock, self.unix_ms = clock, int(unix_s * 1000)
        date = formatdate(unix_s, usegmt=True).encode()
        if date != self._date:
            self._date = date
            self._heads.clear()
            self._bare_heads.clear()
            self.head_of_octets = self.head(200) + b"content-type: application/octet-stream\r\n"
            self.head_of_value = self.head_without(200, [(b"cache-control", b"")])

    def head(self, status: int) -> bytes:
        """Status line, Date and the headers that come with every answer."""
        head = self._heads.get(status)
        if head is None:
            head = self._heads[status] = self.head_without(status, [])
        return head

    def head_without(self, status: int, own: Headers) -> bytes:
        """The same, but for those of `INERT` that are in `own`."""
        names = {name for name, _ in own}
        return self._bare_head(status) + lines([header for header in INERT if header[0] not in names])

    def _bare_head(self, status: int) -> bytes:
        head = self._bare_heads.get(status)
        if head is None:
            line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            head = line + lines([(b"date", self._date), *COMMON])
            if self.origins.all:
                head += lines([(ALLOW_ORIGIN, b"*")])
            self._bare_heads[status] = head
        return head
