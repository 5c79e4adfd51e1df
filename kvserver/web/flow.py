"""How fast a client reads: back-pressure, stalled clients, and the reset of a connection."""

from __future__ import annotations

import asyncio
import socket
import struct

from uvicorn.protocols.http.flow_control import FlowControl

from kvserver.http import send_queue


class ClientFlow(FlowControl):
    """uvicorn's flow control, which also looks at what the client has read.

    Attributes:
        read_paused, write_paused: of the transport.
        unsent: bytes that the client had not read when last checked.
        dropped: bytes that were read and dropped since the last check.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.unsent = self.dropped = 0
        self._is_reset = False  # the descriptor is closed, or about to be

    def makes_progress(self) -> bool:
        """Whether the client has read everything, or something since the last call."""
        before, self.unsent = self.unsent, self._count_unsent()
        return not self.unsent or self.unsent != before

    def _count_unsent(self) -> int:
        """Bytes that the client has not read, those in the kernel too; 0 if the kernel has taken all of them."""
        unsent: int = self._transport.get_write_buffer_size()
        if unsent and not self._is_reset:
            unsent += send_queue.count_unsent(self._transport.get_extra_info("socket").fileno())
        return unsent

    def reset(self) -> None:
        """Reset the connection, so that the client cannot take a part of its answer for the whole."""
        if not self._is_reset and self._has_descriptor():
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._is_reset = True
        self._transport.abort()

    def cut_off(self, is_answering: bool) -> None:
        """End the connection at once: reset it if an answer is not whole, else drop it."""
        if is_answering or self._transport.get_write_buffer_size():
            self.reset()
        else:
            self._transport.abort()

    def _has_descriptor(self) -> bool:
        """Whether the descriptor is still ours: a closing transport keeps it until everything is written."""
        return not self._transport.is_closing() or self._transport.get_write_buffer_size() > 0
