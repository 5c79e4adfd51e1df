"""Lists: pages below a client's prefix, one after the other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.client.core import lists
from kvserver.client.core.calls import Answer, Kind
from kvserver.client.core.lists import Pages
from kvserver.client.errors import BadRequest, ForeignAnswer


def answered(document: Any, **headers: str) -> Answer:
    return Answer(200, {"content-type": "application/json"} | headers, json.dumps(document).encode())


def item(key: str) -> dict[str, Any]:
    return {"key": key, "revision": 1, "size": 0, "content_type": "", "expires": None, "value_base64": "/w=="}


def test_a_page_below_a_prefix() -> None:
    call = lists.page("t/", "a", after="b", limit=5, reverse=True, values=True, delimiter=["/", ":"])
    query = "prefix=t%2Fa&after=t%2Fb&reverse=true&values=true&delimiter=%2F&delimiter=%3A&limit=5"
    assert call.target == f"/v1/kv?{query}"
    page = call.read(answered({"items": [item("t/a")], "prefixes": ["t/a/"], "next": "t/a/"}, **{"kv-cursor": "c"}))
    assert ([found.key for found in page.items], page.prefixes, page.next, page.cursor) == (["a"], ["a/"], "a/", "c")
    assert page.items[0].value == b"\xff"


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"items": [], "prefixes": None, "next": None},
        {"items": [item("other")], "prefixes": [], "next": None},
        {"items": [{"key": "t/a"}], "prefixes": [], "next": None},
        {"items": [], "prefixes": [], "next": 5},
    ],
)
def test_what_is_no_page(document: Any) -> None:
    with pytest.raises(ForeignAnswer):
        lists.page("t/").read(answered(document))


@pytest.mark.parametrize(("reverse", "bound"), [(False, "after"), (True, "before")])
def test_pages_follow_each_other(reverse: bool, bound: str) -> None:
    pages = Pages("t/", "p", reverse=reverse)
    for following, cursor in (("t/p1", "first"), ("t/p2", "second"), (None, "third")):
        call = pages.next_call()
        assert call is not None
        pages.add(
            call.read(answered({"items": [item("t/p")], "prefixes": [], "next": following}, **{"kv-cursor": cursor}))
        )
        if following:
            after = pages.next_call()
            assert after is not None and f"{bound}=t%2F{following[2:]}" in after.target
    assert pages.next_call() is None
    assert pages.cursor == "first" and len(pages.items) == 3


def test_a_delete_without_a_cut_is_never_repeated() -> None:
    assert lists.delete_prefix("", "p").kind is Kind.ONCE
    assert lists.delete_prefix("", "p", cut=5).kind is Kind.CONDITIONAL
    assert lists.delete_prefix("", "p", dry_run=True).kind is Kind.READ
    target = lists.delete_prefix("t/", "p", limit=3, all=True, cut=5).target
    assert target == "/v1/kv?prefix=t%2Fp&limit=3&all=true&cut=5"


def test_bounds() -> None:
    with pytest.raises(TypeError):
        lists.page("", limit=True)
    with pytest.raises(BadRequest):
        lists.page("", limit=-1)
