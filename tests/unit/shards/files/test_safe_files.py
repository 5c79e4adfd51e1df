"""Files that are written where a person said so, and what may lie in wait there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.files.safe_files import open_named, open_regular, replacing_file, writing_to
from shards.files.trusted_path import Care, Planted, resolve_path

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
OTHER = 12345


def write(path: Path, text: str = "new\n") -> None:
    with writing_to(path) as file:
        file.write(text.encode())


def test_a_file_is_replaced_whole_and_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as reader:
        write(path)
        assert reader.read() == "old"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), writing_to(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255))
    assert (tmp_path / ("n" * 255)).read_text() == "new\n"


def test_an_own_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/../there/file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new\n"


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


def test_what_is_read_may_be_a_pipe_and_no_directory(tmp_path: Path) -> None:
    read, written = os.pipe()
    os.write(written, b"x")
    os.close(written)
    with open_named(Path(f"/dev/fd/{read}"), Care.READ) as file:
        assert file.read() == b"x"
    os.close(read)
    with pytest.raises(OSError, match="it is a directory, not a file"):
        open_named(tmp_path, Care.READ)


@AS_ROOT
def test_a_fifo_that_another_user_made_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.chown(tmp_path / "fifo", OTHER, OTHER)
    with pytest.raises(Planted, match="a FIFO that belongs to the user with id 12345"):
        write(tmp_path / "fifo")


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_text()))
    reader.start()
    write(tmp_path / "fifo")
    reader.join(20)
    assert read == ["new\n"]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"))
    with pytest.raises(OSError, match="it is a directory, not a file"):
        write(tmp_path)


NAMES = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "link"]
CODE = """
import sys
from pathlib import Path
from tests.unit.shards.files.test_safe_files import write
write(Path(sys.argv[1]))
"""


def run(name: str, tmp_path: Path, mode: str) -> str:
    """Write to standard output by the name `name`: a file that has lines and gets more."""
    link = tmp_path / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("/dev/stdout")
    path = tmp_path / "all"
    with path.open(mode) as file:
        file.write("before\n")
        file.flush()
        subprocess.run([sys.executable, "-c", CODE, link if name == "link" else name], stdout=file, check=True)
        file.seek(0, os.SEEK_END)
        file.write("behind\n")
    return path.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_standard_output_is_written_to_by_whatever_name(tmp_path: Path, name: str) -> None:
    assert run(name, tmp_path, "w") == "before\nnew\nbehind\n"
    assert run(name, tmp_path, "a") == "before\nnew\nbehind\n" * 2


@pytest.mark.parametrize("name", [*NAMES, "/dev/fd/2"])
def test_a_pipe_is_written_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "link" if name == "link" else name], capture_output=True, check=True
    )
    assert done.stdout + done.stderr == b"new\n"


def test_what_another_process_has_open_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "file").open("a") as file:
        file.write("before\n")
        file.flush()
        code = "import sys; print(flush=True); sys.stdin.read()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file.fileno()]
        )
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            write(Path(f"/proc/{holder.pid}/fd/{file.fileno()}"))
            holder.kill()
    assert (tmp_path / "file").read_text() == "before\nnew\n"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_came_meanwhile_is_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match="not a file"), replacing_file(path) as file:
        file.write(b"x")
        make(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_files_are_opened_to_be_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "it")
    with pytest.raises(OSError, match="not a file"):
        open_regular(tmp_path / "it")
