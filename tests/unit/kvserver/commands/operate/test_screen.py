"""Figures of a server as a screen."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from kvserver.commands.operate.figures import rates_between
from kvserver.commands.operate.screen import draw_screen, sorted_shards
from tests.unit.kvserver.commands.operate.test_figures import BEFORE, later


def drawn(state: dict[str, Any], **more: Any) -> str:
    options: dict[str, Any] = {
        "url": "localhost:8080",
        "sort": "1",
        "paused": False,
        "trouble": "",
        "show_help": False,
        "width": 140,
        "height": 24,
    }
    history = {"requests": [1.0, 100.0], "changes": [0.0, 31.0]}
    screen = draw_screen(state, rates_between(BEFORE, state), history, **options | more)
    file = io.StringIO()
    Console(file=file, width=(options | more)["width"]).print(screen)
    return file.getvalue()


def state(**changes: Any) -> dict[str, Any]:
    more = {
        "version": "1.2",
        "sync": "always",
        "revision": 1839063582711815,
        "workers": [{}],
        "gateways": [{"clients": 312}],
        "memory": {"used": 812 << 20, "limit": 1 << 30, "on_full": "evict"},
    }
    return later(**more) | changes


def test_the_screen_has_what_people_look_for() -> None:
    text = drawn(state())
    for words in (
        "kvserver 1.2 · localhost:8080 · up 102 s · sync always",
        "requests      100/s",
        "2xx 99.0 %  5xx 1.0 %  503 1  504 0",
        "changes        31/s",
        "put 20  delete 10  expire 1",
        "1839063582711815",
        "████████░░ 812.0 MiB of 1.0 GiB (evict)",
        "feed   312 clients",
        "10 deliveries/s",
        "q quit   p pause   1/2/3 sort   ? help",
    ):
        assert words in text, (words, text)


def test_what_is_wrong_is_said() -> None:
    broken = state(workers=[], log={"full": True})
    broken["shards"][0]["state"] = "down\x1b"
    text = drawn(broken, trouble="no answer: refused\x1b[2J", paused=True)
    for words in ("shard 0 is down\\x1b", "no web worker", "disk is full", "no answer: refused\\x1b[2J", "PAUSED"):
        assert words in text, words
    assert "\x1b" not in text


def test_help_stands_in_the_place_of_the_shards() -> None:
    text = drawn(state(), show_help=True)
    assert "p  pause" in text and "flush" not in text


def test_shards_are_sorted_and_cut_to_the_terminal() -> None:
    many = state()
    many["shards"] = [{**many["shards"][0], "index": index, "keys": index * 100} for index in range(12)]
    text = drawn(many, height=15)
    assert "7 more" in text and text.count(" up ") == 6  # and one in the title
    rates = rates_between(BEFORE, many)
    assert [shard.index for shard in sorted_shards(rates.shards, "2")][:2] == [11, 10]
    assert next(shard.index for shard in sorted_shards(rates.shards, "3")) == 1  # shard 0 was there before
    assert [shard.index for shard in sorted_shards(rates.shards, "1")] == list(range(12))


def test_a_narrow_terminal_shows_the_latencies_too() -> None:
    lines = drawn(state(), width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "p50 1.0 ms" in lines[1]
