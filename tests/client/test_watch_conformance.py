"""The feed: what every client makes of it, over lines and over WebSocket, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.driver import Driver
from tests.client.sdks import DRIVERS, Sdk
from tests.client.test_conformance import coded, put
from tests.client.watching import Watching, value_of, without_empty_reset
from tests.system.feeds import now
from tests.system.harness import Server

PAIRS = {
    f"{sdk.name}-{transport}": (sdk, transport)
    for sdk in DRIVERS.values()
    for transport in ("lines", "websocket")
    if transport not in sdk.lacks
}
"""Each client, and how it can have the feed carried."""


@pytest.fixture(scope="module", params=PAIRS.values(), ids=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Sdk, str]:
    """A client and a transport."""
    found: tuple[Sdk, str] = request.param
    return found


@pytest.fixture(scope="module")
def sdk(pair: tuple[Sdk, str]) -> Sdk:
    """The client."""
    return pair[0]


@pytest.fixture(scope="module")
def transport(pair: tuple[Sdk, str]) -> str:
    """How the feed is carried."""
    return pair[1]


def kinds(changes: list[dict[str, Any]]) -> list[str]:
    return [change["kind"] for change in changes]


@pytest.fixture
def below(key: str, transport: str) -> Iterator[str]:
    """A prefix of this test's own."""
    yield f"{key}{transport}/"


def test_what_is_written_after_ready_is_seen(
    sdk: Sdk, server: Server, driver: Driver, below: str, transport: str
) -> None:
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        revision = put(driver, below + "a", b"one", content_type="text/plain")
        (change,) = watching.take()
    assert (change["kind"], change["key"], value_of(change)) == ("put", below + "a", b"one")
    assert (change["revision"], change["content_type"], change["origin"]) == (revision, "text/plain", "live")
    assert change["expires"] is None and change["time"].endswith("Z") and change["cursor"]


