"""The generated configuration in three real engines: they find each other, and nobody may do more than he needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from kvserver.serve.cluster.addresses import MONITOR_OFFSET, ROUTE_OFFSET, Machine
from kvserver.serve.cluster.engine_config import password_of
from kvserver.serve.cluster.files import ClusterSetup, find_binary
from kvserver.serve.cluster.processes import is_answering
from shards.host.process import PARENT_VARIABLE
from shards.order import stream
from shards.order.carrier.engine import read_flushing
from tests.cluster.engines import wait_for

STARTS = 20
"""Of an engine that is asked too early: how often that is tried until it was indeed too early."""
SECRET = b"a secret of the cluster, of 32 bytes at least"


def free_base(taken: set[int]) -> int:
    """A port that is free together with those above it that an engine uses."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            base = first.getsockname()[1] % 20_000 + 10_000
            with contextlib.suppress(OSError):
                for port in (base, base + ROUTE_OFFSET, base + MONITOR_OFFSET):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                if base not in taken:
                    taken.add(base)
                    return base


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, ...]]:
    """Three machines on loopback, whose engines run."""
    place = Path(tempfile.mkdtemp(prefix="kv-engines-"))
    taken: set[int] = set()
    found = tuple(Machine(name, "127.0.0.1", free_base(taken)) for name in "abc")
    processes = []
    try:
        for machine in found:
            setup = ClusterSetup(machine.name, found, (), SECRET, None, find_binary())
            data = place / machine.name
            data.mkdir()
            command = [sys.executable, "-m", "kvserver.serve.cluster.run_engine", setup.binary or ""]
            config = setup.write_config(data, log_to_file=False)
            with (data / "log").open("wb") as log:
                environ = os.environ | {PARENT_VARIABLE: str(os.getpid())}
                processes.append(subprocess.Popen([*command, str(config)], stderr=log, env=environ))
        wait_for(lambda: all(is_answering(machine.monitor) for machine in found), "three engines")
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(place)


def test_what_an_engine_is_asked_while_it_starts_does_not_hide_that_it_flushes(
    machines: tuple[Machine, ...], tmp_path: Path
) -> None:
    """Its /varz shows for ever what JetStream was when it was asked first; so it is asked for other pages."""
    for machine in machines:  # they were asked from their start whether they answer
        assert json.loads(page(machine, "varz"))["jetstream"]["config"]["sync_always"]
    alone = Machine("a", "127.0.0.1", free_base(set()))
    setup = ClusterSetup("a", (alone,), (), SECRET, None, find_binary())
    for attempt in range(STARTS):
        data = tmp_path / str(attempt)
        data.mkdir()
        with subprocess.Popen([str(setup.binary), "-c", setup.write_config(data, log_to_file=True)]) as engine:
            said = wait_for(lambda: page(alone, "varz"), "a first answer")
            wait_for(lambda: "disabled" not in json.loads(page(alone, "jsz")), "JetStream")
            found = read_flushing(f"http://{alone.monitor}")
            engine.kill()
        assert found == {f"http://{alone.monitor}": True}
        if "config" not in json.loads(said)["jetstream"]:
            return


def page(machine: Machine, name: str) -> bytes:
    """What its monitoring port answers; empty: it does not."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{machine.monitor}/{name}", timeout=5) as answer:
        return bytes(answer.read())
    return b""


async def connect(machine: Machine, user: str, password: str | None = None) -> Client:
    return await nats.connect(
        f"nats://{machine.address}",
        user=user,
        password=password or password_of(SECRET, user),
        allow_reconnect=False,
        error_cb=_ignore,
    )


async def _ignore(error: Exception) -> None:
    del error


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def test_the_stream_is_made_and_kept_by_all_three(machines: tuple[Machine, ...]) -> None:
    async def work() -> None:
        client = await connect(machines[1], "b")
        answer: dict[str, Any] = {"error": ""}
        while "error" in answer:  # until the engines have found each other
            with contextlib.suppress(nats.errors.Error):
                answer = json.loads((await client.request(stream.CREATE, stream.new_stream(3), timeout=5)).data)
        assert len(answer["cluster"]["replicas"]) == 2
        out = await client.subscribe(f"{stream.OUT}.>")
        taken = json.loads((await client.request(f"{stream.LOG}.b", b"x", timeout=10)).data)
        assert (taken["stream"], taken["seq"]) == ("KV", 1)
        assert (await out.next_msg(timeout=10)).subject == f"{stream.OUT}.b"
        await client.close()

    run(work)


def test_a_machine_speaks_in_its_own_name_alone(machines: tuple[Machine, ...]) -> None:
    allowed = [f"{stream.LOG}.b", f"{stream.TELL}.b", f"{stream.ASK}.a.b", stream.INFO]
    forbidden = [
        *(f"{stream.LOG}.a", f"{stream.TELL}.a", f"{stream.ASK}.a.c", f"{stream.OUT}.b", "other"),
        *("$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.LIST", "$SYS.REQ.SERVER.PING"),
    ]

    async def refused() -> str:
        """What the engine says of the subjects that it refuses."""
        errors: list[str] = []
        is_over = asyncio.Event()

        async def note(error: Exception) -> None:
            errors.append(str(error).lower())
            if '"the.end"' in errors[-1]:
                is_over.set()

        password = password_of(SECRET, "b")
        client = await nats.connect(f"nats://{machines[0].address}", user="b", password=password, error_cb=note)
        for subject in (*allowed, *forbidden, "the.end"):
            await client.publish(subject, b"")
        await is_over.wait()
        await client.close()
        return "\n".join(errors)

    async def work() -> None:
        told = await refused()
        assert [subject for subject in allowed if f'"{subject.lower()}"' in told] == []
        assert [subject for subject in forbidden if f'"{subject.lower()}"' not in told] == []

    run(work)


@pytest.mark.parametrize(
    ("user", "secret", "answer"),
    [("a", SECRET, b"PONG"), ("a", b"another", b"-ERR"), ("engines", SECRET, b"-ERR"), ("x", SECRET, b"-ERR")],
)
def test_who_does_not_know_the_secret_stays_outside(
    machines: tuple[Machine, ...], user: str, secret: bytes, answer: bytes
) -> None:
    login = {"user": user, "pass": password_of(secret, user), "verbose": False, "pedantic": False}
    place = (machines[0].host, machines[0].port)
    with socket.create_connection(place, 10) as connection, connection.makefile("rb") as lines:
        assert lines.readline().startswith(b"INFO ")
        connection.sendall(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        assert lines.readline().startswith(answer)


def test_an_engine_ends_with_whoever_has_started_it(machines: tuple[Machine, ...], tmp_path: Path) -> None:
    machine = Machine("a", "127.0.0.1", free_base({each.port for each in machines}))
    config = ClusterSetup("a", (machine,), (), SECRET, None, find_binary()).write_config(tmp_path, log_to_file=True)
    command = ["-m", "kvserver.serve.cluster.run_engine", find_binary(), str(config)]
    script = (
        "import os, subprocess, sys, time; os.environ['KVSERVER_PARENT_PID'] = str(os.getpid());"
        f"subprocess.Popen([sys.executable, *{command}]);"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as starter:
        wait_for(lambda: is_answering(machine.monitor), "the engine")
        starter.kill()
    wait_for(lambda: not is_answering(machine.monitor), "the end of the engine")
