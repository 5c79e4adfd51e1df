"""Who may ask on the ordinary road: refusals before anything is done, on every route, whatever the request."""

from __future__ import annotations

import json
from functools import partial

from kvserver.http.responses import COMMON, EXPOSED, PREFLIGHT
from shards.wire.errors import ERRORS
from tests.api.kvserver.rest.test_error_shape import PROBLEM, paths
from tests.api.web import Answer, Web, request, scenario

LISTED = "https://a.example, https://b.example"
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "TRACE", "PROPFIND")
OURS, OTHERS = "Origin: https://b.example", "Origin: https://evil.example"
EXPOSE = EXPOSED[0][0].decode()

listed = partial(scenario, origins=LISTED)
on_loopback = partial(scenario, hosts=("kv.example",))


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["code"]


def for_worker(method: str, path: str) -> bool:
    """Whether it is not handed over to a gateway, which judges for itself."""
    return (method, path) != ("GET", "/v1/feed")


async def is_refused_everywhere(web: Web, refusal: tuple[int, str], *fields: str, host: str = "kv.example") -> None:
    """On every route by every method; nothing is asked of the store."""
    for path in (*paths(), "/console/", "/docs/errors/nothing", "/%FF"):
        for method in METHODS:
            if not for_worker(method, path):
                continue
            answer = await web.ask(request(method, path, PROBLEM, *fields, host=host))
            assert answer.status == refusal[0], (method, path, fields, answer)
            assert method == "HEAD" or code(answer) == refusal
    assert web.shards.seen == [] and web.shards.deleted == [] and web.shards.values == {}


@listed
async def test_what_other_pages_send_is_refused(web: Web) -> None:
    for fields in ((OTHERS,), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)):
        await is_refused_everywhere(web, (403, "forbidden_origin"), *fields)
    for fields in (
        (OURS, OTHERS),
        (OTHERS, OURS),
        ("Origin:",),
        (OTHERS, "Sec-Fetch-Site: same-origin"),
        ("Origin: http://b.example",),
    ):
        answer = await web.ask(request("PUT", "/v1/kv/k", *fields, body=b"x"))
        assert code(answer) == (403, "forbidden_origin")
        assert "access-control-allow-origin" not in answer.headers


@listed
async def test_a_refused_page_reads_nothing_of_its_refusal(web: Web) -> None:
    """And is told nothing that it might keep for others."""
    refused = await web.ask(request("GET", "/v1/kv/k", OTHERS))
    assert "access-control-allow-origin" not in refused.headers
    assert "origin" in refused.headers["vary"] and refused.headers["cache-control"] == "no-store"
    assert b"https://evil.example" in refused.body and "--origins" in json.loads(refused.body)["hint"]
    empty = await web.ask(request("GET", "/k", OTHERS))
    assert (empty.status, empty.body) == (403, b""), "as MemoryKV's statuses that it lacks"


@listed
async def test_what_listed_pages_and_no_pages_send_is_answered(web: Web) -> None:
    for origin in ("https://b.example", "https://a.example", "HTTPS://A.example:443"):
        answer = await web.ask(request("PUT", "/k", f"Origin: {origin}", "Sec-Fetch-Site: cross-site", body=b"x"))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    for fields in ((), ("Sec-Fetch-Site: none",), ("Sec-Fetch-Site: same-origin",), ("Sec-Fetch-Site: same-site",)):
        answer = await web.ask(request("GET", "/k", *fields))
        assert (answer.status, answer.body) == (200, b"x")
        assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in (await web.ask(b"bad\r\n\r\n")).headers


@listed
async def test_preflights_are_answered_to_all_but_allow_only_those(web: Web) -> None:
    for origin in (OTHERS, "Origin: null", OURS):
        answer = await web.ask(request("OPTIONS", "/v1/kv/k", origin, "Access-Control-Request-Method: PUT"))
        assert answer.status == 200
        assert ("access-control-allow-origin" in answer.headers) == (origin == OURS)


@listed
async def test_a_body_of_another_page_is_not_waited_for(web: Web) -> None:
    for path in ("/k", "/v1/kv/k", "/v1/batch", "/ping"):
        client = await web.connect()
        await client.send(request("POST", path, OTHERS, "Content-Length: 90000", "Expect: 100-continue"))
        assert (await client.answer()).status == 403
        assert web.context.load.bytes_held == 0 and web.context.load.in_flight == 0
        assert await client.ended()


