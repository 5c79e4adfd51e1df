"""The state that follows from the messages of an order, and from nothing else: equal on all machines. Pure.

A `Replica` is fed with every message in its place, and says of each whether it counts. A message counts only if its
session is its node's and its counter the next one; any other has no effect, on any machine. Hence:

- A node may send again what did not come back: what is taken twice counts once.
- A lost message leaves those behind it without effect, instead of letting them overtake it.
- A `Begin` counts only if it names the session that it replaces. It fences that session: nothing of it counts any more.
  And a `Begin` of a former process that is taken late cannot replace that of its successor.

`State` is what a machine keeps: in its log with every message that it has applied, in its backups. Where a node had
sent parts of a group, and not yet the last one, the state has their places, and not their bytes: so a machine that
starts again follows from `Replica.resume_after`, which may be before the end of the state.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Final, NamedTuple

import msgspec

from shards.order.messages import (
    MOST_PARTS,
    Batch,
    Begin,
    Content,
    Envelope,
    In,
    Init,
    Out,
    Part,
    decode_message,
)
from shards.order.order import Message, OrderError
from shards.wire.clock import counted_ms

HASH_BYTES: Final = 8
_PLACE = struct.Struct("<QQI")


class Session(msgspec.Struct, array_like=True):
    """What counts of a node.

    Attributes:
        session: the number of the process that has begun last.
        counter: of the last message of it that counted.
        parts: the sequences of the parts of a group whose last part is still to come.
    """

    session: int
    counter: int = 0
    parts: list[int] = []


class Member(msgspec.Struct, array_like=True):
    """A node that has to apply a message before it is shown.

    Attributes:
        entered: the sequence of its `In`.
        votes: the nodes that want it put out, in the order of their votes.
    """

    entered: int
    votes: list[str] = []


class State(msgspec.Struct, array_like=True):
    """What the messages up to `sequence` have made.

    Attributes:
        sequence: of the last message; 0: none yet.
        time_ms: the time of the order, Unix time in milliseconds. Never goes back.
        level: the highest level of a message that counted. Nothing may be proposed with a lower one.
        hash: of the history, `HASH_BYTES`: of all messages, and of what `Replica.mix` was given.
        init: what all machines agree on; None: the order has not begun.
        sessions, members: by node.
    """

    sequence: int = 0
    time_ms: int = 0
    level: int = 1
    hash: bytes = bytes(HASH_BYTES)
    init: Init | None = None
    sessions: dict[str, Session] = {}
    members: dict[str, Member] = {}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines of the cluster, in alphabetical order; empty before the order has begun."""
        return self.init.nodes if self.init else ()

    @property
    def votes_to_put_out(self) -> int:
        """How many nodes must vote against a member: most of the cluster."""
        return len(self.nodes) // 2 + 1


_encode_state = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_state = msgspec.msgpack.Decoder(State).decode


class StateError(OrderError):
    """A state that was kept cannot be read."""


def encode_state(state: State) -> bytes:
    """Make the bytes of `state`: the same on all machines."""
    return _encode_state(state)


