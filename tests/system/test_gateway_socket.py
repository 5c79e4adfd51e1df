"""The socket layer of the gateway, under real gunicorn, with an application that echoes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.system.harness import wait_for
from tests.system.raw import HANDSHAKE, KEY, Raw, masked, request

ROOT = Path(__file__).parents[2]


class EchoServer:
    """gunicorn with one worker of the gateway's kind, and the echo application under the given limits."""

    def __init__(self, tmp_path: Path, *more_options: str, **limits: float | str) -> None:
        self.log_path, self.access_path = tmp_path / "log", tmp_path / "access"
        environ = os.environ | {f"ECHO_{name.upper()}": str(value) for name, value in limits.items()}
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, self.log_path.open("wb") as log:
            self.port: int = listener.getsockname()[1]
            options = ["-k", "kvserver.gateway.worker.SocketWorker", "-b", f"fd://{listener.fileno()}"]
            options += ["--no-control-socket", "--access-logfile", str(self.access_path), *more_options]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "tests.echo.app:app"],
                env=environ,
                cwd=ROOT,
                stderr=log,
                stdout=log,
                pass_fds=[listener.fileno()],
            )

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        try:
            assert self.process.wait(15) == 0, self.log_path.read_text()
        finally:
            self.process.kill()
            self.process.wait()

    def websocket(self, path: str = "/") -> ClientConnection:
        """A well-behaved client, which answers pings."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", compression=None, max_size=None, ping_interval=None)

    def raw(self, **headers: str) -> Raw:
        """A client that does what the test says, after a handshake."""
        raw = self.tcp()
        raw.upgrade("/", **headers)
        return raw

    def tcp(self) -> Raw:
        """A connection on which nothing was said."""
        return Raw(socket.create_connection(("127.0.0.1", self.port), 20))


def running(tmp_path: Path, **limits: float) -> Iterator[EchoServer]:
    """A server that must end well, and without a traceback."""
    server = EchoServer(tmp_path, **limits)
    try:
        yield server
    finally:
        server.stop()
    assert "Traceback" not in server.log_path.read_text(), server.log_path.read_text()


@pytest.fixture(scope="module")
def echo(make_dir: Callable[[str], Path]) -> Iterator[EchoServer]:
    """With the gateway's limits."""
    yield from running(make_dir("echo"))


@pytest.fixture(scope="module")
def impatient(make_dir: Callable[[str], Path]) -> Iterator[EchoServer]:
    """One that waits for nobody."""
    limits = {"ping_s": 0.1, "silence_s": 0.8, "stall_s": 0.6, "handshake_s": 0.5, "linger_s": 0.3}
    yield from running(make_dir("impatient"), max_message=16 << 20, **limits)


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_messages_come_back(echo: EchoServer, size: int) -> None:
    """Up to the limit, with the same type."""
    with echo.websocket() as client:
        client.send("x" * size)
        assert client.recv() == "x" * size
        client.send(b"\xff" * size)
        assert client.recv() == b"\xff" * size
        client.send(["x" * (size // 2), "x" * (size - size // 2)])
        assert client.recv() == "x" * size


def test_frames_that_came_with_the_handshake(echo: EchoServer) -> None:
    """Nothing that a client sends early is lost."""
    with echo.tcp() as client:
        head = request("GET", "/", HANDSHAKE) + masked(Opcode.TEXT, b"early")
        for at in range(0, len(head), 7):
            client.send(head[at : at + 7])
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frame().data == b"early"


def test_pings_are_answered_between_fragments(echo: EchoServer) -> None:
    """In order."""
    with echo.raw() as client:
        client.send(masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.PING, b"1") + masked(Opcode.PING, b"2"))
        client.send(masked(Opcode.CONT, b"b"))
        frames = [client.frame() for _ in range(3)]
        assert [(f.opcode, f.data) for f in frames] == [(Opcode.PONG, b"1"), (Opcode.PONG, b"2"), (Opcode.TEXT, b"ab")]


# Closing


def test_the_server_closes_with_code_and_reason(echo: EchoServer) -> None:
    """The reason is not lost, nor the code."""
    with echo.websocket() as client:
        client.send("close 4001 läge")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd == Close(4001, "läge")


@pytest.mark.parametrize("within_a_message", [False, True])
@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 4999) + b"Hello World!"])
def test_a_close_is_answered_with_its_own_code(echo: EchoServer, payload: bytes, within_a_message: bool) -> None:
    """And the connection ends in order."""
    with echo.raw() as client:
        client.send(masked(Opcode.TEXT, b"begun", fin=False) if within_a_message else b"")
        client.send(masked(Opcode.CLOSE, payload))
        assert client.frame().data == payload
        assert client.rest() == b""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\xc1\x80", 1002),  # reserved bit
        (masked(Opcode.CLOSE, b"\x03"), 1002),
        (masked(Opcode.CONT, b""), 1002),
        (masked(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
        (masked(Opcode.TEXT, b"\xf4\x90 and more that never comes")[:8], 1007),
        (b"\x82\xff" + (8 << 30).to_bytes(8, "big") + bytes(4), 1009),
        (masked(Opcode.BINARY, bytes(65536), fin=False) + masked(Opcode.CONT, b"x"), 1009),
    ],
    ids=[
        "not masked",
        "reserved bit",
        "half a code",
        "nothing to continue",
        "a surrogate",
        "no such character",
        "8 GiB claimed",
        "too large in pieces",
    ],
)
def test_faults_are_closed_with_their_code(echo: EchoServer, data: bytes, code: int) -> None:
    """What came before them is answered, and what comes after them does not reset the connection."""
    with echo.raw() as client:
        client.send(masked(Opcode.TEXT, b"before") + data + masked(Opcode.BINARY, bytes(60_000)) * 5)
        assert client.frame().data == b"before"
        assert client.closed_with().code == code


