"""What the console says of a cluster, on a machine of it: while another one is killed, and while all others are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.cluster.own_engines import OwnEngines, own_engines
from tests.system.console.conftest import Open

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnEngines]:
    with own_engines() as made:
        yield made


def expect_state(page: Page, told: str, *states: str) -> None:
    """Wait until the page says this of the server, and these states of the machines."""
    expect(page.locator("[role=status]", has_text=told).first).to_be_visible(timeout=PATIENCE_MS)
    rows = page.get_by_role("group", name="Machines of the cluster").locator("tbody tr td")
    expect(rows).to_have_text(list(states), timeout=PATIENCE_MS)


@pytest.mark.timeout(400)
def test_machines_die_and_are_back(servers: OwnEngines, open_console: Open) -> None:
    a, b, c = servers.all
    page = open_console(a, "#/status", height=1500)
    expect_state(page, "Everything is up.", "current", "member", "member")
    expect(page.locator(".cards")).to_contain_text("a of a b c")
    c.kill()
    expect_state(page, "Machine c is out of the cluster.", "current", "member", "out")
    expect(page.locator(".cards")).to_contain_text("a of a b (c out)")
    keys = open_console(a)  # and the others go on
    with a.client() as client:
        client.put("/v1/kv/written-without-c", content=b"v").raise_for_status()
    expect(keys.get_by_role("treeitem", name="written-without-c")).to_be_visible()
    b.kill()
    expect_state(page, "This machine has lost its cluster: it shows no value", "not current", "does not answer", "out")
    keys.get_by_role("treeitem", name="written-without-c").click()
    expect(keys.locator(".notice.bad")).to_contain_text("It cannot be read", timeout=PATIENCE_MS)
    b.spawn()
    c.spawn()
    expect_state(page, "Everything is up.", "current", "member", "member")
    expect(keys.locator("pre.value")).to_have_text("v", timeout=PATIENCE_MS)
