"""Every client beside a killer: what it says of its writes is true, and its watches miss nothing and double nothing.

Web workers, the master, gateways, shards and the supervisor are killed in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import effort
from tests.client.killing import VICTIMS, Killer, free_port
from tests.client.sdks import Sdk
from tests.client.witness import Witness
from tests.system.harness import Server, wait_for

KILLS = effort.times(len(VICTIMS))


@pytest.fixture
def killed_server(tmp_path: Path) -> Iterator[Server]:
    """A server that comes back to the same port when it is started again."""
    options = ("--shards", "2", "--workers", "2", "--gateways", "1", "--sync", "os", "--port", str(free_port()))
    with Server(tmp_path / "data", *options) as server:
        server.tracebacks_expected = True  # of workers whose shard was killed under them
        yield server


@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("patience", [0, 5], ids=["no repeats", "repeats"])
def test_the_feed_is_witness(sdk: Sdk, killed_server: Server, patience: float) -> None:
    server = killed_server
    options = {"patience": patience, "timeout": 5, "idempotency": patience > 0 and remembers_outcomes(server)}
    with Witness(sdk, server.url, server, options) as witness:
        killer = Killer(server, seed=len(sdk.name) + int(patience))
        killer.start()
        wait_for(lambda: killer.kills >= KILLS or killer.failure, f"{KILLS} kills", 20.0 * KILLS)
        killer.stop()
        witness.check()
    assert sum(len(writer.done) for writer in witness.writers) > 100, "else little was tried"


def remembers_outcomes(server: Server) -> bool:
    """Whether the server knows Idempotency-Key."""
    with server.client() as client:
        for _ in range(2):
            answer = client.put("/v1/kv/probe", content=b"", headers={"Idempotency-Key": "probe"})
    return "idempotency-replayed" in answer.headers
