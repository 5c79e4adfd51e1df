"""What a manifest or the file of a backup may say: whatever stands there, names stay within and numbers can be used."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.commands.local.backup import restorable_range
from shards.backup import archive
from shards.backup.archive import Archive
from shards.files import checksummed_json
from shards.log import manifest
from shards.log.manifest import Manifest
from shards.wire.keys import slots_of

FILE = {
    "name": "0000000000001a00-4be0d1c2/shard-0.mdb",
    "shard": 0,
    "shards": 1,
    "lsn": 6656,
    "revision": 9,
    "size": 4096,
    "checksum": "0" * 32,
}
MANIFEST: dict[str, Any] = {
    "format": manifest.FORMAT,
    "store": "0" * 32,
    "secret": 1,
    "device": 1,
    "inode": 1,
    "epoch": "0" * 16,
    "last_start": {"store": "0" * 32, "epoch": "0" * 16, "boot_id": "b", "sync": "always", "version": "1"},
    "replay_lsn": 6656,
    "replay_revision": 9,
    "files": [FILE],
    "end_lsn": 7000,
    "end_revision": 12,
    "new_history": "",
}
PART = {"number": 0, "size": 7000, "checksum": "0" * 32}
BACKUP: dict[str, Any] = {
    "format": archive.FORMAT,
    "version": "1",
    "manifest": MANIFEST,
    "log": [PART],
    "end_lsn": 7000,
    "first_revision": 9,
    "first_ms": 1,
    "last_revision": 12,
    "taken_ms": 2,
}

NAMES = [
    "../x",
    "/etc/passwd",
    "",
    ".",
    "..",
    "a",
    "0000000000001a00-4be0d1c2",
    "0000000000001a00-4be0d1c2/../../x",
    "0000000000001a00-4be0d1c2/shard-0.mdb/x",
    "0000000000001a00-4be0d1c2//shard-0.mdb",
    "x\0y",
    "0000000000001a00-4be0d1c2/shard-0.mdb\n",
    "0000000000001a00-4be0d1c2/shard-\u0660.mdb",
    "a" * 5000,
    "0000000000001a00-4be0d1c2/shard-0.mdb\0",
    "./0000000000001a00-4be0d1c2/shard-0.mdb",
    "~/x",
    "\x1b[2J",
]
NUMBERS = st.one_of(
    st.integers(), st.sampled_from([-1, 1 << 31, 1 << 53, 1 << 62, 1 << 63, 1 << 64, 10**30]), st.floats(), st.none()
)
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=40), st.from_regex(r"[0-9a-f]{16}-[0-9a-f]{8}/shard-\d.mdb"))


def text_of(content: dict[str, Any]) -> bytes:
    """`content` as a file, with the checksum that it would have."""
    plain = msgspec.json.decode(msgspec.json.encode(content))
    return msgspec.json.encode(plain | {"checksum": checksummed_json._compute_checksum(plain)})


def decoded(content: dict[str, Any], kind: type[Any]) -> Any:
    """What a program makes of it; None: it is refused, in one line that can be shown."""
    try:
        return checksummed_json.decode(text_of(content), kind, (content["format"],))
    except checksummed_json.Unreadable as error:
        assert str(error).isprintable()
        return None


def test_what_is_written_can_be_read() -> None:
    assert decoded(MANIFEST, Manifest).files[0].name == FILE["name"]
    assert decoded(BACKUP, Archive).manifest == decoded(MANIFEST, Manifest)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_snapshot_has_is_refused(name: str) -> None:
    wrong = MANIFEST | {"files": [FILE | {"name": name}]}
    assert decoded(wrong, Manifest) is None
    assert decoded(BACKUP | {"manifest": wrong}, Archive) is None


@settings(deadline=None)
@given(st.lists(names, max_size=3))
def test_whatever_names_are_given_files_lie_two_steps_below(given_names: list[str]) -> None:
    content = MANIFEST | {
        "files": [FILE | {"name": name, "shard": n, "shards": len(given_names)} for n, name in enumerate(given_names)]
    }
    found = decoded(content, Manifest)
    if found is not None:
        assert len({file.name for file in found.files}) == len(given_names)
        for file in found.files:
            directory, name = PurePosixPath(file.name).parts
            assert name.startswith("shard-")
            assert "." not in directory


@settings(deadline=None)
@given(st.sampled_from(sorted(MANIFEST.keys() - {"format", "files", "last_start"})), NUMBERS)
def test_whatever_numbers_are_given_they_can_be_used(member: str, number: object) -> None:
    found = decoded(MANIFEST | {member: number}, Manifest)
    if found is not None:
        assert 0 <= found.secret < 1 << 64
        assert 0 <= found.replay_lsn <= 1 << 62
        assert 0 <= found.replay_revision < 1 << 53
        assert 0 <= found.end_revision < 1 << 53


@settings(deadline=None)
@given(st.sampled_from(["shard", "shards", "lsn", "revision", "size"]), NUMBERS)
def test_whatever_a_file_says_its_slots_can_be_told(member: str, number: object) -> None:
    found = decoded(MANIFEST | {"files": [FILE | {member: number}]}, Manifest)
    if found is not None:
        assert len(slots_of(found.files[0].shard, found.files[0].shards)) > 0
        assert 0 <= found.files[0].size < 1 << 63


@settings(deadline=None)
@given(st.sampled_from(["end_lsn", "first_revision", "first_ms", "last_revision", "taken_ms"]), NUMBERS)
def test_whatever_a_backup_says_it_reaches_can_be_told(member: str, number: object) -> None:
    found = decoded(BACKUP | {member: number}, Archive)
    if found is not None:
        assert restorable_range(found).isprintable()


@settings(deadline=None)
@given(st.sampled_from(["number", "size", "checksum"]), st.one_of(NUMBERS, st.text(max_size=20)))
def test_whatever_a_part_of_the_log_says_its_name_is_a_segment_s(member: str, value: object) -> None:
    found = decoded(BACKUP | {"log": [PART | {member: value}]}, Archive)
    if found is not None:
        assert len(found.log[0].name) == len("log/000000000000.log")


@pytest.mark.parametrize(
    "files",
    [
        [FILE, FILE],
        [FILE, FILE | {"name": "0000000000001a00-4be0d1c2/shard-1.mdb"}],
        [FILE | {"shards": 2}],
        [FILE | {"shards": 2}, FILE | {"shards": 2, "shard": 1}],
        [FILE | {"shard": 1}],
        [FILE | {"shards": 2}, FILE | {"name": "0000000000001a00-4be0d1c2/shard-1.mdb", "shards": 3, "shard": 1}],
    ],
)
def test_a_snapshot_has_one_file_for_each_shard(files: list[dict[str, Any]]) -> None:
    assert decoded(MANIFEST | {"files": files}, Manifest) is None


def test_segments_that_do_not_follow_each_other_are_refused() -> None:
    assert decoded(BACKUP | {"log": [PART, PART | {"number": 1}]}, Archive) is not None
    assert decoded(BACKUP | {"log": [PART, PART]}, Archive) is None
    assert decoded(BACKUP | {"log": [PART, PART | {"number": 2}]}, Archive) is None


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"format": 1}', b'{"format":1,"x":' + b"[" * 100_000, b'{"format": 1e99}']
)
def test_what_is_no_such_file_is_said(text: bytes) -> None:
    with pytest.raises(checksummed_json.Unreadable):
        checksummed_json.decode(text, Manifest, manifest.FORMATS)


@pytest.mark.parametrize("member", ["epoch", "new_history", "store"])
def test_nothing_that_a_terminal_obeys_is_shown(member: str) -> None:
    assert decoded(MANIFEST | {member: "\x1b]0;x\x07"}, Manifest) is None
    start = MANIFEST["last_start"] | {"epoch": "\x9b2J"}
    assert decoded(MANIFEST | {"last_start": start}, Manifest) is None
