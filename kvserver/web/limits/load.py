"""What all connections of a worker hold together, and the limits of it.

Requests in flight are limited for the whole server: each worker writes its own count to the board, and sums up the
counts of all without a lock. Bytes are limited for each worker, and answers that wait for their client also for each
address (`address_quotas`).
"""

from __future__ import annotations

from typing import Final

from kvserver.access.grants import Grants
from kvserver.http.reports.counting import Counts
from kvserver.web.limits.address_quotas import Quota, QuotaLimits, Quotas
from shards.host.board import Board, WorkerRow
from shards.wire.errors import Overloaded

MOST_IN_FLIGHT: Final = 1024
"""Requests in flight of the whole server; beyond, only addresses and tokens with few of them get a place."""
MOST_BYTES: Final = 256 << 20
"""Bytes of requests that a worker holds, whole or not, and as many of answers that were not taken yet: slow readers
must not keep writers out."""
MOST_OWED_BYTES: Final = MOST_BYTES // 2
"""Bytes of answers that one address has not taken yet."""
LARGE_ANSWER: Final = 64 << 10
"""Smaller answers are written whole whatever the client does, and not counted."""
MOST_DROPPED: Final = 8 << 20
"""Bytes that a worker reads of all connections in a tenth of a second only to drop them."""
_NO_PEER: Final = 1 << 62


class WorkerLoad:
    """The load of one worker.

    Attributes:
        limits: what one address may hold.
        quotas: what each address, and each token, holds.
        stopping: the worker stops; every answer ends its connection.
        bytes_held: of requests that arrive, and of bodies until they are answered.
        bytes_owed: of answers that were not taken yet.
        dropped: bytes after last requests that were read and dropped since the last tick.
        relaxed_bytes: while the worker holds no more, no address can exceed its quota.
    """

    def __init__(self, board: Board, row: WorkerRow, counts: Counts, limits: QuotaLimits) -> None:
        self._workers, self._row, self._counts = board.workers, row, counts
        self.set_limits(limits)
        self.stopping = False
        self.bytes_held = self.bytes_owed = self.dropped = 0
        self._in_flight = 0
        self._words = board.words
        self._own_word = row.base + WorkerRow.in_flight.index
        self._peer_words: list[int] = []
        self._peers_up: list[WorkerRow] = []
        self.refresh_peers()

    def set_limits(self, limits: QuotaLimits) -> None:
        """Apply `limits` from now on. Call it only while there is no connection."""
        self.limits, self.quotas = limits, Quotas(limits)
        self.relaxed_bytes = min(MOST_BYTES, limits.unfinished_bytes or MOST_BYTES)

    # The other workers

    def refresh_peers(self) -> None:
        """Find the living workers, ten times a second: requests that a dead one had in flight do not count."""
        others = [row for _, row in self._workers.living_rows() if row.base != self._row.base]
        self._peer_words = [row.base + WorkerRow.in_flight.index for row in others]
        self._peers_up = [row for row in others if row.state == WorkerRow.UP]

    def fewest_peer_connections(self) -> int:
        """The fewest connections that another accepting worker has; 1 << 62 without any such worker."""
        return min([row.connections for row in self._peers_up], default=_NO_PEER)

    # Requests in flight

    def find_quotas(self, quota: Quota | None, grants: Grants | None) -> tuple[Quota, ...]:
        """The quotas in which a request in flight counts: `quota` of its address, and that of its token, if any."""
        if grants is None or not grants.id:
            return () if quota is None else (quota,)
        token = self.quotas.of_token(grants.id)
        return (token,) if quota is None else (quota, token)

    def check_in_flight(self, quotas: tuple[Quota, ...]) -> None:
        """Raise `Overloaded` if the server has as many requests in flight as it takes. Holders of few requests in this
        worker may have some more.

        However many workers there are, one address can take at most half of the spare places: "few" is half of them
        divided by the number of workers.
        """
        count = self._in_flight + self._count_peers()
        if count < MOST_IN_FLIGHT:
            return
        spare, few = self.limits.spare, max(1, self.limits.spare // 2 // (1 + len(self._peer_words)))
        if count >= MOST_IN_FLIGHT + spare:
            self._counts.overloads += 1
            raise Overloaded(f"{count} requests are in flight")
        for quota in quotas:
            if quota.in_flight >= few:
                self._counts.overloads += 1
                raise Overloaded(
                    f"{count} requests are in flight, and {quota.holder} has {quota.in_flight} of them in this worker: "
                    f"beyond {MOST_IN_FLIGHT}, {spare} places (--spare-places) are for those who have fewer than {few}"
                )

    def begin_request(self, quotas: tuple[Quota, ...]) -> None:
        """Count a request as in flight."""
        for quota in quotas:
            quota.in_flight += 1
        self._in_flight += 1
        self._words[self._own_word] = self._in_flight

    def end_request(self, quotas: tuple[Quota, ...]) -> None:
        """Count a request as no longer in flight."""
        for quota in quotas:
            quota.in_flight -= 1
        self._in_flight -= 1
        self._words[self._own_word] = self._in_flight

    @property
    def in_flight(self) -> int:
        """Requests of this worker in flight."""
        return self._in_flight

    def _count_peers(self) -> int:
        count, words = 0, self._words
        for word in self._peer_words:
            count += words[word]
        return count

    # Bytes

    def owe_bytes(self, quota: Quota | None, size: int) -> None:
        """Count bytes of answers that the address of `quota` has not taken; negative: it has taken them."""
        self.bytes_owed += size
        if quota is not None:
            quota.owed += size

    def answers_full(self, quota: Quota | None, own: int = 0) -> bool:
        """Whether the limit is reached for another large answer to the address of `quota`, or for one that continues
        and has `own` bytes by now: a single answer may exceed the limit of an address."""
        return self.bytes_owed >= MOST_BYTES or (quota is not None and quota.owed - own >= MOST_OWED_BYTES)

    def check_answer_budget(self, quota: Quota | None, own: int = 0) -> None:
        """Raise `Overloaded` if `answers_full`."""
        if not self.answers_full(quota, own):
            return
        self._counts.overloads += 1
        if self.bytes_owed >= MOST_BYTES:
            raise Overloaded("too many answers wait for clients to read them")
        raise Overloaded(f"answers of {MOST_OWED_BYTES} bytes and more wait for this address to read them")

    def check_request_bytes(self, more: int) -> None:
        """Raise `Overloaded` if this worker would hold too many bytes of requests with `more` of them."""
        if self.bytes_held + more > MOST_BYTES:
            self._counts.overloads += 1
            raise Overloaded("too many bytes belong to incomplete or unanswered requests")

    def check_quota(self, quota: Quota | None, more: int, counts_unfinished: bool) -> None:
        """Raise `Overloaded` if the address of `quota`, or this worker, would hold too many bytes with `more` of them;
        if `counts_unfinished`, also if the address has too many unfinished requests."""
        self.check_request_bytes(more)
        if quota is None:
            return
        try:
            if counts_unfinished:
                self.quotas.check_unfinished(quota, more)
            else:
                self.quotas.check_bytes(quota, more)
        except Overloaded:
            self._counts.overloads += 1
            raise

    @property
    def accepts_hot_path(self) -> bool:
        """Whether a plain request gets its plain answer: nothing is near a limit, and the worker does not stop."""
        if self.stopping or self.bytes_owed >= MOST_BYTES:
            return False
        count, words = self._in_flight, self._words  # `_count_peers`, unrolled: each request on the hot path asks
        for word in self._peer_words:
            count += words[word]
        return count < MOST_IN_FLIGHT
