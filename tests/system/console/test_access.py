"""Tokens: asked for, kept where the person says, and what they may not do is not offered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from kvserver.access.tokenedit import add_token, change_file, new_token, remove_token
from tests.system.console.conftest import Open
from tests.system.harness import Server

GRANTS = {
    "all": [("", ["read", "write", "feed", "admin"])],
    "reader": [("", ["read", "feed"])],
    "part": [("part/", ["read", "write", "feed"])],
    "blind": [("", ["read", "write"])],
    "gone": [("", ["read", "write", "feed", "admin"])],
}
TOKENS = {name: new_token() for name in GRANTS}


@pytest.fixture(scope="module")
def guarded(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that wants a token, with some keys."""
    file = make_dir("etc") / "tokens.toml"
    for name, grants in GRANTS.items():
        change_file(file, lambda text, name=name, grants=grants: add_token(text, str(file), name, TOKENS[name], grants))
    options = ("--shards", "1", "--workers", "1", "--sync", "os", "--tokens", str(file))
    with Server(make_dir("data"), *options) as running:
        running.token_file = file  # type: ignore[attr-defined]
        with running.client() as client:
            for key in ("part/a", "other"):
                headers = {"Authorization": f"Bearer {TOKENS['all']}", "Content-Type": "text/plain"}
                client.put(f"/v1/kv/{key}", content=key, headers=headers).raise_for_status()
        yield running


def sign_in(page: Page, name: str, keep: bool = False) -> None:
    page.get_by_label("Token", exact=True).fill(TOKENS[name])
    if keep:
        page.get_by_label("Keep it until this tab is closed").check()
    page.keyboard.press("Enter")
    expect(page.locator(".who summary")).to_have_text(name)


def test_a_token_is_asked_for_and_kept_only_if_wished(guarded: Server, open_console: Open) -> None:
    page, asked = open_console(guarded, "#/key/other", is_open=False), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    expect(page.get_by_role("heading", name="This server wants a token")).to_be_visible()
    expect(page.locator(".tabs .words")).to_have_text("a token is needed")
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server does not know this token.")
    sign_in(page, "all")
    expect(page.locator("pre.value")).to_have_text("other")
    expect(page.locator(".tabs .words")).to_have_text("live")
    page.reload()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    sign_in(page, "all", keep=True)
    page.reload()
    expect(page.locator("pre.value")).to_have_text("other")
    page.locator(".who summary").click()
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert not [url for url in asked if TOKENS["all"] in url]


def test_what_a_token_may_not_do_is_not_offered_and_says_why(guarded: Server, open_console: Open) -> None:
    page = open_console(guarded, "#/key/other", is_open=False)
    sign_in(page, "reader")
    expect(page.locator("pre.value")).to_have_text("other")
    for name in ("Edit", "Expiry …", "Delete …", "New key"):
        shown = page.get_by_role("button", name=name, exact=True)
        expect(shown).to_have_attribute("aria-disabled", "true")
        expect(shown).to_have_attribute("title", "The token reader may not change this")
        shown.click(force=True)
    assert page.locator("textarea, dialog").count() == 0
    page.goto(f"{guarded.url}/console/#/folder/part%2F")
    expect(page.get_by_role("button", name="Delete all below …")).to_have_attribute("aria-disabled", "true")


def test_a_token_for_a_part_sees_and_changes_that(guarded: Server, open_console: Open) -> None:
    page = open_console(guarded, is_open=False)
    sign_in(page, "part")
    expect(page.get_by_role("treeitem")).to_have_count(1)
    page.goto(f"{guarded.url}/console/#/key/part%2Fa")
    expect(page.get_by_role("button", name="Edit")).not_to_have_attribute("aria-disabled", "true")
    page.goto(f"{guarded.url}/console/#/key/other")
    expect(page.locator(".notice.bad")).to_contain_text("It cannot be read")
    page.goto(f"{guarded.url}/console/#/status")
    expect(page.locator(".view.status .notice.bad")).to_contain_text("The token part may not")


def test_without_the_right_to_watch_keys_are_shown_nevertheless(guarded: Server, open_console: Open) -> None:
    page = open_console(guarded, is_open=False)
    sign_in(page, "blind")
    expect(page.get_by_role("treeitem", name="other")).to_be_visible()
    expect(page.locator(".tabs .words")).to_have_text("not live: the token may not watch")


def test_a_token_is_revoked_while_the_console_is_open(guarded: Server, open_console: Open) -> None:
    keys, feed = (open_console(guarded, place, is_open=False) for place in ("#/key/other", "#/feed"))
    for page in (keys, feed):
        sign_in(page, "gone", keep=True)
        expect(page.locator(".tabs .words")).to_have_text("live")
    file: Path = guarded.token_file  # type: ignore[attr-defined]
    change_file(file, lambda text: remove_token(text, str(file), "gone"))
    for page in (keys, feed):
        expect(page.get_by_role("alert")).to_have_text("The token is not valid any more.", timeout=20_000)
        expect(page.locator("pre.value, .events .row, .tree .row")).to_have_count(0)
        assert page.evaluate("sessionStorage.length") == 0
    sign_in(keys, "all")
    expect(keys.locator("pre.value")).to_have_text("other")
