"""The sockets of a shard: ROUTER for requests and replies, PUB for events. The only user of ZeroMQ in this package.

No peer can block the loop: a message that cannot be sent at once is dropped. A client that does not read its replies
treats their outcome as unknown anyway, and gateways read from the log what they missed.
"""

from __future__ import annotations

import contextlib
import secrets
import select
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import zmq

from shards.files.kept_file import KeptFile
from shards.host.process import policy_of_helpers
from shards.wire import protocol
from shards.wire.protocol import Reply

_COPY_BELOW: Final = 1 << 20
"""Bytes of a message below which copying it is cheaper than having ZeroMQ's thread release it."""

# Plain numbers: members of ZeroMQ's enumerations cost more than the calls that take them.
_DONTWAIT, _SNDMORE, _POLLIN = int(zmq.DONTWAIT), int(zmq.SNDMORE), int(zmq.POLLIN)
_EVENTS, _RCVMORE = int(zmq.EVENTS), int(zmq.RCVMORE)


class StartError(Exception):
    """The shard cannot start; the message says why."""


class Sockets:
    """ROUTER and PUB of one incarnation of a shard. No method blocks but `wait`.

    Args:
        run_dir: the directory of the sockets' paths, whose length is limited to 107 bytes.
        shard: its index. The caller holds the shard's lock: socket files of dead predecessors are removed.

    Attributes:
        incarnation: a random number that names this process in requests and in the path of ROUTER.
        dropped: number of replies that could not be sent at once.

    Raises `StartError` if a socket cannot be bound.
    """

    def __init__(self, run_dir: Path, shard: int) -> None:
        self.incarnation = secrets.randbits(63) | 1
        self.dropped = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.THREAD_SCHED_POLICY, policy_of_helpers())
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # report a peer that is gone or does not read
        self._publisher = self._context.socket(zmq.PUB)
        self._readable = select.epoll()
        self._signalled = False  # whether the last wait ended because a descriptor became readable
        for stale in run_dir.glob(f"shard-{shard}-*.req"):
            with contextlib.suppress(OSError):  # a directory of that name belongs to another user
                stale.unlink()
        # A lost file is bound again without an unbind: ZeroMQ would remove it later, so maybe the new one.
        self._files: list[KeptFile] = []
        for socket, path in (
            (self._publisher, run_dir / f"shard-{shard}.pub"),
            (self._router, run_dir / f"shard-{shard}-{self.incarnation:x}.req"),
        ):
            socket.setsockopt(zmq.LINGER, 0)
            try:
                self._files.append(KeptFile(path, partial(socket.bind, f"ipc://{path}")))
            except zmq.ZMQError as error:
                self.close()
                raise StartError(f"the socket {path} cannot be bound: {error.strerror}") from None
        self._readable.register(self._router.FD, select.EPOLLIN)

    def restore_files(self) -> None:
        """Bind the sockets' files again if they were removed. Connected peers stay connected."""
        for file in self._files:
            file.restore_if_gone()

    def wake_by(self, fd: int) -> None:
        """Let `wait` also return when `fd` is readable."""
        self._readable.register(fd, select.EPOLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until a request may have arrived, at most `seconds`; return whether that is why it ended.

        To be called when `receive` has just returned None: ZeroMQ makes its descriptor readable when something
        arrives, but whatever looks at the socket, a reply for instance, may take that back.
        """
        self._signalled = bool(self._readable.poll(seconds))
        return self._signalled

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the sender's identity and the frame of the next message; None: none has arrived."""
        router = self._router
        if self._signalled:
            self._signalled = False  # a message is likely, and to ask for EVENTS takes longer than to receive it
        elif not int(router.get(_EVENTS)) & _POLLIN:
            return None
        try:
            identity = router.recv(_DONTWAIT)
        except zmq.Again:
            return None
        frame = router.recv(_DONTWAIT)
        while router.get(_RCVMORE):
            router.recv(_DONTWAIT)
            frame = b""  # a request has one frame: treat several as one that cannot be read
        return identity, frame

    def reply(self, identity: bytes, id: int, replies: Sequence[Reply]) -> None:
        """Send the replies to message `id`; drop them if the peer is gone or does not read."""
        self._send_frame(identity, protocol.encode_reply(id, replies))

    def reply_part(self, identity: bytes, id: int, places: Sequence[int], replies: Sequence[Reply]) -> None:
        """Send replies to the operations at `places` of message `id`, as `reply` does."""
        self._send_frame(identity, protocol.encode_part(id, places, replies))

    def publish(self, frame: bytes) -> None:
        """Send a frame to every gateway that keeps up."""
        try:
            self._publisher.send(frame, _DONTWAIT)
        except zmq.Again:
            return

    def close(self, linger_ms: int = 0) -> None:
        """Close and remove the sockets; drop what is not sent within `linger_ms`."""
        self._readable.close()
        self._router.close(linger_ms)
        self._publisher.close(linger_ms)
        self._context.term()
        for file in self._files:
            file.remove()

    def _send_frame(self, identity: bytes, frame: bytearray) -> None:
        try:
            self._router.send(identity, _DONTWAIT | _SNDMORE)
            self._router.send(frame, _DONTWAIT, copy=len(frame) < _COPY_BELOW)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self.dropped += 1
