"""Whether this machine's engine can have the addresses that `--cluster` gives it.

nats-server says so in its own words, at the end of many lines, and a supervisor would start it again and again.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from typing import Final

from kvserver.serve.cluster.addresses import Machine
from kvserver.serve.cluster.files import ClusterError
from kvserver.settings import ServerSettings
from shards.host.settings import option_name

_WAIT_S: Final = 5.0  # for which an engine whose server was killed may take to end
_LOOK_S: Final = 0.1
_OWN: Final = ("port", "metrics_port", "feed_port")


def require_ports(machine: Machine, settings: ServerSettings) -> None:
    """Check that the engine of `machine` can listen where it should. Raises `ClusterError`."""
    monitor = machine.monitor.rpartition(":")[0]
    for host, port in zip((machine.host, machine.host, monitor), machine.ports, strict=True):
        problem = _try(host, port)
        if problem is not None:
            raise ClusterError(_explain(problem, machine, host, port, settings))


def _try(host: str, port: int) -> OSError | None:
    """Return why nobody could listen there, after having waited for whoever still does."""
    give_up_at = time.monotonic() + _WAIT_S
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with contextlib.closing(socket.socket(family, kind, protocol)) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
            return None
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
                return error
        time.sleep(_LOOK_S)


def _explain(error: OSError, machine: Machine, host: str, port: int, settings: ServerSettings) -> str:
    ports = ", ".join(map(str, machine.ports))
    if isinstance(error, socket.gaierror):
        return f"--cluster says that {machine.name} is at {host}, which has no address: {error.strerror}"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"--cluster says that {machine.name} is at {host}, which is no address of this machine: --node is "
            f"{machine.name}, name this machine there, or correct its address"
        )
    if error.errno != errno.EADDRINUSE:
        return f"the engine of {machine.name} cannot listen on {host} port {port}: {error.strerror}"
    own = next((option_name(name) for name in _OWN if getattr(settings, name) == port), None)
    remedy = f"choose another with {own}" if own else "stop the process that uses it"
    return (
        f"port {port} on {host} is taken, by {own or 'another process'}, but the engine of {machine.name} needs the "
        f"ports {ports} for itself: {remedy}, or name another port in --cluster, on all machines, as "
        f"{machine.name}={machine.host}:4300"
    )
