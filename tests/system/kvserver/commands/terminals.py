"""A real terminal: a session of tmux, whose screen tests look at and whose keys they press."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import pytest

from tests.system.harness import wait_for


class Terminal:
    """A shell's command in a terminal of its own, of `width` columns and `height` lines; ended with the block."""

    def __init__(self, command: str, environ: dict[str, str], width: int = 110, height: int = 24) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._directory = tempfile.mkdtemp(prefix="kv-tmux-")
        self._tmux = ["tmux", "-S", str(Path(self._directory) / "socket"), "-f", "/dev/null"]
        kept = {name: text for name, text in environ.items() if not name.startswith("TMUX")}
        kept |= {"TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self._environ = kept
        size = ["-x", str(width), "-y", str(height)]
        self._run("new-session", "-d", *size, "-s", "t", f"{command}; printf 'status %s\\n' $?; exec sleep 1000")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def screen(self) -> str:
        """What the terminal shows."""
        return self._run("capture-pane", "-p", "-t", "t")

    def see(self, words: str, timeout_s: float = 30.0) -> str:
        """Wait until the terminal shows `words`, and return all that it shows."""
        try:
            wait_for(lambda: words in self.screen(), repr(words), timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None
        return self.screen()

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self._run("send-keys", "-t", "t", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._run("send-keys", "-t", "t", "-l", text)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=self._environ, capture_output=True, text=True, check=False, timeout=20
        )
        assert done.returncode == 0, (shlex.join(words), done.stderr)
        return done.stdout


def of_a_user(environ: dict[str, str]) -> dict[str, str]:
    """The environment of a user at a terminal."""
    return os.environ | environ
