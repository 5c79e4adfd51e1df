"""The header Idempotency-Key over three real shards: repeats, other requests, what is remembered, and for how long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kvserver.access.grants import Grants
from kvserver.access.tokens import Token, hash_token, publish_tokens
from kvserver.api.times import rfc3339
from shards.wire.outcomes import KEEP_MS
from shards.wire.protocol import REMEMBERED_BYTES
from tests.api.kvserver.rest.sites import MAX_VALUE
from tests.api.site import Site, running_site
from tests.api.web import Answer, request

MERGE = "Content-Type: application/merge-patch+json"
VARIES = {"date", "idempotency-replayed"}


@pytest.fixture
def site(running: Site) -> Site:
    """An empty store that remembers nothing."""
    assert running.delete("/v1/kv?all=true")["complete"]
    running.advance(KEEP_MS // 1000)
    return running


def shown(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What repeats of an answer share."""
    return answer.status, {name: each for name, each in answer.headers.items() if name not in VARIES}, answer.body


def is_replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def repeat(site: Site, method: str, target: str, *fields: str, body: bytes = b"") -> Answer:
    """Ask twice, the second time of another process than the shard's: nothing is done then, and the answer is alike."""
    first = site.ask(method, target, *fields, body=body)
    assert not is_replayed(first), first
    end = site.store.board.last_revision()
    second = site.ask(method, target, *fields, body=body)
    assert is_replayed(second), second
    assert shown(second) == shown(first)
    assert site.store.board.last_revision() == end
    return second


