"""Many clients on all machines, few keys, processes and engines that are killed: all answers are true of one store."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import effort
from tests.cluster.servers import Servers
from tests.cluster.test_servers import until_ready
from tests.linearizable import check
from tests.system.harness import wait_for
from tests.system.test_linearizable import GROUPS, Client, RepeatingClient

ROUNDS = effort.times(2)
CLIENTS = 2  # of each machine
BETWEEN = 60
"""Requests that are answered between two faults."""


def kill_shard(servers: Servers, at: int) -> None:
    """Kill the shard of a machine; its supervisor starts it again."""
    os.kill(servers.all[at].shard_pids()[0], signal.SIGKILL)


def stall_shard(servers: Servers, at: int) -> None:
    """Stop the shard of a machine for as long as it takes the others to put it out."""
    pid, other = servers.all[at].shard_pids()[0], servers.all[(at + 1) % 3]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not other.status()["cluster"]["nodes"][at]["member"], "it is put out", 60)
    finally:
        os.kill(pid, signal.SIGCONT)


def stutter_shard(servers: Servers, at: int) -> None:
    """Let the shard of a machine stop and go on: whoever asks it sees things late."""
    pid, chance, pause = servers.all[at].shard_pids()[0], random.Random(at), threading.Event()
    for _ in range(40):
        os.kill(pid, signal.SIGSTOP)
        pause.wait(chance.uniform(0.02, 0.05))
        os.kill(pid, signal.SIGCONT)
        pause.wait(chance.uniform(0.01, 0.06))


def kill_order_child(servers: Servers, at: int) -> None:
    """Kill the process that carries the order for a machine."""
    server = servers.all[at]
    pids = [pid for pid in children_of(server.status()["supervisor"]["pid"]) if "order.carrier" in command_of(pid)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def kill_engine(servers: Servers, at: int) -> None:
    """Kill a nats-server, and start it again."""
    engine = servers.engines.servers[at]
    engine.kill()
    engine.start()


def kill_leading_engine(servers: Servers, at: int) -> None:
    """Kill the nats-server that leads the stream, and start it again."""
    engine = servers.engines.leader()
    engine.kill()
    engine.start()


def kill_machine(servers: Servers, at: int) -> None:
    """Kill a whole server, and start it again, with its port."""
    server = servers.all[at]
    server.kill()
    server.start()


FAULTS: list[Callable[[Servers, int], None]] = [
    kill_shard,
    stutter_shard,
    kill_order_child,
    kill_engine,
    stall_shard,
    kill_leading_engine,
]


def ask_all(servers: Servers, kind: type[Client], faults: list[Callable[[Servers, int], None]]) -> list[Client]:
    """Have clients ask all machines while `faults` happen; return them when they have ended."""
    stop = threading.Event()
    clients = [
        kind((server.host, server.port), number * 3 + at, stop)
        for at, server in enumerate(servers.all)
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()

    def answered() -> int:
        assert not any(client.fault for client in clients), [client.fault for client in clients]
        return sum(len(client.history) for client in clients)

    def wait_for_more() -> None:
        before = answered()
        wait_for(lambda: answered() > before + BETWEEN, f"{BETWEEN} requests", 90)

    try:
        for number, fault in enumerate(faults):
            wait_for_more()
            fault(servers, number % 3)
        wait_for_more()
    finally:
        stop.set()
        for client in clients:
            client.join(65)
    answered()
    for server in servers.all:
        until_ready(server)
    return clients


def maps_of(servers: Servers) -> list[list[tuple[str, int, str]]]:
    """What each machine says it holds."""
    found = []
    for server in servers.all:
        with server.client() as client:
            items = client.get("/v1/kv?values=true&limit=1000").raise_for_status().json()["items"]
        found.append([(item["key"], item["revision"], item["value"]) for item in items])
    return found


@pytest.mark.parametrize("kind", [Client, RepeatingClient])
def test_what_clients_of_all_machines_were_told_is_true_of_one_store(servers: Servers, kind: type[Client]) -> None:
    with servers["a"].client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    clients = ask_all(servers, kind, FAULTS * ROUNDS)
    check([request for client in clients for request in client.history], GROUPS)
    first, *others = maps_of(servers)
    assert all(other == first for other in others)
