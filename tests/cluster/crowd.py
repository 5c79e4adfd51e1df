"""Clients and followers of the feed on all machines, while these are tried; and what must be true of all in the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.cluster.whole_machines import Machine, Machines
from tests.linearizable import Request, check
from tests.system import feeds
from tests.system.harness import Server, wait_for
from tests.system.test_linearizable import GROUPS, Client, Lost, RepeatingClient

BETWEEN = 40
FAULT_S = 120.0

Event = tuple[str, str, int, Any]
"""Operation, key, revision, value."""


class _There(Client):
    """A client on a machine. While it is `dark` nobody has seen what it was told."""

    lifetimes_s = (10_000, 20_000)  # more than clocks are apart: each machine reads by its own
    machine: Machine
    dark: threading.Event

    def run(self) -> None:
        self.machine.surroundings.network.enter(self.machine.name)
        super().run()

    def _request(self, *asked: Any) -> tuple[http.client.HTTPResponse, str]:
        told = super()._request(*asked)
        if self.dark.is_set():
            raise Lost
        return told


class _RepeatsThere(_There, RepeatingClient):
    """One that repeats what is not answered."""


class Follower(threading.Thread):
    """Follows the feed, from one machine to another when one fails, and now and then without any need.

    Attributes:
        events: all that it was told, in that order.
        stopping: it shall end.
        dark: nobody sees what it is told.
    """

    def __init__(self, machines: Machines, name: str, since: str) -> None:
        super().__init__(daemon=True, name=name)
        self._machines, self._cursor, self._random = machines, since, random.Random(name)
        self.stopping, self.dark = threading.Event(), threading.Event()
        self.events: list[Event] = []
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Until it is stopped."""
        try:
            while not self.stopping.is_set():
                self._follow_one(self._random.choice(self._machines.all), self._random.randint(1, 20))
        except BaseException as fault:
            self.fault = fault

    def _follow_one(self, machine: Machine, polls: int) -> None:
        """Ask one machine so many times, or until it fails."""
        self._machines.network.enter(machine.name)
        connection = http.client.HTTPConnection(machine.host, machine.port, timeout=15)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            for _ in range(polls):
                connection.request("GET", f"/v1/feed?since={quote(self._cursor)}&wait=2")
                answer = connection.getresponse()
                text = answer.read()
                if self.stopping.is_set() or self.dark.is_set() or answer.status != 200:
                    self.stopping.wait(0.05)
                    return
                self.take(json.loads(text))

    def take(self, told: dict[str, Any]) -> None:
        """Note what a poll was told."""
        self.events += events_of(told["messages"])
        self._cursor = told["cursor"]

    def catch_up(self, server: Server) -> None:
        """Take everything that a server has, when the thread has ended."""
        messages, self._cursor = feeds.polled(server, self._cursor)
        self.events += events_of(messages)


def events_of(messages: Sequence[dict[str, Any]]) -> Iterator[Event]:
    """Each change of some messages of the feed, which must not tell of a gap."""
    for message in messages:
        assert message["type"] not in ("gap", "reset"), message
        for event in message.get("events", ()):
            yield event["op"], event["key"], event["revision"], event.get("value")


class Crowd:
    """Two clients on each machine, which ask until the context ends, and followers of the feed.

    Args:
        machines: with an empty store.
        seed: of what the clients ask.
        between: requests that are answered while a fault lasts, and between two faults.
    """

    def __init__(self, machines: Machines, seed: int = 0, between: int = BETWEEN) -> None:
        self._between = between
        self._machines, self._stop, self._dark = machines, threading.Event(), threading.Event()
        self.clients: list[_There] = []
        count = len(machines.all)
        for at, machine in enumerate(machines.all):
            for number, kind in enumerate((_There, _RepeatsThere)):
                client = kind((machine.host, machine.port), (seed * 2 + number) * count + at, self._stop)
                client.machine, client.dark = machine, self._dark
                self.clients.append(client)
        self._since = machines.all[0].ask(feeds.now)
        self.followers = [Follower(machines, f"follower {number}", self._since) for number in range(count)]
        for follower in self.followers:
            follower.stopping, follower.dark = self._stop, self._dark

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(75)

    @property
    def _threads(self) -> list[_There | Follower]:
        return [*self.clients, *self.followers]

    def answered(self, among: Sequence[Machine]) -> int:
        """How many requests were answered to the clients on these machines."""
        faults = [each.fault for each in self._threads if each.fault]
        assert not faults, faults
        return sum(len(client.history) for client in self.clients if client.machine in among)

    def wait_for_more(self, among: Sequence[Machine], times: int = 1) -> None:
        """Wait until the clients on some machines have got further answers; `times`: so many times as many as usual."""
        before, count = self.answered(among), times * self._between
        names = " ".join(machine.name for machine in among)
        wait_for(lambda: self.answered(among) > before + count, f"{count} answers on {names}", FAULT_S)

    def wait_for_each(self) -> None:
        """Wait until the clients on each machine have got further answers."""
        before = [(machine, self.answered([machine])) for machine in self._machines.all]
        wait_for(
            lambda: all(self.answered([machine]) > count + self._between for machine, count in before),
            f"{self._between} answers on each",
            FAULT_S,
        )

    @contextlib.contextmanager
    def in_the_dark(self) -> Iterator[None]:
        """Let nobody see any answer: for what is undone."""
        self._dark.set()
        try:
            yield
        finally:
            self._dark.clear()

    @property
    def history(self) -> list[Request]:
        """All requests of all clients."""
        return [request for client in self.clients for request in client.history]

    def judge(self) -> None:
        """Check, when all has ended, that what everybody was told is true of one store, which all machines hold."""
        self.answered(self._machines.all)
        self._machines.wait_until_whole()
        check(self.history, GROUPS)
        histories = [machine.ask(lambda server: events_since(server, self._since)) for machine in self._machines.all]
        assert all(history == histories[0] for history in histories)
        check_acknowledged(self.history, histories[0])
        for machine, follower in zip(self._machines.all, self.followers, strict=True):
            machine.ask(follower.catch_up)
            assert follower.events == histories[0], f"what {follower.name} was told"
        values = [machine.ask(values_of) for machine in self._machines.all]
        assert all(value == values[0] for value in values)


def events_since(server: Server, since: str) -> list[Event]:
    """The history that a machine tells."""
    return list(events_of(feeds.polled(server, since)[0]))


def check_acknowledged(history: list[Request], events: list[Event]) -> None:
    """Every change that a client was told of is in the history."""
    keys = {revision: key for _, key, revision, _ in events}
    assert len(keys) == len(events), "each revision once"
    for request in history:
        if request.answers and request.failed is None:
            for step, answer in zip(request.steps, request.answers, strict=True):
                if answer.done and step.kind != "get":
                    assert keys.get(answer.revision) == step.key, request


def values_of(server: Server) -> list[Any]:
    """What a machine holds."""
    with server.client() as client:
        items = client.get("/v1/kv?values=true&limit=1000").raise_for_status().json()["items"]
    return [(item["key"], item["revision"], item["value"]) for item in items]
