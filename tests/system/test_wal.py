"""`/wal` of the whole server: what is shown, to whom, and that nothing is lost, doubled or out of order."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Opcode
from websockets.sync.client import ClientConnection, connect

from shards.host.board import Board
from tests.system.harness import Server, wait_for
from tests.system.load import Writer
from tests.system.raw import HANDSHAKE, Raw, masked, request


@contextlib.contextmanager
def watching(server: Server, **headers: str) -> Iterator[ClientConnection]:
    """A client of the feed, whose own first heartbeat is received already."""
    with connect(
        server.feed_url, compression=None, max_size=None, max_queue=None, ping_interval=None, additional_headers=headers
    ) as client:
        host, port = client.local_address
        own = f"Heartbeat from {host}:{port}"
        while as_text(client.recv(10)) != own:  # of others, which connected just before
            pass
        yield client


def as_text(line: str | bytes) -> str:
    """A line of either kind of frame."""
    return line if isinstance(line, str) else line.decode()


def lines_until(client: ClientConnection, last: str) -> list[str]:
    """Lines up to `last`, without heartbeats."""
    found = []
    while not found or found[-1] != last:
        line = as_text(client.recv(20))
        if not line.startswith("Heartbeat"):
            found.append(line)
    return found


def put(server: Server, pairs: list[tuple[str, str]]) -> None:
    """Write pairs of key and value, one after the other, on one connection."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    for key, value in pairs:
        connection.request("PUT", f"/{key}", value.encode())
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()


def together(*jobs: Callable[[], object]) -> None:
    """Run jobs in threads of their own; an error of any is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


class Watcher:
    """A client in a thread of its own, which has joined when this is made."""

    def __init__(self, server: Server, look: Callable[[str], object] = str, **headers: str) -> None:
        """`look` is called with each line as it comes."""
        self.changes: list[str] = []
        self._server, self._look, self._headers = server, look, headers
        self._joined = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(self._watch)
        while not self._joined.wait(0.05):
            if self._done.done():
                self._done.result()

    def _watch(self) -> None:
        with watching(self._server, **self._headers) as client:
            self._joined.set()
            while not self.changes or not self.changes[-1].startswith("Insert { key: end,"):
                line = as_text(client.recv(20))
                self._look(line)
                if line.startswith(("Insert", "Delete")):
                    self.changes.append(line)

    def result(self) -> list[str]:
        """The lines of changes, up to that of the key `end`."""
        self._done.result()
        self._pool.shutdown()
        return self.changes


def gateway_pid(server: Server) -> int:
    """The gateway's worker process."""
    (gateway,) = server.status()["gateways"]
    return int(gateway["pid"])


def figure(server: Server, name: str) -> int:
    """A figure of the gateway that runs."""
    board = Board.open(server.run_dir / "board")
    try:
        ((_, row),) = board.gateways.living_rows()
        return row.read_figures()[name]
    finally:
        board.close()


# What is shown


def test_a_ping_comes_first_and_its_answer_is_a_heartbeat(server: Server) -> None:
    """To everybody; what nobody asked for is none."""
    with watching(server) as watcher, Raw(server.connect()) as client:
        head = client.upgrade("/wal")
        assert b"access-control-allow-origin: *\r\n" in head.lower()
        ping = client.frame()
        assert (ping.opcode, ping.data) == (Opcode.PING, b"\x01\x02\x03")
        host, port = client.socket.getsockname()
        client.send(masked(Opcode.PONG, b"other") + masked(Opcode.PONG, b"\x01\x02\x03") * 3)
        assert watcher.recv(10) == client.frame().data.decode() == f"Heartbeat from {host}:{port}"
        put(server, [("after", "x")])
        assert watcher.recv(10) == client.frame().data.decode() == "Insert { key: after, value: x }"


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [("application/octet-stream", bytes), ("application/octet-stream; x=y", str), ("text/plain", str)],
)
def test_frames_are_binary_for_who_asks_so(server: Server, content_type: str, kind: type) -> None:
    """By exactly one Content-Type, and the same lines."""
    with watching(server, **{"Content-Type": content_type}) as client:
        put(server, [("bin", "ü")])
        line = client.recv(10)
        assert isinstance(line, kind)
        assert as_text(line) == "Insert { key: bin, value: ü }"


