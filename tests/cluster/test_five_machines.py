"""Five machines: two may be away, and with three away nothing is written."""

from __future__ import annotations

import httpx
import pytest

from tests.cluster.crowd import Crowd
from tests.cluster.network import require_namespaces
from tests.cluster.whole_machines import Machine, whole_machines
from tests.system.harness import Server, wait_for


def refuses(machine: Machine) -> None:
    """Check that a machine writes nothing, and soon reads nothing."""

    def question(server: Server) -> None:
        with server.client(30) as client:
            assert client.put("/v1/kv/refused", content="v").status_code in (503, 504)
            wait_for(lambda: client.get("/v1/kv/kept").status_code == 503, f"{machine.name} refuses to read", 60)

    machine.ask(question)


def keep(machine: Machine, value: str) -> None:
    """Write the key that is read later."""

    def question(server: Server) -> bool:
        with server.client() as client:
            try:
                return client.put("/v1/kv/kept", content=value).is_success
            except httpx.HTTPError:
                return False

    wait_for(lambda: machine.ask(question), f"{machine.name} writes", 60)


def kept(machine: Machine) -> str:
    def question(server: Server) -> str:
        with server.client() as client:
            return client.get("/v1/kv/kept").raise_for_status().text

    return machine.ask(question)


@pytest.mark.timeout(600)
def test_two_of_five_may_be_away() -> None:
    require_namespaces()
    with whole_machines(("a", "b", "c", "d", "e")) as machines:
        leader = machines.leader()
        first, second, third, *others = [leader, *machines.others(leader)]
        with Crowd(machines) as crowd:
            crowd.wait_for_more(machines.all)
            first.kill()
            second.kill()
            crowd.wait_for_more([third, *others])
            for machine in (first, second):
                machine.start()
            for machine in machines.all:
                crowd.wait_for_more([machine])
        crowd.judge()

        for machine in (first, second):
            machine.kill()
        keep(third, "by three of five")
        third.kill()
        for machine in others:
            refuses(machine)
        machines.start_some([first, second, third])
        machines.wait_until_whole()
        assert [kept(machine) for machine in machines.all] == ["by three of five"] * 5
        keep(first, "by all")
        assert [kept(machine) for machine in machines.all] == ["by all"] * 5
