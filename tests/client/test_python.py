"""What the Python clients have beyond the verbs that every client has, against the real server."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

import kvserver.client
from kvserver.client import AsyncClient, Client, Entry, NotFound, PutOp, errors
from tests.system.harness import Server


async def result_of(value: Any) -> Any:
    """Return a value, awaited if it is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def list_of(values: Any) -> list[Any]:
    """Return the elements of an iterator, asynchronous or not."""
    return [value async for value in values] if hasattr(values, "__aiter__") else list(values)


Run = Callable[[Callable[[Any, str], Any]], None]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, server: Server) -> Run:
    """Runs an asynchronous function with a client of either kind, and a prefix of the test's own."""
    prefix = f"{request.node.name}/"

    def run_sync(function: Callable[[Any, str], Any]) -> None:
        with Client(server.url) as kv, pytest.raises(StopIteration):  # nothing in it waits: it runs to its end
            function(kv, prefix).send(None)

    def run_async(function: Callable[[Any, str], Any]) -> None:
        async def in_a_client() -> None:
            async with AsyncClient(server.url) as kv:
                await function(kv, prefix)

        asyncio.run(in_a_client())

    return run_sync if request.param == "sync" else run_async


def test_many_are_stored_in_lanes(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        pairs = {f"{prefix}{number:05}": str(number) for number in range(3500)}
        assert (await result_of(kv.put_many(pairs))).stored == 3500
        assert await result_of(kv.count(prefix)) == 3500
        found = await result_of(kv.get_many(pairs))
        assert {key: entry.text for key, entry in found.items()} == pairs
        assert (await result_of(kv.put_many([]))).stored == 0
        assert (await result_of(kv.delete_prefix(prefix))).count == 3500

    run(test)


def test_the_first_that_cannot_be_stored_is_raised(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        pairs = [(prefix + "large", b"x" * 5_120_001), *((f"{prefix}{number}", b"") for number in range(3000))]
        with pytest.raises(errors.TooLarge):
            await result_of(kv.put_many(pairs, lanes=2))

    run(test)


def test_names_alone(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        assert await list_of(kv.keys(prefix)) == []
        await result_of(kv.batch(PutOp(f"{prefix}{number:04}", b"") for number in range(1001)))
        assert await list_of(kv.keys(prefix)) == [f"{prefix}{number:04}" for number in range(1001)]

    run(test)


def test_a_scan_has_the_cursor_of_before_its_first_page(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        await result_of(kv.batch(PutOp(f"{prefix}{number:04}", b"") for number in range(1001)))
        before = (await result_of(kv.page(prefix))).cursor
        scan = kv.scan(prefix)
        assert scan.cursor == ""
        if isinstance(kv, Client):
            assert next(scan).key == f"{prefix}0000"
        else:
            assert (await anext(scan)).key == f"{prefix}0000"
        assert scan.cursor == before
        await result_of(kv.put(prefix + "9999", b""))
        assert len(await list_of(scan)) == 1001  # the rest of the first page, one more, and the new one
        assert scan.cursor == before

    run(test)


def test_keys_that_the_delimiter_folds_are_left_out_of_a_scan(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        for name in ("a", "b/c", "d"):
            await result_of(kv.put(prefix + name, b""))
        items = await list_of(kv.scan(prefix, delimiter="/"))
        assert [item.key for item in items] == [prefix + "a", prefix + "d"]

    run(test)


def test_a_page_folded_at_the_first_of_two_delimiters(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        for name in ("a/b:c", "d:e/f", "g"):
            await result_of(kv.put(prefix + name, b""))
        page = await result_of(kv.page(prefix, delimiter=["/", ":"]))
        assert page.prefixes == [prefix + "a/", prefix + "d:"]
        assert [item.key for item in page.items] == [prefix + "g"]

    run(test)


def test_within_a_prefix(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        inner = kv.within(prefix).within("in/")
        await result_of(inner.put("k", "v"))
        assert (await result_of(kv.get(prefix + "in/k"))).text == "v"
        assert (await result_of(inner.get("k"))).key == "k"
        assert [item.key for item in await list_of(inner.scan())] == ["k"]
        assert (await result_of(inner.page(delimiter="k"))).prefixes == ["k"]
        assert list(await result_of(inner.get_many(["k", "none"]))) == ["k", "none"]
        results = await result_of(inner.atomic().get("k").commit())
        assert results[0].entry.key == "k"
        assert (await result_of(inner.update("k", lambda entry: entry.value + b"2"))).value == b"v2"
        assert await result_of(inner.count()) == 1
        assert (await result_of(inner.delete_prefix(""))).count == 1  # which is not everything

    run(test)


def test_other_options_for_some_calls(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        hasty = kv.with_options(timeout=0.000_001, patience=0)
        with pytest.raises(errors.KVError):
            await result_of(hasty.get(prefix))
        assert await result_of(kv.get(prefix)) is None
        assert await result_of(hasty.with_options(timeout=5).get(prefix)) is None

    run(test)


def test_a_client_is_ready_when_the_server_is(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        assert await result_of(kv.ready()) is True
        assert 0 < await result_of(kv.ping()) < 10

    run(test)


def test_a_function_that_fails_is_not_hidden(run: Run) -> None:
    async def test(kv: Any, prefix: str) -> None:
        def change(entry: Entry | None) -> bytes:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await result_of(kv.update(prefix + "k", change))
        with pytest.raises(TypeError):
            await result_of(kv.update(prefix + "k", lambda _: 5))
        assert await result_of(kv.get(prefix + "k")) is None

    run(test)


def test_the_example_of_the_package_runs(server: Server) -> None:
    example = re.search(r"\n((?:    .*\n|\n)+)", kvserver.client.__doc__ or "")
    assert example is not None
    found: dict[str, Any] = {}
    exec(textwrap.dedent(example[1]).replace("http://localhost:8080", server.url), found)
    assert found["entry"].text == "hello"


def test_a_client_looks_like_a_mapping(server: Server) -> None:
    with Client(server.url, prefix="mapping/") as kv:
        kv.put("k", b"v")
        assert kv["k"] == b"v" and "k" in kv and "none" not in kv and 5 not in kv
        with pytest.raises(KeyError) as raised:
            kv["none"]
        assert isinstance(raised.value, NotFound)


def test_threads_update_one_key_and_nothing_is_lost(server: Server) -> None:
    with Client(server.url) as kv:

        def count() -> None:
            for _ in range(20):
                kv.update("threads", lambda entry: str(int(entry.text) + 1 if entry else 1))

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kv["threads"] == b"160"


def test_tasks_update_one_key_and_nothing_is_lost(server: Server) -> None:
    async def add(entry: Entry | None) -> str:
        await asyncio.sleep(0)
        return str(int(entry.text) + 1 if entry else 1)

    async def count(kv: AsyncClient) -> None:
        for _ in range(20):
            await kv.update("tasks", add)

    async def main() -> None:
        async with AsyncClient(server.url) as kv:
            await asyncio.gather(*(count(kv) for _ in range(8)))
            entry = await kv.get("tasks")
            assert entry is not None and entry.text == "160"

    asyncio.run(main())