def test_every_kind_of_line_in_the_order_of_requests(server: Server) -> None:
    """One line a request, hit or miss; values that are not UTF-8 are mended."""
    with watching(server) as client, server.client() as http_client:
        expected = []
        for method, path, body, line in [
            ("PUT", "/a%20b", b"\xff\xfe", "Insert { key: a b, value: \ufffd\ufffd }"),
            ("GET", "/a%20b", None, "Read { key: a b}"),
            ("HEAD", "/nothing", None, "Read { key: nothing}"),
            ("GET", "/keys", None, "List"),
            ("GET", "/keys/a", None, "ListPrefix { prefix: a}"),
            ("DELETE", "/nothing", None, "Delete { key: nothing }"),
            ("DELETE", "/a%20b", None, "Delete { key: a b }"),
            ("PUT", "/pre1", b"1", "Insert { key: pre1, value: 1 }"),
            ("PUT", "/pre2", b"2", "Insert { key: pre2, value: 2 }"),
            ("DELETE", "/keys/pre", None, "DeletePrefix { key: pre }"),
            ("DELETE", "/keys/pre", None, "DeletePrefix { key: pre }"),
            ("DELETE", "/keys", None, "DeleteAll"),
        ]:
            http_client.request(method, path, content=body)
            expected.append(line)
        assert lines_until(client, "DeleteAll") == expected


def test_frames_sent_with_the_handshake_pass_the_hand_over(server: Server) -> None:
    """The web worker gives the gateway every byte it has read."""
    with Raw(server.connect()) as client:
        client.send(request("GET", "/wal", HANDSHAKE) + masked(Opcode.PING, b"early"))
        assert client.head().startswith(b"HTTP/1.1 101 ")
        frames = [client.frame() for _ in range(2)]
        assert sorted((f.opcode, bytes(f.data)) for f in frames) == [
            (Opcode.PING, b"\x01\x02\x03"),
            (Opcode.PONG, b"early"),
        ]
        client.send(masked(Opcode.CLOSE, b"\x03\xe8bye"))
        assert client.closed_with() == Close(1000, "bye")


def test_what_clients_send_is_dropped_and_limited(server: Server) -> None:
    """They are listeners."""
    with watching(server) as client:
        client.send("Insert { key: forged, value: x }")
        client.send(b"x" * 65536)
        put(server, [("real", "x")])
        assert client.recv(10) == "Insert { key: real, value: x }"
        with contextlib.suppress(ConnectionClosed):
            client.send(b"x" * 65537)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


# Whole, in order, once


def test_all_clients_see_one_order(server: Server) -> None:
    """Of many writers to both shards, values large and small, from where each joined; and GET has what is shown."""
    values = [str(number) if number % 50 else str(number).ljust(200_000, ".") for number in range(200)]
    with server.client() as reader:

        def compare(line: str) -> None:
            found = re.fullmatch(r"Insert \{ key: (w\d), value: (\d+)\.* \}", line)
            if found and int(found[2]) % 10 == 0:
                assert int(reader.get(f"/{found[1]}").text.rstrip(".")) >= int(found[2])

        first, reading = Watcher(server), Watcher(server, compare)
        binary = Watcher(server, **{"Content-Type": "application/octet-stream"})
        late: list[Watcher] = []

        def join_late() -> None:
            wait_for(lambda: len(first.changes) > 100, "a hundred changes")
            late.append(Watcher(server))

        together(join_late, *(partial(put, server, [(f"w{w}", value) for value in values]) for w in range(4)))
        put(server, [("end", "x")])
        changes = first.result()
        assert len(changes) == 4 * len(values) + 1
        assert binary.result() == reading.result() == changes
        assert late[0].result() == changes[len(changes) - len(late[0].changes) :]
    for writer in range(4):
        begin = f"Insert {{ key: w{writer}, value: "
        assert [line for line in changes if line.startswith(begin)] == [f"{begin}{value} }}" for value in values]


