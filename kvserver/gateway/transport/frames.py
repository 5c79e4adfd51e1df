"""Frames of one connection: bytes from the client to messages, and the bytes to answer with. Pure.

`websockets.protocol.Protocol` parses and builds the frames: unmasking in C, close codes, limits. Four things it does
not do, or does otherwise than RFC 6455 lets a server do best, so the headers are walked here and it is given one
frame at a time:

- it shows a frame only when it is complete: reserved bits, lengths and bad UTF-8 are refused here as the bytes arrive;
- it sends nothing more once it failed: a message is handed out before the next frame is looked at, so what was
  received before a fault is answered before the fault is;
- it takes a close between the fragments of a message for an error: here it is answered with its own code;
- it counts control frames between fragments towards the message.
"""

from __future__ import annotations

import codecs
import struct
from io import StringIO
from typing import Any, Final, Literal, NamedTuple

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import apply_mask

Ending = Literal["stop", "reload", "revoked"]
"""Why the server ends a connection, as its clients learn."""

_MASKED: Final = 0x80
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_LONGEST_CONTROL: Final = 125

_OPCODES: Final = frozenset(Opcode)

_new_decoder = codecs.getincrementaldecoder("utf-8")


class _NoLog:
    """A logger for `Protocol` that drops everything: what clients do wrong is not logged."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def info(self, *_: object, **__: object) -> None: ...

    error = info


_NO_LOG: Final[Any] = _NoLog()


class Pong(NamedTuple):
    """A pong: the answer to a ping, or a sign of life."""

    payload: bytes


class Handled(NamedTuple):
    """A frame that completes no message: a ping, or a fragment. Returned so that the caller can let others run."""


Received = str | bytes | Pong | Handled
"""What one frame of a client brings: a text, a binary message, a pong, or none of these."""


class Piece(NamedTuple):
    """Bytes of frames to write.

    Attributes:
        ends: whether the last frame in it is whole; if not, the next piece must be its rest, and nothing may come
            between.
    """

    data: bytes | memoryview
    ends: bool = True


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """Make one whole frame of the server."""
    return Frame(opcode, payload).serialize(mask=False)


class _Header(NamedTuple):
    opcode: int
    fin: bool
    length: int
    size: int  # of the header itself


class _Fault(Exception):
    """A header that RFC 6455 forbids."""


def _parse_header(buffer: bytearray) -> _Header | None:
    """Parse the frame header at the start of `buffer`; None if more bytes are needed. Raises `_Fault`."""
    if len(buffer) < 2:
        return None
    first, second = buffer[0], buffer[1]
    opcode, length = first & 0x0F, second & 0x7F
    if first & _RESERVED:
        raise _Fault("reserved bits must be 0")
    if opcode not in _OPCODES:
        raise _Fault("invalid opcode")
    if not second & _MASKED:
        raise _Fault("frames of a client must be masked")
    if opcode >= Opcode.CLOSE and (length > _LONGEST_CONTROL or not first & _FIN):
        raise _Fault("control frames must not be long or fragmented")
    size = 2 + {126: 2, 127: 8}.get(length, 0) + 4
    if len(buffer) < size:
        return None
    if length == 126:
        (length,) = struct.unpack_from("!H", buffer, 2)
        if length <= _LONGEST_CONTROL:
            raise _Fault("the length must be encoded in as few bytes as possible")
    elif length == 127:
        (length,) = struct.unpack_from("!Q", buffer, 2)
        if not 0xFFFF < length < 1 << 63:
            raise _Fault("the length must be encoded in as few bytes as possible")
    return _Header(opcode, bool(first & _FIN), length, size)


class _Text:
    """A text message, decoded as its bytes arrive."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("strict")
        self._text = StringIO()

    def add(self, masked: bytes, mask: bytes, offset: int) -> None:
        """Decode the next bytes, whose first is byte `offset` of its frame. Raises `UnicodeDecodeError`."""
        turn = offset & 3
        self._text.write(self._decoder.decode(apply_mask(masked, mask[turn:] + mask[:turn])))
        waiting = self._decoder.getstate()[0]
        if waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0":  # a surrogate: the decoder waits for its third byte
            raise UnicodeDecodeError("utf-8", waiting, 0, 2, "invalid continuation byte")

    def end(self) -> str:
        """Return the whole text. Raises `UnicodeDecodeError` if it ends within a character."""
        self._decoder.decode(b"", final=True)
        return self._text.getvalue()


