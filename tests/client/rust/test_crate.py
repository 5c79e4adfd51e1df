"""The Rust client's crate: its own tests, the checks of its code, and what `cargo package` makes of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from shards.wire import errors
from tests.client.sdks import SDK
from tests.system.kvserver.commands.programs import run

CRATE = SDK / "rust"
pytestmark = pytest.mark.timeout(600)  # a cold build, on a machine that has other work


def cargo(*arguments: str, cwd: Path = CRATE, **environ: str) -> str:
    """Run cargo in the crate, or in `cwd`, and return what it printed. Fails if it fails."""
    command = ["cargo", *arguments]
    merged = {name: value for name, value in os.environ.items() if not name.startswith("KVSERVER_")} | environ
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=merged)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_its_own_tests() -> None:
    printed = cargo("test", "--locked", "--all-features")
    assert printed.count("test result: ok") >= 3  # units, `tests/live.rs`, documentation


def test_clippy_has_nothing_to_say() -> None:
    cargo("clippy", "--locked", "--all-features", "--all-targets", "--", "-D", "warnings")


@pytest.mark.parametrize("features", ["", "blocking", "tokio", "blocking,ws", "tokio,ws"])
def test_each_choice_of_features_builds_without_a_warning(features: str) -> None:
    cargo("clippy", "--locked", "--no-default-features", "--features", features, "--lib", "--", "-D", "warnings")


def test_it_is_formatted() -> None:
    cargo("fmt", "--check")


def test_its_documentation_has_no_broken_link() -> None:
    cargo("doc", "--locked", "--all-features", "--no-deps", RUSTDOCFLAGS="-D warnings")


def test_it_can_be_packaged() -> None:
    cargo("package", "--locked", "--allow-dirty", "--no-verify")
    files = cargo("package", "--locked", "--allow-dirty", "--list").splitlines()
    assert {"Cargo.toml", "Cargo.lock", "README.md", "src/lib.rs"} <= set(files)
    assert not [name for name in files if name.startswith("target")]


def test_what_the_command_writes_is_a_whole_crate(tmp_path: Path) -> None:
    crate, target = tmp_path / "rust", os.environ.get("CARGO_TARGET_DIR", str(CRATE / "target"))
    written = run(None, "sdk", "rust", "-o", str(crate))
    assert written.returncode == 0, written
    for features in ("--all-features", "--no-default-features"):
        cargo("test", "--locked", "--no-run", features, cwd=crate, CARGO_TARGET_DIR=target)
    assert {path.name for path in crate.glob("examples/*")} == {"feed.rs", "greeting.rs", "rest.rs", "tls.rs"}
    assert not (crate / "tests").exists()


def test_it_knows_every_error_of_the_server() -> None:
    text = (CRATE / "src" / "core" / "codes.rs").read_text(encoding="utf-8")
    known = {(code, int(status)) for code, status in re.findall(r'[A-Z_]+ = "([a-z_]+)", (\d+),', text)}
    newer = known - {(error.code, error.status) for error in _kinds(errors.KVError)}
    older = {(error.code, error.status) for error in _kinds(errors.KVError) if error.status != 500} - known
    assert (older, newer - {("idempotency_mismatch", 422)}) == (set(), set())


def _kinds(base: type[errors.KVError]) -> set[type[errors.KVError]]:
    found: set[type[errors.KVError]] = set()
    for kind in base.__subclasses__():
        found |= {kind} | _kinds(kind)
    return found


def test_it_forbids_unsafe_code_and_public_items_without_documentation() -> None:
    text = (CRATE / "src" / "lib.rs").read_text(encoding="utf-8")
    assert "#![forbid(unsafe_code)]" in text and "#![deny(missing_docs)]" in text


def test_every_source_is_of_a_size_that_one_can_read() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in Path(CRATE).glob("src/**/*.rs")}
    assert {path.name: lines for path, lines in lengths.items() if lines > 500} == {}
