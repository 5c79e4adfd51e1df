"""`/v1/kv/{key}` of the whole server, header by header: what every method answers, and what it refuses."""

from __future__ import annotations

import gzip
import json
import re
import time
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from websockets.sync.client import connect

from tests.api.web import Answer, request
from tests.system.harness import Server, wait_for

PATCH = "Content-Type: application/merge-patch+json"
EARLY, LATE = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
DECODERS: dict[str, Any] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
    "deflate": zlib.decompress,
}
_numbers = count()


class Site:
    """Requests of a key of the test's own."""

    def __init__(self, server: Server) -> None:
        self.server, self.key = server, f"key/{next(_numbers)}"
        self.path = f"/v1/kv/{self.key}"

    def __call__(self, method: str, query: str = "", *fields: str, body: bytes = b"") -> Answer:
        return self.at(self.path + query, method, *fields, body=body)

    def at(self, target: str, method: str, *fields: str, body: bytes = b"") -> Answer:
        with self.server.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(request(method, target, "Connection: close", *fields, body=body))
            received = stream.read()
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *headers = head.decode("latin-1").split("\r\n")
        pairs = [header.partition(": ") for header in headers]
        assert len({name.lower() for name, _, _ in pairs}) == len(pairs), f"a header twice: {headers}"
        answer = Answer(int(line.split()[1]), {name.lower(): value for name, _, value in pairs}, rest)
        check(answer, method, any(field.startswith("Origin:") for field in fields))
        return answer

    def put(self, body: bytes, *fields: str, query: str = "") -> int:
        """Store; the revision."""
        answer = self("PUT", query, *fields, body=body)
        assert answer.status in (201, 204), answer
        return int(answer.headers["kv-revision"])


def check(answer: Answer, method: str, to_page: bool) -> None:
    """What is true of every answer of version 1."""
    status, headers, body = answer
    assert headers["access-control-allow-origin"] == "*"
    exposed = set(headers.get("access-control-expose-headers", "").split(", "))
    assert exposed >= {"ETag", "KV-Revision", "KV-Previous-Revision", "KV-Expires"} if to_page else exposed == {""}
    assert "accept-encoding" in headers["vary"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    if status in (204, 304):
        assert not body and "content-length" not in headers and "content-type" not in headers
    elif method == "HEAD":
        assert not body
    else:
        assert headers["content-length"] == str(len(body))
    if status >= 400:
        assert headers["cache-control"] == "no-store"
        assert headers["content-type"] == "application/problem+json"
        assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])
        if method != "HEAD":
            problem = json.loads(body)
            assert problem["status"] == status and problem["type"] == f"/docs/errors/{problem['code']}"
            assert problem["request_id"] == headers["x-request-id"]


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["code"]


@pytest.fixture
def ask(server: Server) -> Iterator[Site]:
    yield Site(server)


# GET and HEAD


def test_get_and_head(ask: Site) -> None:
    revision = ask.put(b"hello", "Content-Type: text/plain; charset=utf-8")
    get = ask("GET")
    assert (get.status, get.body) == (200, b"hello")
    for name, value in (
        ("content-type", "text/plain; charset=utf-8"),
        ("etag", f'"{revision}"'),
        ("kv-revision", str(revision)),
        ("cache-control", "no-cache, no-transform"),
        ("accept-ranges", "bytes"),
        ("content-length", "5"),
    ):
        assert get.headers[name] == value
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", get.headers["last-modified"])
    assert "kv-expires" not in get.headers
    head = ask("HEAD")
    get.headers.pop("date"), head.headers.pop("date")
    assert (head.status, head.headers) == (200, get.headers)


def test_absent(ask: Site) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        for fields in ((), ('If-Match: "57"',), ("If-Match: *",), ("If-None-Match: *",), ("Range: bytes=0-1",)):
            answer = ask(method, "", *fields)
            assert answer.status == 404
            assert "etag" not in answer.headers
    for query in ("?ttl=1", "?expires=2100-01-01T00:00:00Z", "?persist=true"):
        assert code(ask("POST", query)) == (404, "not_found")
        assert code(ask("POST", query, "If-Match: *")) == (404, "not_found")