def test_every_kind_of_change(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        put(driver, below + "a", b"\xff\0")
        touched = driver.ask("touch", key=below + "a", ttl=60)["revision"]
        driver.ask("incr", key=below + "n", by=-3)
        driver.ask("delete", key=below + "a")
        driver.ask("delete_prefix", prefix=below)
        put(driver, below + "b", ttl=0.2)
        changes = watching.take(7)
    assert kinds(changes) == ["put", "touch", "put", "delete", "delete", "put", "delete"]
    assert value_of(changes[0]) == b"\xff\0" and value_of(changes[2]) == b"-3"
    assert changes[1]["revision"] == touched and changes[1]["expires"].endswith("Z")
    assert [change["cause"] for change in changes if change["kind"] == "delete"] == ["request", "prefix", "expire"]
    assert changes[5]["expires"] is not None
    revisions = [change["revision"] for change in changes]
    assert revisions == sorted(set(revisions))


def test_a_snapshot_comes_first(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    revisions = {f"{below}{name}": put(driver, below + name, name.encode()) for name in ("a", "b", "ü")}
    with Watching(sdk, server.url, prefixes=[below], snapshot=True, transport=transport) as watching:
        changes = watching.take_until("synced")
        after = put(driver, below + "c")
        (change,) = watching.take()
    assert kinds(changes) == ["reset", "put", "put", "put", "synced"]
    assert (changes[0]["reason"], changes[0]["snapshot"]) == ("start", True)
    assert {change["key"]: change["revision"] for change in changes[1:-1]} == revisions
    assert {change["origin"] for change in changes[1:-1]} == {"snapshot"}
    assert (change["revision"], change["origin"]) == (after, "live")


def test_a_snapshot_of_nothing_ends_too(sdk: Sdk, server: Server, below: str, transport: str) -> None:
    with Watching(sdk, server.url, prefixes=[below], snapshot=True, until_synced=True, transport=transport) as watching:
        assert kinds(list(without_empty_reset(watching.rest()))) == ["synced"]


def test_a_cursor_continues_behind_its_change(
    sdk: Sdk, server: Server, driver: Driver, below: str, transport: str
) -> None:
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        revisions = [put(driver, below + name) for name in "abcd"]
        changes = watching.take(4)
    for change in changes:
        since = change["cursor"]
        with Watching(sdk, server.url, prefixes=[below], since=since, transport=transport) as watching:
            revisions.append(put(driver, below + "z"))
            seen: list[int] = []
            while not seen or seen[-1] < revisions[-1]:
                seen += [change["revision"] for change in watching.take()]
        # The cursor may be that of an earlier message, if the change is not the last one of its message.
        assert (
            seen == revisions[revisions.index(seen[0]) :]
            and seen[0] <= revisions[revisions.index(change["revision"]) + 1]
        )
    assert seen[0] == revisions[4]


def test_a_count_ends_it(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    with Watching(sdk, server.url, prefixes=[below], count=2, transport=transport) as watching:
        for name in "abc":
            put(driver, below + name)
        assert [change["key"] for change in watching.rest()] == [below + "a", below + "b"]
        cursor = watching.result["cursor"]
    with Watching(sdk, server.url, prefixes=[below], since=cursor, count=1, transport=transport) as watching:
        (change,) = watching.rest()
        assert change["key"] in (below + "a", below + "b", below + "c")


def test_the_end_of_input_ends_it(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        put(driver, below + "a")
        (change,) = watching.take()
        assert watching.driver._process.stdin is not None
        watching.driver._process.stdin.close()
        assert watching.rest() == []
        assert watching.result == {"cursor": change["cursor"]}
        assert watching.driver._process.wait(20) == 0


def test_keys_and_prefixes_add_up(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    wanted = {"prefixes": [below + "p/", below + "q"], "keys": [below + "x", below + "ü/."]}
    with Watching(sdk, server.url, transport=transport, **wanted) as watching:
        for name in ("p", "p/", "x/", "ü/.", "y", "qq", "x"):
            put(driver, below + name)
        assert [change["key"] for change in watching.take(4)] == [below + name for name in ("p/", "ü/.", "qq", "x")]


def test_ops_select_changes(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    ops = ["delete:request", "touch"]
    with Watching(sdk, server.url, prefixes=[below], ops=ops, transport=transport) as watching:
        put(driver, below + "a", ttl=0.1)
        put(driver, below + "b")
        driver.ask("touch", key=below + "b", persist=True)
        driver.ask("delete", key=below + "b")
        assert kinds(watching.take(2)) == ["touch", "delete"]


def test_without_values_there_are_sizes(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    put(driver, below + "a", b"12345")
    with Watching(sdk, server.url, prefixes=[below], snapshot=True, values=False, transport=transport) as watching:
        put(driver, below + "b", b"\xff")
        changes = [change for change in watching.take(4) if change["kind"] == "put"]
    assert [(change["size"], "value_base64" in change) for change in changes] == [(5, False), (1, False)]


def test_activity(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    with Watching(sdk, server.url, prefixes=[below], activity=True, transport=transport) as watching:
        driver.ask("get", key=below + "nothing")
        change = watching.take_until("activity")[-1]
        while change["op"] == "heartbeat":  # of WebSockets that answered a ping
            change = watching.take_until("activity")[-1]
    assert (change["op"], change.get("subject", change.get("key"))) == ("read", below + "nothing")


def test_an_atomic_batch_comes_whole(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    keys = [f"{below}{{t}}{at}" for at in range(20)]
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        driver.ask("atomic", ops=[{"op": "put", "key": key, "value_base64": ""} for key in keys])
        changes = watching.take(20)
    assert [change["key"] for change in changes] == keys
    assert len({change["cursor"] for change in changes[:-1]}) == 1, "no cursor lies within the batch"
    assert changes[-1]["cursor"] != changes[0]["cursor"]


def test_conflation_ends_with_the_latest(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    since = now(server)
    for at in range(30):
        put(driver, below + "a", str(at).encode())
    with Watching(sdk, server.url, prefixes=[below], since=since, conflate=True, transport=transport) as watching:
        (change,) = watching.take()
    assert value_of(change) == b"29"


def test_a_gap_without_a_snapshot_is_an_error(
    sdk: Sdk, server: Server, driver: Driver, below: str, transport: str
) -> None:
    revision = put(driver, below + "a")
    options: dict[str, Any] = {"prefixes": [below], "since": "ffff.5", "transport": transport}
    try:
        with Watching(sdk, server.url, **options) as watching:
            error = watching.error()
    except Exception as raised:
        error = raised  # type: ignore[assignment]
    assert (getattr(error, "half", ""), getattr(error, "code", "")) == ("other", "gap"), error
    with Watching(sdk, server.url, on_gap="continue", **options) as watching:
        changes = watching.take_until("put")
    assert (changes[0]["kind"], changes[0]["reason"], changes[0]["snapshot"]) == ("reset", "epoch", False)
    assert revision in [change["revision"] for change in changes if change["kind"] == "put"]


def test_a_gap_with_a_snapshot_begins_anew(
    sdk: Sdk, server: Server, driver: Driver, below: str, transport: str
) -> None:
    revision = put(driver, below + "a")
    with Watching(sdk, server.url, prefixes=[below], since="ffff.5", snapshot=True, transport=transport) as watching:
        changes = watching.take_until("synced")
    assert (changes[0]["kind"], changes[0]["reason"], changes[0]["snapshot"]) == ("reset", "epoch", True)
    assert [change["revision"] for change in changes if change["kind"] == "put"] == [revision]


def test_what_is_no_cursor_is_refused(sdk: Sdk, server: Server, below: str, transport: str) -> None:
    try:
        with Watching(sdk, server.url, prefixes=[below], since="nonsense", transport=transport) as watching:
            error = watching.error()
    except Exception as raised:
        error = raised  # type: ignore[assignment]
    assert (getattr(error, "half", ""), getattr(error, "code", "")) == ("refused", "bad_cursor"), error


@pytest.mark.parametrize("size", [70_000, 5_000_000])
def test_large_values(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str, size: int) -> None:
    text, binary = b"x" * size, b"\xff" * size
    with Watching(sdk, server.url, prefixes=[below], transport=transport) as watching:
        put(driver, below + "t", text)
        put(driver, below + "b", binary)
        assert [value_of(change) for change in watching.take(2)] == [text, binary]


def test_a_snapshot_of_many_pages(sdk: Sdk, server: Server, driver: Driver, below: str, transport: str) -> None:
    keys = [f"{below}{at:04}" for at in range(2500)]
    for start in (0, 1000, 2000):
        ops = [{"op": "put", "key": key, "value_base64": coded(b"v")} for key in keys[start : start + 1000]]
        driver.ask("batch", ops=ops)
    with Watching(sdk, server.url, prefixes=[below], snapshot=True, until_synced=True, transport=transport) as watching:
        changes = watching.rest()
    assert kinds(changes).count("reset") == 1
    assert sorted(change["key"] for change in changes if change["kind"] == "put") == keys
