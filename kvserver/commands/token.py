"""`kvserver token`: makes, lists and revokes the tokens in the file that `kvserver serve --tokens` reads."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from kvserver.access import tokenedit, tokenfile
from kvserver.access.grants import VERBS, Verb, shown
from kvserver.access.tokenedit import Change, changing
from kvserver.access.tokenfile import TokenFileError
from kvserver.access.tokens import are_in_effect
from kvserver.commands.local_store import settings_of
from kvserver.commands.options import options
from kvserver.commands.terminal import fail, say
from kvserver.settings import ServerSettings
from shards.host.board import Board, BoardError
from shards.host.logs import print_error
from shards.host.settings import SettingError, default_run_dir, env_name, option_name

HELP: Final = f"""Make, list and revoke tokens.

They stand in the file that {option_name("tokens")} names ({env_name("tokens")}), by their SHA-256 alone. A running
server takes a change over within two seconds. Each command waits for that and says which server has done so: of the one
that {option_name("data_dir")} or {option_name("run_dir")} names, and of all that have their run directory where it is
by default. If one has not, the command ends with status 1.

The file and its directory must be such that none but this user and root can write them.
"""
PATIENCE_S: Final = 5.0
"""How long a server may take to take a change over."""

HELP_NEW: Final = """Make the token NAME and print it, once: it cannot be told again.

--grant says what its bearer may: read, write, feed, admin, or several with commas; behind a colon, on which keys: all
that start with that prefix. Without one, on all keys.

\b
    kvserver token new deploy --grant read,write:flags/ --grant feed
"""
HELP_REVOKE: Final = "Take the token NAME out of the file, with the comment right above it."


def new(name: str, grant: tuple[str, ...], **given: str | None) -> None:
    """The command."""
    settings, path = _file_of(given)
    if not re.fullmatch(tokenfile.NAME, name):
        raise click.UsageError("NAME is letters, digits and . _ -, at most 64, and does not begin with a sign")
    grants = [_grant(text) for text in grant]
    token = tokenedit.new_token()
    _change(path, lambda text: tokenedit.add(text, str(path), name, token, grants))
    say(token)
    print_error(f"{path} has the token {name} now")
    _tell(settings, path)


def revoke(name: str, **given: str | None) -> None:
    """The command."""
    settings, path = _file_of(given)
    if not path.exists():
        fail(f"there is no file of tokens {path}")
    _change(path, lambda text: tokenedit.remove(text, str(path), name))
    print_error(f"{path} has the token {name} no more")
    _tell(settings, path)


def list_(**given: str | None) -> None:
    """The command."""
    settings, path = _file_of(given)
    given_open = tokenfile.is_open(path)
    try:
        tokens = tokenfile.read_open(path) if given_open else tokenfile.read(path)
    except TokenFileError as error:
        fail(error)
    width = max((len(token.grants.name) for token in tokens), default=0)
    for token in tokens:
        grants = [(verb, prefix) for verb in VERBS for prefix in getattr(token.grants, verb)]
        words = [f"{verb}:{shown(prefix)}" if prefix else verb for verb, prefix in grants]
        say(f"{token.grants.name:<{width}}  {' '.join(words)}")
    if not given_open:  # no server goes by it
        _tell(settings, path)


def _file_of(given: dict[str, Any]) -> tuple[ServerSettings, Path]:
    settings = settings_of(given)
    if settings.tokens is None:
        raise click.UsageError(f"name the file of tokens with {option_name('tokens')} or {env_name('tokens')}")
    return settings, settings.tokens


def _grant(text: str) -> tuple[str, list[Verb]]:
    """Prefix and verbs of `read,write:flags/`."""
    words, colon, prefix = text.partition(":")
    if colon and not prefix:  # as of a variable that is not set
        raise click.UsageError(f"--grant {text!r}: the prefix is empty; on all keys that is {words!r}, without a colon")
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"--grant {text!r}: the prefix is not UTF-8, which all keys are") from None
    try:
        pairs = tokenfile.pairs_of(prefix, [word.strip() for word in words.split(",")])
    except ValueError as error:
        raise click.UsageError(f"--grant {text!r}: {error}") from None
    return prefix, list(dict.fromkeys(verb for verb, _ in pairs))


def _change(path: Path, change: Change) -> None:
    try:
        changing(path, change)
    except TokenFileError as error:
        fail(error)
    except OSError as error:
        fail(f"the file of tokens {path} cannot be written: {error.strerror} ({error.filename})")


def _tell(settings: ServerSettings, path: Path) -> None:
    """Say which running servers go by the file, and wait until they do. Ends the command with 1 if one does not."""
    try:
        tokens = tokenfile.read(path)
    except TokenFileError as error:
        fail(error)
    served = behind = False
    for board in _boards(settings):
        who = f"the server of {_store(board)} (pid {board.facts.supervisor_pid})"
        if _is_file_of(board, path):
            served = True
            if _wait_until(lambda: are_in_effect(board, tokens)):  # noqa: B023
                print_error(f"{who} has taken it over")
            else:
                behind = True
                print_error(f"{who} has not taken it over within {PATIENCE_S:.0f} s: its log says why")
        elif board.path == _board_path(settings):
            theirs = board.facts.tokens
            print_error(
                f"{who} goes by another file of tokens: {theirs}"
                if theirs
                else f"{who} has no tokens: start it anew with {option_name('tokens')} {path}"
            )
        board.close()
    if not served:
        print_error(
            "no running server that is known here goes by it; one that does takes it over within two seconds "
            f"({option_name('run_dir')} makes it known)"
        )
    if behind:
        sys.exit(1)


def _store(board: Board) -> str:
    return "a store in memory" if board.facts.in_memory else board.facts.data_dir


def _boards(settings: ServerSettings) -> Iterator[Board]:
    """Boards of running servers: of the one that the settings name, and of all that use a run directory of this user's
    by default."""
    pattern = default_run_dir("*")
    paths = [path / "board" for path in pattern.parent.glob(pattern.name) if _is_ours(path)]
    named = _board_path(settings)
    for path in dict.fromkeys([*([named] if named else []), *paths]):
        try:
            board = Board.open(path)
        except (BoardError, msgspec.MsgspecError, ValueError, OSError):  # of another version, for instance
            continue
        if board.is_over():
            board.close()
        else:
            yield board


def _board_path(settings: ServerSettings) -> Path | None:
    try:
        return settings.board_path
    except SettingError:  # a store in memory, whose run directory nobody knows beforehand
        return None


def _is_ours(directory: Path) -> bool:
    """Where everybody can make directories, one of that name may be somebody else's."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_file_of(board: Board, path: Path) -> bool:
    if not board.facts.tokens:
        return False
    if board.facts.tokens == str(path.absolute()):
        return True
    try:
        return path.samefile(board.facts.tokens)
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.05)
    return True


_WHERE: Final = ("tokens", "data_dir", "run_dir")
_NAME: Final = click.Argument(["name"], metavar="NAME")
_GRANT: Final = click.Option(
    ["--grant"], multiple=True, required=True, metavar="VERBS[:PREFIX]", help="What it allows; may be repeated."
)

COMMAND = click.Group(
    "token",
    help=HELP,
    short_help="Make, list and revoke tokens.",
    commands=[
        click.Command("new", callback=new, params=[_NAME, _GRANT, *options(*_WHERE)], help=HELP_NEW),
        click.Command("list", callback=list_, params=options(*_WHERE), help="Print names and grants of all tokens."),
        click.Command("revoke", callback=revoke, params=[_NAME, *options(*_WHERE)], help=HELP_REVOKE),
    ],
)
