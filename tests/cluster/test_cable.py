"""Cables do to frames what they should: else tests of machines behind them would show nothing."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from tests.cluster.cable import Conditions, Line
from tests.cluster.network import Network, require_namespaces


def line(**conditions: float) -> Line:
    made = Line(Random(1))
    made.conditions = Conditions(**conditions)
    return made


def test_a_whole_cable_does_nothing() -> None:
    made = line()
    assert [made.comes_out(now, 1500) for now in (1.0, 1.0, 2.5)] == [1.0, 1.0, 2.5]


def test_a_cut_cable_loses_everything() -> None:
    assert line(is_cut=True).comes_out(1.0, 60) is None


def test_a_delay_has_its_bounds_and_its_chance_and_nothing_overtakes() -> None:
    made = line(delay_s=0.05, jitter_s=0.02)
    sent = [number * 0.1 for number in range(100)]
    took = [made.comes_out(now, 60) - now for now in sent]
    assert min(took) >= 0.03 - 1e-9 and max(took) <= 0.07 + 1e-9
    assert max(took) - min(took) > 0.03
    close = [made.comes_out(20 + number / 10_000, 60) for number in range(100)]
    assert close == sorted(close)


@pytest.mark.parametrize("loss", [0.05, 0.5])
def test_so_many_frames_are_lost(loss: float) -> None:
    made = line(loss=loss)
    lost = sum(made.comes_out(float(number), 60) is None for number in range(10_000))
    assert 0.8 * loss < lost / 10_000 < 1.2 * loss


def test_a_slow_cable_lets_frames_wait_and_loses_what_is_too_much() -> None:
    made = line(kbit=80)  # 10 bytes a millisecond
    came = [made.comes_out(1.0, 1500) for _ in range(10)]
    assert came[:3] == pytest.approx([1.15, 1.3, 1.45])
    assert came[3:] == [None] * 7
    assert made.comes_out(9.0, 1000) == pytest.approx(9.1)


def test_conditions_change_while_it_is_used() -> None:
    made = line(delay_s=1.0)
    assert made.comes_out(1.0, 60) == 2.0
    made.conditions = Conditions()
    assert made.comes_out(1.5, 60) == 2.0, "not before what was sent earlier"
    assert made.comes_out(3.0, 60) == 3.0


@contextmanager
def two_sockets() -> Iterator[tuple[Network, socket.socket, socket.socket]]:
    """A network, and sockets on two machines of it: that of a sends to that of b."""
    require_namespaces()
    with ExitStack() as stack:
        network = stack.enter_context(Network(("a", "b", "c"), "1"))
        ends = []
        for name in "ab":
            with network.inside(name):
                end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                end.bind((network.addresses[name], 5000))
                end.settimeout(10)
                ends.append(end)
        ends[0].connect((network.addresses["b"], 5000))
        ends[1].connect((network.addresses["a"], 5000))
        ends[0].send(b"who is where")  # is asked before anything is tried
        ends[1].recv(2000)
        yield network, ends[0], ends[1]


def arrived(end: socket.socket, last: bytes) -> list[bytes]:
    """What arrives until `last` does."""
    found = [end.recv(2000)]
    while found[-1] != last:
        found.append(end.recv(2000))
    return found


def test_datagrams_between_machines_are_late_and_lost_as_was_said() -> None:
    with two_sockets() as (network, a, b):
        a.send(b"first")
        assert arrived(b, b"first") == [b"first"]

        network.shape("a", Conditions(delay_s=0.2), Conditions(delay_s=0.1))
        began = time.monotonic()
        a.send(b"there")
        b.recv(2000)
        assert time.monotonic() - began >= 0.2
        b.send(b"and back")
        a.recv(2000)
        assert time.monotonic() - began >= 0.3

        network.shape("a", Conditions(loss=0.5), Conditions())
        for number in range(200):
            a.send(b"%d" % number)
        came: list[bytes] = []
        b.settimeout(0.2)
        while b"last" not in came:  # what comes before it is all that comes
            a.send(b"last")
            with contextlib.suppress(TimeoutError):
                came.append(b.recv(2000))
        assert 50 < len(came) < 150


def test_a_cable_that_is_cut_lets_nothing_through() -> None:
    with two_sockets() as (network, a, b):
        for at, (heard, hears) in enumerate(((False, False), (True, False), (False, True))):
            network.cut("a", heard=heard, hears=hears)
            a.send(b"from a %d" % at)
            b.send(b"from b %d" % at)
            network.heal("a")
            for end, other, passes in ((b, a, heard), (a, b, hears)):
                other.send(b"last %d" % at)
                assert len(arrived(end, b"last %d" % at)) == 1 + passes
