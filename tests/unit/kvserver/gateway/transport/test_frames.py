"""Frames of a connection, without a connection."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from kvserver.gateway.transport.frames import Framing, Handled, Pong, Received

LIMIT = 1000


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame as a client sends it."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)


def receive(data: bytes, step: int) -> tuple[list[Received], bytes, Framing]:
    """What comes out when `data` arrives `step` bytes at a time."""
    framing = Framing(LIMIT)
    received, output = [], b""
    for at in range(0, len(data), step):
        framing.feed(data[at : at + step])
        while (message := framing.next()) is not None:
            if not isinstance(message, Handled):
                received.append(message)
        output += framing.output()
    return received, output, framing


def close_code(output: bytes) -> int:
    """Code of the close frame that `output` is."""
    assert output[0] == 0x88 and output[1] == len(output) - 2
    return Close.parse(output[2:]).code


text_parts = st.lists(st.text(max_size=20), min_size=1, max_size=4)
messages = st.one_of(
    st.tuples(st.just(Opcode.TEXT), text_parts.map(lambda parts: [part.encode() for part in parts])),
    st.tuples(st.just(Opcode.BINARY), st.lists(st.binary(max_size=200), min_size=1, max_size=4)),
    st.tuples(st.just(Opcode.PONG), st.lists(st.binary(max_size=125), min_size=1, max_size=1)),
)


@given(st.lists(messages, max_size=6), st.integers(1, 40), st.booleans())
def test_messages_arrive_whole_however_they_are_cut(
    sent: list[tuple[Opcode, list[bytes]]], step: int, pings: bool
) -> None:
    """Fragments, pings between them, and network pieces of any size change nothing."""
    data, expected, pongs = b"", [], b""
    for opcode, parts in sent:
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            data += masked(opcode if number == 0 else Opcode.CONT, part, fin=is_last)
            if pings:
                data += masked(Opcode.PING, b"%d" % number)
                pongs += Frame(Opcode.PONG, b"%d" % number).serialize(mask=False)
        whole = b"".join(parts)
        expected.append(
            {Opcode.TEXT: whole.decode, Opcode.BINARY: lambda w=whole: w}.get(opcode, lambda w=whole: Pong(w))()
        )
    received, output, framing = receive(data, step)
    assert received == expected
    assert output == pongs
    assert not framing.over


FAULTS = {
    "unmasked": (b"\x81\x05hello", 1002),
    "reserved bit": (b"\xc1\x80", 1002),
    "reserved opcode": (b"\x83\x80", 1002),
    "long control frame": (b"\x89\xfe", 1002),
    "fragmented control frame": (b"\x09\x80", 1002),
    "length not minimal": (b"\x81\xfe\x00\x05\0\0\0\0", 1002),
    "long length not minimal": (b"\x81\xff" + struct.pack("!Q", 65535) + b"\0\0\0\0", 1002),
    "negative length": (b"\x81\xff" + struct.pack("!Q", 1 << 63) + b"\0\0\0\0", 1002),
    "continuation of nothing": (masked(Opcode.CONT, b"x"), 1002),
    "new message within a message": (masked(Opcode.TEXT, b"x", fin=False) + masked(Opcode.TEXT, b"y"), 1002),
    "too long": (b"\x82\xfe" + struct.pack("!H", LIMIT + 1) + b"\0\0\0\0", 1009),
    "8 GiB": (b"\x82\xff" + struct.pack("!Q", 8 << 30) + b"\0\0\0\0", 1009),
    "too long in fragments": (masked(Opcode.BINARY, b"x" * 600, fin=False) + masked(Opcode.CONT, b"x" * 401), 1009),
    "bad UTF-8": (masked(Opcode.TEXT, b"\xff"), 1007),
    "character cut off": (masked(Opcode.TEXT, b"\xe2\x82"), 1007),
    "bad UTF-8 in a close": (masked(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
    "close of one byte": (masked(Opcode.CLOSE, b"\x03"), 1002),
    "close code 1005": (masked(Opcode.CLOSE, b"\x03\xed"), 1002),
    "close code 5000": (masked(Opcode.CLOSE, b"\x13\x88"), 1002),
}


@pytest.mark.parametrize(("data", "code"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_faults_close_with_their_code(data: bytes, code: int, step: int) -> None:
    """At once, and what was said before is received."""
    received, output, framing = receive(masked(Opcode.TEXT, b"before") + data, step)
    assert received == ["before"]
    assert close_code(output) == code == framing.close_code
    assert framing.over
    framing.feed(masked(Opcode.TEXT, b"after"))
    assert framing.next() is None and framing.output() == b""


@pytest.mark.parametrize("bad", [b"\xf4\x90", b"\xed\xa0", b"\xc0", b"\xf5", b"\xe0\x80"])
@pytest.mark.parametrize("in_one_frame", [True, False])
def test_bad_utf8_is_refused_by_its_first_bad_byte(bad: bytes, in_one_frame: bool) -> None:
    """Though neither the character nor the frame is complete."""
    framing = Framing(LIMIT)
    if in_one_frame:
        framing.feed(masked(Opcode.TEXT, b"fine" + bad + b"a rest that never comes")[: 6 + 4 + len(bad)])
    else:
        framing.feed(masked(Opcode.TEXT, b"fine" + bad[:-1], fin=False) + masked(Opcode.CONT, bad[-1:], fin=False))
    assert framing.next() in (None, Handled())
    assert framing.next() is None
    assert close_code(framing.output()) == 1007


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa1lagged \xc3\xa9", b"\x03\xf4restart"])
@pytest.mark.parametrize("within_a_message", [True, False])
def test_a_close_is_answered_with_its_own_code_and_reason(payload: bytes, within_a_message: bool) -> None:
    """Also between the fragments of a message."""
    before = masked(Opcode.TEXT, b"begun", fin=False) if within_a_message else b""
    received, output, framing = receive(before + masked(Opcode.CLOSE, payload) + masked(Opcode.TEXT, b"late"), 1 << 20)
    assert received == [] and framing.over
    assert output == Frame(Opcode.CLOSE, payload).serialize(mask=False)


def test_control_frames_do_not_count_towards_a_message() -> None:
    """A message that is exactly as long as it may be, with a ping before its end."""
    parts = masked(Opcode.BINARY, b"x" * LIMIT, fin=False) + masked(Opcode.PING, b"p" * 125) + masked(Opcode.CONT, b"")
    received, _, framing = receive(parts, 1 << 20)
    assert received == [b"x" * LIMIT] and not framing.over


def test_after_our_close_the_clients_messages_are_still_read() -> None:
    """Until it answers the close."""
    framing = Framing(LIMIT)
    framing.close(1012, "stop")
    assert framing.closing and not framing.over
    assert framing.output() == b"\x88\x06\x03\xf4stop"
    framing.close(1000)
    framing.ping(b"")
    framing.feed(masked(Opcode.TEXT, b"crossed") + masked(Opcode.CLOSE, b"\x03\xf4"))
    assert framing.next() == "crossed"
    assert framing.next() is None
    assert framing.over and framing.output() == b""
