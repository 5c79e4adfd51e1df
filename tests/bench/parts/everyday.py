"""What applications ask for all day besides plain GETs and PUTs: lifetimes, counters, conditions, small lists and
batches, by version 1, each beside Redis' command for the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from tests.bench import client
from tests.bench.client import Operation, request
from tests.bench.contenders import Contender, KVServer, Webdis
from tests.bench.measure import Findings, Target
from tests.bench.parts import VALUE, Bench, names
from tests.bench.parts.speed import Targets, compare, filled

TARGETS: Final[Targets] = {Webdis: Target("at least", 0.9, "ratio")}
_FEW: Final = 10
"""Keys of a small list, operations of a small batch."""
_COUNTERS, _DOCUMENTS, _EMPTY = "c", "d", "e"
"""What the names of keys begin with that hold a number, JSON, or nothing."""
_ETAG: Final = f'"{hashlib.md5(VALUE).hexdigest()}"'
"""The ETag that Webdis gives to the value."""

Make = Callable[[str], bytes]
"""Makes a request for a key."""


class Row(NamedTuple):
    """A kind of request.

    Attributes:
        ours: how it is asked of kvserver.
        command: Redis' command for the same; empty if it has none.
        theirs: how that is asked of Webdis.
        refused: an answer of 400 or above is what is wanted.
        with_token: it is measured with tokens, too.
        is_plain: it does one small thing to one key, and is wanted to be about as fast as theirs.
    """

    name: str
    ours: Make
    command: str = ""
    theirs: Make | None = None
    refused: bool = False
    with_token: bool = False
    is_plain: bool = True


def everyday(bench: Bench) -> Findings:
    """Measure all of it flushed, what changes something in memory too."""
    findings = Findings()
    with ExitStack() as stack:
        wanted = [*bench.ours(), *bench.ours(tokens=True), Webdis(bench.directory, "always")]
        contenders = _filled(bench, stack, findings, wanted)
        _compare_not_modified(bench, findings, contenders)  # before anything gets another ETag
        for row in READS:
            _compare(bench, findings, row, "", contenders)
        for row in WRITES:
            _compare(bench, findings, row, ", flushed", contenders)
    with ExitStack() as stack:
        wanted = [*bench.ours("--in-memory"), Webdis(bench.directory, "none")]
        contenders = _filled(bench, stack, findings, wanted)
        for row in WRITES:
            _compare(bench, findings, row, ", in memory", contenders)
    return findings


def _filled(bench: Bench, stack: ExitStack, findings: Findings, wanted: Sequence[Contender]) -> list[Contender]:
    contenders = filled(bench, stack, findings, wanted)
    for contender in contenders:
        contender.fill([_COUNTERS + key for key in names(contender.most_keys)], b"1")
        contender.fill([_EMPTY + key for key in names(contender.most_keys)], b"")
    return contenders


def _compare(bench: Bench, findings: Findings, row: Row, suffix: str, contenders: Sequence[Contender]) -> None:
    requests: dict[Contender, list[bytes]] = {}
    for contender in contenders:
        if isinstance(contender, KVServer):
            if row.with_token or not contender.authorization:
                requests[contender] = [
                    client.authorize(row.ours(key), contender.authorization) for key in names(contender.most_keys)
                ]
        elif row.theirs is not None:
            requests[contender] = [row.theirs(key) for key in names(contender.most_keys)]
    case = row.name + suffix + (f" ({row.command})" if row.command else "")
    compare(bench, findings, case, requests, targets=TARGETS if row.is_plain else {}, refusals=row.refused)


def _compare_not_modified(bench: Bench, findings: Findings, contenders: Sequence[Contender]) -> None:
    """Compare GETs with the ETag of what the client has; Webdis answers 304 as well."""
    requests: dict[Contender, list[bytes]] = {}
    for contender in contenders:
        keys = names(contender.most_keys)
        if isinstance(contender, KVServer):
            known = zip(keys, contender.revisions(keys), strict=True)
            asked = [_version1("GET", key, If_None_Match=f'"{revision}"') for key, revision in known]
            requests[contender] = [client.authorize(each, contender.authorization) for each in asked]
        else:
            requests[contender] = [request("GET", f"/GET/{key}.txt", If_None_Match=_ETAG) for key in keys]
    compare(bench, findings, "GET, 304 (GET, 304)", requests, targets=TARGETS)


def _version1(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    return request(method, f"/v1/kv/{target}", body, **headers)


def _command(*words: str) -> bytes:
    return request("GET", "/" + "/".join(words))


def _passed_on(method: str, key: str, body: bytes | None = None) -> bytes:
    """Return a request as a proxy passes it on, for one of many clients, each request with an id of its own."""
    return _version1(
        method,
        key,
        body,
        X_Forwarded_For=f"203.0.113.{random.randrange(250)}",
        X_Forwarded_Proto="https",
        X_Request_Id=f"{random.randrange(1 << 63):032x}",
    )


def _put_of(*words: str) -> bytes:
    """Return a command whose last word, the value, is the body."""
    return request("PUT", "/" + "/".join(words), VALUE)


def _next_keys(key: str) -> list[str]:
    """Return `key` and others, as many as a small batch has; distinct ones."""
    first = int(key[1:])
    return [names(1, (first + step * 7919) % Contender.most_keys)[0] for step in range(_FEW)]


def _list(key: str) -> bytes:
    return request("GET", f"/v1/kv?after={key}&limit={_FEW}")


def _scan() -> bytes:
    return _command("SCAN", "0", "COUNT", str(_FEW))


def _gets(keys: list[str]) -> bytes:
    return client.batch([{"op": "get", "key": key} for key in keys], packed=False)


def _puts(keys: list[str]) -> bytes:
    operations: list[Operation] = [{"op": "put", "key": key, "value": VALUE.decode()} for key in keys]
    return client.batch(operations, packed=False)


def _mset(key: str) -> bytes:
    return _command("MSET", *(word for each in _next_keys(key) for word in (each, VALUE.decode())))


def _patch(key: str) -> bytes:
    body = json.dumps({"n": random.randrange(1000)}).encode()
    return _version1("PATCH", _DOCUMENTS + key, body, Content_Type="application/merge-patch+json")


READS: Final = (
    Row("GET", lambda key: _version1("GET", key), "GET", lambda key: _command("GET", f"{key}.txt"), with_token=True),
    Row("GET behind a proxy", lambda key: _passed_on("GET", key), "GET", lambda key: _command("GET", f"{key}.txt")),
    # of an empty value: behind any other Content-Length wrk waits for the body
    Row("HEAD", lambda key: _version1("HEAD", _EMPTY + key), "STRLEN", lambda key: _command("STRLEN", _EMPTY + key)),
    Row(
        "GET of a range",
        lambda key: _version1("GET", key, Range="bytes=0-9"),
        "GETRANGE",
        lambda key: _command("GETRANGE", key, "0", "9"),
    ),
    Row(
        "GET, 404",
        lambda key: _version1("GET", f"no-{key}"),
        "GET, 404",
        lambda key: _command("GET", f"no-{key}.txt"),
        refused=True,
    ),
    Row(f"list of {_FEW}", _list, "SCAN", lambda _: _scan(), with_token=True, is_plain=False),
    Row("batch of one get", lambda key: _gets([key]), "GET", lambda key: _command("GET", key), is_plain=False),
    Row(
        f"batch of {_FEW} gets",
        lambda key: _gets(_next_keys(key)),
        "MGET",
        lambda key: _command("MGET", *_next_keys(key)),
        with_token=True,
        is_plain=False,
    ),
)

WRITES: Final = (
    Row("PUT", lambda key: _version1("PUT", key, VALUE), "SET", lambda key: _put_of("SET", key), with_token=True),
    Row("PUT behind a proxy", lambda key: _passed_on("PUT", key, VALUE), "SET", lambda key: _put_of("SET", key)),
    Row(
        "increment",
        lambda key: _version1("POST", f"{_COUNTERS}{key}?incr=1", b""),
        "INCRBY",
        lambda key: _command("INCRBY", _COUNTERS + key, "1"),
        with_token=True,
    ),
    Row(
        "touch",
        lambda key: _version1("POST", f"{_COUNTERS}{key}?ttl=3600", b""),
        "EXPIRE",
        lambda key: _command("EXPIRE", _COUNTERS + key, "3600"),
    ),
    Row("merge patch", _patch, "HSET", lambda key: _command("HSET", _DOCUMENTS + key, "n", "1"), is_plain=False),
    Row("batch of one put", lambda key: _puts([key]), "SET", lambda key: _put_of("SET", key), is_plain=False),
    Row(f"batch of {_FEW} puts", lambda key: _puts(_next_keys(key)), "MSET", _mset, with_token=True, is_plain=False),
    Row(
        "PUT, condition held",
        lambda key: _version1("PUT", key, VALUE, If_Match="*"),
        "SET XX",
        lambda key: _command("SET", key, VALUE.decode(), "XX"),
        with_token=True,
    ),
    Row(
        "PUT, condition refused",
        lambda key: _version1("PUT", key, VALUE, If_None_Match="*"),
        "SETNX refused",
        lambda key: _put_of("SETNX", key),
        refused=True,
    ),
    Row(
        "increment of a text, refused",
        lambda key: _version1("POST", f"{key}?incr=1", b""),
        "INCRBY refused",
        lambda key: _command("INCRBY", key, "1"),
        refused=True,
    ),
    Row(
        "DELETE of nothing, 404",
        lambda key: _version1("DELETE", f"no-{key}"),
        "DEL",
        lambda key: _command("DEL", f"no-{key}"),
        refused=True,
    ),
    # last, for keys that expire would not be there for conditions
    Row(
        "PUT, ttl",
        lambda key: _version1("PUT", f"{key}?ttl=60", VALUE),
        "SETEX",
        lambda key: _put_of("SETEX", key, "60"),
        with_token=True,
    ),
)