def decode_state(data: bytes) -> State:
    """Read what `encode_state` made. Raises `StateError`."""
    try:
        return _decode_state(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StateError(f"the state of the order cannot be read: {error}") from None


def begin_again(state: State, base: int, init: Init) -> State:
    """Return the state with which a new order begins behind `base`, where `state` was reached in one that is lost."""
    return State(base, state.time_ms, state.level, state.hash, init)


class Effect(NamedTuple):
    """What a message does.

    Attributes:
        sequence: its place.
        time_ms: the time of the order at it.
        level: by whose rules it is to be understood.
        node, session, counter: who proposed it; of a message that cannot be read: empty and 0.
        content: what it says; of the last part of a group the whole group, as a `Batch`; None: it does not count.
    """

    sequence: int
    time_ms: int
    level: int
    node: str
    session: int
    counter: int
    content: Content | None


class Replica:
    """Follows the messages of an order.

    Args:
        state: that is to be continued; None: a new one. It belongs to this object from now on.

    Attributes:
        state: what the messages so far have made. To be read, not to be changed.
    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self._pieces: dict[int, bytes] = {}
        waiting = [sequence for session in self.state.sessions.values() for sequence in session.parts]
        self._wanted = frozenset(waiting)
        self._next = min(waiting, default=self.state.sequence + 1)

    @property
    def resume_after(self) -> int:
        """The sequence behind which this must be fed: that of the last message, or before an unfinished group."""
        return self._next - 1

    @property
    def kept_parts(self) -> set[int]:
        """The sequences of the parts whose bytes are in memory: those of unfinished groups."""
        return set(self._pieces)

    def deliver(self, message: Message) -> Effect | None:
        """Follow the next message, and return what it does.

        None: the state has it already; it was needed for a part of an unfinished group.

        Raises:
            UnknownLevel: this version cannot follow; nothing has changed.
            ValueError: it is not the next message; nothing has changed.
        """
        if message.sequence != self._next:
            raise ValueError(f"message {message.sequence} is not the next one, {self._next}")
        level, envelope = decode_message(message.payload)
        self._next += 1
        if message.sequence <= self.state.sequence:
            self._collect_again(message.sequence, envelope)
            return None
        state = self.state
        state.sequence = message.sequence
        state.time_ms = max(state.time_ms, counted_ms(message.time_ms))
        self.mix(_PLACE.pack(message.sequence, state.time_ms, zlib.crc32(message.payload)))
        if envelope is None:
            return Effect(message.sequence, state.time_ms, level, "", 0, 0, None)
        content = self._follow(envelope)
        if content is not None:
            state.level = max(state.level, level)
        node, session, counter = envelope.node, envelope.session, envelope.counter
        return Effect(message.sequence, state.time_ms, level, node, session, counter, content)

    def mix(self, data: bytes) -> None:
        """Add to the hash of the history what this machine has made of the last message, so that a machine that makes
        something else of it is found out."""
        self.state.hash = hashlib.blake2b(self.state.hash + data, digest_size=HASH_BYTES).digest()

    # What counts.

    def _follow(self, envelope: Envelope) -> Content | None:
        """Do what a message says, and return that; None: it does not count."""
        content = envelope.content
        if isinstance(content, Init):
            return self._agree(content)
        if envelope.node not in self.state.nodes:
            return None
        if isinstance(content, Begin):
            return content if self._begin(envelope, content) else None
        session = self.state.sessions.get(envelope.node)
        if session is None or (envelope.session, envelope.counter) != (session.session, session.counter + 1):
            return None
        session.counter += 1
        if isinstance(content, Part):
            return self._collect(session, content)
        self._forget_parts(session)
        if isinstance(content, In):
            self.state.members[envelope.node] = Member(self.state.sequence)
        elif isinstance(content, Out):
            self._vote(envelope.node, content)
        return content

    def _agree(self, init: Init) -> Init | None:
        if self.state.init is not None:
            return None
        self.state.init = init
        return init

    def _begin(self, envelope: Envelope, begin: Begin) -> bool:
        """Replace the session of a node; whether it was the one that the message names."""
        last = self.state.sessions.get(envelope.node)
        current = last.session if last else 0
        if begin.replaces != current or envelope.session in (0, current) or envelope.counter != 0:
            return False
        if last:
            self._forget_parts(last)
        self.state.sessions[envelope.node] = Session(envelope.session)
        return True

    def _vote(self, voter: str, vote: Out) -> None:
        """Count a vote against a member, and put it out if most want it, or itself."""
        member = self.state.members.get(vote.node)
        if member is None or member.entered != vote.entered:
            return
        if voter not in member.votes:
            member.votes.append(voter)
        if voter == vote.node or len(member.votes) >= self.state.votes_to_put_out:
            del self.state.members[vote.node]

    # Groups in parts.

    def _collect(self, session: Session, part: Part) -> Content:
        """Keep a part; return it, or with the last one the whole group."""
        if len(session.parts) >= MOST_PARTS:  # no proposer sends so many
            self._forget_parts(session)
        if not part.last:
            session.parts.append(self.state.sequence)
            self._pieces[self.state.sequence] = part.piece
            return part
        group = b"".join([*(self._pieces[sequence] for sequence in session.parts), part.piece])
        self._forget_parts(session)
        return Batch(group)

    def _collect_again(self, sequence: int, envelope: Envelope | None) -> None:
        """Keep a part that the state has the place of."""
        if sequence in self._wanted and envelope is not None and isinstance(envelope.content, Part):
            self._pieces[sequence] = envelope.content.piece

    def _forget_parts(self, session: Session) -> None:
        for sequence in session.parts:
            self._pieces.pop(sequence, None)
        session.parts = []
