"""Backups and data directories that somebody made up, or in which things lie in wait: a line of error, nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from shards.backup import archive
from shards.backup.archive import Archive
from shards.backup.sandbox import Sandbox
from shards.backup.take import RunningStore, StoppedStore, back_up
from shards.files import checksummed_json, safe_files
from shards.files.disk import DISK
from shards.log.manifest import NAME as MANIFEST
from shards.log.manifest import SNAPSHOTS, Manifest
from shards.maps.layout import map_path, read_meta
from shards.maps.snapshot import new_digest
from tests.api.maps import Run, first_run, put
from tests.api.shards.backup.tools import log_file, quiet, snapshot_file

PAGE = 4096
NAMES = ["../../../authorized_keys", "/tmp/kvserver-crafted/x", "0000000000000000-00000000/../../../x", "..", "x\0y"]


@pytest.fixture
def store(tmp_path: Path) -> Run:
    """A store of one shard, with a snapshot that has some pages."""
    run = first_run(tmp_path / "store", shards=1).open()
    for n in range(20):
        run.write(*(put(b"key-%03d-%03d" % (n, i), b"v" * 200) for i in range(20)))
    run.snapshot()
    run.write(put(b"later"))
    return run


@pytest.fixture
def backup(store: Run, tmp_path: Path) -> Path:
    back_up(RunningStore(store.board), tmp_path / "backup", "1", quiet)
    store.close_maps()
    return tmp_path / "backup"


def kvserver(*arguments: object) -> tuple[int, str]:
    """A command as people run it: its status, and what it says on standard error. One that waits is ended."""
    done = subprocess.run(
        [sys.executable, "-m", "kvserver", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr + done.stdout


def refused(*arguments: object) -> str:
    """What a command says that ends as it should when it cannot do what it was asked for."""
    status, said = kvserver(*arguments)
    assert status == 1, said
    assert "Traceback" not in said
    return said


def rewrite(backup: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a backup says of itself, with the checksum that makes it pass for its own."""
    plain = msgspec.json.decode((backup / archive.NAME).read_bytes())
    del plain["checksum"]
    change(plain)
    (backup / archive.NAME).write_bytes(
        msgspec.json.encode(plain | {"checksum": checksummed_json._compute_checksum(plain)})
    )


