"""The pages of the manual: all of them, in one order, each with its way to the others."""

from __future__ import annotations

import re

import pytest

from kvserver.description.html.manual import START, Manual, address
from kvserver.http import routes
from tests.unit.kvserver.description.html.pages import CHAPTERS, MANUAL, SOURCES


def test_the_start_lists_every_chapter_once_by_its_title() -> None:
    assert sorted([START, *(entry.name for entry in MANUAL.entries)]) == CHAPTERS
    for entry in MANUAL.entries:
        assert (entry.group != "", MANUAL.read_chapter(entry.name).title) == (True, entry.title)


def test_no_chapter_hides_behind_another_page() -> None:
    assert not {address(name) for name in CHAPTERS} & {routes.REFERENCE, routes.SEARCH, routes.ERRORS.rstrip("/")}
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in CHAPTERS)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_page_shows_its_place(name: str) -> None:
    page = MANUAL.render(name)
    menu = page[page.index("<details") : page.index("</details>")]
    current = re.findall('<a href="([^"]+)" aria-current="page">', menu)
    assert current == ([] if name == START else [address(name)])
    for section in MANUAL.read_chapter(name).sections:
        if section.level == 2 and name != START:
            assert f'href="#{section.anchor}"' in menu
    assert f'id="{MANUAL.read_chapter(name).sections[-1].anchor}"' in page or len(SOURCES[name].split("\n## ")) == 1


def test_neighbours_lead_through_all_chapters() -> None:
    seen, at = [], routes.DOCS
    while at:
        name = at.removeprefix(routes.DOCS) or START
        before = re.findall('rel="prev" href="([^"]+)"', MANUAL.render(name))
        assert before == [address(each) for each in seen[-1:]]
        seen.append(name)
        at = "".join(re.findall('rel="next" href="([^"]+)"', MANUAL.render(name)))
    assert seen == [START, *(entry.name for entry in MANUAL.entries)]


def test_a_chapter_that_is_not_listed_has_a_page_without_neighbours() -> None:
    manual = Manual({START: "# M\n\n## G\n\n- [A](a.md)\n", "a": "# A\n", "b": "# B\n"})
    assert "b" in manual and "c" not in manual
    assert "neighbours" not in re.sub("<style>.*?</style>", "", manual.render("b"), flags=re.DOTALL)
    with pytest.raises(KeyError):
        manual.render("c")
