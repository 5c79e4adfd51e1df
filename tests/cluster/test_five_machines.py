"""Five machines: two may be away, and with three away nothing is written nor read, until one is back."""

from __future__ import annotations

import pytest

from tests.cluster.crowd import Crowd
from tests.cluster.network import require_namespaces
from tests.cluster.whole_machines import Machine, do_with_each, whole_machines
from tests.system.harness import Server, wait_for


def check_refusals(machine: Machine) -> None:
    """Check that a machine writes nothing, and soon reads nothing."""

    def question(server: Server) -> None:
        with server.client(30) as client:
            assert client.put("/v1/kv/refused", content="v").status_code in (503, 504)
            wait_for(lambda: client.get("/v1/kv/refused").status_code == 503, f"{machine.name} refuses to read", 60)

    machine.ask(question)


@pytest.mark.timeout(600)
def test_two_of_five_may_be_away() -> None:
    require_namespaces()
    with whole_machines(("a", "b", "c", "d", "e")) as machines:
        leader = machines.leader()
        second, third, *others = machines.others(leader)
        with Crowd(machines) as crowd:
            crowd.wait_for_more(machines.all)
            leader.kill()
            second.kill()
            crowd.wait_for_more([third, *others])
            third.kill()
            do_with_each(check_refusals, others)
            machines.start_some([third])
            crowd.wait_for_more([third, *others])
            machines.start_some([leader, second])
            crowd.wait_for_more([leader, second])
        crowd.judge()
