"""The file of tokens: what it says, what is refused and in which words, and edits that leave the rest alone."""

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
        ("[[tokens]]\n", 0, '"tokens" means nothing'),
        ("secret = 1\n", 0, '"secret" means nothing'),
        ("[[token]]\n", 1, "name"),
        (f'\n\n[[token]]\nname = "a"\nsha256 = "{A}"\n', 3, "grants"),
        (f'[[token]]\nname = "a b"\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = "a\\n"\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = ""\nsha256 = "{A}"\n{GRANTS}\n', 1, "letters, digits"),
        (f'[[token]]\nname = "a"\nsha256 = "{A[1:]}"\n{GRANTS}\n', 1, "64 hexadecimal digits"),
        (f'[[token]]\nname = "a"\nsha256 = "kv_secret"\n{GRANTS}\n', 1, "64 hexadecimal digits"),
        (f'{ONE}token = "x"\n{GRANTS}\n', 1, "`token`"),
        (f"{ONE}{GRANTS}\n".replace(A, hashlib.sha256().hexdigest()), 1, "that of nothing"),
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


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_tokens("\ufeff" + FILE, "f") == parse_tokens(FILE, "f")
    assert parse_tokens("\ufeff" + FILE[FILE.index("[[token]]") :], "f") == parse_tokens(FILE, "f")
    with pytest.raises(TokenFileError, match="line 2"):
        parse_tokens("\ufeff[[token]]\nname = \n", "f")
