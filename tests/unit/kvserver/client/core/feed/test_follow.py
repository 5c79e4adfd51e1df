"""`Follow`, row by row of what a message or a break makes it do; time and chance are the test's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.changes import Connected, Envelope, Reset, Synced, Waiting
from kvserver.client.core.feed.follow import (
    Connect,
    Disconnect,
    Follow,
    FollowStep,
    LineBuffer,
    Pause,
    Read,
    RenewToken,
    Tell,
)
from kvserver.client.core.feed.wish import Wish, wish_of
from kvserver.client.errors import (
    BadCursor,
    CannotConnect,
    Forbidden,
    Gap,
    InvalidToken,
    KVError,
    NotAnswered,
    Unavailable,
)

T = "2026-11-22T11:40:00.123Z"


def line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def bookmark(cursor: str) -> bytes:
    return line(type="bookmark", cursor=cursor, time=T)


def put(cursor: str, *revisions: int) -> bytes:
    events = [
        {"op": "put", "key": f"k{n}", "revision": n, "time": T, "content_type": "t/t", "expires": None, "value": "v"}
        for n in revisions
    ]
    return line(type="events", cursor=cursor, events=events)


def closing(cursor: str, reason: str, retry_ms: int = 1500) -> bytes:
    return line(type="closing", cursor=cursor, reason=reason, retry_ms=retry_ms)


class Shell:
    """Carries steps out with what the test has ready.

    `connections`: for each connection, an error, or what its reads give: bytes, an error, or seconds of silence. The
    last one stays silent at its end.
    """

    def __init__(self, *connections: KVError | Sequence[bytes | KVError], **options: Any) -> None:
        self.now, self.chance = 1000.0, 0.5
        self.connections = list(connections)
        self.reads: list[bytes | KVError] = []
        self.told: list[FollowStep] = []
        wish = options.pop("wish", Wish())
        self.follow = Follow(wish, lambda: self.now, lambda: self.chance, **options)

    def next(self, until: float | None = None) -> Envelope | None:
        return self.run(self.follow.next_envelope(until))

    def run(self, script: Any) -> Envelope | None:
        result: Any = None
        try:
            while True:
                step = script.send(result)
                self.told.append(step)
                result = self.carry_out(step)
        except StopIteration as end:
            envelope: Envelope | None = end.value
            return envelope

    def carry_out(self, step: FollowStep) -> Any:
        if isinstance(step, Connect):
            if not self.connections:
                return CannotConnect("nobody is there")
            connection = self.connections.pop(0)
            if isinstance(connection, KVError):
                return connection
            self.reads = list(connection)
        elif isinstance(step, Read):
            assert step.seconds >= 0
            if self.reads:
                return self.reads.pop(0)
            self.now += step.seconds
            return NotAnswered("nothing came")
        elif isinstance(step, Pause):
            assert step.seconds >= 0
            self.now += step.seconds
        return None

    def targets(self) -> list[str]:
        return [step.target for step in self.told if isinstance(step, Connect)]

    def pauses(self) -> list[float]:
        return [step.seconds for step in self.told if isinstance(step, Pause)]


def test_it_begins_where_the_first_bookmark_says_and_comes_back_there() -> None:
    shell = Shell([bookmark("e.5"), b""], [put("e.6", 6)])
    assert shell.next() == Envelope("e.5", ())
    envelope = shell.next()
    assert envelope is not None and envelope.cursor == shell.follow.cursor == "e.6"
    assert shell.targets() == ["/v1/feed", "/v1/feed?since=e.5"]
    assert shell.pauses() == [0.125]


def test_a_break_before_the_first_message_keeps_the_wish_and_the_cursor() -> None:
    wish = wish_of(["a/", "b"], ["k"], snapshot=True, values=False, conflate=True, activity=True, ops=["put", "touch"])
    query = "prefix=a%2F&prefix=b&key=k&ops=put%2Ctouch&values=false&activity=true&conflate=true&snapshot=true"
    shell = Shell([b""], NotAnswered("lost"), [bookmark("e.7")], wish=wish, since="e.4")
    assert shell.next() == Envelope("e.7", ())
    assert shell.targets() == [f"/v1/feed?{query}&since=e.4"] * 3


@pytest.mark.parametrize("cut", range(1, len(put("e.6", 6))))
def test_half_a_line_is_dropped(cut: int) -> None:
    shell = Shell([bookmark("e.5") + put("e.6", 6)[:cut], b""], [put("e.6", 6)])
    shell.next()
    envelope = shell.next()
    assert envelope is not None and len(envelope.changes) == 1
    assert shell.targets()[-1] == "/v1/feed?since=e.5"


def test_whole_lines_before_a_break_are_handed_out_first() -> None:
    shell = Shell([bookmark("e.5") + put("e.6", 6) + put("e.8", 7, 8) + b"{", NotAnswered("reset")], [bookmark("e.9")])
    assert [shell.next().cursor for _ in range(4)] == ["e.5", "e.6", "e.8", "e.9"]  # type: ignore[union-attr]
    assert shell.targets() == ["/v1/feed", "/v1/feed?since=e.8"]


def test_after_25_seconds_of_silence_the_connection_is_dead() -> None:
    shell = Shell([bookmark("e.5")], [bookmark("e.6")])
    shell.next()
    shell.next()
    assert [step.seconds for step in shell.told if isinstance(step, Read)] == [25, 25, 25]
    assert shell.targets() == ["/v1/feed", "/v1/feed?since=e.5"]
    kinds = [type(step) for step in shell.told]
    assert kinds[kinds.index(Disconnect) :] == [Disconnect, Tell, Pause, Connect, Tell, Read]


def test_delays_double_up_to_ten_seconds_and_ask_for_chance() -> None:
    shell = Shell(*[CannotConnect("no")] * 11, [bookmark("e.5")])
    shell.chance = 1.0
    shell.next()
    assert shell.pauses() == [0.25, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10]
    assert all(0 <= Shell().follow._next_delay() <= 0.25 for _ in range(3))


def test_a_connection_of_ten_seconds_ends_the_doubling() -> None:
    shell = Shell(*[CannotConnect("no")] * 6, [bookmark("e.5"), bookmark("e.6"), b""], [bookmark("e.7")])
    shell.next()
    shell.now += 10
    shell.next()
    assert len(shell.pauses()) == 6
    shell.next()
    assert shell.pauses()[-1] == 0.125


def test_a_short_connection_does_not() -> None:
    shell = Shell(*[CannotConnect("no")] * 3, [bookmark("e.5"), b""], [bookmark("e.6")])
    shell.next()
    shell.next()
    assert shell.pauses()[-1] == pytest.approx(0.6)


def test_retry_after_is_the_least_delay() -> None:
    busy = Unavailable("busy")
    busy.retry_after = 3
    shell = Shell(busy, [bookmark("e.5")])
    shell.next()
    assert shell.pauses() == [3]


@pytest.mark.parametrize("reason", ["stop", "reload"])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_a_planned_end_is_waited_for_as_long_as_the_server_asks(reason: str, chance: float) -> None:
    shell = Shell(CannotConnect("no"), [bookmark("e.5"), closing("e.6", reason) + b"never read"], [bookmark("e.7")])
    shell.chance = chance
    assert [shell.next().cursor for _ in range(3)] == ["e.5", "e.6", "e.7"]  # type: ignore[union-attr]
    assert shell.pauses()[-1] == 1.5 * (1 + 0.5 * chance)
    assert shell.targets()[-1] == "/v1/feed?since=e.6"
    assert [step.state for step in shell.told if isinstance(step, Tell)][2].seconds == shell.pauses()[-1]  # type: ignore[union-attr]


def test_a_revoked_token_is_asked_for_again_and_then_refused() -> None:
    shell = Shell([bookmark("e.5"), closing("e.6", "revoked")], InvalidToken("gone"))
    shell.next()
    shell.next()
    with pytest.raises(InvalidToken):
        shell.next()
    assert sum(isinstance(step, RenewToken) for step in shell.told) == 1
    assert shell.follow.cursor == "e.6"


@pytest.mark.parametrize("error", [BadCursor("no cursor"), InvalidToken("unknown"), Forbidden("no")])
def test_a_refusal_is_raised(error: KVError) -> None:
    shell = Shell(error, [bookmark("e.5")], since="e.1")
    with pytest.raises(type(error)):
        shell.next()
    assert shell.follow.cursor == "e.1"


def test_an_error_in_the_stream_is_raised_and_moves_no_cursor() -> None:
    error = line(type="error", status=403, code="forbidden", detail="no", hint="ask", cursor="e.9")
    shell = Shell([bookmark("e.5") + put("e.6", 6) + error])
    shell.next()
    shell.next()
    with pytest.raises(Forbidden, match=r"no\. ask"):
        shell.next()
    assert shell.follow.cursor == "e.6"


def test_a_gap_without_a_snapshot_is_raised_and_can_be_accepted() -> None:
    gap = line(type="gap", cursor="e.3", reason="trimmed", oldest="e.3", snapshot=False)
    shell = Shell([gap + put("e.4", 4)], since="e.1")
    with pytest.raises(Gap) as raised:
        shell.next()
    assert (raised.value.reason, raised.value.cursor, shell.follow.cursor) == ("trimmed", "e.3", "e.1")
    shell = Shell([gap + put("e.4", 4)], since="e.1", on_gap="continue")
    assert shell.next() == Envelope("e.3", (Reset("trimmed", False),))
    assert shell.next().cursor == "e.4"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="on_gap"):
        Shell(on_gap="ignore")


def test_a_gap_with_a_snapshot_resumes_within_the_snapshot() -> None:
    page = line(type="snapshot", cursor="e.9.YQ.01234567", first=True, items=[])
    gap = line(type="gap", cursor="e.9..01234567", reason="epoch", oldest="e.2", snapshot=True)
    end = line(type="snapshot_end", cursor="e.9")
    shell = Shell([gap, b""], [page, b""], [end], since="d.1", wish=Wish(snapshot=True))
    changes = [change for _ in range(3) for change in shell.next().changes]  # type: ignore[union-attr]
    assert changes == [Reset("epoch", True), Reset("start", True), Synced("e.9")]
    cursors = ["d.1", "e.9..01234567", "e.9.YQ.01234567"]
    assert shell.targets() == [f"/v1/feed?snapshot=true&since={cursor}" for cursor in cursors]


def test_a_snapshot_without_a_key_has_a_beginning_too() -> None:
    end = line(type="snapshot_end", cursor="e.9")
    shell = Shell([b""], [end], wish=Wish(snapshot=True))
    assert shell.next() == Envelope("e.9", (Reset("start", True), Synced("e.9")))
    shell = Shell([end], wish=Wish(snapshot=True), since="e.9.YQ.01234567")  # which began elsewhere
    assert shell.next() == Envelope("e.9", (Synced("e.9"),))


@pytest.mark.parametrize("patience", [0.0, 3.0, 40.0])
def test_patience_ends_in_an_error(patience: float) -> None:
    shell = Shell([bookmark("e.5")], *[[] for _ in range(9)], patience=patience)
    shell.next()
    begun = shell.now
    with pytest.raises(NotAnswered):
        shell.next()
    assert shell.now == pytest.approx(begun + patience)


def test_patience_with_a_server_that_is_gone() -> None:
    shell = Shell([bookmark("e.5"), b""], patience=2.0)
    shell.next()
    with pytest.raises(NotAnswered, match="nobody is there"):
        shell.next()
    shell = Shell(first_patience=2.0)
    with pytest.raises(CannotConnect):
        shell.next()


def test_who_reads_slowly_does_not_wait() -> None:
    shell = Shell([bookmark("e.5"), b""], [bookmark("e.6")], patience=2.0)
    shell.next()
    shell.now += 60
    assert shell.next() == Envelope("e.6", ())


def test_a_deadline_returns_none_and_nothing_is_lost() -> None:
    shell = Shell([bookmark("e.5"), put("e.6", 6)[:9]], [put("e.6", 6)])
    shell.next()
    assert shell.next(shell.now + 1.5) is None
    assert shell.now == 1001.5 and not shell.follow.is_connected
    assert shell.next().cursor == "e.6"  # type: ignore[union-attr]
    shell = Shell()
    assert shell.next(shell.now + 7) is None and shell.now == pytest.approx(1007)


def test_connect_alone_hands_out_nothing() -> None:
    shell = Shell(CannotConnect("no"), [put("e.6", 6)], since="e.5")
    assert shell.run(shell.follow.connect()) is None
    states = [step.state for step in shell.told if isinstance(step, Tell)]
    assert isinstance(states[0], Waiting) and states[1:] == [Connected("e.5")]
    assert not any(isinstance(step, Read) for step in shell.told)


def test_messages_of_later_servers_are_passed_over() -> None:
    later = (
        line(type="weather", cursor="e.6") + line(type="note") + line(type="events", cursor="e.7", events=[{"op": "x"}])
    )
    shell = Shell([bookmark("e.5") + later])
    assert [shell.next() for _ in range(3)] == [Envelope(f"e.{n}", ()) for n in (5, 6, 7)]


@pytest.mark.parametrize("text", [b"<html>\n", b"[]\n", b"{}\n", b'{"type":"events","cursor":"e.6"}\n', b"\xff\n"])
def test_what_no_kvserver_sends_is_an_error(text: bytes) -> None:
    shell = Shell([text], since="e.5")
    with pytest.raises(NotAnswered, match="no kvserver"):
        shell.next()
    assert shell.follow.cursor == "e.5"


@given(st.lists(st.binary(max_size=5)), st.data())
def test_lines_are_the_same_however_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    text = b"\n".join(parts)
    buffer, found = LineBuffer(), []
    while text:
        size = data.draw(st.integers(1, len(text)))
        ended = buffer.add(text[:size])
        assert ended == (b"\n" in text[:size])
        text = text[size:]
        while (taken := buffer.take()) is not None:
            found.append(taken)
    assert found == b"\n".join(parts).split(b"\n")[:-1]


def test_each_break_makes_it_ask_the_next_server() -> None:
    shell = Shell([bookmark("e.5"), b""], CannotConnect("down"), [bookmark("e.6")], servers=2)
    assert [shell.next() for _ in range(2)] == [Envelope("e.5", ()), Envelope("e.6", ())]
    assert [step.leave for step in shell.told if isinstance(step, Disconnect)] == [True]
    assert shell.pauses() == [0.125, 0.125], "at once while another is left; what fails to open is left by the shell"


def test_what_all_servers_ask_for_is_waited_for_when_all_were_asked() -> None:
    later = Unavailable("later")
    later.retry_after = 3.0
    shell = Shell(later, later, later, [bookmark("e.5")], servers=2)
    shell.next()
    assert shell.pauses() == [0.125, 3.0, pytest.approx(0.15)]


@pytest.mark.parametrize(("reason", "leaves"), [("stop", True), ("reload", True), ("revoked", False)])
def test_a_server_that_closes_is_left_at_once_if_there_is_another(reason: str, leaves: bool) -> None:
    shell = Shell([bookmark("e.5"), closing("e.5", reason)], [bookmark("e.6")], servers=2)
    assert [shell.next() for _ in range(3)][-1] == Envelope("e.6", ())
    assert [step.leave for step in shell.told if isinstance(step, Disconnect)] == [leaves]
    assert shell.pauses()[0] < 0.5, "not the 1.5 s that the server asks for"


def test_to_be_out_of_time_is_no_fault_of_the_server() -> None:
    shell = Shell([bookmark("e.5")], servers=2)
    shell.next()
    assert shell.next(shell.now + 1) is None
    assert [step.leave for step in shell.told if isinstance(step, Disconnect)] == [False]
