"""The keys as a tree: live, at any size, of whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from playwright.sync_api import expect

from tests.system.console.conftest import Open
from tests.system.harness import Server, wait_for

MANY = 100_000
BATCH = 10_000
MARK, NAMED_MARK = "\u202e", "\u2039U+202E\u203a"
"""A mark that turns the direction of writing, and what is shown of it."""
HOSTILE = {
    "hostile/<img src=x onerror=alert(1)>": "<img src=x onerror=alert(2)>",
    "hostile/\"'`${alert(3)}": "</pre><script>alert(4)</script>",
    "hostile/\u202egnp.exe": "\u202eright to left",
    "hostile/" + "k" * 503: "long",
    "hostile/..": "dots",
    "hostile/%2F?#&": "marks",
    "__proto__": "of every object",
    "constructor": "too",
    "/leads": "slash before",
    "trails/": "slash behind",
    "hostile/empty": "",
}


def load(server: Server, pairs: dict[str, str]) -> None:
    with server.client(60) as client:
        names = list(pairs)
        for start in range(0, len(names), BATCH):
            ops = [{"op": "put", "key": key, "value": pairs[key].encode()} for key in names[start : start + BATCH]]
            headers = {"Content-Type": "application/vnd.msgpack"}
            body = msgspec.msgpack.encode({"ops": ops})
            client.post("/v1/batch", content=body, headers=headers).raise_for_status()


def place(key: str) -> str:
    return f"#/key/{quote(key, safe='')}"


@pytest.fixture(autouse=True)
def emptied(server: Server) -> None:
    with server.client(60) as client:
        client.delete("/v1/kv", params={"all": "true"}).raise_for_status()


def test_two_browsers_see_each_other_s_changes(server: Server, open_console: Open) -> None:
    one, other = open_console(server), open_console(server)
    expect(one.locator(".browse .told")).to_have_text("The store is empty.")
    one.get_by_role("button", name="New key", exact=True).click()
    one.get_by_label("Key", exact=True).fill("pair/first")
    one.get_by_label("Value", exact=True).fill("hello")
    one.get_by_role("button", name="Create").click()
    expect(one.locator("pre.value")).to_have_text("hello")
    other.get_by_role("treeitem", name="pair/").click()
    other.get_by_role("treeitem", name="first").click()
    expect(other.locator("pre.value")).to_have_text("hello")
    other.get_by_role("button", name="Edit").click()
    other.get_by_label("Value", exact=True).fill("changed")
    other.get_by_role("button", name="Save").click()
    expect(one.locator("pre.value")).to_have_text("changed")
    one.get_by_role("button", name="Delete …").click()
    one.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(other.locator(".notice")).to_have_text("It was deleted.")
    expect(other.get_by_role("treeitem", name="pair/")).to_have_count(0)
    one.get_by_role("button", name="Put it back").click()
    expect(other.locator("pre.value")).to_have_text("changed")
    expect(other.get_by_role("treeitem", name="pair/")).to_have_count(1)


def test_a_folder_of_a_hundred_thousand_keys_opens_and_scrolls(server: Server, open_console: Open) -> None:
    load(server, {f"many/{at:06}": "x" for at in range(MANY)} | {"other": "y"})
    page, asked = open_console(server), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("treeitem", name="many/").click()
    expect(page.get_by_role("treeitem", name="000000")).to_be_visible()
    expect(page.locator(".entry")).to_contain_text("100,000 keys below this folder")
    lists = [url for url in asked if "delimiter=" in url]
    assert len(lists) == 1, "one page, until somebody scrolls"
    tree = page.locator(".tree")
    for _ in range(5):
        before = tree.evaluate("box => box.scrollHeight")
        tree.evaluate("box => { box.scrollTop = box.scrollHeight; }")
        wait_for(lambda before=before: tree.evaluate("box => box.scrollHeight") > before, "the next page")
    assert tree.locator(".row").count() < 80
    load(server, {"many/000000a": "new"})
    tree.evaluate("box => { box.scrollTop = 0; }")
    expect(page.get_by_role("treeitem", name="000000a")).to_be_visible()
    page.get_by_role("searchbox", name="Find keys").fill("many/0999")
    expect(page.get_by_role("treeitem", name="099900")).to_be_visible()
    expect(page.locator(".browse .told")).to_have_text("100 keys")


def test_folders_in_sight_are_counted_up_to_a_bound(server: Server, open_console: Open) -> None:
    load(server, {f"many/{at:05}/x": "x" for at in range(1001)} | {f"full/{at:04}": "x" for at in range(1000)})
    load(server, {"few/a": "x", "few/deep/b": "x", "other": "y"})
    page, asked = open_console(server), list[str]()
    for folder, count in (("many/", "1,000+"), ("full/", "1,000"), ("few/", "2")):
        row = page.get_by_role("treeitem", name=folder, exact=True)
        expect(row.locator(".size")).to_have_text(count)
    page.on("request", lambda request: asked.append(request.url))
    row = page.get_by_role("treeitem", name="few/", exact=True)
    expect(row).to_have_attribute("aria-description", "2 keys")
    load(server, {"few/c": "x"})
    expect(row.locator(".size")).to_have_text("3")
    page.get_by_role("treeitem", name="many/").locator(".twist").click()
    expect(page.get_by_role("treeitem", name="00000/", exact=True).locator(".size")).to_have_text("1")
    page.wait_for_load_state("networkidle")
    counted = [url for url in asked if "/v1/kv?" in url and "delimiter=" not in url]
    assert all("limit=1000" in url and "values=true" not in url for url in counted)
    assert len(counted) < 60, "only those in sight"


def test_keys_and_values_are_text_whatever_they_are(server: Server, open_console: Open) -> None:
    load(server, HOSTILE)
    page = open_console(server)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for folder in ("hostile/", "/", "trails/"):
        page.get_by_role("treeitem", name=folder, exact=True).locator(".twist").click()
    expect(page.get_by_role("treeitem", name="leads")).to_be_visible()
    expect(page.get_by_role("treeitem", name="(empty name)")).to_be_visible()
    expect(page.get_by_role("treeitem", name=f"{NAMED_MARK}gnp.exe")).to_be_visible()
    for key, value in HOSTILE.items():
        page.goto(f"{server.url}/console/{place(key)}")
        expect(page.locator(".entry h2")).to_have_text(key.replace(MARK, NAMED_MARK))
        shown = page.locator("pre.value" if value else ".entry .hint")
        expect(shown).to_have_text(value.replace(MARK, NAMED_MARK) or "The value is empty.")
    assert page.locator("main img, main script").count() == 0


def test_a_prefix_delete_wants_the_prefix_typed(server: Server, open_console: Open) -> None:
    load(server, {f"gone/{at:02}": "x" for at in range(30)} | {"stays": "y", "gone": "a key"})
    page = open_console(server, "#/folder/gone%2F")
    page.get_by_role("button", name="Delete all below …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("status")).to_have_text("This would delete 30 keys, the first 10 of them:")
    expect(dialog.locator("li")).to_have_count(10)
    for wrong in ("", "gone", "Gone/", "gone/ "):
        dialog.get_by_label("Type the prefix to confirm").fill(wrong)
        dialog.get_by_role("button", name="Delete").click()
        expect(dialog.get_by_role("status")).to_contain_text("Nothing was deleted")
    with server.client() as client:
        assert client.get("/v1/kv", params={"count": "true"}).json() == {"count": 32}
    dialog.get_by_label("Type the prefix to confirm").fill("gone/")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("status")).to_have_text("30 keys deleted.")
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_role("treeitem", name="gone/", exact=True)).to_have_count(0)
    expect(page.get_by_role("treeitem", name="stays")).to_be_visible()
    with server.client() as client:
        assert client.get("/v1/kv", params={"count": "true"}).json() == {"count": 2}


def test_keys_are_found_by_what_is_in_their_names(server: Server, open_console: Open) -> None:
    load(server, {f"deep/{at // 100}/{at:05}": "x" for at in range(5000)})
    page = open_console(server)
    page.get_by_label("Keys that", exact=True).select_option("contain")
    page.get_by_role("searchbox", name="Find keys").fill("/0444")
    expect(page.locator(".browse .told")).to_have_text("10 keys found in 5,000.")
    expect(page.get_by_role("treeitem")).to_have_count(10)
    load(server, {"late/04440": "x", "late/other": "x"})
    expect(page.get_by_role("treeitem", name="late/04440")).to_be_visible()
    expect(page.get_by_role("treeitem", name="late/other")).to_have_count(0)
    page.get_by_role("searchbox", name="Find keys").fill("e")
    expect(page.locator(".browse .told")).to_contain_text("500 keys found")
    expect(page.locator(".browse .told")).to_contain_text("narrow the search")


def test_by_keyboard_alone(server: Server, open_console: Open) -> None:
    load(server, {"a/one": "1", "a/two": "2", "b": "3"})
    page = open_console(server, width=360)
    expect(page.get_by_role("treeitem", name="b")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.press("Enter")
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.get_by_role("treeitem", name="two")).to_be_visible()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("pre.value")).to_have_text("2")
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("two")
    page.keyboard.press("Control+s")
    expect(page.locator("pre.value")).to_have_text("two")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.type("gf")
    expect(page.get_by_role("link", name="Feed", exact=True)).to_have_attribute("aria-current", "page")


def test_changes_between_the_first_page_and_the_feed_are_not_missed(
    make_dir: Callable[[str], Path], open_console: Open
) -> None:
    """The gateway is held up, so the keys are shown before the feed is there, and again after it."""
    with Server(make_dir("data"), "--in-memory", "--shards", "1", "--workers", "1") as server:
        page = open_console(server)
        held: list[Callable[[], object]] = []
        page.route_web_socket("**/v1/feed*", lambda socket: held.append(socket.connect_to_server))
        page.reload()
        expect(page.locator(".browse .told")).to_have_text("The store is empty.")
        load(server, {"meanwhile": "x"})
        page.wait_for_timeout(300)
        assert page.get_by_role("treeitem").count() == 0
        for each in held:
            each()
        expect(page.get_by_role("treeitem", name="meanwhile")).to_be_visible()
