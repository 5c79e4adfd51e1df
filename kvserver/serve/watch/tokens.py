"""Keeps the tokens in effect what the file of tokens says, while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvserver.access import tokenfile
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import Token, are_published, publish
from shards.host.board import Board
from shards.host.logs import Recurring

log = logging.getLogger(__name__)
_not_looked_at = Recurring(log, logging.ERROR, "the file of tokens %s was not looked at")

LOOK_S = 0.4
"""Between looks at the file. What two of them have seen counts: who writes it in place leaves half of it for a moment,
which may be a file of tokens, too."""

STOP_S = 1.0


class Found(NamedTuple):
    """What a look has found: the file's text, or what is wrong with the file."""

    text: str
    wrong: str


class TokenWatch:
    """Looks at the file of tokens in a thread of its own: it may be on a disk that hangs.

    The file is read each time, by its path: it may be replaced, or a link on the way, and time stamps may stay.
    """

    def __init__(self, board: Board, path: Path, tokens: Sequence[Token]) -> None:
        """`tokens`: those of `path` that are in effect."""
        self._board, self._path, self._in_effect = board, path, list(tokens)
        self._seen: Found | None = None
        self._settled: Found | None = None  # what was acted upon last
        self._wrong = ""  # what kept it from counting
        self._asked, self._wake, self._stopping = False, threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="tokens", daemon=True)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. One that waits for a hung disk is left behind: it dies with the process."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def look_now(self) -> None:
        """Look at once, and count what is there; say again what is wrong with it."""
        self._asked = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            if self._stopping:
                return
            asked, self._asked = self._asked, False
            try:
                self.look(asked)
            except Exception:  # whatever it is: the tokens in effect hold, and it is looked again
                _not_looked_at.report(self._path, error=True)

    def look(self, asked: bool = False) -> None:
        """One look. `asked`: what it finds counts though it was not seen before. Also sees to it that the tokens in
        effect are where processes that start look for them."""
        if not are_published(self._board):
            log.warning("the tokens were removed from the run directory by somebody: they are put there again")
            publish(self._board, self._in_effect)
        try:
            found = Found(tokenfile.text_of(self._path), "")
        except TokenFileError as error:
            found = Found("", str(error))
        stands, self._seen = found == self._seen, found
        if asked or (stands and found != self._settled):
            self._settle(found, asked)

    def _settle(self, found: Found, asked: bool) -> None:
        self._settled, wrong = found, found.wrong
        if not wrong:
            try:
                self._take_over(tokenfile.parse(found.text, str(self._path)), asked)
            except TokenFileError as error:
                wrong = str(error)
            except OSError as error:
                self._settled = None  # want of space or of descriptors passes: it is tried again
                wrong = f"they cannot be handed to the other processes: {error}"
        if wrong and (asked or wrong != self._wrong):
            log.error("the tokens that are in effect stay: %s", wrong)
        self._wrong = wrong

    def _take_over(self, tokens: list[Token], asked: bool) -> None:
        if tokens != self._in_effect:
            publish(self._board, tokens)
            self._in_effect = tokens
        elif not (asked or self._wrong):
            return
        log.info("tokens are in effect: %s", ", ".join(token.grants.name for token in tokens) or "none")
