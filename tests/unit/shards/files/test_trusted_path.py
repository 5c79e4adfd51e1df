"""On the way to a file nothing may be that another user can have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.files.safe_files import open_named
from shards.files.trusted_path import Care, Planted, resolve_path
from tests.unit.shards.files.tools import AS_ROOT, OTHER, write


def test_links_in_a_circle_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "a")


def test_what_is_resolved_has_no_link_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "l").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "m").symlink_to("b")
    monkeypatch.chdir(tmp_path / "a")
    for path in ("../l/m/new", "m/new", "./b/../b/new", "/proc/self/cwd/b/new"):
        for care in (Care.READ, Care.WRITE):
            assert resolve_path(Path(path), care) == tmp_path / "a" / "b" / "new"


SAYS = {
    "link": r"is a link that belongs to the user with id 12345: name .* itself",
    "directory": "belongs to the user with id 12345, who can put another file in its place: name one in a directory of",
    "everybody": "others can write in .*, and put another file in its place: chmod o-w",
}


@AS_ROOT
@pytest.mark.parametrize("harm", SAYS)
def test_a_link_that_another_user_may_have_made_is_not_followed(tmp_path: Path, harm: str) -> None:
    victim, directory = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    directory.mkdir()
    for link, to in ((directory / "file", victim), (directory / "way", tmp_path)):
        link.symlink_to(to)
        if harm == "link":
            os.chown(link, OTHER, OTHER, follow_symlinks=False)
    if harm == "directory":
        os.chown(directory, OTHER, OTHER)
    elif harm == "everybody":
        directory.chmod(0o777)
    for path in (directory / "file", directory / "way" / "victim", directory / "way" / "new"):
        with pytest.raises(Planted, match=SAYS[harm]):
            write(path)
        with pytest.raises(Planted, match=r"is a link.*: name .* itself"):
            open_named(path, Care.READ)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    directory.chmod(0o1777)  # as /tmp is
    if harm == "everybody":
        write(directory / "file")
        assert victim.read_text() == "new\n"


@AS_ROOT
@pytest.mark.parametrize("harm", ["directory", "everybody", "nobody"])
def test_nothing_is_written_where_others_could_put_another_in_its_place(tmp_path: Path, harm: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if harm == "everybody":
        theirs.chmod(0o777)
    else:
        os.chown(theirs, OTHER if harm == "directory" else 65534, -1)
    for path in (theirs / "file", theirs / "deeper" / "file"):
        with pytest.raises(Planted, match="in its place"):
            write(path)
    assert list(theirs.iterdir()) == []


@AS_ROOT
def test_a_sticky_directory_is_good_for_what_is_ours_or_new(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    write(shared / "new")
    write(shared / "new", "again\n")
    (shared / "link").symlink_to(shared / "new")
    write(shared / "link", "by our own link\n")
    with open_named(shared / "link", Care.READ) as file:
        assert file.read() == b"by our own link\n"
    os.chown(shared / "new", OTHER, OTHER)
    with pytest.raises(Planted, match=r"new belongs to the user with id 12345"):
        write(shared / "new")
    with open_named(shared / "new", Care.READ) as file:  # a file of theirs may be read, it is no link
        assert file.read() == b"by our own link\n"


def test_a_group_may_write_where_it_is_only_written(tmp_path: Path) -> None:
    """As with umask 002, where each user has a group."""
    tmp_path.chmod(0o770)
    write(tmp_path / "file")
    with pytest.raises(Planted, match="others can write in"):
        resolve_path(tmp_path / "file", Care.RELY)
