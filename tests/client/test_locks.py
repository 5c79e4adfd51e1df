"""Leases, locks and elections of the Python client, with holders that die, stand still, or lose their server."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvserver.client import AsyncClient, Client, LockLost
from kvserver.client.errors import BadRequest
from tests import effort
from tests.client.killing import free_port, kill, wait_until_whole
from tests.system.harness import Server, wait_for

TTL = 1.0
ROUNDS = effort.times(6)
CAMPAIGNER = Path(__file__).with_name("campaigner.py")


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that comes back to the same port."""
    options = ("--shards", "2", "--workers", "2", "--sync", "os", "--port", str(free_port()))
    with Server(make_dir("data"), *options) as running:
        running.tracebacks_expected = True  # of workers whose shard was killed under them
        yield running


@pytest.fixture
def kv(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    found: str = request.node.name
    return found


# Locks


def test_a_lock_is_held_by_one_and_renewed(kv: Client, name: str) -> None:
    with kv.lock(name, ttl=TTL) as lock:
        assert lock.held and lock.fence > 0 and not lock.lost.is_set()
        entry = kv.get(name)
        assert entry is not None and entry.text == lock.owner and entry.expires is not None
        wait_for(lambda: (now := kv.get(name)) and now.revision >= entry.revision + 3, "three renewals")
        assert lock.held
        with pytest.raises(TimeoutError, match=name), kv.lock(name, ttl=TTL, timeout=0.1):
            pass
        assert kv.lock(name, ttl=TTL).acquire(timeout=0) is False
        with pytest.raises(RuntimeError, match="held already"):
            lock.acquire()
    assert not lock.held and not lock.lost.is_set() and not lock.lost.wait(0.1)
    assert kv.get(name) is None


def test_who_waits_gets_it_when_it_is_released(kv: Client, name: str) -> None:
    fences: list[int] = []

    def work() -> None:
        with kv.lock(name, ttl=30) as lock:
            assert lock.held
            fences.append(lock.fence)
            assert kv.incr(name + "/inside") == 1
            assert kv.incr(name + "/inside", -1) == 0

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fences) == 5 and fences == sorted(fences)


def test_a_lock_can_be_taken_again(kv: Client, name: str) -> None:
    lock = kv.lock(name, ttl=TTL)
    fences = []
    for _ in range(2):
        assert lock.acquire(timeout=5)
        fences.append(lock.fence)
        assert lock.release() is True
    assert fences[0] < fences[1] and lock.release() is False


def test_a_lock_that_was_deleted_is_lost(kv: Client, name: str) -> None:
    with pytest.raises(LockLost, match=name), kv.lock(name, ttl=TTL) as lock:
        kv.delete(name)
        assert lock.lost.wait(30)
        assert not lock.held
    with pytest.raises(ZeroDivisionError), kv.lock(name, ttl=TTL):
        kv.delete(name)
        raise ZeroDivisionError


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_time_to_live_is_above_zero(kv: Client, name: str, ttl: float) -> None:
    for make in (kv.lock, kv.election):
        with pytest.raises(BadRequest):
            make(name, ttl=ttl)
    with pytest.raises(BadRequest):
        kv.lease(ttl)


def test_without_a_server_a_lock_is_lost_in_time(tmp_path: Path, name: str) -> None:
    server = Server(tmp_path / "data", "--in-memory", "--shards", "1", "--workers", "1")
    with server, pytest.raises(LockLost), Client(server.url) as kv, kv.lock(name, ttl=TTL) as lock:
        server.kill()
        assert lock.lost.wait(30)
        assert not lock.held


def test_async_locks(server: Server, name: str) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as kv:
            fences: list[int] = []

            async def work() -> None:
                async with kv.lock(name, ttl=30) as lock:
                    fences.append(lock.fence)
                    assert await kv.incr(name + "/inside") == 1
                    assert await kv.incr(name + "/inside", -1) == 0

            await asyncio.gather(*(work() for _ in range(5)))
            assert len(fences) == 5 and fences == sorted(fences)
            with pytest.raises(LockLost):
                async with kv.lock(name, ttl=TTL) as lock:
                    with pytest.raises(TimeoutError):
                        async with kv.lock(name, ttl=TTL, timeout=0.1):
                            pass
                    await kv.delete(name)
                    assert await lock.lost.wait(30)
            async with kv.lease(TTL) as lease:
                await lease.put(name + "/lease", "here")
                await asyncio.sleep(1.5 * TTL)
                assert (await kv.get(name + "/lease")) is not None
            assert await kv.wait(name + "/lease", lambda entry: entry is None, 30) is None

    asyncio.run(run())


# Leases


def test_a_lease_keeps_keys_until_it_ends(kv: Client, name: str) -> None:
    lost: list[str] = []
    with kv.lease(TTL, on_lost=lost.append) as lease:
        written = lease.put(name + "/a", "here")
        lease.put(name + "/b", json={"n": 1}, content_type="application/x")
        lease.put(name + "/c", "here")
        assert lease.keys == [name + "/a", name + "/b", name + "/c"]
        wait_for(lambda: (now := kv.get(name + "/a")) and now.revision > written.revision + 6, "renewals")
        kv.put(name + "/c", "taken")
        wait_for(lambda: lost == [name + "/c"], "a lost key")
        assert lease.keys == [name + "/a", name + "/b"]
        lease.put(name + "/c", "again")
        assert len(lease.keys) == 3
    for key in "abc":
        assert kv.wait(f"{name}/{key}", lambda entry: entry is None, 30) is None
    with pytest.raises(RuntimeError, match="closed"):
        lease.put(name + "/a", "here")


