"""`kvserver serve` as its operator sees it: what it says, what it survives, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shards.host.board import NONE, Board, ProcessRow
from tests.system.harness import Server, processes_of, wait_for

NewServer = Callable[..., Server]


def board_of(server: Server) -> Board:
    return Board.open(server.run_dir / "board")


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def gunicorns(server: Server, app: str) -> list[int]:
    return [pid for pid in processes_of(server.run_dir) if app in command_line(pid)]


def master(server: Server, app: str) -> int:
    """The pid of the gunicorn master that runs `app`."""
    pids = gunicorns(server, app)
    return next(pid for pid in pids if server.process and f"\nPPid:\t{server.process.pid}\n" in status(pid))


def status(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text()
    return ""


def gauge(server: Server, name: str) -> float:
    families = text_string_to_metric_families(server.metrics())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def put(server: Server, key: str, value: bytes) -> None:
    with server.client() as client:
        client.put(f"/{key}", content=value).raise_for_status()


def get(server: Server, key: str) -> bytes:
    with server.client() as client:
        return client.get(f"/{key}").raise_for_status().content


class Load:
    """PUTs one after the other from a thread, each on a connection of its own or all on one; counts what failed."""

    def __init__(self, server: Server, keep_alive: bool) -> None:
        self.answered, self.failed = 0, list[str]()
        self._server, self._keep_alive, self._stop = server, keep_alive, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if self._keep_alive else 0)
        with httpx.Client(base_url=self._server.url, trust_env=False, timeout=15, limits=limits) as client:
            while not self._stop.is_set():
                try:
                    answer = client.put("/load", content=b"x")
                    if answer.status_code == 200:
                        self.answered += 1
                    else:
                        self.failed.append(str(answer.status_code))
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))


# What it says.


def test_the_banner_names_everything_and_ends_with_ready(server: Server) -> None:
    lines = server.banner.splitlines()
    assert lines[0].startswith("kvserver ")
    assert lines[-1] == "ready"
    for text in (
        f"REST       {server.url}",
        f"feed       {server.feed_url}",
        f"http://127.0.0.1:{server.metrics_port}/metrics",
        "shards     2",
        "workers    2 web, 1 feed",
        str(server.data_dir),
        str(server.run_dir),
        str(server.map_dir),
        "always: every write is flushed",
        "any web page open in a browser on this machine",
    ):
        assert text in server.banner


def test_a_good_start_has_nothing_to_warn_of(server: Server) -> None:
    assert not [line for line in server.log().splitlines() if "INFO" not in line]


def refused(server: Server) -> str:
    """What a server says that does not start."""
    process = server.spawn()
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert process.wait(20) == 1
    process.stdout.close()
    return server.log()


def test_a_second_server_on_the_same_data_is_told_who_has_it(server: Server, new_server: NewServer) -> None:
    second = new_server()
    second.data_dir = server.data_dir
    assert server.process is not None
    assert f"is served by another process (pid {server.process.pid})" in refused(second)


@pytest.mark.parametrize("option", ["--port", "--metrics-port", "--feed-port"])
def test_a_taken_port_is_named_with_the_option_to_change(server: Server, new_server: NewServer, option: str) -> None:
    second = new_server(option, str(server.port))
    assert f"port {server.port} on 127.0.0.1 is taken: choose another with {option}" in refused(second)
    assert not second.data_dir.exists()


def test_a_run_directory_that_cannot_be_used_is_named(new_server: NewServer) -> None:
    server = new_server()
    (server.run_dir / "metrics").write_text("in the way")
    said = refused(server)
    assert f"the run directory {server.run_dir} holds other files (metrics)" in said
    assert "--run-dir" in said


def test_others_are_not_let_in_by_accident(new_server: NewServer) -> None:
    assert "no access control" in refused(new_server("--host", "0.0.0.0"))


def test_a_directory_of_other_files_is_not_taken(new_server: NewServer) -> None:
    server = new_server()
    server.data_dir.mkdir()
    (server.data_dir / "letter.txt").write_text("dear")
    assert "holds other files (letter.txt)" in refused(server)
    assert [path.name for path in server.data_dir.iterdir()] == ["letter.txt"]


def test_what_cannot_start_at_all_ends_everything_and_is_named(new_server: NewServer, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "falcon.py").write_text("raise RuntimeError('no falcon today')")
    server = new_server("--workers", "1", environ={"PYTHONPATH": str(broken)})
    server.tracebacks_expected = True
    said = refused(server)
    assert "no falcon today" in said
    assert "cannot start web" in said
    assert processes_of(server.run_dir) == []


# What it survives.


def dead(pid: int) -> bool:
    return not status(pid) or "State:\tZ" in status(pid)


def test_a_shard_may_be_killed(server: Server) -> None:
    put(server, "kept", b"1")
    first, second = server.shard_pids()
    restarts = gauge(server, "kvserver_process_restarts_total")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: dead(first) and is_up(server), "the restart")
    put(server, "a", b"2")
    assert get(server, "kept") == b"1"
    assert server.shard_pids()[0] != first
    assert server.shard_pids()[1] == second
    assert gauge(server, "kvserver_process_restarts_total") == restarts + 1


@pytest.mark.parametrize("app", ["kvserver.app:app", "kvserver.gateway:app"])
def test_a_gunicorn_master_may_be_killed_and_its_workers_go_too(server: Server, app: str) -> None:
    put(server, "kept", b"1")
    before = gunicorns(server, app)
    os.kill(master(server, app), signal.SIGKILL)
    wait_for(lambda: all(dead(pid) for pid in before), "the end of all its workers")
    wait_for(lambda: is_up(server), "the restart")
    assert get(server, "kept") == b"1"


def is_up(server: Server) -> bool:
    """Whether all rows say so, and a request is answered."""
    board = board_of(server)
    try:
        rows = [
            *board.shards,
            *(row for _, row in board.gateways.living_rows()),
            *(row for _, row in board.workers.living_rows()),
        ]
        if len(rows) < 5 or any(row.state != ProcessRow.UP or not status(row.pid) for row in rows):
            return False
    finally:
        board.close()
    with contextlib.suppress(httpx.HTTPError), server.client() as client:
        return client.get("/health/ready").status_code == 200
    return False


def test_a_web_worker_may_be_killed(server: Server) -> None:
    board = board_of(server)
    pids = {row.pid for _, row in board.workers.living_rows()}
    os.kill(min(pids), signal.SIGKILL)
    wait_for(lambda: len({row.pid for _, row in board.workers.living_rows()} - {min(pids)}) == 2, "another worker")
    board.close()
    wait_for(lambda: is_up(server), "all rows up")
    put(server, "a", b"1")


def test_connections_wait_while_the_web_master_is_restarted(server: Server) -> None:
    with Load(server, keep_alive=False) as load:
        wait_for(lambda: load.answered > 20, "some answers")
        pid = master(server, "kvserver.app:app")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: gunicorns(server, "kvserver.app:app") and not status(pid), "the restart")
        seen = load.answered
        wait_for(lambda: load.answered > seen + 20, "answers again")
    # Requests that the dead workers had are lost, of course; but nobody is refused.
    assert "ConnectError" not in str(load.failed)


def test_a_reload_fails_no_request_and_leaves_the_gateway(server: Server) -> None:
    assert server.process is not None
    gateway, web = set(gunicorns(server, "kvserver.gateway:app")), set(gunicorns(server, "kvserver.app:app"))
    the_master = master(server, "kvserver.app:app")
    with Load(server, keep_alive=True) as kept, Load(server, keep_alive=False) as fresh:
        wait_for(lambda: min(kept.answered, fresh.answered) > 20, "some answers")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: set(gunicorns(server, "kvserver.app:app")) & web == {the_master}, "new workers alone", 30)
        wait_for(lambda: is_up(server), "all up")
        seen = kept.answered
        wait_for(lambda: kept.answered > seen + 20, "answers by the new ones")
    assert kept.failed == fresh.failed == []
    assert set(gunicorns(server, "kvserver.gateway:app")) == gateway


def test_a_stopped_shard_is_killed_when_it_holds_up_others(server: Server) -> None:
    # A process that is stopped between append and apply, or with a lock, holds back the feed or every shard. Stop one
    # at random under load until it is caught there; the supervisor then ends it, and everything goes on.
    board = board_of(server)
    with Load(server, keep_alive=True) as load:
        wait_for(lambda: load.answered > 20, "some answers")
        pid = caught_open(board)
        wait_for(lambda: dead(pid), "its end", 10)
        seen = load.answered
        wait_for(lambda: load.answered > seen + 20, "answers again")
    assert all(row.pid != pid for row in board.shards)
    assert board.watermark()[0] == board.history()[0]
    board.close()
    assert f"killing pid {pid}" in server.log()


def caught_open(board: Board) -> int:
    """The pid of a shard that stands still with an open record."""
    while True:
        for row in board.shards:
            if row.open != NONE and stopped(row.pid):
                if row.open != NONE:
                    return row.pid
                os.kill(row.pid, signal.SIGCONT)


def stopped(pid: int) -> bool:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "State:\tT" in status(pid), "the stop")
    return True


def test_a_killed_supervisor_leaves_no_process_and_loses_nothing(new_server: NewServer) -> None:
    server = new_server("--shards", "2", "--workers", "1")
    with server.start():
        put(server, "a", b"1")
        epoch, shard = epoch_of(server), server.shard_pids()[0]
        os.kill(shard, signal.SIGSTOP)  # a process that is stopped must go too
        server.kill()  # fails if one is left
        server.start()
        assert get(server, "a") == b"1"
        assert epoch_of(server) == epoch


@pytest.mark.parametrize("what", ["run directory", "board", "map directory"])
def test_what_all_meet_in_is_removed_and_the_server_ends(new_server: NewServer, what: str) -> None:
    server = new_server("--shards", "2", "--workers", "1")
    with server.start():
        put(server, "a", b"1")
        with connect(server.feed_url) as feed:
            if what == "board":
                (server.run_dir / "board").unlink()
            else:
                shutil.rmtree(server.run_dir if what == "run directory" else server.map_dir)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    feed.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert server.process is not None
        assert server.process.wait(20) == 1
        directory = server.map_dir if what == "map directory" else server.run_dir
        assert f"directory {directory} was removed" in server.log()
        assert processes_of(server.run_dir) == []
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.start()
        assert get(server, "a") == b"1"


def epoch_of(server: Server) -> str:
    board = board_of(server)
    try:
        return board.facts.epoch
    finally:
        board.close()


# What it leaves behind.


def test_a_stop_answers_what_is_under_way_and_closes_the_store(new_server: NewServer) -> None:
    server = new_server("--shards", "2", "--workers", "1", "--grace", "60")
    with server.start():
        maps = sorted(path.name for path in server.map_dir.glob("shard-*.*"))
        epoch = epoch_of(server)
        assert server.process is not None
        with server.connect() as connection:
            begin_a_request(server, connection)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not accepts(server), "the end of listening")
            connection.sendall(b"lo")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            server.stop()
        assert [path.name for path in server.run_dir.iterdir()] == ["lock"]
        assert sorted(path.name for path in server.map_dir.glob("shard-*.*")) == maps
        server.start()
        assert get(server, "slow") == b"hello"
        assert epoch_of(server) == epoch
        # ... and now a disk that fails.
        board = board_of(server)
        board.log.broken = 1
        board.close()
        assert server.process.wait(20) == 1
        assert "the log could not be flushed" in server.log()
        assert processes_of(server.run_dir) == []


def test_a_stop_answers_who_waits_to_be_accepted_and_resets_nobody(new_server: NewServer) -> None:
    server = new_server("--shards", "1", "--workers", "1")
    with server.start(), contextlib.ExitStack() as stack:
        assert server.process is not None
        board = board_of(server)
        [worker] = [row.pid for _, row in board.workers.living_rows()]
        board.close()
        stopped(worker)
        waiting = [stack.enter_context(server.connect()) for _ in range(50)]
        for connection in waiting:
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(server), "the end of listening")
        os.kill(worker, signal.SIGCONT)
        for connection in waiting:
            with connection.makefile("rb") as answer:
                said = answer.read()
            assert said.startswith(b"HTTP/1.1 200"), said
            assert said.endswith(b"pong"), said
        server.stop()


def test_a_second_interrupt_hurries(new_server: NewServer) -> None:
    server = new_server("--workers", "1", "--grace", "300", "--host", "::1")
    with server.start(), server.connect() as connection:
        assert server.url.startswith("http://[::1]:")
        begin_a_request(server, connection)
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: not accepts(server), "the end of listening")
        server.process.send_signal(signal.SIGINT)
        server.stop()


@pytest.mark.parametrize("nohup", [False, True])
def test_closing_the_terminal_stops_it_unless_told_otherwise(new_server: NewServer, nohup: bool) -> None:
    server = new_server("--workers", "1")
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        with server.log_path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        os.execv(sys.executable, server.command())
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 4096)
    if not nohup:
        os.kill(pid, signal.SIGHUP)  # as long as there is a terminal, this only replaces the web workers
    board = board_of(server)
    workers = {row.pid for _, row in board.workers.living_rows()}
    wait_for(lambda: nohup or {row.pid for _, row in board.workers.living_rows()}.isdisjoint(workers), "new workers")
    workers = {row.pid for _, row in board.workers.living_rows()}
    os.close(terminal)
    if nohup:
        wait_for(lambda: {row.pid for _, row in board.workers.living_rows()}.isdisjoint(workers), "new workers")
        os.kill(pid, signal.SIGTERM)
    board.close()
    ended = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(ended) == 0
    assert processes_of(server.run_dir) == []


def begin_a_request(server: Server, connection: socket.socket) -> None:
    connection.sendall(b"PUT /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
    wait_for(lambda: in_flight(server), "the request's arrival")


def in_flight(server: Server) -> int:
    board = board_of(server)
    try:
        return sum(row.in_flight + row.connections for _, row in board.workers.living_rows())
    finally:
        board.close()


def accepts(server: Server) -> bool:
    try:
        server.connect(1).close()
    except OSError:
        return False
    return True


def test_a_store_in_memory_leaves_nothing(tmp_path: Path, new_server: NewServer) -> None:
    server = new_server("--in-memory", "--workers", "1")
    with server.start():
        put(server, "a", b"1")
        assert get(server, "a") == b"1"
        os.kill(server.shard_pids()[0], signal.SIGKILL)
        wait_for(lambda: server.metrics().count('restarts_total{process="shard 0"} 1.0'), "the restart")
        assert get(server, "a") == b"1"
        server.stop()
        assert not server.data_dir.exists()
        assert not server.map_dir.exists()


def test_a_snapshot_lets_the_log_be_trimmed_and_carries_a_restart(new_server: NewServer) -> None:
    server = new_server("--shards", "2", "--workers", "1", "--wal-retention", "64MiB", "--sync", "os")
    values = {f"k{i}": bytes([i]) * 5_000_000 for i in range(9)}
    with server.start():
        oldest = gauge(server, "kvserver_log_oldest_revision")
        for _ in range(6):
            for key, value in values.items():
                put(server, key, value)
        wait_for(lambda: replay_lsn(server) > 0, "the snapshot")
        wait_for(lambda: gauge(server, "kvserver_log_oldest_revision") > oldest, "the trimming")
        put(server, "k0", b"after")
        server.stop()
        for path in server.map_dir.glob("shard-*/*"):
            path.unlink()
        server.start()
        assert get(server, "k0") == b"after"
        assert all(get(server, key) == value for key, value in values.items() if key != "k0")


def test_another_number_of_shards_needs_no_room_for_both(tmp_path: Path) -> None:
    namespace = ["unshare", "-rm"]
    can = subprocess.run([*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if can.returncode:
        pytest.skip(f"no file system can be mounted here: {can.stderr!r}")
    command = [*namespace, sys.executable, "-m", "tests.system.small_maps", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def replay_lsn(server: Server) -> int:
    return int(json.loads((server.data_dir / "manifest").read_text())["replay_lsn"])


# The store alone.


@contextlib.contextmanager
def by_hand(server: Server, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the store that somebody else starts."""
    environ = dict(os.environ) | {"KVSERVER_RUN_DIR": str(server.run_dir), "KVSERVER_PORT": "0"}
    with server.log_path.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *arguments], env=environ, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def spawn_store(server: Server, stack: contextlib.ExitStack) -> subprocess.Popen[str]:
    """The supervisor without children, when it is ready."""
    process = server.spawn()
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    stack.callback(process.stdout.close)
    return process


