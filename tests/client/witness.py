"""Writers and watches of one client beside whatever happens to its servers, with the feed as the witness.

The feed, read afterwards in one piece, shows whether what the client said of its writes is true: every acknowledged
write is in it once, no refused one, each unknown one at most once. The watches have missed nothing, doubled nothing.
"""

from __future__ import annotations

import base64
import random
import threading
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from tests.client.driver import Driver, Failed
from tests.client.sdks import Sdk
from tests.client.watching import Collector, Watching, apply, live
from tests.system.feeds import now, polled
from tests.system.harness import Server, wait_for

WRITERS: Final = 2
_KEYS: Final = 12
_LAST: Final = "last"  # the key whose write ends the watches


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

    def finish(self, patience_s: float) -> None:
        """Wait until it has ended, as it was told to. Raises what ended it before."""
        self.join(patience_s)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure
        self.driver.close()

    def _write(self, at: int) -> None:
        kind = self._chance.choice(["put", "put", "create", "incr", "delete", "exchange"])
        key = f"k/{self._chance.randrange(_KEYS)}"
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


class Witness:
    """Writers that write until the end, a watch that follows all changes, and one that keeps a copy. A context manager.

    Args:
        sdk: the client.
        urls: of the servers, as the client takes them.
        server: one that is up at the beginning and at the end. Its store is the witness.
        options: of the writers.
        patience_s: for which each of them may take to end.

    Attributes:
        writers: the threads that write.
    """

    def __init__(self, sdk: Sdk, urls: str, server: Server, options: dict[str, Any], patience_s: float = 60) -> None:
        self._sdk, self._urls, self._server, self._patience_s = sdk, urls, server, patience_s
        self._since, self._stop = now(server), threading.Event()
        self.writers = [Writer(sdk, urls, number, self._stop, options) for number in range(WRITERS)]
        self._collectors: list[Collector] = []
        self._watches = ExitStack()

    def __enter__(self) -> Self:
        for what in ({"since": self._since}, {"prefixes": ["k/", _LAST], "snapshot": True}):
            watching = self._watches.enter_context(Watching(self._sdk, self._urls, **what))
            self._collectors.append(Collector(watching, _LAST))
        for thread in (*self.writers, *self._collectors):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watches.close()

    def wait_for_progress(self) -> None:
        """Wait until each has done or seen something new. What ended one shows at the end."""
        done = [len(writer.done) + 3 for writer in self.writers]
        seen = [len(collector.changes) + 3 for collector in self._collectors]

        def all_did() -> bool:
            wrote = all(w.failure or len(w.done) >= n for w, n in zip(self.writers, done, strict=True))
            return wrote and all(c.failure or len(c.changes) >= n for c, n in zip(self._collectors, seen, strict=True))

        wait_for(all_did, "writes and changes over the other", 90)

    def check(self) -> None:
        """End the writers, and the watches by a last write; compare what they were told with the feed."""
        self._stop.set()
        for writer in self.writers:
            writer.finish(self._patience_s)
        with self._server.client(self._patience_s) as client:
            answer = client.put(f"/v1/kv/{_LAST}", content=b"").raise_for_status()
        last = int(answer.headers["kv-revision"])
        for collector in self._collectors:
            collector.join(self._patience_s)
            assert collector.failure is None and not collector.is_alive(), collector.failure
        messages = polled(self._server, self._since)[0]
        events = [event for message in messages for event in message.get("events", ())]
        _check_writes(self.writers, events)
        _check_watches(self._collectors, events, last)

    def check_all_known(self) -> None:
        """No write ended with an unknown outcome: by its Idempotency-Key it is asked for elsewhere."""
        for writer in self.writers:
            assert not writer.unknown and not writer.unknown_adds


def _check_writes(writers: list[Writer], events: list[dict[str, Any]]) -> None:
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


def _check_watches(collectors: list[Collector], events: list[dict[str, Any]], last: int) -> None:
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
