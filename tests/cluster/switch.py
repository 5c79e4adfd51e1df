"""A switch and its cables, in a process of its own: it carries frames between machines in network namespaces.

`python -m tests.cluster.switch SEED NAME=NAMESPACE …` makes a tap device `eth0` in each namespace and says `ready`.
Each line of standard input is `[name, from_it, to_it]` in JSON: the conditions of the two directions of a machine's
cable from now on. It says `done` to each, and ends with its input.

The kernel has this as `tc netem`, but not every kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import select
import struct
import sys
import time
from itertools import count
from random import Random
from typing import Final

from tests.cluster.cable import Conditions, Line
from tests.cluster.namespaces import enter, namespace_of_this_thread

DEVICE: Final = "eth0"
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
_FRAME: Final = 2048
"""A frame is no longer: devices have the usual MTU of 1500."""
_AT_ONCE: Final = 64
"""Frames that are taken from one machine before the others have their turn."""


class Port:
    """Where a machine is plugged in: its device, and the two directions of its cable."""

    def __init__(self, fd: int, seed: str) -> None:
        self.fd = fd
        self.from_it, self.to_it = Line(Random(f"{seed} from")), Line(Random(f"{seed} to"))

    def take(self) -> bytes | None:
        """A frame that the machine sends; None: there is none."""
        try:
            return os.read(self.fd, _FRAME)
        except OSError:  # BlockingIOError, or its device is down
            return None

    def give(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # its device is down
            os.write(self.fd, frame)


class Switch:
    """Carries frames between ports, each to those that its address has been seen at, else to all others."""

    def __init__(self, ports: dict[str, Port]) -> None:
        self.ports = ports
        self._seen_at: dict[bytes, Port] = {}
        self._on_the_way: list[tuple[float, int, Port, Port | None, bytes]] = []
        self._numbers = count()

    def run(self) -> None:
        """Carry frames, and follow what standard input says, until it ends."""
        of_fd = {port.fd: port for port in self.ports.values()}
        with select.epoll() as poll:
            for fd in (0, *of_fd):
                poll.register(fd, select.EPOLLIN)
            while True:
                for fd, _ in poll.poll(self._seconds_left()):
                    if fd:
                        self._take_from(of_fd[fd])
                    elif not self._follow():
                        return
                self._carry_on()

    def _follow(self) -> bool:
        """Do what a line of standard input says; false at its end."""
        line = sys.stdin.readline()
        if line:
            name, from_it, to_it = json.loads(line)
            self.ports[name].from_it.conditions = Conditions(*from_it)
            self.ports[name].to_it.conditions = Conditions(*to_it)
            print("done", flush=True)
        return bool(line)

    def _seconds_left(self) -> float:
        """Until something on its way has arrived; -1: nothing is on its way."""
        return max(0.0, self._on_the_way[0][0] - time.monotonic()) if self._on_the_way else -1

    def _take_from(self, port: Port) -> None:
        for _ in range(_AT_ONCE):
            frame = port.take()
            if frame is None:
                return
            now = time.monotonic()
            self._carry_on(now)  # first what came before
            self._send(now, port.from_it, frame, port, None)

    def _send(self, now: float, line: Line, frame: bytes, source: Port, target: Port | None) -> None:
        """Put a frame on a line: from a machine to the switch if there is no target yet, else from the switch to it."""
        out = line.comes_out(now, len(frame))
        if out is None:
            return
        if out <= now:
            self._arrive(now, frame, source, target)
        else:
            heapq.heappush(self._on_the_way, (out, next(self._numbers), source, target, frame))

    def _carry_on(self, now: float | None = None) -> None:
        """Let everything arrive whose time has come."""
        now = time.monotonic() if now is None else now
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, source, target, frame = heapq.heappop(self._on_the_way)
            self._arrive(now, frame, source, target)

    def _arrive(self, now: float, frame: bytes, source: Port, target: Port | None) -> None:
        if target is not None:
            target.give(frame)
            return
        self._seen_at[frame[6:12]] = source
        known = self._seen_at.get(frame[:6])
        for port in (known,) if known else self.ports.values():
            if port is not source:
                self._send(now, port.to_it, frame, source, port)


def open_tap(namespace: str) -> int:
    """Make the device of a machine in its namespace; it is there as long as the descriptor is open."""
    with namespace_of_this_thread():
        enter(namespace)
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TAP_WITHOUT_HEADER))
        return fd


def main(seed: str, *places: str) -> None:
    """Be the switch."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # on a busy machine, too, frames are no later than they should be
    named = [place.split("=") for place in places]
    switch = Switch({name: Port(open_tap(namespace), f"{seed} {name}") for name, namespace in named})
    print("ready", flush=True)
    switch.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
