"""The process of a shard that shares an order with other machines: a `ShardServer` whose groups travel through it.

What clients sent while groups are on their way travels as one message. It comes back in its place among those of all
machines, is decided there by each of them, and is answered when every member has done so. Requests that the order
surely never took are refused at their deadline; of others only the sender's patience ends, since they may still come.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Final

from shards.host.board import FETCHED, Board
from shards.host.process import NEEDS_A_PEER, STOPPED_FOR_GOOD
from shards.keys.budget import Starved
from shards.log.files import LogError
from shards.maps.layout import MapFull
from shards.order.messages import UnknownLevel
from shards.order.order import NotDurable, Order, OrderError, OrderTrimmed
from shards.server.following import Following
from shards.server.loop import ShardServer
from shards.server.request_queue import QueuedMessage
from shards.server.room import Room, WritePolicy
from shards.wire.errors import Overloaded, Unavailable
from shards.wire.protocol import Failed, Reply

_OPEN_S: Final = 8.0  # after which it is said why the order is not open: longer than its process looks for the reason
_AGAIN_S: Final = 1.0  # between attempts to open an order that may lose messages
_UNOPENED_S: Final = 1.0  # for which a request waits for the order to be open
_EXPIRE_S: Final = 0.05  # between looks for expired keys, and for late requests
_NOTE_S: Final = 1.0  # between ORDER records
_LEAVE_S: Final = 1.0  # for which a stopping machine waits until it is out

_STARVED: Final = Failed.of(Overloaded("more keys must be evicted to make room for this value"))

log = logging.getLogger("shards")


class ClusteredServer(ShardServer):
    """A shard of a machine of a cluster.

    Args:
        board, shard, run_dir: as of `ShardServer`.
        order: that it follows, and closes at the end.

    Raises what `ShardServer` raises.
    """

    fatal = (*ShardServer.fatal, OrderError, UnknownLevel)

    def __init__(self, board: Board, shard: int, run_dir: Path, order: Order) -> None:
        super().__init__(board, shard, run_dir)
        session = secrets.randbits(62) + 1
        self.following = Following(board, self.log, self.map, self.writer, order, session, self.sockets.publish)
        self._in_flight: dict[int, list[QueuedMessage]] = {}  # by ticket
        self._late_at = self._note_at = 0.0  # when they are due, by time.monotonic()
        self._begun_at = time.monotonic()
        self._open_at = 0.0  # when to try again to open the order
        self._report_at: float | None = None  # when to say that it is not open; infinite: that was said
        self._obstacle = ""  # why it is not open
        self._last_status = 1
        self.sockets.wake_by(order.fileno())

    def run_turn(self, wait_s: float) -> None:
        """Run the loop once: take what clients and the order have sent, and propose; or wait at most `wait_s`.

        Raises `LogError`, `MapFull`, `OrderError`, `UnknownLevel`, `RunOver`: the process must end.
        """
        try:
            self._run_turn(wait_s)
        except OrderTrimmed:
            self._last_status = NEEDS_A_PEER
            (Path(self.board.facts.data_dir) / FETCHED).mkdir(mode=0o700, exist_ok=True)
            raise
        except (OrderError, UnknownLevel) as error:
            self._last_status = STOPPED_FOR_GOOD
            self.board.note_stop(str(error))
            raise
        except (LogError, MapFull) as error:
            self.board.note_stop(f"{error}; it tries again every few seconds")
            raise

    def run(self) -> int:
        """See `ShardServer.run`. The exit status is another one if this process must not be started again."""
        return super().run() and self._last_status

    def _run_turn(self, wait_s: float) -> None:
        arrived = self._receive_messages()
        if self.following.is_open or self._open_order():
            arrived = self.following.turn() or arrived
            self._propose_groups()
            wait_s = self.following.wait_s(wait_s)
        if not self.writer.keyspace.is_surveyed:
            self._continue_survey()
        elif not arrived and wait_s > 0:
            self.sockets.wait(wait_s)
        self._do_duties()
        self._do_housekeeping()

    def close(self, linger_ms: int = 0) -> None:
        """Close the order, too."""
        self.following.close()
        super().close(linger_ms)

    # Parts of a turn.

    def _open_order(self) -> bool:
        """Go on opening the order; whether it is open now. Raises `OrderError` if trying again cannot help."""
        now = time.monotonic()
        if self._report_at is None:
            self._report_at = now + _OPEN_S
            self.following.open()
        if now < self._open_at:
            return False
        try:
            if self.following.continue_opening():
                self.board.note_stop("")
                if self._report_at == math.inf:
                    log.info("the order of the cluster is followed")
                return True
            self._obstacle = self.following.order.obstacle()
        except NotDurable as error:
            self._obstacle = str(error)
            self._open_at = now + _AGAIN_S
            self._report_at = self._report_at if self._report_at == math.inf else now
            self.following.open()
        if now >= self._report_at:
            self._report_at = math.inf
            log.warning("the order of the cluster cannot be followed yet, will retry: %s", self._obstacle)
        return False

    def _propose_groups(self) -> None:
        """Propose what waits, as long as it would be sent at once."""
        small = True
        while self._queue and self.following.proposer.is_free:
            group = self._queue.take_group(time.monotonic_ns(), small=small)
            small = not small
            if group := self._refuse_growth(group):
                operations = list(chain.from_iterable([message.operations for message in group]))
                victims = self.writer.list_victims(operations, self.board.now())
                ahead = [] if victims is None else [victims]
                answer = partial(self._answer_group, group, len(ahead))
                self._in_flight[self.following.propose([*ahead, *operations], answer)] = group
        self.following.exchange()

    def _refuse_growth(self, group: list[QueuedMessage]) -> list[QueuedMessage]:
        """Refuse what this machine, or all members but one, have no room for; return what is left of `group`."""
        room = self.writer.measure_room(sum([message.size for message in group]))
        if room.policy is WritePolicy.ALL and self.following.others_lack_room():
            room = Room(WritePolicy.NO_GROWTH)
        if room.policy is WritePolicy.ALL:
            return group
        left = []
        find = self.writer.keyspace.find_entry
        for message in group:
            refusals = [room.foresee_refusal(operation, find) for operation in message.operations]
            kept, refused = message.split_refused([refusal is not None for refusal in refusals])
            if refused.operations:
                self._send_replies(refused, [refusal for refusal in refusals if refusal is not None])
                message = kept
            if message.operations:
                left.append(message)
        return left

    def _answer_group(
        self, group: Sequence[QueuedMessage], ahead: int, ticket: int, replies: Sequence[Reply | Starved]
    ) -> None:
        """Send the replies to the messages of a group, which follow those to `ahead` operations of this shard's own."""
        del self._in_flight[ticket]
        answers = iter([_STARVED if isinstance(reply, Starved) else reply for reply in replies[ahead:]])
        for message in group:
            own = list(islice(answers, len(message.operations)))
            if own:
                self._send_replies(message, own)

    def _do_duties(self) -> None:
        """Refuse late requests, propose expiries and log the position, each at its interval."""
        now = time.monotonic()
        if now >= self._late_at:
            self._late_at = now + _EXPIRE_S
            self._refuse_late(time.monotonic_ns())
            if not self.following.is_open and now >= self._begun_at + _UNOPENED_S:
                error = Unavailable(f"the order of the cluster cannot be followed yet: {self._obstacle}")
                for message in self._queue.drain():
                    self._refuse_rest(message, error)
            if self.writer.keyspace.is_surveyed and self.writer.expiry_in_s(1.0) == 0:
                self.following.propose_expiries()
        if now >= self._note_at:
            self._note_at = now + _NOTE_S
            self.following.has_room = self.writer.measure_room(0).policy is WritePolicy.ALL
            self.following.note_position()
            self.following.show_health()

    def _refuse_late(self, now_ns: int) -> None:
        """Refuse what is past its deadline and has surely not been taken by the order, nor will be."""
        self._queue.refuse_late(now_ns)
        late = [
            ticket
            for ticket, group in self._in_flight.items()
            if min([message.deadline_ns for message in group]) < now_ns
        ]
        for ticket in late:
            if self.following.withdraw(ticket):
                self.writer.restore_victims()
                for message in self._in_flight.pop(ticket):
                    self._refuse_rest(message, Unavailable("the order of the cluster takes nothing at the moment"))

    # The end.

    def _refuse_remaining(self) -> None:
        """Leave the cluster, so that nobody waits for this machine, and log where it is. Then refuse what is left."""
        self.following.leave()
        give_up_at = time.monotonic() + _LEAVE_S
        while self.following.is_open and (self.following.is_member or self._in_flight):
            if time.monotonic() >= give_up_at:
                break
            self._row.record_heartbeat()
            self.following.turn()
            self.sockets.wait(0.01)
        self.following.note_position()
        super()._refuse_remaining()
