"""The manifest is loaded as it was saved, or refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shards.log.manifest import Manifest, ManifestError, NoManifest


def test_manifests(tmp_path: Path) -> None:
    with pytest.raises(NoManifest, match=str(tmp_path)):
        Manifest.load(tmp_path)
    manifest = Manifest.create(tmp_path)
    assert manifest.inode == tmp_path.stat().st_ino
    assert manifest.store != Manifest.create(tmp_path).store
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    path = tmp_path / "manifest"
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    for bad, says in (
        (text[:-9], "damaged"),
        (text.replace('"format": 2', '"format": 3'), "has format 3, this program knows up to 2"),
        (text.replace('"store"', '"shop"'), "damaged"),
    ):
        path.write_text(bad)
        with pytest.raises(ManifestError, match=says):
            Manifest.load(tmp_path)


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(Manifest.create(tmp_path), end_lsn=200_000, end_revision=123_456)
    manifest.save(tmp_path)
    path = tmp_path / "manifest"
    text = path.read_bytes()
    digits = [at for at in range(len(text)) if text[at : at + 1].isdigit()]
    for at in digits:
        other = b"7" if text[at : at + 1] != b"7" else b"6"
        path.write_bytes(text[:at] + other + text[at + 1 :])
        with pytest.raises(ManifestError, match=r"damaged .*checksum.* restore|has format|damaged .*restore"):
            Manifest.load(tmp_path)
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(manifest)))
    with pytest.raises(ManifestError, match="checksum"):
        Manifest.load(tmp_path)
    path.write_bytes(msgspec.json.format(text, indent=8))
    assert Manifest.load(tmp_path) == manifest
