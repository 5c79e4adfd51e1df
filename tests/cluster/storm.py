"""The long form: whatever may happen to machines and cables, at random, one after the other, for half an hour.

`python -m tests.cluster.storm` prints the seed of its schedule, `--seed N` repeats that. After every few faults all
that anybody was told is judged, and the store emptied. Needs root, iproute2, util-linux, e2fsprogs, xfsprogs and gcc.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.cluster import nemeses
from tests.cluster.clocks import require_compiler
from tests.cluster.crowd import FAULT_S, Crowd
from tests.cluster.disks import require_disks
from tests.cluster.network import require_namespaces
from tests.cluster.whole_machines import Machines, whole_machines
from tests.system.harness import Server, wait_for

_IN_A_CHAPTER = 8
"""Faults between two judgements."""
_BETWEEN = 200
"""Requests that are answered while a fault lasts, and between two."""


def schedule(seed: int) -> Iterator[tuple[nemeses.Fault, random.Random]]:
    """What happens, without an end: each fault once in an order by chance, then again in another order.

    With each comes its own chance, so that what one fault does with it changes nothing of the others.
    """
    chance = random.Random(seed)
    while True:
        for fault in chance.sample(nemeses.ALL, len(nemeses.ALL)):
            yield fault, random.Random(chance.getrandbits(64))


def play(machines: Machines, seed: int, until: float, only: list[str]) -> None:
    """Let faults happen until it is late, and judge."""
    happens, number = schedule(seed), count(1)
    while time.monotonic() < until:
        wait_for(lambda: machines["a"].ask(empties), "an empty store", FAULT_S)
        with Crowd(machines, seed, _BETWEEN) as crowd:
            for _ in range(_IN_A_CHAPTER):
                crowd.wait_for_more(machines.all)
                fault, chance = next(happens)
                while only and fault.__name__ not in only:
                    fault, chance = next(happens)
                began = time.monotonic()
                say(f"{next(number)}: {fault.__name__}")
                fault(machines, crowd, chance)
                say(f"   took {time.monotonic() - began:.1f} s")
            crowd.wait_for_more(machines.all)
        try:
            crowd.judge()
        except AssertionError:
            say(f"what everybody was told is in {save(crowd)}")
            raise
        unknown = sum(not request.answers for request in crowd.history)
        say(f"{len(crowd.history)} requests, {unknown} of them without an answer: true of one store")
        seed += 1


def empties(server: Server) -> bool:
    """Remove all keys; false: it was not answered."""
    with server.client() as client:
        return client.delete("/v1/kv", params={"all": "true"}).is_success


def save(crowd: Crowd) -> Path:
    """Write down what everybody was told, for who looks into it; return the file."""
    with tempfile.NamedTemporaryFile("w", prefix="kv-told-", suffix=".txt", delete=False) as file:
        for client in crowd.clients:
            for request in client.history:
                print(client.machine.name, *request, file=file)
        for follower in crowd.followers:
            for event in follower.events:
                print(follower.name, *event, file=file)
    return Path(file.name)


def say(what: str) -> None:
    """Print it, with the time."""
    print(time.strftime("%H:%M:%S"), what, flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no further faults begin (30)")
    parser.add_argument("--seed", type=int, help="of the schedule; a new one if it is not given")
    names = sorted(fault.__name__ for fault in nemeses.ALL)
    parser.add_argument("--only", action="append", default=[], choices=names, help="nothing but this; may be repeated")
    given = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    try:
        require_namespaces()
        require_disks()
        require_compiler()
    except (pytest.skip.Exception, pytest.xfail.Exception) as reason:
        sys.exit(str(reason))
    say(f"seed {seed}")
    with whole_machines(on_disks=True, with_clocks=True, seed=str(seed)) as machines:
        play(machines, seed, time.monotonic() + given.minutes * 60, given.only)


if __name__ == "__main__":
    main()