def test_the_store_alone_with_shards_started_by_hand(new_server: NewServer) -> None:
    server = new_server("--only", "store", "--shards", "2")
    with contextlib.ExitStack() as stack:
        process = spawn_store(server, stack)
        board = board_of(server)
        shards = [stack.enter_context(by_hand(server, "shards", "--index", str(i))) for i in range(2)]
        gateway = stack.enter_context(
            by_hand(server, "gunicorn", "-c", "deploy/gateway.conf.py", "kvserver.gateway:app")
        )
        stack.enter_context(by_hand(server, "gunicorn", "-c", "deploy/gunicorn.conf.py", "kvserver.app:app"))
        wait_for(lambda: all(row.state == ProcessRow.UP for row in board.shards), "the shards")
        wait_for(lambda: [row for _, row in board.workers.living_rows() if row.state == ProcessRow.UP], "a worker")
        wait_for(lambda: [row for _, row in board.gateways.living_rows() if row.state == ProcessRow.UP], "a gateway")
        board.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert all(shard.wait(10) is not None for shard in shards)  # they see that the run is over
        gateway.send_signal(signal.SIGTERM)  # whose socket's file was removed under it
        assert gateway.wait(20) == 0
    assert "cannot close the log" not in server.log()


def test_shards_started_by_hand_end_when_their_supervisor_is_killed(new_server: NewServer) -> None:
    server = new_server("--only", "store", "--shards", "2")
    with contextlib.ExitStack() as stack:
        spawn_store(server, stack).kill()
        assert server.process is not None
        server.process.wait()
        with by_hand(server, "shards", "--index", "0") as too_late:
            assert too_late.wait(20) == 1
        spawn_store(server, stack)
        board = board_of(server)
        shards = [stack.enter_context(by_hand(server, "shards", "--index", str(i))) for i in range(2)]
        wait_for(lambda: all(row.state == ProcessRow.UP for row in board.shards), "the shards")
        board.close()
        server.process.kill()
        server.process.wait()
        spawn_store(server, stack)  # at once: it waits for them
        assert [shard.wait(10) for shard in shards] == [1, 1]
        assert server.log().count("ends: its run of the server has ended") == 2
        server.stop()


