"""`/wal` of a server with tokens: who is let in, what each sees, and what becomes of it when tokens change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.frames import Close, Opcode

from shards.host.board import Board
from tests.system.harness import Server, wait_for
from tests.system.raw import HANDSHAKE, Raw, masked, request

GRANTS = {
    "root": [("", ["read", "write", "feed", "admin"])],
    "all": [("", ["feed"])],
    "flags": [("flags/", ["feed", "read"]), ("b", ["feed"])],
    "writer": [("", ["read", "write"])],
}


def toml(tokens: dict[str, list[tuple[str, list[str]]]]) -> str:
    """The token file; the text of each is its name and `-secret`."""
    lines = []
    for name, grants in tokens.items():
        digest = hashlib.sha256(f"{name}-secret".encode()).hexdigest()
        rows = ", ".join(f"{{ prefix = {json.dumps(p)}, allow = {json.dumps(v)} }}" for p, v in grants)
        lines.append(f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\ngrants = [{rows}]\n')
    return "\n".join(lines)


class Guarded:
    """A server with tokens, whose feed has a port of its own too."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server, self.file = server, file
        found = re.search(r"feed\s+ws://[^:]+:(\d+)/wal", server.banner)
        assert found
        self.feed_port = int(found[1])

    def tcp(self) -> Raw:
        """A connection to REST."""
        return Raw(self.server.connect())

    def watch(self, name: str) -> Raw:
        """A client of the feed with a token, which has its ping."""
        client = self.tcp()
        client.upgrade("/wal", Authorization=bearer(name))
        assert client.frame().opcode is Opcode.PING
        return client

    def ask(self, method: str, path: str, body: bytes = b"", name: str = "root") -> bytes:
        """Body of the answer to a request with a token."""
        with self.server.client() as client:
            answer = client.request(method, path, content=body, headers={"Authorization": bearer(name)})
            assert answer.status_code < 300, answer
            return answer.content

    def ticket(self, name: str, kind: str = "websocket") -> str:
        """A ticket for the bearer of a token."""
        return str(json.loads(self.ask("POST", "/v1/tickets", json.dumps({"for": kind}).encode(), name))["ticket"])

    def reload(self, **changes: list[tuple[str, list[str]]] | None) -> None:
        """Change the file, and have it read again; there is a new worker then, and none that knows the old one."""
        tokens = {name: grants for name, grants in (GRANTS | changes).items() if grants is not None}
        self.file.write_text(toml(tokens))  # type: ignore[arg-type]
        before = self._workers()
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: (now := self._workers()) and not now & before, "another worker")

    def _workers(self) -> set[int]:
        with contextlib.closing(Board.open(self.server.run_dir / "board")) as board:
            return {row.pid for _, row in board.workers.living_rows()}

    def settled(self, name: str) -> bool:
        """Whether the worker and the gateway both know a token."""
        with self.server.client() as client:
            answer = client.post("/v1/tickets", json={"for": "sse"}, headers={"Authorization": bearer(name)})
        return answer.is_success and self.lets_in(name)

    def lets_in(self, name: str) -> bool:
        """Whether the bearer of a token gets the feed."""
        with self.tcp() as client:
            client.send(request("GET", "/wal", HANDSHAKE | {"Authorization": bearer(name)}))
            return client.head().startswith(b"HTTP/1.1 101 ")


def bearer(name: str) -> str:
    return f"Bearer {name}-secret"


def line(client: Raw) -> str:
    """The next line that is no heartbeat."""
    while (text := client.frame_but_pings().data.decode()).startswith("Heartbeat"):
        pass
    return text


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path]) -> Iterator[Guarded]:
    place = make_dir("guarded")
    file = place / "tokens.toml"
    file.write_text(toml(GRANTS))
    options = ["--shards", "2", "--workers", "1", "--feed-port", "0", "--tokens", str(file)]
    with Server(place / "data", *options) as server:
        yield Guarded(server, file)
        assert "-secret" not in server.log() and "kvt_" not in server.log()


# Who is let in


