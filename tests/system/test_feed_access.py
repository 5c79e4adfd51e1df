"""`/v1/feed` of a server with tokens."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.system.feeds import Message, events, lines, query, receive, websocket
from tests.system.harness import Server, wait_for
from tests.system.test_wal_access import GRANTS, Guarded, bearer, toml


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path]) -> Iterator[Guarded]:
    place = make_dir("guarded")
    file = place / "tokens.toml"
    file.write_text(toml(GRANTS))
    options = ["--shards", "2", "--workers", "1", "--gateways", "2", "--feed-port", "0", "--tokens", str(file)]
    with Server(place / "data", *options) as server:
        yield Guarded(server, file)
        assert not [word for word in ("-secret", "kvt_", "kvd_") if word in server.log()]


def authorization(name: str) -> dict[str, str]:
    return {"Authorization": bearer(name)}


def ask(
    guarded: Guarded, name: str | None = None, headers: dict[str, str] | None = None, **given: str
) -> httpx.Response:
    """A poll."""
    with guarded.server.client() as client:
        sent = {**(authorization(name) if name else {}), **(headers or {})}
        return client.get("/v1/feed?" + query(given), headers=sent)


def test_each_sees_what_is_granted(guarded: Guarded) -> None:
    """Event by event, item by item; what is outside of all grants is refused."""
    with lines(guarded.server, headers=authorization("flags"), snapshot=True) as messages:
        while next(messages)["type"] != "snapshot_end":
            pass
        for key in ("flags/a", "secret", "b", "bc", "a", "flags"):
            guarded.ask("PUT", f"/v1/kv/{key}", b"v")
        assert [event["key"] for event in events(messages, 3)] == ["flags/a", "b", "bc"]
    answer = ask(guarded, "flags", snapshot="true").json()
    assert {item["key"] for m in answer["messages"] for item in m.get("items", ())} == {"flags/a", "b", "bc"}
    assert ask(guarded, "flags", prefix="secret").status_code == 403
    assert ask(guarded, "flags", prefix="flags/").status_code == 200
    assert ask(guarded, "flags", key="secret").status_code == 403
    only = ask(guarded, "flags", key="secret", prefix="flags/", snapshot="true").json()
    assert {item["key"] for m in only["messages"] for item in m.get("items", ())} == {"flags/a"}
    single = ask(guarded, "flags", key="b", snapshot="true").json()
    assert [item["key"] for m in single["messages"] for item in m.get("items", ())] == ["b"]
    assert ask(guarded, "writer").status_code == 403
    assert ask(guarded).status_code == 401
    # Of a snapshot that others may see more of, nobody can go on with the place.
    cursor = ask(guarded, "all", snapshot="true").json()["messages"][0]["cursor"]
    assert ask(guarded, "flags", since=cursor).json()["messages"][0]["reason"] == "bad_cursor"


def test_pages_are_told_on_their_websocket(guarded: Guarded) -> None:
    """A message that says why, then a close code; who sends a header sees the status."""
    origin = {"Origin": "https://a.example"}
    with websocket(guarded.server, "kv.msgpack", origin) as connection:
        error = receive(connection)
        assert (error["type"], error["status"], error["code"]) == ("error", 401, "unauthorized")
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(15)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3000
    ticket = guarded.ticket("flags")
    with websocket(guarded.server, None, origin, ticket=ticket, prefix="secret") as connection:
        assert receive(connection)["status"] == 403
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(15)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3003
    with pytest.raises(InvalidStatus) as refused, websocket(guarded.server, headers=authorization("writer")):
        pass
    assert refused.value.response.status_code == 403


def test_a_ticket_opens_one_websocket(guarded: Guarded) -> None:
    ticket = guarded.ticket("all")
    with websocket(guarded.server, ticket=ticket) as connection:
        assert receive(connection)["type"] == "bookmark"
    with websocket(guarded.server, ticket=ticket) as connection:
        assert receive(connection)["code"] == "bad_ticket"


def test_eventsource_comes_back_with_its_ticket_and_the_word_of_its_stream(guarded: Guarded) -> None:
    """At whichever gateway; without the word, or with another, the ticket is used up."""
    ticket = guarded.ticket("all", "sse")
    with lines(guarded.server, "text/event-stream", ticket=ticket) as messages:
        first = next(messages)
    id, mark, word = first["id"].partition("~")
    assert id == first["cursor"] and mark and len(word) >= 16
    guarded.ask("PUT", "/v1/kv/k", b"v")
    last = first["id"]
    words = []
    for _ in range(2):
        with lines(guarded.server, "text/event-stream", {"Last-Event-ID": last}, ticket=ticket) as messages:
            message = next(messages)
            assert [event["key"] for event in message["events"]] == ["k"]
            words.append(message["id"].removeprefix(message["cursor"] + "~"))
    with lines(guarded.server, "text/event-stream", {"Last-Event-ID": f"{id}~{words[-1]}"}, ticket=ticket) as messages:
        assert [event["key"] for event in next(messages)["events"]] == ["k"]
    assert not list((guarded.server.run_dir / "tickets").rglob("*/*")), "nothing is kept of what was used"
    events_only = {"Accept": "text/event-stream"}
    for id in ("", first["cursor"], first["cursor"] + "~nonsense"):
        given = {**events_only, **({"Last-Event-ID": id} if id else {})}
        assert ask(guarded, headers=given, ticket=ticket).status_code == 401
    assert ask(guarded, ticket=guarded.ticket("all", "sse")).json()["code"] == "bad_ticket"


def test_streams_end_when_their_token_is_revoked(guarded: Guarded) -> None:
    """Told so, with where they were; others go on."""
    server = guarded.server
    with (
        websocket(server, headers=authorization("flags")) as narrow,
        lines(server, headers=authorization("flags")) as stream,
        lines(server, headers=authorization("all")) as other,
    ):
        assert receive(narrow)["type"] == next(stream)["type"] == next(other)["type"] == "bookmark"
        try:
            guarded.reload(flags=[("flags/", ["feed", "read"])])
            closing = receive(narrow)
            assert (closing["type"], closing["reason"]) == ("closing", "revoked")
            with pytest.raises(ConnectionClosed) as closed:
                narrow.recv(15)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 3000
            last: list[Message] = list(stream)
            assert (last[-1]["type"], last[-1]["reason"]) == ("closing", "revoked")
            guarded.ask("PUT", "/v1/kv/after", b"v")
            assert [event["key"] for event in events(other, 1)] == ["after"]
        finally:
            guarded.reload()


def hand_on(guarded: Guarded, name: str, ttl: int, **grants: list[str]) -> dict[str, str]:
    """The header of a ticket for requests: from prefix to verbs, handed on by the bearer of a token."""
    asked = {"for": "kv", "ttl": ttl, "grants": [{"prefix": p, "allow": allow} for p, allow in grants.items()]}
    answer = json.loads(guarded.ask("POST", "/v1/tickets", json.dumps(asked).encode(), name))
    assert answer["ticket"].startswith("kvd_")
    return {"Authorization": f"Bearer {answer['ticket']}"}


def test_a_page_gets_a_part_of_the_rights_of_its_backend(guarded: Guarded) -> None:
    page = hand_on(guarded, "root", 600, **{"rooms/7/": ["read", "write", "feed"], "news": ["read"]})
    guarded.ask("PUT", "/v1/kv/news", b"n")
    with guarded.server.client() as client:
        assert client.put("/v1/kv/rooms/7/a", content=b"v", headers=page).status_code == 201
        for path, status in (("rooms/7/a", 200), ("news", 200), ("rooms/8/a", 403)):
            assert client.get(f"/v1/kv/{path}", headers=page).status_code == status, path
        assert client.put("/v1/kv/news", content=b"v", headers=page).status_code == 403
        found = client.get("/v1/whoami", headers=page).json()
        assert [row["prefix"] for row in found["grants"]] == ["news", "rooms/7/"] and found["expires"]
        for asked, status in (
            ({"for": "kv", "grants": [{"prefix": "rooms/7/x", "allow": ["read"]}]}, 201),
            ({"for": "kv", "grants": [{"prefix": "rooms/", "allow": ["read"]}]}, 403),
            ({"for": "kv", "grants": [{"prefix": "", "allow": ["admin"]}]}, 400),
        ):
            assert client.post("/v1/tickets", json=asked, headers=page).status_code == status, asked
        ticket = client.post("/v1/tickets", json={"for": "websocket"}, headers=page).json()["ticket"]
        once = client.post("/v1/tickets", json={"for": "sse"}, headers=page).json()["ticket"]
    with (
        lines(guarded.server, headers=page) as stream,
        websocket(guarded.server, ticket=ticket) as socket,
        lines(guarded.server, "text/event-stream", ticket=once) as sse,
    ):
        assert next(stream)["type"] == receive(socket)["type"] == next(sse)["type"] == "bookmark"
        for key in ("news", "rooms/8/b", "rooms/7/b"):
            guarded.ask("PUT", f"/v1/kv/{key}", b"w")
        assert [event["key"] for event in events(stream, 1)] == ["rooms/7/b"]
        for messages in (iter(lambda: receive(socket), None), sse):
            assert [event["key"] for event in events(messages, 1)] == ["rooms/7/b"]
    again = {"Accept": "text/event-stream", "Last-Event-ID": "1.1~AAAA"}
    assert ask(guarded, headers=again, ticket=once).status_code == 401, "no stream is resumed with more rights"


def test_no_page_takes_the_tickets_of_another(guarded: Guarded) -> None:
    one, other = (hand_on(guarded, "all", 600, **{f"u/{n}/": ["feed"]}) for n in (1, 2))
    with guarded.server.client() as client:
        asked = [client.post("/v1/tickets", json={"for": "sse"}, headers=one).status_code for _ in range(20)]
        assert asked == [201] * 16 + [503] * 4
        narrower = {"for": "kv", "grants": [{"prefix": "u/1/x", "allow": ["feed"]}]}
        inner = client.post("/v1/tickets", json=narrower, headers=one).json()["ticket"]
        bearer_of_inner = {"Authorization": f"Bearer {inner}"}
        assert client.post("/v1/tickets", json={"for": "sse"}, headers=bearer_of_inner).status_code == 503
        assert client.post("/v1/tickets", json={"for": "sse"}, headers=other).status_code == 201
        assert client.post("/v1/tickets", json={"for": "sse"}, headers=authorization("all")).status_code == 201


def test_what_was_handed_on_ends_with_its_time_and_with_its_token(guarded: Guarded) -> None:
    short = hand_on(guarded, "all", 2, **{"rooms/": ["feed"]})
    long = hand_on(guarded, "all", 600, **{"rooms/": ["feed"]})
    with lines(guarded.server, headers=short) as ends, lines(guarded.server, headers=long) as goes_on:
        last: list[Message] = list(ends)
        assert (last[-1]["type"], last[-1]["reason"]) == ("closing", "revoked")
        assert ask(guarded, headers=short).json()["code"] == "invalid_token"
        guarded.ask("PUT", "/v1/kv/rooms/1", b"v")
        assert [event["key"] for event in events(goes_on, 1)] == ["rooms/1"]
        try:
            guarded.reload(all=None)
            last = list(goes_on)
            assert (last[-1]["type"], last[-1]["reason"]) == ("closing", "revoked")
            assert ask(guarded, headers=long).json()["code"] == "invalid_token"
        finally:
            guarded.reload()


def test_as_many_clients_as_there_are_places(tmp_path: Path) -> None:
    """In all, and from one address; each that leaves makes room."""
    options = ("--shards", "1", "--workers", "1", "--sync", "os", "--feed-clients-per-address", "2")
    with Server(tmp_path / "store", *options) as server, server.client() as client:
        with lines(server) as one:
            next(one)
            with lines(server) as two:
                next(two)
                answer = client.get("/v1/feed")
                assert answer.status_code == 503 and "2 feeds are open" in answer.json()["detail"]
                assert answer.headers["retry-after"]
        for _ in range(3):
            while client.get("/v1/feed").status_code == 503:
                pass


def test_want_of_descriptors_ends_no_gateway(tmp_path: Path) -> None:
    """It takes connections over again when some have gone."""
    with Server(tmp_path / "store", "--shards", "1", "--workers", "1", "--sync", "os") as server:
        (gateway,) = [each["pid"] for each in server.status()["gateways"]]
        most = len(list(Path(f"/proc/{gateway}/fd").iterdir())) + 8
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, (most, most))
        asked = [server.connect() for _ in range(30)]
        for connection in asked:
            connection.sendall(b"GET /v1/feed HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        answers = [connection.recv(12) for connection in asked]
        assert set(answers) == {b"HTTP/1.1 200"}, "who finds no place is told to come again in a stream"
        for connection in asked:
            connection.close()
        with server.client() as client:
            wait_for(lambda: client.get("/v1/feed").status_code == 200, "room again")
        assert "no descriptor is free" in server.log() or "can be taken over" in server.log()
