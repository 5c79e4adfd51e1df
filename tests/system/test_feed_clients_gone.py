"""What is left in a gateway of clients that have come and gone: nothing, without the help of a garbage collector."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.system.feeds import now
from tests.system.harness import Server, wait_for
from tests.system.raw import HANDSHAKE, Raw, masked, request

CENSUS = signal.SIGRTMIN + 5
INTERIOR = f'''
"""In gateways no collector runs, and a signal has them write down how many objects there are."""
import sys

if any("gateway" in word for word in sys.orig_argv):
    import collections, gc, json, os, signal

    def census(*_):
        kinds = collections.Counter(type(each).__name__ for each in gc.get_objects())
        place = os.environ["CENSUS"]
        with open(place + ".new", "w") as file:
            json.dump(kinds, file)
        os.rename(place + ".new", place)

    gc.disable()
    signal.signal({int(CENSUS)}, census)
'''
VALUE = b"v" * (1 << 20)
"""More of them than the kernel takes for a client that does not read."""


class Watched:
    """A server whose only gateway collects no garbage."""

    def __init__(self, server: Server, census: Path) -> None:
        self.server, self._census = server, census
        self.pid: int = server.status()["gateways"][0]["pid"]

    def clients(self) -> int:
        """How many it has."""
        count: int = self.server.status()["gateways"][0]["clients"]
        return count

    def objects(self) -> dict[str, int]:
        """How many there are of each kind, when its clients have gone."""
        wait_for(lambda: self.clients() == 0, "the end of all clients", 40)
        self._census.unlink(missing_ok=True)
        os.kill(self.pid, CENSUS)
        wait_for(self._census.exists, "the census")
        counted: dict[str, int] = json.loads(self._census.read_text())
        return counted

    def anonymous_mib(self) -> float:
        """Its memory that is no file's."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1024


@pytest.fixture(scope="module")
def watched(make_dir: Callable[[str], Path]) -> Iterator[Watched]:
    place = make_dir("watched")
    (place / "sitecustomize.py").write_text(INTERIOR)
    environ = {"PYTHONPATH": str(place), "CENSUS": str(place / "census")}
    options = ("--shards", "2", "--workers", "1", "--gateways", "1", "--sync", "os")
    with Server(place / "data", *options, environ=environ) as server:
        with server.client() as client:
            for key in ("a", "b", "c"):
                client.put(f"/v1/kv/{key}", content=VALUE).raise_for_status()
        yield Watched(server, place / "census")


# Clients


def sent(server: Server, head: bytes) -> socket.socket:
    """A connection on which something was asked for, and nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((server.host, server.port))
    connection.sendall(head)
    return connection


def asked(server: Server, accept: str, parameters: str = "snapshot=true") -> socket.socket:
    """The same of a feed over plain HTTP."""
    return sent(server, request("GET", f"/v1/feed?{parameters}", {"Host": "x", "Accept": accept}))


def vanish(connection: socket.socket) -> None:
    """End it without a word: the next write fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reads(server: Server, accept: str, parameters: str = "snapshot=true&values=false", until: bytes = b"_end") -> None:
    """Until the snapshot is whole."""
    with asked(server, accept, parameters) as connection:
        read_until(connection, until)


def read_until(connection: socket.socket, words: bytes) -> None:
    data = b""
    while words not in data:
        part = connection.recv(1 << 16)
        assert part, data[:1000]
        data = data[-100:] + part


def waits_in_a_poll(server: Server, since: str) -> None:
    """And leaves before there is anything."""
    vanish(asked(server, "application/json", f"since={since}&wait=50"))


def reads_a_websocket(server: Server, protocol: str) -> None:
    fields = HANDSHAKE | {"Sec-WebSocket-Protocol": protocol}
    with sent(server, request("GET", "/v1/feed?snapshot=true&values=false", fields)) as connection:
        read_until(connection, b"_end")
        connection.sendall(masked(8, struct.pack("!H", 1000)))
        while connection.recv(1 << 16):
            pass


