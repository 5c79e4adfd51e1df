"""Which Idempotency-Keys are taken, and that requests are known apart by all that decides what they do."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.http.idempotency import PATTERN, mark_request, read_key
from shards.wire.errors import BadRequest
from shards.wire.protocol import Delete, Once

ALLOWED = (string.ascii_letters + string.digits + "._~-").encode()
PARTS = st.binary(max_size=3)
REQUEST = st.fixed_dictionaries(
    {
        "key": st.binary(min_size=1, max_size=2),
        "token": st.text("ab1:", max_size=3),
        "method": st.sampled_from(["PUT", "DELETE", "POST"]),
        "path": PARTS,
        "query": PARTS,
        "content_type": st.text("ab1:", max_size=3),
        "conditions": st.lists(
            st.tuples(st.sampled_from([b"if-match", b"if-none-match", b"if-unmodified-since"]), PARTS), max_size=2
        ),
        "body": PARTS,
    }
)


class TestKey:
    def test_without_one(self) -> None:
        assert read_key([]) == b""
        assert read_key([(b"idempotency-keys", b"a"), (b"accept", b"*/*")]) == b""

    @pytest.mark.parametrize("key", [b"a", b"A" * 64, ALLOWED[:64], ALLOWED[2:]])
    def test_valid(self, key: bytes) -> None:
        assert read_key([(b"host", b"h"), (b"idempotency-key", b" " + key + b"\t")]) == key

    @pytest.mark.parametrize("key", [b"", b" ", b"A" * 65, b"a b", b"a,b", b'"a"', b"\xe9", b"a/b", b"a\n"])
    def test_malformed(self, key: bytes) -> None:
        with pytest.raises(BadRequest, match="1 to 64 of"):
            read_key([(b"idempotency-key", key)])

    @pytest.mark.parametrize("second", [b"a", b"b", b""])
    def test_given_twice(self, second: bytes) -> None:
        with pytest.raises(BadRequest, match="twice"):
            read_key([(b"idempotency-key", b"a"), (b"idempotency-key", second)])

    @given(
        st.binary(max_size=70).filter(lambda key: key == key.strip(b" \t"))
        | st.text(ALLOWED.decode(), max_size=70).map(str.encode)
    )
    def test_is_what_the_pattern_says(self, key: bytes) -> None:
        valid = re.fullmatch(PATTERN, key.decode("latin-1")) is not None and not key.endswith(b"\n")
        if valid:
            assert read_key([(b"idempotency-key", key)]) == key
        else:
            with pytest.raises(BadRequest):
                read_key([(b"idempotency-key", key)])


class TestMark:
    @given(REQUEST, REQUEST)
    def test_tells_requests_apart(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        marks = mark_request(**one), mark_request(**other)
        assert (marks[0].name == marks[1].name) == all(one[part] == other[part] for part in ("key", "token"))
        decisive = ("method", "path", "query", "content_type", "conditions", "body")
        assert (marks[0].fingerprint == marks[1].fingerprint) == all(one[part] == other[part] for part in decisive)

    def test_other_headers_do_not_count(self) -> None:
        marks = {
            mark_request(b"k", "", "PUT", b"a", b"", "", headers, b"")
            for headers in ([], [(b"x-request-id", b"1")], [(b"user-agent", b"curl"), (b"accept", b"*/*")])
        }
        assert len(marks) == 1

    @given(st.integers(0, 65535), st.integers(0, 65535))
    def test_each_operation_of_a_batch_has_an_identity(self, one: int, other: int) -> None:
        mark = mark_request(b"k", "", "POST", b"/v1/batch", b"", "", [], b"{}")
        marked = [mark.mark_operation(Delete(b"k"), index) for index in (one, other)]
        assert all(isinstance(once, Once) and len(once.identity) == 18 for once in marked)
        assert (marked[0].identity == marked[1].identity) == (one == other)
        assert marked[0].fingerprint == marked[1].fingerprint == mark.fingerprint
