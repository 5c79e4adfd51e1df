"""What tests of pages share: the manual, and what a page refers to."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from kvserver.description.html.manual import Manual

SOURCES = {path.stem: path.read_text() for path in (Path(__file__).parents[5] / "kvserver/manual").glob("*.md")}
CHAPTERS = sorted(SOURCES)
MANUAL = Manual(SOURCES)


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
        if tag not in ("meta", "input", "img", "source"):
            self.open.append(tag)
        self.names[tag] += 1
        for name, value in attrs:
            assert (value is None) == (name == "hidden") and not name.startswith("on") and name != "style"
            assert name not in ("src", "srcset") or str(value).startswith("/docs/pictures/")
            if value is not None and name == "id":
                self.ids.append(value)
            if value is not None and name == "href":
                self.links.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
