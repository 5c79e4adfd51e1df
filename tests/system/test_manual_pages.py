"""The manual as it is served: every link leads somewhere, and a real browser searches it and copies from it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from kvserver.description.html.manual import START, address
from tests.system.harness import Server

CHROMIUM = shutil.which("chromium")
MANUAL = Path(__file__).parents[2] / "kvserver" / "manual"
CHAPTERS = sorted(address(path.stem) for path in MANUAL.glob("*.md"))
SHOWN = (*CHAPTERS, "/docs/reference", "/docs/errors/", "/docs/errors/not_found", "/sdk/")
CONDITIONS = "/docs/keys#conditional-writes"


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    with Server(make_dir("data"), "--in-memory", "--shards", "1", "--workers", "1", "--gateways", "1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"])
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    options = {"base_url": server.url, "viewport": {"width": 1280, "height": 900}}
    with contextlib.closing(browser.new_context(**options)) as opened:  # type: ignore[arg-type]
        opened.set_default_timeout(30_000)
        yield opened


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page, which must have said nothing on its console, a report of its policy neither, when the test is over."""
    told: list[str] = []
    opened = context.new_page()
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    yield opened
    assert told == []


def test_every_link_leads_to_a_place(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        texts: dict[str, str] = {}
        waiting = ["/docs/"]
        wanted = set()
        while waiting:
            path = waiting.pop()
            answer = client.get(path)
            assert answer.status_code == 200, path
            texts[path] = answer.text
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            for link in re.findall(r'<a [^>]*href="([^"]+)"', answer.text):
                where, _, part = link.partition("#")
                if not where.startswith("https://") and not part.startswith("/"):  # a view of the console
                    wanted.add((where or path, part))
                    if where and where not in texts and where not in waiting:
                        waiting.append(where)
        assert set(SHOWN) <= texts.keys()
        for where, part in wanted:
            assert not part or f' id="{part}"' in texts[where], (where, part)
        for record in client.get("/docs/search.json").raise_for_status().json():
            assert record["at"].partition("#")[0] in texts


def test_examples_have_the_address_of_the_server(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        keys, feed, clients = (client.get(f"/docs/{name}").text for name in ("keys", "memorykv", "clients"))
    assert f"{server.url}/v1/kv/flags/beta" in keys and "localhost:8080" not in keys
    assert f"ws://{server.host}:{server.port}/wal" in feed
    assert "else http&#58;//localhost&#58;8080 */" in clients, "what a client takes by default stays what it is"


def test_pages_say_nothing_on_the_console_and_fit_narrow_screens(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for path in SHOWN:
        page.goto(path)
        page.get_by_role("searchbox").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        assert page.locator(".example").count() == page.get_by_role("button", name="Copy", exact=True).count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_those_for_the_colours_of_the_page(page: Page, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    for path in ("/docs/", "/docs/console", "/docs/commands", "/docs/performance"):
        page.goto(path)
        page.wait_for_function("[...document.images].every(each => each.complete)")
        shown = page.evaluate("[...document.images].map(each => [each.currentSrc, each.naturalWidth])")
        assert shown and all(f".{scheme}." in source and width > 500 for source, width in shown), (path, shown)


def test_the_search_finds_a_part_of_a_chapter_by_keyboard_alone(page: Page) -> None:
    page.goto("/docs/recipes")
    page.keyboard.press("/")
    page.keyboard.type("Conditional WRITES")
    page.wait_for_selector(".found li")
    assert page.locator(".found [role=status]").inner_text().startswith("1 place")
    assert page.locator(".found mark").first.inner_text() == "Conditional"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.pathname + document.activeElement.hash") == CONDITIONS
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("Escape")
    assert page.locator(".found").is_hidden()
    page.keyboard.type(" etag")
    page.wait_for_selector(".found li")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{CONDITIONS}")


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("expiry", "/docs/keys#expiry"),
        ("not_found", "/docs/errors/not_found"),
        ("patch /v1/kv", "/docs/reference#patch_v1_kv_key"),
        ("election", "/docs/recipes#leader-election"),
        (".*", None),
        ("<img src=x>", None),
        ("no such words anywhere", None),
    ],
)
def test_the_search_puts_what_is_meant_first(page: Page, words: str, first: str | None) -> None:
    page.goto("/docs/")
    page.get_by_role("searchbox").fill(words)
    page.locator(".found p:not(:empty)").wait_for()
    found = page.locator(".found a")
    if first is None:
        assert page.locator(".found p").inner_text() == "Nothing found." or found.count()
        assert page.locator(".found img").count() == 0
    else:
        assert found.first.get_attribute("href") == first


def test_a_button_copies_what_is_typed(page: Page, context: BrowserContext, server: Server) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/docs/memorykv")
    console = page.locator(".example:has(.console)").first
    console.get_by_role("button").click()
    console.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert copied[:2] == [f"curl -X PUT -d 'dark' {server.url}/theme", f"curl {server.url}/theme"]
    assert all(line.startswith("curl ") for line in copied)
    program = page.locator(".example:has(.python)").first
    program.get_by_role("button").click()
    program.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == program.locator("pre").text_content()


def test_a_button_copies_where_the_browser_has_no_clipboard_for_pages(page: Page, context: BrowserContext) -> None:
    """So it is at an address without TLS that is not this machine's."""
    context.grant_permissions(["clipboard-read"])
    page.add_init_script(
        "window.kept = navigator.clipboard; Object.defineProperty(Navigator.prototype, 'clipboard', {value: undefined})"
    )
    page.goto("/docs/feed")
    page.locator(".copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("kept.readText()").startswith("since=$(curl ")
    assert page.evaluate("document.activeElement.textContent") == "Copied"


def test_without_scripts_chapters_are_found_and_read(browser: Browser, server: Server) -> None:
    with contextlib.closing(browser.new_context(base_url=server.url, java_script_enabled=False)) as context:
        page = context.new_page()
        page.goto("/docs/")
        assert page.get_by_role("searchbox").is_hidden() and page.locator(".copy").count() == 0
        page.get_by_role("navigation", name="Chapters").get_by_role("link", name="Limits").click()
        page.wait_for_url("**/docs/limits")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.get_by_role("link", name="Access").is_hidden()
        page.get_by_text("Chapters").click()
        page.get_by_role("link", name="Access").click()
        page.wait_for_url("**/docs/access")


def test_a_stored_script_does_not_run_in_a_page(context: BrowserContext, server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        headers = {"Content-Type": "text/javascript"}
        client.put("/v1/kv/evil.js", content=b"window.ran = 1", headers=headers).raise_for_status()
    page = context.new_page()
    page.goto(address(START))
    with page.expect_console_message(lambda message: "/v1/kv/evil.js" in message.text):
        page.evaluate("import('/v1/kv/evil.js').catch(() => {})")
    assert page.evaluate("window.ran") is None
