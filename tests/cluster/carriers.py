"""The processes that carry an order between the engines and a shard, and their other ends in a test."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shards.order.jetstream import JetStreamOrder
from shards.order.link import SOCKET_NAME
from shards.order.messages import encode_init, init_of
from shards.order.order import Message
from tests.cluster.engines import WAIT_S, Engines

NODES = ("a", "b", "c")
INIT = encode_init(init_of("store", "epoch", 1, NODES, {}))
MAX_BYTES = 256 << 20


def command(engines: Engines, run_dir: Path, node: str, *options: str) -> list[str]:
    """Return the command that carries the order for `node`, whose own engine is named first."""
    place = NODES.index(node) % len(engines.servers)
    urls = engines.urls[place:] + engines.urls[:place]
    arguments = ["--run-dir", str(run_dir), "--node", node, "--servers", ",".join(urls), *options]
    return [sys.executable, "-m", "shards.order.carrier", *arguments]


def create_stream(engines: Engines, run_dir: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Make the stream, with its first message."""
    asked = ["--monitors", ",".join(engines.monitors), "--create", str(len(engines.servers))]
    return subprocess.run(
        command(engines, run_dir, "a", *asked, "--max-bytes", str(MAX_BYTES), *options),
        input=INIT,
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )


class Carrier:
    """The process that carries the order for one node.

    Args:
        engines: that hold it.
        directory: where its run directory is made.
        node: its name.
        options: further ones of its command line; else it asks the engines' monitoring ports.
    """

    def __init__(self, engines: Engines, directory: Path, node: str, options: Sequence[str] | None = None) -> None:
        self.node, self._engines = node, engines
        self._options = ["--monitors", ",".join(engines.monitors)] if options is None else options
        self.run_dir = directory / f"run-{node}"
        self.run_dir.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.run_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command(self._engines, self.run_dir, self.node, *self._options),
                stderr=log,
                env=os.environ | {"KVSERVER_PARENT_PID": str(os.getpid())},
            )

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(WAIT_S)
            self.process = None

    def order(self) -> JetStreamOrder:
        """Make the other end; it is not open yet."""
        return JetStreamOrder(self.run_dir / SOCKET_NAME)


def take_until(order: JetStreamOrder, done: Callable[[list[Message]], object], name: str) -> list[Message]:
    """Take messages until `done` says that these are all; fails with `name` if that takes too long."""
    taken: list[Message] = []
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        taken += order.take()
        if done(taken):
            return taken
        wait_for_any([order], 0.1)
    raise AssertionError(f"no {name} within {WAIT_S} s; taken: {[message[0] for message in taken][-5:]}")


def wait_for_any(orders: Iterable[JetStreamOrder], seconds: float) -> None:
    """Wait until one of `orders` may have something."""
    with select.epoll() as poll:
        for order in orders:
            poll.register(order.fileno(), select.EPOLLIN)
        poll.poll(seconds)
