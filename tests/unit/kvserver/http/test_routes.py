"""Targets: what MemoryKV's clients send, what must lead nowhere, and properties that no example covers."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http import routes
from kvserver.http.routes import (
    KEY,
    KEYS,
    KV,
    NOWHERE,
    PING,
    PREFIX,
    READY,
    ROOT,
    STATUS,
    V1_OTHER,
    WAL,
    WHOAMI,
    Target,
)
from shards.wire.errors import BadKey, BadRequest


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"/ping", Target(PING)),
        (b"/keys", Target(KEYS)),
        (b"/wal?ticket=1", Target(WAL)),
        (b"/v1/status", Target(STATUS)),
        (b"/v1/whoami", Target(WHOAMI)),
        (b"/sdk/", Target(routes.SDK)),
        (b"/sdk/client.js", Target(routes.SDK_FILE, b"client.js")),
        (b"/sdk/a/b", Target(routes.SDK_FILE, b"a/b")),
        (b"/sdk", Target(KEY, b"sdk")),
        (b"/console/", Target(routes.CONSOLE)),
        (b"/docs/pictures/get.light.svg", Target(routes.PICTURE, b"get.light.svg")),
        (b"/console/app.js", Target(routes.CONSOLE_FILE, b"app.js")),
        (b"/console", Target(KEY, b"console")),
        (b"/%73dk/client.js", Target(NOWHERE)),
        (b"/health/ready", Target(READY)),
        (b"/%70ing", Target(KEY, b"ping")),
        (b"/%6Beys", Target(KEY, b"keys")),
        (b"/KEYS", Target(KEY, b"KEYS")),
        (b"/v1", Target(KEY, b"v1")),
        (b"/health", Target(KEY, b"health")),
        (b"/a%2Fb", Target(KEY, b"a/b")),
        (b"/a%2fb?x=1#y", Target(KEY, b"a/b")),
        (b"/p%", Target(KEY, b"p%")),
        (b"/p%zz", Target(KEY, b"p%zz")),
        (b"/p%25zz", Target(KEY, b"p%zz")),
        (b"/x+y", Target(KEY, b"x+y")),
        (b"/.", Target(KEY, b".")),
        (b"/..", Target(KEY, b"..")),
        (b"/%00", Target(KEY, b"\0")),
        (b"/!$&'()*+,;=:@-._~", Target(KEY, b"!$&'()*+,;=:@-._~")),
        (b'/"[x]{y}|\\^', Target(KEY, b'"[x]{y}|\\^')),
        (b"/a?b/c", Target(KEY, b"a")),
        (b"/a#b?c", Target(KEY, b"a")),
        (b"http://kv.example/x+y", Target(KEY, b"x+y")),
        (b"HTTPS://kv.example:1/keys/a?b", Target(PREFIX, b"a")),
        (b"http://kv.example/keys", Target(KEYS)),
        (b"/keys/typ", Target(PREFIX, b"typ")),
        (b"/keys/a%2F", Target(PREFIX, b"a/")),
        (b"/keys/keys", Target(PREFIX, b"keys")),
        (b"/v1/", Target(V1_OTHER)),
        (b"/v1/kvx/a", Target(V1_OTHER)),
        (b"/v1/kv/a", Target(KV, b"a")),
        (b"/v1/kv/a/b", Target(KV, b"a/b")),
        (b"/v1/kv/a%2Fb", Target(KV, b"a/b")),
        (b"/v1/kv//a//", Target(KV, b"/a//")),
        (b"/v1/kv/./..", Target(KV, b"./..")),
        (b"/v1/kv/%2525+?x=1#y", Target(KV, b"%25+")),
        (b"/%761/kv/a", Target(NOWHERE)),
        (b"/v1/%6Bv/a", Target(V1_OTHER)),
        (b"/v1/status/", Target(V1_OTHER)),
        (b"/", Target(ROOT)),
        (b"/?a", Target(ROOT)),
        (b"*", Target(NOWHERE)),
        (b"http://kv.example", Target(ROOT)),
        (b"http://kv.example?/a", Target(ROOT)),
        (b"/keys/", Target(NOWHERE)),
        (b"//keys", Target(NOWHERE)),
        (b"//", Target(NOWHERE)),
        (b"/a/", Target(NOWHERE)),
        (b"/a/b", Target(NOWHERE)),
        (b"/%6Beys/a", Target(NOWHERE)),
        (b"/keys/a/b", Target(NOWHERE)),
        (b"/keys//", Target(NOWHERE)),
        (b"/ping/", Target(NOWHERE)),
        (b"/a/../b", Target(NOWHERE)),
    ],
)
def test_where_a_target_leads(sent: bytes, expected: Target) -> None:
    assert routes.resolve_path(routes.split_target(sent)[0]) == expected


def test_query_is_what_stands_between_question_mark_and_fragment() -> None:
    assert routes.split_target(b"/a?x=1&y=%20?#z?") == (b"/a", b"x=1&y=%20?")
    assert routes.split_target(b"/a#z?x=1") == (b"/a", b"")


@pytest.mark.parametrize("byte", [*range(0x21), ord("<"), ord(">"), ord("`"), *range(0x7F, 0x100)])
def test_bytes_that_must_be_encoded_are_refused_anywhere(byte: int) -> None:
    for sent in (b"/a%c", b"/a?b%c", b"http://h%c/"):
        with pytest.raises(BadRequest):
            routes.split_target(sent % byte)


@pytest.mark.parametrize("sent", [b"", b"a", b"*a", b"http:/a", b"http:///a", b"kv.example:80", b"?a", b"1http://h/"])
def test_what_is_neither_path_nor_url_is_refused(sent: bytes) -> None:
    with pytest.raises(BadRequest):
        routes.split_target(sent)


@pytest.mark.parametrize(("path", "name"), [(b"/%FF", "key"), (b"/a%C3", "key"), (b"/keys/%ED%A0%80", "prefix")])
def test_bad_utf8_is_named(path: bytes, name: str) -> None:
    with pytest.raises(BadKey) as caught:
        routes.resolve_path(path)
    assert caught.value.detail == f"Invalid URL: Invalid UTF-8 in `{name}`"


@pytest.mark.parametrize("path", [b"/v1/kv/", b"/v1/kv/%zz", b"/v1/kv/a%", b"/v1/kv/%2", b"/v1/kv/%FF", b"/v1/kv/%+1"])
def test_version_1_guesses_at_no_key(path: bytes) -> None:
    with pytest.raises(BadKey):
        routes.resolve_path(path)


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.encode)


@given(keys)
def test_every_key_can_be_named_in_exactly_one_way_of_full_encoding(key: bytes) -> None:
    everything = b"".join(b"%%%02X" % byte for byte in key)
    for encoded in (everything, everything.lower(), quote_from_bytes(key, safe="").encode()):
        if encoded not in (b"ping", b"keys", b"wal"):
            assert routes.resolve_path(b"/" + encoded) == Target(KEY, key)
        assert routes.resolve_path(b"/keys/" + encoded) == Target(PREFIX, key)
        assert routes.resolve_path(b"/v1/kv/" + encoded) == Target(KV, key)


@given(st.binary(max_size=30).map(lambda tail: b"/" + tail))
def test_a_list_or_delete_of_everything_has_one_spelling(sent: bytes) -> None:
    """`DELETE /keys` wipes the store: nothing but these five bytes may lead there, nor a prefix be empty."""
    try:
        path, _ = routes.split_target(sent)
        found = routes.resolve_path(path)
    except BadRequest:
        return
    if found.route == KEYS:
        assert path == b"/keys"
    if found.route in (KEY, PREFIX):
        assert found.argument
        assert path.count(b"/") == (1 if found.route == KEY else 2)
        found.argument.decode()


PIECES = (
    "/",
    "//",
    "ping",
    "health",
    "live",
    "docs",
    "errors",
    "console",
    "sdk",
    "client.js",
    "keys",
    "v1",
    "kv",
    "wal",
    "openapi.json",
    "..",
    "%2F",
    "%70",
    "k",
)


@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
def test_what_is_open_leads_to_no_data(path: str) -> None:
    sent = f"/{path}".encode()
    if routes.is_open(sent):
        open_routes = {
            ROOT,
            PING,
            routes.LIVE,
            READY,
            routes.OPENAPI,
            routes.SDK,
            routes.SDK_FILE,
            routes.CONSOLE,
            routes.CONSOLE_FILE,
            routes.DOCS,
            routes.CHAPTER,
            routes.PICTURE,
            routes.REFERENCE,
            routes.SEARCH,
            routes.ERRORS,
            routes.ERROR,
            NOWHERE,
        }
        assert routes.resolve_path(sent).route in open_routes
