"""Values as they are shown and changed: byte for byte, and never over what somebody else stored."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.system.console.conftest import Open
from tests.system.console.test_keys import place
from tests.system.harness import Server

JSON = '{"n":0.10000000000000000001,"big":123456789012345678901,"s":"\\u00e9"}'
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e36600"
    "00000049454e44ae426082"
)


def put(server: Server, key: str, value: bytes | str, kind: str = "text/plain; charset=utf-8", **query: str) -> str:
    """Store a value; its ETag."""
    headers = {"Content-Type": kind}
    with server.client() as client:
        answer = client.put(f"/v1/kv/{key}", content=value, headers=headers, params=query).raise_for_status()
        return answer.headers["etag"]


def get(server: Server, key: str) -> httpx.Response:
    with server.client() as client:
        return client.get(f"/v1/kv/{key}").raise_for_status()


def edit(page: Page, key: str, text: str) -> None:
    page.get_by_role("button", name="Edit").click()
    page.locator("textarea.value").fill(text)


@pytest.mark.parametrize(
    "text",
    ["a\r\nb\r\n", "a\rb\nc\r\n", "\ufeffa\n", " \n", JSON, "\u0001?", "\n\nlast"],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_saved_unchanged_is_the_same_byte_for_byte(server: Server, open_console: Open, text: str) -> None:
    kind = "application/json" if text == JSON else "text/x-odd; charset=utf-8"
    put(server, "same", text, kind, ttl="3600")
    expires = get(server, "same").headers["kv-expires"]
    page = open_console(server, place("same"))
    before = get(server, "same").headers["etag"]
    page.get_by_role("button", name="Edit").click()
    page.keyboard.press("Control+s")
    expect(page.locator(".said")).to_have_text("Saved.")
    after = get(server, "same")
    assert after.content == text.encode() and after.headers["etag"] != before
    assert (after.headers["content-type"], after.headers["kv-expires"]) == (kind, expires)


def test_json_is_indented_to_look_at_alone(server: Server, open_console: Open) -> None:
    put(server, "json", JSON, "application/json")
    page = open_console(server, place("json"))
    expect(page.locator("pre.value")).to_have_text(JSON)
    page.get_by_role("button", name="Indented").click()
    assert page.locator("pre.value").inner_text().split("\n")[1] == '  "n": 0.10000000000000000001,'
    edit(page, "json", '{"n":')
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".editor .told")).to_contain_text("This is not JSON")
    assert get(server, "json").text == JSON
    page.get_by_role("button", name="Save it anyway").click()
    expect(page.locator(".entry")).to_contain_text("The type says JSON, but it is not")
    assert get(server, "json").text == '{"n":'


def test_images_bytes_and_large_values(server: Server, open_console: Open) -> None:
    put(server, "picture", PICTURE, "image/png")
    put(server, "bytes", bytes(range(256)), "application/octet-stream")
    put(server, "large", b"0123456789" * 500_000, "application/octet-stream")
    page = open_console(server, place("picture"))
    expect(page.locator(".picture img")).to_be_visible()
    assert (
        page.locator(".picture img").evaluate("async image => { await image.decode(); return image.naturalWidth; }")
        == 1
    )
    page.goto(f"{server.url}/console/{place('bytes')}")
    expect(page.locator("pre.hex")).to_contain_text("000010  10 11 12")
    edit(page, "bytes", "ff 00\nzz")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".editor .told")).to_have_text("These are not pairs of hexadecimal digits.")
    page.locator("textarea.value").fill("ff 00\n41")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.hex")).to_contain_text("ff 00 41")
    assert get(server, "bytes").content == b"\xff\x00A"
    page.goto(f"{server.url}/console/{place('large')}")
    expect(page.locator(".entry")).to_contain_text("These are the first 64 KiB of 4.8 MiB")
    assert len(page.locator("pre.value").inner_text()) == 65536
    page.get_by_role("button", name="Edit").click(force=True)
    assert page.locator("textarea").count() == 0 and page.get_by_role("button", name="Edit").get_attribute("title")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download").click()
    assert downloading.value.path().stat().st_size == 5_000_000


def test_what_somebody_else_stored_is_never_overwritten_unseen(server: Server, open_console: Open) -> None:
    put(server, "shared", "one\ntwo\nthree")
    page = open_console(server, place("shared"))
    edit(page, "shared", "one\nmine\nthree")
    put(server, "shared", "one\ntheirs\nthree", "text/markdown")
    conflict = page.get_by_role("alert")
    expect(conflict).to_contain_text("Somebody else changed it.")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(conflict).to_contain_text("Not saved: somebody else changed it")
    expect(conflict.locator("mark")).to_have_text(["mine", "theirs"])
    assert get(server, "shared").text == "one\ntheirs\nthree"
    page.get_by_role("button", name="Keep mine over it, and save").click()
    expect(page.locator("pre.value")).to_have_text("one\nmine\nthree")
    assert get(server, "shared").text == "one\nmine\nthree"
    edit(page, "shared", "lost")
    put(server, "shared", "theirs again")
    page.get_by_role("button", name="Take theirs").click()
    expect(page.locator("pre.value")).to_have_text("theirs again")


def test_a_conflict_is_found_by_the_save_itself(server: Server, open_console: Open) -> None:
    """The feed does not come through here, so the page learns of the change by its own refused write."""
    put(server, "quiet", "old")
    page = open_console(server, place("quiet"))
    page.route_web_socket("**/v1/feed*", lambda _: None)
    page.reload()
    edit(page, "quiet", "mine")
    put(server, "quiet", "theirs")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Not saved: somebody else changed it")
    assert get(server, "quiet").text == "theirs"
    with server.client() as client:
        client.delete("/v1/kv/quiet").raise_for_status()
    page.get_by_role("button", name="Keep mine over it, and save").click()
    expect(page.get_by_role("alert")).to_contain_text("somebody else deleted it")
    page.get_by_role("button", name="Create it again with mine").click()
    expect(page.locator(".said")).to_have_text("Saved.")
    assert get(server, "quiet").text == "mine"


def test_expiry_is_set_shown_and_taken_off(server: Server, open_console: Open) -> None:
    put(server, "brief", "x")
    page = open_console(server, place("brief"))
    expect(page.locator(".facts")).to_contain_text("never")
    page.get_by_role("button", name="Expiry …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("In", exact=True).fill("2")
    dialog.get_by_label("Unit").select_option("minutes")
    dialog.get_by_role("button", name="Set").click()
    expect(page.locator(".facts")).to_contain_text("in 1 min 5")
    page.get_by_role("button", name="Expiry …").click()
    dialog.get_by_role("button", name="Never").click()
    expect(page.locator(".facts")).to_contain_text("never")
    put(server, "brief", "x", ttl="0.5")
    expect(page.locator(".notice")).to_have_text("It expired.")


def test_text_that_is_not_saved_is_not_lost_unasked(server: Server, open_console: Open) -> None:
    put(server, "kept", "old")
    page, asked = open_console(server, place("kept")), list[str]()
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    edit(page, "kept", "new")
    page.get_by_role("link", name="Feed", exact=True).click()
    expect(page.locator("textarea.value")).to_be_visible()
    assert asked == ["Leave without saving?"]
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.value")).to_have_text("new")
    page.get_by_role("link", name="Feed", exact=True).click()
    expect(page.locator(".events")).to_be_visible()
    assert len(asked) == 1


def test_a_new_key_never_overwrites_one(server: Server, open_console: Open) -> None:
    put(server, "taken", "theirs")
    page = open_console(server, "#/new/taken")
    page.get_by_label("Value", exact=True).fill("mine")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".editor .told")).to_contain_text("There is such a key already")
    assert get(server, "taken").text == "theirs"
    page.get_by_label("Key", exact=True).fill("taken/not")
    page.get_by_label("Expires in (empty: never)").fill("90")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".facts")).to_contain_text("in 1 min")
    assert get(server, "taken/not").text == "mine"
