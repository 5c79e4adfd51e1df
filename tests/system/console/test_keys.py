"""The keys as a tree: live, at any size, of whatever they are called."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.system.console.conftest import Open
from tests.system.harness import Server


def test_two_browsers_see_each_other_s_changes(server: Server, open_console: Open) -> None:
    one, other = open_console(server), open_console(server)
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
