"""Status and health checks over real connections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.files import locks
from shards.host.board import ProcessRow
from tests.api.web import Web, request, scenario


@scenario
async def test_status(web: Web) -> None:
    row = web.board.shards[0]
    row.pid, row.state = 77, ProcessRow.UP
    row.publish_figures(dict.fromkeys(row.FIGURES, 0) | {"keys": 5, "bytes": 50})
    fd = locks.open_lock(web.run_dir / "shard-0")
    assert locks.try_acquire_for_life(fd)
    status = json.loads((await web.ask(request("GET", "/v1/status"))).body)
    [shard] = status["shards"]
    kept = {"index": 0, "pid": 77, "state": "up", "keys": 5, "bytes": 50}
    assert kept.items() <= shard.items()
    assert [worker["pid"] for worker in status["workers"]] == [web.row.pid]
    assert status["supervisor"] == {"pid": 1}
    assert (status["version"], status["store"], status["epoch"], status["sync"]) == ("0", "s", "e", "os")
    assert status["gateways"] == []
    assert status["revision"] == web.board.last_revision()
    assert (await web.ask(request("GET", "/health/ready"))).status == 200
    del row


@pytest.mark.parametrize("how", ["starting", "stopping", "given_up", "down"])
def test_not_ready(how: str, tmp_path: Path) -> None:
    async def test(web: Web) -> None:
        row = web.board.shards[0]
        fd = locks.open_lock(web.run_dir / "shard-0")
        row.state = ProcessRow.UP
        if how != "down":
            assert locks.try_acquire_for_life(fd)
        row.given_up = int(how == "given_up")
        row.state = {"starting": ProcessRow.STARTING, "stopping": ProcessRow.STOPPING}.get(how, ProcessRow.UP)
        assert json.loads((await web.ask(request("GET", "/v1/status"))).body)["shards"][0]["state"] == how
        answer = await web.ask(request("GET", "/health/ready", "Accept: application/problem+json"))
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, f"shard 0 is {how}")
        assert (await web.ask(request("GET", "/health/live"))).status == 200
        del row

    scenario(test)(tmp_path)
