"""Pages that live on the feed: they see each other, go on after a restart with a fresh ticket, say what is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kvserver.access.tokenedit import add_token, change_file, new_token
from tests.client.js.conftest import CHROMIUM
from tests.client.js.pages import Files
from tests.client.killing import free_port
from tests.system.harness import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

OPTIONS = ("--shards", "1", "--workers", "1", "--sync", "os")
WATCH = """
async ([url, token, options]) => {
  const {connect} = await import('/client.js');
  self.kv = connect(url, token ? {token} : {});
  Object.assign(self, {seen: [], states: [], failed: null});
  self.feed = kv.watch('p/', {...options, onState: ({state}) => states.push(state)});
  await feed.open();
  const take = change => seen.push([change.kind, change.key ?? null, change.revision ?? null]);
  feed.subscribe(take, {onError: error => { self.failed = [error.name, error.message]; }});
}
"""
"""Watch `p/`, and keep what comes in `seen`."""


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    serving = Files()
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    args = ["--host-resolver-rules=MAP *.example 127.0.0.1", "--no-sandbox", "--no-proxy-server"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser, files: Files) -> Iterator[Callable[..., Page]]:
    """Opens a page of the client's files, under a name."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "127.0.0.1", path: str = "/package.json") -> Page:
            page = stack.enter_context(contextlib.closing(browser.new_page()))
            page.set_default_timeout(30_000)
            page.goto(files.origin(name) + path)
            return page

        yield make


@pytest.fixture(scope="module")
def token_and_file(make_dir: Callable[[str], Path]) -> tuple[str, Path]:
    """A token that may do everything, and the file that says so."""
    file, token = make_dir("etc") / "tokens.toml", new_token()
    change_file(
        file, lambda text: add_token(text, str(file), "page", token, [("", ["read", "write", "feed", "admin"])])
    )
    return token, file


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path], token_and_file: tuple[str, Path]) -> Iterator[Server]:
    """A server that wants a token, and keeps its port when it is started again."""
    _, file = token_and_file
    with Server(make_dir("data"), *OPTIONS, "--port", str(free_port()), "--tokens", str(file)) as running:
        yield running


def put(page: Page, key: str, value: str = "v") -> int:
    """Put a key by the page's client; the revision."""
    revision: int = page.evaluate("async ([key, value]) => (await kv.put(key, value)).revision", [key, value])
    return revision


def seen_until(page: Page, revision: int) -> list[list[Any]]:
    """What a page has seen, once it has seen a revision."""
    page.wait_for_function("revision => failed || seen.some(([,, each]) => each === revision)", arg=revision)
    assert page.evaluate("failed") is None
    found: list[list[Any]] = page.evaluate("seen")
    return found


def test_two_pages_see_each_other(server: Server, open_page: Callable[..., Page]) -> None:
    pages = [open_page("a.example"), open_page("b.example")]
    for page in pages:
        page.evaluate(WATCH, [server.url, None, {}])
    written = [["put", f"p/{at}", put(page, f"p/{at}")] for at, page in enumerate(pages)]
    for page in pages:
        assert seen_until(page, written[-1][2]) == written


@pytest.mark.parametrize("transport", ["auto", "lines", "poll"])
def test_a_page_with_a_token_goes_on_after_a_restart(
    guarded: Server, token_and_file: tuple[str, Path], open_page: Callable[..., Page], transport: str
) -> None:
    page, asked = open_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    token = token_and_file[0]
    page.evaluate(WATCH, [guarded.url, token, {"transport": transport}])
    written = [["put", "p/before", put(page, "p/before")]]
    seen_until(page, written[0][2])
    guarded.stop()
    guarded.start()
    written += [["put", "p/after", put(page, "p/after")]]
    assert seen_until(page, written[-1][2]) == written
    states = page.evaluate("states")
    assert states[:2] == ["connecting", "live"] and states[-1] == "live" and "waiting" in states
    assert not [url for url in asked if token in url], "no token in a URL"
    sockets = [url for url in asked if url.startswith("ws://")]
    assert len({url.partition("ticket=")[2] for url in sockets}) == len(sockets), "a ticket for each connection"
    assert bool(sockets) == (transport == "auto")
    page.evaluate("feed.close()")


def test_a_page_whose_token_is_not_known(guarded: Server, open_page: Callable[..., Page]) -> None:
    told = open_page().evaluate(
        """async ([url, token]) => {
          const {connect} = await import('/client.js');
          const kv = connect(url, {token});
          const names = [];
          for (const asking of [kv.put('k', 'v'), kv.get('k'), kv.watch().open()])
            names.push(await asking.then(() => 'done', error => error.name));
          return names;
        }""",
        [guarded.url, new_token()],
    )
    assert told == ["InvalidToken"] * 3


def test_in_a_worker(server: Server, open_page: Callable[..., Page]) -> None:
    told = open_page().evaluate(
        """url => new Promise(done => {
          const text = `
            import {connect} from '${location.origin}/client.js';
            const kv = connect('${url}');
            const watch = await kv.watch('worker/').open();
            await kv.put('worker/key', new Uint8Array([0, 255]));
            for await (const {key, bytes} of watch) { postMessage([key, ...bytes]); break; }`;
          const worker = new Worker(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})), {type: 'module'});
          worker.onmessage = ({data}) => { worker.terminate(); done(data); };
          worker.onerror = ({message}) => done(message);
        })""",
        server.url,
    )
    assert told == ["worker/key", 0, 255]


def test_the_example_page(server: Server, open_page: Callable[..., Page]) -> None:
    with server.client() as client:
        client.put("/v1/kv/shown/b", content=b"<b>2").raise_for_status()
        page = open_page(path=f"/examples/live.html?server={server.url}&prefix=shown/")
        page.wait_for_function("document.querySelector('#state').textContent === 'live'")
        assert page.inner_text("#keys") == "shown/b\t<b>2"
        client.put("/v1/kv/shown/a", content=b"1").raise_for_status()
        page.wait_for_function("document.querySelectorAll('tr').length === 2")
        client.delete("/v1/kv?prefix=shown/").raise_for_status()
        page.wait_for_function("document.querySelectorAll('tr').length === 0")


@pytest.mark.parametrize(
    ("name", "hint"), [("127.0.0.1", "The browser does not tell why"), ("page.example", "Local network access")]
)
def test_what_the_browser_does_not_tell_is_guessed(open_page: Callable[..., Page], name: str, hint: str) -> None:
    told = open_page(name).evaluate(
        """async url => {
          const {connect} = await import('/client.js');
          const kv = connect(url, {patience: 0});
          const tell = error => [error.name, error.message];
          return [await kv.get('k').catch(tell), await kv.put('k', 'v').catch(tell)];
        }""",
        f"http://127.0.0.1:{free_port()}",
    )
    assert [error for error, _ in told] == ["NotAnswered", "OutcomeUnknown"]
    assert all(hint in message for _, message in told), told
