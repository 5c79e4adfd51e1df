"""Many keys: lists, counts, deletes of prefixes and batches, by every client against the real server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.driver import Driver
from tests.client.test_conformance import coded, put, value


@pytest.fixture(scope="module")
def filled(shared_driver: Driver, request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix with keys below it that no test changes."""
    sdk = request.getfixturevalue("sdk")
    prefix = f"{sdk.name}/filled/"
    ops: list[dict[str, Any]] = [
        {"op": "put", "key": prefix + name, "value_base64": coded(name.encode())} for name in NAMES
    ]
    shared_driver.ask("batch", ops=ops)
    yield prefix


NAMES = sorted(
    ["a", "a/1", "a/2", "b", "b/1/x", "b/1/y", "c%2F", "ü", "z", *(f"n{i:03}" for i in range(120))], key=str.encode
)


def names(items: list[dict[str, Any]], prefix: str) -> list[str]:
    assert all(item["key"].startswith(prefix) for item in items)
    return [item["key"].removeprefix(prefix) for item in items]


# Lists.


def test_a_page(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled)
    assert names(page["items"], filled) == NAMES[:100]
    assert page["next"] == filled + NAMES[99]
    assert page["prefixes"] == [] and "." in page["cursor"]
    item = page["items"][0]
    assert (item["size"], item["content_type"], item["expires"]) == (1, "application/octet-stream", None)
    assert item["revision"] == driver.ask("get", key=item["key"])["revision"]
    assert "value_base64" not in item


def test_the_next_page(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled, after=filled + NAMES[99])
    assert names(page["items"], filled) == NAMES[100:]
    assert page["next"] is None


def test_a_page_between_bounds(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled, after=filled + "n010", before=filled + "n014")
    assert names(page["items"], filled) == ["n011", "n012", "n013"]


def test_a_page_backwards(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled, reverse=True, limit=3)
    assert names(page["items"], filled) == NAMES[:-4:-1]
    page = driver.ask("page", prefix=filled, reverse=True, limit=3, before=page["next"])
    assert names(page["items"], filled) == NAMES[-4:-7:-1]


def test_a_page_with_values(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled, limit=2, values=True)
    assert [base64.b64decode(item["value_base64"]).decode() for item in page["items"]] == NAMES[:2]


def test_a_value_that_is_no_text_in_a_page(driver: Driver, key: str) -> None:
    put(driver, key, b"\xff\0")
    (item,) = driver.ask("page", prefix=key, values=True)["items"]
    assert base64.b64decode(item["value_base64"]) == b"\xff\0"


def test_a_page_folded(driver: Driver, filled: str) -> None:
    page = driver.ask("page", prefix=filled, delimiter="/", limit=1000)
    assert [name.removeprefix(filled) for name in page["prefixes"]] == ["a/", "b/"]
    assert "a/1" not in names(page["items"], filled) and "a" in names(page["items"], filled)
    page = driver.ask("page", prefix=filled + "b/", delimiter="/")
    assert (page["items"], page["prefixes"]) == ([], [filled + "b/1/"])


def test_an_empty_page(driver: Driver, key: str) -> None:
    page = driver.ask("page", prefix=key)
    assert (page["items"], page["prefixes"], page["next"]) == ([], [], None)


@pytest.mark.parametrize("limit", [0, 1001])
def test_limits_of_a_page(driver: Driver, key: str, limit: int) -> None:
    error = driver.fails("page", prefix=key, limit=limit)
    assert (error.half, error.code) == ("refused", "bad_request")


def test_a_prefix_is_not_a_path(driver: Driver, key: str) -> None:
    for name in ("&x=1", "?", "#", "%2F", "ü", "+ "):
        put(driver, f"{key}{name}/k")
        assert names(driver.ask("page", prefix=f"{key}{name}/")["items"], f"{key}{name}/") == ["k"]


def test_a_scan(driver: Driver, filled: str) -> None:
    assert names(driver.ask("scan", prefix=filled)["items"], filled) == NAMES


