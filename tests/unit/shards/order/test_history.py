"""Whose history differs, and who must stop."""

from __future__ import annotations

from shards.order.history import EVERY, KEPT, Histories


def noted(*places: int, digest: bytes = b"same") -> Histories:
    histories = Histories()
    for place in places:
        histories.note(place, digest)
    return histories


def test_only_some_places_are_noted() -> None:
    assert noted(1, EVERY - 1).checkpoint == (0, b"")
    assert noted(EVERY, EVERY + 1).checkpoint == (EVERY, b"same")


def test_one_that_differs_is_known_and_nobody_stops() -> None:
    histories = noted(EVERY)
    histories.hear("b", EVERY, b"other")
    histories.hear("c", EVERY, b"same")
    assert histories.differing == {"b": EVERY}
    assert not histories.is_in_minority(3)


def test_who_differs_from_most_must_stop() -> None:
    histories = noted(EVERY, 2 * EVERY)
    histories.hear("b", EVERY, b"other")
    assert not histories.is_in_minority(3)
    histories.hear("c", 2 * EVERY, b"other")
    assert histories.is_in_minority(3)
    assert not histories.is_in_minority(5)


def test_what_was_heard_early_is_compared_later() -> None:
    histories = noted(EVERY)
    histories.hear("b", 2 * EVERY, b"other")
    assert histories.differing == {}
    histories.note(2 * EVERY, b"same")
    assert histories.differing == {"b": 2 * EVERY}


def test_one_that_began_anew_agrees_again() -> None:
    histories = noted(EVERY, 2 * EVERY)
    histories.hear("b", EVERY, b"other")
    histories.hear("b", 2 * EVERY, b"same")
    assert histories.differing == {}


def test_only_so_many_are_kept() -> None:
    histories = noted(*range(EVERY, (KEPT + 2) * EVERY, EVERY))
    histories.hear("b", EVERY, b"other")
    assert histories.differing == {}, "too long ago"
    histories.hear("b", 2 * EVERY, b"other")
    assert histories.differing == {"b": 2 * EVERY}
    for place in range(1, 100):
        histories.hear("c", (KEPT + 1 + place) * EVERY, b"ahead")
    histories.note((KEPT + 2) * EVERY, b"same")
    assert "c" not in histories.differing
    histories.note((KEPT + 100) * EVERY, b"same")
    assert histories.differing["c"] == (KEPT + 100) * EVERY