def craft(backup: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """Change the LMDB file of a backup, with size and checksum that make it pass for its own."""
    path, secret = snapshot_file(backup), Archive.load(backup).manifest.secret
    data = change(bytearray(path.read_bytes()))
    path.write_bytes(data)
    digest = new_digest(secret)
    digest.update(data)
    rewrite(backup, lambda it: it["manifest"]["files"][0].update(size=len(data), checksum=digest.hexdigest()))


def contents(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


# Names.


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_is_refused_by_all(backup: Path, tmp_path: Path, name: str) -> None:
    rewrite(backup, lambda it: it["manifest"]["files"][0].update(name=name))
    before = contents(tmp_path)
    assert "is damaged" in refused("check", backup)
    assert "is damaged" in refused("restore", backup, "--data-dir", tmp_path / "new")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_store_whose_manifest_leads_out_is_not_used(store: Run, tmp_path: Path, name: str) -> None:
    store.close_maps()
    data_dir = store.store.data_dir
    plain = msgspec.json.decode((data_dir / MANIFEST).read_bytes())
    del plain["checksum"]
    plain["files"][0]["name"] = name
    (data_dir / MANIFEST).write_bytes(
        msgspec.json.encode(plain | {"checksum": checksummed_json._compute_checksum(plain)})
    )
    place = ["--data-dir", data_dir, "--run-dir", tmp_path / "r"]
    for command in (
        ["check"],
        ["backup", tmp_path / "copy"],
        ["stop", "--release"],
        ["serve", "--port", "0", "--metrics-port", "0"],
    ):
        assert "the manifest" in refused(*command, *place)
    assert not (tmp_path / "copy").exists()


def test_a_link_in_the_place_of_a_new_file_is_not_written_through(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    link.symlink_to(victim)
    os.close(DISK.create(link))
    assert not link.is_symlink()
    link.unlink()
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        DISK.open(link)
    assert victim.read_text() == "precious"


def test_a_manifest_is_not_saved_through_a_link(store: Run, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (store.store.data_dir / "manifest.new").symlink_to(victim)
    Manifest.load(store.store.data_dir).save(store.store.data_dir)
    assert victim.read_text() == "precious"


# What is no file.


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


KINDS = [fifo, link, Path.mkdir, listening]


def parts(backup: Path) -> list[Path]:
    """Every file of a backup."""
    return [backup / archive.NAME, snapshot_file(backup), log_file(backup)]


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_a_backup_is_refused_and_not_waited_for(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], None], part: int
) -> None:
    path = parts(backup)[part]
    path.unlink()
    monkeypatch.chdir(path.parent)  # paths of sockets are short
    kind(Path(path.name))
    command = ("restore", backup, "--data-dir", tmp_path / "new") if kind is fifo else ("check", backup)
    assert "not a file" in refused(*command)


@pytest.mark.parametrize("name", [archive.LOG, SNAPSHOTS])
def test_a_directory_of_a_backup_is_no_link(backup: Path, tmp_path: Path, name: str) -> None:
    (backup / name).rename(tmp_path / "elsewhere")
    (backup / name).symlink_to(tmp_path / "elsewhere")
    assert "is not a directory" in refused("check", backup)
    assert "is not a directory" in refused("restore", backup, "--data-dir", tmp_path / "new")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_in_a_store_is_refused_and_not_waited_for(
    store: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], None]
) -> None:
    store.close_maps()
    data_dir = store.store.data_dir
    for path in (data_dir / MANIFEST, snapshot_file(data_dir)):
        content = path.read_bytes()
        path.unlink()
        monkeypatch.chdir(path.parent)
        kind(Path(path.name))
        assert "not a file" in refused("check", "--data-dir", data_dir, "--run-dir", tmp_path / "r")
        with pytest.raises(Exception, match="not a file"):
            back_up(StoppedStore(data_dir), tmp_path / "copy", "1", quiet)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(content)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"12345")
    assert safe_files.read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes"):
        safe_files.read_regular(path, 4)
    with pytest.raises(OSError, match="more than 4 bytes"):
        safe_files.read_regular(Path("/proc/self/status"), 4)  # says that it has none


# Numbers.


def test_a_store_whose_log_would_be_endless_is_refused_at_once(store: Run, tmp_path: Path) -> None:
    store.close_maps()
    data_dir = store.store.data_dir
    msgspec.structs.replace(Manifest.load(data_dir), end_lsn=1 << 62).save(data_dir)
    assert "damaged" in refused("backup", tmp_path / "copy", "--data-dir", data_dir, "--run-dir", tmp_path / "r")
    assert "not as it should be" in refused("check", "--data-dir", data_dir, "--run-dir", tmp_path / "r")


# LMDB files.


def lie(data: bytearray) -> bytearray:
    """The root of `data` is a page far behind the file's end, and the meta pages say that there are so many."""
    for page in (0, PAGE):
        struct.pack_into("<Q", data, page + 136, 1 << 30)
    at = data.index(b"data", 2 * PAGE) + 4  # the record of the database in the main tree: its root is the last word
    struct.pack_into("<Q", data, at + 40, 1 << 24)
    return data


def meta_lies(data: bytearray) -> bytearray:
    """The same of `meta`, which is read whenever a map is opened."""
    lie(data)
    at = data.index(b"meta", 2 * PAGE) + 4
    struct.pack_into("<Q", data, at + 40, 1 << 24)
    return data


def test_a_map_that_ends_who_reads_it_ends_no_command(backup: Path, tmp_path: Path) -> None:
    craft(backup, lie)
    assert "ends the process that reads it (by SIG" in refused("check", backup)


