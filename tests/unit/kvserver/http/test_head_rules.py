"""Where a head ends, and what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http import head_rules
from kvserver.http.head_rules import HEADERS, METHODS, REQUEST_LINE
from shards.wire.errors import HeadersTooLarge, UriTooLong

HEAD = b"GET /k HTTP/1.1\r\nHost: h\r\n\r\n"


@given(st.integers(0, len(HEAD)), st.binary(max_size=8))
def test_the_end_is_found_wherever_the_search_was_left(searched: int, behind: bytes) -> None:
    assert head_rules.find_end(HEAD[:searched]) == (len(HEAD) if searched == len(HEAD) else 0)
    assert head_rules.find_end(HEAD + behind, min(searched, len(HEAD) - 1)) == len(HEAD)


def test_a_head_is_refused_as_soon_as_it_is_too_long() -> None:
    line = b"GET /" + b"k" * (REQUEST_LINE - 5)
    assert len(line) == REQUEST_LINE and head_rules.find_end(line + b"\r") == 0
    with pytest.raises(UriTooLong):
        head_rules.find_end(line + b"kk")
    fields = b"GET / HTTP/1.1\r\n" + b"x" * HEADERS
    with pytest.raises(HeadersTooLarge):
        head_rules.find_end(fields + b"xxxxxx")


@pytest.mark.parametrize(
    ("received", "is_malformed"),
    [
        (b"G", False),
        (b"GET /k HT", False),
        (b"(ET /k", True),
        (b"GET /k HTTP/1.1\r\nHo", False),
        (b"GET /k HTTP/1.1\nHo", True),
        (b"GET /k\r\n", True),
        (b"GET  /k HTTP/1.1\r\n", True),
        (b" GET", True),
    ],
)
def test_a_malformed_beginning_is_known_at_once(received: bytes, is_malformed: bool) -> None:
    assert head_rules.is_malformed(received) == is_malformed


@pytest.mark.parametrize("method", sorted(METHODS))
def test_known_methods_are_no_other(method: bytes) -> None:
    assert head_rules.find_other_method(method + b" /k HTTP/1.1\r\n\r\n") == b""


@pytest.mark.parametrize("method", [b"GE", b"GETT", b"get", b"PURGE", b"VERSION-CONTROL", b"CONNECTS"])
def test_other_methods_are_named(method: bytes) -> None:
    assert head_rules.find_other_method(method + b" /k HTTP/1.1\r\n\r\n") == method
    assert head_rules.find_other_method(method + b"  /k HTTP/1.1\r\n\r\n") == b"", "it is malformed"


def test_the_beginning_of_a_head_names_method_and_target() -> None:
    assert head_rules.find_beginning(b"GET /k?x HTT") == (b"GET", b"/k?x")
    assert head_rules.find_beginning(bytearray(b"GET ")) == (b"GET", b"")
    assert head_rules.find_beginning(b"GE") == (b"GE", b"")
    assert head_rules.find_beginning(b"\x00") == (b"", b"")


@pytest.mark.parametrize(
    ("version", "hosts", "codings", "has_length", "fault"),
    [
        ("1.1", 1, 0, False, None),
        ("1.1", 1, 1, False, None),
        ("1.0", 0, 0, True, None),
        ("2.0", 1, 0, False, head_rules.UNKNOWN_VERSION),
        ("1.1", 0, 0, False, head_rules.ONE_HOST),
        ("1.1", 2, 0, False, head_rules.ONE_HOST),
        ("1.0", 2, 0, False, head_rules.ONE_HOST),
        ("1.1", 1, 1, True, head_rules.TWO_LENGTHS),
        ("1.0", 1, 1, False, head_rules.TWO_LENGTHS),
    ],
)
def test_faults_of_a_whole_head(version: str, hosts: int, codings: int, has_length: bool, fault: str | None) -> None:
    assert head_rules.find_fault(version, hosts, codings, has_length) == fault
