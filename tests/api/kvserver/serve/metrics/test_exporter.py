"""The server of /metrics by itself, on a real socket: whom it answers, and how long it bears with whom."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kvserver.serve import listening
from kvserver.serve.metrics import exporter
from kvserver.serve.metrics.exporter import MAX_HEAD, MetricsServer
from tests.system.harness import wait_for

ASKED = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

NewServer = Callable[..., MetricsServer]


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Starts one on a free port; stops it at the end."""
    started: list[tuple[MetricsServer, threading.Thread]] = []

    def start(*collectors: Collector) -> MetricsServer:
        registry = CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        Gauge("answer", "To everything.", registry=registry).set(42)
        listener = listening.bind_listener("127.0.0.1", 0, "metrics_port")
        listener.listen()
        server = MetricsServer(listener, registry)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        started.append((server, thread))
        thread.start()
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(server.server_address[:2], 20)  # type: ignore[arg-type]


def answer(connection: socket.socket) -> bytes:
    """All that is answered, until the other side closes."""
    with connection, connection.makefile("rb") as file:
        return file.read()


def ask(server: MetricsServer, data: bytes = ASKED) -> bytes:
    connection = connect(server)
    connection.sendall(data)
    return answer(connection)


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed, or reset, a connection, within its time-out."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("line", "status", "text"),
    [
        (b"GET /metrics HTTP/1.1", b"200", b"answer 42.0"),
        (b"GET /metrics?name[]=x HTTP/1.0", b"200", b"answer 42.0"),
        (b"HEAD /metrics HTTP/1.1", b"200", b""),
        (b"GET / HTTP/1.1", b"404", b""),
        (b"POST /metrics HTTP/1.1", b"501", b""),
        (b"nonsense", b"400", b""),
    ],
)
def test_what_is_answered(new_server: NewServer, line: bytes, status: bytes, text: bytes) -> None:
    got = ask(new_server(), line + b"\r\nHost: a\r\n\r\n")
    assert got.split(b" ", 2)[1] == status or line == b"nonsense"
    assert text in got


def test_the_silent_keep_nobody_out(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go; and there are never many more threads than may be connections."""
    monkeypatch.setattr(exporter, "MOST", 4)
    server, before = new_server(), threading.active_count()
    silent = [connect(server) for _ in range(40)]
    for _ in range(5):
        assert b"answer 42.0" in ask(server)
    assert all(ended(connection) for connection in silent[:30])
    wait_for(lambda: threading.active_count() <= before + 4, "the end of their threads")
    for connection in silent:
        connection.close()


def test_who_is_being_answered_is_not_dropped(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come meanwhile."""
    monkeypatch.setattr(exporter, "MOST", 4)
    going_on, begun = threading.Event(), threading.Event()

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            begun.set()
            assert going_on.wait(20)
            yield GaugeMetricFamily("slow", "What takes its time.", value=1)

    server = new_server(Slow())
    with connect(server) as scraper, contextlib.ExitStack() as stack:
        scraper.sendall(ASKED)
        assert begun.wait(20)
        silent = [stack.enter_context(connect(server)) for _ in range(40)]
        assert all(ended(connection) for connection in silent[:30])
        going_on.set()
        assert b"slow 1.0" in answer(scraper)


@pytest.mark.parametrize("sent", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"])
def test_who_does_not_finish_is_cut_off(new_server: NewServer, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(exporter, "DEADLINE_S", 0.2)
    with connect(new_server()) as connection:
        connection.sendall(sent)
        assert ended(connection)


def test_who_sends_byte_by_byte_is_cut_off(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it says something."""
    monkeypatch.setattr(exporter, "DEADLINE_S", 0.3)
    with connect(new_server()) as connection:
        connection.settimeout(0.01)

        def drip() -> bool:
            try:
                connection.sendall(b"a")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_for(drip, "the end")


def test_heads_have_a_limit(new_server: NewServer) -> None:
    server = new_server()
    begin, end = b"GET /metrics HTTP/1.1\r\nX: ", b"\r\n\r\n"
    room = MAX_HEAD - len(begin) - len(end)
    assert b" 200 " in ask(server, begin + b"x" * room + end)
    assert b" 431 " in ask(server, begin + b"x" * (room + 1) + end)
    with connect(server) as endless:
        endless.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:
                endless.sendall(b"X: y\r\n" * 1000)
    assert b" 200 " in ask(server)