@listed
async def test_a_connection_goes_on_behind_a_refusal_without_a_body(web: Web) -> None:
    """A proxy sends requests of several pages on it."""
    client = await web.connect()
    for _ in range(2):
        assert (await client.ask(request("GET", "/k", OTHERS))).status == 403
        assert (await client.ask(request("GET", "/k", OURS))).status == 200
        assert (await client.ask(request("DELETE", "/k", "Sec-Fetch-Site: cross-site"))).status == 403


@on_loopback
async def test_what_asks_by_another_name_is_refused(web: Web) -> None:
    for host in ("evil.example", "evil.example:8080", "localhost.evil.example"):
        await is_refused_everywhere(web, (421, "misdirected"), "Origin: http://evil.example", host=host)
    assert (await web.ask(request("OPTIONS", "/k", host="evil.example"))).status == 421
    answer = await web.ask(request("GET", "/v1/kv/k", host="evil.example"))
    assert (
        "'evil.example'" in json.loads(answer.body)["detail"] and "--allowed-hosts" in json.loads(answer.body)["hint"]
    )


@on_loopback
async def test_names_and_addresses_of_the_server(web: Web) -> None:
    for host in ("localhost", "LOCALHOST.:80", "127.0.0.1:8080", "[::1]", "kv.example:1"):
        assert (await web.ask(request("GET", "/ping", host=host))).status == 200
    assert (await web.ask(b"GET /ping HTTP/1.0\r\n\r\n")).status == 200
    assert (await web.ask(b"GET /ping HTTP/1.0\r\nHost: evil.example\r\n\r\n")).status == 421
    assert (await web.ask(request("GET", "http://localhost/ping", host="evil.example"))).status == 200
    assert (await web.ask(request("GET", "http://evil.example/ping", host="localhost"))).status == 421
    assert (
        await web.ask(request("GET", "/ping", "Upgrade: h2c", "Connection: upgrade", host="evil.example"))
    ).status == 421


@scenario
async def test_a_page_sends_batches_and_asks_for_tickets_by_their_own_types(web: Web) -> None:
    """A browser sends any other without asking first whether it may: from pages of any origin."""
    bodies = {"/v1/batch": b'{"ops":[]}', "/v1/tickets": b'{"for":"sse"}'}
    (web.run_dir / "tickets").mkdir()
    form, json_type = "Content-Type: application/x-www-form-urlencoded", "Content-Type: Application/JSON; charset=utf-8"
    for path, body in bodies.items():
        for page in (OTHERS, "Origin: null", "Origin: http://kv.example", "Sec-Fetch-Site: cross-site", "Origin:"):
            for fields in (
                (),
                (form,),
                ("Content-Type: text/plain",),
                ("Content-Type: multipart/form-data; boundary=x",),
            ):
                answer = await web.ask(request("POST", path, page, *fields, body=body))
                assert code(answer) == (415, "unsupported_media_type"), (path, page, fields)
                assert "application/json" in json.loads(answer.body)["hint"]
            assert (await web.ask(request("POST", path, page, json_type, body=body))).status in (200, 201)
        for fields in ((), (form,), (json_type,)):
            assert (await web.ask(request("POST", path, *fields, body=body))).status in (200, 201)
        assert (await web.ask(request("POST", path, "Content-Type: text/plain", body=body))).status == 415


@scenario
async def test_headers_are_exposed_to_pages_alone(web: Web) -> None:
    for path in ("/k", "/v1/kv/k", "/v1/nothing", "/v1/kv/%FF", "/docs/", "/k<"):
        for method in ("GET", "PUT", "OPTIONS"):
            answer = await web.ask(request(method, path, OTHERS))
            for name, value in (*COMMON, *EXPOSED):
                assert answer.headers[name.decode()] == value.decode(), (method, path)
            assert EXPOSE not in (await web.ask(request(method, path))).headers


@scenario
async def test_a_preflight_allows_what_libraries_send(web: Web) -> None:
    answer = await web.ask(request("OPTIONS", "/v1/feed", OTHERS, "Access-Control-Request-Headers: cache-control"))
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {
        "accept",
        "authorization",
        "content-type",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-range",
        "range",
        "if-unmodified-since",
        "last-event-id",
        "x-request-id",
        "idempotency-key",
        "kv-min-revision",
        "cache-control",
        "x-requested-with",
        "traceparent",
        "tracestate",
    } == set(allowed)
    assert dict(PREFLIGHT)["access-control-max-age"] == answer.headers["access-control-max-age"]


def test_the_errors_have_their_pages() -> None:
    assert (ERRORS["forbidden_origin"].status, ERRORS["misdirected"].status) == (403, 421)
