"""Whose word a file is: modes, owners, links and mounts on the way to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.access.trust import Untrusted, check_file, resolve_trusted

OTHER = 12345


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """In a directory of its own, in another."""
    path = tmp_path / "outer" / "inner" / "file"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    path.chmod(0o600)
    return path


def trusted(path: Path) -> bool:
    """Whether it is relied on. What is said otherwise names a way out."""
    try:
        real = resolve_trusted(path)
        check_file(real, real.lstat())
    except Untrusted as error:
        assert re.search("chmod go-w /|chown [a-z0-9]+ /|keep it in a directory of your own: mkdir", str(error)), error
        return False
    return True


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")


def test_what_is_ours_is_relied_on(file: Path) -> None:
    assert trusted(file)
    assert resolve_trusted(file) == file
    file.chmod(0o644)
    file.parent.chmod(0o755)
    assert trusted(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(Untrusted, match=f"chmod go-w {file}"):
        check_file(file, file.lstat())


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o1770])
@pytest.mark.parametrize("missing", [False, True])
def test_a_directory_that_others_can_write(file: Path, mode: int, missing: bool) -> None:
    """With the sticky bit as well: they could be there first when the file is gone for a moment."""
    file.parent.chmod(mode)
    assert not trusted(file.with_name("new") if missing else file)


@pytest.mark.parametrize(("mode", "sound"), [(0o770, False), (0o777, False), (0o1777, True)])
def test_a_directory_further_up(file: Path, mode: int, sound: bool) -> None:
    """There the sticky bit helps, because ours is there already."""
    file.parent.parent.chmod(mode)
    assert trusted(file) == sound


@pytest.mark.parametrize("whose", [lambda file: file, lambda file: file.parent, lambda file: file.parent.parent])
def test_what_belongs_to_another(file: Path, whose: Callable[[Path], Path]) -> None:
    needs_root()
    os.chown(whose(file), OTHER, OTHER)
    assert not trusted(file)
    file.parent.parent.chmod(0o1777)
    assert not trusted(file)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(Untrusted, match="no regular file"):
            check_file(path, path.lstat())
    with pytest.raises(IsADirectoryError):
        resolve_trusted(Path("/"))


@pytest.mark.parametrize("target", ["inner/file", "../outer/./inner/file", None])
def test_links_of_ours_are_followed(file: Path, target: str | None) -> None:
    link = file.parent.parent / "link"
    link.symlink_to(target or file)
    assert resolve_trusted(link) == file
    (file.parent.parent / "again").symlink_to("link")
    assert resolve_trusted(file.parent.parent / "again") == file
    (file.parent.parent / "directory").symlink_to("inner")
    assert resolve_trusted(file.parent.parent / "directory" / "file") == file


def test_a_link_in_a_directory_of_others_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Wherever it leads to, and at whichever place of the path it stands."""
    for mode in (0o777, 0o1777):
        shared = tmp_path / f"shared-{mode:o}"
        shared.mkdir()
        (shared / "file").symlink_to(file)
        (shared / "directory").symlink_to(file.parent)
        (tmp_path / f"detour-{mode:o}").symlink_to(f"shared-{mode:o}/file")
        shared.chmod(mode)
        if os.geteuid() == 0:
            for name in ("file", "directory"):
                os.chown(shared / name, OTHER, OTHER, follow_symlinks=False)
        elif mode & 0o1000:
            continue  # our own link in a sticky directory is as good as a directory of ours there
        for path in (shared / "file", shared / "directory" / "file", tmp_path / f"detour-{mode:o}"):
            assert not trusted(path), path


def test_a_link_that_leads_nowhere_or_in_circles(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="levels of symbolic links"):
        resolve_trusted(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to("missing/file")
    with pytest.raises(FileNotFoundError):
        resolve_trusted(tmp_path / "nowhere")
    (tmp_path / "new").symlink_to("target")
    assert resolve_trusted(tmp_path / "new") == tmp_path / "target"


MOUNTED = """
import os, sys
from pathlib import Path
from kvserver.access import trust
os.chmod(sys.argv[1], 0o777)
file = Path(sys.argv[1]) / "..data" / "file"
try:
    trust.resolve_trusted(file)
except trust.Untrusted:
    pass
else:
    sys.exit("it was relied on while others could write")
if os.system(f"mount -o remount,ro,bind {sys.argv[1]}") != 0:
    sys.exit(77)
real = trust.resolve_trusted(file)
trust.check_file(real, real.lstat())
"""


def test_where_nobody_can_write_modes_do_not_matter(tmp_path: Path) -> None:
    """A ConfigMap of Kubernetes: a directory of root's with mode 0777, mounted read-only."""
    needs_root()
    volume = tmp_path / "volume"
    (volume / "..1").mkdir(parents=True)
    (volume / "..1" / "file").write_text("x")
    (volume / "..1").chmod(0o755)
    (volume / "..data").symlink_to("..1")
    command = f'mount --bind "{volume}" "{volume}" && exec "{sys.executable}" -c "$0" "{volume}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", command, MOUNTED], capture_output=True, text=True)
    if done.returncode in (1, 32, 77) and "mount" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
