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

from shards.files.locks import open_lock
from shards.files.safe_files import open_named, open_regular, replacing_file, writing_to
from shards.files.trusted_path import Care, Planted
from tests.unit.shards.files.tools import AS_ROOT, OTHER, write


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
from tests.unit.shards.files.tools import write
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


@AS_ROOT
def test_a_fifo_of_another_user_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.chown(tmp_path / "fifo", OTHER, OTHER)
    with pytest.raises(Planted, match="is a FIFO that belongs to the user with id 12345"):
        open_named(tmp_path / "fifo", Care.READ)


def test_a_fifo_of_ours_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_text("came"))
    writer.start()
    with open_named(tmp_path / "fifo", Care.READ) as file:
        assert file.read() == b"came"
    writer.join()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "lock")
    with pytest.raises(OSError, match="not a file"):
        open_lock(tmp_path / "lock")
