"""What the shard of a cluster makes of the order: each message decided once, in its place, and shown when all have it.

`Following` joins the parts of `shards.order`: the replica says which messages count, the writer decides them, the
proposer sends this machine's own, membership says who may read, and for how long. It is called by the shard's loop, and
never waits.

- **Turns are short.** A machine that does not answer the others is put out. So each turn hears them first, and decides
  messages only for a while, which are flushed together; the rest waits.

- **Deciding.** Each record of data says which message it is of, and what the messages before it add up to. So a
  machine that starts again goes on behind what its map holds, whatever it was doing when it died.
- **Showing.** What every member has applied may be shown: then requests are answered, events are published, and the
  watermark rises. With local reads that is so once it is applied here.
- **Idle.** ORDER records, at most one a second, spare a restart messages that have changed nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from shards.host.board import Board
from shards.keys.budget import Starved
from shards.log.appender import LogAppender
from shards.log.records import OrderPosition
from shards.maps.owner import MapOwner
from shards.order.history import Histories
from shards.order.membership import Clocks, Membership
from shards.order.messages import Ask, Batch, In, Piece, Want, decode_tidings, encode_tidings, init_of
from shards.order.order import Identity, Message, Order, OrderError
from shards.order.proposer import Proposer
from shards.order.replica import Effect, Replica, State, begin_again, decode_state, encode_state
from shards.server.catching_up import CatchingUp
from shards.server.donor import Donor
from shards.server.writer import Writer
from shards.wire.clock import Now
from shards.wire.errors import ProtocolError
from shards.wire.protocol import Operation, Placed, Reply, decode_operations, encode_operations

RANK_MS: Final = 300
"""How much longer than the one before it a member waits before it proposes what has expired."""
AHEAD_MS: Final = 1000
"""From which lead of this machine's clock on it proposes by the order's time: else again and again what is not due."""

_NS: Final = 1_000_000_000

HEARD_S: Final = 2.0
"""For which a machine counts as heard of after its last tidings."""

DECIDE_S: Final = 0.05
"""For which one turn decides messages, at least one."""

HELD_S: Final = 1.0
"""Between two turns, from which on it is logged: others may take this machine for silent soon."""

log = logging.getLogger("shards")

Answer = Callable[[int, Sequence[Reply | Starved]], None]
"""Is called with the ticket of a group and the replies to it, once they may be shown."""


class Diverged(OrderError):
    """Most other machines have made something else of the order than this one."""

    def __init__(self, sequence: int) -> None:
        super().__init__(
            f"most other machines have made something else of the order up to message {sequence}: "
            "this machine must begin anew, with an empty data directory"
        )


class Unshown(NamedTuple):
    """A message that was decided here, and that some member may lack.

    Attributes:
        sequence: of the message.
        lsn, revision: where the log ended after it, and with which revision.
        frames: to be published.
        ticket, answer, replies: of a group of this process; `answer` is None for any other.
    """

    sequence: int
    lsn: int
    revision: int
    frames: Sequence[bytes] = ()
    ticket: int = 0
    answer: Answer | None = None
    replies: Sequence[Reply | Starved] = ()


def read_clocks() -> Clocks:
    """Read the clocks that leases go by."""
    return Clocks(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


def boot_ms(clocks: Clocks) -> int:
    """Return CLOCK_BOOTTIME in milliseconds."""
    return round(clocks.boot_s * 1000)


class Following:
    """One machine's part in the order, from `open` on.

    Args:
        board: where it shows how far it is.
        log, map, writer: of the shard.
        order: that is followed. `close` closes it, too.
        session: of this process, a random number.
        publish: sends a record to the gateways.

    Attributes:
        is_open: whether the order is followed.
        has_room: whether this machine has room for what makes data grow: the others are told.
        replica, proposer, membership, histories: the parts of `shards.order`, after `open`.
    """

    def __init__(
        self,
        board: Board,
        log: LogAppender,
        map: MapOwner,
        writer: Writer,
        order: Order,
        session: int,
        publish: Callable[[bytes], None],
    ) -> None:
        self.order, self.is_open, self._publish = order, False, publish
        self.has_room = True
        self._board, self._log, self._map, self._writer = board, log, map, writer
        self._node, self._is_linear = board.facts.node, board.facts.reads == "linear"
        place = map.place_in_order() or Placed(1, 0, encode_state(State()))
        base = board.facts.order_base
        is_new = base >= place.sequence  # the store was decided by an order that is lost
        if is_new:
            place = Placed(base, 0, encode_state(self._begin_again(decode_state(place.state))))
        self._resumed_at, self._resumed_done = place.sequence, place.done
        self._state_before = place.state
        self.replica = Replica(decode_state(place.state))
        state = self.replica.state
        known = state.sessions.get(self._node)
        self.proposer = Proposer(self._node, session, known.session if known else 0)
        self.membership = Membership(self._node, session, read_clocks())
        self.proposer.level = self.membership.level(state)
        self.histories = Histories()
        self._donor = Donor(Path(board.facts.data_dir))
        self._catching_up = CatchingUp()
        self._turned_at: float | None = None  # by time.monotonic
        self._undecided: deque[Message] = deque()
        self._answers: dict[int, Answer] = {}  # by ticket
        self._unshown: deque[Unshown] = deque()
        self._noted = 0 if is_new else state.sequence  # by the last ORDER record
        self._expiry: int | None = None  # ticket of the last `Expire` that was proposed
        self._offset_ms = -1 << 62  # makes the order's time of CLOCK_BOOTTIME, as far as its messages have told
        self._leaves = False
        lsn, following = board.history()
        if board.watermark()[1] < following - 1:  # of a former process, or run: others may lack it
            at = place.sequence if place.done else place.sequence - 1
            self._unshown.append(Unshown(at, lsn, following - 1))
        if is_new:  # before another machine can get a backup of this one
            self.note_position()
        self._show_progress()

    def _begin_again(self, state: State) -> State:
        """Return the state in which an order that `kvserver cluster reset` has made begins."""
        facts = self._board.facts
        limits = {"max_value": facts.max_value, **({"max_memory": facts.max_memory} if facts.max_memory else {})}
        init = init_of(facts.store, facts.epoch, facts.first_revision, facts.nodes.split(","), limits)
        return begin_again(state, facts.order_base, init)

    @property
    def state(self) -> State:
        """What the messages so far have made."""
        return self.replica.state

    @property
    def is_member(self) -> bool:
        """Whether this machine is one of those that have to apply what is shown."""
        return self._node in self.state.members

    def open(self) -> None:
        """Begin to follow: see `continue_opening`. May be called again before the order is open."""
        facts = self._board.facts
        known = Identity(facts.order_name, facts.order_created_ns) if facts.order_name else None
        self.order.open(self.replica.resume_after, known)

    def continue_opening(self) -> bool:
        """Go on opening the order, and return `is_open`. Raises `OrderError`."""
        self.is_open = self.order.opened() is not None
        return self.is_open

    # A turn.

    def turn(self) -> bool:
        """Hear the others, decide what has come, and tell them; return whether anything was decided.

        Raises `OrderError`, `LogError`, `MapFull`: this process must end.
        """
        self._note_pace()
        for node, payload in self.order.told():
            self._hear(node, payload)
        if not self._undecided:
            self._undecided.extend(self.order.take())
        has_decided = self._decide_for_a_while()
        self._take_part()
        self.exchange()
        self._show_what_is_stable()
        self._show_progress()
        self.order.hint(self.membership.furthest(self.state))
        return has_decided

    def _note_pace(self) -> None:
        """Say in the log when this machine was too slow for the others to rely on it."""
        now = time.monotonic()
        if self._turned_at is not None and now > self._turned_at + HELD_S:
            log.warning(
                "for %.1f s this machine did not get round to answering the others of its cluster, which put out who "
                "is silent for longer: it has too little processor time, or a slow disk",
                now - self._turned_at,
            )
        self._turned_at = now

    def _decide_for_a_while(self) -> bool:
        """Decide messages in their order, flush what they have made, and tell how far that is; whether there were any.

        Raises `OrderError`, `LogError`, `MapFull`.
        """
        if not self._undecided:
            return False
        until = time.monotonic() + DECIDE_S
        while self._undecided and time.monotonic() < until:
            message = self._undecided.popleft()
            self._state_before = encode_state(self.state)
            effect = self.replica.deliver(message)
            if effect is not None:
                self._follow(effect)
        self._writer.flush_decided()
        self._tell(self.membership.applied(self.state))
        return True

    def exchange(self) -> None:
        """Hand the order what was proposed since the turn."""
        self.proposer.exchange(self.order, time.monotonic())

    def wait_s(self, most_s: float) -> float:
        """Return in how many seconds `turn` has something to do if nothing comes, at most `most_s`."""
        return min(most_s, self.membership.wait_s(read_clocks()), self.proposer.wait_s(time.monotonic()))

    # Proposing.

    def propose(self, operations: Sequence[Operation], answer: Answer) -> int:
        """Propose a group of operations; `answer` is called with the replies. Returns a ticket to `withdraw` it by."""
        ticket = self.proposer.propose(encode_operations(operations))
        self._answers[ticket] = answer
        return ticket

    def withdraw(self, ticket: int) -> bool:
        """Give a group up; whether it surely has no effect. Then its `answer` is not called."""
        if ticket not in self._answers or not self.proposer.withdraw(ticket):
            return False
        del self._answers[ticket]
        return True

    def propose_expiries(self) -> None:
        """Propose that keys expire, unless others would have by now: the member with the lowest name does so first."""
        if self._expiry is not None or not self.is_member or not self.proposer.begun:
            return
        late_ms = RANK_MS * sorted(self.state.members).index(self._node)
        wall_ms, order_ms = self._board.now_ms(), boot_ms(read_clocks()) + self._offset_ms
        now_ms = (wall_ms if wall_ms - order_ms < AHEAD_MS else order_ms) - late_ms
        due = self._writer.list_due(Now(now_ms, now_ms))
        if due is not None:
            self._expiry = self.proposer.propose(encode_operations([due]))

    def others_lack_room(self) -> bool:
        """Whether none of the other members has room for what makes data grow."""
        peers, others = self.membership.peers, [node for node in self.state.members if node != self._node]
        return bool(others) and all(node in peers and not peers[node].spare for node in others)

    # At rest.

    def note_position(self) -> None:
        """Log how far this machine has come, if it has since the last time. Raises `LogError`, `MapFull`."""
        state = self.state
        if state.sequence == self._noted or state.sequence < self._resumed_at:
            return
        lsn, revision = self._board.watermark()
        position = OrderPosition(
            sequence=state.sequence, state=encode_state(state), shown_lsn=lsn, shown_revision=revision
        )
        record = self._log.append_order(position, Now(state.time_ms, state.time_ms))
        self._map.apply([record])
        self._noted = state.sequence

    def leave(self) -> None:
        """Stop showing values, and ask to be put out of the members, so that nobody waits for this machine."""
        if not self._leaves and self.is_open:
            self._leaves = True
            vote = self.membership.leave(self.state)
            self._show_progress()
            if vote is not None and self.proposer.begun:
                self.proposer.say(vote)

    def close(self) -> None:
        """Stop following."""
        self._donor.drop()
        self._board.order.lease_until = 0
        self.order.close()

    # Parts of a turn.

    def _hear(self, node: str, payload: bytes) -> None:
        tidings = decode_tidings(payload)
        if tidings is None or isinstance(tidings, Piece):
            return
        if isinstance(tidings, Want):
            self.order.ask(node, encode_tidings(self._donor.answer(node, tidings, time.monotonic())))
            return
        grant = self.membership.hear(node, tidings, read_clocks(), self.state)  # not before it was asked
        if grant is not None:
            self.order.ask(node, encode_tidings(grant))
        if isinstance(tidings, Ask) and tidings.sequence:
            self.histories.hear(node, tidings.sequence, tidings.hash)
            if self.histories.is_in_minority(len(self.state.nodes)):
                raise Diverged(tidings.sequence)

    def _follow(self, effect: Effect) -> None:
        """Do what a message says, and note it."""
        clocks = read_clocks()
        self.membership.observe(effect, clocks)
        ticket = self.proposer.observe(effect, time.monotonic())
        offset_ms = effect.time_ms - boot_ms(clocks)
        is_fresh = ticket is not None and ticket == self._expiry
        self._offset_ms = offset_ms if is_fresh else max(self._offset_ms, offset_ms)
        if isinstance(effect.content, Batch):
            self._decide(effect, effect.content, ticket)
        self.histories.note(effect.sequence, self.state.hash)

    def _decide(self, effect: Effect, batch: Batch, ticket: int | None) -> None:
        if ticket == self._expiry:
            self._expiry = None
        answer = self._answers.pop(ticket, None) if ticket is not None else None
        before = self._board.last_revision()
        replies: Sequence[Reply | Starved] = ()
        try:
            operations = decode_operations(batch.operations)
        except ProtocolError as error:  # no version sends that: all machines take it for nothing
            log.error("message %d of the order cannot be read: %s", effect.sequence, error)
        else:
            replies = self._decide_operations(effect, operations)
        lsn, following = self._board.history()
        self.replica.mix(following.to_bytes(8, "little"))
        if following - 1 > before or answer is not None:
            frames = tuple(self._writer.announcements)
            unshown = Unshown(effect.sequence, lsn, following - 1, frames, ticket or 0, answer, replies)
            self._unshown.append(unshown)
        self._writer.announcements.clear()

    def _decide_operations(self, effect: Effect, operations: Sequence[Operation]) -> Sequence[Reply | Starved]:
        """Decide what a former process has not decided of a message; return the replies."""
        done = 0
        if effect.sequence == self._resumed_at:
            done = self._resumed_done

        def place(decided: int) -> Placed:
            return Placed(effect.sequence, done + decided, self._state_before)

        return self._writer.decide(operations[done:], Now(effect.time_ms, effect.time_ms), place)

    def _take_part(self) -> None:
        """Ask the others, enter, and vote, as far as it is time."""
        clocks, state = read_clocks(), self.state
        self._tell(self.membership.ask(clocks, state, spare=self.has_room, checkpoint=self.histories.checkpoint))
        for vote in self.membership.votes(clocks, state):
            log.warning("%s has been silent for too long: voting to go on without it", vote.node)
            self.proposer.say(vote)
        if self._has_caught_up() and self.membership.wants_in(state):
            self.proposer.say(In())
        self.proposer.level = self.membership.level(state)

    def _has_caught_up(self) -> bool:
        furthest = max(self.order.reach().last, self.membership.furthest(self.state))
        return self.proposer.begun and self.state.sequence >= furthest

    def _tell(self, tidings: object) -> None:
        if tidings is not None:
            self.order.tell(encode_tidings(tidings))  # type: ignore[arg-type]

    def _show_what_is_stable(self) -> None:
        """Answer, publish and show what every member has applied."""
        stable = self.membership.stable(self.state) if self._is_linear else self.state.sequence
        while self._unshown and self._unshown[0].sequence <= stable:
            shown = self._unshown.popleft()
            self._board.show(shown.lsn, shown.revision)  # before the answer: a read that follows it must not wait
            for frame in shown.frames:
                self._publish(frame)
            if shown.answer is not None:
                shown.answer(shown.ticket, shown.replies)
        self._board.order.stable = stable

    def show_health(self) -> None:
        """Show on the board what is known of the other machines. To be called once a second."""
        self._donor.look(time.monotonic())
        words, now, peers = self._board.order, read_clocks(), self.membership.peers
        heard = {node for node, health in peers.items() if now.is_before(health.heard.after(HEARD_S))}
        words.heard = _bits(self.state.nodes, heard | {self._node})
        words.resent = self.proposer.resent
        self._catching_up.look(self.state.sequence, self.order.reach().last, time.monotonic())
        words.skew_ms = max((abs(peers[node].skew_ms) for node in heard), default=0)

    def _show_progress(self) -> None:
        """Show on the board how far this machine is, and until when it may show values."""
        words, state = self._board.order, self.state
        words.sequence, words.last = state.sequence, max(self.order.reach().last if self.is_open else 0, state.sequence)
        member = state.members.get(self._node)
        words.entered = member.entered if member else 0
        words.members = _bits(state.nodes, state.members)
        until = self.membership.lease_until
        words.lease_wall_until, words.lease_until = int(until.real_s * _NS), int(until.boot_s * _NS)


def _bits(nodes: Sequence[str], named: Collection[str]) -> int:
    """Return a word with a bit for each of `nodes`: whether it is `named`."""
    return sum(1 << index for index, node in enumerate(nodes) if node in named)