class TestOneKey:
    @pytest.mark.parametrize(
        ("method", "query", "fields", "body", "status"),
        [
            ("PUT", "", (), b"x", 204),
            ("PUT", "?ttl=60", ("Content-Type: text/plain",), b"x", 204),
            ("PUT", "?return=previous", (), b"x", 200),
            ("PATCH", "", (MERGE,), b'{"n":1}', 200),
            ("POST", "?ttl=60", (), b"", 204),
            ("POST", "?persist=true", (), b"", 204),
            ("DELETE", "", (), b"", 204),
        ],
    )
    @pytest.mark.parametrize("length", [1, 64])
    def test_is_repeated(
        self, site: Site, method: str, query: str, fields: tuple[str, ...], body: bytes, status: int, length: int
    ) -> None:
        site.ask("PUT", "/v1/kv/k", "Content-Type: a/b", body=b"{}")
        answer = repeat(site, method, f"/v1/kv/k{query}", f"Idempotency-Key: {'k' * length}", *fields, body=body)
        assert answer.status == status
        assert "kv-revision" in answer.headers

    @pytest.mark.parametrize(
        ("method", "query", "fields", "body"),
        [("PUT", "?return=previous", (), b"x"), ("PATCH", "", (MERGE,), b'{"n":1}'), ("POST", "?incr=5", (), b"")],
    )
    def test_of_a_new_key(self, site: Site, method: str, query: str, fields: tuple[str, ...], body: bytes) -> None:
        answer = repeat(site, method, f"/v1/kv/new{query}", "Idempotency-Key: new", *fields, body=body)
        assert answer.status == 201

    def test_is_answered_as_then_whatever_came_after(self, site: Site) -> None:
        first = site.ask("POST", "/v1/kv/n?incr=5", "Idempotency-Key: a")
        site.ask("POST", "/v1/kv/n?incr=2")
        again = site.ask("POST", "/v1/kv/n?incr=5", "Idempotency-Key: a")
        assert (again.body, again.headers["etag"]) == (b"5", first.headers["etag"])
        site.ask("DELETE", "/v1/kv/n")
        assert shown(site.ask("POST", "/v1/kv/n?incr=5", "Idempotency-Key: a")) == shown(again)
        assert site.ask("GET", "/v1/kv/n").status == 404

    def test_a_condition_that_held_then_need_not_hold_now(self, site: Site) -> None:
        tag = site.ask("PUT", "/v1/kv/k", body=b"1").headers["etag"]
        repeat(site, "PUT", "/v1/kv/k", f"If-Match: {tag}", "Idempotency-Key: a", body=b"2")
        repeat(site, "PUT", "/v1/kv/new", "If-None-Match: *", "Idempotency-Key: b", body=b"2")
        repeat(site, "DELETE", "/v1/kv/new", "If-Match: *", "Idempotency-Key: c")

    def test_a_date_that_held_then_need_not_hold_now(self, site: Site) -> None:
        modified = site.ask("PUT", "/v1/kv/k", body=b"1") and site.ask("GET", "/v1/kv/k").headers["last-modified"]
        site.advance(5)
        fields = (f"If-Unmodified-Since: {modified}", "Idempotency-Key: a")
        repeat(site, "PUT", "/v1/kv/k", *fields, body=b"2")
        refused = site.ask("PUT", "/v1/kv/k", fields[0], "Idempotency-Key: b", body=b"2")
        assert refused.status == 412
        assert refused.headers["etag"] == site.ask("GET", "/v1/kv/k").headers["etag"]
        repeat(site, "PUT", "/v1/kv/none", fields[0], "Idempotency-Key: c", body=b"2")

    def test_a_time_that_was_to_come_then_may_be_past_now(self, site: Site) -> None:
        soon = rfc3339(site.store.board.now().wall_ms + 60_000)
        first = site.ask("PUT", f"/v1/kv/k?expires={soon}", "Idempotency-Key: a", body=b"x")
        body = json.dumps({"ops": [{"op": "put", "key": "b", "value": "x", "expires": soon}]}).encode()
        in_batch = site.ask("POST", "/v1/batch", "Idempotency-Key: b", body=body)
        site.advance(120)
        assert site.ask("PUT", f"/v1/kv/k?expires={soon}", body=b"x").status == 400
        again = site.ask("PUT", f"/v1/kv/k?expires={soon}", "Idempotency-Key: a", body=b"x")
        assert is_replayed(again) and shown(again) == shown(first) and again.headers["kv-expires"] == soon
        again = site.ask("POST", "/v1/batch", "Idempotency-Key: b", body=body)
        assert is_replayed(again) and shown(again) == shown(in_batch)

    def test_pages_may_send_the_key_and_read_what_became_of_it(self, site: Site) -> None:
        answer = site.ask("OPTIONS", "/v1/kv/k", "Origin: http://a.example")
        assert "Idempotency-Key" in answer.headers["access-control-allow-headers"].split(", ")
        page = ("Origin: http://a.example", "Idempotency-Key: a")
        answer = repeat(site, "PUT", "/v1/kv/k", *page, body=b"x")
        assert "Idempotency-Replayed" in answer.headers["access-control-expose-headers"].split(", ")

    def test_a_large_result_is_left_out(self, site: Site) -> None:
        large = b'{"v":"%b"}' % (b"x" * REMEMBERED_BYTES)
        edge = b"y" * REMEMBERED_BYTES
        site.ask("PUT", "/v1/kv/k", body=edge)
        repeat(site, "PUT", "/v1/kv/k?return=previous", "Idempotency-Key: edge", body=large)
        for status, method, target, fields, body in (
            (204, "PUT", "/v1/kv/k?return=previous", ("Idempotency-Key: a",), large),
            (204, "PATCH", "/v1/kv/k", ("Idempotency-Key: b", MERGE), b'{"w":1}'),
            (201, "PATCH", "/v1/kv/new", ("Idempotency-Key: c", MERGE), large),
        ):
            first = site.ask(method, target, *fields, body=body)
            again = site.ask(method, target, *fields, body=body)
            assert is_replayed(again) and (again.status, again.body) == (status, b"")
            assert len(first.body) > REMEMBERED_BYTES
            assert again.headers["kv-revision"] == first.headers["kv-revision"]
            assert again.headers["etag"] == f'"{first.headers["kv-revision"]}"'

    def test_what_was_refused_or_changed_nothing_is_decided_anew(self, site: Site) -> None:
        key = "Idempotency-Key: a"
        assert site.ask("PUT", "/v1/kv/k", "If-Match: *", key, body=b"1").status == 412
        assert site.ask("DELETE", "/v1/kv/k", key).status == 404
        assert site.ask("POST", "/v1/kv/k?ttl=5", key).status == 404
        site.ask("PUT", "/v1/kv/k", body=b"x")
        assert site.ask("POST", "/v1/kv/k?incr=1", key).status == 409
        repeat(site, "PUT", "/v1/kv/k", "If-Match: *", key, body=b"1")

    def test_is_known_for_ten_minutes(self, site: Site) -> None:
        repeat(site, "POST", "/v1/kv/n?incr=1", "Idempotency-Key: a")
        site.advance(KEEP_MS // 1000 - 2)
        assert is_replayed(site.ask("POST", "/v1/kv/n?incr=1", "Idempotency-Key: a"))
        site.advance(2)
        assert site.ask("POST", "/v1/kv/n?incr=1", "Idempotency-Key: a").body == b"2"
        assert site.ask("POST", "/v1/kv/n?incr=1", "Idempotency-Key: a").body == b"2"

    def test_is_not_known_to_reads_nor_at_the_root(self, site: Site) -> None:
        bad = "Idempotency-Key: no key, surely"
        for fields in (("Idempotency-Key: a", "Idempotency-Key: b"), (bad,), ("Idempotency-Key: a",)):
            for body in (b"1", b"2"):
                assert site.ask("PUT", "/k", *fields, body=body).status == 200
                assert site.ask("GET", "/k", *fields).body == body
                assert site.ask("GET", "/v1/kv/k", *fields).body == body
                assert site.ask("HEAD", "/v1/kv/k", *fields).status == 200
            assert site.ask("DELETE", "/k", *fields).body == b"2"


class TestOther:
    FIRST = ("PUT", "/v1/kv/k?ttl=60", ("Content-Type: a/b", "If-None-Match: *"), b"x")

    @pytest.mark.parametrize(
        ("method", "target", "fields", "body"),
        [
            ("PUT", "/v1/kv/k?ttl=60", FIRST[2], b"y"),
            ("PUT", "/v1/kv/k?ttl=61", FIRST[2], b"x"),
            ("PUT", "/v1/kv/k", FIRST[2], b"x"),
            ("PUT", "/v1/kv/k?ttl=60", (FIRST[2][0],), b"x"),
            ("PUT", "/v1/kv/k?ttl=60", (FIRST[2][1],), b"x"),
            ("PUT", "/v1/kv/k?ttl=60", ("Content-Type: a/c", FIRST[2][1]), b"x"),
            ("PUT", "/v1/kv/%7Bk%7Dl?ttl=60", FIRST[2], b"x"),
            ("DELETE", "/v1/kv/k", (), b""),
            ("POST", "/v1/kv/k?incr=1", (), b""),
            ("PATCH", "/v1/kv/k", (MERGE,), b"{}"),
            ("POST", "/v1/batch", (), b'{"ops":[{"op":"delete","key":"k"}],"atomic":true}'),
        ],
    )
    def test_is_refused(self, site: Site, method: str, target: str, fields: tuple[str, ...], body: bytes) -> None:
        key = "Idempotency-Key: a"
        assert repeat(site, *self.FIRST[:2], key, *self.FIRST[2], body=self.FIRST[3]).status == 201
        end = site.store.board.last_revision()
        problem = site.problem(422, method, target, key, *fields, body=body)
        assert problem["code"] == "idempotency_mismatch"
        assert site.store.board.last_revision() == end
        again = site.ask(*self.FIRST[:2], key, *self.FIRST[2], body=self.FIRST[3])
        assert is_replayed(again)

    def test_is_refused_at_every_shard(self, site: Site) -> None:
        key = "Idempotency-Key: a"
        paths = [f"/v1/kv/k{number}" for number in range(20)]  # of all shards
        site.ask("PUT", paths[0], key, body=b"x")
        for path in paths[1:]:
            assert site.problem(422, "PUT", path, key, body=b"x")["code"] == "idempotency_mismatch"
            body = b'{"ops":[{"op":"delete","key":"%b"}]}' % path[7:].encode()
            answer = site.ask("POST", "/v1/batch", key, body=body)
            assert b"idempotency_mismatch" in answer.body
        assert site.keys("/v1/kv") == ["k0"]
        site.advance(KEEP_MS // 1000)
        assert site.ask("PUT", paths[1], key, body=b"x").status == 201
        assert site.ask("PUT", paths[2], key, body=b"x").status == 422

    def test_headers_that_change_nothing_may_differ(self, site: Site) -> None:
        site.ask("PUT", "/v1/kv/k", "Idempotency-Key: a", "X-Request-Id: 1", body=b"x")
        assert is_replayed(site.ask("PUT", "/v1/kv/k", "Idempotency-Key: a", "User-Agent: curl", body=b"x"))
        assert is_replayed(site.ask("PUT", "/v1/kv/%6B", "Idempotency-Key: a", body=b"x"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("Idempotency-Key:",), "1 to 64"),
        (("Idempotency-Key: " + "a" * 65,), "1 to 64"),
        (("Idempotency-Key: a b",), "1 to 64"),
        (('Idempotency-Key: "a"',), "1 to 64"),
        (("Idempotency-Key: a", "Idempotency-Key: a"), "twice"),
    ],
)
@pytest.mark.parametrize(
    ("method", "target", "more", "body"),
    [
        ("PUT", "/v1/kv/k", (), b"x"),
        ("PATCH", "/v1/kv/k", (MERGE,), b"{}"),
        ("POST", "/v1/kv/k?incr=1", (), b""),
        ("DELETE", "/v1/kv/k", (), b""),
        ("POST", "/v1/batch", (), b'{"ops":[]}'),
    ],
)
def test_a_malformed_key_is_refused(
    site: Site, fields: tuple[str, ...], said: str, method: str, target: str, more: tuple[str, ...], body: bytes
) -> None:
    problem = site.problem(400, method, target, *fields, *more, body=body)
    assert problem["code"] == "bad_request" and "Idempotency-Key" in problem["detail"] and said in problem["detail"]


class TestBatch:
    def ask(self, site: Site, key: str, *ops: dict[str, Any], atomic: bool = False) -> tuple[list[Any], bool]:
        body = json.dumps({"ops": ops, "atomic": atomic}).encode()
        answer = site.ask("POST", "/v1/batch", f"Idempotency-Key: {key}", body=body)
        assert answer.status == 200, answer
        return json.loads(answer.body)["results"], is_replayed(answer)

    def test_each_operation_is_known(self, site: Site) -> None:
        ops: list[dict[str, Any]] = [
            {"op": "incr", "key": f"n{number % 7}", "by": 1} for number in range(40)
        ]  # over all shards, in the order of each key
        ops += [
            {"op": "put", "key": "p", "value": "x", "ttl": 60},
            {"op": "patch", "key": "j", "patch": {"a": 1}},
            {"op": "touch", "key": "p", "persist": True},
            {"op": "delete", "key": "p"},
            {"op": "incr", "key": "n0", "by": 1},
        ]
        first, was_replayed = self.ask(site, "b", *ops)
        assert not was_replayed and all(result["status"] < 300 for result in first)
        end = site.store.board.last_revision()
        assert self.ask(site, "b", *ops) == (first, True)
        assert site.store.board.last_revision() == end

    def test_what_failed_is_done_by_the_repeat(self, site: Site) -> None:
        ops = [{"op": "incr", "key": "n", "by": 1}, {"op": "put", "key": "k", "value": "x", "if_revision": 0}]
        site.ask("PUT", "/v1/kv/k", body=b"in the way")
        first, _ = self.ask(site, "b", *ops)
        assert [result["status"] for result in first] == [201, 412]
        site.ask("DELETE", "/v1/kv/k")
        second, was_replayed = self.ask(site, "b", *ops)
        assert [result["status"] for result in second] == [201, 201] and was_replayed
        assert self.ask(site, "b", *ops) == (second, True)
        assert site.ask("GET", "/v1/kv/n").body == b"1"

    def test_gets_are_read_again(self, site: Site) -> None:
        ops: list[dict[str, Any]] = [
            {"op": "get", "key": "n"},
            {"op": "incr", "key": "n", "by": 1},
            {"op": "get", "key": "n"},
        ]
        first, _ = self.ask(site, "b", *ops)
        assert [result.get("value") for result in first] == [None, "1", "1"]
        site.ask("POST", "/v1/kv/n?incr=5")
        second, _ = self.ask(site, "b", *ops)
        assert [result.get("value") for result in second] == ["6", "1", "6"]

    @pytest.mark.parametrize("was_atomic", [False, True])
    @pytest.mark.parametrize("atomic", [False, True])
    def test_another_batch_is_refused_as_a_whole(self, site: Site, was_atomic: bool, atomic: bool) -> None:
        ops = [{"op": "incr", "key": f"{{t}}{name}", "by": 1} for name in "abc"]
        self.ask(site, "b", *ops[:2], atomic=was_atomic)
        end = site.store.board.last_revision()
        body = json.dumps({"ops": ops, "atomic": atomic}).encode()
        assert site.problem(422, "POST", "/v1/batch", "Idempotency-Key: b", body=body)["code"] == "idempotency_mismatch"
        assert site.store.board.last_revision() == end

    def test_another_batch_is_refused_where_only_a_later_operation_was_done(self, site: Site) -> None:
        refused, done = {"op": "put", "key": "k", "value": "x", "if_revision": 7}, {"op": "incr", "key": "n", "by": 1}
        assert [result["status"] for result in self.ask(site, "b", refused, done)[0]] == [412, 201]
        body = json.dumps({"ops": [done, done]}).encode()
        assert site.problem(422, "POST", "/v1/batch", "Idempotency-Key: b", body=body)["code"] == "idempotency_mismatch"
        assert site.ask("GET", "/v1/kv/n").body == b"1"

    def test_an_atomic_one_is_known_as_a_whole(self, site: Site) -> None:
        ops: list[dict[str, Any]] = [
            {"op": "incr", "key": "{t}n", "by": 1},
            {"op": "get", "key": "{t}n"},
            {"op": "delete", "key": "{t}absent"},
            {"op": "put", "key": "{t}p", "value": "x", "ttl": 60},
            {"op": "touch", "key": "{t}p", "ttl": 70},
            {"op": "delete", "key": "{t}p"},
        ]
        first, was_replayed = self.ask(site, "b", *ops, atomic=True)
        assert not was_replayed and [result["status"] for result in first] == [201, 200, 404, 201, 204, 204]
        end = site.store.board.last_revision()
        site.ask("POST", "/v1/kv/%7Bt%7Dn?incr=5")
        assert self.ask(site, "b", *ops, atomic=True) == (first, True)
        assert site.store.board.last_revision() == end + 1
        problem = site.problem(
            422,
            "POST",
            "/v1/batch",
            "Idempotency-Key: b",
            body=b'{"ops":[%b],"atomic":true}' % (json.dumps(ops[0]).encode()),
        )
        assert problem["code"] == "idempotency_mismatch"

    def test_an_atomic_one_that_failed_is_decided_anew(self, site: Site) -> None:
        body = b'{"ops":[{"op":"incr","key":"n"},{"op":"touch","key":"{n}k","ttl":5}],"atomic":true}'
        assert site.problem(409, "POST", "/v1/batch", "Idempotency-Key: b", body=body)["failed"] == 1
        site.ask("PUT", "/v1/kv/%7Bn%7Dk", body=b"x")
        assert repeat(site, "POST", "/v1/batch", "Idempotency-Key: b", body=body).status == 200
        assert site.ask("GET", "/v1/kv/n").body == b"1"

    def test_values_of_an_atomic_one_above_the_limit_are_left_out(self, site: Site) -> None:
        site.ask("PUT", "/v1/kv/%7Bt%7Dlarge", body=b"x" * REMEMBERED_BYTES)
        ops: list[dict[str, Any]] = [
            {"op": "get", "key": "{t}large"},
            {"op": "incr", "key": "{t}n"},
            {"op": "get", "key": "{t}absent"},
        ]
        first, _ = self.ask(site, "b", *ops, atomic=True)
        second, was_replayed = self.ask(site, "b", *ops, atomic=True)
        assert was_replayed
        for before, after, status in zip(first, second, (200, 201, 404), strict=True):
            assert after["status"] == before["status"] == status and after.get("revision") == before.get("revision")
            assert "value" not in after

    def test_ten_thousand_operations(self, site: Site) -> None:
        ops = [{"op": "incr", "key": f"{{t}}{number % 10}", "by": 1} for number in range(10_000)]
        for key, atomic in (("each", False), ("atomic", True)):
            first, _ = self.ask(site, key, *ops, atomic=atomic)
            second, was_replayed = self.ask(site, key, *ops, atomic=atomic)
            assert was_replayed
            assert [result["revision"] for result in second] == [result["revision"] for result in first]

    def test_in_message_pack(self, site: Site) -> None:
        body = b"\x81\xa3ops\x91\x82\xa2op\xa4incr\xa3key\xa1n"
        repeat(site, "POST", "/v1/batch", "Idempotency-Key: b", "Content-Type: application/msgpack", body=body)
        assert site.ask("GET", "/v1/kv/n").body == b"1"


class TestTogether:
    def test_of_many_at_once_one_is_done(self, site: Site) -> None:
        async def main() -> list[Answer]:
            asks = [request("POST", "/v1/kv/n?incr=1", "Idempotency-Key: a") for _ in range(50)]
            return await asyncio.gather(*(site.front.ask(ask) for ask in asks))

        answers = site.run(main())
        assert {(answer.status, answer.body) for answer in answers} == {(201, b"1")}
        assert sum(not is_replayed(answer) for answer in answers) == 1

    def test_of_other_requests_at_once_one_is_done(self, site: Site) -> None:
        async def main() -> list[Answer]:
            asks = [request("POST", f"/v1/kv/n?incr={number}", "Idempotency-Key: a") for number in range(1, 20)]
            return await asyncio.gather(*(site.front.ask(ask) for ask in asks))

        assert sorted(answer.status for answer in site.run(main())) == [201] + [422] * 18

    def test_batches_of_two_shards_that_came_at_once_are_both_known(self, site: Site) -> None:
        """Both may be done, since neither shard knows of the other; then each repeat is answered as its first."""

        def ask(name: str, number: int) -> bytes:
            body = json.dumps({"ops": [{"op": "incr", "key": f"{name}{number}"}]}).encode()
            return request("POST", "/v1/batch", f"Idempotency-Key: {number}", body=body)

        async def ask_both(number: int) -> list[Answer]:
            return await asyncio.gather(*(site.front.ask(ask(name, number)) for name in "ab"))

        both_done = 0
        for number in range(40):
            first = site.run(ask_both(number))
            if [answer.status for answer in first] == [200, 200] and b"422" not in first[0].body + first[1].body:
                both_done += 1
                repeats = [site.run(site.front.ask(ask(name, number))) for name in "ab"]
                assert [shown(answer) for answer in repeats] == [shown(answer) for answer in first]
        assert both_done

    def test_of_one_group_with_the_revisions_it_gets(self, site: Site) -> None:
        async def main() -> list[Answer]:
            asks = []
            for number in range(10):
                put = request("PUT", "/v1/kv/k?return=previous", f"Idempotency-Key: {number}", body=b"%d" % number)
                asks += [put, put]
            return await asyncio.gather(*(site.front.ask(ask) for ask in asks))

        answers = site.run(main())
        revisions = [int(answer.headers["kv-revision"]) for answer in answers]
        for one, other in zip(answers[::2], answers[1::2], strict=True):
            assert shown(one) == shown(other) and is_replayed(one) != is_replayed(other)
        assert len(set(revisions)) == 10
        last = {answer.headers["kv-revision"]: answer.headers.get("kv-previous-revision") for answer in answers}
        assert sorted(last.values(), key=lambda each: int(each or 0))[1:] == sorted(last, key=int)[:-1]


def test_tokens_do_not_see_each_other() -> None:
    def token(name: str, secret: bytes) -> tuple[Token, str]:
        known = hash_token(secret)
        made = Token(known, Grants(name, known.hex()[:16], read=(b"",), write=(b"",)))
        return made, f"Authorization: Bearer {secret.decode()}"

    ann, as_ann = token("ann", b"ann-secret")
    bob, as_bob = token("bob", b"bob-secret")
    new, as_new = token("ann", b"new-secret")
    with running_site(1, MAX_VALUE) as site:
        publish_tokens(site.store.board, [ann, bob, new])
        assert site.front.context.tokens.refresh()
        for bearer, value in ((as_ann, b"1"), (as_bob, b"2"), (as_new, b"1"), (as_bob, b"2")):
            answer = site.ask("POST", "/v1/kv/n?incr=1", "Idempotency-Key: a", bearer)
            assert answer.body == value, "a token that is replaced under its name knows what was done"
