"""Repeats with an Idempotency-Key at a real server: killed, started again in every way, restored, with other shards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shards.host.board import Board
from shards.maps.snapshot import take_snapshot
from tests.system.commands import succeed
from tests.system.harness import Server, wait_for

NewServer = Callable[..., Server]
MERGE = {"Content-Type": "application/merge-patch+json"}
COUNTERS = [f"n{number}" for number in range(20)]
"""Keys of all shards, however many there are."""


class Request:
    """A request with its Idempotency-Key, and how it was answered first."""

    def __init__(self, key: str, method: str, target: str, content: str = "", **headers: str) -> None:
        self.method, self.target, self.content = method, target, content
        self.headers = {"Idempotency-Key": key, **headers}
        self.answer: tuple[Any, ...] = ()

    def send(self, client: httpx.Client) -> tuple[bool, tuple[Any, ...]]:
        """Whether the answer is of a repeat, and what repeats share of it."""
        answer = client.request(self.method, self.target, content=self.content, headers=self.headers)
        assert answer.status_code < 300, answer.text
        shared = [answer.headers.get(name) for name in ("etag", "kv-revision", "kv-expires", "content-type")]
        return answer.headers.get("idempotency-replayed") == "true", (answer.status_code, answer.content, *shared)


def requests() -> list[Request]:
    """Writes of every kind, over all shards."""
    ops = [f'{{"op":"incr","key":"{key}"}}' for key in COUNTERS]
    return [
        *[Request(f"add-{key}", "POST", f"/v1/kv/{key}?incr=5") for key in COUNTERS],
        Request("put", "PUT", "/v1/kv/p?ttl=5000", "one", **{"Content-Type": "text/plain"}),
        Request("exchange", "PUT", "/v1/kv/p?return=previous", "two"),
        Request("patch", "PATCH", "/v1/kv/j", '{"a":1}', **MERGE),
        Request("touch", "POST", "/v1/kv/j?ttl=5000"),
        Request("delete", "DELETE", "/v1/kv/p"),
        Request("batch", "POST", "/v1/batch", f'{{"ops":[{",".join(ops)}]}}'),
        Request(
            "atomic", "POST", "/v1/batch", f'{{"atomic":true,"ops":[{",".join(["{}"] * 3).format(*ops[:1] * 3)}]}}'
        ),
    ]


def see_that_all_is_known(server: Server, sent: list[Request]) -> None:
    """Repeat everything: nothing is done."""
    with server.client() as client:
        before = server.status()["revision"]
        for request in sent:
            assert request.send(client) == (True, request.answer), request.headers
        assert server.status()["revision"] == before
        assert [client.get(f"/v1/kv/{key}").text for key in COUNTERS] == ["9", *["6"] * (len(COUNTERS) - 1)]


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_what_was_done_is_known_after_every_kind_of_start(new_server: NewServer, tmp_path: Path) -> None:
    options = ("--workers", "2")
    server = new_server("--shards", "2", *options).start()
    sent = requests()
    with server.client() as client:
        for request in sent:
            was_replayed, request.answer = request.send(client)
            assert not was_replayed
    see_that_all_is_known(server, sent)

    def are_up(before: list[int]) -> bool:
        with contextlib.suppress(httpx.HTTPError, KeyError):
            status = server.status()
            pids = [row["pid"] for row in status["shards"] + status["workers"]]
            return len(pids) == 4 and not set(pids) & set(before) and all(s["state"] == "up" for s in status["shards"])
        return False

    # the shards are killed, then the workers
    for rows in ("shards", "workers"):
        pids = [row["pid"] for row in server.status()[rows]]
        kill_all(pids)
        wait_for(lambda pids=pids: are_up(pids), f"new {rows}")
        see_that_all_is_known(server, sent)
    # the supervisor is killed: the maps are there still
    server.kill()
    server.start()
    see_that_all_is_known(server, sent)
    # a clean stop, and other numbers of shards: the maps are built of the log, then of snapshot and log
    backup = tmp_path / "backup"
    for shards in ("3", "1"):
        server.stop()
        server.options = ("--shards", shards, *options)
        server.start()
        see_that_all_is_known(server, sent)
        if shards == "3":
            with contextlib.closing(Board.open(server.run_dir / "board")) as board:
                take_snapshot(board)
            succeed(server, "backup", backup)
    # the maps are lost
    server.stop()
    shutil.rmtree(server.map_dir)
    server.start()
    see_that_all_is_known(server, sent)
    # restored from the backup
    server.stop()
    shutil.rmtree(server.data_dir)
    succeed(server, "restore", backup, run_dir=False)
    server.start()
    see_that_all_is_known(server, sent)
    assert succeed(server, "check").count("are what snapshot and log make of them") == 1


def test_a_restore_to_before_forgets_with_the_change(new_server: NewServer, tmp_path: Path) -> None:
    server = new_server("--shards", "1").start()
    early, late = Request("early", "POST", "/v1/kv/n?incr=1"), Request("late", "POST", "/v1/kv/n?incr=1")
    with server.client() as client:
        for request in (early, late):
            _, request.answer = request.send(client)
    revision = int(early.answer[3])
    succeed(server, "backup", tmp_path / "backup")
    server.stop()
    shutil.rmtree(server.data_dir)
    succeed(server, "restore", tmp_path / "backup", "--until", revision, run_dir=False)
    server.start()
    with server.client() as client:
        assert early.send(client) == (True, early.answer)
        was_replayed, answer = late.send(client)
        assert not was_replayed and answer[1] == b"2"


def send_until_answered(client: httpx.Client, request: Request) -> tuple[bool, tuple[Any, ...]]:
    while True:
        try:
            return request.send(client)
        except httpx.HTTPError:
            time.sleep(0.01)
        except AssertionError as error:
            if '"status":50' not in str(error):
                raise
            time.sleep(0.01)


@pytest.mark.parametrize("rows", ["shards", "workers"])
def test_one_key_at_all_workers_while_they_are_killed(server: Server, rows: str) -> None:
    """Clients on connections of their own send the same requests: each is done once, and all are told alike."""
    answers: list[list[tuple[Any, ...]]] = [[] for _ in range(4)]
    faults: list[BaseException] = []

    def ask(mine: list[tuple[Any, ...]]) -> None:
        try:
            alone = httpx.Limits(max_keepalive_connections=0)  # a connection, and perhaps a worker, for each request
            with httpx.Client(base_url=server.url, timeout=30, trust_env=False, limits=alone) as client:
                for number in range(150):
                    request = Request(f"{rows}-{number}", "POST", f"/v1/kv/{rows}-{number % 5}?incr=1")
                    mine.append(send_until_answered(client, request))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    for kill in range(3):
        wait_for(lambda kill=kill: faults or len(answers[0]) > 40 * kill + 20, "some answers", 60)
        with contextlib.suppress(httpx.HTTPError):
            running = server.status()[rows]
            os.kill(running[kill % len(running)]["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert not faults and [len(mine) for mine in answers] == [150] * 4
    for told in zip(*answers, strict=True):
        assert len({shared for _, shared in told}) == 1
        assert sum(not was_replayed for was_replayed, _ in told) <= 1  # none, if that answer was lost
    revisions = Counter(mine[3] for _, mine in answers[0])
    assert len(revisions) == 150
    with server.client() as client:
        wait_for(lambda: all(shard["state"] == "up" for shard in server.status()["shards"]), "all shards")
        assert {client.get(f"/v1/kv/{rows}-{number}").text for number in range(5)} == {"30"}
