"""Who may follow the feed, by what browsers tell: at the REST port, which hands over, and at the gateway's own."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.system.harness import Server, wait_for
from tests.system.raw import HANDSHAKE, request

LISTED, EVIL = "https://a.example", "https://evil.example"
WEBSOCKET = {name: value for name, value in HANDSHAKE.items() if name != "Host"}
FEEDS = {
    "poll": ("/v1/feed", {}),
    "lines": ("/v1/feed", {"Accept": "application/x-ndjson"}),
    "events": ("/v1/feed", {"Accept": "text/event-stream"}),
    "websocket": ("/v1/feed", WEBSOCKET),
    "wal": ("/wal", WEBSOCKET),
}


class Doors(NamedTuple):
    """A server that lists one origin and one name, and the ports at which its feed is asked for."""

    server: Server
    ports: dict[str, int]


@pytest.fixture(scope="module")
def doors(make_dir: Callable[[str], Path]) -> Iterator[Doors]:
    options = ("--shards", "1", "--workers", "1", "--sync", "os", "--feed-port", "0", "--log-level", "debug")
    named = ("--origins", LISTED, "--allowed-hosts", "kv.example", "--access-log")
    with Server(make_dir("data"), *options, *named) as server:
        own = re.search(r"feed +ws://127\.0\.0\.1:(\d+)", server.banner)
        assert own is not None
        yield Doors(server, {"rest": server.port, "own": int(own[1])})


@pytest.fixture(params=["rest", "own"])
def port(request: pytest.FixtureRequest, doors: Doors) -> int:
    return doors.ports[request.param]


class Head(NamedTuple):
    status: int
    headers: dict[str, str]
    rest: bytes


def ask(port: int, method: str, path: str, headers: dict[str, str], version: str = "1.1") -> Head:
    """The head of an answer, and what came with it."""
    raw = request(method, path, headers).replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(raw)
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(1 << 16)
            assert data, received
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        named = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        while len(rest) < int(named.get("content-length", "0")) and (data := connection.recv(1 << 16)):
            rest += data
    return Head(int(line.split()[1]), named, rest)


def status_of(kind: str) -> int:
    return 101 if kind in ("websocket", "wal") else 200


@pytest.mark.parametrize("kind", FEEDS)
def test_pages_of_other_origins_get_no_feed(port: int, kind: str) -> None:
    path, headers = FEEDS[kind]
    for page in (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": EVIL, "Sec-Fetch-Site": "same-origin"},
        {"Origin": LISTED, "origin": EVIL},
    ):
        for target in (path, f"{path}?ticket=kvt_x"):
            answer = ask(port, "GET", target, {"Host": "kv.example", **headers, **page})
            assert answer.status == 403, (kind, page, answer)
            assert "access-control-allow-origin" not in answer.headers
            assert path == "/wal" or json.loads(answer.rest)["code"] == "forbidden_origin"


@pytest.mark.parametrize("kind", FEEDS)
def test_who_asks_by_another_name_gets_no_feed(port: int, kind: str) -> None:
    path, headers = FEEDS[kind]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
        answer = ask(port, "GET", path, {"Host": host, "Origin": f"http://{host}", **headers})
        assert answer.status == 421
        assert path == "/wal" or json.loads(answer.rest)["code"] == "misdirected"
    assert ask(port, "GET", f"http://evil.example{path}", {"Host": "localhost", **headers}).status == 421


@pytest.mark.parametrize("kind", FEEDS)
def test_listed_pages_and_no_pages_get_it(port: int, kind: str) -> None:
    path, headers = FEEDS[kind]
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]", "KV.example."):
        answer = ask(port, "GET", path, {"Host": host, **headers})
        assert answer.status == status_of(kind)
        assert "access-control-expose-headers" not in answer.headers
        page = {"Origin": LISTED, "Sec-Fetch-Site": "cross-site", "X-Request-Id": "mine"}
        answer = ask(port, "GET", path, {"Host": host, **headers, **page})
        assert answer.status == status_of(kind)
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert "KV-Cursor" in answer.headers["access-control-expose-headers"]
        assert answer.headers["x-request-id"] == "mine"


def test_a_preflight_of_the_feed(port: int) -> None:
    for origin in (EVIL, LISTED):
        asked = {"Host": "localhost", "Origin": origin, "Access-Control-Request-Headers": "cache-control,traceparent"}
        answer = ask(port, "OPTIONS", "/v1/feed", asked)
        assert answer.status == 200
        assert {"cache-control", "traceparent"} < set(
            answer.headers["access-control-allow-headers"].lower().split(", ")
        )
        assert answer.headers.get("access-control-allow-origin") == (LISTED if origin == LISTED else None)


def test_who_sends_no_host_is_no_browser(doors: Doors) -> None:
    assert ask(doors.ports["rest"], "GET", "/v1/feed", {}, version="1.0").status == 200


def test_refusals_are_logged_with_the_id_of_their_answer(doors: Doors, port: int) -> None:
    for number, given in enumerate(({}, {"X-Request-Id": f"mine-{port}"})):
        answer = ask(port, "GET", f"/v1/feed?since={number}&x=kvt_x", {"Host": "localhost", **given})
        name = f"(request {answer.headers['x-request-id']})"
        assert answer.status == 400 and given.get("X-Request-Id", name[9:-1]) == name[9:-1]
        lines = wait_for(lambda: [x for x in doors.server.log().splitlines() if x.endswith(name)][1:], "both lines")  # noqa: B023
        assert any('"GET /v1/feed" 400' in line for line in lines)
    assert "kvt_x" not in doors.server.log()
