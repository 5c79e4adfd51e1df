"""Three servers on loopback that start their own engines."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nats

from kvserver.commands.cluster.demo import free_ports
from kvserver.commands.cluster.secret import make_secret
from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.engine_config import cluster_name, password_of
from shards.order import stream
from tests.system.deployed import free_port
from tests.system.harness import Server, wait_for
from tests.system.kvserver.commands.programs import program

NODES = ("a", "b", "c")
READY_S = 120.0
_STREAM_BYTES = "256MiB"


class OwnEngines:
    """The servers by name.

    Attributes:
        all: in the order of their names.
        machines: where their engines are.
        secret: the file that all share.
    """

    def __init__(
        self, place: Path, machines: Sequence[Machine], of_servers: Sequence[str] = (), **settings: Any
    ) -> None:
        """`settings`: of a cluster, by name, besides those that each needs. `of_servers`: options of servers alone."""
        self.secret, self._settings, self._of_servers = place / "secret", settings, of_servers
        make_secret(self.secret)
        self.all = [Server(place / machine.name) for machine in machines]
        self._ports = [(free_port(), free_port()) for _ in machines]
        self.name_machines(machines)
        for server in self.all:
            server.ready_s = READY_S

    def __getitem__(self, node: str) -> Server:
        return self.all[NODES.index(node)]

    @property
    def urls(self) -> list[str]:
        """Of the servers, which keep their ports."""
        return [f"http://127.0.0.1:{port}" for port, _ in self._ports]

    @property
    def targets(self) -> list[str]:
        """Where they serve /metrics, which stays, too."""
        return [f"127.0.0.1:{port}" for _, port in self._ports]

    def name_machines(self, machines: Sequence[Machine]) -> None:
        """Give all servers another `--cluster`, which those that run take at their next start."""
        self.machines = list(machines)
        for server, machine, (port, metrics) in zip(self.all, machines, self._ports, strict=True):
            ports = ("--port", str(port), "--metrics-port", str(metrics))
            server.options = (*self.options(machine.name), "--workers", "1", *ports, *self._of_servers)

    def options(self, node: str) -> list[str]:
        """The options of a machine's server that commands take, too."""
        cluster = ",".join(f"{machine.name}={machine.address}" for machine in self.machines)
        given = {"node": node, "cluster": cluster, "cluster_secret": self.secret, **self._settings}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    def leader(self) -> str:
        """The machine whose engine leads the stream; an empty text: none does now."""
        with urllib.request.urlopen(
            f"http://{self.machines[0].monitor}/jsz?streams=1&accounts=1", timeout=10
        ) as answer:
            said = json.loads(answer.read())
        details = [detail for account in said["account_details"] for detail in account.get("stream_detail", ())]
        return next((detail["cluster"].get("leader", "")[-1:] for detail in details), "")

    def make_leader(self, node: str) -> None:
        """Have the engine of a machine lead the stream."""
        machine = next(machine for machine in self.machines if machine.name == node)
        name = f"{cluster_name(self.secret.read_bytes().strip())}-{node}"
        user = f"{node}:{password_of(self.secret.read_bytes().strip(), node)}"

        async def ask() -> None:
            client = await nats.connect(f"nats://{user}@{machine.address}")
            wish = json.dumps({"placement": {"preferred": name}}).encode()
            await client.publish(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream.NAME}", wish, reply=client.new_inbox())
            await client.flush()
            await client.close()

        def leads() -> bool:
            if self.leader() == node:
                return True
            asyncio.run(ask())
            time.sleep(1.0)
            return False

        wait_for(leads, f"{node} leads", 60)

    def start(self) -> None:
        """Start all, and wait until they are ready."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(Server.start, self.all))

    def begin(self) -> None:
        """Start all for the first time, and begin the order that they wait for."""
        starting = threading.Thread(target=self.start)
        starting.start()
        begun = program(None, "cluster", "init", *self.options("a"), "--max-bytes", _STREAM_BYTES)
        assert begun.returncode == 0, begun.stderr
        starting.join()


def on_one_address() -> list[Machine]:
    """Machines that differ by their ports alone."""
    return [Machine(name, "127.0.0.1", port) for name, port in zip(NODES, free_ports(), strict=False)]


def on_addresses(count: int = 3) -> list[str]:
    """Addresses of loopback that no other test uses now, most likely, as addresses of a network are."""
    network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
    return [f"{network}.{number}" for number in range(1, count + 1)]


@contextmanager
def own_engines(
    machines: Sequence[Machine] | None = None, of_servers: Sequence[str] = (), **settings: Any
) -> Iterator[OwnEngines]:
    """Three servers that are ready."""
    place = Path(tempfile.mkdtemp(prefix="kv-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        made = OwnEngines(place, machines or on_one_address(), of_servers, **settings)
        for server in made.all:
            stack.callback(server.close)
        made.begin()
        yield made