@pytest.mark.parametrize(
    ("sent", "status", "challenge"),
    [
        ({}, 401, "Bearer"),
        ({"Authorization": "Basic eDp5"}, 401, "Bearer"),
        ({"Authorization": "Bearer nonsense"}, 401, 'Bearer error="invalid_token"'),
        ({"Authorization": "Bearer nonsense", "Origin": "https://a.example"}, 401, 'Bearer error="invalid_token"'),
        ({"Authorization": bearer("writer")}, 403, None),
        ({"Authorization": bearer("all"), "authorization": bearer("all")}, 400, None),
        ({"Upgrade": ""}, 401, "Bearer"),
        ({"Upgrade": "", "Authorization": bearer("all")}, 400, None),
    ],
)
def test_who_can_see_it_is_told_by_the_status(
    guarded: Guarded, sent: dict[str, str], status: int, challenge: str | None
) -> None:
    """The same on both ports."""
    for port in (guarded.server.port, guarded.feed_port):
        with Raw(socket.create_connection((guarded.server.host, port), 20)) as client:
            client.send(request("GET", "/wal", HANDSHAKE | sent))
            first, *fields = client.head().decode().lower().split("\r\n")[:-2]
            assert int(first.split()[1]) == status
            headers = dict(field.split(": ", 1) for field in fields)
            assert headers.get("www-authenticate") == (challenge and challenge.lower())
            assert headers["access-control-allow-origin"] == "*"


def refused_in_stream(guarded: Guarded, target: str, **headers: str) -> Close:
    """How a connection that was accepted is closed."""
    with guarded.tcp() as client:
        client.upgrade(target, **headers)
        return client.closed_with()


def test_pages_are_told_by_the_close_code(guarded: Guarded) -> None:
    """A browser shows no status of a handshake that failed."""
    page = {"Origin": "https://app.example"}
    nothing = refused_in_stream(guarded, "/wal", **page)
    assert nothing == Close(3000, "This request needs a token")
    unknown = Close(3000, "The ticket is not valid: it is unknown, or was used before")
    assert refused_in_stream(guarded, "/wal?ticket=kvt_nonsense", **page) == unknown
    assert refused_in_stream(guarded, "/wal?ticket=") == unknown
    wrong = refused_in_stream(guarded, f"/wal?x=y&ticket={guarded.ticket('all', 'sse')}", **page)
    assert wrong == Close(3000, "The ticket is not valid: it is for sse, not for websocket")


def test_a_ticket_is_good_once(guarded: Guarded) -> None:
    """And shows what its token does."""
    ticket = guarded.ticket("flags")
    with guarded.tcp() as client:
        client.upgrade(f"/wal?ticket={ticket}", Origin="https://app.example")
        guarded.ask("PUT", "/other", b"x")
        guarded.ask("PUT", "/flags%2Fticket", b"x")
        assert line(client) == "Insert { key: flags/ticket, value: x }"
        assert refused_in_stream(guarded, f"/wal?ticket={ticket}").code == 3000


# What is shown


def test_each_sees_what_is_granted_in_the_same_order(guarded: Guarded) -> None:
    """Of changes and of activity; a key that goes with a prefix that must not be named has a line of its own."""
    with guarded.watch("root") as root, guarded.watch("all") as whole, guarded.watch("flags") as flags:
        requests = [
            ("PUT", "/flags%2Fa", "Insert { key: flags/a, value: v }", True),
            ("PUT", "/a", "Insert { key: a, value: v }", False),
            ("GET", "/flags%2Fa", "Read { key: flags/a}", True),
            ("GET", "/a", "Read { key: a}", False),
            ("GET", "/keys", "List", False),
            ("GET", "/keys/flags%2F", "ListPrefix { prefix: flags/}", True),
            ("GET", "/keys/fl", "ListPrefix { prefix: fl}", False),
            ("PUT", "/bb", "Insert { key: bb, value: v }", True),
            ("DELETE", "/keys/flags%2F", "DeletePrefix { key: flags/ }", True),
            ("PUT", "/flags%2Fb", "Insert { key: flags/b, value: v }", True),
            ("DELETE", "/bb", "Delete { key: bb }", True),
            ("DELETE", "/keys/f", "DeletePrefix { key: f }", False),
            ("DELETE", "/keys", "DeleteAll", False),
            ("PUT", "/flags%2Fend", "Insert { key: flags/end, value: v }", True),
        ]
        for method, path, _, _ in requests:
            guarded.ask(method, path, b"v" if method == "PUT" else b"")
        expected = [text for _, _, text, _ in requests]
        assert [line(root) for _ in requests] == [line(whole) for _ in requests] == expected
        narrow = [text for _, _, text, shown in requests if shown]
        narrow.insert(narrow.index("Delete { key: bb }") + 1, "Delete { key: flags/b }")
        assert [line(flags) for _ in narrow] == narrow


