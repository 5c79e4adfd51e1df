"""Every view for people who do not see, or use no mouse: axe-core finds nothing, wide and narrow, light and dark."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.system.console.test_values import JSON, PICTURE, place, put
from tests.system.harness import Server

AXE = "axe-core@4.10.3"
RUN = "axe.run(document, {resultTypes: ['violations']})"
PLACES = ("#/keys", "#/folder/a%2F", "#/new/a", "#/feed", "#/status", *map(place, ("a/json", "a/picture", "none")))
DIALOGS = ("Expiry …", "Delete …")


@pytest.fixture(scope="module")
def axe(make_dir: Callable[[str], Path]) -> str:
    """The source of axe-core, which npm brings."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = make_dir("axe")
    command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), AXE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page) -> list[tuple[str, str, list[str]]]:
    found: dict[str, Any] = page.evaluate(RUN)
    assert found["passes"], "it looked at something"
    return [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_stands_in_anybody_s_way(server: Server, browser: Browser, axe: str, width: int, scheme: Any) -> None:
    put(server, "a/json", JSON, "application/json", ttl="3600")
    put(server, "a/picture", PICTURE, "image/png")
    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "bypass_csp": True}
    with contextlib.closing(browser.new_context(**options)) as context:
        page = context.new_page()
        page.goto(f"{server.url}/console/")
        expect(page.locator(".tabs .words")).to_have_text("live")
        page.evaluate(axe)
        for where in PLACES:
            page.evaluate("where => { location.hash = where; }", where)
            page.wait_for_timeout(300)
            assert violations(page) == [], where
            assert page.evaluate("document.documentElement.scrollWidth") == width, where
        page.evaluate("where => { location.hash = where; }", place("a/json"))
        for name in DIALOGS:
            page.get_by_role("button", name=name).click()
            assert violations(page) == [], name
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="Edit").click()
        put(server, "a/json", "theirs")
        expect(page.get_by_role("alert")).to_be_visible()
        assert violations(page) == [], "a conflict"


def test_a_fault_is_found(browser: Browser, axe: str) -> None:
    with contextlib.closing(browser.new_page()) as page:
        page.set_content("<html lang=en><title>x</title><main><h1>x</h1><input></main>")
        page.evaluate(axe)
        assert [(rule, impact) for rule, impact, _ in violations(page)] == [("label", "critical")]
