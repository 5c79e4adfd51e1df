"""Writers that remember what they were told, and the check that the store kept its word."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

KEYS_EACH = 8


@dataclass
class Attempt:
    """One write: what was sent, and `acked`, `refused` (surely not done) or `unknown`."""

    key: str
    value: str | None  # None: a delete
    outcome: str = "unknown"


@dataclass
class Writer:
    """A client that writes to keys of its own, one request after the other, a value nobody writes twice."""

    name: str
    attempts: list[Attempt] = field(default_factory=list)

    def run(self, address: tuple[str, int], stop: threading.Event, rounds: int | None = None) -> None:
        """Write until `stop` is set, or `rounds` times."""
        connection: http.client.HTTPConnection | None = None
        while not stop.is_set() and (rounds is None or len(self.attempts) < rounds):
            count = len(self.attempts)
            delete = count % 10 == 9
            attempt = Attempt(f"{self.name}-{count % KEYS_EACH}", None if delete else f"{self.name}:{count}")
            self.attempts.append(attempt)
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(*address, timeout=15)
                connection.request("DELETE" if delete else "PUT", "/" + quote(attempt.key, safe=""), attempt.value)
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError:
                attempt.outcome, connection = "refused", None
                stop.wait(0.01)
            except (OSError, http.client.HTTPException):
                if connection is not None:
                    connection.close()
                connection = None
            else:
                attempt.outcome = _outcome(answer.status, delete)
                if answer.status == 503:
                    stop.wait(0.01)
                if answer.getheader("Connection", "").lower() == "close":
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()


def _outcome(status: int, delete: bool) -> str:
    if status == 200 or (delete and status == 404):
        return "acked"
    if status in (503, 507):
        return "refused"
    assert status == 504, f"unexpected status {status}"
    return "unknown"


class Load:
    """Several writers at once: `with Load(address) as load: ...` runs them meanwhile."""

    def __init__(self, address: tuple[str, int], writers: int = 8) -> None:
        self.address = address
        self.writers = [Writer(f"w{number}") for number in range(writers)]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=writer.run, args=(address, self._stop), daemon=True) for writer in self.writers
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a writer hangs"

    def acked(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(attempt.outcome == "acked" for writer in self.writers for attempt in list(writer.attempts))

    def check_values(self, values: dict[str, str | None]) -> None:
        """Every key holds its last acknowledged write, or one after it whose outcome is unknown."""
        for writer in self.writers:
            for key in {attempt.key for attempt in writer.attempts}:
                allowed = possible([attempt for attempt in writer.attempts if attempt.key == key])
                assert values.get(key) in allowed, f"{key} is {values.get(key)!r}, allowed {allowed}"

    def check_log(self, puts: Iterable[tuple[str, str]]) -> None:
        """The log (key and value of each put, in order) holds every acknowledged put once, every other at most once,
        no refused one, and each writer's in its order."""
        logged = list(puts)
        repeated = [put for put, count in Counter(logged).items() if count > 1]
        assert not repeated, f"logged more than once: {repeated[:5]}"
        place = {put: index for index, put in enumerate(logged)}
        for writer in self.writers:
            acked = [a for a in writer.attempts if a.value is not None and a.outcome == "acked"]
            places = [place.get((a.key, a.value or "")) for a in acked]
            missing = [a for a, at in zip(acked, places, strict=True) if at is None]
            assert not missing, f"acknowledged, not in the log: {missing[:5]}"
            assert places == sorted(places, key=lambda at: at or 0), "not in the writer's order"
            refused = [a for a in writer.attempts if a.outcome == "refused" and (a.key, a.value) in place]
            assert not refused, f"refused, but in the log: {refused[:5]}"


def possible(attempts: Sequence[Attempt]) -> set[str | None]:
    """The values a key may hold after `attempts` in this order."""
    allowed: set[str | None] = {None}
    for attempt in attempts:
        if attempt.outcome == "acked":
            allowed = {attempt.value}
        elif attempt.outcome == "unknown":
            allowed.add(attempt.value)
    return allowed
