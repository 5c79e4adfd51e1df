"""The pages of the API's description hold together, need nothing else, and show everything."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

from kvserver.description.html import elements, reference, sdk
from kvserver.http import routes
from kvserver.sdk.files import FILES
from shards.wire.errors import (
    ERRORS,
)
from tests.unit.kvserver.description.document import DOCUMENT, operations


class Page(HTMLParser):
    """What a page refers to. Fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: Counter[str] = Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.names[tag] += 1
        for name, value in attrs:
            assert value is not None and not name.startswith("on") and name not in ("src", "style")
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def all_pages() -> dict[str, str]:
    shown = {
        routes.REFERENCE: reference.render_overview(DOCUMENT),
        routes.ERRORS: reference.error_list(),
        routes.SDK: sdk.render_libraries(),
    }
    return shown | {routes.ERRORS + code: reference.render_error(DOCUMENT, error) for code, error in ERRORS.items()}


def test_pages_hold_together_and_need_nothing_else() -> None:
    read = {path: Page(text) for path, text in all_pages().items()}
    for path, page in read.items():
        assert len(set(page.ids)) == len(page.ids)
        assert (
            page.names["h1"]
            == page.names["main"]
            == page.names["title"]
            == page.names["style"]
            == page.names["script"]
            == 1
        )
        assert page.names["link"] == page.names["img"] == 0
        assert page.ids[0] == "content"
        for link in page.links:
            where, _, part = link.partition("#")
            assert where in ("", routes.DOCS, routes.OPENAPI, *read, *(routes.SDK + name for name in FILES)), link
            assert not part or part in read[where or path].ids, link
    assert not re.search(r"url\(|@import|https?://(?!localhost:8080)", "".join(all_pages().values()))


def test_the_overview_shows_everything() -> None:
    shown = reference.render_overview(DOCUMENT)
    for _, method, described in operations():
        if method != "head":
            assert elements.render_inline(described["summary"]) in shown
            for parameter in described.get("parameters", ()):
                assert elements.render_inline(parameter["description"]) in shown
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="body-{name}"' in shown