class Framing:
    """The frames of one connection: `feed` takes bytes, `next` returns messages, `output` what to send."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._protocol = Protocol(Side.SERVER, max_size=max_message, logger=_NO_LOG)
        self._buffer = bytearray()
        self._header: _Header | None = None
        self._mask = b""
        self._arrived = 0  # payload bytes of the frame that is being received
        self._text: _Text | None = None
        self._binary: bytearray | None = None

    @property
    def closing(self) -> bool:
        """Whether a close frame was sent: only control frames may follow."""
        return self._protocol.state is not State.OPEN

    @property
    def over(self) -> bool:
        """Whether further input is ignored: the client closed, or broke the protocol."""
        return self._protocol.eof_sent

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that was sent, None if none was."""
        return self._protocol.close_sent.code if self._protocol.close_sent else None

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        if not self.over:
            self._buffer += data

    def next(self) -> Received | None:
        """Return what the next frame brings; None if more bytes are needed, or no more will come (`over`).

        Pings and closes are answered in `output`. A fault closes with the code that RFC 6455 (7.4.1) has for it.
        """
        received = None
        if not self.over and (self._header is not None or self._begin_frame()):
            assert self._header is not None
            if not self.over and self._take_payload() and self._arrived == self._header.length:
                header, self._header = self._header, None
                received = self._end_frame(header)
        if self.over:
            self._buffer.clear()
            self._text = self._binary = None
        return received

    def _begin_frame(self) -> bool:
        """Take the header of the next frame; False if it has not arrived, or is a fault."""
        try:
            header = _parse_header(self._buffer)
            if header is None:
                return False
            self._check_order(header.opcode)
        except _Fault as fault:
            self.fail(1002, str(fault))
            return False
        is_control = header.opcode >= Opcode.CLOSE
        self._protocol.max_message_size = None if is_control else self._max_message
        if header.opcode == Opcode.CLOSE:
            self._protocol.current_size = None  # else a close within a message counts as a fault
        elif header.opcode == Opcode.TEXT:
            self._text = _Text()
        elif header.opcode == Opcode.BINARY:
            self._binary = bytearray()
        self._mask = bytes(self._buffer[header.size - 4 : header.size])
        self._header, self._arrived = header, 0
        self._protocol.receive_data(bytes(self._buffer[: header.size]))
        del self._buffer[: header.size]
        return True

    def _check_order(self, opcode: int) -> None:
        within_message = self._text is not None or self._binary is not None
        if opcode == Opcode.CONT and not within_message:
            raise _Fault("unexpected continuation frame")
        if opcode in (Opcode.TEXT, Opcode.BINARY) and within_message:
            raise _Fault("expected a continuation frame")

    def _take_payload(self) -> bool:
        """Take what has arrived of the frame's payload; False if it is bad UTF-8."""
        assert self._header is not None
        part = bytes(self._buffer[: self._header.length - self._arrived])
        if not part:
            return True
        del self._buffer[: len(part)]
        if self._text is not None and self._header.opcode < Opcode.CLOSE:
            try:
                self._text.add(part, self._mask, self._arrived)
            except UnicodeDecodeError as error:
                self.fail(1007, error.reason)
                return False
        self._protocol.receive_data(part)
        self._arrived += len(part)
        return True

    def _end_frame(self, header: _Header) -> Received | None:
        """Return the message that this frame completes, or the pong it is."""
        for whole in self._protocol.events_received():
            assert isinstance(whole, Frame)
            if whole.opcode is Opcode.PONG:
                return Pong(bytes(whole.data))
            if whole.opcode is Opcode.CLOSE:
                return None
            if whole.opcode is Opcode.PING:
                return Handled()
            if self._binary is not None:
                self._binary += whole.data
            return self._end_message() if header.fin else Handled()
        return None

    def _end_message(self) -> str | bytes | None:
        text, binary, self._text, self._binary = self._text, self._binary, None, None
        if text is None:
            return bytes(binary or b"")
        try:
            return text.end()
        except UnicodeDecodeError as error:
            self.fail(1007, error.reason)
            return None

    def ping(self, payload: bytes) -> None:
        """Ask the client for a sign of life."""
        if not self.closing:
            self._protocol.send_ping(payload)

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, unless it has begun. `reason`: 123 bytes of UTF-8 at most."""
        if not self.closing:
            self._protocol.send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Close because of a fault: further input is ignored."""
        if not self.over:
            self._protocol.fail(code, reason)

    def release(self) -> None:
        """Release the parser. It and its protocol refer to each other: only the garbage collector would find them."""
        self._buffer.clear()
        self._text = self._binary = None
        self._protocol.parser.close()

    def output(self) -> bytes:
        """Return the bytes that must be sent now: pings, pongs, closes."""
        return b"".join(self._protocol.data_to_send())
