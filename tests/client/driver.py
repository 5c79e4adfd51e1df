"""A program that uses a client as it is told: one JSON request a line on its standard input, answers on its output."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Timer
from typing import Any

ANSWER_S = 60.0
"""Most seconds that an answer takes; a driver that is slower is killed."""


class DriverFailed(AssertionError):
    """The driver did what its protocol does not allow: it ended, was silent, or answered something else."""


class Unsupported(Exception):
    """The client has no such verb."""


@dataclass(eq=False)
class Failed(Exception):
    """The client's error for a request."""

    half: str
    code: str
    status: int | None
    revision: int | None
    detail: str
    document: dict[str, Any]

    def __str__(self) -> str:
        return json.dumps(self.document)


class Driver:
    """A running driver. Requests are answered one after another; `close` ends it, and fails if it does not end well."""

    def __init__(self, command: Sequence[str], url: str, token: str | None = None) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KVSERVER_")}
        environ |= {"KVSERVER_URL": url} | ({} if token is None else {"KVSERVER_TOKEN": token})
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environ
        )
        self._id = 0

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self, do: str, **args: Any) -> Any:
        """Return the result of a request. Raises `Failed` with the client's error, `Unsupported`."""
        *lines, result = self.stream(do, **args)
        if lines:
            raise DriverFailed(f"{do} answered a stream: {lines[0]}")
        return result

    def fails(self, do: str, **args: Any) -> Failed:
        """Return the client's error for a request that must fail."""
        try:
            result = self.ask(do, **args)
        except Failed as error:
            return error
        raise AssertionError(f"{do} did not fail: {result}")

    def stream(self, do: str, **args: Any) -> Iterator[Any]:
        """Yield what a request answers line by line: whole documents, but of the last line the result alone."""
        self.send(do, **args)
        while True:
            document = self.receive()
            if "unsupported" in document:
                raise Unsupported(do)
            if "error" in document:
                raise failed(document["error"])
            if "ok" in document:
                yield document["ok"]
                return
            yield document

    def send(self, do: str, **args: Any) -> None:
        """Send a request, whose answers `receive` returns."""
        self._id += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"id": self._id, "do": do, "args": args}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise DriverFailed(f"the driver ended, with status {self._process.wait()}") from None

    def receive(self) -> dict[str, Any]:
        """Return the next line of the answer to the last request."""
        assert self._process.stdout is not None
        watchdog = Timer(ANSWER_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise DriverFailed(f"the driver ended, with status {self._process.wait()}")
        document: dict[str, Any] = json.loads(line)
        if document.get("id") != self._id:
            raise DriverFailed(f"an answer to another request than {self._id}: {line}")
        return document

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def close(self) -> None:
        """Close its input, which ends it."""
        try:
            rest, _ = self._process.communicate(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DriverFailed("the driver did not end with its input") from None
        if self._process.returncode or rest:
            raise DriverFailed(f"the driver ended with status {self._process.returncode} and {rest[:300]!r}")

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


def failed(error: dict[str, Any]) -> Failed:
    """Return the error of a driver's answer."""
    assert error["half"] in ("refused", "unknown", "other"), error
    return Failed(
        error["half"],
        error["code"],
        error.get("status"),
        error.get("revision"),
        error.get("detail") or "",
        error,
    )
