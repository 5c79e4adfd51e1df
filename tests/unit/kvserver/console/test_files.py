"""The files of the console hold together: what one names is there, and nothing comes from elsewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kvserver.console.files import HOME, MEDIA_TYPES, SECURITY_POLICY, read_files, read_page
from kvserver.description.html.frame import PLACES
from kvserver.sdk.files import FILES

SOURCES = {name: content.decode() for name, (content, _) in read_files().items()}
MODULES = sorted(name for name in SOURCES if name.endswith(".js"))
PAGE = read_page().decode()
MOST_LINES = 400
MOST_BYTES = 143_000
"""Of all files together, before compression."""


def imports(source: str) -> set[str]:
    return set(re.findall(r'^(?:import|export) .*?from "([^"]+)";', source, re.MULTILINE))


def test_every_file_is_handed_out() -> None:
    kept = {path.name for path in HOME.iterdir() if path.suffix not in (".py", ".html") and path.is_file()}
    assert kept == set(SOURCES) and {Path(name).suffix for name in kept} == set(MEDIA_TYPES)


def test_they_ship_in_the_wheel() -> None:
    configured = tomllib.loads((HOME.parents[1] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "kvserver" in configured["wheel"]["packages"]
    assert not [pattern for pattern in configured["wheel"]["exclude"] if "console" in pattern]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_is_there(name: str) -> None:
    for imported in imports(SOURCES[name]):
        where, _, file = imported.rpartition("/")
        assert file in (SOURCES if where == "." else FILES) and where in (".", "/sdk"), imported
    assert SOURCES[name].count("\n") <= MOST_LINES and SOURCES[name].startswith("// ")


def test_every_module_is_used() -> None:
    used = {imported.rpartition("/")[2] for source in SOURCES.values() for imported in imports(source)}
    assert used - {"client.js"} == set(MODULES) - {"app.js"} and 'src="app.js"' in PAGE


def test_nothing_comes_from_elsewhere() -> None:
    for source in (PAGE, *SOURCES.values()):
        addresses = set(re.findall(r"https?://[\w./]+", source))
        assert addresses <= {"http://www.w3.org/2000/svg"}
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(.style", source
        )
    assert " style=" not in PAGE and "<style" not in PAGE and not re.search(r"<script(?! type=\"module\" src=)", PAGE)
    assert "unsafe" not in SECURITY_POLICY and "*" not in SECURITY_POLICY
    assert sum(map(len, (PAGE, *SOURCES.values()))) < MOST_BYTES


def test_the_bar_above_leads_where_that_of_the_other_pages_does() -> None:
    (bar,) = re.findall(r'<nav class="places".*?</nav>', PAGE, re.DOTALL)
    assert re.findall(r'href="([^"]+)"[^>]*>([^<]+)<', bar) == list(PLACES)
    assert all(PAGE.count(f"<{once}") == 1 for once in ("h1", "main", "title"))


def test_another_kind_of_file_is_not_handed_out() -> None:
    assert "index.html" not in SOURCES and not [name for name in SOURCES if name.endswith((".py", ".ts"))]
