"""What one address may owe of the bytes that a gateway's clients have not taken: half of all, however it reads."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.system.harness import Server, wait_for

KEYS, VALUE = 40, b"x" * 1_000_000
READERS = 150
SNAPSHOT = b"GET /v1/feed?snapshot=true HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n"
MUCH, LITTLE = 24 << 10, 4 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--shards", "1", "--workers", "1", "--sync", "os")
    with Server(Path(tmp_path_factory.mktemp("store")), *options) as server:
        with server.client() as client:
            for number in range(KEYS):
                client.put(f"/v1/kv/{number}", content=VALUE).raise_for_status()
        yield server


class Slow:
    """Connections from one address that each ask for a snapshot, and read a little more than they must."""

    def __init__(self, server: Server, address: str) -> None:
        self._server, self._address = server, address
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run)

    def ask(self) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        connection.bind((self._address, 0))
        connection.connect(("127.0.0.1", self._server.port))
        connection.sendall(SNAPSHOT)
        self._selector.register(connection, selectors.EVENT_READ)

    def __enter__(self) -> Slow:
        for _ in range(READERS):
            self.ask()
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.wait(1.0):
            for key, _ in self._selector.select(0):
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):
                    if key.fileobj.recv(MUCH):
                        continue
                self._selector.unregister(key.fileobj)
                key.fileobj.close()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def status(server: Server, address: str) -> tuple[int, str]:
    """What a poll from `address` is answered."""
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=server.url, transport=transport, trust_env=False, timeout=30) as client:
        answer = client.get("/v1/feed")
        return answer.status_code, answer.text


def snapshot(server: Server, address: str) -> int:
    """How many keys a snapshot has that is read from `address`."""
    transport = httpx.HTTPTransport(local_address=address)
    count = 0
    with (
        httpx.Client(base_url=server.url, transport=transport, trust_env=False, timeout=30) as client,
        client.stream("GET", "/v1/feed?snapshot=true", headers={"Accept": "application/x-ndjson"}) as answer,
    ):
        for line in answer.iter_lines():
            message = json.loads(line)
            count += len(message.get("items", ()))
            if message["type"] == "snapshot_end":
                return count
    return count


def test_one_address_does_not_spend_what_all_may_owe(server: Server) -> None:
    """It is refused itself, and a stranger is served."""
    with Slow(server, "127.0.0.2"):
        refused = wait_for(lambda: _refusal(server, "127.0.0.2"), "a refusal of who owes much", 60)
        assert "clients at this address" in refused["detail"]
        for _ in range(3):
            assert status(server, "127.0.0.3")[0] == 200
        assert snapshot(server, "127.0.0.3") == KEYS
    wait_for(lambda: status(server, "127.0.0.2")[0] == 200, "room for it when it has gone")


def _refusal(server: Server, address: str) -> dict[str, str] | None:
    code, text = status(server, address)
    problem: dict[str, str] | None = json.loads(text) if code == 503 else None
    return problem
