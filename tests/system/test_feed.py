"""`/v1/feed` on the whole server, by each of its ways."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.system.feeds import events, lines, now, poll, polled, query, receive, received, websocket
from tests.system.harness import Server, wait_for


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """Two shards, two gateways."""
    options = ("--shards", "2", "--workers", "1", "--gateways", "2", "--sync", "os", "--feed-port", "0")
    with Server(make_dir("store"), *options) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """Talks to the server, on an empty store."""
    with server.client() as client:
        client.delete("/keys").raise_for_status()
        yield client


WAYS = ["application/x-ndjson", "text/event-stream", "kv.json", "kv.msgpack", ""]


def put(client: httpx.Client, key: str, value: bytes = b"v", **parameters: Any) -> int:
    """PUT; the revision."""
    answer = client.put(f"/v1/kv/{key}", content=value, params=parameters, headers={"Content-Type": "text/plain"})
    return int(answer.raise_for_status().headers["kv-revision"])


def test_every_way_tells_the_same(server: Server, client: httpx.Client) -> None:
    """WebSocket with and without a subprotocol, SSE, lines and polls; only how a value is written differs."""
    since = now(server)
    put(client, "a/b", b'{"n":1}')
    put(client, "img", b"\x89P")
    client.post("/v1/kv/a/b?persist=true").raise_for_status()
    client.delete("/v1/kv/a/b")
    told: dict[str, list[dict[str, Any]]] = {}
    for way in WAYS:
        if "/" in way:
            with lines(server, way, since=since) as messages:
                told[way] = events(messages, 4)
        else:
            with websocket(server, way or None, since=since) as connection:
                assert connection.subprotocol == (way or None)
                told[way] = events(received(connection), 4)
    told["poll"] = [event for message in polled(server, since)[0] for event in message["events"]]
    text, image, touch, gone = told["poll"]
    assert list(text) == ["op", "key", "revision", "time", "content_type", "expires", "value"]
    assert (text["op"], text["key"], text["value"], text["expires"]) == ("put", "a/b", '{"n":1}', None)
    assert (image["value_base64"], image["size"]) == (base64.b64encode(b"\x89P").decode(), 2)
    assert (touch["op"], touch["expires"]) == ("touch", None)
    assert (gone["op"], gone["cause"]) == ("delete", "request")
    assert text["revision"] < image["revision"] < touch["revision"] < gone["revision"]
    packed = told.pop("kv.msgpack")
    assert [event["value"] for event in packed[:2]] == [b'{"n":1}', b"\x89P"]
    assert all(way == told["poll"] for way in told.values())


def test_sse_has_a_cursor_in_each_id_and_goes_on_behind_it(server: Server, client: httpx.Client) -> None:
    """Last-Event-ID beats `since`, and a usable cursor beats `snapshot`, since EventSource repeats its URL."""
    first = put(client, "k1")
    with lines(server, "text/event-stream", snapshot=True) as messages:
        page, end = next(messages), next(messages)
        assert [message["type"] for message in (page, end)] == ["snapshot", "snapshot_end"]
        assert page["items"][0]["revision"] == first
        put(client, "k2")
        message = next(messages)
        assert message["id"] == message["cursor"] != end["cursor"]
    third = put(client, "k3")
    headers = {"Last-Event-ID": message["id"]}
    with lines(server, "text/event-stream", headers, snapshot=True, since="nonsense") as messages:
        assert [event["revision"] for event in events(messages, 1)] == [third]


def test_a_stream_begins_with_where_it_is(server: Server, client: httpx.Client) -> None:
    """A first bookmark, if there is neither a cursor nor a snapshot; what comes after it comes."""
    with lines(server) as messages:
        bookmark = next(messages)
        assert bookmark["type"] == "bookmark"
        revision = put(client, "k")
        assert events(messages, 1)[0]["revision"] == revision
    assert [m["events"][0]["revision"] for m in polled(server, bookmark["cursor"])[0]] == [revision]


def test_filters(server: Server, client: httpx.Client) -> None:
    """Prefixes add up; deletes by cause; without values their sizes."""
    since = now(server)
    for key in ("a/1", "b/1", "c/1", "ab"):
        put(client, key, b"12345")
    client.delete("/v1/kv/a/1")
    client.delete("/keys/b%2F")

    def seen(**parameters: Any) -> list[tuple[str, str]]:
        messages, _ = polled(server, since, **parameters)
        return [(event["op"], event["key"]) for message in messages for event in message["events"]]

    assert seen(prefix=["a/", "b/"], ops="put") == [("put", "a/1"), ("put", "b/1")]
    assert seen(ops="delete:prefix") == [("delete", "b/1")]
    assert seen(prefix="a", ops="delete,touch") == [("delete", "a/1")]
    assert seen(prefix="nothing/") == []
    (message,) = poll(server, since=since, values=False, prefix="c")["messages"]
    assert message["events"][0]["size"] == 5 and "value" not in message["events"][0]


def test_a_filtered_reader_s_cursor_moves_on(server: Server, client: httpx.Client) -> None:
    """Else it would be trimmed although it misses nothing."""
    since = now(server)
    revision = put(client, "other")
    answer = poll(server, since=since, prefix="mine")
    assert answer["messages"] == [] and int(answer["cursor"].split(".")[1]) >= revision


def test_a_poll_waits_for_something(server: Server, client: httpx.Client) -> None:
    """And ends when it comes; polls without a cursor never wait."""
    assert poll(server, wait=50)["messages"] == []
    since = now(server)
    with server.client(60) as waiting:
        request = waiting.build_request("GET", "/v1/feed?" + query({"since": since, "wait": 50}))
        with lines(server, since=since) as messages:  # by then the poll is there, or comes to what has happened
            revision = put(client, "k")
            assert events(messages, 1)[0]["revision"] == revision
        answer = waiting.send(request).json()
    assert answer["messages"][0]["events"][0]["revision"] == revision
    assert not answer["more"]


def test_activity(server: Server, client: httpx.Client) -> None:
    """What changes nothing, where it happened, for who wants it."""
    put(client, "k")
    with lines(server, activity=True, prefix="k") as messages:
        assert next(messages)["type"] == "bookmark"
        wait_for(lambda: any(g["clients"] for g in server.status()["gateways"]), "the client's place on the board")
        client.get("/k")
        told = next(messages)
        assert (told["type"], told["op"], told["key"]) == ("activity", "read", "k")
        client.delete("/keys/k")
        told = next(messages)
        assert (told["type"], told["op"], told["prefix"]) == ("activity", "delete_prefix", "k")
        assert events(messages, 1)[0]["cause"] == "prefix"


@pytest.mark.parametrize("since", ["0.5", "{epoch}.0", "{epoch}.9007199254740000", "ffff.5"])
def test_what_cannot_be_continued_is_said_in_the_stream(server: Server, client: httpx.Client, since: str) -> None:
    """A gap, then what is kept, or the state if that is wanted."""
    revision = put(client, "k")
    epoch = now(server).split(".")[0]
    reason = {"{epoch}.0": "trimmed", "0.5": "epoch", "ffff.5": "epoch"}.get(since, "bad_cursor")
    cursor = since.format(epoch=epoch)
    with lines(server, since=cursor) as messages:
        gap = next(messages)
        assert (gap["type"], gap["reason"], gap["snapshot"]) == ("gap", reason, False)
        assert gap["oldest"] == gap["cursor"]
        assert any(event["revision"] == revision for message in messages for event in message.get("events", []))
    with websocket(server, since=cursor, snapshot=True) as connection:
        gap, page, end = receive(connection), receive(connection), receive(connection)
        assert (gap["type"], gap["reason"], gap["snapshot"]) == ("gap", reason, True)
        assert page["items"][0]["revision"] == revision
        assert end["type"] == "snapshot_end"


@pytest.mark.parametrize("since", ["x", "{epoch}", "{epoch}.07", "{epoch}.7~word", "{epoch}.7.YQ", "\u00e9"])
def test_what_is_no_cursor_is_refused(server: Server, client: httpx.Client, since: str) -> None:
    """But as Last-Event-ID, which EventSource sends by itself: a refusal would end it for good."""
    revision = put(client, "k")
    text = since.format(epoch=now(server).split(".")[0])
    for accept in ("text/event-stream", "application/x-ndjson", "application/json"):
        answer = client.get("/v1/feed", params={"since": text}, headers={"Accept": accept})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")
    with pytest.raises(InvalidStatus) as refused, websocket(server, since=text):
        pass
    assert refused.value.response.status_code == 400
    with websocket(server, headers={"Origin": "http://a.example"}, since=text) as connection:
        error = receive(connection)
        assert (error["type"], error["status"], error["code"]) == ("error", 400, "bad_cursor")
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(15)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3003
    id = text.partition("~")[0] if text.isascii() else "x"
    with lines(server, "text/event-stream", {"Last-Event-ID": id + "!"}, since=text, snapshot=True) as messages:
        gap, page = next(messages), next(messages)
        assert (gap["type"], gap["reason"], gap["snapshot"]) == ("gap", "bad_cursor", True)
        assert page["first"] is True and page["items"][0]["revision"] == revision


def test_an_empty_cursor_is_as_absent(server: Server, client: httpx.Client) -> None:
    """What `since=${cursor}` makes of none."""
    revision = put(client, "k")
    assert poll(server, since="")["messages"] == []
    with lines(server, since="") as messages:
        assert next(messages)["type"] == "bookmark"
    with lines(server, "text/event-stream", {"Last-Event-ID": ""}, since="", snapshot=True) as messages:
        assert next(messages)["items"][0]["revision"] == revision


def test_the_first_page_of_a_snapshot_says_so(server: Server, client: httpx.Client) -> None:
    """And no other one, nor what goes on with it; by each way."""
    ops = [{"op": "put", "key": f"k{i:04}", "value": "v"} for i in range(2500)]
    client.post("/v1/batch", json={"ops": ops}).raise_for_status()
    for way in WAYS:
        found: list[dict[str, Any]] = []
        if "/" in way:
            with lines(server, way, snapshot=True) as messages:
                while not found or found[-1]["type"] != "snapshot_end":
                    found.append(next(messages))
        else:
            with websocket(server, way or None, snapshot=True) as connection:
                while not found or found[-1]["type"] != "snapshot_end":
                    found.append(receive(connection))
        pages = [message for message in found if message["type"] == "snapshot"]
        assert [page.get("first") for page in pages] == [True] + [None] * (len(pages) - 1) and len(pages) > 1
        on, _ = polled(server, pages[0]["cursor"])
        assert on and not any("first" in message for message in on)


def test_single_keys(server: Server, client: httpx.Client) -> None:
    """These keys alone, as changes, conflated, and as a snapshot; with prefixes they add up."""
    keys = ("a", "a/b", "ab", "b", "c/1", "c/2", "d")
    since = now(server)
    for value in (b"2", b"3"):
        for key in keys:
            put(client, key, value)
    client.delete("/v1/kv/a")

    def seen(**parameters: Any) -> list[tuple[str, str]]:
        messages, _ = polled(server, since, **parameters)
        return [(event["op"], event["key"]) for message in messages for event in message["events"]]

    assert seen(key="a") == [("put", "a"), ("put", "a"), ("delete", "a")]
    assert seen(key=["b", "a/b"], ops="put") == [("put", "a/b"), ("put", "b")] * 2
    assert seen(key=["b", "a"], conflate=True) == [("put", "b"), ("delete", "a")]
    assert seen(key="d", prefix="c/", ops="put") == [("put", "c/1"), ("put", "c/2"), ("put", "d")] * 2
    assert seen(key="nothing") == []
    wishes: list[tuple[dict[str, Any], list[str]]] = [
        ({"key": "b"}, ["b"]),
        ({"key": ["d", "b", "a"]}, ["b", "d"]),
        ({"key": ["d", "c"], "prefix": "c/"}, ["c/1", "c/2", "d"]),
    ]
    for wanted, shown in wishes:
        found = poll(server, snapshot=True, **wanted)["messages"]
        assert [item["key"] for message in found for item in message.get("items", ())] == shown
        assert found[-1]["type"] == "snapshot_end"


def test_activity_of_a_single_key(server: Server, client: httpx.Client) -> None:
    """A mark of what begins with it is not its own; what becomes of the key is told."""
    put(client, "b")
    with lines(server, key="b", activity=True) as messages:
        assert next(messages)["type"] == "bookmark"
        wait_for(lambda: any(g["clients"] for g in server.status()["gateways"]), "the client's place on the board")
        client.delete("/keys/b")
        told = next(messages)
        assert [event["cause"] for event in told["events"]] == ["prefix"]
        client.delete("/b")
        told = next(messages)
        assert (told["type"], told["op"], told["key"]) == ("activity", "delete", "b")


def test_a_snapshot_of_keys_goes_on_where_it_broke_off(server: Server, client: httpx.Client) -> None:
    """With the same keys, in whatever order; with others it does not."""
    keys = [f"k{i:02}" for i in range(60)]
    for key in keys:
        put(client, key, b"v" * 50_000)
    answer = poll(server, snapshot=True, key=keys)
    assert answer["more"]
    found = [item["key"] for message in answer["messages"] for item in message.get("items", ())]
    (gap, *_) = poll(server, since=answer["cursor"], key=keys[1:])["messages"]
    assert gap["reason"] == "bad_cursor"
    rest, _ = polled(server, answer["cursor"], key=keys[::-1])
    assert not any(message["type"] == "gap" for message in rest)
    found += [item["key"] for message in rest for item in message.get("items", ())]
    assert found == keys


@pytest.mark.parametrize("wanted", [["prefix"] * 65, ["key"] * 65, ["key"] * 32 + ["prefix"] * 33])
def test_there_are_so_many_prefixes_and_keys(client: httpx.Client, wanted: list[str]) -> None:
    """64 in all."""
    parts = [f"{name}=k{i}" for i, name in enumerate(wanted)]
    answer = client.get("/v1/feed?" + "&".join(parts))
    assert answer.status_code == 400 and "at most 64" in answer.json()["detail"]
    assert client.get("/v1/feed?" + "&".join(parts[1:])).status_code == 200


def test_a_snapshot_goes_on_where_it_broke_off(server: Server, client: httpx.Client) -> None:
    """With other prefixes it does not."""
    since = now(server)
    ops = [{"op": "put", "key": f"k{i:04}", "value": "v"} for i in range(3000)]
    client.post("/v1/batch", json={"ops": ops}).raise_for_status()
    with lines(server, snapshot=True) as messages:
        page = next(messages)
    last = page["items"][-1]["key"]
    assert page["cursor"].startswith(since.split(".")[0]) and last < "k2999"
    put(client, "k0000", b"new")
    put(client, "k2999", b"new")
    found, cursor = polled(server, page["cursor"])
    assert [message["type"] for message in found[:2]] == ["events", "snapshot"]
    assert [event["key"] for event in found[0]["events"]] == ["k0000"]
    keys = [item["key"] for message in found for item in message.get("items", [])]
    assert keys == [f"k{i:04}" for i in range(3000) if f"k{i:04}" > last]
    assert found[-1]["type"] == "snapshot_end" and found[-1]["cursor"] == cursor
    assert next(i for m in found for i in m.get("items", []) if i["key"] == "k2999")["value"] == "new"
    (gap, *_) = poll(server, since=page["cursor"], prefix="k")["messages"]
    assert (gap["type"], gap["reason"], gap["snapshot"]) == ("gap", "bad_cursor", True)


def test_an_atomic_batch_is_never_divided(server: Server, client: httpx.Client) -> None:
    """An envelope ends at a thousand events, unless that would be within one."""
    since = now(server)
    ops = [{"op": "put", "key": "{t}" + f"{i}", "value": "v"} for i in range(1500)]
    client.post("/v1/batch", json={"ops": [{"op": "put", "key": "k", "value": "v"}]}).raise_for_status()
    client.post("/v1/batch", json={"atomic": True, "ops": ops}).raise_for_status()
    client.post("/v1/batch", json={"ops": [{"op": "put", "key": f"{i}", "value": "v"} for i in range(1200)]})
    messages, _ = polled(server, since)
    sizes = [len(message["events"]) for message in messages]
    assert sum(sizes) == 1 + 1500 + 1200
    assert all(size <= 1000 or size == 1500 for size in sizes)
    assert 1500 in sizes


def test_conflated_only_the_latest_is_told(server: Server, client: httpx.Client) -> None:
    """Of each key, of what a reader is behind with."""
    since = now(server)
    ops = [{"op": "put", "key": f"k{i % 3}", "value": f"{i}"} for i in range(300)]
    client.post("/v1/batch", json={"ops": ops}).raise_for_status()
    put(client, "last")
    messages, _ = polled(server, since, conflate=True)
    found = [(event["key"], event["value"]) for message in messages for event in message["events"]]
    assert (sorted(found[:-1]), found[-1]) == ([("k0", "297"), ("k1", "298"), ("k2", "299")], ("last", "v"))


def test_kv_cursor_of_a_list_leads_on(server: Server, client: httpx.Client) -> None:
    """List, then follow: nothing is missed."""
    put(client, "k1")
    cursor = client.get("/v1/kv").headers["kv-cursor"]
    revision = put(client, "k2")
    found, _ = polled(server, cursor)
    assert [event["revision"] for message in found for event in message["events"]][-1] == revision


@pytest.mark.parametrize(
    "bad",
    [
        "snapshot=yes",
        "sinc=1",
        "wait=56",
        "since=1&since=2",
        "ops=get",
        "ops=delete:gone",
        "prefix=%zz",
        "key=",
        "key=" + "k" * 512,
    ],
)
def test_what_is_not_understood_is_refused(server: Server, client: httpx.Client, bad: str) -> None:
    """Never ignored."""
    answer = client.get("/v1/feed?" + bad)
    assert answer.status_code == 400 and answer.json()["code"] == "bad_request"
    assert answer.headers["access-control-allow-origin"] == "*"


def test_methods(client: httpx.Client) -> None:
    """No HEAD: the answer has no head without a body."""
    for method in ("HEAD", "POST", "PUT", "DELETE"):
        assert client.request(method, "/v1/feed").status_code == 405
    assert client.head("/v1/feed").headers["allow"] == "GET"
    assert client.options("/v1/feed").status_code == 200


def test_only_unknown_subprotocols_are_refused(server: Server, client: httpx.Client) -> None:
    """An answer in a format that was not asked for would be no help."""
    with pytest.raises(InvalidStatus) as refused, websocket(server, "mqtt"):
        pass
    assert refused.value.response.status_code == 400


def test_requests_before_it_on_the_connection_are_answered_first(server: Server) -> None:
    """A poll is no upgrade, but ends the connection all the same."""
    with server.connect() as raw:
        put = b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"
        raw.sendall(put * 3 + b"GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while part := raw.recv(65536):
            data += part
    assert data.count(b"HTTP/1.1 200") == 4
    assert json.loads(data.rpartition(b"\r\n\r\n")[2])["messages"] == []


def test_gateways_share_clients_that_come_all_at_once(server: Server) -> None:
    """What is on its way to a gateway counts before the gateway has counted it."""
    request = b"GET /v1/feed HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    wait_for(lambda: not any(shares(server)), "the end of others")
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(server.connect()).sendall(request)
        wait_for(lambda: sum(shares(server)) == 100, "all clients")
        assert min(shares(server)) >= 35


def shares(server: Server) -> list[int]:
    """How many clients each gateway has."""
    return [gateway["clients"] for gateway in server.status()["gateways"]]


def test_the_gateway_s_own_port_answers_the_same(server: Server, client: httpx.Client) -> None:
    """For those who cannot be handed over."""
    port = int(server.banner.partition("feed port")[2].split(":")[2].split()[0]) if "feed port" in server.banner else 0
    if not port:
        found = [line for line in server.banner.splitlines() if "ws://" in line]
        port = int(found[-1].rpartition(":")[2].split("/")[0])
    revision = put(client, "k")
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/feed?snapshot=true", trust_env=False).json()
    assert answer["messages"][0]["items"][-1]["revision"] == revision


def test_a_planned_stop_is_told(tmp_path: Path) -> None:
    """`closing` with a cursor that leads on after the restart, then 1012; polls get their answer."""
    with Server(tmp_path / "store", "--shards", "1", "--workers", "1", "--sync", "os") as server:
        with server.client() as client, websocket(server) as connection, lines(server, "text/event-stream") as stream:
            revision = put(client, "k")
            assert receive(connection)["type"] == "bookmark"
            assert events(received_until(connection), 1)[0]["revision"] == revision
            server.stop()
            closing = receive(connection)
            assert (closing["type"], closing["reason"]) == ("closing", "stop") and closing["retry_ms"] > 0
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(15)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
            told = list(stream)
        assert [m["type"] for m in told] == ["bookmark", "events", "closing"]
        assert told[-1]["id"] == told[-1]["cursor"] == closing["cursor"]
        server.start()
        with server.client() as client:
            following = put(client, "k2")
        found, _ = polled(server, closing["cursor"])
        assert [event["revision"] for message in found for event in message["events"]] == [following]


def test_replaced_gateways_say_so(tmp_path: Path) -> None:
    """Clients come back to the new ones, with the cursor they were given."""
    with Server(tmp_path / "store", "--shards", "1", "--workers", "1", "--sync", "os") as server:
        (gateway,) = server.status()["gateways"]
        master = int(Path(f"/proc/{gateway['pid']}/stat").read_text().rsplit(")", 1)[1].split()[1])
        with lines(server) as stream:
            assert next(stream)["type"] == "bookmark"
            os.kill(master, signal.SIGHUP)
            closing = next(stream)
            assert (closing["type"], closing["reason"]) == ("closing", "reload")
        with server.client() as client:
            revision = put(client, "k")

        def told() -> list[int]:
            with contextlib.suppress(httpx.HTTPStatusError):  # 503 until the new one is there
                found, _ = polled(server, closing["cursor"])
                return [event["revision"] for message in found for event in message["events"]]
            return []

        assert wait_for(told, "an answer of the new gateway") == [revision]


def received_until(connection: Any) -> Iterator[dict[str, Any]]:
    """Messages, as long as somebody asks."""
    while True:
        yield receive(connection)
