"""The pages of the API's description hold together, need nothing else, and show everything."""

from __future__ import annotations

import re

from kvserver.description.html import elements, reference, sdk
from kvserver.description.html.manual import address
from kvserver.http import routes
from kvserver.sdk.files import FILES
from shards.wire.errors import (
    ERRORS,
)
from tests.unit.kvserver.description.document import DOCUMENT, operations
from tests.unit.kvserver.description.html.pages import CHAPTERS, MANUAL, Page

MANUAL_PATHS = [address(name) for name in CHAPTERS]


def all_pages() -> dict[str, str]:
    shown = {
        routes.REFERENCE: reference.render_overview(DOCUMENT),
        routes.ERRORS: reference.error_list(),
        routes.SDK: sdk.render_libraries(),
    }
    shown |= {address(name): MANUAL.render(name) for name in CHAPTERS}
    return shown | {routes.ERRORS + code: reference.render_error(DOCUMENT, error) for code, error in ERRORS.items()}


def test_pages_hold_together_and_need_nothing_else() -> None:
    read = {path: Page(text) for path, text in all_pages().items()}
    for path, page in read.items():
        assert len(set(page.ids)) == len(page.ids)
        assert all(page.names[once] == 1 for once in ("h1", "main", "title", "style", "script"))
        assert page.names["link"] == 0 and (page.names["img"] == 0 or path in MANUAL_PATHS)
        assert page.ids[0] == "content"
        for link in page.links:
            if link.startswith("https://") and path in MANUAL_PATHS:
                continue
            where, _, part = link.partition("#")
            others = (routes.SEARCH, routes.OPENAPI, routes.CONSOLE, *(routes.SDK + name for name in FILES))
            assert where in ("", *read, *others), link
            assert not part or part in read[where or path].ids, link
    assert not re.search(r"url\(|@import", "".join(all_pages().values()))
    rest = "".join(text for path, text in all_pages().items() if path not in MANUAL_PATHS)
    assert not re.search(r"https?://(?!localhost:8080)", rest)


def test_the_overview_shows_everything() -> None:
    shown = reference.render_overview(DOCUMENT)
    for _, method, described in operations():
        if method != "head":
            assert elements.render_inline(described["summary"]) in shown
            for parameter in described.get("parameters", ()):
                assert elements.render_inline(parameter["description"]) in shown
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="body-{name}"' in shown