# Metrics.


def test_metrics_count_over_all_workers(server: Server) -> None:
    def pings() -> float:
        families = {family.name: family for family in text_string_to_metric_families(server.metrics())}
        return sum(s.value for s in families["http_requests"].samples if s.labels.get("path") == "/ping")

    before = pings()
    for _ in range(20):
        with server.client() as client:
            client.get("/ping").raise_for_status()
    wait_for(lambda: pings() == before + 20, "all of them counted")


def test_metrics_of_the_board(server: Server) -> None:
    put(server, "figure", b"12345")
    wait_for(lambda: gauge(server, "kvserver_shard_keys") >= 1, "the key counted")
    families = {family.name: family for family in text_string_to_metric_families(server.metrics())}
    assert all(family.documentation for family in families.values())
    assert {s.labels["shard"] for s in families["kvserver_shard_operations"].samples} == {"0", "1"}
    assert gauge(server, "kvserver_log_next_revision") > 1 << 40
    assert gauge(server, "kvserver_workers") == 2
    assert gauge(server, "kvserver_shard_up") == 2
    assert [s.labels["gateway"] for s in families["kvserver_feed_clients"].samples] == ["0"]


def test_metrics_have_one_path(server: Server) -> None:
    base = f"http://127.0.0.1:{server.metrics_port}"
    assert httpx.get(base + "/", trust_env=False).status_code == 404
    assert "kvserver_info" in httpx.get(base + "/metrics?x=y", trust_env=False).text
    assert httpx.head(base + "/metrics", trust_env=False).status_code == 200
