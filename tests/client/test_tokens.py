"""Tokens: what each client says when it may not do something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kvserver.access.grants import Verb
from kvserver.access.tokenedit import add_token, change_file, new_token
from tests.client.driver import Driver, Failed
from tests.client.sdks import Sdk
from tests.client.test_conformance import coded, moment, put, value
from tests.system.harness import Server

Asking = Callable[[str | None], Driver]
GRANTS: dict[str, list[tuple[str, list[Verb]]]] = {
    "root": [("", ["read", "write", "feed", "admin"])],
    "reader": [("", ["read"])],
    "writer": [("", ["write"])],
    "limited": [("mine/", ["read", "write"])],
}


@pytest.fixture(scope="module")
def tokens(make_dir: Callable[[str], Path]) -> dict[str, str]:
    """A token for each of `GRANTS`, by name, and the path of their file."""
    file = make_dir("etc") / "tokens.toml"
    found = {"file": str(file)}
    for name, grants in GRANTS.items():
        token = found[name] = new_token()
        change_file(file, lambda text, n=name, t=token, g=grants: add_token(text, str(file), n, t, g))  # type: ignore[misc]
    return found


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path], tokens: dict[str, str]) -> Iterator[Server]:
    with Server(make_dir("data"), "--in-memory", "--tokens", tokens["file"]) as running:
        yield running


@pytest.fixture(scope="module")
def asking(sdk: Sdk, server: Server, tokens: dict[str, str]) -> Iterator[Callable[[str], Driver]]:
    """A driver with the token of a name, made at the first use."""
    drivers: dict[str, Driver] = {}

    def make(name: str) -> Driver:
        if name not in drivers:
            drivers[name] = Driver(sdk.command(), server.url, tokens.get(name))
        return drivers[name]

    yield make
    for driver in drivers.values():
        driver.close()


def test_no_token(asking: Asking, key: str) -> None:
    error = asking("nobody").fails("put", key=key, value_base64="")
    assert (error.half, error.code, error.status) == ("refused", "unauthorized", 401)
    assert asking("nobody").fails("get", key=key).code == "unauthorized"
    assert asking("nobody").fails("head", key=key).status == 401


def test_a_token_that_is_not_known(sdk: Sdk, server: Server, key: str) -> None:
    with Driver(sdk.command(), server.url, new_token()) as driver:
        error = driver.fails("put", key=key, value_base64="")
    assert (error.half, error.code, error.status) == ("refused", "invalid_token", 401)


def test_a_token_that_may_do_all(asking: Asking, key: str) -> None:
    put(asking("root"), key)
    assert value(asking("root"), key) == b"v"


def test_a_reader_writes_nothing(asking: Asking, key: str) -> None:
    put(asking("root"), key)
    assert value(asking("reader"), key) == b"v"
    for do, args in (("put", {"value_base64": ""}), ("delete", {}), ("incr", {}), ("touch", {"ttl": 1})):
        error = asking("reader").fails(do, key=key, **args)
        assert (error.half, error.code, error.status) == ("refused", "forbidden", 403)


def test_a_writer_is_not_told_what_it_made(asking: Asking, key: str) -> None:
    writer = asking("writer")
    error = writer.fails("incr", key=key)
    assert (error.half, error.code) == ("other", "answer_withheld")
    assert value(asking("root"), key) == b"1"
    error = writer.fails("patch", key=key + "p", patch={"a": 1})
    assert (error.half, error.code) == ("other", "answer_withheld")
    assert value(asking("root"), key + "p") == b'{"a":1}'
    assert writer.fails("get", key=key).code == "forbidden"


def test_a_token_of_a_prefix(asking: Asking, key: str) -> None:
    limited, mine = asking("limited"), f"mine/{key}"
    put(limited, mine)
    put(asking("root"), key)
    assert limited.fails("get", key=key).code == "forbidden"
    assert limited.fails("delete_prefix", prefix="", all=True).code == "forbidden"
    keys = [item["key"] for item in limited.ask("scan")["items"]]
    assert mine in keys and key not in keys


def test_a_ticket_for_keys_hands_on_a_part_of_the_rights(asking: Asking, sdk: Sdk, server: Server, key: str) -> None:
    grants = [{"prefix": "mine/a", "allow": ["read"]}, {"prefix": "mine/b", "allow": ["read", "write"]}]
    put(asking("root"), f"mine/a{key}")
    ticket = asking("limited").ask("ticket", grants=grants, ttl=60, **{"for": "kv"})
    assert 50 < (moment(ticket["expires"]) - datetime.now(UTC)).total_seconds() <= 60.5
    with Driver(sdk.command(), server.url, ticket["ticket"]) as page:
        who = page.ask("whoami")
        assert (who["name"], who["grants"]) == ("limited", grants)
        assert value(page, f"mine/a{key}") == b"v"
        put(page, f"mine/b{key}")
        for refused in (f"mine/a{key}", f"mine/c{key}"):
            assert page.fails("put", key=refused, value_base64="").code == "forbidden"


def test_a_ticket_for_keys_wants_rights_that_are_there(asking: Asking) -> None:
    def ask(prefix: str, *allow: str, **more: float) -> Failed:
        grants = [{"prefix": prefix, "allow": list(allow)}]
        return asking("limited").fails("ticket", grants=grants, **more, **{"for": "kv"})

    assert ask("yours/", "read").code == "forbidden"
    assert ask("mine/", "feed").code == "forbidden"
    assert ask("mine/", "admin").code == "bad_request"
    assert ask("mine/", "read", ttl=3601).code == "bad_request"


def test_no_token_is_told(asking: Asking, tokens: dict[str, str], key: str) -> None:
    error = asking("reader").fails("put", key=key, value_base64=coded(b"v"))
    assert tokens["reader"] not in str(error)


def test_who_a_token_is(asking: Asking) -> None:
    assert asking("limited").ask("whoami") == {
        "name": "limited",
        "grants": [{"prefix": "mine/", "allow": ["read", "write"]}],
    }
    assert asking("nobody").fails("whoami").code == "unauthorized"
