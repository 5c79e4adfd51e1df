"""`kvserver bench`: measures how many requests a second a server answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final

import click

from kvserver.client.core.paths import key_path
from kvserver.client.transport.address import Address
from kvserver.client.transport.servers import find_servers
from kvserver.commands.operate.load import LoadFailed, Measured, measure
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.servers import read_token, server_url
from kvserver.commands.parts.statuses import FAILED, UNREACHABLE
from kvserver.commands.parts.texts import aligned, latency_text
from kvserver.commands.parts.words import Duration
from shards.host.logs import print_error

HELP = """Measure how many PUTs and GETs a second the server answers, and how long each takes.

It writes keys below a prefix of its own, and deletes them afterwards. One thread sends the requests, and takes about
one processor: on the server's machine the server has one less.

\b
Examples:
  kvserver bench --seconds 1s
  kvserver bench --connections 64 --value 1000 --seconds 500ms --json
"""
_HEADERS: Final = ("measured", "requests/s", "p50", "p99", "most", "failed")


def measure_server(run: Invocation, seconds: float, connections: int, size: int, keys: int, prefix: str) -> int:
    """Run the command; return the exit status."""
    url = server_url(run.url)
    address = find_servers(url).all[0].address
    if address.scheme != "http":
        raise click.UsageError(f"bench measures http, not {address.scheme}: name the server behind the proxy")
    run.client.ping()  # reports better than a broken connection why there is no answer
    prefix += f"bench-{secrets.token_hex(4)}/"
    try:
        found = list(_measure_all(run, address, prefix, seconds, connections, size, keys))
    except LoadFailed as error:
        print_error(str(error))
        return UNREACHABLE
    finally:
        run.client.delete_prefix(prefix)
    _show(run, found)
    return FAILED if any(_failures(measured) for _, measured in found) else 0


def _measure_all(
    run: Invocation, address: Address, prefix: str, seconds: float, connections: int, size: int, keys: int
) -> Iterator[tuple[str, Measured]]:
    token = read_token(run.token_file)
    value = b"v" * size
    names = [f"{prefix}{number}" for number in range(keys)]
    for verb in ("PUT", "GET"):
        requests = [request_bytes(address, verb, name, value if verb == "PUT" else b"", token) for name in names]
        with run.out.progress(verb, seconds) as tell:
            measured = measure(address, requests, connections, seconds, tell)
        yield verb, measured


def request_bytes(address: Address, verb: str, key: str, body: bytes, token: str | None) -> bytes:
    """Return a whole request."""
    lines = [f"{verb} {address.path}{key_path(key)} HTTP/1.1", f"Host: {address.host}:{address.port}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if verb == "PUT":
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _show(run: Invocation, found: list[tuple[str, Measured]]) -> None:
    if run.as_json:
        for verb, measured in found:
            run.out.document(_document(verb, measured))
        return
    rows = [
        (
            verb,
            f"{measured.rate:,.0f}",
            latency_text(measured.quantile(0.5)),
            latency_text(measured.quantile(0.99)),
            latency_text(max(measured.latencies, default=0.0)),
            f"{_failures(measured):,}",
        )
        for verb, measured in found
    ]
    for line in aligned([_HEADERS, *rows], right=frozenset(range(1, len(_HEADERS)))):
        run.out.line(line)


def _document(verb: str, measured: Measured) -> dict[str, Any]:
    return {
        "measured": verb,
        "seconds": round(measured.seconds, 3),
        "requests": len(measured.latencies),
        "rate": round(measured.rate, 1),
        "p50_s": round(measured.quantile(0.5), 6),
        "p99_s": round(measured.quantile(0.99), 6),
        "most_s": round(max(measured.latencies, default=0.0), 6),
        "statuses": {str(status): count for status, count in sorted(measured.statuses.items())},
    }


def _failures(measured: Measured) -> int:
    """Return how many requests were not done. A GET of a key that no PUT has reached yet is none of them."""
    return sum(count for status, count in measured.statuses.items() if status >= 400 and status != 404)


COMMAND = ClientCommand(
    "bench",
    measure_server,
    [
        click.Option(
            ["--seconds"],
            type=Duration(above_zero=True),
            default=5.0,
            metavar="TIME",
            help="How long PUTs, and then GETs, are measured. Default: 5s.",
        ),
        click.Option(
            ["--connections"],
            type=click.IntRange(1, 1000),
            default=16,
            metavar="N",
            help="Number of connections, one request at a time on each. Default: 16.",
        ),
        click.Option(
            ["--value", "size"],
            type=click.IntRange(0, 5_000_000),
            default=100,
            metavar="BYTES",
            help="Size of values. Default: 100.",
        ),
        click.Option(
            ["--prefix"],
            type=KeyName(),
            default="",
            metavar="PREFIX",
            help="Write below this prefix, for a token that may not write elsewhere.",
        ),
        click.Option(
            ["--keys"],
            type=click.IntRange(1, 100_000),
            default=1000,
            metavar="N",
            help="Number of keys. Default: 1000.",
        ),
    ],
    help=HELP,
)
