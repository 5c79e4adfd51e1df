"""The command that uses a server: its common options, its client and its output, and what becomes of its errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kvserver.commands.loading import without_collection
from kvserver.commands.parts.output import Output, json_line
from kvserver.commands.parts.servers import read_token, server_options, server_url
from shards.host.logs import print_error

if TYPE_CHECKING:  # completion and help pages need no connection
    from kvserver.client import Client
    from kvserver.client.errors import KVError, PreconditionFailed

TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 5.0
_COMMON: Final = ("url", "token_file", "patience", "timeout", "as_json", "no_color", "quiet")


class Invocation:
    """What a command works with.

    Attributes:
        as_json: `--json` was given.
        url: of the server, as it was given.
        token_file: as it was given.
        timeout: seconds for one answer.
        out: where the command writes.
    """

    def __init__(
        self,
        url: str | None,
        token_file: Path | None,
        patience: float,
        timeout: float,
        as_json: bool,
        no_color: bool,
        quiet: bool,
    ) -> None:
        self.as_json, self.url = as_json, url
        self.out = Output(no_color, quiet)
        self.token_file, self._patience, self.timeout = token_file, patience, timeout
        self._client: Client | None = None
        self._told_retry = False

    @property
    def client(self) -> Client:
        """The client of the server, made at its first use. Raises `click.UsageError`."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self, patience: float | None = None) -> Client:
        """Return a client of its own, which the caller closes. Raises `click.UsageError`.

        `patience`: seconds, instead of the option's.
        """
        from kvserver.client import Client

        patience = self._patience if patience is None else patience
        try:
            token = read_token(self.token_file)
            return Client(
                server_url(self.url), token=token, timeout=self.timeout, patience=patience, on_retry=self._tell_retry
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    def close(self) -> None:
        """Close the client, and send what was written."""
        if self._client is not None:
            self._client.close()
        self.out.flush()

    def _tell_retry(self, error: KVError, attempts: int, seconds: float) -> None:
        """Say once that a request is repeated, if somebody waits for it at a terminal."""
        if self.out.is_for_people and not self._told_retry and not self.as_json:
            self._told_retry = True
            self.out.say(f"{error}; trying again for up to {self._patience:g} s")

    def report(self, error: KVError, words: str = "") -> int:
        """Say why a call failed, for people or as JSON, and return the exit status.

        `words`: the reason in words that fit the command better than the client's.
        """
        from kvserver.commands.parts import reports  # with the client, which help pages need not load

        if self.as_json:
            if words:
                error.detail = words
            with suppress(OSError, ValueError):
                print(json_line(reports.problem_document(error)), file=sys.stderr, flush=True)
        else:
            print_error(words or reports.words_of(error))
        return reports.status_of(error)

    def report_absent(self, key: str) -> int:
        """Say that there is no such key, and return the exit status."""
        from kvserver.client.errors import NotFound

        return self.report(NotFound(), f"no such key: {key}")

    def report_condition(self, error: PreconditionFailed, key: str, if_revision: int | None) -> int:
        """Say which revision there is instead, and return the exit status."""
        if not if_revision:
            return self.report(error, f"{key} exists already, at revision {error.revision}")
        if not error.revision:
            return self.report(error, f"{key} does not exist, so it is not at revision {if_revision}")
        return self.report(error, f"{key} is at revision {error.revision}, not {if_revision}")


class ClientCommand(click.Command):
    """A command that uses a server: it has the common options, and its callback gets a `Invocation` first.

    The callback returns the exit status, or None for 0. Errors of the client are printed, and become exit statuses.
    """

    def __init__(
        self,
        name: str,
        callback: Callable[..., int | None],
        params: Iterable[click.Parameter] = (),
        *,
        help: str,
        **more: Any,
    ) -> None:
        more.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(name, callback=callback, params=[*params, *_common_options()], help=help, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and return its exit status."""
        with without_collection():
            from kvserver.client.errors import KVError

        run = Invocation(**{name: ctx.params.pop(name) for name in _COMMON})
        try:
            return ctx.invoke(self.callback, run, **ctx.params) if self.callback else None
        except KVError as error:
            return run.report(error)
        finally:
            run.close()


class TailCommand(ClientCommand):
    """A command that uses a server, and takes another command at its end, which the callback gets as `argv`."""

    def __init__(self, *arguments: Any, mark: str, required: bool, **more: Any) -> None:
        """`mark`: the word before the other command; `required`: there must be one."""
        super().__init__(*arguments, **more)
        self._mark, self._is_required = mark, required

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the other command away, and parse the rest. Raises `click.UsageError`."""
        argv: list[str] = []
        if self._mark in args:
            at = args.index(self._mark)
            args, argv = args[:at], args[at + 1 :]
            if not argv and not ctx.resilient_parsing:
                raise click.UsageError(f"{self._mark} needs a command after it", ctx)
        rest = super().parse_args(ctx, args)
        if self._is_required and not argv and not ctx.resilient_parsing:
            raise click.UsageError(f"no command to run: write it after {self._mark}", ctx)
        ctx.params["argv"] = argv
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the line of usage."""
        tail = f"{self._mark} CMD..."
        return [*super().collect_usage_pieces(ctx), tail if self._is_required else f"[{tail}]"]


def _common_options() -> list[click.Parameter]:
    return [
        *server_options(PATIENCE_S, TIMEOUT_S),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, one object per line; errors too."),
        click.Option(["--no-color"], is_flag=True, help="No colors on terminals (also: the variable NO_COLOR)."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print only errors to standard error."),
    ]
