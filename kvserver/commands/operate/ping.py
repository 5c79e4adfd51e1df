"""`kvserver ping`: shows how long a request takes there and back."""

from __future__ import annotations

import time

import click

from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.texts import latency_text
from kvserver.commands.parts.words import Duration

HELP = """Send a request to the server, and show how long the answer took. The status is 6 if it cannot be reached.

\b
Examples:
  kvserver ping
  kvserver ping -c 5 --interval 100ms
"""


def ping_server(run: Invocation, count: int, interval: float) -> None:
    """Run the command."""
    times = []
    for number in range(count):
        if number:
            time.sleep(interval)
        times.append(run.client.ping())
        if run.as_json:
            run.out.document({"seconds": round(times[-1], 6)})
        else:
            run.out.line(f"pong  {latency_text(times[-1])}")
        run.out.flush()
    if count > 1 and not run.as_json:
        mean = sum(times) / len(times)
        run.out.say(f"least {latency_text(min(times))}, mean {latency_text(mean)}, most {latency_text(max(times))}")


COMMAND = ClientCommand(
    "ping",
    ping_server,
    [
        click.Option(
            ["-c", "--count"], type=click.IntRange(1), default=1, metavar="N", help="Number of requests. Default: 1."
        ),
        click.Option(
            ["--interval"], type=Duration(), default=1.0, metavar="TIME", help="Time between two requests. Default: 1s."
        ),
    ],
    help=HELP,
)
