"""Clients of `/v1/feed`: what arrives on one connection, message by message, each as the API's description says."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import jsonschema_rs
import msgspec
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from kvserver.description import openapi
from tests.system.harness import Server

Message = dict[str, Any]

_COMPONENTS = openapi.make_document()["components"]
_REFERENCE = {"$ref": "#/components/schemas/FeedMessage", "components": _COMPONENTS}
_DESCRIBED = jsonschema_rs.Draft202012Validator(_REFERENCE, validate_formats=True)


def read(text: str) -> Message:
    """A message in JSON. Fails if it is none that is described."""
    message: Message = json.loads(text)
    _DESCRIBED.validate(message)
    return message


def query(parameters: dict[str, Any]) -> str:
    """The query string of `parameters`; a list is given several times."""
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()}
    return urlencode(plain, doseq=True, quote_via=quote)


def poll(server: Server, **parameters: Any) -> Message:
    """The answer to one poll."""
    with server.client(60) as client:
        answer: Message = client.get("/v1/feed?" + query(parameters)).raise_for_status().json()
        for message in answer["messages"]:
            _DESCRIBED.validate(message)
        return answer


def polled(server: Server, since: str, **parameters: Any) -> tuple[list[Message], str]:
    """All messages behind `since`, by as many polls as it takes, and the last cursor."""
    messages: list[Message] = []
    while True:
        answer = poll(server, since=since, **parameters)
        messages += answer["messages"]
        since = answer["cursor"]
        if not answer["more"]:
            return messages, since


def now(server: Server) -> str:
    """The cursor of this moment."""
    cursor: str = poll(server)["cursor"]
    return cursor


@contextlib.contextmanager
def lines(
    server: Server, accept: str = "application/x-ndjson", headers: dict[str, str] | None = None, **parameters: Any
) -> Iterator[Iterator[Message]]:
    """Messages of a stream of lines, or of SSE; of SSE each has its `id`."""
    given = {"Accept": accept, **(headers or {})}
    with (
        server.client(30) as client,
        client.stream("GET", "/v1/feed?" + query(parameters), headers=given) as answer,
    ):
        answer.raise_for_status()
        assert answer.headers["content-type"] == accept
        yield _sse(answer) if accept == "text/event-stream" else map(read, answer.iter_lines())


def _sse(answer: httpx.Response) -> Iterator[Message]:
    found = answer.iter_lines()
    assert next(found) == "retry: 2000"  # in the block of the first message
    for line in found:
        id = re.fullmatch("id: (.*)", line)
        data = re.fullmatch("data: (.*)", next(found))
        assert id and data
        assert next(found) == ""
        yield {"id": id[1], **read(data[1])}


@contextlib.contextmanager
def websocket(
    server: Server, protocol: str | None = None, headers: dict[str, str] | None = None, **parameters: Any
) -> Iterator[ClientConnection]:
    """A WebSocket of the feed."""
    with connect(
        f"{server.feed_url.removesuffix('/wal')}/v1/feed?{query(parameters)}",
        additional_headers=headers,
        subprotocols=[Subprotocol(protocol)] if protocol else None,
        proxy=None,
        compression=None,
        open_timeout=15,
    ) as connection:
        yield connection


def receive(connection: ClientConnection) -> Message:
    """The next message of a WebSocket."""
    data = connection.recv(15)
    message: Message = read(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
    return message


def received(connection: ClientConnection) -> Iterator[Message]:
    """All messages until it closes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield receive(connection)


def events(messages: Iterator[Message], count: int) -> list[Message]:
    """The next `count` events."""
    found: list[Message] = []
    for message in messages:
        found += message.get("events", [])
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} of {count} events, then the end")
