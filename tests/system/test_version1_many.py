"""Version 1 of many keys on the whole server: lists while keys change, a long delete among other requests, the feed."""

from __future__ import annotations

import json
from threading import Event, Thread

import httpx
import pytest
from websockets.sync.client import connect

from tests.system.harness import Server


def batch(client: httpx.Client, *ops: dict[str, object]) -> list[dict[str, object]]:
    results: list[dict[str, object]] = client.post("/v1/batch", json={"ops": ops}).raise_for_status().json()["results"]
    return results


def test_pages_miss_nothing_that_stays_while_others_come_and_go(server: Server) -> None:
    stays = [f"stay/{n:05}" for n in range(3000)]
    done = Event()

    def disturb() -> None:
        with server.client() as other:
            while not done.is_set():
                ops: list[dict[str, object]] = [
                    {"op": "put", "key": f"stay/{n:05}/gone", "value": ""} for n in range(0, 3000, 10)
                ]
                batch(other, *ops)
                batch(other, *({"op": "delete", "key": op["key"]} for op in ops))

    with server.client() as client:
        batch(client, *({"op": "put", "key": key, "value": key} for key in stays))
        thread = Thread(target=disturb)
        thread.start()
        try:
            for reverse in ("false", "true"):
                seen, target = [], f"/v1/kv?prefix=stay%2F&limit=70&reverse={reverse}"
                while target:
                    answer = client.get(target).raise_for_status()
                    seen += [item["key"] for item in answer.json()["items"]]
                    target = answer.links.get("next", {}).get("url", "")
                assert seen == sorted(set(seen), reverse=reverse == "true")
                assert set(stays) <= set(seen)
            lines = client.get("/v1/kv?prefix=stay%2F", headers={"Accept": "application/x-ndjson"}).text.splitlines()
            assert set(stays) <= {json.loads(line)["key"] for line in lines[:-1]}
            assert json.loads(lines[-1])["end"]["items"] == len(lines) - 1
        finally:
            done.set()
            thread.join()
        assert client.delete("/v1/kv?prefix=stay%2F").json()["complete"]


def test_a_large_batch_and_its_delete(server: Server) -> None:
    text = "x" * 3000
    with server.client() as client:
        results = batch(client, *({"op": "put", "key": f"big/{n}", "value": text} for n in range(10_000)))
        assert {result["status"] for result in results} == {201}
        assert client.get("/v1/kv?prefix=big/&count=true").json() == {"count": 10_000}
        told = client.delete("/v1/kv?prefix=big/").json()
        assert (told["deleted"], told["complete"]) == (10_000, True)
        assert client.post("/v1/batch", content=b"x" * ((32 << 20) + 1)).status_code == 413


def test_what_the_feed_shows_of_it(server: Server) -> None:
    with server.client() as client, connect(server.feed_url, proxy=None) as feed:
        client.get("/ping")
        batch(
            client,
            {"op": "put", "key": "f/1", "value": "a"},
            {"op": "put", "key": "f/2", "value": "b"},
            {"op": "touch", "key": "f/1", "ttl": 60},
        )
        client.get("/v1/kv?prefix=f/&limit=1")
        client.delete("/v1/kv?prefix=f/&dry_run=true")
        client.delete("/v1/kv?prefix=f/")
        client.delete("/v1/kv?prefix=nothing")
        batch(client, {"op": "delete", "key": "absent"}, {"op": "put", "key": "last", "value": ""})
        lines = []
        while not lines or lines[-1] != "Insert { key: last, value:  }":
            line = feed.recv(timeout=20)
            if not str(line).startswith("Heartbeat"):
                lines.append(str(line))
    kept = [line for line in lines if not line.startswith(("List", "Delete { key: absent"))]
    assert sorted(kept[:2]) == ["Insert { key: f/1, value: a }", "Insert { key: f/2, value: b }"]
    assert sorted(kept[2:-1]) == ["Delete { key: f/1 }", "Delete { key: f/2 }"]
    assert lines.count("ListPrefix { prefix: f/}") <= 1


TWICE = [
    ("POST", "/v1/batch", "application/json", b'{"ops":[{"op":"get","key":"a","key":"b"}]}', "key"),
    ("POST", "/v1/batch", "application/json", b'{"ops":[{"op":"put","key":"a","json":[{"x":1,"x":2}]}]}', "x"),
    (
        "POST",
        "/v1/batch",
        "application/vnd.msgpack",
        b"\x81\xa3ops\x91\x83\xa2op\xa3get\xa3key\xa1a\xa3key\xa1b",
        "key",
    ),
    ("POST", "/v1/tickets", "application/json", b'{"for":"sse","for":"websocket"}', "for"),
    ("PATCH", "/v1/kv/doc", "application/merge-patch+json", b'{"a":{"b":1,"\\u0062":2}}', "b"),
    ("PATCH", "/v1/kv/doc", "application/merge-patch+json", b'{"a":"' + b"x" * 100_000 + b'","a":1}', "a"),
]


@pytest.mark.parametrize(("method", "path", "kind", "body", "name"), TWICE)
def test_a_name_that_comes_twice_is_refused(
    server: Server, method: str, path: str, kind: str, body: bytes, name: str
) -> None:
    with server.client() as client:
        before = client.get("/v1/kv?count=true").headers["KV-Cursor"]
        answer = client.request(method, path, content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert f'the member "{name}" comes twice' in answer.json()["detail"]
        assert client.get("/v1/kv?count=true").headers["KV-Cursor"] == before


def test_a_byte_order_mark_is_skipped(server: Server) -> None:
    mark = b"\xef\xbb\xbf"
    with server.client() as client:
        batch = client.post("/v1/batch", content=mark + b'{"ops":[{"op":"get","key":"none"}]}')
        assert (batch.status_code, batch.json()["results"][0]["status"]) == (200, 404)
        assert client.post("/v1/tickets", content=mark + b'{"for":"sse"}').status_code == 201
        client.put("/v1/kv/marked", content=mark + b'{"a":1}').raise_for_status()
        kind = {"Content-Type": "application/merge-patch+json"}
        patched = client.patch("/v1/kv/marked", content=mark + b'{"b":2}', headers=kind)
        assert (patched.status_code, patched.content) == (200, b'{"a":1,"b":2}')
        client.delete("/v1/kv/marked").raise_for_status()