def never_reads(server: Server, accept: str) -> None:
    """Until it vanishes, when the gateway waits for it to take what it was sent."""
    connection = asked(server, accept)
    connection.recv(16)
    vanish(connection)


def never_reads_its_websocket(server: Server) -> None:
    connection = sent(server, request("GET", "/v1/feed?snapshot=true", HANDSHAKE))
    connection.recv(16)
    vanish(connection)


def is_refused(server: Server) -> None:
    """As other clients see it, and as a page does."""
    with asked(server, "text/event-stream", "since=x") as connection:
        read_until(connection, b"bad_cursor")
    with sent(server, request("GET", "/v1/feed?since=x", HANDSHAKE | {"Origin": "http://a.example"})) as connection:
        read_until(connection, b"bad_cursor")


def floods_its_websocket(server: Server) -> None:
    """With pings, whose pongs it does not take, and the beginning of a message."""
    connection = sent(server, request("GET", "/v1/feed", HANDSHAKE))
    raw = Raw(connection)
    for _ in range(20):
        raw.send(masked(9, b"x" * 125))
    raw.send(masked(1, b"y" * 2000)[:1000])
    vanish(connection)


def follows_in_memorykv_s_words(server: Server) -> None:
    vanish(sent(server, request("GET", "/wal", HANDSHAKE)))


def come_and_go(server: Server, rounds: int) -> int:
    """Clients of all kinds; how many."""
    since = now(server)
    clients: list[Callable[[], None]] = [
        partial(reads, server, "text/event-stream"),
        partial(reads, server, "application/x-ndjson"),
        partial(reads, server, "application/json"),
        partial(reads, server, "text/event-stream", "", b"bookmark"),
        partial(waits_in_a_poll, server, since),
        partial(reads_a_websocket, server, "kv.json"),
        partial(reads_a_websocket, server, "kv.msgpack"),
        partial(never_reads, server, "text/event-stream"),
        partial(never_reads, server, "application/x-ndjson"),
        partial(never_reads, server, "application/json"),
        partial(never_reads_its_websocket, server),
        partial(floods_its_websocket, server),
        partial(is_refused, server),
        partial(follows_in_memorykv_s_words, server),
    ]
    for _ in range(rounds):
        for client in clients:
            client()
    return rounds * len(clients)


def test_nothing_is_left_of_a_thousand_clients(watched: Watched) -> None:
    """Neither objects nor memory, whether they were polite, vanished, or never read."""
    come_and_go(watched.server, 15)
    before, mib = watched.objects(), watched.anonymous_mib()
    assert come_and_go(watched.server, 72) > 1000
    after = watched.objects()
    more = {kind: count - before.get(kind, 0) for kind, count in after.items() if count - before.get(kind, 0) > 20}
    assert sum(after.values()) < sum(before.values()) + 300, json.dumps(more)
    assert watched.anonymous_mib() < mib + 8


def test_who_never_reads_takes_no_more_than_the_budget(watched: Watched) -> None:
    """Whoever comes then is told to come again; when they have gone, their memory has, too."""
    server = watched.server
    with server.client() as client:
        for number in range(2):
            client.put(f"/v1/kv/large{number}", content=b"\xff" * 5_000_000).raise_for_status()
        watched.objects()
        mib = watched.anonymous_mib()
        connections = [asked(server, "application/json", "snapshot=true&prefix=large") for _ in range(80)]
        statuses = [connection.recv(12) for connection in connections]
        assert set(statuses) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert statuses.count(b"HTTP/1.1 200") > 10
        refused = connections[statuses.index(b"HTTP/1.1 503")]
        read_until(refused, b"retry-after: ")
        assert watched.anonymous_mib() < mib + 320
        for connection in connections:
            vanish(connection)
        watched.objects()
        assert watched.anonymous_mib() < mib + 16
        assert client.get("/v1/feed").status_code == 200
