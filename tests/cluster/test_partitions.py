"""Whole machines that are cut off, slowed down, stopped and killed, while clients on all of them write and read.

Each machine is in a network namespace, with its server and its engine. Afterwards all answers must be true of one
store, every acknowledged change must be in the history, and all machines must have the same history and values.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import effort
from tests.cluster.engine_of import engine_of
from tests.cluster.network import Network, require_namespaces
from tests.cluster.whole_machines import Machine, Machines, whole_machines
from tests.linearizable import Request, check
from tests.system import feeds
from tests.system.harness import Server, wait_for
from tests.system.test_linearizable import GROUPS, Client, RepeatingClient

ROUNDS = effort.times(1)
BETWEEN = 40
"""Requests that are answered between two faults."""
FAULT_S = 90.0


class _There(Client):
    """A client on a machine."""

    machine: Machine

    def run(self) -> None:
        self.machine.network.enter(self.machine.name)
        super().run()


class _RepeatsThere(_There, RepeatingClient):
    """One that repeats what is not answered."""


class Crowd:
    """Two clients on each machine, which ask until the context ends."""

    def __init__(self, machines: Machines) -> None:
        self._stop = threading.Event()
        self.clients: list[_There] = []
        for at, machine in enumerate(machines.all):
            for number, kind in enumerate((_There, _RepeatsThere)):
                client = kind((machine.host, machine.port), number * 3 + at, self._stop)
                client.machine = machine
                self.clients.append(client)

    def __enter__(self) -> Crowd:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self.clients:
            client.join(75)

    def answered(self, among: list[Machine]) -> int:
        """How many requests were answered to the clients on these machines."""
        faults = [client.fault for client in self.clients if client.fault]
        assert not faults, faults
        return sum(len(client.history) for client in self.clients if client.machine in among)

    def wait_for_more(self, among: list[Machine]) -> None:
        """Wait until the clients on some machines have got further answers."""
        before = self.answered(among)
        names = " ".join(machine.name for machine in among)
        wait_for(lambda: self.answered(among) > before + BETWEEN, f"{BETWEEN} answers on {names}", FAULT_S)

    @property
    def history(self) -> list[Request]:
        """All requests of all clients."""
        return [request for client in self.clients for request in client.history]


Fault = Callable[[Machines, Crowd, int], None]


def cut_off(machines: Machines, crowd: Crowd, machine: Machine, *, heard: bool = False, hears: bool = False) -> None:
    """Cut a machine off until the others have gone on without it, and wait until it has come back."""
    others = machines.others(machine)
    machines.network.cut(machine.name, heard=heard, hears=hears)
    try:
        wait_for(lambda: machine.name not in others[0].members(), f"{machine.name} is put out", FAULT_S)
        crowd.wait_for_more(others)
    finally:
        machines.network.heal(machine.name)
    wait_for(machine.is_ready, f"{machine.name} is back", FAULT_S)


def cut_a_follower(machines: Machines, crowd: Crowd, at: int) -> None:
    followers = machines.others(machines.leader())
    cut_off(machines, crowd, followers[at % 2])


def cut_the_leader(machines: Machines, crowd: Crowd, at: int) -> None:
    cut_off(machines, crowd, machines.leader())


def cut_what_one_says(machines: Machines, crowd: Crowd, at: int) -> None:
    cut_off(machines, crowd, machines.all[at % 3], hears=True)


def cut_what_one_hears(machines: Machines, crowd: Crowd, at: int) -> None:
    cut_off(machines, crowd, machines.all[at % 3], heard=True)


def throttle_one(machines: Machines, crowd: Crowd, at: int) -> None:
    """Have one machine send slowly, and lose what is too much."""
    machine = machines.all[at % 3]
    machines.network.throttle(machine.name, kbit=512)
    try:
        crowd.wait_for_more(machines.all)
    finally:
        machines.network.heal(machine.name)


def stall_an_engine(machines: Machines, crowd: Crowd, at: int) -> None:
    """Stop the engine that leads where it is, until another one leads."""
    machine = machines.leader()
    pid = engine_of(machine)
    os.kill(pid, signal.SIGSTOP)
    try:
        crowd.wait_for_more(machines.others(machine))
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_an_engine(machines: Machines, crowd: Crowd, at: int) -> None:
    os.kill(engine_of(machines.all[at % 3]), signal.SIGKILL)


def kill_a_machine(machines: Machines, crowd: Crowd, at: int) -> None:
    """Kill everything on one machine, and start it when the others have gone on."""
    machine = machines.all[at % 3]
    machine.kill()
    crowd.wait_for_more(machines.others(machine))
    machine.start()


def kill_all(machines: Machines, crowd: Crowd, at: int) -> None:
    """Kill everything everywhere, and start it again."""
    for machine in machines.all:
        machine.kill()
    machines.start()


FAULTS: tuple[Fault, ...] = (
    cut_a_follower,
    cut_the_leader,
    cut_what_one_says,
    throttle_one,
    kill_an_engine,
    kill_a_machine,
    stall_an_engine,
    cut_what_one_hears,
    kill_all,
)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Three machines that are ready."""
    require_namespaces()
    with whole_machines() as made:
        for machine in made.all:
            machine.tracebacks_expected = True  # of workers whose shard is killed under them
        yield made