def test_a_value_is_no_service_worker(ask: Site) -> None:
    ask.put(b"self.x = 1", "Content-Type: text/javascript")
    assert code(ask("GET", "", "Service-Worker: script")) == (403, "forbidden")
    assert ask("HEAD", "", "Service-Worker: script").status == 403


def test_keys_as_they_are_sent(ask: Site) -> None:
    for target in ("//", "/./..", "/%2F%00+?#x", "/%C3%BC/%25zz", "/keys", "/" + "k" * 500):
        assert ask.at(ask.path + target.split("?")[0], "PUT", body=target.encode()).status == 201
        assert ask.at(ask.path + target.split("?")[0], "GET").body == target.encode()
    ask.put(b"one")
    assert ask.at("/v1/kv/" + ask.key.replace("/", "%2f"), "GET").body == b"one"
    assert ask.at("http://kv.example" + ask.path, "GET").body == b"one"
    for method in ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"):
        for bad in ("/v1/kv/", "/v1/kv/%zz", "/v1/kv/a%", "/v1/kv/%FF", "/v1/kv/?ttl=5"):
            answer = ask.at(bad, method)
            assert answer.status == 400
            assert method == "HEAD" or code(answer) == (400, "bad_key")
        assert ask.at("/v1/kv/" + "k" * 512, method, PATCH).status == 414


def test_the_same_store_as_the_routes_at_the_root(ask: Site) -> None:
    root = "/" + ask.key.replace("/", "%2F")
    assert ask.put(b"v1", "Content-Type: text/html") > 0
    with ask.server.client() as client:
        assert client.get(root).content == b"v1"
        assert client.put(root, content=b"root", headers={"Content-Type": "text/css"}).content == b"v1"
        assert "etag" not in client.get(root).headers
    get = ask("GET")
    assert (get.body, get.headers["content-type"]) == (b"root", "text/css")


# PUT


def test_put(ask: Site) -> None:
    new = ask("PUT", body=b"1")
    assert (new.status, new.body, new.headers["cache-control"]) == (201, b"", "no-store")
    assert new.headers["etag"] == f'"{new.headers["kv-revision"]}"'
    again = ask("PUT", body=b"")
    assert again.status == 204
    assert int(again.headers["kv-revision"]) > int(new.headers["kv-revision"])
    assert again.headers["etag"] == f'"{again.headers["kv-revision"]}"'
    assert ask("GET").body == b""


def test_put_may_answer_what_it_replaced(ask: Site) -> None:
    absent = ask("PUT", "?return=previous", "Content-Type: text/plain", body=b"1")
    assert (absent.status, absent.body) == (201, b"")
    assert "kv-previous-revision" not in absent.headers
    there = ask("PUT", "?return=previous", body=b"2")
    assert (there.status, there.body, there.headers["content-type"]) == (200, b"1", "text/plain")
    assert there.headers["kv-previous-revision"] == absent.headers["kv-revision"]
    assert there.headers["etag"] == f'"{there.headers["kv-revision"]}"' == ask("GET").headers["etag"]
    assert ask("PUT", "?return=previous", body=b"3").headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (None, "application/octet-stream"),
        ("application/x-www-form-urlencoded", "application/octet-stream"),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", "application/octet-stream"),
        ('multipart/form-data; boundary="a b"', 'multipart/form-data; boundary="a b"'),
        ("x/" + "y" * 253, "x/" + "y" * 253),
        ("nonsense", None),
        ("text/h\xe9", None),
        ("text/plain, text/html", None),
        ("x/" + "y" * 254, None),
    ],
)
def test_types(ask: Site, sent: str | None, stored: str | None) -> None:
    answer = ask("PUT", "", *([] if sent is None else [f"Content-Type: {sent}"]), body=b"x")
    if stored is None:
        assert code(answer) == (400, "bad_request")
        assert ask("GET").status == 404
    else:
        assert ask("GET").headers["content-type"] == stored


