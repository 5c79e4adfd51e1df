"""Completion by shells."""

from __future__ import annotations

import pytest
from click.shell_completion import CompletionItem

from kvserver.cli import main
from kvserver.commands.parts.shells import COMPLETE_VARIABLE, SHELLS, kept_part


def bash(monkeypatch: pytest.MonkeyPatch, line: str, breaks: str = " \"'><=;|&(:") -> tuple[list[str], str, list[str]]:
    """The words and the last one of a line, and what bash gets for it."""
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_WORDBREAKS", breaks)
    shell = SHELLS["bash"](main, {}, "kvserver", COMPLETE_VARIABLE)
    return (*shell.get_completion_args(), shell.complete().splitlines())


@pytest.mark.parametrize(
    ("line", "words", "last"),
    [
        ("kvserver ", [], ""),
        ("kvserver ge", [], "ge"),
        ("kvserver get ", ["get"], ""),
        ("kvserver get pkg:zl", ["get"], "pkg:zl"),
        ("kvserver get 'with sp", ["get"], "with sp"),
        (r"kvserver get with\ sp", ["get"], "with sp"),
        ("kvserver get --url localhost:1 fl", ["get", "--url", "localhost:1"], "fl"),
    ],
)
def test_bash_s_line_is_divided_as_bash_reads_it(
    monkeypatch: pytest.MonkeyPatch, line: str, words: list[str], last: str
) -> None:
    monkeypatch.setenv("KVSERVER_URL", "localhost:1")
    assert bash(monkeypatch, line)[:2] == (words, last)


def test_commands_and_options_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bash(monkeypatch, "kvserver ge")[2] == ["plain,get"]
    assert bash(monkeypatch, "kvserver put k --cre")[2] == ["plain,--create"]
    assert bash(monkeypatch, "kvserver completion f")[2] == ["plain,fish"]
    assert bash(monkeypatch, "kvserver lock n --wi")[2] == ["plain,--within"]
    assert bash(monkeypatch, "kvserver --vers")[2] == ["plain,--version"]


def test_keys_are_not_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVER_URL", "localhost:1")
    assert bash(monkeypatch, "kvserver get fl")[2] == []
    monkeypatch.setenv("KVSERVER_URL", "no url at all")
    assert bash(monkeypatch, "kvserver get fl")[2] == []


def test_bash_keeps_what_is_before_a_colon() -> None:
    assert kept_part("pkg:a:zl", ":=") == "pkg:a:"
    assert kept_part("pkg:a=zl", ":=") == "pkg:a="
    assert kept_part("pkg:zl", " ") == ""
    assert kept_part("", ":") == ""


@pytest.mark.parametrize("name", SHELLS)
def test_scripts_ask_by_the_variable(name: str) -> None:
    script = SHELLS[name](main, {}, "kvserver", COMPLETE_VARIABLE).source()
    assert f"{COMPLETE_VARIABLE}={name}_complete" in script and "kvserver" in script


def test_each_shell_gets_type_and_value() -> None:
    item = CompletionItem("flags/", type="part")
    formatted = {name: shell(main, {}, "kvserver", COMPLETE_VARIABLE) for name, shell in SHELLS.items()}
    assert formatted["zsh"].format_completion(item) == "part\nflags/\n_"
    assert formatted["fish"].format_completion(item) == "part,flags/"
