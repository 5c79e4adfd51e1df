"""One key: what every client does with it, against the real server."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.client.driver import Driver, Failed
from tests.system.harness import Server

GOLDEN = Path(__file__).parent / "golden"
KEYS: list[dict[str, str]] = json.loads((GOLDEN / "keys.json").read_text())
TEXT = "text/plain"


def coded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def put(driver: Driver, key: str, value: bytes = b"v", **more: Any) -> int:
    revision: int = driver.ask("put", key=key, value_base64=coded(value), **more)["revision"]
    return revision


def value(driver: Driver, key: str) -> bytes | None:
    entry = driver.ask("get", key=key)
    return None if entry is None else base64.b64decode(entry["value_base64"])


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def in_an_hour() -> str:
    then = datetime.now(UTC) + timedelta(hours=1)
    return then.strftime("%Y-%m-%dT%H:%M:%S.000Z")


# Reading and writing.


def test_what_was_put_is_got(driver: Driver, key: str) -> None:
    written = driver.ask("put", key=key, value_base64=coded(b"hello"), content_type=TEXT)
    assert written["created"] is True
    entry = driver.ask("get", key=key)
    assert (entry["key"], base64.b64decode(entry["value_base64"])) == (key, b"hello")
    assert (entry["revision"], entry["content_type"], entry["expires"]) == (written["revision"], TEXT, None)


def test_a_second_put_does_not_create(driver: Driver, key: str) -> None:
    first = driver.ask("put", key=key, value_base64="")
    second = driver.ask("put", key=key, value_base64="")
    assert (first["created"], second["created"]) == (True, False)
    assert second["revision"] > first["revision"]


def test_an_absent_key_is_null(driver: Driver, key: str) -> None:
    assert driver.ask("get", key=key) is None
    assert driver.ask("head", key=key) is None


def test_an_empty_value_is_not_absent(driver: Driver, key: str) -> None:
    put(driver, key, b"")
    assert value(driver, key) == b""
    assert driver.ask("head", key=key)["size"] == 0


@pytest.mark.parametrize(
    "content",
    [b"\0", bytes(range(256)), b"\r\n\r\n", b"\xff\xfe", "ünïcödé \U0001f600".encode(), b"x" * 70_000],
    ids=["nul", "all bytes", "line ends", "not utf-8", "utf-8", "longer than a read"],
)
def test_bytes_come_back_as_they_went(driver: Driver, key: str, content: bytes) -> None:
    put(driver, key, content)
    assert value(driver, key) == content


def test_the_largest_value(driver: Driver, key: str) -> None:
    put(driver, key, b"x" * 5_120_000)
    assert driver.ask("head", key=key)["size"] == 5_120_000
    error = driver.fails("put", key=key, value_base64=coded(b"x" * 5_120_001))
    assert (error.half, error.code, error.status) == ("refused", "value_too_large", 413)


def test_json_is_stored_as_json(driver: Driver, key: str) -> None:
    driver.ask("put", key=key, json={"a": [1, "ü", None]})
    entry = driver.ask("get", key=key)
    assert json.loads(base64.b64decode(entry["value_base64"])) == {"a": [1, "ü", None]}
    assert entry["content_type"].startswith("application/json")


def test_json_null_is_a_value(driver: Driver, key: str) -> None:
    driver.ask("put", key=key, json=None)
    assert value(driver, key) == b"null"


def test_the_default_content_type_is_octets(driver: Driver, key: str) -> None:
    put(driver, key)
    assert driver.ask("get", key=key)["content_type"] == "application/octet-stream"


@pytest.mark.parametrize("content_type", ["image/png", "text/plain; charset=utf-8", 'a/b; c="d e"'])
def test_content_types(driver: Driver, key: str, content_type: str) -> None:
    put(driver, key, content_type=content_type)
    assert driver.ask("get", key=key)["content_type"] == content_type
    assert driver.ask("head", key=key)["content_type"] == content_type


@pytest.mark.parametrize("content_type", ["x", "a/b\r\nX-Evil: 1", "ü/b", ""])
def test_what_is_no_content_type_is_refused(driver: Driver, key: str, content_type: str) -> None:
    error = driver.fails("put", key=key, value_base64="", content_type=content_type)
    assert (error.half, error.code) == ("refused", "bad_request")
    assert driver.ask("get", key=key) is None


def test_head(driver: Driver, key: str) -> None:
    revision = put(driver, key, b"12345", content_type=TEXT, ttl=60)
    meta = driver.ask("head", key=key)
    assert (meta["size"], meta["revision"], meta["content_type"]) == (5, revision, TEXT)
    assert meta["expires"] == driver.ask("get", key=key)["expires"] is not None


@pytest.mark.parametrize(
    ("span", "part"), [([0, 0], b"0"), ([2, 4], b"234"), ([5, 9], b"56789"), ([8, 20], b"89")], ids=str
)
def test_parts_of_a_value(driver: Driver, key: str, span: list[int], part: bytes) -> None:
    revision = put(driver, key, b"0123456789")
    entry = driver.ask("get", key=key, range=span)
    assert (base64.b64decode(entry["value_base64"]), entry["revision"]) == (part, revision)


def test_a_part_behind_the_end(driver: Driver, key: str) -> None:
    put(driver, key, b"0123456789")
    error = driver.fails("get", key=key, range=[10, 12])
    assert (error.half, error.code, error.status) == ("refused", "range_not_satisfiable", 416)


def test_a_part_of_an_absent_key(driver: Driver, key: str) -> None:
    assert driver.ask("get", key=key, range=[0, 1]) is None


def test_get_if_changed(driver: Driver, key: str) -> None:
    assert driver.ask("get_if_changed", key=key, revision=1) is None
    first = put(driver, key, b"1")
    assert driver.ask("get_if_changed", key=key, revision=first) == "unchanged"
    put(driver, key, b"2")
    assert base64.b64decode(driver.ask("get_if_changed", key=key, revision=first)["value_base64"]) == b"2"


# Keys.


@pytest.mark.parametrize("golden", KEYS, ids=[case["name"] for case in KEYS])
def test_every_key_has_its_path(driver: Driver, server: Server, golden: dict[str, str]) -> None:
    content = golden["name"].encode()
    put(driver, golden["key"], content)
    with server.connect() as sock:
        head = f"GET {golden['path']} HTTP/1.1\r\nHost: kv.example\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n" + content)
    assert value(driver, golden["key"]) == content
    assert driver.ask("delete", key=golden["key"]) == {"deleted": True}


def test_an_empty_key_is_refused(driver: Driver) -> None:
    assert driver.fails("get", key="").half == "refused"
    error = driver.fails("put", key="", value_base64="")
    assert (error.half, error.code) == ("refused", "bad_key")


def test_the_longest_key(driver: Driver, key: str) -> None:
    longest = key + "k" * (511 - len(key))
    put(driver, longest)
    assert value(driver, longest) == b"v"
    error = driver.fails("put", key=longest + "k", value_base64="")
    assert (error.half, error.code, error.status) == ("refused", "key_too_long", 414)


# Expiry.


def test_a_ttl_is_kept_and_taken_off_by_the_next_put(driver: Driver, key: str) -> None:
    put(driver, key, ttl=60)
    left = moment(driver.ask("get", key=key)["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=61)
    put(driver, key)
    assert driver.ask("get", key=key)["expires"] is None


def test_a_ttl_in_milliseconds(driver: Driver, key: str) -> None:
    put(driver, key, ttl=86_400.125)
    assert driver.ask("head", key=key)["expires"] is not None


def test_an_expiry_at_a_time(driver: Driver, key: str) -> None:
    then = in_an_hour()
    put(driver, key, expires=then)
    assert driver.ask("get", key=key)["expires"] == then


def test_ttl_and_expires_at_once_are_refused(driver: Driver, key: str) -> None:
    error = driver.fails("put", key=key, value_base64="", ttl=60, expires=in_an_hour())
    assert (error.half, error.code) == ("refused", "bad_request")


@pytest.mark.parametrize("ttl", [0, -1, 400_000_000])
def test_what_is_no_ttl_is_refused(driver: Driver, key: str, ttl: float) -> None:
    error = driver.fails("put", key=key, value_base64="", ttl=ttl)
    assert (error.half, error.code) == ("refused", "bad_request")


@pytest.mark.parametrize("expires", ["2001-01-01T00:00:00Z", "tomorrow"])
def test_what_is_no_time_to_come_is_refused(driver: Driver, key: str, expires: str) -> None:
    error = driver.fails("put", key=key, value_base64="", expires=expires)
    assert (error.half, error.code) == ("refused", "bad_request")


def test_touch_changes_the_expiry_alone(driver: Driver, key: str) -> None:
    first = put(driver, key, b"kept", content_type=TEXT)
    touched = driver.ask("touch", key=key, ttl=60)["revision"]
    entry = driver.ask("get", key=key)
    assert touched == entry["revision"] > first
    assert (base64.b64decode(entry["value_base64"]), entry["content_type"]) == (b"kept", TEXT)
    assert entry["expires"] is not None


def test_touch_to_a_time_and_to_never(driver: Driver, key: str) -> None:
    put(driver, key, ttl=60)
    then = in_an_hour()
    driver.ask("touch", key=key, expires=then)
    assert driver.ask("get", key=key)["expires"] == then
    driver.ask("touch", key=key, persist=True)
    assert driver.ask("get", key=key)["expires"] is None


def test_touch_of_an_absent_key(driver: Driver, key: str) -> None:
    error = driver.fails("touch", key=key, ttl=1)
    assert (error.half, error.code, error.status) == ("refused", "not_found", 404)


def test_touch_on_a_revision(driver: Driver, key: str) -> None:
    revision = put(driver, key)
    touched = driver.ask("touch", key=key, ttl=60, if_revision=revision)["revision"]
    error = driver.fails("touch", key=key, ttl=60, if_revision=revision)
    assert (error.half, error.code, error.revision) == ("refused", "precondition_failed", touched)


# Conditions.


def test_put_on_a_revision(driver: Driver, key: str) -> None:
    first = put(driver, key, b"1")
    second = put(driver, key, b"2", if_revision=first)
    error = driver.fails("put", key=key, value_base64="", if_revision=first)
    assert (error.half, error.code, error.status, error.revision) == ("refused", "precondition_failed", 412, second)
    assert value(driver, key) == b"2"


def test_put_on_a_revision_of_an_absent_key(driver: Driver, key: str) -> None:
    error = driver.fails("put", key=key, value_base64="", if_revision=5)
    assert (error.half, error.code, error.revision or 0) == ("refused", "precondition_failed", 0)


def test_put_if_absent(driver: Driver, key: str) -> None:
    first = put(driver, key, if_revision=0)
    error = driver.fails("put", key=key, value_base64="", if_revision=0)
    assert (error.half, error.code, error.revision) == ("refused", "precondition_failed", first)


def test_create(driver: Driver, key: str) -> None:
    revision = driver.ask("create", key=key, value_base64=coded(b"1"), content_type=TEXT, ttl=60)["revision"]
    entry = driver.ask("get", key=key)
    assert (entry["revision"], entry["content_type"]) == (revision, TEXT)
    assert entry["expires"] is not None
    error = driver.fails("create", key=key, value_base64="")
    assert (error.half, error.code, error.status, error.revision) == ("refused", "precondition_failed", 412, revision)


def test_exchange(driver: Driver, key: str) -> None:
    first = driver.ask("exchange", key=key, value_base64=coded(b"1"), content_type=TEXT)
    assert first["previous"] is None
    second = driver.ask("exchange", key=key, json=[2])
    assert second["revision"] > first["revision"]
    previous = second["previous"]
    assert (base64.b64decode(previous["value_base64"]), previous["revision"]) == (b"1", first["revision"])
    assert previous["content_type"] == TEXT
    assert value(driver, key) == b"[2]"


def test_exchange_of_an_empty_value(driver: Driver, key: str) -> None:
    put(driver, key, b"")
    assert driver.ask("exchange", key=key, value_base64="")["previous"]["value_base64"] == ""


def test_exchange_on_a_revision(driver: Driver, key: str) -> None:
    revision = put(driver, key, b"1")
    error = driver.fails("exchange", key=key, value_base64="", if_revision=revision - 1)
    assert (error.half, error.code, error.revision) == ("refused", "precondition_failed", revision)
    done = driver.ask("exchange", key=key, value_base64="", if_revision=revision)
    assert done["previous"]["revision"] == revision


def test_delete(driver: Driver, key: str) -> None:
    put(driver, key)
    assert driver.ask("delete", key=key) == {"deleted": True}
    assert driver.ask("delete", key=key) == {"deleted": False}
    assert driver.ask("get", key=key) is None


def test_delete_on_a_revision(driver: Driver, key: str) -> None:
    revision = put(driver, key)
    error = driver.fails("delete", key=key, if_revision=revision - 1)
    assert (error.half, error.code, error.revision) == ("refused", "precondition_failed", revision)
    assert driver.ask("delete", key=key, if_revision=revision) == {"deleted": True}
    assert driver.ask("delete", key=key, if_revision=revision) == {"deleted": False}


# Numbers and patches.


def test_incr(driver: Driver, key: str) -> None:
    assert driver.ask("incr", key=key) == {"value": "1"}
    assert driver.ask("incr", key=key, by=41) == {"value": "42"}
    assert driver.ask("incr", key=key, by=-50) == {"value": "-8"}
    assert driver.ask("incr", key=key, by=0) == {"value": "-8"}


def test_the_largest_numbers(driver: Driver, key: str) -> None:
    """None goes through a double on its way."""
    assert driver.ask("incr", key=key, by=2**63 - 2) == {"value": str(2**63 - 2)}
    assert driver.ask("incr", key=key) == {"value": str(2**63 - 1)}
    error = driver.fails("incr", key=key)
    assert (error.half, error.code, error.status) == ("refused", "overflow", 409)
    put(driver, key, str(-(2**63)).encode())
    assert driver.ask("incr", key=key, by=0) == {"value": str(-(2**63))}


def test_incr_of_what_is_no_number(driver: Driver, key: str) -> None:
    put(driver, key, b"1.5")
    error = driver.fails("incr", key=key)
    assert (error.half, error.code, error.status) == ("refused", "not_an_integer", 409)


def test_incr_gives_a_new_key_its_ttl(driver: Driver, key: str) -> None:
    driver.ask("incr", key=key, ttl_if_new=60)
    expires = driver.ask("get", key=key)["expires"]
    assert expires is not None
    driver.ask("incr", key=key, ttl_if_new=6000)
    assert driver.ask("get", key=key)["expires"] == expires


def test_patch(driver: Driver, key: str) -> None:
    first = driver.ask("patch", key=key, patch={"a": 1, "b": {"c": [1, 2]}})
    assert first["value"] == {"a": 1, "b": {"c": [1, 2]}}
    second = driver.ask("patch", key=key, patch={"a": None, "b": {"d": "ü"}})
    assert second["value"] == {"b": {"c": [1, 2], "d": "ü"}}
    assert second["revision"] == driver.ask("get", key=key)["revision"] > first["revision"]


def test_patch_of_what_is_not_json(driver: Driver, key: str) -> None:
    put(driver, key, b"{")
    error = driver.fails("patch", key=key, patch={})
    assert (error.half, error.code, error.status) == ("refused", "not_json", 409)


def test_patch_on_a_revision(driver: Driver, key: str) -> None:
    revision = driver.ask("patch", key=key, patch={"a": 1})["revision"]
    error = driver.fails("patch", key=key, patch={"a": 2}, if_revision=revision - 1)
    assert (error.half, error.code, error.revision) == ("refused", "precondition_failed", revision)
    assert driver.ask("patch", key=key, patch={"a": 2}, if_revision=revision)["value"] == {"a": 2}


# Read, change, write if nobody was faster.


def test_update(driver: Driver, key: str) -> None:
    assert base64.b64decode(driver.ask("update", key=key, **{"with": "increment"})["value_base64"]) == b"1"
    entry = driver.ask("update", key=key, **{"with": "increment"})
    assert base64.b64decode(entry["value_base64"]) == b"2"
    assert entry["revision"] == driver.ask("get", key=key)["revision"]


def test_update_keeps_type_and_expiry(driver: Driver, key: str) -> None:
    then = in_an_hour()
    put(driver, key, b"a", content_type=TEXT, expires=then)
    driver.ask("update", key=key, text="b", **{"with": "append"})
    entry = driver.ask("get", key=key)
    assert (base64.b64decode(entry["value_base64"]), entry["content_type"], entry["expires"]) == (b"ab", TEXT, then)


def test_update_may_keep_and_delete(driver: Driver, key: str) -> None:
    assert driver.ask("update", key=key, **{"with": "keep"}) is None
    assert driver.ask("update", key=key, **{"with": "delete"}) is None
    revision = put(driver, key)
    assert driver.ask("update", key=key, **{"with": "keep"})["revision"] == revision
    assert driver.ask("update", key=key, **{"with": "delete"}) is None
    assert driver.ask("get", key=key) is None


# The server, and no server.


def test_the_server_s_state(driver: Driver) -> None:
    assert driver.ask("ping") == {}
    status = driver.ask("status")
    assert [shard["state"] for shard in status["shards"]] == ["up", "up"]


def test_a_ticket(driver: Driver) -> None:
    ticket = driver.ask("ticket", **{"for": "websocket"})
    assert ticket["ticket"].startswith("kvt_")
    assert moment(ticket["expires"]) > datetime.now(UTC)


def test_without_tokens_everybody_may_do_all(driver: Driver) -> None:
    found = driver.ask("whoami")
    assert found["name"] is None
    assert [grant["prefix"] for grant in found["grants"]] == [""]
    assert sorted(found["grants"][0]["allow"]) == ["admin", "feed", "read", "write"]


def test_errors_say_what_was_wrong(driver: Driver, key: str) -> None:
    revision = put(driver, key)
    error: Failed = driver.fails("put", key=key, value_base64="", if_revision=revision - 1)
    assert error.detail
