"""Programs that use the C client, under the sanitizers: its examples, and one that was written for MemoryKV's SDK."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.c import building
from tests.client.c.building import SDK, run
from tests.system.harness import Server

Build = Callable[[str], Path]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, client_object: Path) -> Build:
    """Builds an example by name."""
    folder = tmp_path_factory.mktemp("examples")
    return lambda name: building.link(folder / name, SDK / "examples" / f"{name}.c", client_object)


def start(program: Path, *arguments: str, url: str) -> subprocess.Popen[str]:
    """Start a program whose output is read later."""
    environ = building.bare_environ() | {"KVSERVER_URL": url}
    return subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a program that must end well, and return the rest of its output."""
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, ""), output
    return output


def test_rest(example: Build, server: Server) -> None:
    output = run([example("rest")], KVSERVER_URL=server.url).splitlines()
    assert output[0] == "another client changed it: the key has another revision"
    assert output[1].startswith("an apple costs 70, until 20")
    assert output[2:] == [
        "1 visits",
        "shop/pear: not found",
        "  shop/apple = 70 (text/plain)",
        "  shop/visits = 1 (text/plain)",
        "2 keys deleted",
    ]


def test_feed(example: Build, server: Server) -> None:
    with server.client() as client:
        client.put("/v1/kv/feed/before", content=b"1").raise_for_status()
        process = start(example("feed"), "feed/", "3", url=server.url)
        assert process.stdout is not None
        first = [process.stdout.readline().rstrip() for _ in range(3)]
        client.put("/v1/kv/feed/a%00b", content=b"2").raise_for_status()
        client.post("/v1/kv/feed/before?ttl=3600").raise_for_status()
        client.delete("/v1/kv/feed/before").raise_for_status()
        output = end(process).splitlines()
    assert first == [
        "---  what follows replaces all that was known (start)",
        "is   feed/before = 1",
        "---  that was everything; now the changes",
    ]
    assert output[0].startswith("put  feed/a") and output[1].startswith("ttl  feed/before until 20")
    assert output[2] == "del  feed/before (request)" and output[3].startswith("to continue: since=")


def test_memorykv(example: Build, server: Server) -> None:
    output = run([example("memorykv")], KVSERVER_URL=server.url).splitlines()
    assert output[:4] == ["put: ", 'put again: {"name": "first"}', "put other: ", 'get: {"name": "second"}']
    assert output[6:] == ['delete: {"name": "second"}', 'delete below c: ["c sdk/2"]', "delete all: "]


def test_the_feed_of_memorykv(example: Build, server: Server) -> None:
    process = start(example("memorykv"), "watch", "3", url=server.url)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Heartbeat from ")
    with server.client() as client:
        client.put("/wal%2Fkey", content=b"v").raise_for_status()
        client.delete("/wal%2Fkey").raise_for_status()
    assert end(process).splitlines() == ["Insert { key: wal/key, value: v }", "Delete { key: wal/key }", "watch: "]


def test_the_feed_of_memorykv_survives_a_restart(example: Build, new_c_server: Callable[..., Server]) -> None:
    """The server comes back at the same port; what came between is not told."""
    server = new_c_server().start()
    process = start(example("memorykv"), "watch", "3", url=server.url)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Heartbeat from ")
    server.stop()
    again = new_c_server("--port", str(server.port)).start()
    assert process.stdout.readline().startswith("Heartbeat from ")
    with again.client() as client:
        client.put("/k", content=b"v").raise_for_status()
    assert end(process).splitlines() == ["Insert { key: k, value: v }", "watch: "]


@pytest.mark.parametrize("standard", ["-std=c99", "-std=c11", "-std=gnu17"])
def test_a_program_for_memorykv_compiles_unchanged(
    tmp_path: Path, client_object: Path, server: Server, standard: str
) -> None:
    source = Path(__file__).parent / "memorykv_program.c"
    program = building.link(tmp_path / "program", source, client_object, standard=standard)
    output = run([program, server.url]).splitlines()
    assert output == [
        "put ok []",
        "put ok []",
        "put ok []",
        'put ok [{ "name" : "Body" }]',
        "get ok [again]",
        "get ok [three]",
        "get ok []",
        'list ok [["a b/c?d#e%41","c_sdk","c_sdk2"]]',
        'list c ok [["c_sdk","c_sdk2"]]',
        "delete ok [again]",
        "delete ok []",
        'delete c ok [["c_sdk2"]]',
        "delete all ok []",
        "list ok [[]]",
    ]


def test_a_program_for_memorykv_without_a_server(tmp_path: Path, client_object: Path) -> None:
    source = Path(__file__).parent / "memorykv_program.c"
    program = building.link(tmp_path / "program", source, client_object)
    output = run([program, "http://127.0.0.1:1"]).splitlines()
    assert len(output) == 14 and all(" error [" in line for line in output)
    assert "Connect" in output[0] or "connect" in output[0]
