"""What the console says while parts of the server are killed under it, and that it goes on by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.client.killing import free_port
from tests.system.console.conftest import Open
from tests.system.console.test_feed import in_order
from tests.system.harness import Server


@pytest.fixture
def fixed(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that keeps its port when it is started again."""
    options = ("--shards", "1", "--workers", "1", "--sync", "os", "--port", str(free_port()))
    with Server(make_dir("data"), *options) as running:
        yield running


def put(server: Server, key: str) -> None:
    with server.client() as client:
        client.put(f"/v1/kv/{key}", content=key).raise_for_status()


def rows(page: Page) -> list[str]:
    return [row for row in in_order(page) if "PUT" in row]


def test_the_server_is_restarted(fixed: Server, open_console: Open) -> None:
    keys, feed = open_console(fixed), open_console(fixed, "#/feed")
    put(fixed, "before")
    expect(keys.get_by_role("treeitem", name="before")).to_be_visible()
    expect(feed.locator(".events .op.put")).to_have_count(1)
    fixed.stop()
    for page in (keys, feed):
        expect(page.locator(".tabs .words")).to_contain_text("next try in", timeout=20_000)
        assert page.locator(".tabs .state").get_attribute("data-kind") == "waiting"
    expect(feed.locator(".events .note")).to_contain_text("coming back in")
    keys.get_by_role("treeitem", name="before").click()
    expect(keys.locator(".notice.bad")).to_contain_text("It cannot be read", timeout=20_000)
    fixed.start()
    put(fixed, "after")
    for page in (keys, feed):
        expect(page.locator(".tabs .words")).to_have_text("live", timeout=30_000)
    expect(keys.get_by_role("treeitem", name="after")).to_be_visible()
    expect(keys.locator("pre.value")).to_have_text("before")
    expect(feed.locator(".events .note", has_text="nothing was missed").first).to_be_visible()
    assert [row.split()[2] for row in rows(feed)] == ["after", "before"]


@pytest.mark.parametrize("kind", ["gateways", "workers"])
def test_a_process_is_killed(fixed: Server, open_console: Open, kind: str) -> None:
    keys, feed = open_console(fixed), open_console(fixed, "#/feed")
    put(fixed, "k0")
    for number in range(1, 4):
        (victim,) = (each["pid"] for each in fixed.status()[kind])
        os.kill(victim, signal.SIGKILL)
        with fixed.client() as client:
            while True:  # while the worker is away, nobody answers
                try:
                    client.put(f"/v1/kv/k{number}", content=b"x").raise_for_status()
                    break
                except Exception:
                    keys.wait_for_timeout(100)
        expect(keys.get_by_role("treeitem", name=f"k{number}")).to_be_visible(timeout=30_000)
        expect(feed.locator(".events .row", has_text=f"k{number}")).to_have_count(1, timeout=30_000)
    assert [row.split()[2] for row in rows(feed)] == ["k3", "k2", "k1", "k0"], "each once, in order"
    if kind == "gateways":
        expect(feed.locator(".events .note", has_text="nothing was missed").first).to_be_visible()
    keys.get_by_role("treeitem", name="k3").click()
    expect(keys.locator("pre.value")).to_be_visible(timeout=30_000)


def test_another_history_is_said_and_the_keys_are_loaded_anew(
    make_dir: Callable[[str], Path], open_console: Open
) -> None:
    """A server in memory forgets all when it is restarted."""
    options = ("--in-memory", "--shards", "1", "--workers", "1", "--port", str(free_port()))
    with Server(make_dir("data"), *options) as server:
        keys, feed = open_console(server), open_console(server, "#/feed")
        put(server, "forgotten")
        expect(keys.get_by_role("treeitem", name="forgotten")).to_be_visible()
        server.stop()
        server.start()
        expect(feed.locator(".events .note", has_text="GAP")).to_be_visible(timeout=30_000)
        expect(keys.get_by_role("treeitem", name="forgotten")).to_have_count(0, timeout=30_000)


def test_the_status_says_that_nobody_answers(fixed: Server, open_console: Open) -> None:
    page = open_console(fixed, "#/status")
    expect(page.locator(".view.status .told")).to_have_text("Everything is up.")
    fixed.stop()
    expect(page.locator(".view.status .notice.bad")).to_contain_text("No answer", timeout=20_000)
    fixed.start()
    expect(page.locator(".view.status .told")).to_have_text("Everything is up.", timeout=30_000)
    expect(page.locator("figure polyline").first).not_to_have_attribute("points", "", timeout=20_000)
    page.locator("figure summary").first.click()
    expect(page.locator("figure table").first).to_contain_text("/s")
