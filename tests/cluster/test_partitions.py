"""Whole machines that are cut off, slowed down, stopped and killed, while clients on all of them write and read.

Each machine is in a network namespace, with its server and its engine. Afterwards all answers must be true of one
store, every acknowledged change must be in the history, and all machines must have the same history and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests import effort
from tests.cluster import nemeses
from tests.cluster.clocks import require_compiler
from tests.cluster.crowd import Crowd
from tests.cluster.disks import require_disks
from tests.cluster.network import require_namespaces
from tests.cluster.whole_machines import Machines, whole_machines

ROUNDS = effort.times(1)

FAULTS: tuple[nemeses.Fault, ...] = (
    nemeses.delay_all,
    nemeses.cut_a_follower,
    nemeses.lose_frames,
    nemeses.cut_the_leader,
    nemeses.move_one_far_away,
    nemeses.cut_what_one_says,
    nemeses.throttle_one,
    nemeses.kill_an_engine,
    nemeses.kill_a_machine,
    nemeses.set_clocks_apart,
    nemeses.stall_an_engine,
    nemeses.cut_what_one_hears,
    nemeses.kill_all,
    nemeses.lose_all_power,
)


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Three machines that are ready."""
    require_namespaces()
    require_disks()
    require_compiler()
    with whole_machines(on_disks=True, with_clocks=True) as made:
        yield made


@pytest.mark.timeout(120 + 240 * ROUNDS)
def test_whatever_happens_to_machines_and_cables_all_is_true_of_one_store(machines: Machines) -> None:
    with Crowd(machines) as crowd:
        for number, fault in enumerate(FAULTS * ROUNDS):
            crowd.wait_for_more(machines.all)
            fault(machines, crowd, Random(number))
        crowd.wait_for_more(machines.all)
    crowd.judge()
