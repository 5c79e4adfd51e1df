"""Three whole servers of a cluster on loopback, around three real nats-servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shards.order.messages import encode_init, init_of
from tests.cluster.engines import Engines
from tests.cluster.machines import NODES
from tests.system.harness import Server

FIRST = 5000
"""The first revision of the cluster."""
EPOCH = "c0ffee"
"""The name of its history."""


class Servers:
    """The servers by name, and their engines.

    Attributes:
        engines: the nats-servers; that of the same index is each server's own.
        all: the servers.
    """

    def __init__(self, engines: Engines, place: Path, settings: Sequence[str] = ()) -> None:
        self.engines = engines
        self.all: list[Server] = []
        for index, node in enumerate(NODES):
            urls = engines.urls[index:] + engines.urls[:index]
            options = ["--node", node, "--cluster", ",".join(urls), "--cluster-monitors", ",".join(engines.monitors)]
            self.all.append(Server(place / node, *options, "--workers", "1", *settings))

    def __getitem__(self, node: str) -> Server:
        return self.all[NODES.index(node)]

    def start(self, nodes: Sequence[str] = NODES) -> None:
        """Start some, side by side: one alone would not become ready."""
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(Server.start, [self[node] for node in nodes]))


def create_order(engines: Engines, limits: dict[str, int] | None = None, max_bytes: int = 1 << 30) -> None:
    """Make the stream, with its first message."""
    first = encode_init(init_of("0123abcd", EPOCH, FIRST, NODES, limits or {}))
    subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "shards.order.carrier",
                "--create",
                "3",
                "--max-bytes",
                str(max_bytes),
                "--run-dir",
                ".",
                "--node",
                "a",
            ),
            *("--servers", ",".join(engines.urls), "--monitors", ",".join(engines.monitors)),
        ],
        input=first,
        check=True,
        env=os.environ,
        timeout=60,
    )


@contextmanager
def cluster(*settings: str, max_bytes: int = 1 << 30) -> Iterator[Servers]:
    """Three servers that are ready; the order keeps `max_bytes` of messages."""
    place = Path(tempfile.mkdtemp(prefix="kv-"))
    try:
        with ExitStack() as stack:
            engines = stack.enter_context(Engines(place / "engines"))
            create_order(engines, max_bytes=max_bytes)
            made = Servers(engines, place, settings)
            for server in made.all:
                stack.callback(server.close)
            made.start()
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)
