"""Downloads out of snapshots: one file, a folder as an archive, or everything as one.

Every blob is checked before a byte of it is sent. Damage breaks the download off: what was
sent up to there is right, and it is never taken for the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.errors import Damaged, UsageError
from holdfast.flows.dump import ContentReader
from holdfast.flows.export_archive import ArchiveFormat, ExportRequest, export_archive
from holdfast.gateway.answer import Refused, problem_errors
from holdfast.gateway.authority import Grant
from holdfast.gateway.byte_range import parse_range
from holdfast.gateway.disposition import attachment
from holdfast.gateway.outflow import Outflow, then
from holdfast.gateway.place import Query, content_tag, inside
from holdfast.gateway.pump import Pump, PumpSink
from holdfast.gateway.reading import UNCACHED, located, manifest_of, opened
from holdfast.gateway.workroom import Workroom
from holdfast.model.node import Node, NodeType
from holdfast.repo.index import BlobIndex
from holdfast.repo.pack import BlobType

_log = logging.getLogger(__name__)

_OCTETS = "application/octet-stream"
_MEDIA_TYPES = {ArchiveFormat.ZIP: "application/zip", ArchiveFormat.TAR: "application/x-tar"}
_INERT = {**UNCACHED, "Content-Security-Policy": "sandbox; default-src 'none'"}
"""A customer's file is never shown or run in the place that serves it."""


class Downloads:
    """The routes that answer with files."""

    def __init__(self, room: Workroom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        base = "/data/v1/snapshots/{snapshot_id}"
        return [
            Route(f"{base}/file", problem_errors(self._file)),
            Route(f"{base}/folder", problem_errors(self._folder)),
            Route(f"{base}/archive", problem_errors(self._archive)),
        ]

    async def _file(self, request: Request) -> Response:
        grant = await self._grant(request)
        node = await self._node(grant, Query(request).path())
        if node is None or node.type is not NodeType.FILE:
            raise UsageError("This is no regular file; ask for it as a folder.")
        tag = f'"{content_tag(node)}"'
        headers = {
            **_INERT,
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Content-Disposition": attachment(node.name),
            "Last-Modified": _http_date(node.mtime_ns),
        }
        if tag in (each.strip() for each in request.headers.get("If-None-Match", "").split(",")):
            return Response(None, 304, headers)
        offset, length, status = 0, node.size, 200
        wanted = parse_range(request.headers.get("Range"))
        if request.headers.get("If-Range", tag) != tag or request.method == "HEAD":
            wanted = None
        if wanted is not None:
            stretch = wanted.within(node.size)
            if stretch is None:
                raise Refused(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    "range_not_satisfiable",
                    f"The file has {node.size} bytes, and none of them is in this range.",
                )
            offset, length = stretch
            status = 206
            headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{node.size}"
        headers["Content-Length"] = str(length)

        def produce(sink: PumpSink) -> None:
            with opened(self._room, grant) as repository:
                index = repository.open_index()
                part, skip = part_of(node, offset, length, index)
                left = length
                with ContentReader(repository, index) as content:
                    for piece in content.stream(part):
                        wanted = piece[skip : skip + left] if skip or left < len(piece) else piece
                        skip, left = 0, left - len(wanted)
                        sink.write(wanted)

        return await self._send(
            request, grant, produce, headers=headers, media_type=_OCTETS, status=status
        )

    async def _folder(self, request: Request) -> Response:
        grant = await self._grant(request)
        query = Query(request)
        path = query.path()
        node = await self._node(grant, path)
        if node is not None and node.type is not NodeType.DIRECTORY:
            raise UsageError("This is no folder; ask for it as a file.")
        name = path.rpartition(b"/")[2]
        return await self._export(request, grant, query, path, name or _snapshot_name(grant))

    async def _archive(self, request: Request) -> Response:
        grant = await self._grant(request)
        query = Query(request)
        await self._node(grant, b"")
        return await self._export(request, grant, query, b"", _snapshot_name(grant))

    async def _export(
        self, request: Request, grant: Grant, query: Query, path: bytes, name: bytes
    ) -> Response:
        try:
            form = ArchiveFormat(query.text("format", "zip"))
        except ValueError:
            raise UsageError("format is zip or tar.") from None
        asked = ExportRequest(
            manifest_of(grant), inside(grant, path), form, strict=True, with_lock=False
        )

        def produce(sink: PumpSink) -> None:
            with opened(self._room, grant) as repository:
                result = export_archive(repository, asked, sink)
            for finding in result.findings:
                _log.info("archive of %s: %s %s", grant.name, finding.code, finding.message)

        headers = {**_INERT, "Content-Disposition": attachment(name + b"." + form.encode())}
        return await self._send(
            request, grant, produce, headers=headers, media_type=_MEDIA_TYPES[form]
        )

    async def _send(
        self,
        request: Request,
        grant: Grant,
        produce: Callable[[PumpSink], None],
        *,
        headers: dict[str, str],
        media_type: str,
        status: int = 200,
    ) -> Response:
        if request.method == "HEAD":
            answer = Response(None, status, headers, media_type)
            if "Content-Length" not in headers:
                del answer.headers["Content-Length"]
            return answer
        room = self._room

        def logged(sink: PumpSink) -> None:
            try:
                produce(sink)
            except Damaged as error:
                _log.error("a download of %s is broken off: %s", grant.name, error.message)
                raise

        async with AsyncExitStack() as stack:
            await stack.enter_async_context(room.exports.take(grant.account_id, 1))
            pump = Pump(logged, "export")
            stack.push_async_callback(pump.close)
            # What fails before the first byte is answered as an error.
            read = then(await pump.read(), pump.read)
            return Outflow(
                read,
                stack.pop_all(),
                status=status,
                headers=headers,
                media_type=media_type,
                stall_seconds=room.limits.stall_seconds,
            )

    async def _grant(self, request: Request) -> Grant:
        return await self._room.snapshot_grant(request, request.path_params["snapshot_id"])

    async def _node(self, grant: Grant, path: bytes) -> Node | None:
        """What is at a path; None for the top of a whole file system."""

        def act() -> Node | None:
            with (
                opened(self._room, grant) as repository,
                located(repository, grant, inside(grant, path)) as (_, _, place),
            ):
                return place.node

        return await self._room.in_thread(act)


def part_of(node: Node, offset: int, length: int, index: BlobIndex) -> tuple[Node, int]:
    """The blobs of a file that hold some bytes of it, as a file, and where in it they begin.

    Raises `Damaged` where it is not certain which blobs those are.
    """
    if (offset, length) == (0, node.size):
        return node, 0
    chosen: list[bytes] = []
    start = at = 0
    for blob_id in node.content:
        if at >= offset + length:
            break
        location = index.find(BlobType.DATA, blob_id)
        if location is None:
            raise Damaged("a part of this file is in no index; run `holdfast verify`")
        if at + location.raw_length > offset:
            if not chosen:
                start = at
            chosen.append(blob_id)
        at += location.raw_length
    if at < offset + length:
        raise Damaged("the content of this file is shorter than its size says")
    return node._replace(content=tuple(chosen), size=at - start), offset - start


def _snapshot_name(grant: Grant) -> bytes:
    """What an archive of everything is called: by the snapshot's name, or by its path's."""
    path = inside(grant, b"").rpartition(b"/")[2]
    return grant.name.encode() or path or b"snapshot"


def _http_date(nanoseconds: int) -> str:
    latest = 253_402_300_799
    moment = datetime.fromtimestamp(min(max(nanoseconds // 10**9, 0), latest), UTC)
    return format_datetime(moment, usegmt=True)
