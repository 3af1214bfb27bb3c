"""The gateway as an ASGI application.

`make_app` is all that a server needs. Routes beside its own can be mounted around it; it
answers everything below ``/restic/``, ``/data/v1/`` and ``/archives/``, and below ``/s3``
where it was given an index of buckets.
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
from holdfast.gateway.buckets import BucketObjects
from holdfast.gateway.downloads import Downloads
from holdfast.gateway.restic_rest import ResticRest
from holdfast.gateway.s3.index import BucketIndex
from holdfast.gateway.s3.peer import Networks
from holdfast.gateway.s3.routes import S3Surface
from holdfast.gateway.s3.service import Buckets
from holdfast.gateway.workroom import Limits, Workroom

DEFAULT_LIMITS = Limits()


def make_app(
    authority: Authority,
    *,
    limits: Limits = DEFAULT_LIMITS,
    cache_directory: str | None = None,
    index: BucketIndex | None = None,
    trusted_proxies: Networks = (),
) -> Starlette:
    """The gateway; `authority` and `index` are closed by whoever made them.

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
    buckets = None
    if index is not None:
        buckets = Buckets(room, index)
        routes += S3Surface(buckets, trusted_proxies=trusted_proxies).routes()
        routes += BucketObjects(buckets, trusted_proxies=trusted_proxies).routes()
    app = Starlette(routes=routes, lifespan=partial(_lifespan, room, buckets))
    # A path with one slash too few is another path, and no redirection keeps a body.
    app.router.redirect_slashes = False
    app.state.workroom = room
    app.state.buckets = buckets
    return app


@asynccontextmanager
async def _lifespan(
    room: Workroom, buckets: Buckets | None, _app: Starlette
) -> AsyncIterator[None]:
    if buckets is not None:
        buckets.sweeper.start()
    try:
        yield
    finally:
        if buckets is not None:
            await asyncio.to_thread(buckets.sweeper.stop)
        # In a thread: what is under way may still need the event loop to come to its end.
        await asyncio.to_thread(room.close)