def test_a_put_is_whole_and_plain(ask: Site) -> None:
    for coding in ("gzip", "identity", "nonsense"):
        assert code(ask("PUT", "", f"Content-Encoding: {coding}", body=b"x")) == (415, "unsupported_media_type")
    assert code(ask("PUT", "", "Content-Range: bytes 0-0/5", body=b"x")) == (400, "bad_request")
    assert code(ask("PUT", body=b"x" * 5_120_001)) == (413, "value_too_large")
    assert ask("GET").status == 404


# Expiry


def test_expiry_comes_and_goes(ask: Site) -> None:
    written = ask("PUT", "?ttl=1000.5", body=b"1")
    told = ask("GET").headers["kv-expires"]
    assert written.headers["kv-expires"] == told
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told)
    ask.put(b"2", query="?expires=2100-01-01T00:00:00.1234Z")
    assert ask("GET").headers["kv-expires"] == "2100-01-01T00:00:00.123Z"
    ask.put(b"3", query="?expires=2100-01-01T01:00:00+01:00")
    assert ask("HEAD").headers["kv-expires"] == "2100-01-01T00:00:00.000Z"
    assert ask("POST", "?incr=1").headers["kv-expires"] == "2100-01-01T00:00:00.000Z"
    assert ask("PATCH", "", PATCH, body=b"5").headers["kv-expires"] == "2100-01-01T00:00:00.000Z"
    replaced = ask("PUT", "?ttl=60&return=previous", body=b"6")
    assert replaced.headers["kv-expires"] == ask("GET").headers["kv-expires"] < "2100"
    touched = ask("POST", "?expires=2100-01-01T00:00:00Z")
    assert (touched.status, touched.headers["kv-expires"]) == (204, "2100-01-01T00:00:00.000Z")
    assert "kv-expires" not in ask("POST", "?persist=true").headers
    ask("POST", "?ttl=60")
    assert "kv-expires" not in ask("PUT", body=b"4").headers
    assert "kv-expires" not in ask("GET").headers


def test_an_expired_value_is_absent(ask: Site) -> None:
    ask.put(b"1", query="?ttl=0.05")
    wait_for(lambda: ask("GET").status == 404, "expiry")
    assert ask("PUT", body=b"2").status == 201


def test_touch(ask: Site) -> None:
    revision = ask.put(b"1", "Content-Type: text/plain")
    modified = ask("GET").headers["last-modified"]
    for query, expires in (
        ("?ttl=100", r"20\d\d-.*Z"),
        ("?expires=2100-01-01T00:00:00Z", r"2100-01-01T00:00:00\.000Z"),
        ("?persist=true", None),
    ):
        touched = ask("POST", query)
        assert touched.status == 204
        assert touched.headers["etag"] == f'"{touched.headers["kv-revision"]}"'
        assert int(touched.headers["kv-revision"]) > revision
        revision = int(touched.headers["kv-revision"])
        get = ask("GET")
        assert (get.body, get.headers["etag"], get.headers["content-type"]) == (b"1", f'"{revision}"', "text/plain")
        assert get.headers["last-modified"] == modified
        assert re.fullmatch(expires, get.headers["kv-expires"]) if expires else "kv-expires" not in get.headers


# PATCH and counters


def test_patch(ask: Site) -> None:
    new = ask("PATCH", "", PATCH, body=b'{"a":1,"n":null}')
    assert (new.status, new.body) == (201, b'{"a":1}')
    old = ask("PATCH", "", "Content-Type: Application/Merge-Patch+JSON; charset=utf-8", body=b'{"a":null,"b":[1]}')
    assert (old.status, old.body) == (200, b'{"b":[1]}')
    assert old.headers["etag"] == f'"{old.headers["kv-revision"]}"' == ask("GET").headers["etag"]
    assert old.headers["content-type"] == ask("GET").headers["content-type"]
    assert ask("GET").body == b'{"b":[1]}'
    for fields in ((), ("Content-Type: application/json",), ("Content-Type: application/json-patch+json",)):
        answer = ask("PATCH", "", *fields, body=b"{}")
        assert code(answer) == (415, "unsupported_media_type")
        assert answer.headers["accept-patch"] == "application/merge-patch+json"
    assert ask("PATCH", "", PATCH, "Content-Encoding: gzip", body=b"{}").status == 415
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        assert code(ask("PATCH", "", PATCH, body=body)) == (400, "bad_request")
    ask.put(b"not JSON")
    assert code(ask("PATCH", "", PATCH, body=b"{}")) == (409, "not_json")
    ask.put(b'{"a":"%b"}' % (b"x" * 3_000_000))
    large = b'{"b":"%b"}' % (b"y" * 3_000_000)
    assert code(ask("PATCH", "", PATCH, body=large)) == (413, "value_too_large")


