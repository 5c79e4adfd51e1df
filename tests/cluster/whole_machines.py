"""Three machines in a network of their own, each with a server that starts its own engine."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kvserver.commands.cluster.init import create_order
from kvserver.commands.cluster.secret import make_secret
from kvserver.serve.cluster.files import setup_of
from kvserver.settings import ServerSettings
from tests.cluster.network import Network
from tests.system.harness import Server, wait_for

NODES = ("a", "b", "c")
_MONITOR = 8222
_STREAM_BYTES = 1 << 30
T = TypeVar("T")


class Machine(Server):
    """A machine: what it runs and asks is in its namespace.

    Attributes:
        name: of the machine.
    """

    ready_s = 120.0

    def __init__(self, network: Network, name: str, place: Path, *options: str) -> None:
        self.network, self.name = network, name
        super().__init__(place / name, "--node", name, *options, "--workers", "1")

    def command(self) -> list[str]:
        """The command line of the server, in the machine's namespace."""
        return ["ip", "netns", "exec", self.network.namespace(self.name), *super().command()]

    def ask(self, question: Callable[[Server], T]) -> T:
        """What a question to the server gives, asked on the machine."""
        with self.network.inside(self.name):
            return question(self)

    def is_ready(self) -> bool:
        """Whether it serves, and has caught up."""

        def question(server: Server) -> bool:
            with server.client() as client:
                return client.get("/health/ready").status_code == 200

        return self.ask(question)

    def members(self) -> set[str]:
        """Who the members are, as it sees it."""
        nodes = self.ask(Server.status)["cluster"]["nodes"]
        return {node["name"] for node in nodes if node["member"]}

    def engine(self, path: str) -> Any:
        """What its engine answers."""

        def question(_: Server) -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", _MONITOR, timeout=5)
            try:
                connection.request("GET", path)
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        return self.ask(question)

    def leads(self) -> bool:
        """Whether its engine leads the stream."""
        said = self.engine("/jsz?streams=1&accounts=1")
        return any(
            detail["name"] == "KV" and detail.get("cluster", {}).get("leader", "").endswith(f"-{self.name}")
            for account in said.get("account_details", ())
            for detail in account.get("stream_detail") or ()
        )


class Machines:
    """All of them, by name.

    Attributes:
        network: that connects them.
        all: in the order of their names.
    """

    def __init__(self, network: Network, place: Path) -> None:
        self.network = network
        self._secret = place / "secret"
        make_secret(self._secret)
        self._cluster = ",".join(f"{name}={address}" for name, address in network.addresses.items())
        options = ("--cluster", self._cluster, "--cluster-secret", str(self._secret))
        self.all = [Machine(network, name, place, *options) for name in NODES]

    def __getitem__(self, name: str) -> Machine:
        return self.all[NODES.index(name)]

    def start(self) -> None:
        """Start all, and wait until they serve."""
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(Machine.start, self.all))

    def begin(self, place: Path) -> None:
        """Start all for the first time, and begin the order that they wait for."""
        settings = ServerSettings(node="a", cluster=self._cluster, cluster_secret=self._secret, data_dir=place)
        setup = setup_of(settings)
        assert setup is not None
        starting = threading.Thread(target=self.start)
        starting.start()
        with self.network.inside("a"):
            assert create_order(setup, settings, NODES, _STREAM_BYTES) == 0
        starting.join()

    def leader(self) -> Machine:
        """The machine whose engine leads the stream."""
        found: Machine = wait_for(lambda: next((each for each in self.all if each.leads()), None), "a leader", 60)
        return found

    def others(self, machine: Machine) -> list[Machine]:
        """All but one."""
        return [each for each in self.all if each is not machine]

    def wait_until_whole(self) -> None:
        """Wait until every machine is ready, and a member to all."""
        for machine in self.all:
            wait_for(machine.is_ready, f"{machine.name} is ready", 90)
        for machine in self.all:
            wait_for(lambda machine=machine: machine.members() == set(NODES), f"{machine.name} sees all", 60)


@contextmanager
def whole_machines() -> Iterator[Machines]:
    """Three machines that are ready."""
    place = Path(tempfile.mkdtemp(prefix="kv-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        network = stack.enter_context(Network(NODES))
        machines = Machines(network, place)
        for machine in machines.all:
            stack.callback(machine.close)
        machines.begin(place)
        yield machines
