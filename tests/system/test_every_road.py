"""One request by every way into the server, so that an interpreter on which one of them is closed is found at once."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.sync.client import connect

from tests.system.harness import Server

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("PUT", "/root", {}, b"v", 200),
        ("PUT", "/v1/kv/plain", {}, b"v", 201),
        ("PUT", "/v1/kv/closing", {"Connection": "close"}, b"v", 201),
        ("PUT", "/v1/kv/typed", {"Content-Type": "application/json"}, b"{}", 201),
        ("PUT", "/v1/kv/ttl?ttl=60", {}, b"v", 201),
        ("PUT", "/v1/kv/expires?expires=2100-01-01T00:00:00Z", {}, b"v", 201),
        ("PUT", "/v1/kv/new", {"If-None-Match": "*"}, b"v", 201),
        ("PUT", "/v1/kv/previous?return=previous", {}, b"v", 201),
        ("PUT", "/v1/kv/large", {}, b"v" * 5_000_000, 201),
        ("PATCH", "/v1/kv/patched", MERGE, b'{"a":1}', 201),
        ("POST", "/v1/kv/counter?incr=1", {}, b"", 201),
        ("POST", "/v1/kv/typed?ttl=60", {}, b"", 204),
        ("POST", "/v1/kv/typed?persist=true", {}, b"", 204),
        ("POST", "/v1/batch", {}, b'{"ops":[{"op":"put","key":"b","value":"v"},{"op":"get","key":"b"}]}', 200),
        ("POST", "/v1/batch", {}, b'{"atomic":true,"ops":[{"op":"incr","key":"n"}]}', 200),
        ("POST", "/v1/batch", {"Content-Type": "application/msgpack"}, bytes.fromhex("81a36f707390"), 200),
        ("GET", "/v1/kv/plain", {}, b"", 200),
        ("GET", "/v1/kv?values=true", {}, b"", 200),
        ("GET", "/v1/kv", {"Accept": "application/x-ndjson"}, b"", 200),
        ("GET", "/v1/feed?snapshot=true", {}, b"", 200),
        ("DELETE", "/v1/kv/plain", {}, b"", 204),
        ("DELETE", "/v1/kv?prefix=p", {}, b"", 200),
        ("DELETE", "/root", {}, b"", 200),
        ("DELETE", "/keys", {}, b"", 200),
        ("GET", "/v1/status", {}, b"", 200),
        ("GET", "/docs/", {}, b"", 200),
    ],
)
def test_a_request(server: Server, method: str, path: str, headers: dict[str, str], body: bytes, status: int) -> None:
    with server.client() as client:
        answer = client.request(method, path, headers=headers, content=body or None)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_a_stream_tells_of_a_write(server: Server, accept: str) -> None:
    with server.client() as client, client.stream("GET", "/v1/feed", headers={"Accept": accept}) as feed:
        lines = feed.iter_lines()
        assert any("bookmark" in line for line in lines)
        httpx.put(f"{server.url}/v1/kv/streamed", content=accept, trust_env=False)
        assert any('"key":"streamed"' in line for line in lines)


def test_websockets_tell_of_a_write(server: Server) -> None:
    with (
        connect(server.feed_url, proxy=None) as lines,
        connect(server.feed_url.replace("/wal", "/v1/feed"), proxy=None) as feed,
    ):
        assert json.loads(feed.recv(15))["type"] == "bookmark"
        httpx.put(f"{server.url}/v1/kv/socket", content="v", trust_env=False)
        assert any(line == "Insert { key: socket, value: v }" for line in iter(lambda: lines.recv(15), None))
        assert json.loads(feed.recv(15))["events"][0]["key"] == "socket"


def test_metrics(server: Server) -> None:
    assert 'http_requests_total{method="PUT"' in server.metrics()