def test_counters(ask: Site) -> None:
    assert [(a.status, a.body) for a in (ask("POST", "?incr=5"), ask("POST", "?incr=-7"))] == [
        (201, b"5"),
        (200, b"-2"),
    ]
    answer = ask("POST", "?incr=0&ttl_if_new=5")
    assert (answer.status, answer.body) == (200, b"-2")
    assert answer.headers["etag"] == f'"{answer.headers["kv-revision"]}"' == ask("GET").headers["etag"]
    assert "kv-expires" not in ask("GET").headers
    other = Site(ask.server)
    assert other("POST", "?ttl_if_new=100&incr=1").status == 201
    assert "kv-expires" in other("GET").headers
    for value in (b"", b"1.0", b"01", b"+1", b" 1", b"-", b"1\n", b"9223372036854775808", b"x"):
        ask.put(value)
        assert code(ask("POST", "?incr=1")) == (409, "not_an_integer")
        assert ask("GET").body == value
    ask.put(b"9223372036854775807")
    assert code(ask("POST", "?incr=1")) == (409, "overflow")
    assert ask("POST", "?incr=-9223372036854775808").body == b"-1"


# Parameters


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "?x"),
        ("GET", "?ttl=5"),
        ("HEAD", "?a=1"),
        ("DELETE", "?return=previous"),
        ("PATCH", "?ttl=5"),
        ("PUT", "?tll=5"),
        ("PUT", "?ttl=5&ttl=5"),
        ("PUT", "?ttl=5&expires=2100-01-01T00:00:00Z"),
        ("PUT", "?ttl=0"),
        ("PUT", "?ttl=-1"),
        ("PUT", "?ttl=1.0001"),
        ("PUT", "?ttl=315360001"),
        ("PUT", "?ttl="),
        ("PUT", "?ttl=%zz"),
        ("PUT", "?ttl=%FF"),
        ("PUT", "?expires=2020-01-01T00:00:00Z"),
        ("PUT", "?expires=1970-01-01T00:00:00Z"),
        ("PUT", "?expires=tomorrow"),
        ("PUT", "?return=next"),
        ("PUT", "?persist=true"),
        ("PUT", "?incr=1"),
        ("POST", ""),
        ("POST", "?ttl_if_new=5"),
        ("POST", "?incr=1&ttl=5"),
        ("POST", "?incr=1&persist=true"),
        ("POST", "?ttl=5&persist=true"),
        ("POST", "?ttl=5&ttl_if_new=5"),
        ("POST", "?persist=false"),
        ("POST", "?incr=1.0"),
        ("POST", "?incr=9223372036854775808"),
        ("POST", "?incr="),
        ("POST", "?incr=1&incr=1"),
        ("POST", "?incr=1&ttl_if_new=0"),
        ("POST", "?expires=2020-01-01T00:00:00Z"),
        ("POST", "?TTL=5"),
    ],
)
def test_parameters_are_refused_never_ignored(ask: Site, method: str, query: str) -> None:
    revision = ask.put(b"1")
    answer = ask(method, query, PATCH, body=b"{}" if method in ("PUT", "PATCH") else b"")
    assert answer.status == 400
    assert method == "HEAD" or code(answer) == (400, "bad_request")
    assert ask("GET").headers["kv-revision"] == str(revision)