def test_a_map_that_ends_who_opens_it_ends_no_command(backup: Path, tmp_path: Path) -> None:
    craft(backup, meta_lies)
    assert "ends the process that reads it (by SIG" in refused("check", backup)
    assert "ends the process that reads it (by SIG" in refused("restore", backup, "--data-dir", tmp_path / "new")


def test_the_process_that_looks_goes_on_with_another(store: Run, backup: Path) -> None:
    good = map_path(store.store.map_dir, 0, store.board.shards[0].map_generation)
    expected = read_meta(good)
    craft(backup, meta_lies)
    with Sandbox() as apart:
        for _ in range(2):
            with pytest.raises(Exception, match="ends the process"):
                apart.read_meta(snapshot_file(backup), subdir=False)
            assert apart.read_meta(good) == expected
        with pytest.raises(Exception, match="cannot be read: No such file"):
            apart.read_meta(backup / "none")


def test_a_torn_map_does_not_end_who_starts_the_store(store: Run, tmp_path: Path) -> None:
    """Maps on a disk are not flushed: after a power cut their pages are of any age."""
    store.close_maps()
    path = map_path(store.store.map_dir, 0, store.board.shards[0].map_generation) / "data.mdb"
    path.write_bytes(meta_lies(bytearray(path.read_bytes())))
    code = (
        "import sys; from pathlib import Path\n"
        "from shards.backup.sandbox import Sandbox; from shards.maps.build import kept_applied\n"
        "with Sandbox() as sandbox: print(kept_applied(Path(sys.argv[1]), 's', 'b', 'e', sandbox.read_meta))"
    )
    done = subprocess.run([sys.executable, "-c", code, path.parent.parent], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_pages_that_lead_in_a_circle_are_found(backup: Path) -> None:
    """A branch page whose children are all the same page: the same keys again and again."""

    def circle(data: bytearray) -> bytearray:
        root = struct.unpack_from("<Q", data, data.index(b"data", 2 * PAGE) + 4 + 40)[0] * PAGE
        assert struct.unpack_from("<H", data, root + 10)[0] & 1, "a branch page"
        lower = struct.unpack_from("<H", data, root + 12)[0]
        places = struct.unpack_from(f"<{(lower - 16) // 2}H", data, root + 16)
        first = data[root + places[0] : root + places[0] + 4]
        for place in places:
            data[root + place : root + place + 4] = first
        return data

    craft(backup, circle)
    assert "does not come after" in refused("check", backup)


def test_a_file_that_is_no_map_is_said(backup: Path, tmp_path: Path) -> None:
    craft(backup, lambda data: data[: len(data) // 2])
    assert "not a complete map" in refused("check", backup)
    craft(backup, lambda _: os.urandom(5000))
    assert "not a complete map" in refused("restore", backup, "--data-dir", tmp_path / "new")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (b"applied", b"short", "says in 5 bytes"),
        (b"identity", b"{", "malformed identity"),
        (b"identity", b"[" * 9999, "malformed identity"),
    ],
)
def test_a_map_that_says_nonsense_of_itself_is_said(backup: Path, key: bytes, value: bytes, says: str) -> None:
    with lmdb.open(str(snapshot_file(backup)), subdir=False, lock=False, max_dbs=2) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(meta, write=True) as txn:
            txn.put(key, value)
    craft(backup, lambda data: data)
    assert says in refused("check", backup)


# Marks that anybody can make.


@pytest.mark.parametrize("name", ["log/diary", "snapshots/diary", "diary"])
def test_a_planted_mark_of_a_broken_restore_makes_nothing_ours(backup: Path, tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "theirs"
    (theirs / name).parent.mkdir(parents=True)
    (theirs / name).write_text("dear")
    (theirs / "restore.incomplete").touch()
    before = contents(theirs)
    assert f"holds other files ({name})" in refused("restore", backup, "--data-dir", theirs)
    assert contents(theirs) == before


# Numbers that do not go together.

MOST = (1 << 53) - 1
NUMBERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a replay position behind the end": (
        lambda it: it["manifest"].update(replay_lsn=1 << 62),
        "restart would begin at",
    ),
    "a replay position without a snapshot": (lambda it: it["manifest"].update(files=[]), "there is no snapshot"),
    "a replay position far away": (
        lambda it: (
            it["manifest"].update(replay_lsn=1 << 62, end_lsn=1 << 62, files=[], replay_revision=0),
            it.update(end_lsn=1 << 62, log=[]),
        ),
        "damaged",
    ),
    "a log of a size that nobody has": (
        lambda it: (
            it["manifest"].update(replay_lsn=1 << 61, end_lsn=1 << 61),
            it["manifest"]["files"][0].update(lsn=1 << 61),
            it.update(end_lsn=1 << 61, log=[]),
        ),
        "a log goes forward, and to",
    ),
    "no revisions left": (
        lambda it: (it.update(last_revision=MOST), it["manifest"].update(end_revision=MOST)),
        "no revisions are left",
    ),
    "a reach that is turned round": (lambda it: it.update(first_revision=it["last_revision"] + 1), "it reaches from"),
    "a reach below the snapshot": (lambda it: it.update(first_revision=1), "its snapshot is of"),
    "a last revision that never was": (lambda it: it.update(last_revision=it["last_revision"] + 1), "ends at revision"),
    "an end before the snapshot": (lambda it: it.update(end_lsn=1), "a log goes forward"),
    "no log": (lambda it: it.update(log=[]), "names 0 segments"),
    "another segment": (lambda it: it["log"][0].update(number=7), "segments of the log, 1 from 000000000000.log"),
    "a segment twice": (lambda it: it.update(log=it["log"] * 2), "do not follow each other"),
    "a segment too many": (
        lambda it: it["log"].append(it["log"][0] | {"number": 1}),
        "names 2 segments of the log, 1 from",
    ),
    "a segment too short": (lambda it: it["log"][0].update(size=1), "has 1 bytes, not"),
    "negative numbers": (lambda it: it.update(end_lsn=-1), ">= 0"),
    "numbers that are none": (lambda it: it.update(end_lsn=1.5), "Expected `int`"),
    "times of no calendar": (lambda it: it.update(taken_ms=1 << 62), "<= 253402300799999"),
    "a huge file": (
        lambda it: it["manifest"]["files"][0].update(size=1 << 62),
        "the manifest says 4611686018427387904",
    ),
    "shards that are not there": (lambda it: it["manifest"]["files"][0].update(shards=256), "one file for each shard"),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_that_do_not_go_together_are_refused_by_check_and_restore(
    backup: Path, tmp_path: Path, what: str
) -> None:
    change, says = NUMBERS[what]
    rewrite(backup, change)
    before = contents(tmp_path)
    assert says in refused("check", backup)
    assert contents(tmp_path) == before
    said = refused("restore", backup, "--data-dir", tmp_path / "new")
    assert says in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("members", [{"replay_lsn": 1 << 40}, {"replay_revision": 1 << 40}, {"files": ()}])
def test_a_store_whose_manifest_says_what_cannot_be_is_not_served(
    store: Run, tmp_path: Path, members: dict[str, Any]
) -> None:
    store.close_maps()
    data_dir = store.store.data_dir
    plain = msgspec.json.decode((data_dir / MANIFEST).read_bytes())
    del plain["checksum"]
    plain |= members
    (data_dir / MANIFEST).write_bytes(
        msgspec.json.encode(plain | {"checksum": checksummed_json._compute_checksum(plain)})
    )
    place = ["--data-dir", data_dir, "--run-dir", tmp_path / "r"]
    for command in (["check"], ["backup", tmp_path / "copy"], ["serve", "--port", "0", "--metrics-port", "0"]):
        assert "a restart would begin at" in refused(*command, *place)
