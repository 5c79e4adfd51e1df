"""`kvserver serve` and its manual, which leaves no setting out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvserver import cli
from kvserver.commands.local.serve import COMMAND, SECTIONS
from kvserver.settings import ServerSettings
from shards.host.settings import (
    env_name,
    option_name,
    setting_specs,
)


def manual() -> str:
    result = CliRunner().invoke(cli.main, ["serve", "--help"])
    assert result.exit_code == 0
    return result.output


def test_the_manual_names_every_setting_its_variables_and_its_help() -> None:
    text = " ".join(manual().split())
    for name, spec in setting_specs(ServerSettings).items():
        assert option_name(name) in text
        assert all(variable in text for variable in (env_name(name), *spec.aliases))
        assert " ".join(spec.help.split()) in text


def test_the_manual_names_the_defaults() -> None:
    text = " ".join(manual().split())
    for field in dataclasses.fields(ServerSettings):
        if isinstance(field.default, str | Path) or (field.name in ("port", "metrics_port", "grace")):
            assert f"Default: {field.default}." in text


def test_the_manual_s_sections_name_real_settings_once() -> None:
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(setting_specs(ServerSettings))


def test_a_bad_option_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli.main, ["serve", "--port", "x"])
    assert result.exit_code == 2
    assert "--port is 'x'" in result.output


@pytest.mark.parametrize(
    ("argv", "expected"),
    [([], None), (["--in-memory"], "true"), (["--in-memory", "--port", "1"], "true"), (["--in-memory=false"], "false")],
)
def test_a_switch_takes_a_value_or_none(argv: list[str], expected: str | None) -> None:
    assert COMMAND.make_context("serve", list(argv)).params["in_memory"] == expected
