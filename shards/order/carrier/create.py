"""Makes the stream that is the order of a cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import Final

import nats.errors

from shards.order import stream
from shards.order.carrier.engine import WATCH_S, Engine
from shards.order.order import OrderError, OrderUnreachable

_CREATE_S: Final = 60.0

log = logging.getLogger("order")


async def create(options: argparse.Namespace) -> None:
    """Make the stream, and put its first message into it. Raises `OrderError` if there is one with messages.

    With `--first` one that is there is deleted, and no message is put into the new one.
    """
    engine = Engine(options)
    await engine.keep_connecting()
    first = sys.stdin.buffer.read()
    end = asyncio.get_running_loop().time() + _CREATE_S
    problem, sequence = "", options.first
    while asyncio.get_running_loop().time() < end:
        try:
            if sequence > 1:
                await engine.request(stream.DELETE, b"", 5.0)  # its answer may be that there is none
            else:
                await _require_none(engine)
            request = stream.new_stream(options.create, options.max_bytes, sequence)
            facts = stream.read_info(await engine.request(stream.CREATE, request, 5.0))
            await engine.check_flushing(facts.servers)
            if sequence > 1:
                await engine.client.close()
                return
            headers = {"Nats-Expected-Last-Sequence": "0"}
            reply = await engine.client.request(f"{stream.LOG}.{options.node}", first, timeout=5, headers=headers)
            if stream.is_refusal(reply.headers, reply.data):
                raise stream.EngineError(reply.data.decode(errors="replace"))
            await engine.close()
            return
        except (stream.EngineError, nats.errors.Error, TimeoutError) as error:
            if str(error) != problem:
                log.warning("the stream cannot be made yet: %s", error)
            problem = str(error)
            await asyncio.sleep(WATCH_S / 4)
    raise OrderUnreachable(f"the stream could not be made within {_CREATE_S:g} s: {problem}")


async def _require_none(engine: Engine) -> None:
    """Check that the order has not begun. Raises `OrderError`, and `EngineError` if that is not known."""
    try:
        facts = await engine.look()
    except stream.NoStream:
        return
    if facts.last:
        raise OrderError(
            f"there is a stream {stream.NAME} already, with {facts.last} messages: the order has begun, and machines "
            "that wait for it go on by themselves"
        )
