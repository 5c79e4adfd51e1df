"""Three servers on loopback that start their own engines."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kvserver.commands.cluster.demo import free_ports
from kvserver.commands.cluster.init import create_order
from kvserver.commands.cluster.secret import make_secret
from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.files import setup_of
from kvserver.settings import ServerSettings
from tests.system.harness import Server

NODES = ("a", "b", "c")
READY_S = 120.0
_STREAM_BYTES = 256 << 20


class OwnEngines:
    """The servers by name.

    Attributes:
        all: in the order of their names.
        machines: where their engines are.
    """

    def __init__(self, place: Path, **settings: Any) -> None:
        """`settings`: of a cluster, by name, besides those that each needs."""
        self.machines = [Machine(name, "127.0.0.1", port) for name, port in zip(NODES, free_ports(), strict=False)]
        cluster = ",".join(f"{machine.name}={machine.address}" for machine in self.machines)
        secret = place / "secret"
        make_secret(secret)
        self._settings = {"cluster": cluster, "cluster_secret": secret, **settings}
        options = [w for n, v in self._settings.items() for w in (f"--{n.replace('_', '-')}", str(v))]
        self.all = [Server(place / name, "--node", name, *options, "--workers", "1") for name in NODES]
        for server in self.all:
            server.ready_s = READY_S

    def start(self) -> None:
        """Start all, and wait until they are ready."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(Server.start, self.all))

    def begin(self) -> None:
        """Start all for the first time, and begin the order that they wait for."""
        starting = threading.Thread(target=self.start)
        starting.start()
        setup = setup_of(ServerSettings(node="a", **self._settings))
        assert setup is not None and create_order(setup, ServerSettings(), NODES, _STREAM_BYTES) == 0
        starting.join()


@contextmanager
def own_engines(**settings: Any) -> Iterator[OwnEngines]:
    """Three servers that are ready."""
    place = Path(tempfile.mkdtemp(prefix="kv-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        made = OwnEngines(place, **settings)
        for server in made.all:
            stack.callback(server.close)
        made.begin()
        yield made
