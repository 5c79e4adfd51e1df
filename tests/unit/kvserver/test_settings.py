"""The table of settings: precedence and parsers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.settings import DEFAULT_SHARDS, ServerSettings
from shards.host.settings import (
    ProcessSettings,
    SettingError,
    boolean,
    choice,
    default_run_dir,
    integer,
    load_settings,
    setting_specs,
    size,
    to_environ,
)


def test_defaults_without_options_and_environment() -> None:
    settings = load_settings(ServerSettings, {}, {})
    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", 8080, 3001)
    assert (settings.sync, settings.max_value, settings.wal_retention) == ("always", 5_120_000, 512 << 20)
    assert settings.data_dir == Path("kvserver-data")
    assert settings.run_dir is settings.map_dir is settings.feed_port is settings.only is None


def test_an_option_wins_over_our_variable_which_wins_over_memorykv_s() -> None:
    environ = {"KVSERVER_PORT": "2", "PORT": "3"}
    assert load_settings(ServerSettings, {"port": "1"}, environ).port == 1
    assert load_settings(ServerSettings, {"port": None}, environ).port == 2
    assert load_settings(ServerSettings, {}, {"PORT": "3"}).port == 3


@pytest.mark.parametrize("variable", ["KVSERVER_PORT", "PORT", "METRICS_PORT"])
def test_an_empty_variable_counts_as_not_given(variable: str) -> None:
    settings = load_settings(ServerSettings, {}, {variable: ""})
    assert (settings.port, settings.metrics_port) == (8080, 3001)


def test_an_empty_variable_of_ours_leaves_the_word_to_memorykv_s() -> None:
    assert load_settings(ServerSettings, {}, {"KVSERVER_PORT": "", "PORT": "3"}).port == 3


def test_memorykv_s_names() -> None:
    settings = load_settings(ServerSettings, {}, {"PORT": "1", "METRICS_PORT": "2", "DEBUG": "true"})
    assert (settings.port, settings.metrics_port, settings.log_level) == (1, 2, "debug")


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"TRACE": "true"}, "trace"),
        ({"TRACE": "TRUE"}, "trace"),
        ({"TRACE": "true", "DEBUG": "true"}, "trace"),
        ({"TRACE": "false", "DEBUG": "true"}, "debug"),
        ({"DEBUG": "1"}, "info"),
        ({"DEBUG": ""}, "info"),
        ({"DEBUG": "true", "KVSERVER_LOG_LEVEL": "error"}, "error"),
    ],
)
def test_memorykv_s_debug_and_trace(environ: dict[str, str], level: str) -> None:
    assert load_settings(ProcessSettings, {}, environ).log_level == level


@pytest.mark.parametrize(
    ("options", "environ", "origin"),
    [
        ({"port": "65536"}, {}, "--port is '65536'"),
        ({"port": ""}, {}, "--port is ''"),
        ({}, {"KVSERVER_PORT": "-1"}, "KVSERVER_PORT is '-1'"),
        ({}, {"PORT": "http"}, "PORT is 'http'"),
        ({"sync": "never"}, {}, "always, everysec, os"),
        ({"only": "web"}, {}, "store"),
        ({"host": "example.org"}, {}, "IP address"),
        ({"max_value": "33554433"}, {}, "33554432"),
        ({"wal_retention": "63MiB"}, {}, "67108864"),
        ({"origins": "example.org"}, {}, "http"),
        ({"data_dir": ""}, {}, "path"),
        ({"in_memory": "perhaps"}, {}, "true or false"),
        ({"port": "٣"}, {}, "whole number"),
        ({"port": "1" * 5000}, {}, "whole number"),
        ({"port": "0\x1f1"}, {}, "whole number"),
        ({"map_dir": "~nobody-of-this-name/maps"}, {}, "home directory"),
        ({"run_dir": "a\0b"}, {}, "path"),
        ({"shards": "257"}, {}, "256"),
    ],
)
def test_a_bad_value_is_named_with_its_origin_and_what_would_be_right(
    options: dict[str, str], environ: dict[str, str], origin: str
) -> None:
    with pytest.raises(SettingError, match=origin):
        load_settings(ServerSettings, options, environ)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("4096", 4096), ("1KiB", 1024), ("2MiB", 2 << 20), ("1 GiB", 1 << 30), ("3k", 3072), ("1g", 1 << 30)],
)
def test_sizes(text: str, value: int) -> None:
    assert size(1, 1 << 30)(text) == value


@pytest.mark.parametrize("text", ["", "KiB", "1TB", "1.5MiB", "-1", "1 MiB MiB", "0", "2GiB", "0x10"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        size(1, 1 << 30)(text)


@given(st.integers(0, 100))
def test_whole_numbers_in_their_range(number: int) -> None:
    assert integer(0, 100)(str(number)) == number
    with pytest.raises(ValueError, match="from 101 to 200"):
        integer(101, 200)(str(number))


@given(st.text())
def test_parsers_take_any_text_or_say_what_would_be_right(text: str) -> None:
    for parse in [spec.parse for spec in setting_specs(ServerSettings).values()] + [boolean, choice("a"), size(0, 9)]:
        try:
            parse(text)
        except ValueError as error:
            assert "expected" in str(error)


def test_localhost_and_brackets_are_addresses() -> None:
    hosts = [
        load_settings(ServerSettings, {"host": host}, {}).host for host in ("localhost", "[::1]", "::1", "0.0.0.0")
    ]
    assert hosts == ["127.0.0.1", "::1", "::1", "0.0.0.0"]


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_a_child_loads_what_its_parent_had(in_memory: str) -> None:
    options = {
        "in_memory": in_memory,
        "run_dir": "/run/x",
        "port": "0",
        "max_value": "1MiB",
        "log_level": "trace",
        "origins": "https://a.example,https://b.example",
        "sync": "os",
        "feed_port": "7",
    }
    settings = load_settings(ServerSettings, options, {})
    # What the child inherits besides must not matter.
    inherited = {"PORT": "99", "TRACE": "true", "METRICS_PORT": "98"}
    assert load_settings(ServerSettings, {}, inherited | to_environ(settings)) == settings


def test_the_run_directory_of_a_store_without_a_directory_must_be_given() -> None:
    with pytest.raises(SettingError, match="--run-dir"):
        load_settings(ProcessSettings, {"in_memory": "true"}, {}).resolved_run_dir()
    with pytest.raises(SettingError, match="cannot be read"):
        load_settings(ProcessSettings, {"data_dir": "/nowhere/at/all"}, {}).resolved_run_dir()


def test_run_directories_of_two_stores_differ() -> None:
    assert default_run_dir("1-2") != default_run_dir("1-3")


@pytest.mark.parametrize(
    ("origins", "kept"),
    [
        ("*", "*"),
        ("https://A.example:443/ , http://b.example:8080", "https://a.example,http://b.example:8080"),
        ("*,https://a.example", "*,https://a.example"),
    ],
)
def test_origins_are_kept_as_browsers_write_them(origins: str, kept: str) -> None:
    assert load_settings(ServerSettings, {"origins": origins}, {}).origins == kept


@pytest.mark.parametrize(
    "origins", ["https://a.example/x", "https://a.example,", "null", "a.example", "https://ü.example"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(SettingError, match="origins such as"):
        load_settings(ServerSettings, {"origins": origins}, {})


def test_allowed_hosts_are_names() -> None:
    assert load_settings(ServerSettings, {}, {}).allowed_hosts is None
    assert load_settings(ServerSettings, {"allowed_hosts": "KV.example., b "}, {}).allowed_hosts == "kv.example,b"
    for wrong in ("http://kv.example", "kv.example:80", "kv.example,", "a b", "-", "kü.example"):
        with pytest.raises(SettingError, match="expected host names such as"):
            load_settings(ServerSettings, {"allowed_hosts": wrong}, {})


THREE = "a=10.0.0.1,b=10.0.0.2:4333,c=10.0.0.3"


def test_a_machine_of_a_cluster_has_a_name_and_one_shard() -> None:
    loaded = load_settings(ServerSettings, {"node": "b", "cluster": THREE}, {})
    assert (loaded.node, loaded.cluster, loaded.shards, loaded.reads) == ("b", THREE, 1, "linear")
    servers = "nats://10.0.0.1:4222,nats://10.0.0.2:4222"
    loaded = load_settings(ServerSettings, {"node": "x" * 32, "cluster": servers, "reads": "local"}, {})
    assert (loaded.cluster, loaded.reads) == (servers, "local")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"node": "a"}, "--node needs --cluster"),
        ({"cluster": THREE}, "--cluster needs --node"),
        ({"node": "d", "cluster": THREE}, "--node is d, but --cluster names a, b, c"),
        ({"node": "A", "cluster": THREE}, "expected 1 to 32 of the characters a-z, 0-9 and -"),
        ({"node": "x" * 33, "cluster": THREE}, "expected 1 to 32"),
        ({"node": "-a", "cluster": THREE}, "no - at the front"),
        ({"node": "a", "cluster": "10.0.0.1"}, "expected machines such as a=10.0.0.1"),
        ({"node": "a", "cluster": "a=10.0.0.1,a=10.0.0.2"}, "each machine once"),
        ({"node": "a", "cluster": "a="}, "expected machines such as"),
        ({"node": "a", "cluster": "nats://10.0.0.1,b=10.0.0.2"}, "expected machines such as"),
        ({"node": "a", "cluster": THREE, "shards": str(DEFAULT_SHARDS + 2)}, "give --shards 1"),
    ],
)
def test_what_is_no_cluster_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        load_settings(ServerSettings, options, {})
