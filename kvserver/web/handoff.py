"""The sending end of a hand-over: a worker gives an accepted connection to a gateway.

A gateway listens on `gateway-<row>.handover` (SOCK_SEQPACKET) in the run directory. The worker connects and sends one
message: a MessagePack array of version (1), the client's address, the request's head from its first line to the blank
line, and the bytes that came behind it; the connection's descriptor travels beside it (SCM_RIGHTS, unix(7)). The
gateway answers one byte, 1, and owns the connection from then on.

The worker afterwards closes its own descriptor, and does not shut the connection down: that would end it for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shards.board import Board, Common
from shards.errors import BadRequest, Unavailable

VERSION: Final = 1
MOST_BYTES: Final = 128 << 10
"""Length of a message."""
ACCEPTED: Final = b"\x01"
ACCEPT_S: Final = 1.0
"""How long a gateway may take to accept."""
COME_S: Final = 1.5
"""How long is waited for a gateway to come, if there is none: one that died or was reloaded is back by then, and
EventSource never tries again after a 503."""
LATE_NS: Final = 2_500_000_000
"""A gateway whose heartbeat is older stands still: others are asked first."""

_under_way: Final[Counter[int]] = Counter()
"""By row: what this worker is about to give to a gateway, which has not counted it yet."""


async def until_written(transport: asyncio.Transport) -> None:
    """Wait until the kernel has everything that was written, or the connection is gone."""
    while not transport.is_closing() and transport.get_write_buffer_size():
        await asyncio.sleep(0.005)


async def hand_over(
    loop: asyncio.AbstractEventLoop,
    board: Board,
    transport: asyncio.Transport,
    client: tuple[str, int] | None,
    head: bytes,
    rest: bytes | bytearray,
) -> None:
    """Give the connection to the gateway with the fewest clients; nothing may be read or written here afterwards.

    Raises `Unavailable` if none takes it, nor comes soon, `BadRequest` if the client sent too much before it was
    answered.
    """
    message = msgspec.msgpack.encode([VERSION, _address(client), head, bytes(rest)])
    if len(message) > MOST_BYTES:
        raise BadRequest("frames were sent before the handshake was answered")
    if transport.get_extra_info("sslcontext") is not None:
        raise Unavailable("a TLS connection cannot be given to the gateway: use the gateway's own port")
    descriptor = transport.get_extra_info("socket").fileno()
    give_up_at = loop.time() + COME_S
    was_sent = False
    while True:
        for index in _gateways(board):
            with (
                _counted(index),
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as channel,
            ):
                try:
                    channel.connect(str(board.path.with_name(f"gateway-{index}.handover")))
                    socket.send_fds(channel, [message], [descriptor])
                except OSError:
                    continue  # gone, or its queue is full: nothing was sent
                was_sent = True
                if await _answer(loop, channel) == ACCEPTED:
                    return
                # It stands still. When it goes on it finds the channel closed, and lets go of the connection.
        if was_sent or loop.time() >= give_up_at or transport.is_closing():
            break
        await asyncio.sleep(0.05)
    raise Unavailable("no gateway takes feed connections")


@contextlib.contextmanager
def _counted(index: int) -> Iterator[None]:
    _under_way[index] += 1
    try:
        yield
    finally:
        _under_way[index] -= 1


def _gateways(board: Board) -> list[int]:
    """Rows of living gateways: those whose loop turns before those that stand still, the least busy first."""
    late_ns = time.monotonic_ns() - LATE_NS
    rows = [
        (row.heartbeat_ns < late_ns, row.clients + _under_way[index], index)
        for index, row in board.gateways.alive()
        if row.state == Common.UP
    ]
    return [index for _, _, index in sorted(rows)]


async def _answer(loop: asyncio.AbstractEventLoop, channel: Any) -> bytes:
    with contextlib.suppress(OSError):
        try:
            return await asyncio.wait_for(loop.sock_recv(channel, 1), ACCEPT_S)
        except TimeoutError:
            return bytes(channel.recv(1))  # it may have come at the last moment
    return b""


def _address(client: tuple[str, int] | None) -> str:
    if client is None:
        return ""
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
