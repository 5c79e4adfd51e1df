"""Many clients, few keys, processes that are killed: what the clients were told must be true of one store."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from tests import effort
from tests.linearizable import UNKNOWN, Answer, Kind, Request, Step, check
from tests.system.harness import Server, wait_for

GROUPS = [["text"], ["more text"], ["number"], ["document"], ["{cart}items", "{cart}sum"]]
KINDS: dict[str, tuple[Kind, ...]] = {
    "text": ("get", "put", "put", "delete", "touch"),
    "more text": ("get", "put", "put", "delete", "touch"),
    "number": ("get", "add", "add", "touch", "delete"),
    "document": ("get", "merge", "merge", "delete"),
    "{cart}items": ("get", "put", "merge"),
    "{cart}sum": ("get", "add"),
}
CLIENTS = 6
KILLS = effort.times(5)
BETWEEN = 250
"""Requests that are answered between two kills."""
MERGE = {"Content-Type": "application/merge-patch+json"}
PATIENCE_NS = 60_000_000_000
REFUSED = (503, 507)
"""Surely not done."""


class Client(threading.Thread):
    """Sends one request after the other until `stop` is set, and notes what came of it in `history`."""

    lifetimes_s = (1000, 2000)
    """That keys get; none ends before the test does."""

    def __init__(self, address: tuple[str, int], number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._address, self._number, self._stop_it, self._random = address, number, stop, random.Random(number)
        self._connection: http.client.HTTPConnection | None = None
        self._key = ""  # the Idempotency-Key of the request
        self._told: dict[str, int] = {}  # the last revision of each key
        self.history: list[Request] = []
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Until it is stopped."""
        try:
            while not self._stop_it.is_set():
                self._ask_once()
        except BaseException as fault:
            self.fault = fault
        finally:
            self._close()

    def _ask_once(self) -> None:
        keys = self._random.choice(GROUPS)
        together = len(keys) > 1 and self._random.random() < 0.6
        steps = tuple(self._step(key, together) for key in (keys if together else [self._random.choice(keys)]))
        sent = time.monotonic_ns()
        try:
            answers, failed = (self._batch if together else self._single)(steps)
        except ConnectionRefusedError:
            self._close(pause=True)
            return
        except Refused:
            self._stop_it.wait(0.01)
            return
        except (OSError, http.client.HTTPException, Lost):
            self._close()
            if any(step.kind != "get" for step in steps):
                self.history.append(Request(sent, UNKNOWN, steps))
            return
        self.history.append(Request(sent, time.monotonic_ns(), steps, answers, failed))
        for step, answer in zip(steps, answers, strict=True):
            if failed is None:
                self._told[step.key] = answer.revision

    def _step(self, key: str, together: bool) -> Step:
        kind = self._random.choice(KINDS[key])
        number = len(self.history)
        argument = {
            "put": "{}" if key == "{cart}items" else f"{self._number}.{number}",
            "merge": json.dumps({f"{self._number}": number}, separators=(",", ":")),
            "add": str(self._random.randint(-9, 9)),
        }.get(kind, "")
        if_match = self._random.choice([None, None, 0, self._told.get(key)])
        if kind == "get" and not together:  # RFC 9110 has conditions of reads of its own
            if_match = None
        return Step(kind, key, argument, if_match)

    def _single(self, steps: tuple[Step, ...]) -> tuple[tuple[Answer, ...], None]:
        [step] = steps
        method, query, headers, body = {
            "get": ("GET", "", {}, None),
            "put": ("PUT", "?return=previous" if self._random.random() < 0.3 else "", {}, step.argument),
            "add": ("POST", f"?incr={step.argument}", {}, None),
            "merge": ("PATCH", "", MERGE, step.argument),
            "touch": ("POST", f"?ttl={self._random.randint(*self.lifetimes_s)}", {}, None),
            "delete": ("DELETE", "", {}, None),
        }[step.kind]
        if step.if_match is not None:
            headers = {**headers, **({"If-Match": f'"{step.if_match}"'} if step.if_match else {"If-None-Match": "*"})}
        answer, text = self._request(method, f"/v1/kv/{quote(step.key)}{query}", body, headers)
        revision = int(answer.getheader("KV-Revision", "0"))
        if answer.status in (404, 412):
            return (Answer(False, revision),), None
        assert answer.status in (200, 201, 204), (step, answer.status, text)
        done = Answer(True, revision, text if step.kind in ("get", "add", "merge") else None)
        if step.kind in ("put", "add", "merge"):
            done = done._replace(existed=answer.status != 201)
        return (done._replace(previous=text) if query.startswith("?return") else done,), None

    def _batch(self, steps: tuple[Step, ...]) -> tuple[tuple[Answer, ...], int | None]:
        ops = list(map(_operation, steps))
        answer, text = self._request("POST", "/v1/batch", json.dumps({"atomic": True, "ops": ops}), {})
        told = json.loads(text)
        assert answer.status in (200, 409), (steps, answer.status, text)
        return tuple(map(_answer, steps, told["results"])), told.get("failed")

    def _request(
        self, method: str, target: str, body: str | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, str]:
        """Raises `Refused` and `Lost`, and what a connection that breaks raises."""
        if self._key:
            headers = {**headers, "Idempotency-Key": self._key}
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=30)
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status in REFUSED:
            raise Refused
        if answer.status == 504:
            raise Lost
        if answer.getheader("Connection") == "close":
            self._close()
        return answer, text

    def _close(self, *, pause: bool = False) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        if pause:
            self._stop_it.wait(0.01)


