"""Web workers live and die: reloads, kills and stops, seen by clients; limits over all workers; counts."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Server, processes_of, wait_for

HEAD = b"PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


def web_master(server: Server) -> int:
    """The pid of the gunicorn whose workers serve REST."""
    for pid in processes_of(server.run_dir):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"kvserver.app:app" in command and parent_of(pid) == server.process.pid:  # type: ignore[union-attr]
                return pid
    raise AssertionError("there is no web master")


def parent_of(pid: int) -> int:
    found = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def worker_pids(server: Server) -> set[int]:
    return {worker["pid"] for worker in server.status()["workers"]}


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


class Clients:
    """Clients that write and read their own keys over keep-alive connections until they are stopped.

    `opened` counts connections: a client opens another only when the server said `Connection: close`.
    """

    def __init__(self, server: Server, count: int) -> None:
        self._server, self._stop = server, threading.Event()
        self.failures: list[str] = []
        self.requests = self.opened = 0
        self._threads = [threading.Thread(target=self._run, args=(f"/client-{i}",)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, path: str) -> None:
        try:
            number = 0
            while not self._stop.is_set():
                self.opened += 1
                with self._server.connect() as connection, connection.makefile("rb") as answers:
                    closing = False
                    while not closing and not self._stop.is_set():
                        number += 1
                        body = b"%d" % number
                        put = f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
                        status, _, closing = exchange(connection, answers, put.encode() + body)
                        assert status == 200, status
                        if not closing:
                            get = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"
                            status, got, closing = exchange(connection, answers, get.encode())
                            assert (status, got) == (200, body)
                        self.requests += 2
        except (OSError, AssertionError, EOFError) as error:
            self.failures.append(f"{path}: {error!r}")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def exchange(connection: socket.socket, answers: object, request: bytes) -> tuple[int, bytes, bool]:
    """Status and body of the answer, and whether the connection ends with it."""
    connection.sendall(request)
    return read_answer(answers)


def read_answer(answers: object) -> tuple[int, bytes, bool]:
    line: bytes = answers.readline()  # type: ignore[attr-defined]
    if not line:
        raise EOFError("closed without an answer")
    length, closing = 0, False
    while (field := answers.readline().strip().lower()) != b"":  # type: ignore[attr-defined]
        if field.startswith(b"content-length:"):
            length = int(field.partition(b":")[2])
        closing = closing or field == b"connection: close"
    return int(line.split()[1]), answers.read(length), closing  # type: ignore[attr-defined]


@pytest.fixture
def clients(server: Server) -> Iterator[Callable[[int], Clients]]:
    """Starts clients, and stops them at the end."""
    started: list[Clients] = []

    def start(count: int) -> Clients:
        started.append(Clients(server, count))
        wait_for(lambda: started[-1].requests > 20 * count or started[-1].failures, "first answers")
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_a_reload_under_load_fails_nothing(server: Server, clients: Callable[[int], Clients]) -> None:
    running = clients(8)
    before = worker_pids(server)
    with server.connect() as idle, server.connect() as slow, slow.makefile("rb") as slow_answers:
        idle_answers = idle.makefile("rb")
        assert exchange(idle, idle_answers, b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n") == (200, b"pong", False)
        slow.sendall(HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert read_answer(slow_answers)[0] == 100
        slow.sendall(b"12")
        os.kill(web_master(server), signal.SIGHUP)
        wait_for(lambda: len(worker_pids(server) - before) == 2, "new workers")
        assert idle_answers.read() == b""  # closed, not reset
        idle_answers.close()
        slow.sendall(b"34")
        assert read_answer(slow_answers) == (200, b"", True)
        assert slow_answers.read() == b""
    wait_for(lambda: not any(alive(pid) for pid in before), "end of the old workers")
    at_end = running.requests
    wait_for(lambda: running.requests > at_end + 100 or running.failures, "answers of the new workers")
    running.stop()
    assert running.failures == []
    assert running.opened >= 8


def test_workers_are_scheduled_as_the_settings_say(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--in-memory", "--workers", "2", "--scheduling", "batch") as server:
        assert [worker["scheduling"] for worker in server.status()["workers"]] == ["batch"] * 2
        threads = [int(path.name) for pid in worker_pids(server) for path in Path(f"/proc/{pid}/task").iterdir()]
        assert len(threads) > 2  # ZeroMQ's are among them
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}
        [shard] = server.shard_pids()
        assert os.sched_getscheduler(shard) == os.SCHED_OTHER


def test_a_killed_worker_is_replaced(server: Server) -> None:
    before = worker_pids(server)
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: len(worker_pids(server)) == 2 and min(before) not in worker_pids(server), "another worker")


def test_workers_die_with_their_master_and_nobody_is_refused(server: Server) -> None:
    before, master = worker_pids(server), web_master(server)
    os.kill(master, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in before), "end of the orphans")
    with server.client() as client:  # it waits in the listening socket's queue, which the supervisor keeps open
        assert client.get("/ping").text == "pong"
    assert web_master(server) != master
    wait_for(lambda: len(worker_pids(server)) == 2, "both workers")


@contextlib.contextmanager
def many_connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """So many at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield [stack.enter_context(server.connect()) for _ in range(count)]