def test_a_revoked_lease_deletes_what_is_still_its_own(kv: Client, name: str) -> None:
    lease = kv.lease(30)
    lease.put(name + "/a", "here")
    lease.put(name + "/b", "here")
    kv.put(name + "/b", "taken")
    lease.revoke()
    assert kv.get(name + "/a") is None and kv[name + "/b"] == b"taken"


def test_a_lease_survives_a_killed_shard(server: Server, kv: Client, name: str) -> None:
    with kv.lease(4) as lease:
        for at in range(8):
            lease.put(f"{name}/{at}", "here")
        kill(server, "shard", random.Random(1))
        wait_until_whole(server)
        revisions = {key: entry.revision for key, entry in kv.get_many(lease.keys).items() if entry}
        assert len(revisions) == 8

        def are_renewed() -> bool:
            now = kv.get_many(list(revisions))
            return all(entry and entry.revision > revisions[key] for key, entry in now.items())

        wait_for(are_renewed, "renewals")


# Elections


class Campaigner:
    """A process that campaigns.

    Attributes:
        moments: when it surely led, by the machine's clock, and with which fence.
    """

    def __init__(self, url: str, kind: str, name: str, value: str) -> None:
        environ = os.environ | {"KVSERVER_URL": url}
        command = [sys.executable, "-W", "error", str(CAMPAIGNER), kind, name, str(TTL), value]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        self.moments: list[tuple[float, int]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                held_at, fence = json.loads(line)
                self.moments.append((held_at, fence))

    @property
    def fence(self) -> int:
        """With which it led last."""
        return self.moments[-1][1] if self.moments else 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def spans(campaigners: list[Campaigner]) -> list[tuple[float, float, int]]:
    """From when to when each leader led, and its fence, in the order of their beginnings."""
    found: dict[int, list[float]] = {}
    for campaigner in campaigners:
        for held_at, fence in list(campaigner.moments):
            found.setdefault(fence, []).append(held_at)
    return sorted((min(times), max(times), fence) for fence, times in found.items())


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_at_no_time_two_lead(server: Server, kv: Client, name: str) -> None:
    """The leader's process and the server's shard are killed in turn, and leaders stand still for longer than `ttl`."""
    observed: list[str | None] = []
    ended = threading.Event()

    def observe() -> None:
        for leader in kv.election(name).observe():
            observed.append(leader and leader.text)
            if leader is None and ended.is_set():
                return

    watching = threading.Thread(target=observe, daemon=True)
    watching.start()
    all_of_them = [Campaigner(server.url, kind, name, f"{kind} {at}") for at, kind in enumerate(("sync", "async"))]
    alive = list(all_of_them)
    chance = random.Random(3)

    def leader() -> Campaigner | None:
        return next((each for each in alive if each.fence > last_fence), None)

    last_fence = 0
    try:
        for turn in range(ROUNDS):
            lead = wait_for(leader, "another leader", 60)
            last_fence = lead.fence
            what = ("kill", "shard", "stop")[turn % 3]
            if what == "kill":
                lead.kill()
                alive.remove(lead)
                alive.append(Campaigner(server.url, chance.choice(("sync", "async")), name, f"again {turn}"))
                all_of_them.append(alive[-1])
            elif what == "shard":
                for _ in range(2):
                    kill(server, "shard", chance)
            else:
                lead.process.send_signal(signal.SIGSTOP)
                try:
                    wait_for(leader, "another leader", 60)
                finally:
                    lead.process.send_signal(signal.SIGCONT)
        wait_for(leader, "a leader in the end", 60)
    finally:
        ended.set()
        for campaigner in alive:
            campaigner.kill()
    watching.join(60)
    assert not watching.is_alive() and kv.get(name) is None
    found = spans(all_of_them)
    assert len(found) > ROUNDS
    for (_, end, fence), (begin, _, next_fence) in pairwise(found):
        assert end < begin, "two led at a time"
        assert fence < next_fence
    assert None in observed[1:-1]
    assert all(one != other for one, other in pairwise(observed))
    leaders = [value for value in observed if value is not None]
    assert len(leaders) >= len(found) - 1 and {value.split()[0] for value in leaders} == {"sync", "async", "again"}


def test_a_campaign_tells_its_value(kv: Client, name: str) -> None:
    election = kv.election(name, ttl=TTL)
    leaders = election.observe()
    assert next(leaders) is None
    with election.campaign(b"\xff\0") as leadership:
        found: Any = next(leaders)
        assert (found.value, found.revision) == (b"\xff\0", leadership.fence)
        with pytest.raises(TimeoutError), election.campaign("other", timeout=0.1):
            pass
        time.sleep(TTL)  # in which it is renewed, which the observer is not told
    assert next(leaders) is None
    leaders.close()
