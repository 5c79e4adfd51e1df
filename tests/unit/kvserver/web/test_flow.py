"""How fast a client reads."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvserver.web.flow import ClientFlow


class Transport:
    """A transport with some bytes in its buffer."""

    def __init__(self) -> None:
        self.buffered = 0
        self.closing = False
        self.aborted = 0
        self.socket, self.far_end = socket.socketpair()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_extra_info(self, name: str) -> Any:
        assert name == "socket"
        return self.socket

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted += 1


MakeFlow = Callable[[], tuple[ClientFlow, Transport]]


@pytest.fixture
def make_flow() -> Iterator[MakeFlow]:
    with contextlib.ExitStack() as sockets:

        def make() -> tuple[ClientFlow, Transport]:
            transport: Any = Transport()
            sockets.enter_context(transport.socket)
            sockets.enter_context(transport.far_end)
            return ClientFlow(transport), transport

        yield make


def is_reset(transport: Transport) -> bool:
    """Whether closing the socket will reset the connection."""
    linger = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return struct.unpack("ii", linger) == (1, 0)


def test_a_client_that_reads_something_or_everything_makes_progress(make_flow: MakeFlow) -> None:
    flow, transport = make_flow()
    assert flow.makes_progress(), "nothing is unsent"
    transport.buffered = 100
    assert flow.makes_progress() and not flow.makes_progress()
    transport.buffered = 99
    assert flow.makes_progress() and not flow.makes_progress()
    transport.buffered = 0
    assert flow.makes_progress() and flow.makes_progress()


def test_an_answer_that_is_not_whole_is_reset(make_flow: MakeFlow) -> None:
    for is_answering, buffered, expected in ((True, 0, True), (False, 1, True), (False, 0, False)):
        flow, transport = make_flow()
        transport.buffered = buffered
        flow.cut_off(is_answering)
        assert is_reset(transport) == expected and transport.aborted == 1


def test_a_descriptor_that_may_be_another_s_is_left_alone(make_flow: MakeFlow) -> None:
    flow, transport = make_flow()
    transport.closing = True
    flow.reset()
    assert not is_reset(transport) and transport.aborted == 1
    transport.buffered = 7
    flow.reset()
    assert not is_reset(transport), "after a reset nothing is known of it"
    assert flow.makes_progress() and flow.unsent == 7