def test_a_scan_backwards_with_values(driver: Driver, filled: str) -> None:
    items = driver.ask("scan", prefix=filled, reverse=True, values=True)["items"]
    assert names(items, filled) == NAMES[::-1]
    assert [base64.b64decode(item["value_base64"]).decode() for item in items] == NAMES[::-1]


def test_a_scan_of_more_than_a_page(driver: Driver, key: str) -> None:
    for start in range(0, 2500, 500):
        ops = [{"op": "put", "key": f"{key}{i:05}", "value_base64": ""} for i in range(start, start + 500)]
        driver.ask("batch", ops=ops)
    assert names(driver.ask("scan", prefix=key)["items"], key) == [f"{i:05}" for i in range(2500)]
    assert driver.ask("count", prefix=key) == {"count": 2500}
    assert driver.ask("delete_prefix", prefix=key) == {"deleted": 2500, "complete": True}


def test_a_scan_of_nothing(driver: Driver, key: str) -> None:
    assert driver.ask("scan", prefix=key) == {"items": []}


def test_a_count(driver: Driver, filled: str, key: str) -> None:
    assert driver.ask("count", prefix=filled) == {"count": len(NAMES)}
    assert driver.ask("count", prefix=key) == {"count": 0}


def test_get_many(driver: Driver, key: str) -> None:
    put(driver, key + "a", b"\xff")
    put(driver, key + "b", b"")
    found = driver.ask("get_many", keys=[key + "a", key + "b", key + "c"])
    assert found.pop(key + "c") is None
    assert {name: entry["value_base64"] for name, entry in found.items()} == {key + "a": coded(b"\xff"), key + "b": ""}


def test_get_many_of_none_and_of_more_than_a_batch(driver: Driver, key: str) -> None:
    assert driver.ask("get_many", keys=[]) == {}
    wanted = [f"{key}{i}" for i in range(1200)]
    put(driver, wanted[1100], b"x")
    found = driver.ask("get_many", keys=wanted)
    assert list(found) == wanted or sorted(found) == sorted(wanted)
    assert [name for name, entry in found.items() if entry] == [wanted[1100]]


def test_get_many_of_more_than_an_answer(driver: Driver, key: str) -> None:
    """A batch answers 32 MiB of values at most."""
    wanted = [f"{key}{i}" for i in range(8)]
    for name in wanted:
        put(driver, name, b"x" * 5_000_000)
    found = driver.ask("get_many", keys=wanted)
    assert sorted(found) == wanted
    assert {len(entry["value_base64"]) for entry in found.values()} == {len(coded(b"x" * 5_000_000))}
    driver.ask("delete_prefix", prefix=key)


# Deletes of prefixes.


def test_delete_prefix(driver: Driver, key: str) -> None:
    for name in ("a", "a/b", "b"):
        put(driver, key + name)
    assert driver.ask("delete_prefix", prefix=key + "a", dry_run=True) == {"deleted": 2, "complete": True}
    assert driver.ask("count", prefix=key) == {"count": 3}
    assert driver.ask("delete_prefix", prefix=key + "a") == {"deleted": 2, "complete": True}
    assert names(driver.ask("scan", prefix=key)["items"], key) == ["b"]
    assert driver.ask("delete_prefix", prefix=key + "a") == {"deleted": 0, "complete": True}


def test_delete_prefix_up_to_a_limit(driver: Driver, key: str) -> None:
    for i in range(5):
        put(driver, f"{key}{i}")
    assert driver.ask("delete_prefix", prefix=key, limit=2) == {"deleted": 2, "complete": False}
    assert driver.ask("count", prefix=key) == {"count": 3}


def test_delete_of_everything_must_be_meant(driver: Driver) -> None:
    error = driver.fails("delete_prefix", prefix="")
    assert (error.half, error.code) == ("refused", "bad_request")


# Batches.