def test_methods(ask: Site) -> None:
    for method in ("TRACE", "PROPFIND"):
        answer = ask(method)
        assert code(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "GET,HEAD,PUT,POST,PATCH,DELETE"
    options = ask("OPTIONS", "?x=1", "Origin: https://page.example")
    assert (options.status, options.headers["allow"]) == (200, "GET,HEAD,PUT,POST,PATCH,DELETE")
    assert options.headers["accept-patch"] == "application/merge-patch+json"
    assert {"If-Match", "If-None-Match", "Range"} <= set(options.headers["access-control-allow-headers"].split(", "))


# Conditions

WRITES = [
    ("PUT", "", (), b"2", 204),
    ("PATCH", "", (PATCH,), b"2", 200),
    ("POST", "?incr=1", (), b"", 200),
    ("POST", "?ttl=500", (), b"", 204),
    ("POST", "?persist=true", (), b"", 204),
    ("DELETE", "", (), b"", 204),
]


@pytest.mark.parametrize(("method", "query", "fields", "body", "status"), WRITES)
def test_conditions_of_writes(
    ask: Site, method: str, query: str, fields: tuple[str, ...], body: bytes, status: int
) -> None:
    revision = ask.put(b"1")
    for refused in (
        'If-Match: "1"',
        f'If-Match: W/"{revision}"',
        'If-Match: "nonsense"',
        "If-Match:",
        "If-None-Match: *",
        f'If-None-Match: "7", "{revision}"',
        f'If-None-Match: W/"{revision}"',
        f'If-None-Match: "{revision}-gzip"',
        f"If-Unmodified-Since: {EARLY}",
    ):
        answer = ask(method, query, *fields, refused, body=body)
        assert code(answer) == (412, "precondition_failed"), refused
        assert (answer.headers["etag"], answer.headers["kv-revision"]) == (f'"{revision}"', str(revision))
    for malformed in ("If-Match: 57", 'If-None-Match: "1" "2"', 'If-Match: *, "1"'):
        assert code(ask(method, query, *fields, malformed, body=body)) == (400, "bad_request")
    assert ask("GET").headers["kv-revision"] == str(revision)
    for held in (
        "If-Match: *",
        'If-Match: "NOW"',
        'If-Match: "7", "NOW-br"',
        'If-None-Match: "7", "nonsense"',
        f"If-Unmodified-Since: {LATE}",
        f"If-Match: *\r\nIf-Unmodified-Since: {EARLY}",
        "If-Unmodified-Since: never",
        f"If-Modified-Since: {LATE}",
        'If-Match: "7"\r\nIf-Match: "NOW"',
    ):
        answer = ask(method, query, *fields, held.replace("NOW", str(revision)), body=body)
        assert answer.status == status, held
        if method == "DELETE":
            assert int(answer.headers["kv-revision"]) > revision and "etag" not in answer.headers
            assert ask("GET").status == 404
        revision_before, revision = revision, ask.put(b"1")
        assert revision > int(answer.headers["kv-revision"]) > revision_before


@pytest.mark.parametrize(("method", "query", "fields", "body", "status"), WRITES[:3])
def test_conditions_of_writes_that_create(
    ask: Site, method: str, query: str, fields: tuple[str, ...], body: bytes, status: int
) -> None:
    for refused in ("If-Match: *", 'If-Match: "57"'):
        answer = ask(method, query, *fields, refused, body=body)
        assert code(answer) == (412, "precondition_failed")
        assert "etag" not in answer.headers and "kv-revision" not in answer.headers
    assert ask(method, query, *fields, "If-None-Match: *", body=body).status == 201


def test_conditions_of_reads(ask: Site) -> None:
    revision = ask.put(b"x" * 2000, query="?ttl=1000")
    modified = ask("GET").headers["last-modified"]
    for method in ("GET", "HEAD"):
        for fresh, tag in (
            (f'If-None-Match: "{revision}"', ""),
            (f'If-None-Match: "1" , W/"{revision}"', ""),
            ("If-None-Match: *", ""),
            (f'If-None-Match: "{revision}-br"', "-br"),
            (f"If-Modified-Since: {modified}", ""),
            (f"If-Modified-Since: {LATE}", ""),
            (f'If-None-Match: "{revision}"\r\nIf-Modified-Since: {EARLY}', ""),
            (f'If-None-Match: "{revision}"\r\nRange: bytes=0-1', ""),
        ):
            answer = ask(method, "", fresh)
            assert (answer.status, answer.headers["etag"]) == (304, f'"{revision}{tag}"')
            assert answer.headers["cache-control"] == "no-cache, no-transform"
            assert answer.headers["last-modified"] == modified
            assert answer.headers["kv-revision"] == str(revision)
            assert "kv-expires" in answer.headers
        for stale in (
            'If-None-Match: "1"',
            "If-None-Match:",
            f"If-Modified-Since: {EARLY}",
            "If-Modified-Since: nonsense",
            f'If-None-Match: "1"\r\nIf-Modified-Since: {LATE}',
            f'If-Match: "{revision}-zstd"',
            "If-Match: *",
            f"If-Unmodified-Since: {LATE}",
            f"If-Match: *\r\nIf-Unmodified-Since: {EARLY}",
        ):
            assert ask(method, "", stale).status == 200
        for failed in ('If-Match: "1"', f'If-Match: W/"{revision}"', f"If-Unmodified-Since: {EARLY}"):
            answer = ask(method, "", failed)
            assert (answer.status, answer.headers["etag"]) == (412, f'"{revision}"')
            assert answer.headers["kv-revision"] == str(revision)
        assert ask(method, "", "If-None-Match: 57").status == 400


def test_last_modified_is_the_time_of_the_last_value(ask: Site) -> None:
    before = int(time.time())
    ask.put(b"1")
    around = {formatdate(second, usegmt=True) for second in range(before - 1, int(time.time()) + 2)}
    assert ask("GET").headers["last-modified"] in around


# Ranges and codings


def test_ranges(ask: Site) -> None:
    revision = ask.put(b"0123456789" * 300, "Content-Type: text/plain")
    gzipped = "Accept-Encoding: gzip"
    for sent, part, told in (
        ("bytes=0-4", b"01234", "0-4"),
        ("bytes=2998-", b"89", "2998-2999"),
        ("bytes=-3", b"789", "2997-2999"),
        ("bytes=2999-9999", b"9", "2999-2999"),
        (f'bytes=1-1\r\nIf-Range: "{revision}"', b"1", "1-1"),
    ):
        answer = ask("GET", "", f"Range: {sent}", gzipped)
        assert (answer.status, answer.body) == (206, part)
        assert answer.headers["content-range"] == f"bytes {told}/3000"
        assert (answer.headers["etag"], answer.headers["content-type"]) == (f'"{revision}"', "text/plain")
        assert "content-encoding" not in answer.headers
        assert answer.headers["cache-control"] == "no-cache, no-transform"
    for whole in (
        "bytes=0-1,3-4",
        "lines=1-2",
        "bytes=4-2",
        "nonsense",
        'bytes=1-1\r\nIf-Range: "1"',
        f'bytes=1-1\r\nIf-Range: W/"{revision}"',
        f'bytes=1-1\r\nIf-Range: "{revision}-gzip"',
        f"bytes=1-1\r\nIf-Range: {LATE}",
    ):
        answer = ask("GET", "", f"Range: {whole}")
        assert (answer.status, len(answer.body)) == (200, 3000)
        assert "content-range" not in answer.headers
    for behind in ("bytes=3000-", "bytes=5000-6000", "bytes=-0"):
        answer = ask("GET", "", f"Range: {behind}")
        assert code(answer) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */3000"
        assert "etag" not in answer.headers
    assert ask("HEAD", "", "Range: bytes=0-1").status == 200
    ask.put(b"")
    assert ask("GET", "", "Range: bytes=0-").headers["content-range"] == "bytes */0"


@pytest.mark.parametrize("coding", DECODERS)
def test_coded_forms_have_etags_of_their_own_and_all_are_one_revision(ask: Site, coding: str) -> None:
    text = b"to be or not to be. " * 2000
    revision = ask.put(text, "Content-Type: text/plain")
    answer = ask("GET", "", f"Accept-Encoding: {coding}")
    assert (answer.headers["content-encoding"], DECODERS[coding](answer.body)) == (coding, text)
    assert answer.headers["etag"] == f'"{revision}-{coding}"'
    assert ask("HEAD", "", f"Accept-Encoding: {coding}").headers["etag"] == answer.headers["etag"]
    known = ask("GET", "", f"Accept-Encoding: {coding}", f"If-None-Match: {answer.headers['etag']}")
    assert (known.status, known.headers["etag"]) == (304, answer.headers["etag"])
    both = f'If-None-Match: "{revision}-{coding}", "{revision}"'
    for known_by in ("If-None-Match: *", f"If-Modified-Since: {LATE}", both):
        for method in ("GET", "HEAD"):
            known = ask(method, "", f"Accept-Encoding: {coding}", known_by)
            assert (known.status, known.headers["etag"]) == (304, answer.headers["etag"]), "as that of a 200"
            assert "content-encoding" not in known.headers
            known = ask(method, "", known_by)
            assert (known.status, known.headers["etag"]) == (304, f'"{revision}"'), "as that of a 200"
    assert ask("PUT", "", f"If-Match: {answer.headers['etag']}", body=b"{}").status == 204
    patched = ask("PATCH", "", PATCH, f"Accept-Encoding: {coding}", body=b'{"a":"%b"}' % text)
    assert DECODERS[coding](patched.body) == b'{"a":"%b"}' % text
    assert patched.headers["etag"] == f'"{patched.headers["kv-revision"]}-{coding}"'
    previous = ask("PUT", "?return=previous", f"Accept-Encoding: {coding}", body=b"")
    assert DECODERS[coding](previous.body) == b'{"a":"%b"}' % text
    assert previous.headers["etag"] == f'"{previous.headers["kv-revision"]}"'


@pytest.mark.parametrize(
    ("content_type", "size", "is_coded"),
    [
        ("image/png", 5000, False),
        ("image/svg+xml", 5000, True),
        ("text/event-stream", 5000, False),
        ("text/plain", 1023, False),
        ("text/plain", 1024, True),
        ("text/plain", 1 << 20, True),
        ("text/plain", (1 << 20) + 1, False),
    ],
)
def test_what_is_coded(ask: Site, content_type: str, size: int, is_coded: bool) -> None:
    revision = ask.put(b"x" * size, f"Content-Type: {content_type}")
    answer = ask("GET", "", "Accept-Encoding: gzip")
    assert ("content-encoding" in answer.headers) is is_coded
    assert answer.headers["etag"] == (f'"{revision}-gzip"' if is_coded else f'"{revision}"')


# DELETE, and what the feed shows


def test_delete(ask: Site) -> None:
    revision = ask.put(b"1")
    deleted = ask("DELETE")
    assert deleted.status == 204
    assert int(deleted.headers["kv-revision"]) > revision
    assert "etag" not in deleted.headers
    assert ask("GET").status == 404
    assert code(ask("DELETE")) == (404, "not_found")


def test_what_the_feed_shows(ask: Site) -> None:
    with connect(ask.server.feed_url, compression=None, ping_interval=None) as feed:
        host, port = feed.local_address
        while feed.recv(20) != f"Heartbeat from {host}:{port}":
            pass
        ask("PUT", body=b"1")
        ask("POST", "?incr=4")
        ask("POST", "?ttl=500")
        ask("PATCH", "", PATCH, body=b'{"a":1}')
        ask("PUT", "", f"If-Unmodified-Since: {EARLY}", body=b"refused")
        ask("DELETE", "", "If-None-Match: *")
        ask("DELETE")
        ask("DELETE")
        shown = [line for line in iter(feed.recv, f"Delete {{ key: {ask.key} }}") if ask.key in str(line)]
        again = next(line for line in iter(lambda: feed.recv(20), None) if ask.key in str(line))
        assert again == f"Delete {{ key: {ask.key} }}", "of a key that was absent"
        assert shown == [f"Insert {{ key: {ask.key}, value: {value} }}" for value in ("1", "5", '{"a":1}')]
        for method, fields in (("GET", ()), ("HEAD", ()), ("GET", ("If-None-Match: *",))):
            ask(method, "", *fields)
            while ask.key not in (line := str(feed.recv(20))):
                pass
            assert line == f"Read {{ key: {ask.key}}}"
