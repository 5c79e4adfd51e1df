"""`kvserver cluster demo`: three machines on this one, until Ctrl-C."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kvserver.commands.cluster.demo_machine import DemoMachine
from kvserver.commands.cluster.init import create_order
from kvserver.commands.cluster.secret import make_secret
from kvserver.commands.terminal import exit_with, print_line
from kvserver.serve.cluster.addresses import MONITOR_OFFSET, ROUTE_OFFSET, Machine
from kvserver.serve.cluster.files import ClusterError, setup_of
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.host.logs import print_error

HELP = """Try a cluster out: three servers with three engines on this machine, until Ctrl-C.

It prints their URLs when they are ready. Everything is in a temporary directory, which is removed at the end. Kill one
of them, by its pid, and see that the others go on.
"""
STREAM_BYTES: Final = 256 << 20
NODES: Final = ("a", "b", "c")
_LOOK_S: Final = 0.1
_PORTS: Final = range(20_000, 50_000)
"""From where the ports are chosen: with those above them they are below 65,536, and mostly not used for connections."""


class _Stop:
    """Whether Ctrl-C or SIGTERM came."""

    def __init__(self) -> None:
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._event.set())

    def comes_within(self, seconds: float | None) -> bool:
        """Wait for it, for at most so many seconds."""
        return self._event.wait(seconds)


def run_demo() -> None:
    """Run the command, or exit with 1."""
    stop = _Stop()
    place = Path(tempfile.mkdtemp(prefix="kv-demo-"))
    machines: list[DemoMachine] = []
    try:
        _start(place, machines)
        if _wait_until_ready(machines, stop):
            _tell(machines)
            _watch(machines, stop)
    except ClusterError as error:
        exit_with(error)
    except OSError as error:
        exit_with(explain_os_error(error, place))
    finally:
        for machine in machines:
            machine.ask_to_stop()
        for machine in machines:
            machine.wait_for_end()
        shutil.rmtree(place, ignore_errors=True)


def _start(place: Path, machines: list[DemoMachine]) -> None:
    """Start the servers, which wait for the order, and begin that."""
    secret = place / "secret"
    make_secret(secret)
    named = [Machine(name, "127.0.0.1", port) for name, port in zip(NODES, free_ports(), strict=False)]
    cluster = ",".join(f"{machine.name}={machine.address}" for machine in named)
    settings = ServerSettings(
        node=NODES[0], cluster=cluster, cluster_secret=secret, data_dir=place, log_level="warning"
    )
    setup = setup_of(settings)
    assert setup is not None
    print_error("starting three servers and their engines ...")
    machines += [DemoMachine(place, machine, cluster, secret) for machine in named]
    if create_order(setup, settings, NODES, STREAM_BYTES, quietly=True):
        exit_with(f"the engines did not begin an order together:\n{machines[0].log}")


def _wait_until_ready(machines: list[DemoMachine], stop: _Stop) -> bool:
    """Wait until all answer; return False if it is to stop before."""
    while not all(machine.is_ready() for machine in machines):
        for machine in machines:
            if not machine.is_running:
                exit_with(f"the server {machine.machine.name} has ended:\n{machine.log}")
        if stop.comes_within(_LOOK_S):
            return False
    return True


def _tell(machines: list[DemoMachine]) -> None:
    for machine in machines:
        print_line(f"{machine.machine.name}  {machine.url}  (pid {machine.pid})")
    first, last = machines[0].url, machines[-1].url
    print_line("")
    print_line("Write on one machine, read on another:")
    print_line(f"  curl -X PUT -d hello {first}/v1/kv/greeting")
    print_line(f"  curl {last}/v1/kv/greeting")
    print_line("")
    print_line(f"  export KVSERVER_URL={','.join(machine.url for machine in machines)}")
    print_line("ready; Ctrl-C stops all three and removes what they have stored")


def _watch(machines: list[DemoMachine], stop: _Stop) -> None:
    """Wait for Ctrl-C, and say which server has ended in the meantime."""
    ended: set[str] = set()
    while not stop.comes_within(_LOOK_S):
        for machine in machines:
            if not machine.is_running and machine.machine.name not in ended:
                ended.add(machine.machine.name)
                print_error(f"{machine.machine.name} has ended")


def free_ports() -> Iterator[int]:
    """Yield ports of loopback that are free now, with those above them that an engine uses, too."""
    yielded: set[int] = set()
    while True:
        port = random.choice(_PORTS) // 10 * 10
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for each in (port, port + ROUTE_OFFSET, port + MONITOR_OFFSET):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            if not yielded & {port, port + ROUTE_OFFSET, port + MONITOR_OFFSET}:
                yielded |= {port, port + ROUTE_OFFSET, port + MONITOR_OFFSET}
                stack.close()
                yield port
