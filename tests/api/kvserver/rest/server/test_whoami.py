"""`/v1/whoami`: the name and the grants of whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kvserver.access.grants import VERBS
from kvserver.access.tokens import publish_tokens
from tests.api.kvserver.access.rights import ALL, TOKENS, bearer, secret_of, site_with_tokens, token
from tests.api.site import Site
from tests.api.web import Web, request, scenario

EVERYTHING = [{"prefix": "", "allow": ["read", "write", "feed", "admin"]}]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_with_tokens() as made:
        yield made


def test_it_tells_each_token_what_it_allows(site: Site) -> None:
    for verbs, prefixes, grants in (
        (("read", "write"), ("a/",), [{"prefix": "a/", "allow": ["read", "write"]}]),
        ((), ("a/",), []),
        (("read",), ("é/", "a/c/"), [{"prefix": "a/c/", "allow": ["read"]}, {"prefix": "é/", "allow": ["read"]}]),
        (VERBS, ("",), EVERYTHING),
    ):
        answer = site.ask("GET", "/v1/whoami", bearer(verbs, *prefixes))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["cache-control"] == "no-store"
        assert json.loads(answer.body) == {"name": secret_of(verbs, *prefixes), "grants": grants}


def test_it_goes_by_the_tokens_in_effect_now(site: Site) -> None:
    own = bearer(("write",), "x/")
    assert site.problem(401, "GET", "/v1/whoami", own)["code"] == "invalid_token"
    publish_tokens(site.store.board, [*TOKENS, token(("write",), "x/")])
    site.front.context.tokens.refresh()
    assert site.get("/v1/whoami", own)["grants"] == [{"prefix": "x/", "allow": ["write"]}]


def test_what_it_refuses(site: Site) -> None:
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        answer = site.ask(method, "/v1/whoami", ALL)
        assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")
    assert site.problem(400, "GET", "/v1/whoami?x=1", ALL)["code"] == "bad_request"


@scenario
async def test_without_tokens_everybody_may_do_everything(web: Web) -> None:
    whole = await web.ask(request("GET", "/v1/whoami"))
    assert json.loads(whole.body) == {"name": None, "grants": EVERYTHING}
    head = await web.ask(request("HEAD", "/v1/whoami"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole.body)))
    for fields in ("Authorization: Bearer whatever", "Origin: https://a.example"):
        answer = await web.ask(request("GET", "/v1/whoami", fields))
        assert (answer.status, answer.body) == (200, whole.body)
        assert answer.headers["access-control-allow-origin"] == "*"