def test_a_delete_that_found_nothing_takes_nothing_away(server: Server) -> None:
    """It races with a put of its key: if it found nothing, the key is there afterwards, and the feed must say so."""
    races = 300
    barrier, statuses = threading.Barrier(2), [0] * races

    def ask(method: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
        for race in range(races):
            barrier.wait(20)
            connection.request(method, f"/race-{race}", body)
            answer = connection.getresponse()
            answer.read()
            if method == "DELETE":
                statuses[race] = answer.status
        connection.close()

    with watching(server) as client, ThreadPoolExecutor(2) as pool:
        for asking in [pool.submit(ask, "PUT", b"v"), pool.submit(ask, "DELETE", None)]:
            asking.result(60)
        put(server, [("end", "of the races")])
        lines = lines_until(client, "Insert { key: end, value: of the races }")
    last = {match[2]: match[1] for line in lines if (match := re.match(r"(Insert|Delete) { key: race-(\d+)", line))}
    assert 404 in statuses
    expected = {str(race): "Insert" if status == 404 else "Delete" for race, status in enumerate(statuses)}
    assert last == expected


def test_the_largest_value_is_shown_whole(server: Server) -> None:
    """In one frame, at its place."""
    with watching(server) as client:
        put(server, [("small", "1"), ("large", "x" * 5_120_000), ("small", "2")])
        assert [client.recv(20) for _ in range(3)] == [
            "Insert { key: small, value: 1 }",
            f"Insert {{ key: large, value: {'x' * 5_120_000} }}",
            "Insert { key: small, value: 2 }",
        ]


def test_a_gateway_that_stood_still_misses_nothing(new_server: Callable[..., Server]) -> None:
    """Far more was published meanwhile than ZeroMQ keeps for it: the log has it."""
    server = new_server("--shards", "1", "--workers", "1").start()
    pid = gateway_pid(server)
    watcher = Watcher(server)
    put(server, [("before", "x")])
    wait_for(lambda: watcher.changes, "the first line")
    read_before = figure(server, "log_reads")
    os.kill(pid, signal.SIGSTOP)
    pairs = [(f"k{number % 7}", str(number).ljust(20_000, ".")) for number in range(1500)]
    try:
        put(server, pairs)
    finally:
        os.kill(pid, signal.SIGCONT)
    put(server, [("end", "x")])
    assert watcher.result()[1:-1] == [f"Insert {{ key: {key}, value: {value} }}" for key, value in pairs]
    wait_for(lambda: figure(server, "log_reads") >= read_before + 10, "what was read from the log")


def test_one_client_stalls_and_one_floods(server: Server) -> None:
    """A third gets everything meanwhile, and the one that stalled gets all of it later, each line once."""
    pid = gateway_pid(server)
    value = "x" * 100_000
    pairs = [(f"s{number}", value) for number in range(500)]
    expected = [f"Insert {{ key: {key}, value: {value} }}" for key, _ in pairs]
    with Raw(server.connect()) as stalled, Raw(server.connect()) as flooding:
        for client in (stalled, flooding):
            client.upgrade("/wal")
        over = threading.Event()

        def flood() -> None:
            data = masked(Opcode.TEXT, b"flood") * 1000
            while not over.is_set():
                flooding.send(data)

        def write() -> None:
            try:
                put(server, [*pairs, ("end", "x")])
                assert good.result()[:-1] == expected
            finally:
                over.set()

        good = Watcher(server)
        before = resident_bytes(pid)
        together(flood, write)
        assert resident_bytes(pid) - before < sum(map(len, expected)) / 2, "a client that stalls takes memory"
        lines = []
        while not lines or not lines[-1].startswith("Insert { key: end,"):
            line = stalled.frame_but_pings().data.decode()
            if not line.startswith("Heartbeat"):
                lines.append(line)
        assert lines[:-1] == expected


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Deaths


def test_killed_shards_leave_no_hole_and_no_double(new_server: Callable[..., Server]) -> None:
    """Every write that was acknowledged stands in the feed once, none twice, each key's in the order of its writes."""
    server = new_server("--shards", "2", "--workers", "2").start()
    watcher, stop = Watcher(server), threading.Event()
    writers = [Writer(f"w{number}") for number in range(4)]

    def kill() -> None:
        try:
            for round_ in range(3):
                shard = round_ % 2
                count = len(watcher.changes)
                wait_for(lambda count=count: len(watcher.changes) > count + 100, "a hundred more changes")
                pid = server.shard_pids()[shard]
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda shard=shard, pid=pid: server.shard_pids()[shard] not in (0, pid), "the next shard")
        finally:
            stop.set()

    together(kill, *(partial(writer.run, (server.host, server.port), stop) for writer in writers))
    put(server, [("end", "x")])
    changes = watcher.result()
    for writer in writers:
        for key in {attempt.key for attempt in writer.attempts}:
            begin = f"Insert {{ key: {key}, value: "
            shown = [line[len(begin) : -2] for line in changes if line.startswith(begin)]
            attempts = [a for a in writer.attempts if a.key == key and a.value is not None]
            assert shown == [a.value for a in attempts if a.outcome == "acked" or a.value in shown]
            assert not {a.value for a in attempts if a.outcome == "refused"} & set(shown)


