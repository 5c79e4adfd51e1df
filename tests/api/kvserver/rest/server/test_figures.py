"""The figures of `/v1/status`: those of all rows of the board, of the dead too."""

from __future__ import annotations

import json
from typing import Any

from shards.host.board import DURATION_BOUNDS_S, GatewayRow, ProcessRow, Row, ShardRow, WorkerRow
from tests.api.web import Web, request, scenario


async def told(web: Web) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await web.ask(request("GET", "/v1/status"))).body)
    return answer


def show(row: Row, **figures: int) -> None:
    row.publish_figures(dict.fromkeys(row.FIGURES, 0) | figures)


@scenario
async def test_what_workers_and_gateways_answered_is_added_up(web: Web) -> None:
    _, gateway = web.board.gateways.claim_row()
    buckets = len(DURATION_BOUNDS_S) + 1
    show(web.row, answers_2xx=5, answers_5xx=3, answers_503=2, answers_504=1, took_us=1_500_000, took_0=7, took_16=1)
    show(gateway, answers_1xx=2, answers_4xx=1, took_us=250_000, took_0=1, took_3=2)
    assert (await told(web))["traffic"] == {
        "requests": {"1xx": 2, "2xx": 5, "3xx": 0, "4xx": 1, "5xx": 3},
        "unavailable": 2,
        "outcome_unknown": 1,
        "durations": {
            "bounds_s": list(DURATION_BOUNDS_S),
            "counts": [8, 0, 0, 2, *[0] * (buckets - 5), 1],
            "total_s": 1.75,
        },
    }
    assert WorkerRow.FIGURES[-1] == GatewayRow.FIGURES[-1] == "took_16"


@scenario
async def test_what_shards_did_is_told_by_kind(web: Web) -> None:
    names = dict(zip(ShardRow.KINDS, range(1, 8), strict=True))
    show(web.board.shards[0], groups=3, operations=30, flush_ns=2_500_000_000, queue=4, **names)
    [shard] = (await told(web))["shards"]
    assert shard["operations"] == {
        "put": 1,
        "delete": 2,
        "touch": 3,
        "delete_prefix": 4,
        "expire": 5,
        "evict": 6,
        "refused": 7,
    }
    assert (shard["groups"], shard["group_operations"], shard["flush_s"], shard["queue"]) == (3, 30, 2.5, 4)


@scenario
async def test_the_feed_is_that_of_all_gateways_and_lags_as_the_slowest(web: Web) -> None:
    assert (await told(web))["feed"] == {"events": 0, "deliveries": 0, "gaps": 0, "lag": 0}
    rows = [web.board.gateways.claim_row()[1] for _ in range(2)]
    web.board.advance(1000, 51)
    web.board.shards[0].clear_open()
    for row, position in zip(rows, (50, 20), strict=True):
        show(row, events=10, deliveries=4, gaps=1)
        row.position = position
    assert (await told(web))["feed"] == {"events": 20, "deliveries": 8, "gaps": 2, "lag": 0}, "none is up"
    for row in rows:
        row.state = ProcessRow.UP
    assert (await told(web))["feed"]["lag"] == 30
