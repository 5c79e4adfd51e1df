"""The feed: every change counted exactly, shown as it comes, held still while somebody reads."""

from __future__ import annotations

import json
from urllib.parse import quote

from playwright.sync_api import Page, expect

from tests.system.console.conftest import Open
from tests.system.console.test_keys import load
from tests.system.harness import Server

BURST = 20_000
RESPONSIVE = """
() => new Promise(done => {
  let longest = 0, before = performance.now();
  const frame = now => {
    longest = Math.max(longest, now - before);
    before = now;
    if (window.isOver) done(longest); else requestAnimationFrame(frame);
  };
  window.isOver = false;
  requestAnimationFrame(frame);
})
"""


def received(page: Page, count: int) -> None:
    expect(page.locator(".counts .told")).to_have_attribute("data-received", str(count), timeout=30_000)


def ops(page: Page) -> list[str]:
    return page.locator(".events .row:not(.note) .op").all_inner_texts()


def in_order(page: Page) -> list[str]:
    """The rows in sight by where they are, since a row's element stays the same while it moves."""
    rows = page.locator(".events .row").evaluate_all(
        "rows => rows.map(row => [row.getBoundingClientRect().top, row.innerText]).sort(([a], [b]) => a - b)"
    )
    return [text for _, text in rows]


def write_some(server: Server, key: str = "seen/a") -> None:
    path = f"/v1/kv/{quote(key)}"
    with server.client() as client:
        client.put(path, content=b"<b>1", headers={"Content-Type": "text/plain"}).raise_for_status()
        client.put(path, json={"longer": True}).raise_for_status()
        client.post(path, params={"ttl": "0.2"}).raise_for_status()


def test_each_change_is_a_row_with_what_it_did(server: Server, open_console: Open) -> None:
    page = open_console(server, "#/feed")
    write_some(server)
    received(page, 4)
    rows = in_order(page)
    words = [row.split()[1] for row in rows]
    assert words == ["EXPIRE", "TOUCH", "PUT", "PUT"]
    assert '{"longer":true}' in rows[2] and "+11 B" in rows[2] and "json" in rows[2]
    assert "<b>1" in rows[3] and "4 B" in rows[3] and "\u221215 B" in rows[0]
    expect(page.locator(".tick.put .count")).to_have_text("2")
    expect(page.locator(".tick.expire .count")).to_have_text("1")
    page.locator(".tick.put input").uncheck()
    expect(page.locator(".events .row .op.put")).to_have_count(0)
    page.locator(".tick.put input").check()
    page.get_by_label("Text", exact=True).fill("longer")
    expect(page.locator(".events .row:not(.note)")).to_have_count(1)
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_label("as MemoryKV's /wal has it").check()
    expect(page.locator(".events .row .key")).to_have_count(3)
    assert any("Insert { key: seen/a, value: <b>1 }" in row for row in in_order(page))
    page.get_by_label("as MemoryKV's /wal has it").uncheck()
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save as .ndjson").click()
    saved = [json.loads(line) for line in downloading.value.path().read_text().splitlines()]
    assert [(each["op"], each["key"]) for each in saved] == [(op, "seen/a") for op in ("put", "put", "touch", "delete")]
    page.locator(".events").focus()
    page.keyboard.press("Tab")
    load(server, {"seen/b": "x"})
    expect(page.locator(".counts .told")).to_contain_text("Held while a row has the focus: 1 new")
    page.keyboard.press("Enter")
    expect(page.locator(".entry h2")).to_have_text("seen/a")


def test_prefix_and_reads_are_asked_of_the_server(server: Server, open_console: Open) -> None:
    page = open_console(server, "#/feed")
    page.get_by_label("Prefix", exact=True).fill("asked/")
    page.locator(".tick.reads input").check()
    page.wait_for_timeout(600)
    write_some(server, "other/a")
    write_some(server, "asked/a")
    expect(page.locator(".tick.expire .count")).to_have_text("1")
    with server.client() as client:
        client.get("/v1/kv/asked/a")
    expect(page.locator(".events .op.reads")).to_have_count(1)
    assert not [row for row in in_order(page) if "other/a" in row]


def test_rows_stand_still_while_somebody_reads(server: Server, open_console: Open) -> None:
    page = open_console(server, "#/feed")
    load(server, {f"still/{at:03}": "x" for at in range(200)})
    received(page, 200)
    page.get_by_role("button", name="Pause").click()
    load(server, {f"more/{at:03}": "x" for at in range(300)})
    expect(page.locator(".counts .told")).to_have_text("Paused: 300 new. 500 received")
    assert all("still/" in row for row in in_order(page))
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".counts .told")).to_have_text("500 received")
    assert all("more/" in row for row in in_order(page))
    page.locator(".events").evaluate("box => { box.scrollTop = 500; }")
    expect(page.locator(".counts .told")).to_contain_text("Held while you are further down")
    before = in_order(page)
    load(server, {"late": "x"})
    expect(page.locator(".counts .told")).to_contain_text("1 new. 501 received")
    assert [row.split()[2] for row in in_order(page)] == [row.split()[2] for row in before]
    page.locator(".events").evaluate("box => { box.scrollTop = 0; }")
    page.locator(".events").hover()
    load(server, {"later": "x"})
    expect(page.locator(".counts .told")).to_contain_text("Held while the pointer is on it: 1 new")
    page.mouse.move(5, 5)
    expect(page.locator(".counts .told")).to_have_text("502 received")


def test_a_burst_is_counted_to_the_last_change(server: Server, open_console: Open) -> None:
    page = open_console(server, "#/feed")
    page.evaluate(f"() => {{ window.measured = ({RESPONSIVE})(); }}")
    load(server, {f"burst/{at}": "x" * 50 for at in range(BURST)})
    received(page, BURST)
    expect(page.locator(".tick.put .count")).to_have_text(f"{BURST:,}")
    page.evaluate("() => { window.isOver = true; }")
    longest = page.evaluate("() => window.measured")
    assert longest < 3000, "it paints while they come"
    assert page.locator(".events .row").count() < 80
    expect(page.locator(".counts .told")).to_contain_text("the last 10,000 are kept")
    expect(page.locator(".counts span.line")).to_contain_text("/s")


def test_noise_cleans_up_after_itself(server: Server, open_console: Open) -> None:
    page = open_console(server, "#/feed")
    page.get_by_role("button", name="Make some noise").click()
    row = page.locator(".events .row", has_text="bg:")
    expect(row).to_have_count(1)
    page.get_by_role("button", name="Stop the noise").click()
    with server.client() as client:
        (item,) = client.get("/v1/kv", params={"prefix": "bg:"}).json()["items"]
    assert item["expires"] is not None and ":iter:1" in item["key"]
