"""Version 1 of many keys on the whole server: lists while keys change, a long delete among other requests, the feed."""

from __future__ import annotations

import json
from threading import Event, Thread

import httpx
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
            client, {"op": "put", "key": "f/1", "value": "a"}, {"op": "put", "key": "f/2", "value": "b"},
            {"op": "touch", "key": "f/1", "ttl": 60},
        )  # fmt: skip
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
