"""The banner: addresses, durability and warnings."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kvserver.serve import banner
from kvserver.settings import ServerSettings
from shards.host.settings import (
    load_settings,
)


def test_the_banner_warns_of_browsers_while_every_page_may_use_the_store() -> None:
    assert "any web page" in banner.access_warning(load_settings(ServerSettings, {}, {}))
    assert "any web page" not in banner.access_warning(
        load_settings(ServerSettings, {"origins": "https://a.example"}, {})
    )
    assert "everybody" in banner.access_warning(load_settings(ServerSettings, {"insecure": "true"}, {}))


def test_with_tokens_the_banner_warns_of_listeners_alone() -> None:
    tokens = {"tokens": "/etc/tokens.toml", "insecure": "true"}
    assert banner.access_warning(load_settings(ServerSettings, tokens, {})) == ""
    assert "unencrypted" in banner.access_warning(load_settings(ServerSettings, {**tokens, "host": "0.0.0.0"}, {}))


def test_the_banner_warns_of_metrics_that_others_can_reach() -> None:
    for options, words in (
        ({}, None),
        ({"metrics_host": "::1"}, None),
        ({"metrics_host": "0.0.0.0"}, "everybody who can reach"),
        ({"metrics_host": "192.0.2.1", "tokens": "/t.toml"}, "travel unencrypted"),
    ):
        warning = banner.metrics_warning(load_settings(ServerSettings, options, {}))
        assert warning == "" if words is None else words in warning, options


def lines(options: dict[str, str | None], rest: str | None = "h:1", feed: str | None = None) -> dict[str, str]:
    settings = load_settings(ServerSettings, options, {})
    return dict(banner.banner_lines(settings, Path("/maps"), rest, feed, "127.0.0.1:3"))


def test_the_addresses_are_those_that_are_listened_on() -> None:
    shown = lines({"shards": "3", "workers": "2", "run_dir": "/run/x", "data_dir": "/data"})
    assert (shown["REST"], shown["manual"], shown["metrics"]) == (
        "http://h:1",
        "http://h:1/docs/",
        "http://127.0.0.1:3/metrics",
    )
    assert shown["feed"] == "ws://h:1/wal, and http://h:1/v1/feed"
    assert (shown["shards"], shown["workers"]) == ("3", "2 web, 1 feed")
    assert (shown["data"], shown["run"], shown["maps"]) == ("/data", "/run/x", "/maps")
    assert lines({}, feed="h:2")["feed"] == "ws://h:2/wal, and http://h:2/v1/feed"


def test_a_store_alone_has_no_addresses_of_clients() -> None:
    shown = lines({"only": "store", "shards": "3"}, rest=None)
    assert not {"REST", "feed", "console", "manual", "workers"} & set(shown)
    assert shown["shards"] == "3, not started here"


def test_durability_and_access_are_said() -> None:
    assert lines({"sync": "everysec"})["durability"].startswith("everysec: flushed every second")
    assert lines({"in_memory": "true"})["durability"].startswith("none: ")
    assert lines({"in_memory": "true"})["data"] == "in memory only"
    assert lines({"tokens": "/t.toml"})["access"] == "tokens in /t.toml"
    assert lines({})["access"].startswith("everybody")


@pytest.mark.parametrize("mode", ["always", "everysec", "os"])
def test_every_sync_mode_is_explained(mode: str) -> None:
    assert len(lines({"sync": mode})["durability"]) > len(mode) + 20


def test_the_last_line_says_ready_and_a_pipe_gets_no_colors(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(ServerSettings, {"data_dir": "/a\x1b[31m", "run_dir": "/r"}, {})
    banner.print_banner(settings, map_dir=Path("/maps"), rest="h:1", feed=None, metrics="h:3")
    text = capsys.readouterr().out
    assert text.endswith("\nready\n")
    assert "\x1b" not in text
    assert "warning: there is no access control" in text


def test_a_closed_output_is_logged_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(banner, "mute_stream", lambda stream: None)
    monkeypatch.setattr("sys.stdout", Closed())
    banner.print_banner(load_settings(ServerSettings, {}, {}), map_dir=Path("/m"), rest="h:1", feed=None, metrics="h:3")
    assert "the server is ready, but cannot write to standard output" in caplog.text


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")
