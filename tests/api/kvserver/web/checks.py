"""What several tests of connections check, and clients and gateways for them."""

from __future__ import annotations

import socket

from kvserver.http.responses import COMMON, INERT
from tests.api.web import Answer, Web, request

HANDSHAKE = (
    "Upgrade: WebSocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

EVENTS = request("GET", "/v1/feed", "Accept: text/event-stream", "Origin: https://a.example")


def check_common(answer: Answer) -> None:
    """Every answer of every layer has these."""
    for name, value in COMMON:
        assert answer.headers[name.decode()] == value.decode()
    for name, value in INERT:
        assert answer.headers[name.decode()] == value.decode()
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "date" in answer.headers


async def refused(web: Web, data: bytes, status: int, body: bytes | None = None) -> Answer:
    """`data` is answered with `status`, and the connection takes no other request."""
    client = await web.connect()
    answer = await client.ask(data)
    assert answer.status == status, answer
    if body is not None:
        assert answer.body == body
    check_common(answer)
    assert answer.headers["connection"] == "close"
    assert "x-request-id" in answer.headers
    assert await client.ended()
    return answer


def slow_client(web: Web) -> socket.socket:
    """A client whose kernel takes little; not blocking."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect(("127.0.0.1", web.port))
    client.setblocking(False)
    return client


async def read_some(web: Web, client: socket.socket, size: int) -> None:
    while size:
        size -= len(await web.loop.sock_recv(client, size))


def listen_as_gateway(web: Web) -> socket.socket:
    index, row = web.board.gateways.claim_row()
    row.state = row.UP
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(web.run_dir / f"gateway-{index}.handover"))
    listener.listen()
    listener.setblocking(False)
    web.listener = listener  # type: ignore[attr-defined]
    return listener
