"""The order on three real engines that are killed, stopped, and robbed of what they hold."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest

from shards.order import link, stream
from shards.order.jetstream import JetStreamOrder
from shards.order.messages import Batch
from shards.order.order import (
    Identity,
    NotDurable,
    NotTaken,
    OrderError,
    OrderLost,
    OrderTrimmed,
    OrderUnreachable,
)
from shards.order.proposer import Proposer
from shards.order.replica import Replica, encode_state
from tests.cluster.carriers import INIT, NODES, Carrier, create_stream, take_until, wait_for_any
from tests.cluster.engines import WAIT_S, Engines, wait_for

pytestmark = pytest.mark.timeout(300)
_sessions = itertools.count(1)


class Site:
    """Three engines with a stream, and a carrier for each node."""

    def __init__(self, engines: Engines, directory: Path) -> None:
        self.engines, self.directory = engines, directory
        made = create_stream(engines, directory)
        assert made.returncode == 0, made.stderr.decode()
        self.carriers = {node: Carrier(engines, directory, node) for node in NODES}
        for carrier in self.carriers.values():
            carrier.start()

    def close(self) -> None:
        for carrier in self.carriers.values():
            carrier.kill()

    def request(self, subject: str, payload: bytes = b"") -> bytes:
        """Ask the engine itself."""

        async def ask() -> bytes:
            client = await nats.connect(self.engines.urls)
            try:
                return (await client.request(subject, payload, timeout=10)).data
            finally:
                await client.close()

        return asyncio.run(ask())

    def stream_cluster(self) -> dict[str, object]:
        """What is said of those that hold the stream; while nobody says anything, that it has a leader."""
        try:
            found: dict[str, object] = msgspec.json.decode(self.request(stream.INFO))["cluster"]
            return found
        except (nats.errors.Error, OSError, KeyError):
            return {"leader": "who knows"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("order")
    with Engines(directory) as engines:
        site = Site(engines, directory)
        yield site
        site.close()


class Member:
    """A node that follows the order from its beginning, as a shard would."""

    def __init__(self, site: Site, node: str) -> None:
        self.node = node
        self.order = site.carriers[node].order()
        self.identity = self.order.open_within(0, None)
        self.replica = Replica()
        self.proposer = Proposer(node, time.time_ns() + next(_sessions), 0)
        self.groups: list[bytes] = []
        self.came_back: set[int] = set()

    def turn(self) -> None:
        self.proposer.exchange(self.order, time.monotonic())
        self.receive()

    def receive(self) -> None:
        for message in self.order.take():
            effect = self.replica.deliver(message)
            assert effect is not None
            if isinstance(effect.content, Batch):
                self.groups.append(effect.content.operations)
            ticket = self.proposer.observe(effect, time.monotonic())
            if ticket is not None:
                self.came_back.add(ticket)


class Members:
    """One member for each node, in turns."""

    def __init__(self, site: Site) -> None:
        self.all = [Member(site, node) for node in NODES]

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.all:
            member.order.close()

    def run_until(self, done: object, name: str) -> None:
        """Let all work until `done()` is true."""
        assert callable(done)
        end = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end, f"no {name} within {WAIT_S} s"
            wait_for_any([member.order for member in self.all], 0.02)
            for member in self.all:
                member.turn()

    def propose_everywhere(self, name: str) -> None:
        """Propose a group of each node, and wait until all have come back."""
        tickets = [(member, member.proposer.propose(f"{name} {member.node}".encode())) for member in self.all]
        self.run_until(lambda: all(ticket in member.came_back for member, ticket in tickets), f"{name} everywhere")

    def check_equal(self) -> None:
        """Wait until all have the same messages, and compare what they make."""
        self.run_until(lambda: len({member.replica.state.sequence for member in self.all}) == 1, "equal sequences")
        assert len({encode_state(member.replica.state) for member in self.all}) == 1
        assert self.all[0].groups == self.all[1].groups == self.all[2].groups
        assert len(set(self.all[0].groups)) == len(self.all[0].groups), "a group had effect twice"


def test_all_nodes_get_the_messages_of_all_in_one_order(site: Site) -> None:
    with Members(site) as members:
        assert len({member.identity for member in members.all}) == 1
        for round in range(20):
            members.propose_everywhere(f"first {round}")
        members.check_equal()
        large = members.all[1].proposer.propose(b"large" * 500_000)
        members.run_until(lambda: large in members.all[1].came_back, "large group")
        members.check_equal()


def test_what_is_sent_twice_is_in_the_order_twice(site: Site) -> None:
    order = site.carriers["a"].order()
    order.open_within(0, None)
    first, second = order.propose(b"\x00twice"), order.propose(b"\x00twice")
    assert (first, second) == (1, 2)
    taken = take_until(order, lambda taken: [m.payload for m in taken].count(b"\x00twice") == 2, "both")
    assert taken[0].payload == INIT
    assert [message.sequence for message in taken] == list(range(1, len(taken) + 1))
    assert order.reach().last == len(taken)
    order.close()


def test_tidings_reach_all_others_and_answers_one(site: Site) -> None:
    orders = {node: site.carriers[node].order() for node in NODES}
    for order in orders.values():
        order.open_within(1, None)
    told: dict[str, list[tuple[str, bytes]]] = {node: [] for node in NODES}

    def is_told() -> bool:
        orders["a"].tell(b"all")  # again and again: the others may not listen yet
        orders["b"].ask("c", b"one")
        for node, order in orders.items():
            told[node] += order.told()
        return told["b"] and len(set(told["c"])) == 2

    wait_for(is_told, "tidings")
    assert {node: set(heard) for node, heard in told.items()} == {
        "a": set(),
        "b": {("a", b"all")},
        "c": {("a", b"all"), ("b", b"one")},
    }
    for order in orders.values():
        order.close()


def test_an_order_is_not_open_to_a_second_machine_of_the_same_name(site: Site, tmp_path: Path) -> None:
    first, twin = site.carriers["a"].order(), Carrier(site.engines, tmp_path, "a")
    first.open_within(1, None)
    twin.start()
    second = twin.order()
    second.open(1, None)

    def is_refused() -> bool:
        first.tell(b"I am here")
        try:
            assert second.opened() is None
        except OrderError as error:
            return "another machine works under the name 'a'" in str(error)
        return False

    wait_for(is_refused, "refusal")
    first.close()
    second.open_within(1, None)  # it has fallen silent
    second.close()
    twin.kill()


def test_tidings_do_not_wait_behind_messages(site: Site) -> None:
    """b does not take what comes, and hears nevertheless."""
    a, b = site.carriers["a"].order(), site.carriers["b"].order()
    a.open_within(link.AT_THE_END, None)
    b.open_within(link.AT_THE_END, None)
    last = a.reach().last
    for _ in range(16):
        for _ in range(4):
            a.propose(b"\x00" + bytes(512 << 10))
        last += 4
        take_until(a, lambda _, last=last: a.reach().last >= last, "all on a")

    def is_told() -> bool:
        a.tell(b"news")
        return ("a", b"news") in b.told()

    wait_for(is_told, "tidings")
    assert b.reach().last < last
    a.close()
    b.close()


def test_opening_blocks_nothing(tmp_path: Path) -> None:
    order = JetStreamOrder(tmp_path / "order.sock")
    order.open(0, None)
    assert order.opened() is None and "nothing listens" in order.obstacle()
    order.close()


def test_following_goes_on_when_the_carrier_was_killed(site: Site) -> None:
    """What came meanwhile is fetched."""
    with Members(site) as members:
        members.propose_everywhere("before")
        site.carriers["b"].kill()
        a, b = members.all[0], members.all[1]
        b.turn()
        with pytest.raises(NotTaken):
            b.order.propose(b"nobody is there")
        tickets = [a.proposer.propose(b"meanwhile %d" % index) for index in range(50)]
        members.run_until(lambda: set(tickets) <= a.came_back, "groups of a")
        site.carriers["b"].start()
        members.propose_everywhere("after")
        members.check_equal()


def test_a_long_history_is_fetched_from_any_place(site: Site) -> None:
    order = site.carriers["c"].order()
    order.open_within(0, None)
    for index in range(1500):
        order.propose(b"\x00history %d" % index + b"." * 3000)
    end = take_until(order, lambda taken: taken and taken[-1].payload.startswith(b"\x00history 1499."), "history")
    identity = order.open_within(0, None)
    again = take_until(order, lambda taken: len(taken) >= len(end), "history again")
    assert again[: len(end)] == end
    assert order.open_within(len(end) - 700, identity) == identity
    tail = take_until(order, lambda taken: len(taken) >= 700, "tail")
    assert tail[:700] == end[-700:]
    order.close()


def test_a_shard_that_does_not_read_gets_all_later(site: Site) -> None:
    """What it does not read is not kept for it, but fetched when it reads."""
    slow, quick = site.carriers["a"].order(), Member(site, "b")
    slow.open_within(0, None)
    for index in range(40):
        quick.proposer.propose(b"large %02d" % index + bytes(400_000))

    def is_done() -> bool:
        wait_for_any([quick.order], 0.02)
        quick.turn()
        return not quick.proposer.in_flight

    wait_for(is_done, "large groups")
    end = quick.replica.state.sequence
    taken = take_until(slow, lambda taken: len(taken) >= end, "large groups, later")
    assert [message.sequence for message in taken] == list(range(1, len(taken) + 1))
    slow.close()
    quick.order.close()


@pytest.mark.parametrize("number", range(3))
def test_a_server_is_killed(site: Site, number: int) -> None:
    with Members(site) as members:
        members.propose_everywhere(f"before server {number} dies")
        server = site.engines.servers[number]
        server.kill()
        members.propose_everywhere(f"server {number} is dead")
        server.start()
        site.engines.wait_until_ready()
        members.propose_everywhere(f"server {number} is back")
        members.check_equal()


def test_the_leader_is_killed_with_groups_on_their_way(site: Site) -> None:
    with Members(site) as members:
        members.propose_everywhere("before the leader dies")
        leader = site.engines.leader()
        tickets = [(member, member.proposer.propose(b"under way " + member.node.encode())) for member in members.all]
        for member in members.all:
            member.turn()
        leader.kill()
        members.run_until(lambda: all(ticket in member.came_back for member, ticket in tickets), "groups under way")
        leader.start()
        site.engines.wait_until_ready()
        members.check_equal()


def test_all_servers_are_killed(site: Site) -> None:
    with Members(site) as members:
        members.propose_everywhere("before all die")
        before = list(members.all[0].groups)
        for server in site.engines.servers:
            server.kill()
        order = members.all[0].order

        def is_refused() -> bool:
            """Propose until one is known not to be taken: the first may be on its way to a server that is dead."""
            order.propose(b"\x00into the void")
            members.all[0].receive()
            return bool(order.not_taken())

        wait_for(is_refused, "word that nothing is taken")
        for server in site.engines.servers:
            server.start()
        site.engines.wait_until_ready()
        members.propose_everywhere("all are back")
        members.check_equal()
        assert members.all[0].groups[: len(before)] == before


def test_the_leader_stands_still_and_goes_on(site: Site) -> None:
    with Members(site) as members:
        members.propose_everywhere("before the leader stands still")
        leader = site.engines.leader()
        leader.stall()
        try:
            members.propose_everywhere("while the leader stands still")
        finally:
            leader.go_on()
        site.engines.wait_until_ready()
        members.propose_everywhere("the leader goes on")
        members.check_equal()


def test_an_order_that_ends_too_early_is_lost(site: Site) -> None:
    order = site.carriers["a"].order()
    with pytest.raises(OrderLost, match="ends at message"):
        order.open_within(1 << 40, None)
    with pytest.raises(OrderLost, match="made anew"):
        order.open_within(0, Identity("KV", 1))
    order.close()


def test_a_server_without_a_leader_may_be_behind_and_says_nothing_of_the_end(site: Site) -> None:
    order = site.carriers["a"].order()
    gone = site.engines.servers[1:]
    for engine in gone:
        engine.kill()
    try:
        wait_for(lambda: "leader" not in site.stream_cluster(), "answer of a server without a leader")
        with pytest.raises(OrderUnreachable, match="no leader"):
            order.open_within(1 << 40, None, 15)
    finally:
        for engine in gone:
            engine.start()
        site.engines.wait_until_ready()
        site.engines.leader()
        order.close()


def test_what_was_trimmed_cannot_be_followed(site: Site) -> None:
    order = site.carriers["a"].order()
    facts = stream.read_info(site.request(stream.INFO))
    identity = order.open_within(facts.first - 1, None)
    for index in range(3):
        order.propose(b"\x00to be trimmed %d" % index)
    taken = take_until(order, lambda taken: taken and taken[-1].payload == b"\x00to be trimmed 2", "messages")
    first = taken[-1].sequence
    order.trim(first)
    wait_for(lambda: order.take() is not None and order.reach().first == first, "trimmed stream")
    with pytest.raises(OrderTrimmed) as trimmed:
        order.open_within(first - 2, identity)
    assert (trimmed.value.after, trimmed.value.first) == (first - 2, first)
    assert order.open_within(first - 1, identity) == identity
    assert take_until(order, len, "messages")[0].sequence == first
    order.close()


def test_a_message_that_no_replica_has_ends_following(site: Site) -> None:
    order = site.carriers["b"].order()
    first = stream.read_info(site.request(stream.INFO)).first
    identity = order.open_within(first - 1, None)
    for index in range(3):
        order.propose(b"\x00around a hole %d" % index)
    taken = take_until(order, lambda taken: taken and taken[-1].payload == b"\x00around a hole 2", "messages")
    hole = taken[-2].sequence
    site.request("$JS.API.STREAM.MSG.DELETE.KV", msgspec.json.encode({"seq": hole}))
    assert order.open_within(hole, identity) == identity
    order.open_within(hole - 3, identity)
    with pytest.raises(OrderTrimmed) as trimmed:
        take_until(order, lambda _: False, "end")
    assert (trimmed.value.after, trimmed.value.first) == (hole - 1, hole + 1)
    order.close()


def test_a_stream_that_is_deleted_and_made_anew_is_lost(site: Site) -> None:
    """The last test of this stream."""
    following, later = site.carriers["a"].order(), site.carriers["b"].order()
    after = stream.read_info(site.request(stream.INFO)).last
    known = following.open_within(after, None)
    site.request("$JS.API.STREAM.DELETE.KV")
    with pytest.raises(OrderLost):
        take_until(following, lambda _: False, "end")
    with pytest.raises(OrderLost, match="no stream"):
        later.open_within(after, known)
    with pytest.raises(OrderUnreachable, match="cluster init"):
        later.open_within(0, None, 6.0)
    assert create_stream(site.engines, site.directory).returncode == 0
    with pytest.raises(OrderLost, match="made anew"):
        later.open_within(0, known)
    assert later.open_within(0, None).created_ns > known.created_ns
    refused = create_stream(site.engines, site.directory)
    assert refused.returncode == 1
    assert b"already, with 1 messages" in refused.stderr
    following.close()
    later.close()


def open_alone(directory: Path, sync: str, config: dict[str, object], options: list[str] | None) -> None:
    """Open an order of one engine whose stream is changed by `config`. Raises what `open` does."""
    with Engines(directory, count=1, sync=sync) as engines:
        made = create_stream(engines, directory, "--may-lose")
        assert made.returncode == 0, made.stderr
        carrier = Carrier(engines, directory, "a", options)
        carrier.start()
        order = carrier.order()
        try:
            if config:
                change_stream(engines, config)
            order.open_within(0, None)
        finally:
            order.close()
            carrier.kill()


def change_stream(engines: Engines, config: dict[str, object]) -> None:
    async def change() -> None:
        client = await nats.connect(engines.urls)
        await client.request("$JS.API.STREAM.DELETE.KV")
        changed = msgspec.json.decode(stream.new_stream(1, 1 << 20)) | config
        async with asyncio.timeout(20):
            while b'"error"' in (await client.request(stream.CREATE, msgspec.json.encode(changed))).data:
                await asyncio.sleep(0.1)  # the engine still removes the files of the one before
        await client.close()

    asyncio.run(change())


def test_an_engine_that_flushes_now_and_then_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotDurable, match="sync_interval: always"):
        open_alone(tmp_path, "", {}, None)


def test_an_engine_that_does_not_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotDurable, match="monitoring"):
        open_alone(tmp_path, "always", {}, [])


def test_an_engine_that_may_lose_is_taken_if_so_wanted(tmp_path: Path) -> None:
    open_alone(tmp_path, "", {}, ["--may-lose"])


def test_a_stream_in_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotDurable, match="storage 'memory'"):
        open_alone(tmp_path, "always", {"storage": "memory"}, None)


def test_a_stream_that_forgets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrderError, match="not configured"):
        open_alone(tmp_path, "always", {"max_msgs": 10}, None)


def test_nobody_carries_the_order(tmp_path: Path) -> None:
    order = JetStreamOrder(tmp_path / "order.sock")
    with pytest.raises(OrderUnreachable, match="nothing listens"):
        order.open_within(0, None, 0.3)
    with pytest.raises(NotTaken):
        order.propose(b"")
    order.close()


def test_the_carrier_ends_when_it_is_asked_to(site: Site) -> None:
    carrier = Carrier(site.engines, site.directory, "a")
    carrier.run_dir = site.directory / "ended"
    carrier.run_dir.mkdir()
    carrier.start()
    assert carrier.process
    wait_for(lambda: (carrier.run_dir / "order.sock").exists(), "socket")
    carrier.process.send_signal(signal.SIGTERM)
    assert carrier.process.wait(WAIT_S) == 0
    assert not (carrier.run_dir / "order.sock").exists()
