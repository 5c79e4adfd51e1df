"""Measure what distance costs: `python -m tests.cluster.far`. Needs what the tests of whole machines need.

Three machines on this one, whose cables delay what they carry. Prints, in milliseconds, how long writes and reads take
that one client sends, one at a time, to a machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import httpx

from tests.cluster.cable import Conditions
from tests.cluster.whole_machines import Machine, Machines, whole_machines
from tests.system.harness import Server

_COUNT = 100
_PLACES: tuple[tuple[str, dict[str, float]], ...] = (
    ("all in one place", {}),
    ("a round trip of 2 ms between any two", {"a": 0.0005, "b": 0.0005, "c": 0.0005}),
    ("c far away: a round trip of 20 ms", {"c": 0.010}),
    ("c far away: a round trip of 150 ms", {"c": 0.075}),
    ("c far away: a round trip of 300 ms", {"c": 0.150}),
    ("a round trip of 100 ms between any two", {"a": 0.025, "b": 0.025, "c": 0.025}),
)
"""The delay of the cables, in each direction."""


def took_ms(ask: Callable[[int], httpx.Response]) -> list[float]:
    """How long each of some requests took."""
    found = []
    for number in range(_COUNT):
        began = time.monotonic()
        ask(number).raise_for_status()
        found.append(1000 * (time.monotonic() - began))
    return found


def measure(server: Server) -> str:
    """Median and 99 % of writes and reads on a machine."""
    with server.client(30) as client:
        writes = took_ms(lambda number: client.put(f"/v1/kv/k-{number % 10}", content="v" * 100))
        reads = took_ms(lambda number: client.get(f"/v1/kv/k-{number % 10}"))
    return "; ".join(
        f"{name} {statistics.median(took):.1f}, {sorted(took)[_COUNT * 99 // 100]:.1f}"
        for name, took in (("write", writes), ("read", reads))
    )


def place(machines: Machines, delays: dict[str, float]) -> None:
    for machine in machines.all:
        delay = Conditions(delay_s=delays.get(machine.name, 0.0))
        machines.network.shape(machine.name, delay, delay)
    machines.wait_until_whole()


def is_near(machine: Machine) -> str:
    return "whose engine leads" if machine.leads() else ""


def main() -> None:
    """Measure, and print."""
    with whole_machines() as machines:
        for title, delays in _PLACES:
            place(machines, delays)
            print(title, flush=True)
            for machine in machines.all:
                print(f"  {machine.name} {is_near(machine)}: {machine.ask(measure)}", flush=True)


if __name__ == "__main__":
    main()
