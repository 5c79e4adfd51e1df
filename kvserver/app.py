"""The REST application: which resource serves which route. Routing itself and errors: `kvserver.rest.routing`."""

from __future__ import annotations

import falcon.asgi

from kvserver.access.tickets import Tickets
from kvserver.console import files as console
from kvserver.description.pictures import read_pictures
from kvserver.description.resources import (
    ChapterPage,
    ConsoleFiles,
    ConsolePage,
    Docs,
    Error,
    Errors,
    OpenAPI,
    Pictures,
    Reference,
    Root,
    SdkFiles,
    SdkPage,
    SearchIndex,
)
from kvserver.http import routes as target
from kvserver.rest.batch import BatchResource, SmallBatchRoad
from kvserver.rest.kv import KeyOfVersion1
from kvserver.rest.many import Many, SmallListRoad
from kvserver.rest.memorykv import Feed, Key, Keys, Ping, Prefix, Wal
from kvserver.rest.routing import App, Foresight, MinRevision, Routes, add_error_handlers
from kvserver.rest.server.status import Live, Ready, Status
from kvserver.rest.server.tickets import TicketOffice
from kvserver.rest.server.whoami import WhoAmI
from kvserver.sdk.files import read_files
from kvserver.store.client import StoreClient
from kvserver.web.context import WorkerContext
from shards.host.board import Board
from shards.host.shard_states import ShardStates


def create_app(store: StoreClient, board: Board, context: WorkerContext) -> App:
    """Build the application of one worker.

    Args:
        store: what reads and writes go through.
        board: where figures come from.
        traffic: the worker's load, tokens and limits; it is given the application's `foresee`.
    """
    read_states = ShardStates(board).read_all
    routes = Routes()
    routes.add_route(target.ROOT, Root())
    routes.add_route(target.PING, Ping())
    routes.add_route(target.KEY, Key(store, context))
    routes.add_route(target.KEYS, Keys(store, context))
    routes.add_route(target.PREFIX, Prefix(store, context))
    routes.add_route(target.WAL, Wal())
    routes.add_route(target.FEED, Feed())
    routes.add_route(target.KV, KeyOfVersion1(store, context))
    routes.add_route(target.MANY, Many(store, context))
    context.small_lists = SmallListRoad(store)
    routes.add_route(target.BATCH, BatchResource(store, context))
    context.small_batches = SmallBatchRoad(store, context)
    routes.add_route(target.TICKETS, TicketOffice(Tickets(board, context.tokens), context.tokens))
    routes.add_route(target.WHOAMI, WhoAmI(context.tokens))
    routes.add_route(target.STATUS, Status(board, read_states))
    routes.add_route(target.LIVE, Live())
    routes.add_route(target.READY, Ready(board, read_states))
    routes.add_route(target.OPENAPI, OpenAPI(context.tokens))
    routes.add_route(target.DOCS, Docs())
    routes.add_route(target.CHAPTER, ChapterPage())
    routes.add_route(target.PICTURE, Pictures(read_pictures()))
    routes.add_route(target.REFERENCE, Reference())
    routes.add_route(target.SEARCH, SearchIndex())
    routes.add_route(target.ERRORS, Errors())
    routes.add_route(target.ERROR, Error())
    routes.add_route(target.SDK, SdkPage())
    routes.add_route(target.SDK_FILE, SdkFiles(read_files()))
    routes.add_route(target.CONSOLE, ConsolePage(console.read_page()))
    routes.add_route(target.CONSOLE_FILE, ConsoleFiles(console.read_files()))
    app: App = falcon.asgi.App(router=routes)  # type: ignore[call-overload]
    app.resp_options.default_media_type = None  # type: ignore[assignment]  # an empty answer has no type
    add_error_handlers(app)
    if store.reading is not None:
        app.add_middleware(MinRevision(store.reading))
    context.find_refusal = Foresight(app, routes).find_refusal
    return app


app = create_app
"""What gunicorn loads. The worker calls it after its fork, with its client of the store and its board."""
