"""Pages of the console in a real browser, none of which may report a fault or a breach of its policy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.harness import Server

CHROMIUM = shutil.which("chromium")
ARGS = ["--no-sandbox", "--no-proxy-server", "--disable-gpu", "--disable-background-networking"]
REPORTS = "addEventListener('securitypolicyviolation', each => console.error('CSP: ' + each.violatedDirective))"
EXPECTED = ("Failed to load resource", "WebSocket connection to", "WebSocket is closed before")
"""What a browser itself says of answers that are errors, and of connections that break."""

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield running
        running.close()


@pytest.fixture
def open_console(browser: Browser) -> Iterator[Open]:
    """Opens the console of a server in a browser of its own: `open_console(server, "#/feed", width=360)`."""
    faults: list[str] = []
    with contextlib.ExitStack() as stack:

        def make(
            server: Server, place: str = "", *, width: int = 1280, height: int = 800, is_open: bool = True
        ) -> Page:
            context = stack.enter_context(
                contextlib.closing(browser.new_context(viewport={"width": width, "height": height}))
            )
            context.add_init_script(REPORTS)
            page = context.new_page()
            page.set_default_timeout(30_000)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "console",
                lambda told: None if told.text.startswith(EXPECTED) else faults.append(told.text),
            )
            page.goto(f"{server.url}/console/{place}")
            if is_open:
                page.locator(".tabs .state[data-kind=live]").wait_for()
            return page

        yield make
    assert faults == []
