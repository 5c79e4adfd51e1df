"""The sending end of a handover: a worker gives an accepted connection to a gateway.

A gateway listens on `gateway-<row>.handover` (SOCK_SEQPACKET) in the run directory. The worker connects and sends one
message: a MessagePack array of version (1), the client's address, the request's head from its first line to the blank
line, and the bytes that arrived after it; the connection's descriptor travels with it (SCM_RIGHTS, unix(7)). The
gateway answers one byte, 1, and owns the connection from then on.

The worker afterwards closes its own descriptor, and does not shut the connection down: that would end it for both.

If a gateway dies, stops or hangs without an answer, the connection is still the worker's: it goes to the next gateway,
or waits for one. EventSource never reconnects after a refusal, so no request is refused while a gateway may come. A
gateway that dies after its answer leaves a connection that ends without a byte: a network error, after which
EventSource does reconnect. (If it answered only after it has written a head, a death in between would cause two heads.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from shards.host.board import Board, ProcessRow
from shards.wire.errors import BadRequest, NoFeed

VERSION: Final = 1
MOST_BYTES: Final = 128 << 10
"""Bytes of the longest message."""
ACCEPTED: Final = b"\x01"
ACCEPT_S: Final = 1.0
"""Seconds a gateway may take to accept; after that another is tried, or the same again."""
COME_S: Final = 10.0
"""Seconds to wait for a gateway that accepts, as for a shard."""
_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5
"""Between two looks for a gateway: when one is gone, all of its clients may come at once."""
LATE_NS: Final = 2_500_000_000
"""A gateway whose heartbeat is older hangs: others are tried first."""


class NoGateway(NoFeed):
    """No gateway takes feed connections, or not soon enough. A later attempt may succeed."""


_under_way: Final[Counter[int]] = Counter()
"""By row: connections that this worker is about to give to a gateway, which has not counted them yet."""


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
    is_stopping: Callable[[], bool],
) -> None:
    """Give the connection to the gateway with the fewest clients. Afterwards, do not read or write it here.

    Waits for a gateway, up to `COME_S` seconds, unless this worker stops. `rest`: bytes that arrived after `head`.

    Raises `NoGateway` if none takes it, `NoFeed` if none ever could, `BadRequest` if the client sent too much before an
    answer.
    """
    message = msgspec.msgpack.encode([VERSION, _format_address(client), head, bytes(rest)])
    if len(message) > MOST_BYTES:
        raise BadRequest("frames were sent before the handshake was answered")
    if transport.get_extra_info("sslcontext") is not None:
        raise NoFeed("a TLS connection cannot be given to the gateway: use the gateway's own port (--feed-port)")
    descriptor = transport.get_extra_info("socket").fileno()
    give_up_at, pause_s = loop.time() + COME_S, _PAUSE_S
    while True:
        for index in _list_gateways(board):
            with _count_under_way(index):
                if await _offer_connection(
                    loop, board.path.with_name(f"gateway-{index}.handover"), message, descriptor
                ):
                    return
        if loop.time() >= give_up_at or transport.is_closing() or is_stopping():
            raise NoGateway("no gateway took the connection in time")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _offer_connection(loop: asyncio.AbstractEventLoop, path: Path, message: bytes, descriptor: int) -> bool:
    """Offer the connection to the gateway that listens at `path`; False: it does not have it, and never will."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.connect(str(path))
            socket.send_fds(channel, [message], [descriptor])
        except OSError:
            return False  # gone, or its queue is full: nothing was sent
        return await _receive_answer(loop, channel) == ACCEPTED


@contextlib.contextmanager
def _count_under_way(index: int) -> Iterator[None]:
    _under_way[index] += 1
    try:
        yield
    finally:
        _under_way[index] -= 1


def _list_gateways(board: Board) -> list[int]:
    """Return the rows of living gateways: responsive ones before hanging ones, the least busy first."""
    late_ns = time.monotonic_ns() - LATE_NS
    rows = [
        (row.heartbeat_ns < late_ns, row.clients + _under_way[index], index)
        for index, row in board.gateways.living_rows()
        if row.state == ProcessRow.UP
    ]
    return [index for _, _, index in sorted(rows)]


async def _receive_answer(loop: asyncio.AbstractEventLoop, channel: Any) -> bytes:
    """Return the gateway's answer; empty if it dies or hangs: then it cannot answer later, and drops the connection."""
    with contextlib.suppress(OSError):
        try:
            return await asyncio.wait_for(loop.sock_recv(channel, 1), ACCEPT_S)
        except TimeoutError:
            channel.shutdown(socket.SHUT_RD)  # what it has answered by now can still be read
            return bytes(channel.recv(1))
    return b""


def _format_address(client: tuple[str, int] | None) -> str:
    if client is None:
        return ""
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
