"""Both clients' connections, against a server that answers as the test says."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvserver.client import AsyncClient, CannotConnect, Client, KVError, NotAnswered, OutcomeUnknown
from kvserver.client.core import service
from kvserver.client.core.calls import Answer, Call
from tests.client.canned import CannedServer

VALUE = b"HTTP/1.1 200 OK\r\nKV-Revision: 5\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nv"
DONE = b"HTTP/1.1 204 No Content\r\nKV-Revision: 6\r\n\r\n"
NO_TOKEN = (
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nContent-Length: 24\r\n\r\n"
    b'{"code":"invalid_token"}'
)

Ask = Callable[..., Any]


@pytest.fixture
def canned() -> Iterator[CannedServer]:
    with CannedServer() as server:
        server.answers.append(VALUE)
        yield server


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, canned: CannedServer) -> Ask:
    """Calls methods of a client one after another: `ask([("get", "k")], token="t")` returns results and errors."""

    def ask_sync(verbs: list[tuple[str, ...]], **options: Any) -> list[Any]:
        with Client(canned.url, **({"patience": 0} | options)) as kv:
            return [_outcome(getattr(kv, verb), *arguments) for verb, *arguments in verbs]

    def ask_async(verbs: list[tuple[str, ...]], **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            async with AsyncClient(canned.url, **({"patience": 0} | options)) as kv:
                return [await _awaited(getattr(kv, verb), *arguments) for verb, *arguments in verbs]

        return asyncio.run(run())

    return ask_sync if request.param == "sync" else ask_async


def _outcome(function: Callable[..., Any], *arguments: str) -> Any:
    try:
        return function(*arguments)
    except KVError as error:
        return error


async def _awaited(function: Callable[..., Any], *arguments: str) -> Any:
    try:
        return await function(*arguments)
    except KVError as error:
        return error


def fields(head: str) -> dict[str, str]:
    return dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])


def test_connections_are_kept(canned: CannedServer, ask: Ask) -> None:
    assert [entry.value for entry in ask([("get", "k")] * 5)] == [b"v"] * 5
    assert canned.connections == 1


def test_one_that_rested_is_not_used_again(canned: CannedServer, ask: Ask) -> None:
    ask([("get", "k")] * 3, idle=0)
    assert canned.connections == 3


def test_what_is_sent(canned: CannedServer, ask: Ask) -> None:
    canned.answers.extend((DONE, VALUE))
    ask([("get", "k"), ("put", "k", "ü"), ("get", "k")], token="secret")
    get, put, _ = (fields(head) for head in canned.requests)
    assert canned.requests[0].splitlines()[0] == "GET /v1/kv/k HTTP/1.1"
    assert get["authorization"] == put["authorization"] == "bearer secret"
    assert (put["content-type"], put["content-length"]) == ("text/plain; charset=utf-8", "2")
    assert get["accept-encoding"] == "identity" and "idempotency-key" not in get and "idempotency-key" in put
    assert "kvserver-client" in get["user-agent"] and "content-type" not in get


@pytest.mark.parametrize(("verb", "more"), [("put", ("",)), ("incr", ())])
def test_a_request_without_a_body_says_so(canned: CannedServer, ask: Ask, verb: str, more: tuple[str, ...]) -> None:
    canned.answers[0] = DONE
    ask([(verb, "k", *more)])
    assert fields(canned.requests[0])["content-length"] == "0"


def test_every_write_has_a_key_of_its_own(canned: CannedServer, ask: Ask) -> None:
    canned.answers[0] = DONE
    ask([("put", "k", "v")] * 3)
    assert len({fields(head)["idempotency-key"] for head in canned.requests}) == 3
    canned.requests.clear()
    ask([("put", "k", "v")], idempotency=False)
    assert "idempotency-key" not in fields(canned.requests[0])


def test_a_token_is_asked_for_again_when_it_is_refused(canned: CannedServer, ask: Ask) -> None:
    tokens = iter(("old", "new"))
    canned.answers.extend((NO_TOKEN, VALUE))
    found = ask([("get", "k"), ("get", "k")], token=lambda: next(tokens))
    assert [entry.value for entry in found] == [b"v", b"v"]
    assert [fields(head)["authorization"] for head in canned.requests] == ["bearer old", "bearer old", "bearer new"]


def test_a_fixed_token_is_refused_once(canned: CannedServer, ask: Ask) -> None:
    canned.answers[0] = NO_TOKEN
    (error,) = ask([("get", "k")], token="secret")
    assert error.code == "invalid_token" and "secret" not in str(error) + repr(error)
    assert len(canned.requests) == 1


def test_a_token_does_not_follow_a_redirect(canned: CannedServer, ask: Ask) -> None:
    with CannedServer() as other:
        other.answers.append(VALUE)
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.url}/v1/kv/k\r\nContent-Length: 0\r\n\r\n"
        canned.answers[0] = moved.encode()
        found = ask([("get", "k"), ("put", "k", "v")], token="secret")
        assert [type(error) for error in found] == [NotAnswered, OutcomeUnknown]
        assert not other.requests


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nKV-Revision: 5\r\nContent-Length: 9\r\n\r\nv"]
)
def test_an_answer_that_does_not_end_in_time(canned: CannedServer, ask: Ask, answer: bytes) -> None:
    canned.answers[0] = answer
    found = ask([("get", "k"), ("put", "k", "v")], timeout=0.2)
    assert [type(error) for error in found] == [NotAnswered, OutcomeUnknown]


def test_an_answer_that_trickles_does_not_end_in_time_either(canned: CannedServer, ask: Ask) -> None:
    canned.pause_s = 0.05
    canned.answers[0] = VALUE.replace(b"Content-Length: 1", b"Content-Length: 200") + b"v" * 199
    assert [type(error) for error in ask([("get", "k")], timeout=0.4)] == [NotAnswered]


def test_nobody_is_there(ask: Ask, canned: CannedServer) -> None:
    canned.url = "http://127.0.0.1:9"
    (error,) = ask([("get", "k")], patience=0.2)
    assert type(error) is CannotConnect and error.attempts > 1
    assert error.detail == "http://127.0.0.1:9: Connection refused"


def test_a_proxy_is_asked_the_way(canned: CannedServer, ask: Ask) -> None:
    proxy, canned.url = canned.url, "http://kv.example:8080"
    (entry,) = ask([("get", "..")], proxy=proxy, token="secret")
    assert entry.value == b"v"
    assert canned.requests[0].splitlines()[0].lower() == "get http://kv.example:8080/v1/kv/%2e%2e http/1.1"


def test_a_path_before_the_server_s(canned: CannedServer, ask: Ask) -> None:
    canned.url += "/below/"
    ask([("get", "k")])
    assert canned.requests[0].startswith("GET /below/v1/kv/k ")


@pytest.fixture(scope="module")
def certificate(make_dir: Callable[[str], Path]) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    file = make_dir("tls") / "both.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=kv.example"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", str(file)]
    subprocess.run([*make.split(), *more], check=True, capture_output=True)
    return file


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_over_tls(ask: Ask, canned: CannedServer, certificate: Path) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with CannedServer(ours) as secure:
        secure.answers.extend((VALUE, DONE, b"", b"HTTP/1.1 204 No Content\r\nKV-Revi"))
        canned.url = secure.url
        found = ask(
            [("get", "k"), ("put", "k", "v" * 100_000), ("put", "k", "v"), ("put", "k", "v")], ssl=trusting, timeout=2
        )
        assert found[0].value == b"v" and found[1].revision == 6
        assert [type(error) for error in found[2:]] == [OutcomeUnknown, OutcomeUnknown]
        secure.requests.clear()
        (error,) = ask([("put", "k", "v")])
        assert type(error) is CannotConnect and "certificate" in str(error)
        assert not secure.requests
    gc.collect()  # asyncio of Python 3.11 leaves the socket of a failed handshake to the collector


def test_a_closed_client_says_so(canned: CannedServer) -> None:
    kv = Client(canned.url)
    kv.get("k")
    kv.within("a/").close()
    kv.get("k")
    kv.close()
    with pytest.raises(RuntimeError, match="closed"):
        kv.get("k")

    async def run() -> None:
        kv = AsyncClient(canned.url)
        await kv.get("k")
        await kv.within("a/").close()
        await kv.get("k")
        await kv.close()
        with pytest.raises(RuntimeError, match="closed"):
            await kv.get("k")

    asyncio.run(run())


def test_an_asynchronous_client_is_of_one_event_loop(canned: CannedServer) -> None:
    kv = AsyncClient(canned.url)

    async def first() -> None:
        await kv.get("k")

    async def second() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            await kv.get("k")

    with asyncio.Runner() as one, asyncio.Runner() as two:
        one.run(first())
        two.run(second())
        one.run(kv.close())


def test_threads_share_a_client(canned: CannedServer) -> None:
    found: list[bytes] = []
    with Client(canned.url, connections=2) as kv:

        def read() -> None:
            for _ in range(25):
                entry = kv.get("k")
                assert entry is not None
                found.append(entry.value)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [b"v"] * 200
    assert canned.connections <= 2


def test_who_finds_no_connection_in_time_has_sent_nothing(canned: CannedServer) -> None:
    canned.answers[0] = b"HTTP/1.1 200 OK\r\n"  # and no end
    with Client(canned.url, connections=1, patience=0, timeout=1.0) as kv:
        found: list[Any] = []
        first = threading.Thread(target=lambda: found.append(_outcome(kv.put, "k", "v")))
        first.start()
        while not canned.requests:
            time.sleep(0.01)
        found.append(_outcome(kv.with_options(timeout=0.1).put, "k", "v"))
        first.join()
    assert [type(error) for error in found] == [CannotConnect, OutcomeUnknown]
    assert len(canned.requests) == 1


def test_tasks_share_a_client(canned: CannedServer) -> None:
    async def run() -> None:
        async with AsyncClient(canned.url, connections=2) as kv:
            found = await asyncio.gather(*(kv.get("k") for _ in range(50)))
            assert [entry.value for entry in found if entry] == [b"v"] * 50

    asyncio.run(run())
    assert canned.connections <= 2


def test_a_client_survives_a_fork(canned: CannedServer) -> None:
    """The child makes connections of its own; those of its parent go on."""
    with Client(canned.url) as kv:
        kv.get("k")
        assert canned.connections == 1
        child = os.fork()
        if not child:
            try:
                os._exit(0 if kv["k"] == kv["k"] == b"v" else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert canned.connections == 2
        kv.get("k")
        assert canned.connections == 2


def test_a_stream_is_read_as_it_comes(canned: CannedServer) -> None:
    canned.answers[0] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    call: Call[Answer] = Call("GET", "/v1/feed", lambda answer: answer)
    with Client(canned.url) as kv:
        stream = kv._open_stream(call, 5)
        assert stream.read(5) == b"abc"
        reader = threading.Thread(target=lambda: _outcome(stream.read, None))  # type: ignore[arg-type]
        reader.start()
        time.sleep(0.05)  # whether the thread waits by now or not, it ends
        stream.close()
        reader.join(10)
        assert not reader.is_alive()
        stream = kv._open_stream(call, 5)
        assert stream.read(5) == b"abc"
        with pytest.raises(NotAnswered):
            stream.read(0.05)
        stream.close()

    async def run() -> None:
        async with AsyncClient(canned.url) as kv:
            stream = await kv._open_stream(call, 5)
            assert await stream.read(5) == b"abc"
            with pytest.raises(NotAnswered):
                await stream.read(0.05)

    asyncio.run(run())


def test_a_stream_that_is_refused(canned: CannedServer) -> None:
    canned.answers[0] = NO_TOKEN
    with Client(canned.url) as kv, pytest.raises(KVError, match="not known"):
        kv._open_stream(service.status(), 5)

    async def run() -> None:
        async with AsyncClient(canned.url) as kv:
            with pytest.raises(KVError, match="not known"):
                await kv._open_stream(service.status(), 5)

    asyncio.run(run())


def test_a_repr_has_no_token(canned: CannedServer) -> None:
    with Client(canned.url, token="secret") as kv:
        assert repr(kv) == f"Client('{canned.url}')"
        assert repr(kv.within("a/")) == f"Client('{canned.url}', prefix='a/')"


def test_repeats_are_told(canned: CannedServer) -> None:
    told: list[tuple[str, int, bool]] = []
    canned.url = "http://127.0.0.1:9"
    kv = Client(canned.url, patience=0.1, on_retry=lambda *of: told.append((of[0].code, of[1], of[2] <= 0.1)))
    with kv, pytest.raises(CannotConnect) as raised:
        kv.get("k")
    assert told == [("cannot_connect", number + 1, True) for number in range(raised.value.attempts - 1)]
