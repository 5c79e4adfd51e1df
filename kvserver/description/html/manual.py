"""The manual as HTML pages: its start and its chapters. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from kvserver.description.html.elements import link
from kvserver.description.html.frame import render_navigation, render_page
from kvserver.description.html.markdown import Chapter, Entry, list_chapters, render_chapter
from kvserver.http.routes import DOCS

START: Final = "index"
"""The chapter that lists the others, and gives them their order."""


class Manual:
    """The chapters, each rendered when it is first wanted and kept for good."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """`sources`: the Markdown of every chapter, by name."""
        self._sources = sources
        self._entries = list_chapters(sources[START])
        self._chapters: dict[str, Chapter] = {}
        self._pages: dict[str, str] = {}

    @property
    def entries(self) -> list[Entry]:
        """The chapters that the start lists, in its order."""
        return self._entries

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    def read_chapter(self, name: str) -> Chapter:
        """Return the chapter of that name. Raises `KeyError`."""
        if name not in self._chapters:
            self._chapters[name] = render_chapter(self._sources[name], DOCS)
        return self._chapters[name]

    def render(self, name: str) -> str:
        """Render the page of a chapter. Raises `KeyError`."""
        if name not in self._pages:
            chapter = self.read_chapter(name)
            navigation = render_navigation(self._list_groups(name), "Chapters")
            content = f'<div class="chapter">{chapter.content}</div>{self._render_neighbours(name)}'
            self._pages[name] = render_page(DOCS, chapter.title, "", navigation, content)
        return self._pages[name]

    def render_missing(self) -> str:
        """Render the page that stands for a chapter that there is not."""
        told = f"<p>The manual has no such chapter. Choose one, or search; {link(DOCS, 'the start')} lists all.</p>"
        return render_page(DOCS, "Not here", "", render_navigation(self._list_groups(START), "Chapters"), told)

    def _list_groups(self, current: str) -> Iterator[tuple[str, list[str]]]:
        groups: dict[str, list[str]] = {}
        for entry in self._entries:
            groups.setdefault(entry.group, []).append(self._render_entry(entry, current))
        yield from groups.items()

    def _render_entry(self, entry: Entry, current: str) -> str:
        """Render the link to a chapter; below the current one those to its parts."""
        if entry.name != current:
            return link(address(entry.name), escape(entry.title))
        parts = "".join(
            f"<li>{link(f'#{section.anchor}', escape(section.heading))}</li>"
            for section in self.read_chapter(current).sections
            if section.level == 2
        )
        shown = f'<a href="{address(current)}" aria-current="page">{escape(entry.title)}</a>'
        return shown + (f"<ul>{parts}</ul>" if parts else "")

    def _render_neighbours(self, name: str) -> str:
        """Render links to the chapters before and after."""
        names = [START, *(entry.name for entry in self._entries)]
        if name not in names:
            return ""
        place = names.index(name)
        shown = [
            f'<a rel="{relation}" href="{address(names[at])}"><span>{word}</span> '
            f"{escape(self.read_chapter(names[at]).title)}</a>"
            for relation, word, at in (("prev", "Before", place - 1), ("next", "Next", place + 1))
            if 0 <= at < len(names)
        ]
        return f'<nav class="neighbours" aria-label="Neighbouring chapters">{"".join(shown)}</nav>'


def address(name: str) -> str:
    """Return the path of the page of a chapter."""
    return DOCS if name == START else DOCS + name
