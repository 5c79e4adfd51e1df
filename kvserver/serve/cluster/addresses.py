"""The machines that `--cluster a=10.0.0.1,b=10.0.0.2,c=10.0.0.3` names, and the ports of their engines. Pure."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from typing import Final

PORT: Final = 4222
"""Where an engine takes clients, unless `--cluster` says another port."""
ROUTE_OFFSET, MONITOR_OFFSET = 2000, 4000
"""What is added to that port for the one to other engines, and for the one that is asked whether it works."""
LARGEST_PORT: Final = 65_535 - MONITOR_OFFSET
NUMBERS: Final = (1, 3, 5)
"""How many machines a cluster may have: of an even number, no more may fail than of one machine less."""
NUMBERS_TEXT: Final = "1, 3 or 5"


@dataclass(frozen=True)
class Machine:
    """One machine: its name, the host or address where the others reach it, and its engine's port for clients."""

    name: str
    host: str
    port: int = PORT

    @property
    def address(self) -> str:
        """Host and port for clients, as in a URL."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def route(self) -> str:
        """Host and port for other engines, as in a URL."""
        return f"{_bracketed(self.host)}:{self.port + ROUTE_OFFSET}"

    @property
    def monitor(self) -> str:
        """Host and port of loopback where it answers HTTP: machines at 127.0.0.1 and 127.0.0.2 do not meet there."""
        host = self.host if self.is_loopback and self.host.startswith("127.") else "127.0.0.1"
        return f"{host}:{self.port + MONITOR_OFFSET}"

    @property
    def ports(self) -> tuple[int, int, int]:
        """The ports of its engine: for clients, for other engines, for HTTP."""
        return self.port, self.port + ROUTE_OFFSET, self.port + MONITOR_OFFSET

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_machines(text: str) -> tuple[Machine, ...]:
    """Return the machines of `NAME=HOST[:PORT]` with commas between them; none for URLs of engines that run already.

    Raises `ValueError`.
    """
    if "://" in text:
        return ()
    machines = tuple(_parse_machine(*part.strip().split("=", 1)) for part in text.split(","))
    if len(machines) not in NUMBERS:
        raise ValueError(f"expected {NUMBERS_TEXT} machines, not {len(machines)}")
    for first, second in itertools.combinations(machines, 2):
        _check_apart(first, second)
    return machines


def _check_apart(first: Machine, second: Machine) -> None:
    """Raise `ValueError` if the engines of two machines on one host would want the same port."""
    common = set(first.ports) & set(second.ports)
    if first.host != second.host or not common:
        return
    problem = (
        f"but {first.address} is there twice"
        if first.port == second.port
        else f"but {first.name} and {second.name} both need port {min(common)} of {first.host}, since an engine uses "
        f"the ports {ROUTE_OFFSET} and {MONITOR_OFFSET} above its own, too"
    )
    host = _bracketed(first.host)
    raise ValueError(
        f"expected each machine at an address of its own, {problem}; machines on one host have ports of their own, as "
        f"a={host}:4222,b={host}:4322,c={host}:4422"
    )


def _parse_machine(name: str, place: str) -> Machine:
    like = "expected the address of a machine as HOST or HOST:PORT, with an IPv6 address in brackets"
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{like}, not {place!r}")
    else:
        host, colon, port = place.partition(":")
        if colon and not port:
            raise ValueError(f"{like}, not {place!r}")
    if not host or any(character in host for character in " /@\"'{}"):
        raise ValueError(f"{like}, not {place!r}")
    if not port:
        return Machine(name, host)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= LARGEST_PORT):
        raise ValueError(
            f"expected a port from 1 to {LARGEST_PORT} for {name} ({ROUTE_OFFSET} and {MONITOR_OFFSET} above it are "
            f"used too), not {port!r}"
        )
    return Machine(name, host, int(port))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
