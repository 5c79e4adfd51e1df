"""Settings: what each parser takes, which source wins, and what a child inherits."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.host.settings import (
    ProcessSettings,
    SettingError,
    boolean,
    choice,
    ignored_variables,
    integer,
    load_settings,
    path,
    size,
    to_environ,
)


@pytest.mark.parametrize(
    ("text", "bytes"), [("0", 0), (" 512 ", 512), ("1KiB", 1024), ("2m", 2 << 20), ("1 GiB", 1 << 30)]
)
def test_sizes(text: str, bytes: int) -> None:
    assert size(0, 1 << 40)(text) == bytes


@pytest.mark.parametrize("text", ["", "-1", "1.5M", "1TiB", "KiB", "9" * 100, "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of bytes"):
        size(0, 1 << 40)(text)


def test_numbers_have_limits() -> None:
    parse = integer(1, 5)
    assert (parse("1"), parse(" 5 ")) == (1, 5)
    for text in ("0", "6", "+1", "1e0", "x"):
        with pytest.raises(ValueError, match="from 1 to 5"):
            parse(text)


def test_words() -> None:
    assert boolean("Yes") and boolean("1") and not boolean("off")
    assert choice("a", "b")("b") == "b"
    assert path("~") == Path.home()
    for parse, text in ((boolean, "maybe"), (choice("a"), "b"), (path, ""), (path, "a\0b"), (path, "~no-such-user/x")):
        with pytest.raises(ValueError, match="expected"):
            parse(text)


def test_an_option_wins_over_a_variable_and_that_over_an_alias() -> None:
    environ = {"KVSERVER_LOG_LEVEL": "error", "DEBUG": "true"}
    assert load_settings(ProcessSettings, {"log_level": "info"}, environ).log_level == "info"
    assert load_settings(ProcessSettings, {"log_level": None}, environ).log_level == "error"
    assert load_settings(ProcessSettings, {}, {"DEBUG": "true"}).log_level == "debug"
    assert load_settings(ProcessSettings, {}, {"DEBUG": "false", "KVSERVER_LOG_LEVEL": ""}).log_level == "info"
    with pytest.raises(SettingError, match="KVSERVER_LOG_LEVEL is 'loud': expected one of"):
        load_settings(ProcessSettings, {}, {"KVSERVER_LOG_LEVEL": "loud"})


def test_a_variable_of_a_container_platform_is_ignored_and_named() -> None:
    environ = {"KVSERVER_RUN_DIR": "tcp://10.0.0.1:8000"}
    assert load_settings(ProcessSettings, {}, environ).run_dir is None
    (sentence,) = ignored_variables(ProcessSettings, environ)
    assert "KVSERVER_RUN_DIR=tcp://10.0.0.1:8000" in sentence


def test_a_child_loads_the_same_settings() -> None:
    settings = load_settings(ProcessSettings, {"in_memory": "yes", "run_dir": "/r", "log_format": "json"}, {})
    environ = to_environ(settings, {"PATH": "/bin", "KVSERVER_IN_MEMORY": "false", "TRACE": "true"})
    assert environ["PATH"] == "/bin" and "TRACE" not in environ
    assert load_settings(ProcessSettings, {}, environ) == settings


def test_the_run_directory_of_a_store_in_memory_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give --run-dir"):
        ProcessSettings(in_memory=True).resolved_run_dir()
    with pytest.raises(SettingError, match="cannot be read"):
        ProcessSettings(data_dir=tmp_path / "none").resolved_run_dir()
    assert ProcessSettings(data_dir=tmp_path).board_path.name == "board"
