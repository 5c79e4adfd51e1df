"""What a PUT of one key takes while somebody else asks for the most that the server does, by each kind of request."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import msgspec

from tests.bench import client
from tests.bench.contenders import KVServer
from tests.bench.measure import Findings, Round, Target, latencies
from tests.bench.parts import VALUE, Bench

PUT_MS = 100.0
"""What the PUT may take."""
FLOOD = 16
"""Connections that send small requests."""
_LEAST_S, _LEAST_PUTS = 2.0, 100
_DOCUMENT: Final = b'{"z":0,' + b",".join(b'"key%d":[%d,1.5,"text"]' % (n, n) for n in range(150_000)) + b"}"
_LARGE: Final = bytes(5_000_000)
_OPERATIONS: Final = 10_000

Requests = Callable[[], list[bytes]]


def stranger(bench: Bench) -> Findings:
    """One worker and one shard, so that everybody shares them; each kind is sent again and again."""
    findings = Findings()
    with KVServer(bench.directory, "--workers", "1", "--shards", "1") as ours:
        bench.say(f"filling {bench.keys} keys")
        ours.fill((f"many/{number:08d}" for number in range(bench.keys)), VALUE)
        with client.Connection(ours.port) as connection:
            for name, value in {"document": _DOCUMENT, "large": _LARGE, "number": b"1"}.items():
                connection.ask(ours.put(name, value))
        rounds: dict[str, list[Round]] = {"alone": [_beside(ours, [], 0) for _ in range(bench.rounds)]}
        for kind, (connections, requests) in _KINDS.items():
            bench.say(kind)
            rounds[kind] = [_beside(ours, requests(), connections) for _ in range(bench.rounds)]
        bench.say("a prefix delete")
        rounds["a prefix delete"] = [_beside(ours, [_get("DELETE", "/v1/kv?prefix=many/")], 1)]
        targets = {(kind, "p99 ms"): Target("at most", PUT_MS) for kind in rounds}
        findings.add("PUT of 100 bytes", rounds, targets)
    return findings


def _beside(ours: KVServer, requests: Sequence[bytes], connections: int) -> Round:
    """PUTs, one after the other, while `connections` send `requests`."""
    puts = itertools.cycle([ours.put(f"stranger-{number}", VALUE) for number in range(100)])
    with _sending(ours.port, requests, connections), client.Pulse(ours.port, puts) as pulse:
        give_up_at, least = time.monotonic() + 60, time.monotonic() + _LEAST_S
        while time.monotonic() < give_up_at and (time.monotonic() < least or len(pulse.seconds) < _LEAST_PUTS):
            time.sleep(0.05)
    return latencies(pulse.seconds)


@contextmanager
def _sending(port: int, requests: Sequence[bytes], connections: int) -> Iterator[None]:
    """Another process that sends `requests` again and again, each on a connection of its own, until `with` ends."""
    if not connections:
        yield
        return
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=_send, args=(port, requests, connections, began), daemon=True)
    process.start()
    try:
        if not began.wait(30):
            raise RuntimeError("the other client does not begin")
        yield
    finally:
        process.kill()
        process.join()


def _send(port: int, requests: Sequence[bytes], connections: int, began: threading.Event) -> None:
    def run() -> None:
        for request in itertools.cycle(requests):
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                connection.sendall(request)
                began.set()
                while connection.recv(1 << 20):
                    pass

    threads = [threading.Thread(target=run, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _get(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    return client.request(method, target, body, Connection="close", **headers)


def _batch(operations: list[client.Operation], *, packed: bool = True, atomic: bool = False) -> list[bytes]:
    document = {"ops": operations, "atomic": atomic}
    body = msgspec.msgpack.encode(document) if packed else msgspec.json.encode(document)
    return [_get("POST", "/v1/batch", body, Content_Type=client.MESSAGE_PACK if packed else "application/json")]


def _patches(atomic: bool = False) -> list[bytes]:
    operation = {"op": "patch", "key": "document", "patch": {"z": 1}}
    return _batch([operation] * 1000, packed=False, atomic=atomic)


def _puts(size: int, count: int, *, packed: bool = True, atomic: bool = False, tag: str = "") -> list[bytes]:
    value = b"v" * size if packed else "v" * size
    return _batch(
        [{"op": "put", "key": f"{tag}batch/{number}", "value": value} for number in range(count)],
        packed=packed,
        atomic=atomic,
    )


def _previous() -> list[bytes]:
    return [_get("PUT", "/v1/kv/large?return=previous", _LARGE)]


def _gets() -> list[bytes]:
    return _batch([{"op": "get", "key": "large"}] * 6, packed=False)


def _after_puts() -> list[bytes]:
    """Gets that the shard has to answer, since the batch changes the key before."""
    touch = {"op": "touch", "key": "large", "persist": True}
    return _batch([touch, *[{"op": "get", "key": "large"}] * 6])


def _elements() -> list[bytes]:
    body = b'{"ops":[' + b"0," * (15 << 20) + b"0]}"
    return [_get("POST", "/v1/batch", body, Content_Type="application/json")]


def _tiny(packed: bool, count: int) -> list[bytes]:
    """A document of tiny parts, of which nothing is known before they are looked through."""
    head = b"\x81\xa3ops\x91\x83\xa2op\xa3put\xa3key\xa1x\xa4json\xdd" + count.to_bytes(4, "big")
    body = b'{"ops":[{"op":"put","key":"x","json":[' + b"[]," * count + b"0]}]}"
    return [
        _get("POST", "/v1/batch", head + bytes(count), Content_Type=client.MESSAGE_PACK)
        if packed
        else _get("POST", "/v1/batch", body, Content_Type="application/json")
    ]


def _one(method: str, target: str, body: bytes | None = None, **headers: str) -> Requests:
    return lambda: [_get(method, target, body, **headers)]


_MERGE = {"Content_Type": "application/merge-patch+json"}
_KINDS: Final[dict[str, tuple[int, Requests]]] = {
    "1,000 patches of a 4.5 MB document": (1, _patches),
    "the same, atomic": (1, partial(_patches, atomic=True)),
    "a patch of it": (1, _one("PATCH", "/v1/kv/document", b'{"z":2}', **_MERGE)),
    "10,000 puts, 31 MB": (1, partial(_puts, 3000, _OPERATIONS)),
    "the same in JSON": (1, partial(_puts, 3000, _OPERATIONS, packed=False)),
    "6 puts of 5 MB": (1, partial(_puts, 5_000_000, 6)),
    "an atomic batch of 10,000": (1, partial(_puts, 10, _OPERATIONS, atomic=True, tag="{t}")),
    "an atomic batch of 30 MB": (1, partial(_puts, 5_000_000, 6, atomic=True, tag="{t}")),
    "gets of 30 MB": (1, _gets),
    "gets of 30 MB behind a change": (1, _after_puts),
    "a value of 5 MB": (1, _one("PUT", "/large", _LARGE)),
    "the same, return=previous": (1, _previous),
    "a batch of numbers": (1, _elements),
    "a document of 5 MB of arrays": (1, partial(_tiny, False, 1_600_000)),
    "one of 31 MB": (1, partial(_tiny, False, 10_400_000)),
    "MessagePack of 31 MB of numbers": (1, partial(_tiny, True, 31 << 20)),
    "a patch of 5 MB of objects": (
        1,
        _one("PATCH", "/v1/kv/x", b'{"x":[' + b'{"a":0,"b":0},' * 350_000 + b"0]}", **_MERGE),
    ),
    "a list of all keys": (1, _one("GET", "/keys")),
    "the same as lines": (1, _one("GET", "/v1/kv", Accept="application/x-ndjson")),
    "the same with values": (1, _one("GET", "/v1/kv?values=true", Accept="application/x-ndjson")),
    "a count": (1, _one("GET", "/v1/kv?count=true")),
    "a list by delimiter": (1, _one("GET", "/v1/kv?delimiter=0&prefix=many/&limit=1000")),
    f"{FLOOD} that add": (FLOOD, _one("POST", "/v1/kv/number?incr=1")),
    f"{FLOOD} that touch": (FLOOD, _one("POST", "/v1/kv/large?ttl=1000")),
    f"{FLOOD} with conditions": (FLOOD, _one("PUT", "/v1/kv/number", b"2", If_Match=", ".join(['"7"'] * 1500))),
    f"{FLOOD} that patch 4.5 MB": (FLOOD, _one("PATCH", "/v1/kv/document", b'{"z":3}', **_MERGE)),
    f"{FLOOD} that put 5 MB": (FLOOD, _previous),
}
"""By kind: how many connections, and what they send."""
