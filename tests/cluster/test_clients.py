"""Every client on a real cluster, whose machines are killed in turn: it loses no write and no change, doubles none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import effort
from tests.client.sdks import DRIVERS, Sdk
from tests.client.witness import Witness
from tests.cluster.own_engines import OwnEngines, own_engines

TURNS = effort.times(1)


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnEngines]:
    """Three machines, each of which comes back at its port."""
    with own_engines() as made:
        for server in made.all:
            server.options = (*server.options, "--port", str(server.port))
            server.tracebacks_expected = True  # of workers whose shard is killed under them
        yield made


@pytest.mark.timeout(240 + 120 * TURNS)
@pytest.mark.parametrize("sdk", DRIVERS.values(), ids=DRIVERS)
def test_the_history_is_witness(sdk: Sdk, servers: OwnEngines) -> None:
    urls = ",".join(server.url for server in servers.all)
    with servers.all[0].client(60) as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    options = {"patience": 60, "timeout": 15, "idempotency": True}
    with Witness(sdk, urls, servers.all[2], options, patience_s=90) as witness:
        witness.wait_for_progress()  # a watch is patient once it has heard something
        for turn in range(TURNS):
            servers.all[turn % 2].kill()
            witness.wait_for_progress()
            servers.all[turn % 2].start()
        witness.check()
    witness.check_all_known()
