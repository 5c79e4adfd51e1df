"""Files that somebody takes out of the run directory of a living server, as what cleans /tmp does: it heals."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from shards.host.board import Board
from tests.system.harness import Server, wait_for
from tests.system.kvserver.serve.test_supervisor import NewServer, get, put

TOKENS = '[[token]]\nname = "all"\nsha256 = "{}"\ngrants = [{{ prefix = "", allow = ["read", "write"] }}]\n'


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    options = ("--shards", "2", "--workers", "2", "--max-memory", "64MiB", "--on-full", "evict")
    with Server(make_dir("data"), *options) as server:
        yield server


def ready(server: Server) -> httpx.Response:
    """A new connection each time: any of the workers may answer."""
    headers = {"Accept": "application/problem+json"}
    return httpx.get(f"{server.url}/health/ready", headers=headers, trust_env=False, timeout=15)


def heals(server: Server, path: Path, gone: Callable[[Path], object] = Path.unlink) -> None:
    """`path` is taken away, and stands there again; then the server is ready, and has what it acknowledged."""
    put(server, "before", path.name.encode())
    gone(path)
    wait_for(path.exists, f"{path} to be made again")
    wait_for(lambda: ready(server).status_code == 200, "the server to be ready")
    assert get(server, "before") == path.name.encode()
    put(server, "after", b"1")


SOCKETS = ["shard-0-*.req", "shard-1-*.req", "shard-0.pub", "shard-1.pub", "gateway-0.handover", "gateway-0.activity"]


@pytest.mark.parametrize("pattern", SOCKETS)
def test_a_socket_that_was_removed_is_made_again_and_processes_that_start_find_it(server: Server, pattern: str) -> None:
    (path,) = server.run_dir.glob(pattern)
    with connect(server.feed_url) as feed:  # of a client that was there before
        heals(server, path)
        assert f"{path} was removed, though" in server.log()
        feed_until(feed, "after")
    assert replaced_workers_answer(server)
    with connect(server.feed_url) as feed:
        put(server, "told", b"1")
        feed_until(feed, "told")


def feed_until(feed: ClientConnection, key: str) -> bytes:
    """The first message that names `key`."""
    while True:
        message = feed.recv(20)
        text = message if isinstance(message, bytes) else message.encode()
        if key.encode() in text:
            return text


def replaced_workers_answer(server: Server) -> bool:
    """Web workers that start now find everything: whoever is left from before is gone."""
    assert server.process is not None
    before = {row["pid"] for row in server.status()["workers"]}
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: not before & {row["pid"] for row in server.status()["workers"]}, "the workers to be replaced")
    put(server, "through new workers", b"2")
    return get(server, "through new workers") == b"2"


def test_the_server_is_not_ready_while_a_socket_cannot_be_made_again(server: Server) -> None:
    (path,) = server.run_dir.glob("shard-0-*.req")
    path.unlink()
    path.mkdir()  # nothing can be bound there
    (path / "in the way").touch()
    answer = wait_for(lambda: (found := ready(server)).status_code == 503 and found, "the server not to be ready")
    assert f"the socket {path.name} was removed" in answer.text
    put(server, "meanwhile", b"1")  # who is connected stays so
    wait_for(lambda: "cannot be made again" in server.log(), "a word of it")
    shutil.rmtree(path)
    wait_for(lambda: ready(server).status_code == 200, "the server to be ready")
    assert replaced_workers_answer(server)


@pytest.mark.parametrize("name", ["lock", "stamps", "cuts"])
def test_a_file_that_was_removed_is_made_again(server: Server, name: str) -> None:
    wait_for(lambda: (server.run_dir / name).exists(), f"{name} to be there at all")
    heals(server, server.run_dir / name)
    assert f"{name} was removed from the run directory" in server.log()


def test_a_second_server_finds_the_directory_taken_also_when_its_lock_was_removed(
    server: Server, new_server: NewServer
) -> None:
    heals(server, server.run_dir / "lock")
    other = new_server("--run-dir", str(server.run_dir))
    assert other.spawn().wait(20) == 1
    assert "in use by another server" in other.log()


def test_the_directory_of_metrics_is_made_again(server: Server) -> None:
    heals(server, server.run_dir / "metrics", shutil.rmtree)
    wait_for(lambda: get(server, "before") and "http_requests_total{" in server.metrics(), "requests to be counted")


def test_a_socket_that_nobody_asks_is_not_missed(server: Server) -> None:
    (server.run_dir / "gateway.sock").unlink()
    assert ready(server).status_code == 200
    with connect(server.feed_url) as feed:
        put(server, "told", b"1")
        feed_until(feed, "told")


def test_tokens_that_were_removed_are_put_there_again(tmp_path: Path, new_server: NewServer) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS.format(sha256(b"secret").hexdigest()))
    (tmp_path / "tokens.toml").chmod(0o600)
    server = new_server("--tokens", str(tmp_path / "tokens.toml"), "--workers", "1")
    with server.start():
        path = server.run_dir / "tokens"
        path.unlink()
        wait_for(path.exists, "the tokens to be there again")
        headers = {"Authorization": "Bearer secret"}
        assert httpx.put(f"{server.url}/v1/kv/a", content=b"1", headers=headers, trust_env=False).is_success
        assert httpx.get(f"{server.url}/v1/kv/a", trust_env=False).status_code == 401


def test_board_names_what_is_looked_for(server: Server) -> None:
    """What readiness looks for is what the processes have bound."""
    board = Board.open(server.run_dir / "board")
    names = {path.name for path in server.run_dir.iterdir()}
    for index, row in enumerate(board.shards):
        assert {f"shard-{index}.pub", f"shard-{index}-{row.incarnation:x}.req"} <= names
    board.close()


# Something else in the place of a file.


def fifo_at(path: Path) -> None:
    """Take away what is at `path`, and put there what whoever opens it waits for."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["metrics", "lock", "stamps", "cuts", "tickets"])
