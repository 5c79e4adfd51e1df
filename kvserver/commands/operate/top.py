"""`kvserver top`: shows a server live."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kvserver.client import Client
from kvserver.client.errors import KVError
from kvserver.commands.operate.figures import Rates, rates_between
from kvserver.commands.operate.keyboard import Keyboard, single_keys
from kvserver.commands.operate.screen import HISTORY, SORTS, draw_screen
from kvserver.commands.parts import reports
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.servers import server_url
from kvserver.commands.parts.statuses import UNREACHABLE
from kvserver.commands.parts.words import Duration

HELP = """Show the server live: requests, changes, latencies, shards, memory, the feed.

It continues when the server restarts. If the server has tokens, it needs one that grants admin, or read on all keys.

\b
Keys:
  q          quit
  p          pause
  1, 2, 3    sort shards by number, keys, operations a second
  ?          help

\b
Examples:
  kvserver top
  kvserver top --url localhost:9120 --interval 500ms
"""
_PASSING: Final = (UNREACHABLE,)
"""Exit statuses of errors that pass."""
_TURN_S: Final = 0.1


class StatusFeed:
    """Reads the state of a server again and again, in a thread of its own, so that the keyboard never waits for it."""

    def __init__(self, client: Client, interval: float) -> None:
        """`interval`: seconds between two readings."""
        self._client, self._interval = client, interval
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._latest: Mapping[str, Any] | None = None
        self._error: KVError | None = None
        self._turns = 0
        threading.Thread(target=self._read, name="status", daemon=True).start()

    def latest(self) -> tuple[int, Mapping[str, Any] | None, KVError | None]:
        """Return how often the state was read, the latest one, and the error if the last reading failed."""
        with self._lock:
            return self._turns, self._latest, self._error

    def close(self) -> None:
        """Stop."""
        self._ended.set()

    def _read(self) -> None:
        while not self._ended.is_set():
            state, error = None, None
            try:
                state = self._client.status().raw
            except KVError as failure:
                error = failure
            with self._lock:
                self._latest, self._error, self._turns = state or self._latest, error, self._turns + 1
            self._ended.wait(self._interval)


class Screen:
    """What the terminal shows, and what keys change."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._state: Mapping[str, Any] = {}
        self._rates: Rates | None = None
        self._history: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in ("requests", "changes")}
        self._turn = 0
        self._sort, self._trouble = "1", "connecting"
        self.paused = self.shows_help = False

    def take(self, turn: int, state: Mapping[str, Any] | None, error: KVError | None) -> None:
        """Take what was read, unless it was taken before or the screen is paused."""
        if turn == self._turn or self.paused:
            return
        self._turn = turn
        self._trouble = "" if error is None else f"no answer: {error.detail or error.title}"
        if error is None and state is not None:
            self._rates = rates_between(self._state or state, state)
            self._state = state
            self._history["requests"].append(self._rates.requests)
            self._history["changes"].append(self._rates.changes)

    def press(self, key: str) -> bool:
        """Do what a key says; return whether the screen is to be closed."""
        if key == "p":
            self.paused = not self.paused
        elif key == "?":
            self.shows_help = not self.shows_help
        elif key in SORTS:
            self._sort = key
        return key in ("q", "Q")

    def draw(self, width: int, height: int) -> Any:
        """Return what to show on a terminal of this size in characters."""
        if self._rates is None:
            return Text(f"kvserver top · {self._url} · {self._trouble}")
        return draw_screen(
            self._state,
            self._rates,
            self._history,
            url=self._url,
            sort=self._sort,
            paused=self.paused,
            trouble=self._trouble,
            show_help=self.shows_help,
            width=width,
            height=height,
        )


def show_screen(run: Invocation, interval: float) -> int:
    """Run the command; return the exit status."""
    if not (run.out.is_terminal and sys.stdin is not None and sys.stdin.isatty()):
        raise click.UsageError("top needs a terminal: `kvserver status --json` prints the same for programs")
    run.client.status()  # an error that stays ends it here
    feed = StatusFeed(run.new_client(patience=0), interval)
    screen = Screen(server_url(run.url))
    console = Console(no_color=not run.out.is_colored, highlight=False)
    try:
        with single_keys() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
            return _show(live, console, keyboard, feed, screen)
    finally:
        feed.close()


def _show(live: Live, console: Console, keyboard: Keyboard, feed: StatusFeed, screen: Screen) -> int:
    shown: object = None
    key = ""
    while not screen.press(key):
        turn, state, error = feed.latest()
        if error is not None and reports.status_of(error) not in _PASSING:
            raise error
        screen.take(turn, state, error)
        if key or shown != (turn, console.size):
            shown = (turn, console.size)
            live.update(screen.draw(*console.size), refresh=True)
        key = keyboard.wait(_TURN_S)
    return 0


COMMAND = ClientCommand(
    "top",
    show_screen,
    [
        click.Option(
            ["--interval"],
            type=Duration(above_zero=True),
            default=1.0,
            metavar="TIME",
            help="Time between two updates. Default: 1s.",
        )
    ],
    help=HELP,
)
