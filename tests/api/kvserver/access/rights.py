"""A site with tokens for every combination of verbs, named by what they grant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Final

from kvserver.access.grants import VERBS, Grants, Verb
from kvserver.access.tickets import DIRECTORY
from kvserver.access.tokens import Token, hash_token, publish_tokens
from tests.api.site import Site, running_site

SECRET: Final = b"the value nobody else may see"


SUBSETS: Final = [subset for size in range(5) for subset in combinations(VERBS, size)]


def secret_of(verbs: tuple[Verb, ...], *prefixes: str) -> str:
    return "-".join([*verbs, "on", *(prefix.encode().hex() for prefix in prefixes)])


def bearer(verbs: tuple[Verb, ...], *prefixes: str) -> str:
    """The header of a token that grants `verbs` on each of `prefixes`."""
    return f"Authorization: Bearer {secret_of(verbs, *prefixes)}"


def token(verbs: tuple[Verb, ...], *prefixes: str) -> Token:
    sha256 = hash_token(secret_of(verbs, *prefixes).encode())
    pairs = [(verb, prefix.encode()) for verb in verbs for prefix in prefixes]
    return Token(sha256, Grants.of(secret_of(verbs, *prefixes), sha256.hex()[:16], pairs))


LISTED: Final = [
    ("a/",),
    ("a/b/", "a/c", "d"),
    ("a/b/x", "b"),
    ("",),
    ("nothing/",),
    ("a", "d/", "z"),
    ("é/", "a/c/"),
]


TOKENS: Final = [
    *(token(verbs, prefix) for verbs in SUBSETS for prefix in ("", "a/", "b/")),
    *(token(("read",), *prefixes) for prefixes in LISTED if prefixes not in (("",), ("a/",))),
    token(("write",), "a/", "c/"),
]


ALL: Final = bearer(VERBS, "")


@contextmanager
def site_with_tokens() -> Iterator[Site]:
    with running_site(2, 100_000) as made:
        for row in made.store.board.shards:
            assert row.pid
        publish_tokens(made.store.board, TOKENS)
        made.front.context.tokens.refresh()
        (made.store.board.path.parent / DIRECTORY).mkdir()
        yield made
