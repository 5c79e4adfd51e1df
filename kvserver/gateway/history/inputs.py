"""The sockets of a gateway: records that the shards publish, activity from everywhere, and activity of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import gevent  # type: ignore[import-untyped]
import zmq
from gevent.event import Event  # type: ignore[import-untyped]

from kvserver.store.activity import ActivityFeed
from shards.files.kept_file import KeptFile
from shards.host.board import Board
from shards.wire.errors import ProtocolError
from shards.wire.protocol import Activity, ActivityKind, decode_activity, decode_presence

QUEUE: Final = 256
"""Records, of 64 KiB at most, that ZeroMQ keeps for us from each shard (its high-water mark). The log has them all."""

_MOST_MESSAGES: Final = 512  # of a socket in one turn


class GatewayInputs:
    """Owns the sockets of one gateway. Only the greenlet that follows the history may call its methods, but `wake`.

    Attributes:
        heard: pids that have answered a roll call: their activity arrives.
    """

    def __init__(self, board: Board, run_dir: Path, index: int) -> None:
        """Connect to the shards' sockets and bind the activity socket of row `index`, both in `run_dir`."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._published = _new_subscriber(self._context, QUEUE)  # to nothing yet
        for shard in range(board.facts.shards):
            self._published.connect(f"ipc://{run_dir}/shard-{shard}.pub")
        self._activity = _new_subscriber(self._context, 10 * QUEUE)
        self._activity.setsockopt(zmq.SUBSCRIBE, b"")
        activity = run_dir / f"gateway-{index}.activity"
        self._activity_file = KeptFile(activity, partial(self._activity.bind, f"ipc://{activity}"))
        self._is_subscribed = False
        self.heard: set[int] = set()
        self._arrived = Event()
        self._others = ActivityFeed(self._context, board, run_dir, self._arrived.set, but=index)
        loop = gevent.get_hub().loop
        self._watchers = [loop.io(socket.get(zmq.FD), 1) for socket in (self._published, self._activity)]

    def subscribe(self, wanted: bool) -> None:
        """Have the shards' records sent, or not: without clients they should cost nothing, neither here nor there.

        What is published before a subscription has reached a shard is read from the log, like all that is missed.
        """
        if wanted != self._is_subscribed:
            self._is_subscribed = wanted
            self._published.setsockopt(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, b"")

    def receive_records(self) -> Iterator[bytes]:
        """Yield the published records that have arrived, each as its bytes in the log, or only its header."""
        return _receive(self._published)

    def receive_activity(self) -> Iterator[list[Activity]]:
        """Yield the lines of activity that have arrived."""
        for message in _receive(self._activity):
            if (pid := decode_presence(message)) is not None:
                self.heard.add(pid)
                continue
            with contextlib.suppress(ProtocolError):  # another version's, while gateways are replaced
                yield decode_activity(message)

    def send_activity(self, kind: ActivityKind, subject: bytes, end: int) -> None:
        """Send a line of activity to the other gateways at the next `flush`. `end`: the revision after which it is."""
        self._others.add(kind, subject, end)

    def flush(self) -> None:
        """Connect to gateways that are new, and send what waits for them."""
        self._others.refresh()
        self._others.flush()

    def wake(self) -> None:
        """End the `wait` that is under way, or the next one."""
        self._arrived.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until a message has arrived or `wake` is called, or for `timeout_s`."""
        for watcher in self._watchers:
            watcher.start(self._arrived.set)
        try:
            # ZeroMQ's descriptor says only that something changed: what changed before must be looked for.
            if not any(int(socket.get(zmq.EVENTS)) & zmq.POLLIN for socket in (self._published, self._activity)):
                self._arrived.wait(timeout_s)
        finally:
            self._arrived.clear()
            for watcher in self._watchers:
                watcher.stop()

    def restore_file(self) -> None:
        """Bind the activity socket again if its file was removed. To be called about every second."""
        self._activity_file.restore_if_gone()

    def close(self) -> None:
        """Close all sockets; what was not sent is dropped."""
        for watcher in self._watchers:
            watcher.close()
        self._others.close()
        self._published.close(0)
        self._activity.close(0)
        self._context.destroy(linger=0)


def _new_subscriber(context: zmq.Context[zmq.Socket[bytes]], queue: int) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, queue)
    return socket


def _receive(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    with contextlib.suppress(zmq.Again):
        for _ in range(_MOST_MESSAGES):
            yield socket.recv(zmq.DONTWAIT)
