"""`/v1/tickets`: who gets a ticket, for what, and what it opens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.access.tickets import DIRECTORY, Tickets
from shards.wire.protocol import Put
from tests.api.kvserver.access.rights import (
    ALL,
    SECRET,
    bearer,
    site_with_tokens,
    token,
)
from tests.api.site import Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_with_tokens() as made:
        made.run(made.client.request(Put(b"a/k", SECRET, "text/plain")))
        yield made


def test_a_ticket_is_for_the_bearer_s_grants(site: Site) -> None:
    who = bearer(("read", "feed"), "a/")
    for kind in ("sse", "websocket"):
        answer = site.ask(
            "POST", "/v1/tickets", who, "Content-Type: application/json", body=b'{"for":"%b"}' % kind.encode()
        )
        assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
        told = json.loads(answer.body)
        assert set(told) == {"ticket", "expires"}
        tickets = Tickets(site.store.board, site.front.context.tokens)
        grants = tickets.redeem(told["ticket"].encode(), kind)  # type: ignore[arg-type]
        assert grants == token(("read", "feed"), "a/").grants


def test_a_ticket_opens_nothing_but_feeds(site: Site) -> None:
    ticket = json.loads(site.ask("POST", "/v1/tickets", ALL, body=b'{"for":"sse"}').body)["ticket"]
    for path in ("/a%2Fk", "/v1/kv/a/k", "/v1/status"):
        assert site.ask("GET", f"{path}?ticket={ticket}").status == 401
        assert site.ask("GET", path, f"Authorization: Bearer {ticket}").status == 401


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b'{"for":"sse"}', ("Content-Type: text/plain",), 415),
        (b'{"for":"sse"}', ("Content-Type: application/json", "Content-Encoding: gzip"), 415),
        (b'{"for":"telnet"}', (), 400),
        (b'{"for":"sse","ttl":5}', (), 400),
        (b'{"kind":"sse"}', (), 400),
        (b"{}", (), 400),
        (b"[]", (), 400),
        (b"", (), 400),
        (b"\xff", (), 400),
        (b'{"for":"sse"}x', (), 400),
        (b"[" * 5000, (), 400),
    ],
)
def test_what_is_no_request_for_a_ticket(site: Site, body: bytes, fields: tuple[str, ...], status: int) -> None:
    site.problem(status, "POST", "/v1/tickets", ALL, *fields, body=body)
    site.problem(400, "POST", "/v1/tickets?for=sse", ALL, body=b'{"for":"sse"}')


def test_who_has_no_grant_of_feed_gets_no_ticket(site: Site) -> None:
    directory: Path = site.store.board.path.parent / DIRECTORY
    before = len(list(directory.iterdir()))
    detail = site.problem(403, "POST", "/v1/tickets", bearer(("read", "write"), ""), body=b'{"for":"sse"}')["detail"]
    assert "feed" in detail
    assert len(list(directory.iterdir())) == before


def grants_of(*prefixes: str) -> list[dict[str, object]]:
    return [{"prefix": prefix, "allow": ["read"]} for prefix in prefixes]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"grants": grants_of("a/")}, 201),
        ({"grants": grants_of("a/"), "ttl": 1}, 201),
        ({"grants": grants_of("a/"), "ttl": 3600}, 201),
        ({"grants": grants_of(*(f"a/{n}" for n in range(16)))}, 201),
        ({"grants": grants_of("x" * 511, "é" * 511)}, 201),
        ({"grants": [{"prefix": "", "allow": ["read", "write", "feed"]}]}, 201),
        ({"grants": grants_of("a/"), "ttl": 0}, 400),
        ({"grants": grants_of("a/"), "ttl": 3601}, 400),
        ({"grants": grants_of("a/"), "ttl": 1.5}, 201),
        ({"grants": grants_of("a/"), "ttl": 0.999}, 400),
        ({"grants": grants_of("a/"), "ttl": 3600.1}, 400),
        ({"grants": grants_of("a/"), "ttl": "60"}, 400),
        ({"grants": grants_of(*(f"a/{n}" for n in range(17)))}, 400),
        ({"grants": grants_of("x" * 512)}, 400),
        (
            {"grants": grants_of("é" * 511, "z" * 511, "y" * 511, "x" * 511, "w" * 511, "v" * 511, "u" * 511, "t" * 8)},
            201,
        ),
        (
            {"grants": grants_of("é" * 511, "z" * 511, "y" * 511, "x" * 511, "w" * 511, "v" * 511, "u" * 511, "t" * 9)},
            400,
        ),
        ({"grants": []}, 400),
        ({}, 400),
        ({"grants": [{"prefix": "a/", "allow": []}]}, 400),
        ({"grants": [{"prefix": "a/", "allow": ["own"]}]}, 400),
        ({"grants": [{"prefix": "", "allow": ["admin"]}]}, 400),
        ({"grants": [{"prefix": "", "allow": ["read", "write", "feed", "read"]}]}, 400),
        ({"grants": [{"allow": ["read"]}]}, 400),
        ({"grants": [{"prefix": "a/", "allow": ["read"], "ttl": 5}]}, 400),
    ],
)
def test_the_limits_of_a_ticket_for_requests(site: Site, asked: dict[str, object], status: int) -> None:
    answer = site.ask("POST", "/v1/tickets", ALL, body=json.dumps({"for": "kv"} | asked).encode())
    assert answer.status == status, answer.body
    if status == 201:
        ticket = json.loads(answer.body)["ticket"]
        found = site.ask("GET", "/v1/whoami", f"Authorization: Bearer {ticket}")
        assert found.status == 200 and json.loads(found.body)["expires"] == json.loads(answer.body)["expires"]


def test_nobody_hands_on_what_he_does_not_have(site: Site) -> None:
    who = bearer(("read", "feed"), "a/")
    for asked, status in (
        ([{"prefix": "a/b", "allow": ["read", "feed"]}], 201),
        ([{"prefix": "a", "allow": ["read"]}], 403),
        ([{"prefix": "a/", "allow": ["write"]}], 403),
        ([{"prefix": "a/", "allow": ["read"]}, {"prefix": "", "allow": ["feed"]}], 403),
    ):
        body = json.dumps({"for": "kv", "grants": asked}).encode()
        assert site.ask("POST", "/v1/tickets", who, body=body).status == status, asked


def test_a_ticket_for_requests_reads_what_it_grants(site: Site) -> None:
    body = json.dumps({"for": "kv", "grants": grants_of("a/")}).encode()
    ticket = json.loads(site.ask("POST", "/v1/tickets", ALL, body=body).body)["ticket"]
    sent = f"Authorization: Bearer {ticket}"
    for accept in ("Accept: */*", "X-Ordinary: path"):  # the hot path, and the other
        answer = site.ask("GET", "/v1/kv/a/k", sent, accept)
        assert (answer.status, answer.body) == (200, SECRET)
        assert site.ask("GET", "/v1/kv/b/k", sent, accept).status == 403
        assert site.ask("GET", "/v1/kv/a/k", sent[:-1] + "!", accept).status == 401
