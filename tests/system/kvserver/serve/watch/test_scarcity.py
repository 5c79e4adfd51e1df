"""What strangers and want of descriptors can do to the supervisor: nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.harness import Server, processes_of, wait_for

NewServer = Callable[..., Server]


def process(server: Server, module: str) -> int:
    """The pid of the server's process that runs `module`; 0: there is none."""
    for pid in processes_of(server.run_dir):
        with contextlib.suppress(OSError):
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return 0


def exporter(server: Server) -> int:
    return process(server, "kvserver.serve.metrics.exporter")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def restarts(server: Server) -> dict[str, float]:
    return {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(server.metrics())
        for sample in family.samples
        if sample.name == "kvserver_process_restarts_total"
    }


def supervisor(server: Server) -> int:
    assert server.process is not None and server.process.poll() is None, server.log()
    return server.process.pid


@contextlib.contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """`pid` can open nothing more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = 1 + max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    taken = descriptors(pid)
    # Descriptors below the limit that are free would be used first: the limit is the first of them.
    free = next(number for number in range(most + 1) if not Path(f"/proc/{pid}/fd/{number}").exists())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
        assert descriptors(pid) <= taken
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_silent_connections_take_nothing_from_the_supervisor(server: Server) -> None:
    before, pid = descriptors(supervisor(server)), exporter(server)
    assert restarts(server)["metrics"] == 0
    address = ("127.0.0.1", server.metrics_port)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, 15)) for _ in range(400)]
        for connection in silent[::2]:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        for _ in range(3):
            assert restarts(server)["metrics"] == 0
        assert descriptors(supervisor(server)) < before + 10, "but for what it has open for a moment"
        assert descriptors(pid) < 100
    assert exporter(server) == pid


def test_metrics_may_die_alone_and_scrapers_wait_for_the_next(server: Server) -> None:
    others = set(processes_of(server.run_dir)) - {exporter(server)}
    before = restarts(server)["metrics"]
    os.kill(exporter(server), signal.SIGKILL)
    assert "kvserver_info" in server.metrics(), "nobody is refused meanwhile"
    wait_for(lambda: restarts(server)["metrics"] == before + 1, "the restart counted")
    assert set(processes_of(server.run_dir)) - {exporter(server)} == others


def test_want_of_descriptors_where_metrics_are_served_passes(server: Server) -> None:
    pid = exporter(server)
    address = ("127.0.0.1", server.metrics_port)
    with no_descriptor_left(pid), contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(address, 15))
        assert httpx.get(server.url + "/health/ready", trust_env=False).status_code == 200
    assert "kvserver_info" in server.metrics()
    assert exporter(server) == pid


def test_a_store_alone_serves_metrics_from_a_process_that_may_die(new_server: NewServer) -> None:
    store = new_server("--only", "store", "--shards", "1")
    running = store.spawn()
    assert running.stdout is not None
    lines = list(iter(running.stdout.readline, "ready\n"))
    store.metrics_port = int(next(line for line in lines if "/metrics" in line).split(":")[2].split("/")[0])
    assert restarts(store) == {"shard 0": 0, "gateway": 0, "web": 0, "metrics": 0}
    os.kill(exporter(store), signal.SIGKILL)
    wait_for(lambda: restarts(store)["metrics"] == 1, "the next")
    store.stop()


def put(server: Server, key: str, value: bytes) -> int:
    try:
        return httpx.put(f"{server.url}/{key}", content=value, trust_env=False, timeout=30).status_code
    except httpx.HTTPError:
        return 0


def test_want_of_descriptors_in_the_supervisor_ends_nothing(new_server: NewServer) -> None:
    """Whatever it wants to open, spawn or accept meanwhile; afterwards all of it is done."""
    server = new_server("--shards", "1", "--workers", "1", "--sync", "os")
    with server.start():
        shard = server.shard_pids()[0]
        with no_descriptor_left(supervisor(server)):
            wait_for(lambda: "the check for stalled processes has to wait" in server.log(), "a look at the locks")
            # Of the log, more than is ready: another segment has to be made.
            for number in range(14):
                assert put(server, f"large-{number}", bytes(5_000_000)) == 200
            wait_for(lambda: "making room for the log has to wait" in server.log(), "the need of a segment")
            for _ in range(2):  # a second of idleness wants a mark, in a segment that is not open yet
                os.kill(supervisor(server), signal.SIGHUP)
                wait_for(lambda: get(server, "large-0") == 200, "an answer")
            os.kill(exporter(server), signal.SIGKILL)
            os.kill(shard, signal.SIGKILL)
            wait_for(lambda: "cannot start shard 0 now" in server.log(), "the first try")
            wait_for(lambda: "cannot start metrics now" in server.log(), "the first try")
            assert get(server, "large-0") == 200
            late: list[int] = []
            waiting = threading.Thread(target=lambda: late.append(put(server, "late", b"x")))
            waiting.start()
        waiting.join()
        assert late in ([200], [503], [504])
        wait_for(lambda: put(server, "after", b"x") == 200, "writes again")
        wait_for(lambda: server.metrics(), "metrics again")
        for number in range(14):
            assert put(server, f"large-{number}", bytes(5_000_000)) == 200
        wait_for(lambda: "making room for the log works again" in server.log(), "the word that it is over")
        supervisor(server)


def get(server: Server, key: str) -> int:
    return httpx.get(f"{server.url}/{key}", trust_env=False, timeout=30).status_code


@pytest.fixture(autouse=True)
def no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Want of descriptors is told in a line."""
    yield
    if "server" in request.fixturenames:
        assert "Traceback" not in request.getfixturevalue("server").log()
