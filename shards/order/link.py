"""What a shard and its `carrier` say to each other over Unix stream sockets. Pure; this is the specification.

Each frame is its length, u32 little endian, and a MessagePack array that starts with its tag. There are two
connections: one for the order, which begins with Open, and one for tidings, which begins with Listen. So tidings wait
for no messages.

To the child::

    1 Open       after, name or nil, created_ns     follow
    2 Propose    number, payload                    send a message into the order
    5 Trim       below
    6 Hint       last                               the order has this message, as a peer has told

    7 Listen                                        carry tidings
    3 Tell       payload                            to all other machines
    4 Ask        node, payload                      to one

From it::

    1 Opened     name, created_ns, first, last      the answer to Open
    2 Failed     kind, detail, first                instead of it, or later: following has ended
    3 Took       sequence, time_ms, payload         the next message, without a gap
    4 NotTaken   number                             of a Propose: it was not taken, nor will be
    6 Reached    first, last                        of the order

    5 Told       node, payload
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec

from shards.order.order import NotDurable, OrderError, OrderLost, OrderTrimmed, OrderUnreachable

SOCKET_NAME: Final = "order.sock"
"""The file of the socket, in the run directory."""
NO_ANSWER: Final = 2
"""Exit status of the other end where it was to make the stream, and the servers did not answer; 1: it was refused."""
MOST_FRAME_BYTES: Final = 16 << 20
_LENGTH = struct.Struct("<I")


class _Frame(msgspec.Struct, array_like=True):
    """Base of all frames: an array that starts with a tag."""


AT_THE_END: Final = -1
"""In the place of `after`: follow from the end of the order on, whatever it has."""


class Open(_Frame, tag=1):
    after: int
    name: str | None
    created_ns: int


class Propose(_Frame, tag=2):
    number: int
    payload: bytes


class Tell(_Frame, tag=3):
    payload: bytes


class Ask(_Frame, tag=4):
    node: str
    payload: bytes


class Trim(_Frame, tag=5):
    below: int


class Hint(_Frame, tag=6):
    last: int


class Listen(_Frame, tag=7):
    pass


ToChild = Open | Propose | Tell | Ask | Trim | Hint | Listen

FailureKind = Literal["trimmed", "lost", "not_durable", "unreachable", "other"]


class Opened(_Frame, tag=1):
    name: str
    created_ns: int
    first: int
    last: int


class Failed(_Frame, tag=2):
    kind: FailureKind
    detail: str
    first: int = 0

    @classmethod
    def of(cls, error: OrderError) -> Failed:
        """Build the frame that carries `error`."""
        kinds: dict[type[OrderError], FailureKind] = {
            OrderTrimmed: "trimmed",
            OrderLost: "lost",
            NotDurable: "not_durable",
            OrderUnreachable: "unreachable",
        }
        first = error.first if isinstance(error, OrderTrimmed) else 0
        return cls(kinds.get(type(error), "other"), str(error), first)

    def error(self, after: int) -> OrderError:
        """Rebuild the error that this frame carries; `after`: what this machine has of the order."""
        if self.kind == "trimmed":
            return OrderTrimmed(after, self.first)
        classes = {"lost": OrderLost, "not_durable": NotDurable, "unreachable": OrderUnreachable}
        return classes.get(self.kind, OrderError)(self.detail)


class Took(_Frame, tag=3):
    sequence: int
    time_ms: int
    payload: bytes


class NotTaken(_Frame, tag=4):
    number: int


class Told(_Frame, tag=5):
    node: str
    payload: bytes


class Reached(_Frame, tag=6):
    first: int
    last: int


FromChild = Opened | Failed | Took | NotTaken | Told | Reached

_encode = msgspec.msgpack.encode
_to_child = msgspec.msgpack.Decoder(ToChild)
_from_child = msgspec.msgpack.Decoder(FromChild)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


class LinkError(Exception):
    """What came over the socket is not what this module defines: the two ends are of different versions."""


def encode_frame(frame: ToChild | FromChild) -> bytes:
    """Make the bytes of a frame, its length included."""
    body = _encode(frame)
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies of the frames that `data` completes. Raises `LinkError`."""
        self._bytes += data
        frames = []
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            if length > MOST_FRAME_BYTES:
                raise LinkError(f"a frame of {length} bytes; at most {MOST_FRAME_BYTES} are understood")
            end = start + _LENGTH.size + length
            if len(self._bytes) < end:
                break
            frames.append(bytes(self._bytes[start + _LENGTH.size : end]))
            start = end
        del self._bytes[:start]
        return frames


def decode_to_child(body: bytes) -> ToChild:
    """Read a frame to the child. Raises `LinkError`."""
    try:
        return _to_child.decode(body)
    except _UNREADABLE as error:
        raise LinkError(f"a frame that cannot be read: {error}") from None


def decode_from_child(body: bytes) -> FromChild:
    """Read a frame from the child. Raises `LinkError`."""
    try:
        return _from_child.decode(body)
    except _UNREADABLE as error:
        raise LinkError(f"a frame that cannot be read: {error}") from None
