"""The token file: what it says, what is refused and in which words, and edits that leave the rest alone."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.tokenfile import TokenFileError, parse_tokens

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()

FILE = f"""\
# Tokens of the shop. Ask Ann.

[[token]]
name = "deploy"
sha256 = "{A}"  # rolled in spring
grants = [
    {{ prefix = "flags/", allow = ["read", "write"] }},
    {{ prefix = "", allow = ["feed"] }},
]

# The dashboard
# on the wall
[[token]]
name = "wall"
sha256 = "{B.upper()}"
grants = [{{ prefix = "stats/é/", allow = ["read", "feed"] }}, {{ prefix = "stats/", allow = ["read"] }}]

# the end
"""


def test_what_it_says() -> None:
    deploy, wall = parse_tokens(FILE, "f")
    assert (deploy.grants.name, deploy.sha256) == ("deploy", hashlib.sha256(b"a").digest())
    assert (deploy.grants.read, deploy.grants.write, deploy.grants.feed) == ((b"flags/",), (b"flags/",), (b"",))
    assert (wall.grants.read, wall.grants.feed) == ((b"stats/",), ("stats/é/".encode(),))
    assert A.startswith(deploy.grants.id) and len(deploy.grants.id) == 16
    assert parse_tokens("", "f") == parse_tokens("# nothing yet\n", "f") == []


GRANTS = 'grants = [{ prefix = "", allow = ["read"] }]'
ONE = f'[[token]]\nname = "a"\nsha256 = "{A}"\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[token]\n", 1, "not TOML"),
        ("x = 1\ny = ?\n", 2, "not TOML"),
        ("[token]\n", 0, "double brackets"),
        ("[[tokens]]\n", 0, '"tokens" is unknown'),
        ("secret = 1\n", 0, '"secret" is unknown'),
        ("[[token]]\n", 1, "name"),
        (f'\n\n[[token]]\nname = "a"\nsha256 = "{A}"\n', 3, "grants"),
        (f'[[token]]\nname = "a b"\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = "a\\n"\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = ""\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = "a"\nsha256 = "{A[1:]}"\n{GRANTS}\n', 1, "64 hexadecimal digits"),
        (f'[[token]]\nname = "a"\nsha256 = "kv_secret"\n{GRANTS}\n', 1, "64 hexadecimal digits"),
        (f'{ONE}token = "x"\n{GRANTS}\n', 1, "`token`"),
        (f"{ONE}{GRANTS}\n".replace(A, hashlib.sha256().hexdigest()), 1, "that of an empty text"),
        (f"{ONE}grants = []\n", 1, "grants nothing"),
        (f'{ONE}grants = [{{ prefix = "" }}]\n', 1, "allow"),
        (f'{ONE}grants = [{{ allow = ["read"] }}]\n', 1, "prefix"),
        (f'{ONE}grants = [{{ prefix = "", allow = [] }}]\n', 1, "read, write, feed"),
        (f'{ONE}grants = [{{ prefix = "", allow = ["raed"] }}]\n', 1, '"raed" cannot'),
        (f'{ONE}grants = [{{ prefix = "a/", allow = ["admin"] }}]\n', 1, 'prefix ""'),
        (f'{ONE}grants = [{{ prefix = "{"x" * 512}", allow = ["read"] }}]\n', 1, "512"),
        (f'{ONE}grants = [{{ prefix = 5, allow = ["read"] }}]\n', 1, "prefix"),
        (f'{FILE}[[token]]\nname = "wall"\nsha256 = "{"0" * 64}"\n{GRANTS}\n', 19, "another token has this name"),
        (f'{FILE}[[token]]\nname = "c"\nsha256 = "{A}"\n{GRANTS}\n', 19, "also that of deploy"),
    ],
)
def test_what_is_refused_and_in_which_words(text: str, line: int, words: str) -> None:
    with pytest.raises(TokenFileError, match=re.escape(words)) as refused:
        parse_tokens(text, "/etc/kv/tokens.toml")
    message = str(refused.value)
    assert "/etc/kv/tokens.toml" in message
    assert (f", line {line}:" in message) if line else (", line" not in message)
    assert "kv_secret" not in message


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        parse_tokens(text, "f")
    except TokenFileError as error:
        assert str(error)


# Edits


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_tokens("\ufeff" + FILE, "f") == parse_tokens(FILE, "f")
    assert parse_tokens("\ufeff" + FILE[FILE.index("[[token]]") :], "f") == parse_tokens(FILE, "f")
    with pytest.raises(TokenFileError, match="line 2"):
        parse_tokens("\ufeff[[token]]\nname = \n", "f")
