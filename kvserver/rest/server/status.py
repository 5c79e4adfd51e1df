"""The state of the server: `/v1/status`, and health checks for load balancers. All of it is read from the board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from kvserver.access.grants import Grants
from kvserver.api import query
from kvserver.api.times import rfc3339
from kvserver.http.scope import GRANTS
from kvserver.rest.server import cluster
from kvserver.rest.server.figures import describe_feed, describe_traffic, describe_work
from shards.host.board import Board, ProcessRow
from shards.wire.errors import Forbidden, Unavailable


class Status:
    """`/v1/status`"""

    def __init__(self, board: Board, read_states: Callable[[], list[str]]) -> None:
        self._board, self._read_states = board, read_states

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with processes, history, log and figures of the server; with `read` on all keys without process ids."""
        query.parse(req.scope["query_string"], query.NOTHING)
        grants: Grants = req.scope[GRANTS]
        is_admin = grants.may_all("admin", b"")
        if not is_admin and not grants.may_all("read", b""):
            raise Forbidden("the token grants neither admin nor read on all keys")
        answer = self._describe_server()
        if not is_admin:
            for process in (answer["supervisor"], *answer["shards"], *answer["workers"], *answer["gateways"]):
                del process["pid"]
        _answer_json(resp, answer)

    on_head = on_get

    def _describe_server(self) -> dict[str, Any]:
        board, facts = self._board, self._board.facts
        return {
            "version": facts.version,
            "store": facts.store,
            "epoch": facts.epoch,
            "revision": board.last_revision(),
            "oldest": board.log.oldest_revision,
            "sync": "memory" if facts.in_memory else facts.sync,
            "uptime_s": round(max(0, board.steady_ms() - facts.started_steady_ms) / 1000, 3),
            "clock": self._describe_clock(),
            "supervisor": {"pid": facts.supervisor_pid},
            "shards": self._describe_shards(),
            "workers": [
                {
                    "pid": row.pid,
                    "scheduling": row.scheduling,
                    "in_flight": row.in_flight,
                    "connections": row.connections,
                }
                for _, row in board.workers.living_rows()
            ],
            "gateways": [{"pid": row.pid, "clients": row.clients} for _, row in board.gateways.living_rows()],
            "memory": self._describe_memory(),
            "log": self._describe_log(),
            "snapshot": {"replay_from": board.log.snapshot, "bytes_since": board.history()[0] - board.log.snapshot},
            "traffic": describe_traffic(board),
            "feed": describe_feed(board),
            "cluster": cluster.describe_cluster(board),
        }

    def _describe_shards(self) -> list[dict[str, Any]]:
        result = []
        for index, (row, state) in enumerate(zip(self._board.shards, self._read_states(), strict=True)):
            figures = row.read_figures()
            kept = {"keys": figures["keys"], "bytes": figures["bytes"]}
            result.append({"index": index, "pid": row.pid, "state": state, **kept, **describe_work(figures)})
        return result

    def _describe_clock(self) -> dict[str, Any]:
        """Return the clock's time, and its lead in seconds over the time that lifetimes count by."""
        now = self._board.now()
        return {"time": rfc3339(now.wall_ms), "ahead_s": -now.behind_ms / 1000}

    def _describe_memory(self) -> dict[str, Any]:
        """Bytes of keys and values; keys evicted since the shards were started."""
        facts, shards = self._board.facts, self._board.shards
        return {
            "used": sum(row.bytes_now for row in shards),
            "limit": facts.max_memory or None,
            "on_full": facts.on_full,
            "evicted": sum(row.read_figures()["evicted"] for row in shards),
        }

    def _describe_log(self) -> dict[str, Any]:
        board = self._board
        lsn, revision = board.watermark()
        return {
            "bytes": board.history()[0] - board.log.oldest,
            "watermark": revision,
            "unapplied_bytes": max(0, board.history()[0] - lsn),
            "full": bool(board.log.full),
            "broken": bool(board.log.broken),
            "restarts": board.log.restarts,
        }


class Live:
    """`/health/live`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200: this worker answers."""
        _answer_json(resp, {"status": "live"})

    on_head = on_get


class Ready:
    """`/health/ready`"""

    def __init__(self, board: Board, read_states: Callable[[], list[str]]) -> None:
        self._board, self._read_states = board, read_states

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 if every shard is up, every socket is in its place, and a machine of a cluster is in it; else 503."""
        states = self._read_states()
        wrong = [f"shard {index} is {state}" for index, state in enumerate(states) if state != "up"]
        wrong += [f"the socket {name} was removed from the run directory" for name in self._missing_sockets(states)]
        obstacle = cluster.find_obstacle(self._board)
        if obstacle is not None:
            wrong.append(obstacle)
        if wrong:
            raise Unavailable(", ".join(wrong))
        _answer_json(resp, {"status": "ready"})

    on_head = on_get

    def _missing_sockets(self, states: list[str]) -> list[str]:
        """Return the socket files of running processes that were removed: no new process can connect to them."""
        wanted = []
        for index, (row, state) in enumerate(zip(self._board.shards, states, strict=True)):
            if state == "up" and row.incarnation:
                wanted += [f"shard-{index}.pub", f"shard-{index}-{row.incarnation:x}.req"]
        for index, gateway in self._board.gateways.living_rows():
            if gateway.state == ProcessRow.UP:
                wanted += [f"gateway-{index}.handover", f"gateway-{index}.activity"]
        return [name for name in wanted if not self._board.path.with_name(name).is_socket()]


def _answer_json(resp: Response, document: dict[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.data = msgspec.json.encode(document)
