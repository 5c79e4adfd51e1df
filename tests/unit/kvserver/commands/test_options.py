"""Options of commands come from the table of settings, and keep their text."""

from __future__ import annotations

import click
import pytest

from kvserver.commands.options import setting_options
from kvserver.settings import ServerSettings
from shards.host.settings import setting_specs


def parsed(*argv: str) -> dict[str, str | None]:
    command = click.Command("x", params=setting_options("data_dir", "port", "in_memory"))
    return command.make_context("x", list(argv)).params


def test_every_setting_makes_an_option_with_its_help() -> None:
    table = setting_specs(ServerSettings)
    options = setting_options(*table)
    assert [option.name for option in options] == list(table)
    for option in options:
        assert isinstance(option, click.Option)
        spec = table[option.name or ""]
        assert (option.help, option.metavar) == (spec.help, spec.metavar)


def test_what_is_not_given_is_none_so_that_the_environment_counts() -> None:
    assert parsed() == {"data_dir": None, "port": None, "in_memory": None}


def test_values_stay_text() -> None:
    assert parsed("--data-dir", "d", "--port", "x", "--in-memory=no") == {
        "data_dir": "d",
        "port": "x",
        "in_memory": "no",
    }


def test_a_switch_needs_no_value_and_others_do() -> None:
    assert parsed("--in-memory")["in_memory"] == "true"
    with pytest.raises(click.UsageError):
        parsed("--port")