def test_what_was_put_in_the_place_of_a_file_is_taken_away(server: Server, name: str) -> None:
    path = server.run_dir / name
    wait_for(path.exists, f"{name} to be there at all")
    said = server.log().count(f"{name} was removed from the run directory")
    fifo_at(path)
    assert replaced_workers_answer(server), "at once, before anybody has looked"
    wait_for(lambda: path.exists() and not path.is_fifo(), f"{path} to be made again")
    wait_for(lambda: ready(server).status_code == 200, "the server to be ready")
    assert replaced_workers_answer(server)
    assert server.log().count(f"{name} was removed from the run directory") == said + 1
    assert "another server has taken it" not in server.log()


def test_what_was_put_in_the_place_of_the_tokens_is_taken_away(tmp_path: Path, new_server: NewServer) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS.format(sha256(b"secret").hexdigest()))
    (tmp_path / "tokens.toml").chmod(0o600)
    server = new_server("--tokens", str(tmp_path / "tokens.toml"), "--workers", "1")
    with server.start():
        path = server.run_dir / "tokens"
        fifo_at(path)
        wait_for(path.is_file, "the tokens to be there again")
        headers = {"Authorization": "Bearer secret"}
        assert httpx.put(f"{server.url}/v1/kv/a", content=b"1", headers=headers, trust_env=False).is_success


def test_a_server_starts_where_something_was_put_in_the_place_of_its_metrics(new_server: NewServer) -> None:
    server = new_server("--workers", "1")
    with server.start():
        put(server, "a", b"1")
        server.kill()
        fifo_at(server.run_dir / "metrics")
        server.start()
        assert get(server, "a") == b"1"


def test_a_server_ends_where_something_was_put_in_the_place_of_its_board(new_server: NewServer) -> None:
    """It waits for nothing: nobody who starts could find the store."""
    server = new_server("--workers", "1")
    with server.start():
        assert server.process is not None
        fifo_at(server.run_dir / "board")
        assert server.process.wait(20) == 1
        assert "was removed, or the board in it" in server.log()
