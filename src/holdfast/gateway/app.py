"""The gateway as an ASGI application.

`make_app` is all that a server needs. Routes beside its own can be mounted around it; it
answers everything below ``/restic/``, ``/data/v1/`` and ``/archives/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette

from holdfast.gateway.archives import Archives
from holdfast.gateway.authority import Authority
from holdfast.gateway.browsing import Browsing
from holdfast.gateway.downloads import Downloads
from holdfast.gateway.restic_rest import ResticRest
from holdfast.gateway.workroom import Limits, Workroom

DEFAULT_LIMITS = Limits()


def make_app(
    authority: Authority,
    *,
    limits: Limits = DEFAULT_LIMITS,
    cache_directory: str | None = None,
) -> Starlette:
    """The gateway; `authority` is closed by whoever made it.

    `cache_directory` keeps indexes and trees between runs; without one they are kept in a
    temporary directory. Where the application is mounted in another, that one has to run
    `lifespan`, or to call ``app.state.workroom.close()`` in a thread at its end.
    """
    room = Workroom(authority, limits, cache_directory)
    routes = [
        *ResticRest(room).routes(),
        *Browsing(room).routes(),
        *Downloads(room).routes(),
        *Archives(room).routes(),
    ]
    app = Starlette(routes=routes, lifespan=partial(_lifespan, room))
    # A path with one slash too few is another path, and no redirection keeps a body.
    app.router.redirect_slashes = False
    app.state.workroom = room
    return app


@asynccontextmanager
async def _lifespan(room: Workroom, _app: Starlette) -> AsyncIterator[None]:
    try:
        yield
    finally:
        # In a thread: what is under way may still need the event loop to come to its end.
        await asyncio.to_thread(room.close)
