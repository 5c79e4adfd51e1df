"""The messages in the order, and what machines tell each other beside it, as bytes. Pure; this docstring is the spec.

**A message in the order**: one byte, its level, then a MessagePack array::

    node str | session u64 | counter u64 | content

- `level` says by which rules the message is to be understood. A machine that does not know them MUST stop: others may
  do something else by it than this one would. `LEVEL` is the highest that this version knows.
- `node` and `session` name the process that proposed it; `counter` is its place in that session.
- `content` is an array that starts with its tag.
- A message of a known level that cannot be read has no effect, on any machine.

**Contents**, by tag::

    1 Init    store, epoch, first_revision, nodes, limits   the first message: what all machines must agree on
    2 Begin   replaces u64                                  begins a session of the node; counter is 0
    3 Batch   operations bin                                what clients want: the body of a request to a shard
    4 Part    piece bin, last bool                          pieces of a `Batch` that is larger than a message
    5 In                                                    the node is a member from here on
    6 Out     node, entered u64                             the sender wants `node`, member since `entered`, put out
    7 Void                                                  nothing, in the place of what was withdrawn

**Tidings**, beside the order, from one node to all: a MessagePack array that starts with its tag::

    1 Ask      entered, applied, boot_s, real_s, wall_ms, spare, level, sequence, hash
    2 Grant    to, entered, boot_s, real_s                  to whom, and from its Ask
    3 Applied  sequence                                     what the sender has applied
    4 Want     transfer u64, name, offset u64               of a backup, which the sender needs
    5 Piece    transfer u64, name, offset u64, piece, problem   what was wanted, or why it cannot be had

Sequences are of the order. `transfer` is a random number of the machine that begins anew. What cannot
be read is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

LOWEST_LEVEL: Final = 1
"""The level of the first message of an order."""
LEVEL: Final = 1
"""The highest level of messages that this version understands, and the level of what it proposes at most."""
MESSAGE_BYTES: Final = 512 << 10
"""Most bytes of operations in one message; larger groups travel in parts of this size."""
MOST_PARTS: Final = 256
"""Most parts of one group."""
GROUP_BYTES: Final = MESSAGE_BYTES * MOST_PARTS
"""Most bytes of the operations of one group."""
NODE_PATTERN: Final = r"^[a-z0-9-]{1,32}\Z"
"""What the name of a node is: 1 to 32 of a-z, 0-9 and the hyphen."""
MOST_NODES: Final = 5
PIECE_BYTES: Final = 128 << 10
"""Of a file of a backup, in one `Piece`."""

Node = Annotated[str, Meta(pattern=NODE_PATTERN)]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Words = Annotated[str, Meta(max_length=200)]


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of everything here: an array that starts with a tag, closed against further fields."""


class Init(_Wire, tag=1):
    """What all machines of a cluster agree on.

    Attributes:
        store: the id of the store.
        epoch: the name of its history.
        first_revision: the revision of the first change that the order decides.
        nodes: the names of the machines, in alphabetical order, each once: 1 to `MOST_NODES`.
        limits: numbers that decisions depend on, by name, such as the largest value.
    """

    store: Words
    epoch: Words
    first_revision: Number
    nodes: Annotated[tuple[Node, ...], Meta(min_length=1, max_length=MOST_NODES)]
    limits: dict[str, int]

    def __post_init__(self) -> None:
        """Raise ValueError for nodes that are not in order; a decoder makes `msgspec.ValidationError` of it."""
        if list(self.nodes) != sorted(set(self.nodes)):
            raise ValueError("the nodes are in alphabetical order, each once")


class Begin(_Wire, tag=2):
    """Begins a session, if the node's session is `replaces` (0: it has none yet)."""

    replaces: Number


class Batch(_Wire, tag=3):
    """Operations of clients, as a MessagePack array (`shards.wire.protocol`)."""

    operations: bytes


class Part(_Wire, tag=4):
    """A piece of the operations of a `Batch`; the last one completes it."""

    piece: bytes
    last: bool


class In(_Wire, tag=5):
    """The node has caught up and is a member."""


class Out(_Wire, tag=6):
    """A vote against `node`, a member since its `In` of sequence `entered`."""

    node: Node
    entered: Number


class Void(_Wire, tag=7):
    """Nothing."""


Content = Init | Begin | Batch | Part | In | Out | Void


class Envelope(_Wire):
    """A message without its level."""

    node: Node
    session: Number
    counter: Number
    content: Content


