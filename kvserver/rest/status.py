"""How the store is: `/v1/status`, and health for whoever routes requests to it. All of it is read from the board."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from kvserver.api import query
from kvserver.api.times import rfc3339
from kvserver.http.scope import GRANTS
from shards.files import locks
from shards.host.board import Board, ProcessRow
from shards.wire.errors import Unavailable

_STATES = {ProcessRow.STARTING: "starting", ProcessRow.UP: "up", ProcessRow.STOPPING: "stopping"}


class ShardStates:
    """What each shard is doing. A shard holds a lock on its own file for life: free means dead."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._locks: dict[int, int] = {}  # shard to descriptor

    def state(self, index: int) -> str:
        """starting, up, stopping, down, or given_up (the supervisor does not start it again)."""
        row = self._board.shards[index]
        if row.given_up:
            return "given_up"
        return _STATES.get(row.state, "starting") if self._lives(index) else "down"

    def _lives(self, index: int) -> bool:
        if index not in self._locks:
            try:
                path = Path(self._board.facts.lock_dir) / f"shard-{index}"
                self._locks[index] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return locks.is_held(self._locks[index])

    def all(self) -> list[str]:
        """The state of every shard, in order."""
        return [self.state(index) for index in range(self._board.facts.shards)]


class Status:
    """`/v1/status`"""

    def __init__(self, board: Board, states: ShardStates) -> None:
        self._board, self._states = board, states

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with processes, history, log and snapshot of the store."""
        query.parse(req.scope["query_string"], query.NOTHING)
        req.scope[GRANTS].require_all("admin", b"")
        board, facts = self._board, self._board.facts
        answer = {
            "version": facts.version,
            "store": facts.store,
            "epoch": facts.epoch,
            "revision": board.last_revision(),
            "oldest": board.log.oldest_revision,
            "sync": "memory" if facts.in_memory else facts.sync,
            "uptime_s": round(max(0, board.steady_ms() - facts.started_steady_ms) / 1000, 3),
            "clock": self._clock(),
            "supervisor": {"pid": facts.supervisor_pid},
            "shards": self._shards(),
            "workers": [
                {"pid": row.pid, "in_flight": row.in_flight, "connections": row.connections}
                for _, row in board.workers.living_rows()
            ],
            "gateways": [{"pid": row.pid, "clients": row.clients} for _, row in board.gateways.living_rows()],
            "memory": self._memory(),
            "log": self._log(),
            "snapshot": {"replay_from": board.log.snapshot, "bytes_since": board.history()[0] - board.log.snapshot},
        }
        _answer_json(resp, answer)

    on_head = on_get

    def _shards(self) -> list[dict[str, Any]]:
        result = []
        for index, (row, state) in enumerate(zip(self._board.shards, self._states.all(), strict=True)):
            figures = row.read_figures()
            result.append(
                {"index": index, "pid": row.pid, "state": state, "keys": figures["keys"], "bytes": figures["bytes"]}
            )
        return result

    def _clock(self) -> dict[str, Any]:
        """The clock's time, and by how many seconds it is ahead of the time that lifetimes count by."""
        now = self._board.now()
        return {"time": rfc3339(now.wall_ms), "ahead_s": -now.behind_ms / 1000}

    def _memory(self) -> dict[str, Any]:
        """Bytes of keys and values; keys evicted since the shards were started."""
        facts, shards = self._board.facts, self._board.shards
        return {
            "used": sum(row.bytes_now for row in shards),
            "limit": facts.max_memory or None,
            "on_full": facts.on_full,
            "evicted": sum(row.read_figures()["evicted"] for row in shards),
        }

    def _log(self) -> dict[str, Any]:
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

    def __init__(self, board: Board, states: ShardStates) -> None:
        self._board, self._states = board, states

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 if every shard is up, and every socket is where it is looked for, else 503."""
        states = self._states.all()
        wrong = [f"shard {index} is {state}" for index, state in enumerate(states) if state != "up"]
        wrong += [f"the socket {name} was removed from the run directory" for name in self._missing(states)]
        if wrong:
            raise Unavailable(", ".join(wrong))
        _answer_json(resp, {"status": "ready"})

    on_head = on_get

    def _missing(self, states: list[str]) -> list[str]:
        """The sockets that processes which are up have bound and that are not there: nobody new gets to them."""
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
