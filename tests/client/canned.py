"""A server that gives the answers that a test hands it, whatever it is asked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from typing import Self


class CannedServer:
    """Answers requests from `answers`, in order; when only one is left, it is given again and again.

    Attributes:
        answers: one of no bytes ends the connection.
        requests: the heads of those that came.
        connections: how many were accepted.
        pause_s: seconds after each byte of a body; 0: bodies are sent at once.
        drips_head: send the head byte by byte too.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers: deque[bytes] = deque()
        self.requests: list[str] = []
        self.connections = 0
        self.pause_s = 0.0
        self.drips_head = False
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _wrapped(self, client: socket.socket) -> socket.socket:
        try:
            return self._tls.wrap_socket(client, server_side=True) if self._tls else client
        except OSError:  # the client does not trust it
            client.close()
            raise

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self._wrapped(client) as client, client.makefile("rb") as file:
            while head := _read_head(file):
                fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
                file.read(int(fields.get("content-length", "0")))
                with self._lock:
                    self.requests.append(head)
                    answer = self.answers[0] if len(self.answers) == 1 else self.answers.popleft()
                if not answer:
                    return
                start = answer.index(b"\r\n\r\n") + 4 if self.pause_s else len(answer)
                start = 0 if self.drips_head else start
                client.sendall(answer[:start])
                for byte in answer[start:]:
                    client.sendall(bytes((byte,)))
                    time.sleep(self.pause_s)
                if b"connection: close" in answer.lower():
                    return


def _read_head(file: object) -> str:
    """Read the head of a request, without the line that ends it; "" at the end of the connection."""
    lines = []
    while (line := file.readline()) not in (b"", b"\r\n"):  # type: ignore[attr-defined]
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    return "\n".join(lines)
