"""Clients with several URLs: they go to another server when one fails, lose no write, and their watches miss nothing.

Two ways to one server stand for two servers of one store.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.client import AsyncClient, CannotConnect, Client, Connected, Waiting
from tests.client.canned import CannedServer
from tests.client.driver import Driver
from tests.client.gate import DeafPort, Gate
from tests.client.sdks import Sdk
from tests.client.watching import Watching
from tests.client.witness import Witness
from tests.system.harness import Server
from tests.system.kvserver.commands.programs import run

TURNS = 4
_PROBLEM = json.dumps({"code": "not_current", "status": 503, "title": "This machine may be behind"}).encode()
NOT_CURRENT = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 30\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_PROBLEM)
) + _PROBLEM


@pytest.fixture
def gates(server: Server) -> Iterator[tuple[Gate, Gate]]:
    """Two ways to the server."""
    with Gate("127.0.0.1", server.port) as one, Gate("127.0.0.1", server.port) as other:
        yield one, other


def url_of(*places: Gate | CannedServer | DeafPort | Server) -> str:
    return ",".join(place.url for place in places)


@pytest.mark.timeout(180)
def test_one_of_two_is_always_there(sdk: Sdk, server: Server, gates: tuple[Gate, Gate]) -> None:
    with server.client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
    options = {"patience": 20, "timeout": 10, "idempotency": True}
    with Witness(sdk, url_of(*gates), server, options) as witness:
        for turn in range(TURNS):
            gates[turn % 2].shut()
            witness.wait_for_progress()
            gates[turn % 2].open()
        witness.check()
    witness.check_all_known()


def test_another_is_asked_at_once_when_one_is_not_current(sdk: Sdk, server: Server, key: str) -> None:
    with CannedServer() as canned:
        canned.answers.append(NOT_CURRENT)
        with Driver(sdk.command(), url_of(canned, server)) as driver:
            driver.ask("options", timeout=10, patience=5, idempotency=False)
            for value in (b"1", b"2", b"3"):
                driver.ask("put", key=key, value_base64=base64.b64encode(value).decode())
            assert base64.b64decode(driver.ask("get", key=key)["value_base64"]) == b"3"
        assert len(canned.requests) == 1, "it stays with the one that answers"


def test_when_all_refuse_it_is_told_the_last_error(sdk: Sdk) -> None:
    with CannedServer() as one, CannedServer() as other:
        one.answers.append(NOT_CURRENT.replace(b"Retry-After: 30", b"Retry-After: 0"))
        other.answers.append(one.answers[0])
        with Driver(sdk.command(), url_of(one, other)) as driver:
            driver.ask("options", timeout=10, patience=0.5, idempotency=True)
            error = driver.fails("put", key="k", value_base64="")
            assert (error.half, error.status) == ("refused", 503)
        assert one.requests and other.requests
        assert len({head for head in one.requests + other.requests if "dempotency-" in head}) >= 1


def test_a_watch_begins_where_the_first_server_refuses(sdk: Sdk, server: Server, key: str) -> None:
    with CannedServer() as canned:
        canned.answers.append(NOT_CURRENT)
        with Watching(sdk, url_of(canned, server), prefixes=[key]) as watching:
            with server.client() as client:
                client.put(f"/v1/kv/{key}", content=b"v").raise_for_status()
            assert [change["key"] for change in watching.take()] == [key]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_machine_that_does_not_answer_holds_nobody_up(kind: str, server: Server) -> None:
    async def ask() -> None:
        async with AsyncClient(url_of(deaf, server), timeout=30) as kv:
            await kv.put("deaf", kind)

    with DeafPort() as deaf:
        if kind == "async":
            asyncio.run(ask())
        else:
            with Client([deaf.url, server.url], timeout=30) as kv:
                kv.put("deaf", kind)
    with Client(server.url) as kv:
        assert kv["deaf"] == kind.encode()


def test_a_mirror_goes_on_over_the_other(gates: tuple[Gate, Gate], server: Server) -> None:
    states = []
    with (
        Client([gate.url for gate in gates]) as kv,
        Client(server.url) as writer,
        kv.mirror("mirrored/", on_state=states.append) as mirror,
    ):
        for turn in range(TURNS):
            gates[turn % 2].shut()
            written = writer.put(f"mirrored/{turn}", str(turn))
            mirror.wait_revision(written.revision, 30)
            assert {key: entry.text for key, entry in mirror.items()} == {
                f"mirrored/{n}": str(n) for n in range(turn + 1)
            }
            gates[turn % 2].open()
        writer.delete_prefix("mirrored/")
    assert sum(isinstance(state, Connected) for state in states) == TURNS + 1
    assert sum(isinstance(state, Waiting) for state in states) == TURNS, "each time the other is there at once"


def test_the_command_line_takes_several(gates: tuple[Gate, Gate]) -> None:
    gates[0].shut()
    urls = ("--url", gates[0].url, "--url", gates[1].url)
    assert run(None, "put", "by/command", "v", *urls).returncode == 0
    assert run(None, "get", "by/command", KVSERVER_URL=url_of(*gates)).stdout == b"v"
    gates[1].shut()
    assert run(None, "get", "by/command", "--patience", "200ms", *urls).returncode == 6


def test_an_export_goes_on_over_the_other(server: Server, gates: tuple[Gate, Gate], tmp_path: Path) -> None:
    with Client(server.url) as kv:
        kv.put_many((f"exported/{n:04}", "v" * 100) for n in range(2000))
    gates[0].shut()
    file = tmp_path / "out.ndjson"
    done = run(None, "export", "--prefix", "exported/", str(file), "--url", url_of(*gates))
    assert done.returncode == 0, done
    assert len(file.read_bytes().splitlines()) == 2000


def test_nobody_is_there(gates: tuple[Gate, Gate]) -> None:
    for gate in gates:
        gate.shut()
    with Client(url_of(*gates), patience=0.3) as kv, pytest.raises(CannotConnect) as raised:
        kv.ping()
    assert raised.value.attempts >= 4
