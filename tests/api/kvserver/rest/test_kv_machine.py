"""Any requests of a few keys, against a dict and what RFC 9110 says of conditions, while keys expire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kvserver.api.times import http_date, rfc3339
from tests import effort
from tests.api.site import Site, running_site
from tests.api.web import Answer
from tests.unit.oracle import Refused, merged, number_of, text_of

EARLY, LATE = "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
PATCH = "Content-Type: application/merge-patch+json"
_runs = count()

KEYS = st.sampled_from(["a", "a/b", "ü"])
VALUES = st.sampled_from([b"", b"7", b"-1", b"x" * 20, b'{"a":{"b":1},"c":2}', b"[1]", b"\xff", b"9223372036854775807"])
PATCHES = st.sampled_from([b"{}", b'{"a":null}', b'{"a":{"b":null,"d":3}}', b"5", b'"text"'])
TYPES = st.sampled_from(["", "text/plain", "application/json"])
LIFETIMES = st.sampled_from([None, None, 100, 1000])
TAGS = st.lists(st.sampled_from(["now", "now", "weak", "coded", "old", "strange", "*"]), min_size=1, max_size=3).filter(
    lambda words: "*" not in words or words == ["*"]
)
DATES = st.sampled_from(["exact", "exact", "before", EARLY, LATE, "nonsense"])
HEADERS = {"If-Match": TAGS, "If-None-Match": TAGS, "If-Unmodified-Since": DATES, "If-Modified-Since": DATES}
CONDITIONS = st.one_of(  # each alone, too: together they mostly hide each other
    st.just({}),
    *(st.fixed_dictionaries({name: words}) for name, words in HEADERS.items()),
    st.fixed_dictionaries({}, optional=HEADERS),
)
Conditions = dict[str, list[str] | str]


class Item(NamedTuple):
    """What a key holds. Times: Unix milliseconds, as told by lists."""

    value: bytes
    content_type: str
    expires_ms: int
    revision: int
    created: str
    modified: str
    date: str


class OverHTTP(RuleBasedStateMachine):
    """Requests over connections, real shards, a clock that leaps."""

    site: Site

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"run{next(_runs)}/"
        self.items: dict[str, Item] = {}
        self.last = self.site.store.board.last_revision()  # the highest revision so far

    # What is asked

    @rule(
        key=KEYS,
        conditions=CONDITIONS,
        method=st.sampled_from(["GET", "GET", "HEAD"]),
        part=st.sampled_from([None, None, "bytes=1-2", "bytes=-3", "bytes=20-", "bytes=0-1,3-4"]),
        join=st.sampled_from([None, None, "now", "weak", "coded", "old"]),
    )
    def read(self, key: str, conditions: Conditions, method: str, part: str | None, join: str | None) -> None:
        item = self.items.get(key)
        fields = [*self.fields(item, conditions), *([f"Range: {part}"] if part else [])]
        if join:
            fields.append(f"If-Range: {self.tag(item, join)}")
        answer = self.ask(method, key, *fields)
        expected = 404 if item is None else verdict(item, conditions, reads=True)
        if item is None or expected:
            assert answer.status == expected
            self.check_refusal(answer, item, method)
            return
        whole = method == "HEAD" or part in (None, "bytes=0-1,3-4") or join in ("weak", "coded", "old")
        span = range(len(item.value))[slices(part or "")] if not whole else None
        assert span is not None or answer.status == 200
        if span is not None and not span:
            assert answer.status == (200 if part == "bytes=-3" else 416)
            return
        body = item.value if span is None else item.value[span.start : span.stop]
        assert answer.status == (200 if span is None else 206)
        assert answer.headers["content-length"] == str(len(body))
        assert answer.body == (b"" if method == "HEAD" else body)
        assert answer.headers["content-type"] == (item.content_type or "application/octet-stream")
        self.check_told(answer, item)

    @rule(key=KEYS, value=VALUES, content_type=TYPES, ttl=LIFETIMES, previous=st.booleans(), conditions=CONDITIONS)
    def put(
        self, key: str, value: bytes, content_type: str, ttl: int | None, previous: bool, conditions: Conditions
    ) -> None:
        old = self.items.get(key)
        parameters = [*([f"ttl={ttl}"] if ttl else []), *(["return=previous"] if previous else [])]
        fields = [*self.fields(old, conditions), *([f"Content-Type: {content_type}"] if content_type else [])]
        answer = self.ask("PUT", key, *fields, query="&".join(parameters), body=value)
        if not self.is_refused(answer, old, conditions):
            assert answer.status == (201 if old is None else 200 if previous else 204)
            if old is not None and previous:
                assert answer.body == old.value
                assert answer.headers["kv-previous-revision"] == str(old.revision)
            self.changed(answer, key, value, content_type, ttl or 0)

    @rule(key=KEYS, patch=PATCHES, conditions=CONDITIONS)
    def patch(self, key: str, patch: bytes, conditions: Conditions) -> None:
        old = self.items.get(key)
        answer = self.ask("PATCH", key, PATCH, *self.fields(old, conditions), body=patch)
        if self.is_refused(answer, old, conditions):
            return
        try:
            document = json.loads(old.value) if old else {}
        except ValueError:
            assert (answer.status, json.loads(answer.body)["code"]) == (409, "not_json")
            return
        self.rewritten(answer, key, text_of(merged(document, json.loads(patch))), "application/json", 0)

    @rule(key=KEYS, by=st.sampled_from([1, -5, 2**63 - 1]), ttl=LIFETIMES, conditions=CONDITIONS)
    def add(self, key: str, by: int, ttl: int | None, conditions: Conditions) -> None:
        old = self.items.get(key)
        query = f"incr={by}" + (f"&ttl_if_new={ttl}" if ttl else "")
        answer = self.ask("POST", key, *self.fields(old, conditions), query=query)
        if self.is_refused(answer, old, conditions):
            return
        try:
            number = number_of(old.value) + by if old else by
        except Refused:
            assert (answer.status, json.loads(answer.body)["code"]) == (409, "not_an_integer")
            return
        if not -(2**63) <= number < 2**63:
            assert (answer.status, json.loads(answer.body)["code"]) == (409, "overflow")
            return
        self.rewritten(answer, key, str(number).encode(), "text/plain", ttl or 0)

    @rule(key=KEYS, ttl=st.sampled_from([None, 50, 500]), conditions=CONDITIONS)
    def touch(self, key: str, ttl: int | None, conditions: Conditions) -> None:
        old = self.items.get(key)
        answer = self.ask(
            "POST", key, *self.fields(old, conditions), query="persist=true" if ttl is None else f"ttl={ttl}"
        )
        if old is None:
            assert answer.status == 404
        elif not self.is_refused(answer, old, conditions):
            assert answer.status == 204
            item = self.shown(key)
            assert item is not None
            assert item._replace(revision=0, expires_ms=0) == old._replace(revision=0, expires_ms=0), "nothing else"
            self.is_new(answer, item, ttl or 0)
            self.items[key] = item

    @rule(key=KEYS, conditions=CONDITIONS)
    def delete(self, key: str, conditions: Conditions) -> None:
        old = self.items.get(key)
        answer = self.ask("DELETE", key, *self.fields(old, conditions))
        if old is None:
            assert answer.status == 404
        elif not self.is_refused(answer, old, conditions):
            assert answer.status == 204 and "etag" not in answer.headers
            assert int(answer.headers["kv-revision"]) > self.last
            self.last = int(answer.headers["kv-revision"])
            del self.items[key]

    @rule(seconds=st.sampled_from([1, 60, 200]))
    def wait(self, seconds: int) -> None:
        """Lifetimes are so long that no test is slow enough to meet their ends by itself."""
        self.site.advance(seconds)
        now_ms = self.site.store.board.now_ms()
        self.items = {key: item for key, item in self.items.items() if not 0 < item.expires_ms <= now_ms}

    @invariant()
    def lists_show_the_same(self) -> None:
        listed = self.site.get(f"/v1/kv?prefix={self.prefix}")["items"]
        assert [item["key"].removeprefix(self.prefix) for item in listed] == sorted(self.items, key=str.encode)

    # What must have come of it

    def ask(self, method: str, key: str, *fields: str, query: str = "", body: bytes = b"") -> Answer:
        path = f"/v1/kv/{quote(self.prefix + key)}"
        return self.site.ask(method, f"{path}?{query}", *fields, body=body)

    def fields(self, item: Item | None, conditions: Conditions) -> list[str]:
        shown = []
        for name, words in conditions.items():
            if isinstance(words, list):
                shown.append(f"{name}: {', '.join(self.tag(item, word) for word in words)}")
            else:
                dates = {"exact": item.date, "before": http_date(1000)} if item else {"exact": LATE, "before": EARLY}
                shown.append(f"{name}: {dates.get(words, words)}")
        return shown

    def tag(self, item: Item | None, word: str) -> str:
        revision = item.revision if item else self.last
        tags = {"now": f'"{revision}"', "weak": f'W/"{revision}"', "coded": f'"{revision}-br"', "strange": '"a,b"'}
        return {**tags, "old": f'"{revision - 1}"', "*": "*"}[word]

    def is_refused(self, answer: Answer, old: Item | None, conditions: Conditions) -> bool:
        """Whether a write must be refused, which `answer` must say then."""
        status = verdict(old, conditions, reads=False)
        if status:
            assert answer.status == status
            self.check_refusal(answer, old, "")
        return bool(status)

    def check_refusal(self, answer: Answer, item: Item | None, method: str) -> None:
        if answer.status == 304 and item is not None:
            self.check_told(answer, item)
            assert answer.body == b"" and "content-type" not in answer.headers
        elif item is None:
            assert "etag" not in answer.headers and "kv-revision" not in answer.headers
        else:
            assert answer.headers["etag"] == f'"{item.revision}"'
            assert method == "HEAD" or json.loads(answer.body)["status"] == 412

    def check_told(self, answer: Answer, item: Item) -> None:
        assert answer.headers["etag"] in (f'"{item.revision}"', f'"{item.revision}-br"')
        assert answer.headers["kv-revision"] == str(item.revision)
        assert answer.headers["last-modified"] == item.date
        assert answer.headers.get("kv-expires") == (rfc3339(item.expires_ms) if item.expires_ms else None)

    def rewritten(self, answer: Answer, key: str, value: bytes, content_type: str, ttl: int) -> None:
        """By a patch or an increment, which keep type and expiry."""
        old = self.items.get(key)
        assert (answer.status, answer.body) == (200 if old else 201, value)
        self.changed(answer, key, value, old.content_type if old else content_type, None if old else ttl)

    def changed(self, answer: Answer, key: str, value: bytes, content_type: str, ttl: int | None) -> None:
        """By a write of `value`; `ttl` in seconds, 0: it never expires, None: the expiry stays."""
        old, item = self.items.get(key), self.shown(key)
        assert item is not None
        assert (item.value, item.content_type) == (value, content_type)
        assert item.created == (old.created if old else item.modified)
        if ttl is None:
            assert old is not None and item.expires_ms == old.expires_ms
        self.is_new(answer, item, ttl)
        self.items[key] = item

    def is_new(self, answer: Answer, item: Item, ttl: int | None) -> None:
        assert item.revision > self.last
        assert answer.headers["kv-revision"] == str(item.revision)
        assert answer.headers["etag"] == f'"{item.revision}"'
        self.last = item.revision
        now_ms = self.site.store.board.now_ms()
        if ttl is not None:
            assert item.expires_ms == 0 if ttl == 0 else 0 <= now_ms + ttl * 1000 - item.expires_ms < 20_000

    def shown(self, key: str) -> Item | None:
        """What the store shows of a key."""
        held = self.site.client.get((self.prefix + key).encode())
        if held is None:
            return None
        return Item(
            held.value,
            held.content_type,
            held.expires_ms,
            held.revision,
            rfc3339(held.created_ms),
            rfc3339(held.modified_ms),
            http_date(held.modified_ms),
        )


def verdict(item: Item | None, conditions: Conditions, *, reads: bool) -> int:
    """304 or 412 if that is what RFC 9110, section 13.2.2, makes of the conditions, else 0."""
    if_match, if_none_match = conditions.get("If-Match"), conditions.get("If-None-Match")
    unmodified, modified = conditions.get("If-Unmodified-Since"), conditions.get("If-Modified-Since")
    if item is None:
        return 412 if if_match is not None else 0
    if if_match is not None:
        if not {"*", "now", "coded"} & set(if_match):
            return 412
    elif unmodified in (EARLY, "before"):
        return 412
    if if_none_match is not None:
        if {"*", "now", "coded", "weak"} & set(if_none_match):
            return 304 if reads else 412
    elif reads and modified in ("exact", LATE):
        return 304
    return 0


def slices(part: str) -> slice:
    first, _, last = part.removeprefix("bytes=").partition("-")
    return slice(int(first), int(last) + 1 if last else None) if first else slice(-int(last), None)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(2, 100_000) as made:
        yield made


def test_any_requests(site: Site) -> None:
    machine = type("Machine", (OverHTTP,), {"site": site})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=effort.times(15),
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