def test_a_batch_of_everything(driver: Driver, key: str) -> None:
    ops = [
        {"op": "put", "key": key + "a", "value_base64": coded(b"\xff"), "content_type": "image/png", "ttl": 60},
        {"op": "get", "key": key + "a"},
        {"op": "put", "key": key + "j", "json": {"n": 1}, "if_revision": 0},
        {"op": "patch", "key": key + "j", "patch": {"m": 2}},
        {"op": "incr", "key": key + "n", "by": 2**62},
        {"op": "touch", "key": key + "a", "persist": True},
        {"op": "delete", "key": key + "a"},
        {"op": "get", "key": key + "a"},
        {"op": "incr", "key": key + "j"},
        {"op": "put", "key": key + "j", "json": 1, "if_revision": 1},
    ]
    results = driver.ask("batch", ops=ops)["results"]
    assert [result["status"] for result in results] == [201, 200, 201, 200, 201, 204, 204, 404, 409, 412]
    assert base64.b64decode(results[1]["value_base64"]) == b"\xff"
    assert results[3]["result"] == {"n": 1, "m": 2}
    assert results[4]["result"] == str(2**62)
    assert [result.get("code") for result in results[7:]] == ["not_found", "not_an_integer", "precondition_failed"]
    assert results[9]["revision"] == results[3]["revision"]


def test_a_malformed_operation_refuses_the_batch(driver: Driver, key: str) -> None:
    ops = [{"op": "put", "key": key + "a", "value_base64": ""}, {"op": "touch", "key": "k" * 512, "ttl": 1}]
    error = driver.fails("batch", ops=ops)
    assert error.half == "refused" and error.code in ("key_too_long", "bad_request", "bad_key")
    assert driver.ask("get", key=key + "a") is None


def test_an_atomic_batch(driver: Driver, key: str) -> None:
    one, two, number = (f"{key}{{tag}}{name}" for name in ("one", "two", "number"))
    results = driver.ask(
        "atomic",
        ops=[
            {"op": "put", "key": one, "value_base64": coded(b"1")},
            {"op": "put", "key": two, "json": [2]},
            {"op": "incr", "key": number},
            {"op": "get", "key": one},
            {"op": "delete", "key": key + "{tag}none"},
        ],
    )["results"]
    assert [result["status"] for result in results] == [201, 201, 201, 200, 404]
    assert (value(driver, one), value(driver, two), value(driver, number)) == (b"1", b"[2]", b"1")


def test_an_atomic_batch_that_fails_does_nothing(driver: Driver, key: str) -> None:
    one, two = key + "{tag}one", key + "{tag}two"
    revision = put(driver, one)
    ops = [
        {"op": "put", "key": two, "value_base64": ""},
        {"op": "put", "key": one, "value_base64": "", "if_revision": revision - 1},
    ]
    error = driver.fails("atomic", ops=ops)
    assert (error.half, error.code, error.status) == ("refused", "batch_failed", 409)
    assert error.document["failed"] == 1
    statuses = [(result["status"], result["code"]) for result in error.document["results"]]
    assert statuses == [(424, "failed_dependency"), (412, "precondition_failed")]
    assert driver.ask("get", key=two) is None


def test_an_atomic_batch_over_two_slots_is_refused(driver: Driver, key: str) -> None:
    ops = [{"op": "put", "key": f"{key}{name}", "value_base64": ""} for name in ("a", "b", "c")]
    error = driver.fails("atomic", ops=ops)
    assert (error.half, error.code) == ("refused", "cross_slot")
    assert driver.ask("count", prefix=key) == {"count": 0}


def test_an_atomic_batch_with_a_check(driver: Driver, key: str) -> None:
    """A check writes nothing, and stops everything if it fails."""
    guard, other = key + "{tag}guard", key + "{tag}other"
    revision = put(driver, guard)
    write = {"op": "put", "key": other, "value_base64": coded(b"1")}
    results = driver.ask("atomic", ops=[{"op": "get", "key": guard, "if_revision": revision}, write])["results"]
    assert [result["status"] for result in results] == [200, 201]
    assert driver.ask("get", key=guard)["revision"] == revision
    put(driver, guard)
    write["value_base64"] = coded(b"2")
    error = driver.fails("atomic", ops=[write, {"op": "get", "key": guard, "if_revision": revision}])
    assert (error.half, error.code, error.document["failed"]) == ("refused", "batch_failed", 1)
    assert value(driver, other) == b"1"
    driver.ask("atomic", ops=[{"op": "get", "key": key + "{tag}none", "if_revision": 0}, write])
    assert value(driver, other) == b"2"
