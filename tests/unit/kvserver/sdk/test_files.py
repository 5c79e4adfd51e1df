"""The table of the files that the server hands out: each is there, and is what it is said to be."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import PurePath

import pytest

from kvserver.sdk.files import FILES, HOME, SdkFile, read_files


@pytest.mark.parametrize("file", FILES.values(), ids=lambda file: file.place)
def test_each_file_is_there(file: SdkFile) -> None:
    """Also in a checkout: none is made by a build."""
    assert (HOME / file.place).is_file()
    assert file.read().decode().strip(), "it is text"
    assert file.media_type == ("text/javascript" if file.name.endswith(".js") else "text/plain") + "; charset=utf-8"


def test_they_ship_in_the_wheel() -> None:
    """hatchling takes every file below a package that `.gitignore` and `exclude` do not name."""
    root = HOME.parents[1]
    configured = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "kvserver" in configured["packages"]
    left_out = [*(root / ".gitignore").read_text().split(), *configured.get("exclude", ())]
    for file in FILES.values():
        path = PurePath("kvserver/sdk", file.place)
        assert not any(fnmatch(str(each), pattern.strip("/")) for pattern in left_out for each in (path, *path.parents))
        assert not any(fnmatch(part, pattern.strip("/")) for pattern in left_out for part in path.parts)


def test_they_are_known_by_their_names() -> None:
    assert {file.name for file in FILES.values()} == set(FILES) == set(read_files())
    assert all(file.place.endswith("/" + name) for name, file in FILES.items())


def test_a_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = FILES["client.js"]._replace(place="js/lost.js")
    monkeypatch.setitem(FILES, "lost.js", lost)
    with pytest.raises(FileNotFoundError, match=r"js/lost\.js"):
        read_files()
