"""Edits of the token file: what they change, and that they leave the rest alone."""

from __future__ import annotations

import hashlib
import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.access.grants import VERBS, Verb
from kvserver.access.tokenedit import add_token, new_token, remove_token
from kvserver.access.tokenfile import NAME, TokenFileError, parse_tokens
from tests.unit.kvserver.access.test_tokenfile import FILE, GRANTS, A

names = st.from_regex(NAME, fullmatch=True)


verbs = st.lists(st.sampled_from(VERBS[:3]), min_size=1, unique=True)


prefixes = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


grants = st.lists(st.tuples(prefixes, verbs), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(names, grants), max_size=4, unique_by=lambda row: row[0]), st.data(), st.booleans())
def test_what_is_added_and_taken_away(
    rows: list[tuple[str, list[tuple[str, list[Verb]]]]], data: st.DataObject, commented: bool
) -> None:
    text = FILE if commented else ""
    rows = [row for row in rows if row[0] not in ("deploy", "wall")]
    texts = [text]
    for name, given_ in rows:
        text = add_token(text, "f", name, f"kv_{name}", given_)
        texts.append(text)
        token = parse_tokens(text, "f")[-1]
        assert (token.grants.name, token.sha256) == (name, hashlib.sha256(f"kv_{name}".encode()).digest())
        for prefix, allowed in given_:
            assert all(token.grants.may_all(verb, prefix.encode()) for verb in allowed)
        assert text.startswith(texts[-2])
        with pytest.raises(TokenFileError, match="already"):
            add_token(text, "f", name, "kv_other", given_)
    left = [token.grants.name for token in parse_tokens(text, "f")]
    while left:
        name = data.draw(st.sampled_from(left))
        left.remove(name)
        text = remove_token(text, "f", name)
        assert [token.grants.name for token in parse_tokens(text, "f")] == left
        assert name in ("deploy", "wall") or not commented or "# Tokens of the shop. Ask Ann.\n" in text
    assert "[[token]]" not in text


def test_comments_of_others_stay() -> None:
    without_wall = remove_token(FILE, "f", "wall")
    assert without_wall == FILE[: FILE.index("# The dashboard")] + "# the end\n"
    without_deploy = remove_token(FILE, "f", "deploy")
    assert without_deploy == "# Tokens of the shop. Ask Ann.\n\n" + FILE[FILE.index("# The dashboard") :]
    assert remove_token(without_deploy, "f", "wall") == "# Tokens of the shop. Ask Ann.\n\n# the end\n"


def test_a_comment_the_file_begins_with_stays() -> None:
    text = f'# mine\n[[token]]\nname = "a"\nsha256 = "{A}"\n{GRANTS}\n'
    assert remove_token(text, "f", "a") == "# mine\n"


def test_line_ends_stay() -> None:
    text = FILE.replace("\n", "\r\n")
    assert remove_token(text, "f", "wall") == remove_token(FILE, "f", "wall").replace("\n", "\r\n")


@pytest.mark.parametrize(
    "text",
    [
        f'token = [{{ name = "a", sha256 = "{A}", {GRANTS} }}]\n',
        f'[[token]]\nname = "a"\nsha256 = "{A}"\ngrants = [{{ prefix = """x\n[[token]]\n""", allow = ["read"] }}]\n',
    ],
)
def test_what_is_written_otherwise_is_left_to_its_author(text: str) -> None:
    with pytest.raises(TokenFileError, match="by hand"):
        remove_token(text, "f", "a")
    if text.startswith("token ="):
        with pytest.raises(TokenFileError):
            add_token(text, "f", "b", "kv_b", [("", ["read"])])
    else:
        assert parse_tokens(add_token(text, "f", "b", "kv_b", [("", ["read"])]), "f")[1].grants.name == "b"


def test_who_is_not_there_cannot_be_taken_away() -> None:
    with pytest.raises(TokenFileError, match="has deploy, wall"):
        remove_token(FILE, "f", "ann")


def test_a_file_is_never_taken_that_was_broken_before() -> None:
    for edit in (
        lambda text: add_token(text, "f", "b", "kv_b", [("", ["read"])]),
        lambda text: remove_token(text, "f", "a"),
    ):
        with pytest.raises(TokenFileError, match="not TOML"):
            edit("[[token")


def test_tokens_are_long_and_never_the_same() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"kv_[A-Za-z0-9_-]{43}", token) for token in made)
    assert tomllib.loads(add_token("", "f", "a", made.pop(), [('\x7f\\"\n', ["read"])]))["token"][0]["grants"][0][
        "prefix"
    ]
