"""What the commands refuse, and how they say it: in this process, on a store that it plays the server of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from kvserver.cli import main
from kvserver.commands.local import backup, check, restore
from kvserver.commands.local.local_store import serving_pid
from kvserver.commands.local.restore import parse_until
from kvserver.serve.store import StoreError, make_data_dir, take_store_lock
from shards.backup.archive import UNFINISHED, Archive, RestoreTarget
from shards.backup.restore import UNFINISHED as RESTORING
from shards.log.manifest import NAME as MANIFEST
from shards.log.manifest import Manifest
from shards.maps.directory.choose import release_maps, usual_places
from shards.maps.directory.ownership import Owner
from tests.api.maps import Run, first_run, put
from tests.stores import Store, new_store


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    error: str


Command = Callable[..., Ended]


@pytest.fixture
def kvserver(monkeypatch: pytest.MonkeyPatch) -> Command:
    for module in (backup, check, restore):
        monkeypatch.setattr(module, "interruptible", lambda: None)  # the signals are this process's
    for module in (backup, check):
        monkeypatch.setattr(module, "lower_priority", lambda: None)
    monkeypatch.setattr(take_store_lock, "__defaults__", (0.0,))

    def run(*arguments: object) -> Ended:
        done = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
        return Ended(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = first_run(tmp_path, shards=1).open()
    run.write(put(b"k"))
    return run


def place(store: Store) -> list[object]:
    return ["--data-dir", store.data_dir, "--run-dir", store.run_dir]


def test_a_running_store_is_backed_up_checked_and_not_restored_over(
    run: Run, kvserver: Command, tmp_path: Path
) -> None:
    done = kvserver("backup", tmp_path / "b", *place(run.store))
    taken = Archive.load(tmp_path / "b")
    assert done.status == 0
    assert done.out.splitlines()[0].startswith(f"revision {taken.last_revision} is in {tmp_path / 'b'}: ")
    span = f"it can be restored to revisions {taken.first_revision} to {taken.last_revision}, times 2"
    assert done.out.splitlines()[1].startswith(span)
    assert kvserver("check", tmp_path / "b").status == 0

    lock = take_store_lock(run.store.data_dir)
    served = kvserver("restore", tmp_path / "b", "--data-dir", run.store.data_dir)
    assert (served.status, served.out) == (1, "")
    assert f"is served by another process (pid {os.getpid()})" in served.error
    for name in ("backup", "stop", "check"):
        target = [tmp_path / "c"] if name == "backup" else []
        lost = kvserver(name, *target, "--data-dir", run.store.data_dir, "--run-dir", tmp_path / "elsewhere")
        assert lost.status == 1
        assert f"pid {os.getpid()}" in lost.error
        assert "--run-dir" in lost.error
    os.close(lock)
    assert "holds a store" in kvserver("restore", tmp_path / "b", "--data-dir", run.store.data_dir).error


def test_a_run_directory_of_another_store_is_refused(run: Run, kvserver: Command, tmp_path: Path) -> None:
    for name in ("stop", "check"):
        other = kvserver(name, "--data-dir", tmp_path, "--run-dir", run.store.run_dir)
        assert other.status == 1
        assert f"serves {run.store.data_dir}, not {tmp_path}" in other.error


def test_a_store_in_memory_is_not_backed_up_nor_checked(kvserver: Command, tmp_path: Path) -> None:
    store = new_store(tmp_path, 1, in_memory=True)
    for name in ("backup", "check"):
        target = [tmp_path / "b"] if name == "backup" else []
        done = kvserver(name, *target, *place(store))
        assert (done.status, done.out) == (1, "")
        assert "memory" in done.error
    assert not (tmp_path / "b").exists()
    assert "give --run-dir" in kvserver("stop", "--in-memory", "true").error


def test_a_data_directory_is_told_from_a_backup(run: Run, kvserver: Command) -> None:
    done = kvserver("check", run.store.data_dir)
    assert (done.status, done.out) == (1, "")
    assert f"kvserver check --data-dir {run.store.data_dir}" in done.error


def test_without_a_server_or_a_store(kvserver: Command, tmp_path: Path) -> None:
    nothing = ["--data-dir", tmp_path / "nothing"]
    assert "no server runs on the store" in kvserver("stop", *nothing).error
    for name in ("backup", "check"):
        target = [tmp_path / "b"] if name == "backup" else []
        assert "there is no store in" in kvserver(name, *target, *nothing).error
    assert "there is no backup in" in kvserver("restore", tmp_path, *nothing).error
    assert "there is no backup in" in kvserver("check", tmp_path / "nothing").error
    assert not (tmp_path / "nothing").exists()


def test_what_a_backup_does_not_reach_is_refused_with_what_it_reaches(
    run: Run, kvserver: Command, tmp_path: Path
) -> None:
    kvserver("backup", tmp_path / "b", *place(run.store))
    taken = Archive.load(tmp_path / "b")
    for until in ("1999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", taken.last_revision + 1):
        done = kvserver("restore", tmp_path / "b", "--data-dir", tmp_path / "new", "--until", until)
        assert done.status == 1
        assert f"to revisions {taken.first_revision} to {taken.last_revision}, times 2" in done.error
    assert kvserver("restore", tmp_path / "b", "--until", "yesterday").status == 2
    assert not (tmp_path / "new").exists()


def test_what_is_no_data_directory_is_not_served(tmp_path: Path) -> None:
    for name, why in (
        (RESTORING, "was not finished: repeat it"),
        (UNFINISHED, "is a backup"),
        ("backup", "is a backup"),
    ):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x" / name).touch()
        with pytest.raises(StoreError, match=why):
            make_data_dir(tmp_path / name / "x")


def test_a_place_in_the_history_is_a_revision_or_a_time() -> None:
    assert parse_until(None) == RestoreTarget()
    assert parse_until("17") == RestoreTarget(revision=17)
    assert parse_until("1970-01-01T00:00:01.5Z") == RestoreTarget(time_ms=1500)


def test_only_the_store_s_own_maps_are_given_back(run: Run, tmp_path: Path) -> None:
    store, data_dir = Manifest.load(run.store.data_dir).store, run.store.data_dir
    ours, foreign = usual_places(store, data_dir, tmp_path / "shm")[0], tmp_path / "foreign"
    for path, owner in ((ours, Owner.of(store, data_dir)), (foreign, Owner.of("other", tmp_path))):
        (path / "shard-0.1").mkdir(parents=True)
        (path / "shard-0.1" / "data.mdb").write_bytes(bytes(8192))
        (path / "owner").write_text(
            f'{{"store":"{owner.store}","data_dir":"{owner.data_dir}","device":{owner.device},"inode":{owner.inode}}}'
        )
    assert release_maps([foreign, ours, tmp_path / "nothing"], store, data_dir) == 8192
    assert not ours.exists()
    assert (foreign / "shard-0.1" / "data.mdb").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is another's")
def test_root_does_not_repair_the_store_of_another_user(run: Run, tmp_path: Path, kvserver: Command) -> None:
    os.chown(run.store.data_dir / MANIFEST, 12345, 12345)
    ended = kvserver("check", "--repair", "--data-dir", run.store.data_dir, "--run-dir", tmp_path / "nobody-s")
    assert (ended.status, ended.out) == (1, "")
    assert "belongs to the user with id 12345: repair it as that user" in ended.error


@pytest.mark.parametrize(
    ("closed", "command", "file", "why"),
    [
        ("stdin", "import", "-", "standard input is closed"),
        ("stdin", "import", "/dev/stdin", "/dev/stdin cannot be read: it is closed"),
        ("stdin", "export", "/dev/stdin", "/dev/stdin cannot be written: it is closed"),
        ("stdout", "export", "-", "- cannot be written: it is closed"),
        ("stdout", "export", "/dev/stdout", "/dev/stdout cannot be written: it is closed"),
        ("stdout", "export", "/dev/fd/1", "/dev/fd/1 cannot be written: it is closed"),
    ],
)
def test_a_closed_stream_is_said(closed: str, command: str, file: str, why: str) -> None:
    number = {"stdin": 0, "stdout": 1}[closed]
    line = [sys.executable, "-m", "kvserver", command, file, "--url", "http://127.0.0.1:1"]
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(number), check=False)
    assert ended.returncode == 1
    assert why in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["serve", "--help"], ["backup", "--help"]])
@pytest.mark.parametrize("full", [True, False], ids=["no space", "nobody reads"])
def test_a_help_page_that_cannot_be_written_is_said(words: list[str], full: bool) -> None:
    with Path("/dev/full").open("wb") as device:
        reader, pipe = os.pipe()
        os.close(reader)
        to = device.fileno() if full else pipe
        ended = subprocess.run(
            [sys.executable, "-m", "kvserver", *words], stdout=to, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(pipe)
    assert ended.returncode == 1
    said = "kvserver: cannot write to standard output: No space left on device\n"
    assert ended.stderr == (said if full else "")


# Run directories in which a stranger may have put something.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
@pytest.mark.parametrize("theirs", ["board", "."])
def test_a_stranger_s_board_is_not_believed(run: Run, kvserver: Command, tmp_path: Path, theirs: str) -> None:
    (tmp_path / "tokens.toml").touch(mode=0o600)
    lock = take_store_lock(run.store.data_dir)
    os.chown(run.store.run_dir / theirs, 12345, 12345)
    for words in (["backup", tmp_path / "b"], ["stop"], ["stop", "--release"], ["check"], ["check", "--repair"]):
        done = kvserver(*words, *place(run.store))
        assert (done.status, done.out) == (1, "")
        assert "there is no server in the run directory" in done.error
        assert "belongs to the user with id 12345, so it is not trusted" in done.error
        assert f"pid {os.getpid()}" in done.error, "the one that serves the store"
    listed = kvserver("token", "list", "--tokens", tmp_path / "tokens.toml", *place(run.store))
    assert "belongs to the user with id 12345, so it is not trusted" in listed.error
    os.chown(run.store.data_dir, 12345, 12345)  # root believes whose store it is
    assert kvserver("check", *place(run.store)).status == 0
    assert "belongs to" not in kvserver("token", "list", "--tokens", tmp_path / "tokens.toml", *place(run.store)).error
    os.close(lock)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: os.truncate(path, 40), "is not a board of this version"),
        (lambda path: os.truncate(path, 8192), "is not a board of this version"),
        (make_fifo, "it is a FIFO, not a file"),
    ],
    ids=["40 bytes", "cut", "fifo"],
)
def test_what_is_no_board_counts_as_none(
    kvserver: Command, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    store = new_store(tmp_path, 1)
    store.close()
    spoil(store.run_dir / "board")
    lock = take_store_lock(store.data_dir)
    for words in (["backup", tmp_path / "b"], ["stop"], ["check"]):
        Manifest.create(store.data_dir).save(store.data_dir)
        done = kvserver(*words, *place(store))
        assert (done.status, done.out) == (1, "")
        assert "there is no server in the run directory" in done.error and why in done.error
        assert f"pid {os.getpid()}" in done.error
    os.close(lock)


WILL_NOT_END = """
import os, signal, sys
from pathlib import Path
import msgspec
from shards.host.board import Board, Facts
signal.signal(signal.SIGTERM, signal.SIG_IGN)
facts = msgspec.structs.replace(msgspec.json.decode(sys.argv[2], type=Facts), supervisor_pid=os.getpid())
board = Board.create(Path(sys.argv[1]), facts)
board.install()
print("up", flush=True)
sys.stdin.read()
"""


def test_a_server_that_does_not_end_is_not_waited_for_for_ever(tmp_path: Path, kvserver: Command) -> None:
    store = new_store(tmp_path, 1)
    store.close()
    argv = [sys.executable, "-c", WILL_NOT_END, str(store.run_dir / "board"), msgspec.json.encode(store.board.facts)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        done = kvserver("stop", "--patience", "0.2", *place(store))
        assert server.poll() is None
        assert server.stdin is not None
        server.stdin.close()
    assert (done.status, done.out) == (1, "")
    assert f"the server (pid {server.pid}) was asked to stop, but has not ended within 0.2 s" in done.error
    assert "closing the log" in done.error, "what it is at"


def test_a_holder_that_does_not_say_its_pid_is_one(tmp_path: Path) -> None:
    store = new_store(tmp_path, 1)
    lock = take_store_lock(store.data_dir)
    os.pwrite(lock, b"no number", 0)
    assert serving_pid(store.data_dir) == 0
    os.close(lock)
    assert serving_pid(store.data_dir) is None
    store.close()


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 77
shift
exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("words", [["backup", "b"], ["check"]])
def test_a_store_that_is_mounted_read_only_is_said(tmp_path: Path, words: list[str]) -> None:
    store = new_store(tmp_path, 1)
    store.close()
    Manifest.create(store.data_dir).save(store.data_dir)
    command = [sys.executable, "-m", "kvserver", *words, "--data-dir", store.data_dir, "--run-dir", tmp_path / "none"]
    argv = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", store.data_dir, *command]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the file system of {store.data_dir} is mounted read-only" in done.stderr


# Files that a person names, where others may have put something.


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another user, with links to what is ours."""
    if os.geteuid() != 0:
        pytest.skip("only root can make what is another user's")
    (tmp_path / "mine").write_text("secret")
    directory = tmp_path / "theirs"
    directory.mkdir()
    (directory / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(directory / "fifo")
    for path in (directory, directory / "fifo"):
        os.chown(path, 12345, 12345)
    return directory


URL = ("--url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "words",
    [
        ("export", "{}/new", *URL),
        ("export", "{}/link", *URL),
        ("export", "-", "--token-file", "{}/link", *URL),
        ("import", "{}/link", *URL),
        ("import", "{}/fifo", *URL),
        ("restore", "backup", "--data-dir", "{}/new"),
        ("import", "-", "--token-file", "{}/link", *URL),
        ("token", "list", "--tokens", "{}/link"),
        ("token", "new", "a", "--grant", "read", "--tokens", "{}/link"),
        ("token", "new", "a", "--grant", "read", "--tokens", "{}/new"),
        ("serve", "--port", "0", "--metrics-port", "0", "--in-memory", "--tokens", "{}/link"),
    ],
)
def test_what_another_user_may_have_put_there_is_neither_read_nor_written(
    theirs: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "kvserver", *(word.format(theirs) for word in words)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode in (1, 2), done.stderr
    assert "belongs to the user with id 12345" in done.stderr or "of the user with id" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "mine").read_text() == "secret"