class RepeatingClient(Client):
    """Repeats each request, with one Idempotency-Key, until it is answered.

    Attributes:
        repeats: how many requests were sent again.
    """

    repeats = 0

    def _ask_once(self) -> None:
        keys = self._random.choice(GROUPS)
        together = len(keys) > 1 and self._random.random() < 0.6
        steps = tuple(self._step(key, together) for key in (keys if together else [self._random.choice(keys)]))
        self._key = f"{self._number}.{len(self.history)}"
        sent, chance = time.monotonic_ns(), self._random.getstate()
        while True:
            self._random.setstate(chance)  # the same request again
            try:
                answers, failed = (self._batch if together else self._single)(steps)
                break
            except (OSError, http.client.HTTPException, Lost, Refused):
                self.repeats += 1
                self._close()
                assert time.monotonic_ns() < sent + PATIENCE_NS, "never answered"
                time.sleep(0.01)
        self.history.append(Request(sent, time.monotonic_ns(), steps, answers, failed))
        for step, answer in zip(steps, answers, strict=True):
            if failed is None:
                self._told[step.key] = answer.revision


class Refused(Exception):
    """It was surely not done."""


class Lost(Exception):
    """Nobody knows whether it was done."""


def _operation(step: Step) -> dict[str, Any]:
    operation: dict[str, Any] = {"op": {"add": "incr", "merge": "patch"}.get(step.kind, step.kind), "key": step.key}
    if step.kind == "put":
        operation["value"] = step.argument
    elif step.kind == "add":
        operation["by"] = int(step.argument)
    elif step.kind == "merge":
        operation["patch"] = json.loads(step.argument)
    return operation if step.if_match is None else operation | {"if_revision": step.if_match}


def _answer(step: Step, result: dict[str, Any]) -> Answer:
    status, revision = result["status"], result.get("revision", 0)
    if status >= 400:
        return Answer(False, revision)
    existed = status != 201 if step.kind in ("put", "add", "merge") else None
    return Answer(True, revision, result.get("value"), existed)


def whole(server: Server) -> list[int]:
    """The pids of all shards and workers, empty unless all are there."""
    with contextlib.suppress(httpx.HTTPError):
        status = server.status()
        if all(shard["state"] == "up" for shard in status["shards"]) and len(status["workers"]) == 2:
            return [row["pid"] for row in status["shards"] + status["workers"]]
    return []


def kill_under_load(server: Server, kind: type[Client]) -> list[Client]:
    """Have clients ask an empty store while its processes are killed; return them when they have ended."""
    stop, chance = threading.Event(), random.Random(7)
    clients = [kind((server.host, server.port), number, stop) for number in range(CLIENTS)]
    for client in clients:
        client.start()

    def answered() -> int:
        assert not any(client.fault for client in clients), [client.fault for client in clients]
        return sum(len(client.history) for client in clients)

    try:
        for kill in range(KILLS):
            before = answered()
            wait_for(lambda before=before: answered() > before + BETWEEN, f"{BETWEEN} requests")
            pids = wait_for(lambda: whole(server), "all processes")
            os.kill(pids[kill] if kill < len(pids) else chance.choice(pids), signal.SIGKILL)
        before = answered()
        wait_for(lambda: answered() > before + BETWEEN, f"{BETWEEN} requests after the last kill")
    finally:
        stop.set()
        for client in clients:
            client.join(65)
    answered()
    return clients


def test_what_clients_were_told_is_true_of_one_store(server: Server) -> None:
    clients = kill_under_load(server, Client)
    history = [request for client in clients for request in client.history]
    check(history, GROUPS)
    happened = Counter(
        (step.kind, answer.done)
        for request in history
        if request.failed is None
        for step, answer in zip(request.steps, request.answers, strict=False)
    )
    kinds = {kind for kinds in KINDS.values() for kind in kinds}
    assert min(happened[kind, done] for kind in kinds for done in (True, False)) > 0, happened
    assert sum(request.failed is not None for request in history) > 0


def events_since(server: Server, cursor: str) -> Iterator[dict[str, Any]]:
    """Every event of the feed behind `cursor`."""
    more = True
    with server.client() as client:
        while more:
            polled = client.get("/v1/feed", params={"since": cursor, "values": "false"}).raise_for_status().json()
            cursor, more = polled["cursor"], polled["more"]
            for message in polled["messages"]:
                yield from message.get("events", ())


def test_what_is_repeated_with_its_key_is_done_exactly_once(server: Server) -> None:
    with server.client() as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()
        cursor = client.get("/v1/feed").raise_for_status().json()["cursor"]
    clients = kill_under_load(server, RepeatingClient)
    history = [request for client in clients for request in client.history]
    check(history, GROUPS)
    assert sum(client.repeats for client in clients if isinstance(client, RepeatingClient)) >= KILLS
    changed = [
        (step.key, answer.revision)
        for request in history
        if request.failed is None
        for step, answer in zip(request.steps, request.answers, strict=True)
        if answer.done and step.kind != "get"
    ]
    events = [(event["key"], event["revision"]) for event in events_since(server, cursor)]
    assert sorted(events) == sorted(changed), "each change that the feed shows is the one that one request was told of"