@pytest.mark.timeout(120 + 240 * ROUNDS)
def test_whatever_happens_to_machines_and_cables_all_is_true_of_one_store(machines: Machines) -> None:
    for machine in machines.all:
        pin_port(machine)
    since = machines["a"].ask(feeds.now)
    with Crowd(machines) as crowd:
        for number, fault in enumerate(FAULTS * ROUNDS):
            crowd.wait_for_more(machines.all)
            fault(machines, crowd, number)
        crowd.wait_for_more(machines.all)
    crowd.answered(machines.all)
    machines.wait_until_whole()
    check(crowd.history, GROUPS)
    histories = [machine.ask(lambda server: events_since(server, since)) for machine in machines.all]
    assert histories[0] == histories[1] == histories[2]
    check_acknowledged(crowd.history, histories[0])
    values = [machine.ask(values_of) for machine in machines.all]
    assert values[0] == values[1] == values[2]


def pin_port(machine: Machine) -> None:
    """Have a machine come back at the port that its clients know."""
    machine.options = (*machine.options, "--port", str(machine.port))


def events_since(server: Server, since: str) -> list[Any]:
    """The history that a machine tells: operation, key and revision of each change."""
    messages, _ = feeds.polled(server, since)
    assert not [message for message in messages if message["type"] == "gap"]
    return [
        (event["op"], event["key"], event["revision"], event.get("value"))
        for message in messages
        for event in message.get("events", ())
    ]


def check_acknowledged(history: list[Request], events: list[Any]) -> None:
    """Every change that a client was told of is in the history."""
    keys = {revision: key for _, key, revision, _ in events}
    assert len(keys) == len(events), "each revision once"
    for request in history:
        if request.answers and request.failed is None:
            for step, answer in zip(request.steps, request.answers, strict=True):
                if answer.done and step.kind != "get":
                    assert keys.get(answer.revision) == step.key, request


def values_of(server: Server) -> list[Any]:
    """What a machine holds."""
    with server.client() as client:
        items = client.get("/v1/kv?values=true&limit=1000").raise_for_status().json()["items"]
    return [(item["key"], item["revision"], item["value"]) for item in items]


def test_a_cable_that_is_cut_lets_nothing_through() -> None:
    """Else the test above would show nothing."""
    import socket

    require_namespaces()
    with Network(("a", "b")) as network:
        with network.inside("b"):
            listener = socket.create_server((network.addresses["b"], 5000))
        with listener, network.inside("a"):

            def connects() -> bool:
                try:
                    socket.create_connection((network.addresses["b"], 5000), 0.3).close()
                except OSError:
                    return False
                return True

            assert connects()
            for heard, hears in ((False, False), (True, False), (False, True)):
                network.cut("a", heard=heard, hears=hears)
                assert not connects(), (heard, hears)
                network.heal("a")
                assert connects()
