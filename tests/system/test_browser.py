"""Pages in a real browser: of a listed origin, of another, of none, and of a name that was given the server's address.

The pages come from a server of their own on loopback, under names that the browser alone knows.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.system.harness import Server

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

OPTIONS = ("--shards", "1", "--workers", "1", "--sync", "os")

SENDING = """
async url => {
  const send = (method, path, rest) => fetch(url + path, {method, mode: 'no-cors', ...rest}).catch(() => null);
  const ops = JSON.stringify({ops: [{op: 'put', key: 'batch', value: 'x'}, {op: 'delete', key: 'precious'}]});
  const form = new URLSearchParams(ops);
  await send('POST', '/v1/kv/counter?incr=1');
  await send('POST', '/v1/kv/precious?ttl=0.001');
  await send('POST', '/v1/kv/precious?expires=2100-01-01T00:00:00Z');
  await send('POST', '/v1/kv/kept?persist=true');
  await send('POST', '/v1/batch', {body: ops});
  await send('POST', '/v1/batch', {body: form});
  await send('POST', '/v1/batch', {body: new Blob([ops])});
  await send('POST', '/v1/batch', {body: new Blob([ops]), referrerPolicy: 'no-referrer', credentials: 'omit'});
  navigator.sendBeacon(url + '/v1/batch', ops);
  navigator.sendBeacon(url + '/v1/kv/counter?incr=1');
  for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
    for (const path of ['/v1/batch', '/v1/kv/counter?incr=1']) {
      const frame = Object.assign(document.createElement('iframe'), {name: enctype + path});
      const form = Object.assign(document.createElement('form'), {method: 'POST', action: url + path, enctype});
      const field = Object.assign(document.createElement('input'), {name: ops.slice(0, -1), value: '0}'});
      form.target = frame.name;
      if (path === '/v1/batch') form.append(field);
      document.body.append(frame, form);
      await new Promise(done => { frame.onload = done; form.submit(); });
    }
  }
  for (const method of ['PUT', 'DELETE', 'PATCH'])
    await fetch(url + '/v1/kv/precious', {method, body: 'x'}).catch(() => null);
  await fetch(url + '/v1/kv?all=true', {method: 'DELETE'}).catch(() => null);
  await fetch(url + '/keys', {method: 'DELETE'}).catch(() => null);
}
"""
"""What a page can send without asking, or by asking, to change the store."""

READING = """
async url => {
  const read = async path => { try { return await (await fetch(url + path)).text(); } catch { return null; } };
  const socket = path => new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws') + path);
    socket.onmessage = event => { done(event.data); socket.close(); };
    socket.onclose = () => done(null);
  });
  const events = new Promise(done => {
    const source = new EventSource(url + '/v1/feed?snapshot=true');
    source.onmessage = event => { done(event.data); source.close(); };
    source.onerror = () => { done(null); source.close(); };
  });
  const shown = name => new Promise(done => {
    const ends = {onload: () => done('shown'), onerror: () => done(null)};
    const element = Object.assign(document.createElement(name), ends);
    element.src = url + '/v1/kv/picture';
    document.body.append(element);
  });
  return {
    key: await read('/v1/kv/precious'), root: await read('/precious'), list: await read('/v1/kv'),
    keys: await read('/keys'), poll: await read('/v1/feed?snapshot=true'),
    socket: await socket('/v1/feed?snapshot=true'), events: await events, image: await shown('img'),
  };
}
"""
"""What a page gets to know; null for what it does not."""

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e36600"
    "00000049454e44ae426082"
)


class Pages:
    """Serves the same empty page under every name, on a port of its own."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port: int = self._server.server_port

    def origin(self, name: str) -> str:
        return f"http://{name}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>a page</title><body></body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Chromium's own guard of local addresses is not what is tried here, and others have none.
    args = ["--host-resolver-rules=MAP *.example 127.0.0.1", "--disable-features=LocalNetworkAccessChecks"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*args, "--no-sandbox", "--no-proxy-server"]
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with contextlib.closing(browser.new_page()) as opened:
        opened.set_default_timeout(30_000)
        yield opened


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    serving = Pages()
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path], pages: Pages) -> Iterator[Server]:
    """A server that lists the pages of a.example."""
    with Server(make_dir("data"), *OPTIONS, "--origins", pages.origin("a.example")) as running:
        yield running


def fill(server: Server) -> dict[str, Any]:
    """Put a few keys there; the store."""
    with server.client() as client:
        client.delete("/v1/kv?all=true").raise_for_status()
        client.put("/v1/kv/precious", content=b"secret").raise_for_status()
        client.put("/v1/kv/kept?ttl=3600", content=b"secret").raise_for_status()
        client.put("/v1/kv/picture", content=PICTURE, headers={"Content-Type": "image/png"}).raise_for_status()
    return store(server)


def store(server: Server) -> dict[str, Any]:
    """All there is, with revisions and expiries."""
    with server.client() as client:
        listed: dict[str, Any] = client.get("/v1/kv?values=true").raise_for_status().json()
    return listed


def sandboxed(page: Page) -> Any:
    """A frame in `page` whose origin is `null`."""
    page.evaluate("""() => new Promise(done => {
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts allow-forms';
        frame.srcdoc = '<!doctype html><body>';
        frame.onload = done;
        document.body.append(frame);
    })""")
    frame = page.frames[-1]
    assert frame.evaluate("() => self.origin") == "null"
    return frame


