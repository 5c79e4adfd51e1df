"""Reads LMDB files that may be torn or forged, in a process of its own: `python -m shards.backup.sandbox`.

LMDB trusts its file. Pages that point outside of it are a SIGBUS, other lies a SIGSEGV or a failed assertion, and what
dies of them must not be the command or the supervisor that only wanted to know. The process reads requests from its
standard input and writes answers to its standard output, a line of JSON each; after its end the next request starts
another. What it says itself goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import msgspec

from shards.backup.check import Finding, check_map, check_snapshot
from shards.host.process import PARENT_VARIABLE, die_with_starter
from shards.log.manifest import Manifest
from shards.maps.layout import MapError, Meta, read_meta


class _Meta(msgspec.Struct, tag=True):
    path: bytes
    subdir: bool


class _CheckSnapshot(msgspec.Struct, tag=True):
    directory: bytes
    manifest: Manifest


class _CheckMap(msgspec.Struct, tag=True):
    path: bytes
    shard: int
    shards: int
    data_dir: bytes
    manifest: Manifest
    served: bool
    work: bytes


class _Answer(msgspec.Struct):
    meta: Meta | None = None
    finding: Finding | None = None
    error: str = ""


_Request = _Meta | _CheckSnapshot | _CheckMap
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class Sandbox:
    """The process, started with the first request. A context manager, for one thread.

    The methods are those of `layout` and `check`. Whatever a file does to the process that reads it is a `MapError`,
    or a finding that is not good.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read_meta(self, path: Path, *, subdir: bool = True) -> Meta:
        """See `layout.read_meta`. Raises `MapError`."""
        answer = self._request(_Meta(_encode_path(path), subdir), f"the map {path}")
        if answer.meta is None:
            raise MapError(answer.error)
        return answer.meta

    def check_snapshot(self, directory: Path, manifest: Manifest) -> Finding:
        """See `check.check_snapshot`."""
        return self._request_finding("snapshot", _CheckSnapshot(_encode_path(directory), manifest), "one of its files")

    def check_map(
        self, path: Path, shard: int, shards: int, data_dir: Path, manifest: Manifest, *, served: bool
    ) -> Finding:
        """See `check.check_map`."""
        with tempfile.TemporaryDirectory(prefix="kvserver-check-") as work:  # here, so that it is removed in any case
            request = _CheckMap(
                _encode_path(path), shard, shards, _encode_path(data_dir), manifest, served, _encode_path(Path(work))
            )
            return self._request_finding(f"map {shard}", request, "the map, or what it is compared with,")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request_finding(self, subject: str, request: _Request, what: str) -> Finding:
        try:
            answer = self._request(request, what)
        except MapError as error:
            return Finding(subject, False, str(error))
        return answer.finding or Finding(subject, False, answer.error)

    def _request(self, request: _Request, what: str) -> _Answer:
        """Return the answer to a request. Raises `MapError` if the process ends without one."""
        process = self._process
        if process is None:
            process = self._process = _start_process()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if line.endswith(b"\n"):
            return _decode_answer(line)
        status = process.wait()
        self.close()
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        raise MapError(f"{what} ends the process that reads it ({how}): it is damaged, or never was a map")


def _start_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "shards.backup.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
    )


def _encode_path(path: Path) -> bytes:
    """Encode an absolute path: a name need not be UTF-8."""
    return os.fsencode(path.absolute())


def _decode_path(path: bytes) -> Path:
    return Path(os.fsdecode(path))


def _answer(request: _Request) -> _Answer:
    try:
        match request:
            case _Meta(path, subdir):
                return _Answer(meta=read_meta(_decode_path(path), subdir=subdir))
            case _CheckSnapshot(directory, manifest):
                return _Answer(finding=_made_utf_8(check_snapshot(_decode_path(directory), manifest)))
            case _CheckMap() as asked:
                found = check_map(
                    _decode_path(asked.path),
                    asked.shard,
                    asked.shards,
                    _decode_path(asked.data_dir),
                    asked.manifest,
                    served=asked.served,
                    work=_decode_path(asked.work),
                )
                return _Answer(finding=_made_utf_8(found))
    except MapError as error:
        return _Answer(error=_utf_8(str(error)))
    except Exception as error:  # whatever a file that was made up leads to
        return _Answer(error=_utf_8(f"it cannot be read: {type(error).__name__}: {error}"))


def _made_utf_8(finding: Finding) -> Finding:
    return finding._replace(text=_utf_8(finding.text))


def _utf_8(text: str) -> str:
    """`text` as JSON can carry it: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def main() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_starter()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its end is expected
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(_answer(_decode_request(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
