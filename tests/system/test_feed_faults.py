"""Clients of `/v1/feed` that break off at random, while somebody writes and processes are killed, all of them together
too, and come back with another number of shards: nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from tests.system.feeds import Message, lines, now, poll, polled, receive, websocket
from tests.system.harness import Server, wait_for

WRITES = 300
BROKEN = (httpx.HTTPError, WebSocketException, OSError, EOFError, TimeoutError, StopIteration)


class Reader(threading.Thread):
    """Reads by one of the ways; breaks off after a few messages, comes back with its last cursor or an older one.

    Attributes:
        seen: revisions, in the order in which they came, since `base`.
        copy: key to revision.
    """

    def __init__(self, server: Server, way: str, since: str, seed: int, snapshot: bool) -> None:
        super().__init__(daemon=True)
        self._server, self._way, self.snapshot = server, way, snapshot
        self._random = random.Random(seed)
        self.cursor = "" if snapshot else since  # a usable cursor would go before the snapshot
        self._states: list[tuple[str, tuple[int, ...], dict[str, int]]] = [(self.cursor, (), {})]
        self.seen: list[int] = []
        self.copy: dict[str, int] = {}
        self.until = 0
        self.failure: BaseException | None = None
        self.breaks = 0

    def run(self) -> None:
        try:
            while not self.until or self._revision() < self.until:
                with contextlib.suppress(*BROKEN):
                    self._connect()
                self.breaks += 1
                time.sleep(0.02)  # there may be no server just now
        except BaseException as error:
            self.failure = error

    def _revision(self) -> int:
        parts = self.cursor.split(".")
        return int(parts[1]) if len(parts) == 2 else 0

    def _connect(self) -> None:
        if self._random.random() < 0.3 and not self.until:
            self.cursor, seen, copy = self._random.choice(self._states)
            self.seen, self.copy = list(seen), dict(copy)
        count = self._random.randrange(1, 30)
        wanted: dict[str, Any] = {"since": self.cursor} if self.cursor else {}
        if self.snapshot:
            wanted["snapshot"] = True
        for message in self._messages(wanted):
            self._take(message)
            count -= 1
            if count <= 0 or (self.until and self._revision() >= self.until):
                return

    def _messages(self, wanted: dict[str, Any]) -> Iterator[Message]:
        if self._way == "poll":
            answer = poll(self._server, wait=1, **wanted)
            yield from answer["messages"]
            yield {"type": "bookmark", "cursor": answer["cursor"]}
        elif self._way.startswith("kv."):
            with websocket(self._server, self._way, **wanted) as connection:
                while True:
                    yield receive(connection)
        else:
            with lines(self._server, self._way, **wanted) as found:
                yield from found

    def _take(self, message: Message) -> None:
        assert message["type"] != "gap", message
        if message["type"] == "snapshot" and not self.cursor:
            self.copy = {}
        for item in message.get("items", ()):
            self.copy[item["key"]] = item["revision"]
        for event in message.get("events", ()):
            self.seen.append(event["revision"])
            if event["op"] == "delete":
                self.copy.pop(event["key"], None)
            else:
                self.copy[event["key"]] = event["revision"]
        self.cursor = message["cursor"]
        self._states.append((self.cursor, tuple(self.seen), dict(self.copy)))
        del self._states[:-40]


def write(server: Server, first: int, progress: Callable[[], None]) -> set[int]:
    """Write until enough is written; the revisions that were acknowledged."""
    acknowledged: set[int] = set()
    chance = random.Random(first)
    with server.client(20) as client:
        for i in range(first, first + WRITES // 2):
            key = f"k{chance.randrange(300)}"
            with contextlib.suppress(httpx.HTTPError):
                if chance.random() < 0.2:
                    answer = client.delete(f"/v1/kv/{key}")
                elif chance.random() < 0.1:
                    ops = [{"op": "put", "key": "{t}" + str(n), "value": "v"} for n in range(chance.randrange(1, 20))]
                    answer = client.post("/v1/batch", json={"atomic": True, "ops": ops})
                    acknowledged |= {r["revision"] for r in answer.json().get("results", ()) if r["status"] < 300}
                else:
                    answer = client.put(f"/v1/kv/{key}", content=b"v" * chance.randrange(2000))
                if "kv-revision" in answer.headers:
                    acknowledged.add(int(answer.headers["kv-revision"]))
            if i % 25 == 0:
                progress()
    return acknowledged


def test_whatever_breaks_off_goes_on_without_a_loss(tmp_path: Path) -> None:
    """All readers have seen the log, once, in order; the copies are what the store holds."""
    options = ("--shards", "2", "--workers", "2", "--gateways", "2", "--sync", "os")
    with Server(tmp_path / "store", *options) as server:
        server.tracebacks_expected = True  # of workers whose shard was killed under them
        with server.client() as client:
            for i in range(0, 1500, 500):
                ops = [{"op": "put", "key": f"old{n:04}", "value": "v"} for n in range(i, i + 500)]
                client.post("/v1/batch", json={"ops": ops}).raise_for_status()
        since = now(server)
        ways = ["kv.json", "kv.msgpack", "text/event-stream", "application/x-ndjson", "poll"]
        readers = [
            Reader(server, way, since, seed, snapshot)
            for seed, (way, snapshot) in enumerate(itertools.product(ways, [False, True]))
        ]
        for reader in readers:
            reader.start()
        chance = random.Random(2)

        def kill() -> None:
            if chance.random() < 0.15:
                with contextlib.suppress(httpx.HTTPError, ProcessLookupError):
                    status = server.status()
                    kinds = ("shards", "gateways", "workers")
                    victims = [row["pid"] for kind in kinds for row in status[kind] if row["pid"]]
                    os.kill(chance.choice(victims), signal.SIGKILL)

        acknowledged = write(server, 0, kill)
        server.kill()
        server.options = ("--shards", "3", *options[2:])
        server.start()
        acknowledged |= write(server, WRITES // 2, kill)
        wait_for(lambda: _ready(server), "every shard up")
        with server.client(30) as client:
            last = int(client.put("/v1/kv/last", content=b"x").raise_for_status().headers["kv-revision"])
        for reader in readers:
            reader.until = last
        with server.client(30) as client:  # who has everything already is told something, and sees that it may go
            client.put("/v1/kv/behind", content=b"x").raise_for_status()
        for reader in readers:
            reader.join(40)
            assert not reader.is_alive(), (reader.name, reader.cursor, last)
            if reader.failure is not None:
                raise reader.failure
        messages, _ = polled(server, since)
        told = [event["revision"] for message in messages for event in message.get("events", ())]
        log = [revision for revision in told if revision <= last]
        assert log == sorted(set(log)) and acknowledged <= set(log)
        held = {item["key"]: item["revision"] for item in _all_items(server) if item["revision"] <= last}
        for reader in readers:
            if reader.snapshot:
                assert {key: revision for key, revision in reader.copy.items() if revision <= last} == held
            else:
                assert [revision for revision in reader.seen if revision <= last] == log
        assert sum(reader.breaks for reader in readers) > 20


def test_no_gateway_s_death_refuses_eventsource(tmp_path: Path) -> None:
    """Nor does its standing still: whoever comes meanwhile, or waits there, is given to the next one."""
    head = b"GET /v1/feed HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    with Server(tmp_path / "store", "--shards", "1", "--workers", "1", "--sync", "os") as server:
        for stands_still in (True, False, True, False):
            pid = wait_for(lambda: [row["pid"] for row in server.status()["gateways"]], "a gateway")[0]
            with contextlib.ExitStack() as stack:
                if stands_still:
                    os.kill(pid, signal.SIGSTOP)
                waiting = [stack.enter_context(server.connect(30)) for _ in range(5)]
                for connection in waiting:
                    connection.sendall(head)
                time.sleep(0.2 if stands_still else 0)  # they have come to its queue, or not: both must do
                os.kill(pid, signal.SIGKILL)
                late = [stack.enter_context(server.connect(30)) for _ in range(5)]
                for connection in late:
                    connection.sendall(head)
                answers = [connection.recv(12) for connection in waiting + late]
            # One that was taken over already ends with the gateway, unanswered: to a browser a fault of the network.
            assert set(answers) <= {b"HTTP/1.1 200", b""} and set(answers[5:]) == {b"HTTP/1.1 200"}, answers


def test_a_gateway_that_stops_refuses_no_eventsource(tmp_path: Path) -> None:
    """While it is replaced again and again, and when the store stops."""
    head = b"GET /v1/feed HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
    found: list[bytes] = []
    over = threading.Event()

    def ask(server: Server) -> None:
        while not over.is_set():
            with contextlib.suppress(ConnectionError), server.connect(30) as connection:
                connection.sendall(head)
                found.append(connection.recv(12))

    with Server(tmp_path / "store", "--shards", "1", "--workers", "1", "--sync", "os") as server:
        (gateway,) = server.status()["gateways"]
        master = int(Path(f"/proc/{gateway['pid']}/stat").read_text().rsplit(")", 1)[1].split()[1])
        askers = [threading.Thread(target=ask, args=[server]) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            for _ in range(3):
                before = _gateways(server)
                os.kill(master, signal.SIGHUP)
                wait_for(lambda known=before: _gateways(server) - known, "another gateway")
                wait_for(lambda known=before: not _gateways(server) & known, "the end of the one before")
            server.stop()
        finally:
            over.set()
            for asker in askers:
                asker.join()
    assert len(found) > 20 and set(found) <= {b"HTTP/1.1 200", b""}


def _gateways(server: Server) -> set[int]:
    return {row["pid"] for row in server.status()["gateways"]}


def _ready(server: Server) -> bool:
    with server.client() as client, contextlib.suppress(httpx.HTTPError):
        return client.get("/health/ready").status_code == 200
    return False


def _all_items(server: Server) -> list[dict[str, Any]]:
    with server.client() as client:
        text = client.get("/v1/kv", headers={"Accept": "application/x-ndjson"}).raise_for_status().text
    return [row for line in text.splitlines() if "key" in (row := json.loads(line))]
