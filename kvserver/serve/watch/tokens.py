"""Applies changes of the token file while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvserver.access import tokenfile
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import Token, are_published, publish_tokens
from shards.host.board import Board
from shards.host.logs import Recurring

log = logging.getLogger(__name__)
_not_looked_at = Recurring(log, logging.ERROR, "cannot check the token file %s")

LOOK_S = 0.4
"""Interval of checks. A content counts once two checks have seen it: a program that writes the file in place leaves
half of it for a moment, which may be a valid token file, too."""

STOP_S = 1.0


class FileContent(NamedTuple):
    """Result of a check: the file's text, or the error in `wrong`."""

    text: str
    wrong: str


class TokenWatch:
    """Checks the token file in a thread of its own: the file may be on a disk that hangs.

    Each check reads the file by its path: the file or a link on the way may be replaced without new time stamps.
    """

    def __init__(self, board: Board, path: Path, tokens: Sequence[Token]) -> None:
        """`tokens`: the tokens of `path`, already in effect."""
        self._board, self._path, self._in_effect = board, path, list(tokens)
        self._seen: FileContent | None = None
        self._settled: FileContent | None = None  # the last content acted upon
        self._wrong = ""  # its error, if it was not applied
        self._asked, self._wake, self._stopping = False, threading.Event(), False
        self._thread = threading.Thread(target=self._watch_file, name="tokens", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. If it waits for a hung disk it is abandoned and dies with the process."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def check_now(self) -> None:
        """Check now, apply the content at once, and report an error in it again."""
        self._asked = True
        self._wake.set()

    def _watch_file(self) -> None:
        while True:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            if self._stopping:
                return
            asked, self._asked = self._asked, False
            try:
                self.check_file(asked)
            except Exception:  # any error: the tokens stay in effect, and the next check retries
                _not_looked_at.report(self._path, error=True)

    def check_file(self, asked: bool = False) -> None:
        """Check the file once, and publish the tokens in effect again if their file in the run directory is missing.

        `asked`: apply the content although only this check has seen it. Raises `OSError`.
        """
        if not are_published(self._board):
            log.warning("the tokens were removed from the run directory and are published again")
            publish_tokens(self._board, self._in_effect)
        try:
            found = FileContent(tokenfile.read_text(self._path), "")
        except TokenFileError as error:
            found = FileContent("", str(error))
        unchanged, self._seen = found == self._seen, found
        if asked or (unchanged and found != self._settled):
            self._act_on(found, asked)

    def _act_on(self, found: FileContent, asked: bool) -> None:
        self._settled, wrong = found, found.wrong
        if not wrong:
            try:
                self._take_over(tokenfile.parse_tokens(found.text, str(self._path)), asked)
            except TokenFileError as error:
                wrong = str(error)
            except OSError as error:
                self._settled = None  # a shortage of space or descriptors is temporary: retry
                wrong = f"cannot pass the new ones to the other processes: {error}"
        if wrong and (asked or wrong != self._wrong):
            log.error("the tokens that are in effect stay: %s", wrong)
        self._wrong = wrong

    def _take_over(self, tokens: list[Token], asked: bool) -> None:
        if tokens != self._in_effect:
            publish_tokens(self._board, tokens)
            self._in_effect = tokens
        elif not (asked or self._wrong):
            return
        log.info("tokens are in effect: %s", ", ".join(token.grants.name for token in tokens) or "none")
