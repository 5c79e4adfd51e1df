"""What the kernel holds of what was written."""

from __future__ import annotations

import socket

from kvserver.http.send_queue import count_unsent


def test_bytes_that_the_peer_has_not_read_are_counted() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            assert count_unsent(client.fileno()) == 0
            client.setblocking(False)
            sent = 0
            try:
                while True:
                    sent += client.send(b"x" * 65536)
            except BlockingIOError:
                pass
            assert 0 < count_unsent(client.fileno()) <= sent


def test_a_socket_that_is_gone_holds_nothing() -> None:
    assert count_unsent(-1) == 0
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    assert count_unsent(number) == 0
