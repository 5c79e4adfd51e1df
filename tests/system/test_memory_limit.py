"""The memory limit on the whole server: what clients are told, what the feed shows, what the figures say, a restart."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from websockets.sync.client import connect

from tests.system.harness import Server, wait_for

ITEM = "v" * 95  # with its key of five bytes: 100


def memory(client: httpx.Client) -> dict[str, object]:
    told: dict[str, object] = client.get("/v1/status").raise_for_status().json()["memory"]
    return told


def test_a_full_store_refuses_what_grows(new_server: Callable[..., Server]) -> None:
    with new_server("--max-memory", "1KiB", "--shards", "1", "--workers", "1") as server, server.client() as client:
        for n in range(10):
            client.put(f"/v1/kv/key-{n}", content=ITEM).raise_for_status()
        refused = client.put("/v1/kv/key-a", content=ITEM)
        assert (refused.status_code, refused.headers["content-type"]) == (507, "application/problem+json")
        problem = refused.json()
        told = {name: problem[name] for name in ("code", "limit", "used", "needed")}
        assert told == {"code": "memory_limit", "limit": 1024, "used": 1000, "needed": 100}
        assert (client.put("/key-a", content=ITEM).status_code, client.put("/key-a", content=ITEM).content) == (
            507,
            b"",
        )
        result = client.post("/v1/batch", json={"ops": [{"op": "put", "key": "key-a", "value": ITEM}]}).json()
        assert result["results"] == [
            {"status": 507, "code": "memory_limit", "detail": "1000 of 1024 bytes are used, 100 more are needed"}
        ]
        whole = client.post("/v1/batch", json={"atomic": True, "ops": [{"op": "put", "key": "key-a", "value": ITEM}]})
        assert (whole.status_code, whole.json()["code"], whole.json()["needed"]) == (507, "memory_limit", 100)
        assert client.post("/v1/kv/key-0", params={"ttl": 60}).status_code == 204
        assert client.put("/v1/kv/key-1", content=ITEM).status_code == 204
        assert client.delete("/v1/kv/key-2").status_code == 204
        assert client.put("/v1/kv/key-a", content=ITEM).status_code == 201
        assert memory(client) == {"used": 1000, "limit": 1024, "on_full": "reject", "evicted": 0}


def test_a_full_cache_lets_go_of_what_nobody_reads(new_server: Callable[..., Server]) -> None:
    with new_server("--max-memory", "8KiB", "--on-full", "evict", "--shards", "2", "--workers", "2") as server:
        with server.client() as client, connect(server.feed_url, proxy=None) as feed:
            for n in range(250):
                client.put(f"/{n:05}", content=ITEM).raise_for_status()
                assert client.get("/00000").text == ITEM, "read all the time"
            told = memory(client)
            assert told["used"] == 100 * len(client.get("/keys").json())
            assert 8_000 <= int(str(told["used"])) <= 8_192
            evicted = 250 - int(str(told["used"])) // 100
            wait_for(lambda: memory(client)["evicted"] == evicted, "the figures")
            metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
            assert "kvserver_memory_limit_bytes 8192.0" in metrics
            assert f"kvserver_memory_used_bytes {told['used']}.0" in metrics
            client.delete("/absent")
            lines: list[str] = []
            while not lines or lines[-1] != "Delete { key: absent }":
                lines.append(str(feed.recv(timeout=20)))
            deleted = [line for line in lines[:-1] if line.startswith("Delete ")]
            assert len(deleted) == evicted and "Delete { key: 00000 }" not in deleted
        server.stop()
        server.start()
        with server.client() as client:
            assert memory(client)["used"] == told["used"]
            assert client.put("/99999", content=ITEM).status_code == 200
            assert int(str(memory(client)["used"])) <= 8_192
            assert len(client.get("/keys").json()) == int(str(memory(client)["used"])) // 100
