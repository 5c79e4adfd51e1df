"""What JetStream says, and the sequence of what comes by several ways."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.order import stream
from shards.order.order import Identity, Message, NotDurable, OrderError, OrderLost, OrderTrimmed
from shards.order.stream import EngineError, Follower, NoStream

CREATED = "2026-11-30T15:35:52.729114328Z"
CONFIG = msgspec.json.decode(stream.new_stream(3))
IDENTITY = Identity("KV", 1_796_052_952_729_114_328)


def info(**changes: object) -> bytes:
    said = {
        "created": CREATED,
        "config": CONFIG,
        "state": {"first_seq": 5, "last_seq": 9},
        "cluster": {"leader": "n1", "replicas": [{"name": "n2"}, {"name": "n3"}]},
    }
    return msgspec.json.encode(said | changes)


def test_what_the_engine_says_of_the_stream() -> None:
    facts = stream.read_info(info())
    assert (facts.identity, facts.first, facts.last) == (IDENTITY, 5, 9)
    assert facts.servers == {"n1", "n2", "n3"}
    facts.check_config()


def test_a_server_that_knows_no_leader_of_the_stream_is_not_believed() -> None:
    with pytest.raises(stream.EngineError, match="no leader"):
        stream.read_info(info(cluster={"replicas": [{"name": "n2"}, {"name": "n3"}]}))


def test_a_new_stream_begins_at_one() -> None:
    facts = stream.read_info(info(state={"first_seq": 0, "last_seq": 0}, cluster={}))
    assert (facts.first, facts.last, facts.servers) == (1, 0, frozenset())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (info(error={"code": 404, "err_code": 10059, "description": "stream not found"}), NoStream),
        (info(error={"code": 503, "err_code": 10008, "description": "temporarily unavailable"}), EngineError),
        (info(created="yesterday"), EngineError),
        (b"no JSON", EngineError),
    ],
)
def test_other_answers_are_errors(reply: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        stream.read_info(reply)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"storage": "memory"}, NotDurable),
        ({"persist_mode": "async"}, NotDurable),
        ({"max_age": 1}, OrderError),
        ({"max_msgs": 1}, OrderError),
        ({"max_msgs_per_subject": 1}, OrderError),
        ({"retention": "workqueue"}, OrderError),
        ({"allow_direct": False}, OrderError),
        ({"republish": {"src": ">", "dest": "x.>"}}, OrderError),
        ({"subjects": ["kv.log.>", "more"]}, OrderError),
    ],
    ids=str,
)
def test_a_stream_of_another_kind_is_refused(change: dict[str, object], error: type[OrderError]) -> None:
    with pytest.raises(error):
        stream.read_info(info(config=CONFIG | change)).check_config()


@pytest.mark.parametrize("after", [4, 5, 9])
def test_one_goes_on_where_the_stream_has_what_comes_next(after: int) -> None:
    stream.read_info(info()).check_place(after, IDENTITY)
    stream.read_info(info()).check_place(after, None)


@pytest.mark.parametrize(
    ("after", "known", "error"),
    [
        (3, IDENTITY, OrderTrimmed),
        (10, IDENTITY, OrderLost),
        (10, None, OrderLost),
        (9, Identity("KV", IDENTITY.created_ns + 1), OrderLost),
    ],
)
def test_one_does_not_go_on_elsewhere(after: int, known: Identity | None, error: type[OrderError]) -> None:
    with pytest.raises(error):
        stream.read_info(info()).check_place(after, known)


def test_all_servers_must_flush_each_message() -> None:
    servers = frozenset(("n1", "n2"))
    stream.check_flushing({"n1": True, "n2": True}, servers)
    stream.check_flushing({"n1": True}, frozenset())
    with pytest.raises(NotDurable, match="n2 flushes"):
        stream.check_flushing({"n1": True}, servers)
    with pytest.raises(NotDurable, match="the engine flushes"):
        stream.check_flushing({}, frozenset())
    for lax in (False, None, "yes"):
        with pytest.raises(NotDurable, match="n2 would lose"):
            stream.check_flushing({"n1": True, "n2": lax}, servers)


@pytest.mark.parametrize(
    ("jsz", "told"),
    [
        (b'{"config": {"sync_always": true}}', {"n": True}),
        (b'{"config": {"sync_interval": 120}}', {"n": None}),
        (b'{"disabled": true, "config": {}}', {}),
        (b"{}", {}),  # it does not run yet
        (b"nonsense", {}),
    ],
)
def test_what_a_server_says_of_its_flushing(jsz: bytes, told: dict[str, object]) -> None:
    assert stream.read_flushing_of("n", jsz) == told
    assert stream.read_flushing(b'{"server": {"name": "n"}, "data": ' + jsz + b"}") == told
    assert stream.read_flushing(jsz) == {}


def test_messages_are_read_by_their_headers() -> None:
    headers = {"Nats-Sequence": "7", "Nats-Time-Stamp": "1970-01-01T00:00:01.5Z"}
    assert stream.read_message(headers, b"payload") == Message(7, 1500, b"payload")
    assert stream.read_message(None, b"payload") is None
    assert stream.read_message({"Status": "404"}, b"") is None
    assert stream.read_message(headers | {"Nats-Sequence": "x"}, b"") is None


def test_what_was_not_taken_is_said_in_two_ways() -> None:
    assert stream.is_refusal({"Status": "503"}, b"")
    assert stream.is_refusal(None, b'{"error":{"code":503,"description":"no"}}')
    assert not stream.is_refusal(None, b'{"stream":"KV","seq":1}')
    assert not stream.is_refusal(None, b"")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("2026-11-29T13:58:33.33Z", 1_795_960_713_330_000_000),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert stream.read_time_ns(text) == nanoseconds


def message(sequence: int, time_ms: int = 0) -> Message:
    return Message(sequence, time_ms or sequence, b"%d" % sequence)


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(0, 3))
def test_messages_come_out_once_and_in_their_sequence(sequences: list[int], after: int) -> None:
    follower = Follower(after)
    ready = [sequence for came in sequences for sequence, *_ in follower.add(message(came))]
    whole = after
    while whole + 1 in sequences:
        whole += 1
    assert ready == list(range(after + 1, whole + 1))
    assert (follower.last, follower.target) == (whole, max([after, *sequences]))
    missing = follower.next_missing()
    if whole == follower.target:
        assert missing is None and not follower.is_behind
    else:
        assert missing == (whole + 1, min(sequence for sequence in sequences if sequence > whole) - 1)


def test_what_is_only_known_to_exist_is_missing() -> None:
    follower = Follower(4)
    follower.see(4)
    assert follower.next_missing() is None
    follower.see(7)
    assert follower.next_missing() == (5, 7)


def test_only_so_much_is_kept_behind_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_KEPT", 2)
    follower = Follower(0)
    for sequence in (2, 3, 4):
        follower.add(message(sequence))
    assert [ready.sequence for ready in follower.add(message(1))] == [1, 2, 3]
    assert follower.next_missing() == (4, 4)
    monkeypatch.setattr(stream, "MOST_KEPT_BYTES", 10)
    follower.add(Message(6, 1, bytes(10)))
    follower.add(Message(5, 1, bytes(1)))
    assert follower.next_missing() == (4, 5)


def test_another_message_in_a_place_that_was_taken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(0)
    follower.add(message(1))
    assert follower.add(message(1)) == []
    with pytest.raises(OrderLost, match="another one than before"):
        follower.add(message(1, time_ms=5))
    with pytest.raises(OrderLost):
        follower.add(Message(1, 1, b"other"))
    monkeypatch.setattr(stream, "MOST_REMEMBERED", 1)
    follower.add(message(2))
    assert follower.add(message(1, time_ms=5)) == [], "too long ago"
