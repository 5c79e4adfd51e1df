"""A driver that watches, in a process of its own."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.driver import Driver, Failed, Unsupported, failed
from tests.client.sdks import Sdk

Change = dict[str, Any]


class Watching:
    """A watch, whose changes are taken one by one. Without `count` it runs until it is closed."""

    def __init__(self, sdk: Sdk, url: str, token: str | None = None, **args: Any) -> None:
        self.driver = Driver(sdk.command(), url, token)
        self.result: Any = None
        self.driver.send("watch", **args)
        try:
            document = self._receive()
            assert document == {"ready": True}, document
        except Unsupported:
            self.driver.kill()
            if args.get("transport") == "websocket":
                pytest.xfail(f"{sdk.name} has no transport by WebSocket")
            raise
        except BaseException:
            self.driver.kill()
            raise

    def _receive(self) -> dict[str, Any]:
        document = self.driver.receive()
        document.pop("id")
        if "unsupported" in document:
            raise Unsupported("watch")
        if "error" in document:
            raise failed(document["error"])
        return document

    def take(self, count: int = 1) -> list[Change]:
        """The next changes."""
        return [self._receive()["change"] for _ in range(count)]

    def take_until(self, kind: str) -> list[Change]:
        """The next changes, up to the first of a kind."""
        found: list[Change] = []
        while not found or found[-1]["kind"] != kind:
            found += self.take()
        return found

    def rest(self) -> list[Change]:
        """All changes up to the end of a watch with `count` or `until_synced`, or one whose input was closed."""
        found = []
        while "change" in (document := self._receive()):
            found.append(document["change"])
        self.result = document["ok"]
        return found

    def error(self) -> Failed:
        """The error that ends it, whatever changes come before."""
        try:
            self.rest()
        except Failed as error:
            return error
        raise AssertionError("it ended without an error")

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.kill()


class Collector(threading.Thread):
    """Takes the changes of a watch until it has seen a key, in a thread of its own.

    Attributes:
        changes: all of them, with that of the key as the last one.
        failure: what ended it before.
    """

    def __init__(self, watching: Watching, last_key: str) -> None:
        super().__init__(daemon=True)
        self._watching, self._last_key = watching, last_key
        self.changes: list[Change] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Take changes."""
        try:
            while not self.changes or self.changes[-1].get("key") != self._last_key:
                self.changes += self._watching.take()
        except BaseException as error:
            self.failure = error


def apply(changes: list[Change]) -> dict[str, tuple[int, bytes | None]]:
    """The copy that changes make, as a user would keep it: of each key the revision and the value."""
    copy: dict[str, tuple[int, bytes | None]] = {}
    aside: dict[str, tuple[int, bytes | None]] | None = None
    for change in changes:
        target = copy if aside is None else aside
        if change["kind"] == "reset" and change["snapshot"]:
            aside = {}
        elif change["kind"] == "synced":
            copy, aside = (copy if aside is None else aside), None
        elif change["kind"] == "put":
            target[change["key"]] = (change["revision"], value_of(change))
        elif change["kind"] == "touch":
            with contextlib.suppress(KeyError):
                target[change["key"]] = (change["revision"], target[change["key"]][1])
        elif change["kind"] == "delete":
            target.pop(change["key"], None)
    return copy


def live(changes: list[Change]) -> list[Change]:
    """The changes that happened, without those of snapshots."""
    kinds = ("put", "touch", "delete")
    return [change for change in changes if change["kind"] in kinds and change.get("origin") != "snapshot"]


def value_of(change: Change) -> bytes | None:
    """The value of a put."""
    return base64.b64decode(change["value_base64"]) if "value_base64" in change else None


def without_empty_reset(changes: list[Change]) -> Iterator[Change]:
    """Changes without the `reset` before a snapshot of nothing, which a client may leave out."""
    for at, change in enumerate(changes):
        following = changes[at + 1]["kind"] if at + 1 < len(changes) else ""
        if change["kind"] != "reset" or change["reason"] != "start" or following != "synced":
            yield change
