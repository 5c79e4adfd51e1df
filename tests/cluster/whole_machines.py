"""Machines in a network of their own, each with a server that starts its own engine."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kvserver.commands.cluster.init import create_order
from kvserver.commands.cluster.secret import make_secret
from kvserver.serve.cluster.files import setup_of
from kvserver.settings import ServerSettings
from tests.cluster.clocks import WallClock
from tests.cluster.disks import Disks
from tests.cluster.histories import is_ready
from tests.cluster.network import Network
from tests.system.harness import Server, wait_for

NODES = ("a", "b", "c")
_MONITOR = 8222
_STREAM_BYTES = 256 << 20
_TOLD = 20_000
"""Characters of each machine's log that are shown of a failure."""
T = TypeVar("T")


@dataclass
class Surroundings:
    """Where the machines of a cluster are.

    Attributes:
        network: that connects them.
        place: a directory of theirs.
        disks: for their data; None: it is in `place`.
        clocks: by machine; a machine without has the true time.
    """

    network: Network
    place: Path
    disks: Disks | None
    clocks: dict[str, WallClock]

    def data_dir(self, name: str) -> Path:
        """Of a machine."""
        return self.place / name if self.disks is None else self.disks.path(name) / "data"

    def command(self, name: str, *argv: str) -> list[str]:
        """The command line that runs `argv` on a machine, in the process that it starts."""
        mounts = [] if self.disks is None else [f"--mount={self.disks.namespace}"]
        return ["nsenter", f"--net=/run/netns/{self.network.namespace(name)}", *mounts, "--", *argv]


class Machine(Server):
    """A machine: what it runs and asks is in its namespace.

    Attributes:
        name: of the machine.
    """

    ready_s = 120.0

    def __init__(self, surroundings: Surroundings, name: str, *options: str) -> None:
        self.surroundings, self.name = surroundings, name
        clock = surroundings.clocks.get(name)
        environ = {} if clock is None else clock.environ
        options = ("--node", name, *options, "--workers", "1")
        super().__init__(surroundings.data_dir(name), *options, environ=environ)
        self.tracebacks_expected = True  # of workers whose shard is killed under them

    def command(self) -> list[str]:
        """The command line of the server, on the machine."""
        return self.surroundings.command(self.name, *super().command())

    def start(self) -> Machine:
        """Start, from the second time on at the port that its clients know, and wait until it serves."""
        super().start()
        if "--port" not in self.options:
            self.options = (*self.options, "--port", str(self.port))
        return self

    def boot(self) -> None:
        """Start with nothing but what is on its disk."""
        for directory in (self.run_dir, self.map_dir):
            shutil.rmtree(directory)
            directory.mkdir(mode=0o700)
        self.start()

    def ask(self, question: Callable[[Server], T]) -> T:
        """What a question to the server gives, asked on the machine."""
        with self.surroundings.network.inside(self.name):
            return question(self)

    def is_ready(self) -> bool:
        """Whether it serves, and has caught up."""

        def question(server: Server) -> bool:
            return is_ready(server)

        return self.ask(question)

    def members(self) -> set[str]:
        """Who the members are, as it sees it."""
        nodes = self.ask(Server.status)["cluster"]["nodes"]
        return {node["name"] for node in nodes if node["member"]}

    def stopped(self) -> str | None:
        """Why it has stopped for good; None: it has not."""
        said: str | None = self.ask(Server.status)["cluster"]["stopped"]
        return said

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
        surroundings: where they are.
        all: in the order of their names.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings, self.network = surroundings, surroundings.network
        self._secret = surroundings.place / "secret"
        make_secret(self._secret)
        self._cluster = ",".join(f"{name}={address}" for name, address in self.network.addresses.items())
        options = ("--cluster", self._cluster, "--cluster-secret", str(self._secret))
        self.all = [Machine(surroundings, name, *options) for name in self.network.addresses]

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.all if machine.name == name)

    def start(self) -> None:
        """Start all, and wait until they serve."""
        self.start_some(self.all)

    def start_some(self, machines: Sequence[Machine]) -> None:
        """Start some side by side: one alone would not become ready."""
        do_with_each(Machine.start, machines)

    def begin(self) -> None:
        """Start all for the first time, and begin the order that they wait for."""
        settings = ServerSettings(node=self.all[0].name, cluster=self._cluster, cluster_secret=self._secret)
        setup = setup_of(settings)
        assert setup is not None
        starting = threading.Thread(target=self.start)
        starting.start()
        with self.network.inside(self.all[0].name):
            assert create_order(setup, settings, [machine.name for machine in self.all], _STREAM_BYTES) == 0
        starting.join()

    def lose_power(self) -> None:
        """Let the power of all machines fail at one moment. They are not started."""
        assert self.surroundings.disks is not None
        self.surroundings.disks.fail()
        do_with_each(Machine.kill, self.all)
        self.surroundings.disks.come_back()

    def boot(self) -> None:
        """Start all with nothing but what is on their disks, and wait until they serve."""
        do_with_each(Machine.boot, self.all)

    def leader(self) -> Machine:
        """The machine whose engine leads the stream."""
        found: Machine = wait_for(lambda: next((each for each in self.all if each.leads()), None), "a leader", 60)
        return found

    def others(self, machine: Machine) -> list[Machine]:
        """All but one."""
        return [each for each in self.all if each is not machine]

    def wait_until_whole(self) -> None:
        """Wait until every machine is ready, and a member to all."""
        names = {machine.name for machine in self.all}
        for machine in self.all:
            wait_for(machine.is_ready, f"{machine.name} is ready", 90)
        for machine in self.all:
            wait_for(lambda machine=machine: machine.members() == names, f"{machine.name} sees all", 60)


def do_with_each(what: Callable[[Machine], object], machines: Sequence[Machine]) -> None:
    """Do something with machines, side by side."""
    with ThreadPoolExecutor(len(machines)) as pool:
        list(pool.map(what, machines))


@contextmanager
def whole_machines(
    names: Sequence[str] = NODES, *, on_disks: bool = False, with_clocks: bool = False, seed: str = ""
) -> Iterator[Machines]:
    """Machines that are ready.

    `on_disks`: whose power can fail. `with_clocks`: that can be set. `seed`: of what happens to frames by chance.
    """
    place = Path(tempfile.mkdtemp(prefix="kv-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        network = stack.enter_context(Network(names, seed))
        disks = stack.enter_context(Disks(place / "disks", names)) if on_disks else None
        clocks = {name: WallClock(place / f"clock-{name}") for name in names} if with_clocks else {}
        machines = Machines(Surroundings(network, place, disks, clocks))
        stack.callback(do_with_each, Machine.close, machines.all)
        try:
            machines.begin()
            yield machines
        except BaseException:
            traceback.print_exc()
            for machine in machines.all:
                print(f"what {machine.name} said:\n{machine.log()[-_TOLD:]}")
            raise
