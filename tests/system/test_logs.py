"""What the running server writes to standard error: of every process in one format, and never a secret."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner
from websockets.sync.client import connect

from kvserver.cli import main
from tests.system.harness import Server, wait_for

NewServer = Callable[..., Server]


def events(server: Server) -> list[dict[str, Any]]:
    """What was written so far; every line of it has to be an event."""
    found = [json.loads(line) for line in server.log().splitlines(keepends=True) if line.endswith("\n")]
    assert all({"time", "process", "pid", "level", "message"} <= event.keys() for event in found)
    return found


def said(server: Server, process: str, words: str) -> bool:
    return any(event["process"] == process and words in event["message"] for event in events(server))


def accesses(server: Server) -> list[tuple[str, str, int]]:
    found = [(event["method"], event["path"], event["status"]) for event in events(server) if "path" in event]
    return [each for each in found if each[1] != "/health/ready"]  # the supervisor's question


def test_every_process_writes_events_and_no_secrets(new_server: NewServer, tmp_path: Path) -> None:
    file = str(tmp_path / "tokens.toml")
    made = CliRunner().invoke(main, ["token", "new", "all", "--grant", "read,write,feed,admin", "--tokens", file])
    token = made.stdout.strip()
    server = new_server(
        "--log-format", "json", "--log-level", "trace", "--access-log", "--tokens", file, "--workers", "1"
    ).start()
    bearer = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, headers=bearer, trust_env=False) as client:
        ticket = client.post("/v1/tickets", json={"for": "websocket"}).json()["ticket"]
        with connect(f"{server.feed_url}?ticket={ticket}", proxy=None):
            pass
        client.put("/v1/kv/a%0Aforged", content=b"secret-value").raise_for_status()
        assert client.get("/v1/kv/a?ticket=kvt_query").status_code == 400
        assert client.get("/v1/kv/a", headers={"Authorization": "Bearer kv_wrong"}).status_code == 401
        assert client.get("/hot", headers={"Accept-Encoding": "identity"}).status_code == 200
        status = client.get("/v1/status").json()
    asked = [
        ("POST", "/v1/tickets", 201),
        ("GET", "/wal", 101),
        ("PUT", "/v1/kv/a%0Aforged", 201),
        ("GET", "/v1/kv/a", 400),
        ("GET", "/v1/kv/a", 401),
        ("GET", "/hot", 200),
        ("GET", "/v1/status", 200),
    ]
    wait_for(lambda: sorted(accesses(server)) == sorted(asked), "a line for each request")
    for kind in ("workers", "gateways", "shards"):
        os.kill(status[kind][0]["pid"], signal.SIGKILL)
    wait_for(lambda: said(server, "kvserver", "was killed by SIGKILL"), "word of the shard")
    for master in ("web", "gateway"):
        wait_for(lambda: said(server, master, "SIGKILL"), f"gunicorn's word, of {master}")  # noqa: B023
    server.stop()
    assert {"kvserver", "web", "gateway", "shard-0"} <= {event["process"] for event in events(server)}
    assert not [word for word in (token, ticket, "kvt_query", "kv_wrong", "secret-value") if word in server.log()]


def test_the_log_tells_of_start_stop_and_each_replaced_process(new_server: NewServer) -> None:
    server = new_server("--log-format", "json").start()
    first = events(server)
    assert [event["level"] for event in first] == ["info"] and f"is ready at {server.url}" in first[0]["message"]
    status = httpx.get(f"{server.url}/v1/status", trust_env=False).json()
    for kind, word in (
        ("shards", "shard 0 is up again"),
        ("workers", "a new web worker is up"),
        ("gateways", "a new gateway is up"),
    ):
        os.kill(status[kind][0]["pid"], signal.SIGKILL)
        wait_for(lambda: said(server, "kvserver", word), word)  # noqa: B023
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: said(server, "kvserver", "replacing the web workers: SIGHUP"), "word of the reload")
    server.stop()
    assert [event["message"] for event in events(server)][-2:] == ["stopping: SIGTERM", "stopped"]


def test_a_slow_request_is_logged_with_its_id(new_server: NewServer) -> None:
    server = new_server("--log-format", "json", "--slow-ms", "1", "--max-value", "16MiB").start()
    answer = httpx.put(f"{server.url}/v1/kv/large", content=bytes(16 << 20), trust_env=False)
    assert answer.status_code == 201
    wait_for(lambda: ("PUT", "/v1/kv/large", 201) in accesses(server), "word of the slow request")
    slow = next(event for event in events(server) if event.get("path") == "/v1/kv/large")
    assert slow["level"] == "warning" and slow["message"].startswith("slow: ") and slow["seconds"] >= 0.001
