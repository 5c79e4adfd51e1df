"""One machine of a cluster without room: the others go on, it says so, and comes back when there is room."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.cluster.engines import Engines
from tests.cluster.histories import assert_equal, cluster_of, events_since, get, items, put, until_ready
from tests.cluster.servers import Servers, create_order
from tests.cluster.small_disks import MiB, SmallDisk, can_mount, small_disk
from tests.system import feeds
from tests.system.harness import Server, wait_for

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root, to mount a file system")


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="kv-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def try_put(server: Server, key: str, value: str) -> int | None:
    try:
        return put(server, key, value)
    except httpx.HTTPError:
        return None


def refusal(server: Server, key: str, value: str) -> httpx.Response | None:
    with server.client() as client:
        answer = client.put(f"/v1/kv/{key}", content=value, headers={"Accept": "application/json"})
        return None if answer.is_success else answer


def test_an_engine_without_room(place: Path) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(place / "engines" / "n3" / "js", 64 * MiB))
        engines = Engines(place / "engines")
        third = engines.servers[2]
        third.prefix = disk.command
        stack.enter_context(engines)
        create_order(engines, max_bytes=48 * MiB)
        servers = Servers(engines, place)
        for server in servers.all:
            stack.callback(server.close)
        servers.start()
        a, _, c = servers.all
        cursor = feeds.now(a)
        disk.fill()
        value = "x" * (48 << 10)
        for number in range(100):
            wait_for(lambda number=number: try_put(a, f"k-{number % 20}", value), "a writes", 60)
        until_ready(*servers.all)
        assert put(c, "of-c", "through another engine")
        disk.make_room()
        third.kill()
        third.start()
        engines.wait_until_ready()
        for number in range(20):
            wait_for(lambda number=number: try_put(c, f"k-{number % 20}", "small"), "c writes", 60)
        assert_equal(servers.all, since=cursor)


class OnSmallDisk(Server):
    """A server whose data directory is on a small disk."""

    disk: SmallDisk

    def command(self) -> list[str]:
        return self.disk.command(super().command())


def test_a_machine_without_room_for_its_log(place: Path) -> None:
    with ExitStack() as stack:
        engines = stack.enter_context(Engines(place / "engines"))
        create_order(engines)
        servers = Servers(engines, place, ["--wal-retention", "64MiB"])
        made = OnSmallDisk(servers["c"].data_dir, *servers["c"].options)
        made.disk = stack.enter_context(small_disk(servers["c"].data_dir, 400 * MiB))
        servers.all[2] = made
        for server in servers.all:
            stack.callback(server.close)
        servers.start()
        a, b, c = servers.all
        put(c, "before", "v")
        made.disk.fill()
        value = "x" * (1 << 20)
        seen: set[int] = set()
        for number in range(200):
            wait_for(lambda number=number: try_put(a, f"k-{number % 10}", value), "a writes", 60)
            if number % 10 == 0 and (answer := refusal(c, "more", value)) is not None:
                seen.add(answer.status_code)
            if cluster_of(c)["stopped"]:
                break
        said = wait_for(lambda: cluster_of(c)["stopped"], "c says that it has no room", 60)
        assert "space" in said or "room" in said, said
        read = get(c, "/v1/kv/before")
        assert (read.status_code, read.json()["code"]) == (503, "not_current")
        assert seen <= {503, 504, 507}  # 504: it was proposed, and this machine could not see what came of it
        for server in (a, b):
            wait_for(lambda server=server: try_put(server, "others", "go on"), "others go on", 60)
        made.disk.make_room()
        until_ready(c)
        assert cluster_of(c)["stopped"] is None
        cursor = feeds.now(a)
        last = put(c, "after", "v")
        assert items(c) == items(a)
        assert events_since(c, cursor) == events_since(a, cursor) == [(last, "after")]
