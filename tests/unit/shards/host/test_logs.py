"""Events on standard error: one line each, and nothing a client sends can look like another."""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.host.logs import REPEAT_S, JsonFormatter, Recurring, TextFormatter, escape_controls

BIDI = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
"""Bidirectional classes of characters that have others shown in another order (UAX #9)."""
HEAD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z web\[\d+\] WARNING ")


def event(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise ValueError(message)
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("kvserver", logging.WARNING, "", 0, message, arguments, info)


@given(st.text(st.characters(codec="utf-8")))
def test_a_message_is_one_line_whatever_it_holds(text: str) -> None:
    line = TextFormatter("web").format(event("%s", text))
    assert HEAD.match(line) and len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    line = JsonFormatter("web").format(event("%s", text))
    assert line.isascii() and len(line.splitlines()) == 1 and json.loads(line)["message"] == text


def test_a_traceback_is_indented_and_cannot_forge_an_event() -> None:
    forged = "x\n2026-01-01T00:00:00.000Z web[1] WARNING all is lost\x1b[2J"
    first, *rest = TextFormatter("web").format(event(forged, failed=True)).split("\n")
    assert HEAD.match(first) and "\\n2026" in first
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest) and "\x1b" not in "".join(rest)


def test_json_has_the_traceback_in_a_field() -> None:
    found = json.loads(JsonFormatter("web").format(event("broken", failed=True)))
    assert found.pop("traceback").startswith("Traceback (most recent call last):\n")
    assert found.pop("time").endswith("Z") and found.pop("pid") > 0
    assert found == {"process": "web", "level": "warning", "message": "broken"}


@pytest.mark.parametrize("formatter", [TextFormatter("web"), JsonFormatter("web")])
def test_what_is_no_unicode_can_be_written(formatter: logging.Formatter) -> None:
    assert formatter.format(event("%s", "\udc80")).encode(errors="backslashreplace")


@given(st.text())
def test_what_is_shown_is_obeyed_by_no_terminal(text: str) -> None:
    shown = escape_controls(text)
    assert len(shown.splitlines()) <= 1
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in BIDI
        assert character not in "\u061c\u200e\u200f"
    assert shown == text or not text.isprintable() or any(c in text for c in "\u061c\u200e\u200f")


def test_every_mark_of_bidirectional_text_is_escaped() -> None:
    marks = [chr(code) for code in range(0x110000) if unicodedata.bidirectional(chr(code)) in BIDI]
    assert len(marks) == 9
    assert escape_controls("".join(marks)).isascii()
    assert escape_controls("a\tb\u00e9 \u05d0") == "a\\tb\u00e9 \u05d0"


def test_times_before_1970_look_like_all_others() -> None:
    record = event("x")
    record.created = -0.25
    assert TextFormatter("web").format(record).startswith("1969-12-31T23:59:59.750Z ")


def test_what_comes_very_often_is_told_seldom_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    often = Recurring(logging.getLogger("kvserver"), logging.WARNING, "no room for %s")
    for now, name in ((0.0, "a"), (0.1, "b"), (REPEAT_S - 0.1, "c"), (REPEAT_S, "d"), (2 * REPEAT_S, "e")):
        often.report(name, now=now)
    assert [record.getMessage() for record in caplog.records] == [
        "no room for a",
        "no room for d (and 2 more like this before)",
        "no room for e",
    ]
    try:
        raise ValueError
    except ValueError:
        often.report("f", error=True, now=4 * REPEAT_S)
    assert caplog.records[-1].exc_info
