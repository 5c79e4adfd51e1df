"""Who may ask, by what browsers tell: origins, sites and the name of the server."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http.origins import Hosts, Origins, Pages, normal_name, normal_origin
from shards.wire.errors import ForbiddenOrigin, Misdirected

LISTED = Origins("https://a.example, http://b.example:1, http://[::1]:3000")
OPEN = Origins("*")
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "TRACE", "")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://a.example", "https://a.example"),
        ("HTTPS://A.Example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("http://a.example:08080", "http://a.example:8080"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]", "http://[::1]"),
        ("null", None),
        ("", None),
        ("a.example", None),
        ("https://", None),
        ("https://a.example/", None),
        ("https://a.example/x", None),
        ("https://u@a.example", None),
        ("https://a.example:x", None),
        ("https://a.example https://b.example", None),
        ("ftp://a.example", None),
        ("file://", None),
        ("https://a.example\n", None),
        ("https://bücher.example", None),
        ("https://[::1", None),
    ],
)
def test_origins_are_compared_as_browsers_write_them(text: str, normal: str | None) -> None:
    assert normal_origin(text) == normal


def test_what_a_page_may_read() -> None:
    assert OPEN.allow_header(b"http://x") == Origins("https://a.example,*").allow_header(b"") == b"*"
    for own in (b"https://a.example", b"http://b.example:1", b"https://A.example:443", b"http://[::1]:3000"):
        assert LISTED.allow_header(own) == own, "a browser compares with what it sent"
    for other in (b"http://a.example", b"http://b.example", b"null", b"", b"https://a.example.evil", b"\xff"):
        assert LISTED.allow_header(other) == b""


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([], False),
        ([("origin", b"https://a.example")], False),
        ([("origin", b" https://a.example\t")], False),
        ([("origin", b"https://a.example"), ("sec-fetch-site", b"cross-site")], False),
        ([("origin", b"https://evil.example")], True),
        ([("origin", b"https://evil.example"), ("sec-fetch-site", b"same-origin")], True),
        ([("origin", b"null")], True),
        ([("origin", b"")], True),
        ([("origin", b"https://a.example"), ("origin", b"https://evil.example")], True),
        ([("origin", b"https://evil.example"), ("origin", b"https://a.example")], True),
        ([("origin", b"https://a.example, https://evil.example")], True),
        ([("sec-fetch-site", b"cross-site")], True),
        ([("sec-fetch-site", b"Cross-Site ")], True),
        ([("sec-fetch-site", b"none"), ("sec-fetch-site", b"cross-site")], True),
        ([("sec-fetch-site", b"none, cross-site;a=b")], True),
        ([("sec-fetch-site", b"same-origin")], False),
        ([("sec-fetch-site", b"same-site")], False),
        ([("sec-fetch-site", b"none")], False),
    ],
)
def test_pages_that_may_not_ask(headers: list[tuple[str, bytes]], refused: bool) -> None:
    sent = [(name.encode(), value) for name, value in headers]
    for method in METHODS:
        refusal = Pages(LISTED, Hosts()).find_refusal(method, b"/k", sent)
        assert isinstance(refusal, ForbiddenOrigin) == refused == (refusal is not None)
    assert Pages(LISTED, Hosts()).find_refusal("OPTIONS", b"/k", sent) is None
    assert Pages(OPEN, Hosts()).find_refusal("GET", b"/k", sent) is None


HOSTS = Hosts(("kv.example", "Other.Example."))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost",
        "localhost.",
        "localhost:8080",
        "localhost:",
        "127.0.0.1",
        "127.0.0.1:8080",
        "10.1.2.3",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::1]:80",
        "[::ffff:1.2.3.4]",
        "kv.example",
        "KV.example.:80",
        "other.example",
        " kv.example ",
        "127.0.0.1:65535",
        "127.0.0.1:00080",
        "127.0.0.1:",
    ],
)
def test_names_of_the_server(host: str) -> None:
    assert HOSTS.is_accepted(host.encode())
    assert HOSTS.is_accepted(host.encode()), "from memory, too"


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8080",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.localhost",
        "kv.example..",
        "a.kv.example",
        "kv.examples",
        "127.0.0.1.evil.example",
        "127.0.0.1.",
        "127.1",
        "0x7f000001",
        "2130706433",
        "::1",
        "[::1",
        "::1]",
        "[localhost]",
        "[127.0.0.1]",
        "[]",
        "127.0.0.1:80:80",
        "localhost@evil.example",
        "evil.example\\localhost",
        "localhost:x",
        "kv.example,evil.example",
        "kv.\xe9xample",
        "localhost\x00",
        "x" * 9000,
        "[fe80::1%evil]",
        "[fe80::1%25eth0]",
        "[fe80::1%]",
        "fe80::1%evil",
        "[::1]evil",
        "[::1].",
        "[[::1]]",
        "[ ::1]",
        "[::ffff:0x7f.1]",
        "0x7f.1",
        "127.0.0.01",
        "1.2.3.4.:80",
        "127.0.0.1:65536",
        "127.0.0.1:000080",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1 :80",
        "127.0.0.1/8",
        "user@127.0.0.1",
        "a:b@127.0.0.1",
        "127.0.0.1%00",
        "\xa0localhost",
        "localhost\x85",
        "\xb2.0.0.1",
    ],
)
def test_names_that_a_page_could_have_given_it(host: str) -> None:
    assert not HOSTS.is_accepted(host.encode("latin-1"))
    assert Hosts().is_accepted(host.encode("latin-1")) and Hosts(("*", "x")).is_accepted(host.encode("latin-1"))


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    hosts = Hosts(())
    for number in range(10_000):
        assert not hosts.is_accepted(b"%d.evil.example" % number)
    assert len(hosts._known) < 1000 and hosts.is_accepted(b"localhost")


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_is_accepted(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    host = str(address) if address.version == 4 else f"[{address}]"
    assert Hosts(()).is_accepted(host.encode()) and Hosts(()).is_accepted(f"{host}:{port}".encode())


@given(st.binary(max_size=40))
def test_whatever_a_host_is_it_is_judged(host: bytes) -> None:
    if Hosts(()).is_accepted(host):
        name = host.strip().decode("latin-1").lower().rpartition(":")[0] or host.strip().decode("latin-1").lower()
        assert normal_name(name) == "localhost" or any(digit in name for digit in "0123456789:")


@pytest.mark.parametrize(
    ("target", "hosts", "misdirected"),
    [
        (b"/k", [b"localhost"], False),
        (b"/k", [b"evil.example"], True),
        (b"/k", [], False),  # HTTP/1.0
        (b"/k", [b"localhost", b"evil.example"], True),
        (b"*", [b"evil.example"], True),
        (b"http://evil.example/k", [b"localhost"], True),
        (b"http://localhost@evil.example/k", [b"localhost"], True),
        (b"http://evil.example", [], True),
        (b"http://localhost:8080/k", [b"evil.example"], False),  # RFC 9112, 3.2.2
        (b"HTTP://[::1]?a", [b"evil.example"], False),
        (b"/http://localhost/", [b"evil.example"], True),
    ],
)
def test_the_authority_of_the_target_counts_before_the_host(
    target: bytes, hosts: list[bytes], misdirected: bool
) -> None:
    for method in (*METHODS, "OPTIONS"):
        refusal = Pages(OPEN, Hosts(())).find_refusal(method, target, [(b"host", host) for host in hosts])
        assert isinstance(refusal, Misdirected) == misdirected == (refusal is not None)


def test_where_names_count() -> None:
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert not Hosts.of(None, address, has_tokens=False).all
        assert Hosts.of(None, address, has_tokens=True).all
        assert Hosts.of("*", address, has_tokens=False).all
        assert Hosts.of("kv.example", address, has_tokens=False).is_accepted(b"kv.example")
    for address in ("0.0.0.0", "::", "192.168.0.1"):
        assert Hosts.of(None, address, has_tokens=False).all
        assert not Hosts.of("kv.example", address, has_tokens=False).is_accepted(b"evil.example"), "it was asked for"