def test_an_error_of_the_application_is_1011(tmp_path: Path) -> None:
    """And in the log."""
    server = EchoServer(tmp_path)
    try:
        with server.websocket() as client:
            client.send("fail")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    finally:
        server.stop()
    assert server.log_path.read_text().count("RuntimeError: as the client asked") == 1


def test_sigterm_closes_everybody_with_1012(tmp_path: Path) -> None:
    """Who doesn't read, or has not finished its handshake, delays that by moments."""
    server = EchoServer(tmp_path, max_message=64 << 20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.websocket()) for _ in range(5)]
        stalled, unfinished = stack.enter_context(server.raw()), stack.enter_context(server.tcp())
        stalled.send(masked(Opcode.BINARY, bytes(32 << 20)))
        unfinished.send(b"GET / HTTP/1.1\r\n")
        server.stop()
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd == Close(1012, "the server is stopping")
    assert "Traceback" not in server.log_path.read_text()


# Handshakes

REFUSED = [
    ({"Connection": ""}, "Connection header did not include 'upgrade'"),
    ({"Connection": "notupgraded"}, "Connection header did not include 'upgrade'"),
    ({"Upgrade": ""}, "`Upgrade` header did not include 'websocket'"),
    ({"Upgrade": "h2c"}, "`Upgrade` header did not include 'websocket'"),
    ({"Sec-WebSocket-Version": ""}, "`Sec-WebSocket-Version` header did not include '13'"),
    ({"Sec-WebSocket-Version": "8"}, "`Sec-WebSocket-Version` header did not include '13'"),
    ({"Sec-WebSocket-Key": ""}, "`Sec-WebSocket-Key` header missing"),
    ({"Sec-WebSocket-Key": "c2hvcnQ="}, "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
    ({"Sec-WebSocket-Key": KEY[:-2]}, "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
    ({"Sec-WebSocket-Key": "!" + KEY[1:]}, "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
    ({"Host": ""}, "Host header: exactly one is needed"),
    ({"host": "another"}, "Host header: exactly one is needed"),
    ({"Host": "a/b"}, "Host header: not a host"),
    ({"Content-Length": "5"}, "A WebSocket handshake has no body"),
    ({"Transfer-Encoding": "chunked"}, "A WebSocket handshake has no body"),
    ({"Transfer-Encoding": "gzip"}, "Transfer-Encoding: only chunked is known"),
    ({"X y": "z"}, "malformed request: "),
]


def answer_to(server: EchoServer, data: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of what the server answers, after which it hangs up."""
    with server.tcp() as client:
        with contextlib.suppress(OSError):  # it may hang up while too much is being sent
            client.send(data)
        status, *lines = client.head().decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, client.rest().decode()


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_refused_handshakes(echo: EchoServer, change: dict[str, str], text: str) -> None:
    """400, the reason in words (of a malformed one in the parser's, which may change), and headers that let a page's
    script read it."""
    status, headers, body = answer_to(echo, request("GET", "/", HANDSHAKE | change))
    assert status == 400 and (body == text or (text.endswith(": ") and body.startswith(text)))
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["connection"] == "close"
    assert (headers.get("sec-websocket-version") == "13") == ("Version" in text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request("GET", "/", HANDSHAKE, "1.0"), 400),
        (request("GET", "/", HANDSHAKE, "2.0"), 400),
        (request("GET", "/a<b", HANDSHAKE), 400),
        (request("GET", "/é", HANDSHAKE), 400),
        (request("GET", "a", HANDSHAKE), 400),
        (request("GET", "/", HANDSHAKE).replace(b"\r\n", b"\n") + b"\r\n\r\n", 400),
        (request("GET", "/", {"Folded": "a\r\n b"} | HANDSHAKE), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # somebody speaks TLS
        (request("FOO", "/", HANDSHAKE), 405),
        (request("POST", "/", HANDSHAKE), 405),
        (request("HEAD", "/", HANDSHAKE), 405),
        (request("OPTIONS", "/", HANDSHAKE), 200),
        (request("GET", "/" + "x" * 8192, HANDSHAKE), 414),
        (b"x" * 9000, 414),
        (request("GET", "/", HANDSHAKE | {"X": "x" * 65536}), 431),
        (request("GET", "/", HANDSHAKE)[:-2] + b"X: " + b"x" * 70_000, 431),
        (request("GET", "/", HANDSHAKE | {f"X-{number}": "x" for number in range(500)}), 431),
    ],
)
def test_requests_that_are_no_handshakes(echo: EchoServer, data: bytes, expected: int) -> None:
    """Answered at once, without waiting for what never comes."""
    status, headers, _ = answer_to(echo, data)
    assert status == expected
    assert headers["access-control-allow-origin"] == "*"
    if expected == 405:
        assert headers["allow"] == ("GET" if data.startswith(b"HEAD") else "GET,HEAD")


def test_many_headers_are_no_fault(echo: EchoServer) -> None:
    """As many as a web worker takes."""
    echo.raw(**{f"X-{number}": "x" for number in range(400)}).socket.close()


def test_an_origin_that_is_not_listed(tmp_path: Path) -> None:
    """Its pages may not connect."""
    server = EchoServer(tmp_path, origins="https://app.example, https://b.example")
    try:
        status, headers, _ = answer_to(server, request("GET", "/", HANDSHAKE | {"Origin": "https://evil.example"}))
        assert status == 403
        assert "access-control-allow-origin" not in headers
        server.raw(Origin="https://b.example").socket.close()
        server.raw().socket.close()
    finally:
        server.stop()


def test_the_access_log_has_the_raw_path(echo: EchoServer) -> None:
    """Of connections and of refusals."""
    with echo.websocket("/a%2Fb?c=%20"):
        pass
    answer_to(echo, request("POST", "/refused%20", HANDSHAKE))
    wait_for(lambda: '"GET /a%2Fb?c=%20 HTTP/1.1" 101 ' in echo.access_path.read_text(), "the line of a connection")
    wait_for(lambda: '"POST /refused%20 HTTP/1.1" 405 ' in echo.access_path.read_text(), "the line of a refusal")


# Clients that misbehave


def test_an_unfinished_handshake_ends(impatient: EchoServer) -> None:
    """With 408 if it had begun."""
    status, _, body = answer_to(impatient, b"GET / HTTP/1.1\r\nHost: x\r\n")
    assert (status, body) == (408, "request timed out")
    with impatient.tcp() as silent:
        assert silent.rest() == b""


def test_who_does_not_answer_is_dropped(impatient: EchoServer) -> None:
    """And who does is not."""
    with impatient.websocket() as good, impatient.raw() as mute:
        assert b"\x89\x03\x01\x02\x03" in mute.rest()
        good.send("still here")
        assert good.recv() == "still here"


def test_who_does_not_read_is_dropped(impatient: EchoServer) -> None:
    """Though it sends and sends."""
    with impatient.raw() as client, pytest.raises(OSError):
        while True:
            client.send(masked(Opcode.BINARY, bytes(8 << 20)))


def test_a_flood_of_pings_without_reading_takes_no_memory(impatient: EchoServer) -> None:
    """The server stops reading, and then drops the client."""
    flood = masked(Opcode.PING, bytes(125)) * 1000
    with impatient.raw() as client, pytest.raises(OSError):
        while True:
            client.send(flood)


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING, Opcode.CONT])
def test_a_flood_leaves_room_for_others(echo: EchoServer, opcode: Opcode) -> None:
    """Round trips while another client sends as fast as it can."""
    over = threading.Event()

    def flood() -> None:
        with echo.raw() as client:
            if opcode is Opcode.CONT:
                client.send(masked(Opcode.BINARY, b"", fin=False))
            reader = threading.Thread(target=drain, args=(client.socket,))
            reader.start()
            data = masked(opcode, b"" if opcode is Opcode.CONT else b"flood", fin=opcode is not Opcode.CONT) * 1000
            while not over.is_set():
                client.send(data)
            client.socket.shutdown(socket.SHUT_RDWR)
            reader.join()

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        with echo.websocket() as good:
            for number in range(30):
                good.send(f"{number}")
                assert good.recv() == f"{number}"
    finally:
        over.set()
        flooder.join()


def drain(sock: socket.socket) -> None:
    """Read until the end."""
    with contextlib.suppress(OSError):
        while sock.recv(1 << 20):
            pass


def test_a_worker_dies_with_its_master(tmp_path: Path) -> None:
    """Rather than to serve feeds that nobody watches over."""
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text("from kvserver.gateway.worker import post_fork\n")
    server = EchoServer(tmp_path, "-c", str(configuration))
    with server.raw() as client:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        with contextlib.suppress(ConnectionResetError):
            assert client.rest() == b""
