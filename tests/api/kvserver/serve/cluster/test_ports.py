"""Whether an engine can have its addresses, by who has them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from kvserver.commands.cluster.demo import free_ports
from kvserver.serve.cluster import ports
from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.files import ClusterError
from kvserver.serve.cluster.ports import require_ports
from kvserver.settings import ServerSettings


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_WAIT_S", 0.2)


@pytest.fixture
def machine() -> Iterator[Machine]:
    yield Machine("b", "127.0.0.1", next(free_ports()))


def test_free_ports_are_left_free(machine: Machine) -> None:
    for _ in range(2):
        require_ports(machine, ServerSettings())
    require_ports(Machine("b", "localhost", machine.port), ServerSettings())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_port_that_another_process_has(machine: Machine, which: int) -> None:
    taken = machine.ports[which]
    every = ", ".join(map(str, machine.ports))
    with closing(socket.create_server(("127.0.0.1", taken))):
        with pytest.raises(ClusterError) as refused:
            require_ports(machine, ServerSettings())
        told = str(refused.value)
        assert told.startswith(f"port {taken} on 127.0.0.1 is taken, by another process, but the engine of b needs")
        assert f"the ports {every} for itself: stop the process" in told and "as b=127.0.0.1:4300" in told
        with pytest.raises(ClusterError, match=r"by --metrics-port, .* choose another with --metrics-port"):
            require_ports(machine, ServerSettings(metrics_port=taken))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ClusterError, match=r"b is at 192\.0\.2\.1, which is no address of this machine: --node is b"):
        require_ports(Machine("b", "192.0.2.1"), ServerSettings())


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(ClusterError, match=r"b is at nowhere\.invalid, which has no address"):
        require_ports(Machine("b", "nowhere.invalid"), ServerSettings())


def test_what_else_the_kernel_says(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = OSError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(ports, "_try", lambda host, port: refusal)
    with pytest.raises(ClusterError, match=f"cannot listen on 127.0.0.1 port {machine.port}: Permission denied"):
        require_ports(machine, ServerSettings())