def statuses(waiting: list[socket.socket]) -> list[int]:
    """Of the answer to each."""
    found = []
    for connection in waiting:
        with connection.makefile("rb") as answers:
            found.append(read_answer(answers)[0])
    return found


def test_the_limit_of_requests_holds_over_all_workers(server: Server) -> None:
    """They wait for shards that stand still."""
    shards = server.shard_pids()
    with many_connections(server, 1100) as waiting:
        try:
            for pid in shards:
                os.kill(pid, signal.SIGSTOP)
            poll = select.poll()
            for connection in waiting:
                connection.sendall(HEAD + b"1234")
                poll.register(connection, select.POLLIN)
            wait_for(lambda: len(poll.poll(100)) >= len(waiting) - 1025, "refusals of what is too much")
            with server.client() as client:
                answer = client.get("/a")
            assert (answer.status_code, answer.text) == (503, "service is overloaded, try again later")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["access-control-allow-origin"] == "*"
        finally:
            for pid in shards:
                os.kill(pid, signal.SIGCONT)
        found = statuses(waiting)
    assert set(found) == {200, 503}
    assert 1024 <= found.count(200) <= 1025  # workers look at each other's counts without a lock
    with server.client() as client:
        assert client.get("/slow").content == b"1234"


@pytest.mark.parametrize(
    "begun", [HEAD + b"12", HEAD[:-2], HEAD.replace(b"PUT /slow", b"POST /ping"), HEAD.replace(b"PUT", b"OPTIONS")]
)
def test_who_has_not_finished_asking_keeps_nobody_out(server: Server, begun: bytes) -> None:
    with many_connections(server, 1100) as waiting:
        for connection in waiting:
            connection.sendall(begun)
        with server.client() as client:
            for i in range(20):
                assert client.put(f"/beside-{i}", content=b"x").status_code == 200
                assert client.get(f"/beside-{i}").content == b"x"
        if begun == HEAD + b"12":
            for some in (waiting[:550], waiting[550:]):  # so that no more than 1,024 are whole at once
                for connection in some:
                    connection.sendall(b"34")
                assert set(statuses(some)) == {200}


def connections(server: Server) -> list[int]:
    return [worker["connections"] for worker in server.status()["workers"]]


def test_connections_that_come_at_once_are_shared_out(server: Server) -> None:
    wait_for(lambda: max(connections(server)) <= 1, "the connections of the tests before to be gone")
    with contextlib.ExitStack() as stack:
        burst = [stack.enter_context(socket.socket()) for _ in range(100)]
        for connection in burst:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", server.port))
        wait_for(lambda: sum(connections(server)) >= 100, "all of them")
        assert min(connections(server)) >= 40


def test_connections_that_others_do_not_take_are_taken(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        stopped = min(worker_pids(server))
        stack.callback(os.kill, stopped, signal.SIGCONT)
        os.kill(stopped, signal.SIGSTOP)  # it has the fewest, and takes none
        for _ in range(50):
            connection = stack.enter_context(server.connect())
            with connection.makefile("rb") as answers:
                assert exchange(connection, answers, b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")[:2] == (200, b"pong")


def test_want_of_descriptors_ends_no_worker(server: Server) -> None:
    """Nor does it fill the log."""
    scarce = "no connection can be taken"
    before = worker_pids(server)
    for pid in before:
        most = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 10
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            wait_for(lambda: f"{scarce}: Too many open files (and " in server.log(), "seconds without descriptors", 60)
            told = [int(more) for more in re.findall(rf"{scarce}: .* \(and (\d+) more", server.log())]
            assert max(told) > 40
            assert server.log().count(scarce) <= 4, "each worker says it once in 10 seconds"
        with server.client() as client:
            assert client.get("/ping").text == "pong"
        assert worker_pids(server) == before
    finally:
        os.kill(web_master(server), signal.SIGHUP)
        wait_for(lambda: not worker_pids(server) & before and len(worker_pids(server)) == 2, "new workers")


def test_requests_are_counted_by_route(server: Server) -> None:
    def counted(labels: str) -> float:
        found = re.search(rf"^http_requests_total{{{re.escape(labels)}}} (\S+)$", server.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    labels = 'method="DELETE",path="/:key",status="404"'
    before = counted(labels)
    with server.client() as client:
        for i in range(10):
            assert client.delete(f"/counted-{i}").status_code == 404
    wait_for(lambda: counted(labels) == before + 10, "the counts")
    assert f'http_requests_duration_seconds_bucket{{le="+Inf",{labels}}} {before + 10}' in server.metrics()
    assert "counted-" not in server.metrics()
