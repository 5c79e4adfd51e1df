"""Every client beside a killer: what it says of its writes is true, and its watches miss nothing and double nothing.

Web workers, the master, gateways, shards and the supervisor are killed in turn. The feed, read afterwards in one piece,
is the witness: every acknowledged write is in it once, no refused one, each unknown one at most once.
"""

from __future__ import annotations

import base64
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import effort
from tests.client.driver import Driver, Failed
from tests.client.killing import VICTIMS, Killer, free_port
from tests.client.sdks import Sdk
from tests.client.watching import Collector, Watching, apply, live
from tests.system.feeds import now, polled
from tests.system.harness import Server, wait_for

WRITERS = 2
KILLS = effort.times(len(VICTIMS))
KEYS = 12


class Writer(threading.Thread):
    """Writes by a driver until `stop` is set, and notes what it was told. No value is written twice.

    Attributes:
        done: values of puts that were acknowledged, with their revisions.
        refused, unknown: values of puts that were not.
        sum_done, sums_unknown: of increments of a counter of its own.
    """

    def __init__(self, sdk: Sdk, url: str, number: int, stop: threading.Event, options: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.driver = Driver(sdk.command(), url)
        self.driver.ask("options", **options)
        self._number, self._stop_it, self._chance = number, stop, random.Random(number)
        self.counter = f"counter/{number}"
        self.done: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.added: list[int | None] = []
        self.unknown_adds = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write."""
        try:
            at = 0
            while not self._stop_it.is_set():
                at += 1
                self._write(at)
        except BaseException as error:
            self.failure = error

    def _write(self, at: int) -> None:
        kind = self._chance.choice(["put", "put", "create", "incr", "delete", "exchange"])
        key = f"k/{self._chance.randrange(KEYS)}"
        value = f"{self._number}.{at}".encode()
        coded = base64.b64encode(value).decode()
        try:
            if kind == "incr":
                self.added.append(int(self.driver.ask("incr", key=self.counter)["value"]))
            elif kind == "delete":
                self.driver.ask("delete", key=key)
            else:
                self.done[value] = self.driver.ask(kind, key=key, value_base64=coded)["revision"]
        except Failed as error:
            self._note_failure(kind, value, error)

    def _note_failure(self, kind: str, value: bytes, error: Failed) -> None:
        """Raises the error if it is none that kills explain."""
        if error.half == "other" and error.code == "answer_withheld":
            if kind == "incr":
                self.added.append(None)
            elif error.revision:
                self.done[value] = error.revision
        elif error.half == "unknown":
            self.unknown.add(value)
            self.unknown_adds += kind == "incr"
        elif error.half == "refused" and (
            error.code in ("cannot_connect", "precondition_failed") or error.status == 503
        ):
            self.refused.add(value)
        else:
            raise error


@pytest.fixture
def killed_server(tmp_path: Path) -> Iterator[Server]:
    """A server that comes back to the same port when it is started again."""
    options = ("--shards", "2", "--workers", "2", "--gateways", "1", "--sync", "os", "--port", str(free_port()))
    with Server(tmp_path / "data", *options) as server:
        server.tracebacks_expected = True  # of workers whose shard was killed under them
        yield server


@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("patience", [0, 5], ids=["no repeats", "repeats"])
def test_the_feed_is_witness(sdk: Sdk, killed_server: Server, patience: float) -> None:
    server = killed_server
    options = {"patience": patience, "timeout": 5, "idempotency": patience > 0 and remembers_outcomes(server)}
    since = now(server)
    stop = threading.Event()
    writers = [Writer(sdk, server.url, number, stop, options) for number in range(WRITERS)]
    with (
        Watching(sdk, server.url, since=since) as follower,
        Watching(sdk, server.url, prefixes=["k/", "last"], snapshot=True) as copier,
    ):
        collectors = [Collector(follower, "last"), Collector(copier, "last")]
        killer = Killer(server, seed=len(sdk.name) + int(patience))
        for thread in (*writers, *collectors, killer):
            thread.start()
        wait_for(lambda: killer.kills >= KILLS or killer.failure, f"{KILLS} kills", 20.0 * KILLS)
        killer.stop()
        stop.set()
        last = finish(server, writers, collectors)
    events = [event for message in polled(server, since)[0] for event in message.get("events", ())]
    check_writes(writers, events)
    check_watches(collectors, events, last)
    assert sum(len(writer.done) for writer in writers) > 100, "else little was tried"


def finish(server: Server, writers: list[Writer], collectors: list[Collector]) -> int:
    """Wait for writers that were told to stop; end the watches by a last write, and return its revision."""
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
        if writer.failure is not None:
            raise writer.failure
        writer.driver.close()
    with server.client() as client:
        last = int(client.put("/v1/kv/last", content=b"").raise_for_status().headers["kv-revision"])
    for collector in collectors:
        collector.join(60)
        assert collector.failure is None and not collector.is_alive(), collector.failure
    return last


def remembers_outcomes(server: Server) -> bool:
    """Whether the server knows Idempotency-Key."""
    with server.client() as client:
        for _ in range(2):
            answer = client.put("/v1/kv/probe", content=b"", headers={"Idempotency-Key": "probe"})
    return "idempotency-replayed" in answer.headers


def check_writes(writers: list[Writer], events: list[dict[str, Any]]) -> None:
    """Every acknowledged write is in the feed once, no refused one, each unknown one at most once."""
    revisions = [event["revision"] for event in events]
    assert revisions == sorted(set(revisions))
    puts = [event for event in events if event["op"] == "put" and event["key"].startswith("k/")]
    times = Counter(event["value"].encode() for event in puts)
    places = {event["value"].encode(): event["revision"] for event in puts}
    assert max(times.values()) == 1, [value for value, count in times.items() if count > 1]
    for writer in writers:
        for value, revision in writer.done.items():
            assert places.get(value) == revision, f"{value!r} was done at {revision}, but is at {places.get(value)}"
        assert not writer.refused & times.keys()
        adds = [int(event["value"]) for event in events if event["key"] == writer.counter and event["op"] == "put"]
        assert adds == list(range(1, len(adds) + 1)), "nobody else adds"
        told = [value for value in writer.added if value is not None]
        assert told == sorted(set(told)) and set(told) <= set(adds)
        assert len(writer.added) <= len(adds) <= len(writer.added) + writer.unknown_adds
    mine = set().union(*(writer.done.keys() | writer.unknown for writer in writers))
    assert times.keys() <= mine, times.keys() - mine


def check_watches(collectors: list[Collector], events: list[dict[str, Any]], last: int) -> None:
    """The follower has seen the feed, change for change; the copy is the store."""
    follower, copier = collectors
    seen = [(change["kind"], change["key"], change["revision"]) for change in live(follower.changes)]
    assert seen == [(e["op"], e["key"], e["revision"]) for e in events if e["revision"] <= last]
    store: dict[str, tuple[int, bytes]] = {}
    for event in events:
        if event["key"].startswith("k/") or event["key"] == "last":
            if event["op"] == "put":
                store[event["key"]] = (event["revision"], event["value"].encode())
            else:
                store.pop(event["key"], None)
    assert apply(copier.changes) == store
    revisions = [change["revision"] for change in live(copier.changes)]
    assert revisions == sorted(set(revisions)), "nothing twice, nothing backwards"
    assert [change["kind"] for change in copier.changes].count("synced") == 1