def test_another_gateway_takes_over(new_server: Callable[..., Server]) -> None:
    """One that is killed takes its connections along; clients come back to the next."""
    server = new_server("--shards", "1", "--workers", "1").start()
    pid = gateway_pid(server)
    with watching(server) as client:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            client.recv(10)
    wait_for(lambda: [g for g in server.status()["gateways"] if g["pid"] != pid], "another gateway")
    with watching(server) as client:
        put(server, [("k", "v")])
        assert client.recv(10) == "Insert { key: k, value: v }"


def test_activity_is_whole_from_the_first_moment(new_server: Callable[..., Server]) -> None:
    """Of every web worker, after a start and after gateways and workers were replaced."""
    server = new_server("--shards", "1", "--workers", "4", "--gateways", "1").start()
    for turn in range(4):
        with watching(server) as client, server.client() as http_client:
            for at in range(12):  # a connection for each, so that every worker gets some
                http_client.get(f"/{turn}.{at}", headers={"Connection": "close"})
            http_client.put("/end", content=b"")
            shown = lines_until(client, "Insert { key: end, value:  }")
        # In any order: the lines of several workers may overtake one another.
        assert sorted(shown[:-1]) == sorted(f"Read {{ key: {turn}.{at}}}" for at in range(12))
        status = server.status()
        gone = [row["pid"] for row in (status["gateways"] if turn % 2 else status["workers"])]
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        kind = "gateways" if turn % 2 else "workers"
        wait_for(partial(is_replaced, server, kind, gone), "their successors")


def is_replaced(server: Server, kind: str, gone: list[int]) -> bool:
    """Whether as many processes as are `gone` serve in their place."""
    try:
        rows = server.status()[kind]
    except httpx.TransportError:
        return False
    return len(rows) == len(gone) and not {row["pid"] for row in rows} & set(gone)


def test_a_stop_tells_every_client(new_server: Callable[..., Server]) -> None:
    """By code 1012, after everything that was written."""
    server = new_server("--shards", "2", "--workers", "1", "--gateways", "2").start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(watching(server)) for _ in range(20)]
        assert all(gateway["clients"] for gateway in server.status()["gateways"])
        put(server, [("last", "x")])
        server.stop()
        for client in clients:
            assert lines_until(client, "Insert { key: last, value: x }") == ["Insert { key: last, value: x }"]
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    client.recv(10)
            assert closed.value.rcvd == Close(1012, "the server is stopping")