def attack(page: Any, url: str) -> dict[str, Any]:
    """Have a page read and change what it can; what it got to know."""
    known: dict[str, Any] = page.evaluate(READING, url)
    page.evaluate(SENDING, url)
    return known


@pytest.mark.parametrize("origin", ["evil.example", "null"])
def test_pages_of_other_origins_neither_read_nor_change_anything(
    guarded: Server, pages: Pages, page: Page, origin: str
) -> None:
    before = fill(guarded)
    page.goto(pages.origin("evil.example"))
    known = attack(sandboxed(page) if origin == "null" else page, guarded.url)
    assert known == dict.fromkeys(known)
    assert store(guarded) == before


def test_pages_of_a_listed_origin_use_all_of_it(guarded: Server, pages: Pages, page: Page) -> None:
    fill(guarded)
    page.goto(pages.origin("a.example"))
    known = page.evaluate(READING, guarded.url)
    assert (known["key"], known["root"]) == ("secret", "secret")
    assert all(known[name] and "precious" in known[name] for name in ("list", "keys", "poll", "socket", "events"))
    changed = page.evaluate(
        """async url => {
          const put = await fetch(url + '/v1/kv/theme', {method: 'PUT', body: 'dark', headers: {
            'Cache-Control': 'no-cache', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
            tracestate: 'a=b', 'X-Requested-With': 'XMLHttpRequest', 'X-Request-Id': 'mine', 'If-None-Match': '*'}});
          const batch = await fetch(url + '/v1/batch', {method: 'POST', headers: {'Content-Type': 'application/json'},
            body: JSON.stringify({ops: [{op: 'incr', key: 'n'}]})});
          const untyped = await fetch(url + '/v1/batch', {method: 'POST', body: '{"ops":[]}'});
          return [put.status, put.headers.get('etag'), put.headers.get('x-request-id'), batch.status, untyped.status];
        }""",
        guarded.url,
    )
    with guarded.client() as client:
        theme = client.get("/v1/kv/theme")
    assert changed == [201, theme.headers["etag"], "mine", 200, 415]
    assert theme.content == b"dark"


def test_where_no_origin_is_listed_a_page_sends_no_batch_without_being_asked(
    new_server: Callable[..., Server], pages: Pages, page: Page
) -> None:
    """And else may do everything, as the banner says: so the attack that the tests before this saw fail is one."""
    with new_server(*OPTIONS).start() as server:
        assert "any web page" in server.banner
        fill(server)
        page.goto(pages.origin("evil.example"))
        known = page.evaluate(READING, server.url)
        assert None not in known.values()
        ops = '{"ops":[{"op":"put","key":"batch","value":"x"}]}'
        page.evaluate(
            """async ([url, ops]) => {
              await fetch(url + '/v1/kv/counter?incr=1', {method: 'POST', mode: 'no-cors'});
              for (const body of [ops, new Blob([ops]), new URLSearchParams(ops)])
                await fetch(url + '/v1/batch', {method: 'POST', mode: 'no-cors', body});
            }""",
            [server.url, ops],
        )
        keys = {item["key"] for item in store(server)["items"]}
        assert "counter" in keys and "batch" not in keys
        attack(page, server.url)
        assert store(server)["items"] == []


def test_a_page_whose_name_was_given_the_server_s_address(tmp_path: Path, page: Page) -> None:
    """It is of the server's own origin, so no CORS stands in its way: it came from where the server is now."""
    rebound = Pages()
    port = rebound.port
    page.goto(rebound.origin("evil.example"))
    rebound.close()
    with Server(tmp_path / "data", *OPTIONS, "--port", str(port)) as server:
        before = fill(server)
        answer = page.evaluate("async () => { const answer = await fetch('/v1/kv/precious'); return answer.status; }")
        assert answer == 421
        known = attack(page, "http://evil.example:" + str(port))
        assert not [text for text in known.values() if text is not None and "secret" in text]
        assert known["socket"] is None and known["events"] is None and known["image"] is None
        assert store(server) == before
        assert httpx.get(f"http://localhost:{port}/precious", trust_env=False).content == b"secret"


def test_a_browser_is_led_to_the_pages(guarded: Server, page: Page) -> None:
    for path, place in (("/", "/console/"), ("/docs", "/docs/"), ("/console", "/console/")):
        page.goto(guarded.url + path)
        assert page.url.partition("#")[0] == guarded.url + place


class Breaking:
    """Answers the third of those who ask for `/events`; the connections of those before end without a byte, by an end
    of the stream and by a reset: so a gateway's do that dies when it has taken a client over."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.asked = 0

    def run(self) -> None:
        """Until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = connection.recv(1 << 16)
        kind = b"text/html"
        if head.startswith(b"GET /events"):
            self.asked += 1
            if self.asked < 3:
                linger = struct.pack("ii", self.asked == 2, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            kind = b"text/event-stream"
        elif not head:
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n\r\ndata: there\n\n" % kind)


def test_eventsource_comes_again_where_nothing_was_answered(browser: Browser) -> None:
    """Chromium takes that for a network error, after which the connection is reestablished (HTML, 9.2.3)."""
    server = Breaking()
    thread = Thread(target=server.run)
    thread.start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        told = page.evaluate(
            """() => new Promise(done => {
                const states = [], source = new EventSource('/events');
                source.onerror = () => {
                    states.push(source.readyState);
                    if (source.readyState === EventSource.CLOSED) done(states);
                };
                source.onmessage = event => { source.close(); done([...states, event.data]); };
            })"""
        )
        page.close()
        assert told == [0, 0, "there"], "0: it connects again"
        assert server.asked == 3
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()