def test_heartbeats_show_addresses_to_those_with_admin(guarded: Guarded) -> None:
    """To the others nothing."""
    with guarded.watch("root") as root, guarded.watch("all") as whole, guarded.watch("flags") as flags:
        flags.send(masked(Opcode.PONG, b"\x01\x02\x03"))
        host, port = flags.socket.getsockname()
        assert root.frame_but_pings().data.decode() == f"Heartbeat from {host}:{port}"
        guarded.ask("PUT", "/flags%2Fx", b"v")
        for client in (root, whole, flags):
            assert client.frame_but_pings().data.decode() == "Insert { key: flags/x, value: v }"


def test_a_narrow_client_that_is_left_behind_reads_the_log(guarded: Guarded) -> None:
    """And sees of it what is granted, large values and small."""
    value = b"x" * 1_000_000
    with guarded.watch("flags") as client, guarded.watch("flags") as idle:
        expected = []
        with guarded.server.client() as writer:
            for number in range(40):
                for prefix in ("flags%2F", "other%2F"):
                    body = value if number % 2 and prefix == "flags%2F" else b"small"
                    writer.put(f"/{prefix}{number}", content=body, headers={"Authorization": bearer("root")})
                expected.append(f"flags/{number}")
        for each in (client, idle):
            lines = [line(each) for _ in expected]
            assert [re.split(r"[ ,]", text)[3] for text in lines] == expected
            assert all(len(text) > len(value) for text in lines[1::2])


# Tokens change


def test_revoked_tokens_end_their_feeds_and_no_others(guarded: Guarded) -> None:
    """Whose token is gone, or sees something else now, is closed; a file that cannot be used changes nothing."""
    with contextlib.ExitStack() as stack:
        names = ["root", "all", "flags", "flags"]
        root, whole, flags, more = [stack.enter_context(guarded.watch(name)) for name in names]
        guarded.file.write_text("nonsense")
        assert guarded.server.process is not None
        guarded.server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "tokens that are in effect stay" in guarded.server.log(), "the refusal of the file")
        guarded.reload(
            root=[("", ["feed", "admin"]), ("x", ["write"])], all=None, flags=[("flags/", ["feed"]), ("c", ["feed"])]
        )
        for client in (whole, flags, more):
            while (frame := client.frame_but_pings()).opcode is Opcode.TEXT:
                assert frame.data.startswith(b"Heartbeat")
            assert Close.parse(bytes(frame.data)) == Close(3000, "revoked")
            assert client.rest() == b""
        guarded.reload()
        wait_for(lambda: guarded.settled("all"), "the token's return")
        with guarded.watch("all") as again:
            guarded.ask("PUT", "/after", b"v")
            assert line(root) == line(again) == "Insert { key: after, value: v }"


def test_a_ticket_of_a_revoked_token_is_worth_nothing(guarded: Guarded) -> None:
    """Though it was good when it was issued."""
    ticket = guarded.ticket("all")
    guarded.reload(all=None)
    try:
        wait_for(lambda: not guarded.lets_in("all"), "the end of the token")
        closed = refused_in_stream(guarded, f"/wal?ticket={ticket}")
        assert closed == Close(3000, "The ticket is not valid: the token it was issued to was revoked")
    finally:
        guarded.reload()
        wait_for(lambda: guarded.settled("all"), "the token's return")
