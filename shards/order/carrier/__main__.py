"""`python -m shards.order.carrier`: carries the order of a cluster between NATS JetStream and the shard.

It keeps nothing: when it starts anew, the shard says where it is. It follows for nobody while another process speaks
under the name of this machine: that one would have to stop.

`--look-for-namesake` only finds out whether another one does, and ends with 1 if so.

`--create N` makes the stream, with N replicas and the first message that standard input holds, and ends. With
`--first S` it replaces the stream by an empty one whose first message will have the sequence S.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import Final, cast

import nats.errors

from shards.host import logs, process
from shards.order import link, stream
from shards.order.carrier.create import create
from shards.order.carrier.engine import Engine
from shards.order.carrier.follow import Follow
from shards.order.carrier.frames import prepend_frame, read_frames
from shards.order.carrier.tidings import Carry, Namesake
from shards.order.order import OrderError, OrderUnreachable

_FIND_S: Final = 1.5  # for which an engine may take to answer who looks for a namesake

log = logging.getLogger("order")


async def serve(options: argparse.Namespace) -> None:
    """Serve shards until SIGTERM. A new connection ends the one of its kind before: there is one shard."""
    engine = Engine(options)
    await engine.keep_connecting()
    namesake = Namesake(engine, options.node)
    await namesake.listen()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    current: dict[type, asyncio.Task[None]] = {}

    async def on_shard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                frames = read_frames(reader)
                served: Follow | Carry
                async for first in frames:
                    if isinstance(first, link.Listen):
                        served = Carry(engine, options.node, writer)
                    else:
                        served = Follow(engine, options, namesake, writer)
                    if type(served) in current:
                        current[type(served)].cancel()
                    current[type(served)] = cast("asyncio.Task[None]", asyncio.current_task())
                    await served.run(prepend_frame(first, frames))
            except* OSError as group:
                log.debug("the shard is gone: %s", group.exceptions[0])
            except* Exception:
                log.exception("a connection of the shard is given up")
        writer.close()

    path = Path(options.run_dir) / link.SOCKET_NAME
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(on_shard, path, limit=1 << 20)
    async with server:
        await stopped.wait()
        path.unlink(missing_ok=True)
        for task in current.values():
            task.cancel()
    await engine.close()


async def look_for_namesake(options: argparse.Namespace) -> None:
    """Find out whether another process works under this machine's name; nobody does as far as nobody can be asked.

    Raises `OrderError` if one does.
    """
    engine = Engine(options)
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(_FIND_S):
            await engine.connect()
        namesake = Namesake(engine, options.node)
        await namesake.listen()
        await namesake.check()
    await engine.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards.order.carrier", description=__doc__)
    parser.add_argument("--run-dir", required=True, help="Where the socket is made.")
    parser.add_argument("--node", required=True, help="The name of this machine.")
    parser.add_argument("--servers", required=True, help="URLs of the NATS servers, with commas, the own one first.")
    parser.add_argument("--monitors", default="", help="URLs of their monitoring ports, to ask whether they flush.")
    parser.add_argument("--may-lose", action="store_true", help="Take an engine that may lose messages.")
    parser.add_argument("--user-file", default="", help="A file that holds NAME:PASSWORD.")
    for name in ("tls-ca", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", default="", help="A file in PEM.")
    parser.add_argument("--create", type=int, default=0, metavar="N", help="Make the stream, and end.")
    parser.add_argument("--first", type=int, default=1, metavar="S", help="Replace the stream by an empty one.")
    parser.add_argument("--max-bytes", type=int, default=stream.MAX_BYTES, help="Of the stream to be made.")
    parser.add_argument("--look-for-namesake", action="store_true", help="Is another one of this name there? And end.")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="text", choices=logs.FORMATS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    process.keep_standard_streams()
    options = _parser().parse_args(arguments)
    process.die_with_starter()
    logs.configure_logging(options.log_level, "order", options.log_format)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of how connections with TLS end
    do = create if options.create else look_for_namesake if options.look_for_namesake else serve
    try:
        asyncio.run(do(options))
    except OrderError as error:
        log.critical("%s", error)
        return link.NO_ANSWER if isinstance(error, OrderUnreachable) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
