"""A plain HTTP client that costs little, for where the latency of single requests counts, and what is done with it."""

from __future__ import annotations

import base64
import itertools
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

import msgspec

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_RECEIVE = 1 << 20
MESSAGE_PACK = "application/vnd.msgpack"

Operation = dict[str, Any]
T = TypeVar("T")


class Refused(Exception):
    """A server answered what it should not."""


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """The bytes of a request. `headers`: names with `_` for `-`."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def batch(operations: list[Operation], *, packed: bool = True) -> bytes:
    """The bytes of a batch of `operations`, in MessagePack (values are bytes) or JSON (values are text)."""
    document = {"ops": operations}
    if packed:
        return request("POST", "/v1/batch", msgspec.msgpack.encode(document), Content_Type=MESSAGE_PACK)
    return request("POST", "/v1/batch", msgspec.json.encode(document), Content_Type="application/json")


class Connection:
    """One request at a time over one connection. Chunks of an answer without a Content-Length stay as they come."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytearray:
        """The body of the answer. Raises `Refused` unless its status is below 300, `OSError`."""
        self._socket.sendall(request)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        status, found = int(received[9:12]), _LENGTH.search(received, 0, end + 2)
        whole = end + 4 + (int(found[1]) if found else 0)
        if not found and _CHUNKED.search(received, 0, end + 2):
            while not received.endswith(_LAST_CHUNK):
                received += self._receive()
        while len(received) < whole:
            received += self._receive()
        if status >= 300:
            raise Refused(f"{request[:100]!r}: {bytes(received[:500])!r}")
        del received[: end + 4]  # not copied: other threads measure meanwhile
        return received

    def ask_timed(self, request: bytes) -> float:
        """Seconds until the whole answer to `request` was there."""
        begun = time.perf_counter()
        self.ask(request)
        return time.perf_counter() - begun

    def _receive(self) -> bytes:
        data = self._socket.recv(_RECEIVE)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lines_of_wal(port: int, timeout_s: float) -> Iterator[bytes]:
    """What comes of `/wal`, as it comes: pieces of unmasked frames (RFC 6455). First an empty piece, when it is
    connected. It answers no pings, so it is good for half a minute."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(request("GET", "/wal", **{name.replace("-", "_"): value for name, value in fields.items()}))
        head, _, rest = connection.recv(_RECEIVE).partition(b"\r\n\r\n")
        if b" 101 " not in head:
            raise Refused(repr(head))
        yield b""
        yield rest
        while data := connection.recv(_RECEIVE):
            yield data


def fill(port: int, operations: Iterable[Operation], each: int = 2000, authorization: str = "") -> list[Operation]:
    """Have our server do `operations`, in batches of `each`. Return their results. Raises `Refused` if any fails."""
    all_results: list[Operation] = []
    with Connection(port) as connection:
        for portion in portions(operations, each):
            answer = connection.ask(authorize(batch(portion), authorization))
            results = msgspec.msgpack.decode(answer)["results"]
            failed = next((result for result in results if result["status"] >= 300), None)
            if failed:
                raise Refused(f"{failed}")
            all_results += results
    return all_results


def authorize(request: bytes, authorization: str) -> bytes:
    """Add the field Authorization to `request`; return it as it is if that is empty."""
    if not authorization:
        return request
    return request.replace(b"\r\n", f"\r\nAuthorization: {authorization}\r\n".encode(), 1)


def portions(items: Iterable[T], each: int) -> Iterator[list[T]]:
    """`items` in lists of `each`."""
    left = iter(items)
    while portion := list(itertools.islice(left, each)):
        yield portion


class Pulse:
    """One client that sends request after request while `with` lasts, and remembers how long each took.

    Attributes:
        seconds: how long each of the requests so far took.
        error: what ended it early.
    """

    def __init__(self, port: int, requests: Iterable[bytes]) -> None:
        self._port, self._requests = port, requests
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            with Connection(self._port) as connection:
                for request in self._requests:
                    if self._stop.is_set():
                        return
                    self.seconds.append(connection.ask_timed(request))
        except (OSError, Refused) as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