class Ask(_Wire, tag=1):
    """A node asks the others to let it read for a while, and says how it is.

    Attributes:
        entered: the sequence of its `In`; 0: it is no member as far as it knows.
        applied: the sequence up to which it has applied the order.
        boot_s, real_s: when it asked, by its CLOCK_BOOTTIME and its CLOCK_REALTIME, in seconds.
        wall_ms: Unix time by its clock, in milliseconds.
        spare: whether it has room for what makes data grow.
        level: the highest level of messages that it understands.
        sequence, hash: a place in the order, and the hash of its history up to there; 0 and empty: none yet.
    """

    entered: Number
    applied: Number
    boot_s: float
    real_s: float
    wall_ms: int
    spare: bool
    level: int
    sequence: Number
    hash: bytes


class Grant(_Wire, tag=2):
    """`to` may read for a while from the time of its `Ask`, whose `entered`, `boot_s` and `real_s` these are."""

    to: Node
    entered: Number
    boot_s: float
    real_s: float


class Applied(_Wire, tag=3):
    """The sender has applied the order up to `sequence`."""

    sequence: Number


class Want(_Wire, tag=4):
    """The sender begins anew, and wants `PIECE_BYTES` of a file of the backup that the receiver takes for it.

    Attributes:
        transfer: names the backup: the first `Want` with it makes the receiver take one.
        name: of a file; empty: a `Contents` of it.
        offset: in the file.
    """

    transfer: Number
    name: Words
    offset: Number


class Piece(_Wire, tag=5):
    """Answers a `Want`, whose first three fields these are; `problem` is not empty if there is no piece, and says
    why."""

    transfer: Number
    name: Words
    offset: Number
    piece: bytes
    problem: str = ""


class Contents(msgspec.Struct, array_like=True):
    """The files of a backup, by name, with their sizes."""

    files: dict[str, int]


Tidings = Ask | Grant | Applied | Want | Piece


class Received(NamedTuple):
    """A message as it was read."""

    level: int
    envelope: Envelope | None
    """None: it cannot be read."""


class UnknownLevel(Exception):
    """The order has a message of a level that this version does not know.

    Attributes:
        level: of the message.
    """

    def __init__(self, level: int) -> None:
        super().__init__(
            f"the order has a message of level {level}, but this version understands only those up to {LEVEL}: "
            "install the version of the other machines"
        )
        self.level = level


_encode = msgspec.msgpack.encode
_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
_decode_tidings = msgspec.msgpack.Decoder(Tidings).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


def encode_message(level: int, node: str, session: int, counter: int, content: Content) -> bytes:
    """Make the payload of a message; `level`: 1 to 255."""
    return bytes((level,)) + _encode(Envelope(node, session, counter, content))


def encode_init(init: Init) -> bytes:
    """Make the payload of the first message of an order."""
    return encode_message(LOWEST_LEVEL, init.nodes[0], 0, 0, init)


def decode_message(payload: bytes) -> Received:
    """Read a message. Raises `UnknownLevel`."""
    level = payload[0] if payload else 0
    if level > LEVEL:
        raise UnknownLevel(level)
    if level == 0:
        return Received(level, None)
    try:
        return Received(level, _decode_envelope(memoryview(payload)[1:]))
    except _UNREADABLE:
        return Received(level, None)


def encode_tidings(tidings: Tidings) -> bytes:
    """Make the payload of what a machine tells the others."""
    return _encode(tidings)


def decode_tidings(payload: bytes) -> Tidings | None:
    """Read what another machine has told; None: it cannot be read."""
    try:
        return _decode_tidings(payload)
    except _UNREADABLE:
        return None


def contents_of(operations: bytes) -> Sequence[Content]:
    """Split encoded operations into the contents of one message, or of several parts.

    Raises ValueError if they take more than `GROUP_BYTES`.
    """
    if len(operations) > GROUP_BYTES:
        raise ValueError(f"a group of {len(operations)} bytes is larger than {GROUP_BYTES}")
    if len(operations) <= MESSAGE_BYTES:
        return [Batch(operations)]
    starts = range(0, len(operations), MESSAGE_BYTES)
    return [
        Part(operations[start : start + MESSAGE_BYTES], last=start + MESSAGE_BYTES >= len(operations))
        for start in starts
    ]


def init_of(store: str, epoch: str, first_revision: int, nodes: Sequence[str], limits: Mapping[str, int]) -> Init:
    """Make the content of the first message, with `nodes` in their order.

    Raises ValueError if a name is no name, or there are too few or too many.
    """
    init = Init(store, epoch, first_revision, tuple(sorted(nodes)), dict(limits))
    try:
        return msgspec.convert(msgspec.to_builtins(init), Init)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
