"""The page of the client libraries: all files, and a short example of each library."""

from __future__ import annotations

from kvserver.description.html.sdk import LIBRARIES, render_libraries
from kvserver.http import routes
from kvserver.sdk.files import FILES


def test_every_file_is_on_the_page_once() -> None:
    listed = [name for library in LIBRARIES for name in library.files]
    assert sorted(listed) == sorted(FILES)
    page = render_libraries()
    for name in FILES:
        assert page.count(f'href="{routes.SDK}{name}"') == 1


def test_examples_are_five_lines() -> None:
    for library in LIBRARIES:
        assert len(library.example.splitlines()) == 5
        assert max(map(len, library.example.splitlines())) <= 120
