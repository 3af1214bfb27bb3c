"""restic's REST protocol over the stores of regions (its ``doc/REST_backend.rst``).

An object is created once and never replaced: what is there is left as it is, and the same
bytes sent again are answered as if they had come first, because a client whose answer was lost
repeats its request (and, where that fails, deletes the object). Every object but the config is
named by the SHA-256 of its bytes, and is refused under any other name before anything is
stored. Nothing here is decoded; passwords of repositories are not needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from itertools import islice

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.errors import Forbidden, NotFound, ObjectExists, StoreError
from holdfast.gateway.answer import Refused, plain_errors
from holdfast.gateway.authority import Grant, GrantedRight
from holdfast.gateway.objects import announced_length, receive_body, send_object
from holdfast.gateway.outflow import Outflow, then
from holdfast.gateway.pump import Pump, PumpSink
from holdfast.gateway.workroom import Workroom
from holdfast.store.protocol import ObjectStore

V1, V2 = "application/vnd.x.restic.rest.v1", "application/vnd.x.restic.rest.v2"

_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KINDS = frozenset({"data", "keys", "locks", "snapshots", "index"})
_OPEN_TO_WRITERS = frozenset({"config", "keys", "index", "locks"})
"""What anybody who may do anything may read: it is needed to write, and to know of a lock."""
_SMALL = frozenset({"config", "keys", "locks"})
_SMALL_BYTES = 1 << 20
_COMPARED_BYTES = 4 << 20
_LISTED_AT_ONCE = 500
_LISTING_BYTES = 2 << 20


class ResticRest:
    """The routes below ``/restic/<repository>/``."""

    def __init__(self, room: Workroom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        base = "/restic/{repository_id}"
        return [
            Route(f"{base}/", plain_errors(self._whole), methods=["POST", "DELETE"]),
            Route(f"{base}/config", plain_errors(self._config), methods=["GET", "POST", "DELETE"]),
            Route(f"{base}/{{kind}}/", plain_errors(self._list), methods=["GET"]),
            Route(
                f"{base}/{{kind}}/{{name}}",
                plain_errors(self._object),
                methods=["GET", "POST", "DELETE"],
            ),
        ]

    async def _whole(self, request: Request) -> Response:
        grant = await self._grant(request)
        if request.method == "DELETE":
            raise Forbidden(
                "A repository is not deleted in one step; delete its snapshots, and its space is "
                "freed."
            )
        if request.query_params.get("create") != "true":
            raise Refused(HTTPStatus.BAD_REQUEST, "usage", "Only POST ?create=true is meant here.")
        grant.require(GrantedRight.APPEND)
        await self._do(grant, _make_room)
        return Response(None, 200)

    async def _config(self, request: Request) -> Response:
        return await self._one(request, "config", "config", name=None)

    async def _object(self, request: Request) -> Response:
        kind, name = request.path_params["kind"], request.path_params["name"]
        if kind not in _KINDS or _NAME.fullmatch(name) is None:
            raise NotFound("There is no such object.")
        key = f"data/{name[:2]}/{name}" if kind == "data" else f"{kind}/{name}"
        return await self._one(request, kind, key, name=name)

    async def _one(self, request: Request, kind: str, key: str, *, name: str | None) -> Response:
        grant = await self._grant(request)
        match request.method:
            case "POST":
                _may_create(grant, kind)
                return await self._create(request, grant, kind, key, name)
            case "DELETE":
                if kind != "locks":
                    grant.require(GrantedRight.DELETE)
                await self._do(grant, lambda store: store.delete(key))
                return Response(None, 200)
            case _:
                _may_read(grant, kind, only_size=request.method == "HEAD")
                return await send_object(
                    self._room, request, grant, lambda: self._room.store(grant), key
                )

    async def _create(
        self, request: Request, grant: Grant, kind: str, key: str, name: str | None
    ) -> Response:
        room = self._room
        most = _SMALL_BYTES if kind in _SMALL else room.limits.pack_bytes
        length = announced_length(request, most)
        must_be_new = request.headers.get("If-None-Match", "").strip() == "*"
        async with room.uploads.take(grant.account_id, length):
            body = await receive_body(room, request, most)

            def act(store: ObjectStore) -> bool:
                if name is not None and hashlib.sha256(body).hexdigest() != name:
                    raise Refused(
                        HTTPStatus.BAD_REQUEST,
                        "wrong_name",
                        "The SHA-256 of the body is not its name; nothing was stored.",
                    )
                try:
                    store.create(key, body)
                except ObjectExists:
                    if must_be_new:
                        return False
                    if not _holds(store, key, body):
                        raise
                return True

            if not await self._do(grant, act):
                raise Refused(
                    HTTPStatus.PRECONDITION_FAILED,
                    "object_exists",
                    "There is an object of that name already.",
                )
        return Response(None, 200)

    async def _list(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in _KINDS:
            raise NotFound("There is no such kind of object.")
        grant = await self._grant(request)
        _may_read(grant, kind)
        sizes = V2 in request.headers.get("Accept", "")
        room = self._room

        def produce(sink: PumpSink) -> None:
            with room.store(grant) as store:
                _write_list(store, kind, sink, sizes=sizes)

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(room.downloads.take(grant.account_id, _LISTING_BYTES))
            pump = Pump(produce, "list")
            stack.push_async_callback(pump.close)
            # What fails at once is answered as an error.
            read = then(await pump.read(), pump.read)
            return Outflow(
                read,
                stack.pop_all(),
                media_type=V2 if sizes else V1,
                stall_seconds=room.limits.stall_seconds,
            )

    async def _grant(self, request: Request) -> Grant:
        return await self._room.repository_grant(request, request.path_params["repository_id"])

    async def _do(self, grant: Grant, act: Callable[[ObjectStore], object]) -> object:
        def in_store() -> object:
            with self._room.store(grant) as store:
                return act(store)

        return await self._room.in_thread(in_store)


def _may_create(grant: Grant, kind: str) -> None:
    # A reader says by its lock that nothing may be deleted under it.
    if kind != "locks":
        grant.require(GrantedRight.APPEND)


def _may_read(grant: Grant, kind: str, *, only_size: bool = False) -> None:
    # Who writes may see that a pack is there, and its size: the index says so, too.
    if only_size and kind == "data" and GrantedRight.APPEND in grant.rights:
        return
    if kind not in _OPEN_TO_WRITERS:
        grant.require(GrantedRight.READ)


def _make_room(store: ObjectStore) -> None:
    """See to it that an empty repository can be listed.

    A directory that is not there cannot, so that an unmounted disk does not look empty; only
    a first object makes it.
    """
    try:
        next(iter(store.list("keys/")), None)
    except StoreError:
        key = f"locks/{hashlib.sha256(b'').hexdigest()}"
        store.create(key, b"")
        store.delete(key)


def _holds(store: ObjectStore, key: str, body: bytearray) -> bool:
    """Whether the object is exactly `body`."""
    if store.size(key) != len(body):
        return False
    view = memoryview(body)
    return all(
        store.read(key, at, _COMPARED_BYTES) == view[at : at + _COMPARED_BYTES]
        for at in range(0, len(body), _COMPARED_BYTES)
    )


def _write_list(store: ObjectStore, kind: str, sink: PumpSink, *, sizes: bool) -> None:
    found = (
        {"name": name, "size": info.size_bytes} if sizes else name
        for info in store.list(f"{kind}/")
        if _NAME.fullmatch(name := info.key.rpartition("/")[2])
    )
    sink.write(b"[")
    first = True
    while batch := list(islice(found, _LISTED_AT_ONCE)):
        sink.write((b"" if first else b",") + orjson.dumps(batch)[1:-1])
        first = False
    sink.write(b"]")
