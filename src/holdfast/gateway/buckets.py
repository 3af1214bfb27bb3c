"""Objects of buckets for bearer tokens: what agents, the SDK and the command line use.

The same objects and views as below ``/s3``, with nothing to sign; lists are JSON.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import format_datetime
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.errors import Forbidden, NotFound, UsageError
from holdfast.gateway.answer import Refused, problem_errors
from holdfast.gateway.authority import GrantedRight
from holdfast.gateway.byte_range import parse_range
from holdfast.gateway.credential import credential_of
from holdfast.gateway.place import Query
from holdfast.gateway.reading import json_answer
from holdfast.gateway.s3.call import decoded
from holdfast.gateway.s3.incoming import LARGEST_BYTES, Expected
from holdfast.gateway.s3.index import Caller
from holdfast.gateway.s3.metadata import INERT
from holdfast.gateway.s3.object import may_add
from holdfast.gateway.s3.peer import Networks, peer_of
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.service import UNTYPED, Buckets
from holdfast.gateway.s3.xml import time_text

_BASE = "/data/v1/buckets"
_PAGE = 1000


class BucketObjects:
    """The routes below ``/data/v1/buckets/``."""

    def __init__(self, buckets: Buckets, *, trusted_proxies: Networks = ()) -> None:
        self._buckets, self._trusted = buckets, trusted_proxies

    def routes(self) -> list[Route]:
        return [
            Route(f"{_BASE}/{{bucket}}/objects", problem_errors(self._list), methods=["GET"]),
            Route(
                f"{_BASE}/{{bucket}}/objects/{{key:key}}",
                problem_errors(self._object),
                methods=["GET", "PUT", "DELETE"],
            ),
        ]

    async def _list(self, request: Request) -> Response:
        query = Query(request)
        prefix, after = query.text("prefix"), query.text("after")
        delimiter, limit = query.text("delimiter"), query.number("limit", _PAGE, _PAGE)
        if any(len(each.encode()) > 1024 or "\0" in each for each in (prefix, after, delimiter)):
            raise UsageError("A prefix or key has 1024 bytes at most, and no NUL.")
        caller = self._caller(request)
        bucket = await self._buckets.opened(caller, request.path_params["bucket"], anew=True)
        page = await self._buckets.listing(
            caller, bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit
        )
        objects = [
            {
                "key": each.key,
                "size_bytes": each.size_bytes,
                "etag": each.etag,
                "modified_at": time_text(each.modified_at) if each.modified_at else None,
            }
            for each in page.entries
        ]
        following = page.last if page.truncated else None
        return json_answer(
            {"objects": objects, "prefixes": list(page.prefixes), "next_after": following}
        )

    async def _object(self, request: Request) -> Response:
        caller, key = self._caller(request), _key_of(request)
        bucket = await self._buckets.opened(caller, request.path_params["bucket"])
        try:
            match request.method:
                case "PUT":
                    return await self._put(request, caller, bucket.name, key)
                case "DELETE":
                    bucket.grant.require(GrantedRight.DELETE)
                    await self._buckets.delete(caller, bucket, [key])
                    return Response(None, HTTPStatus.NO_CONTENT)
                case _:
                    return await self._get(request, caller, bucket.name, key)
        except S3Refused as refused:
            raise Refused(HTTPStatus(refused.http_status), refused.code, refused.message) from None

    async def _put(self, request: Request, caller: Caller, name: str, key: str) -> Response:
        bucket = await self._buckets.opened(caller, name)
        may_add(bucket)
        expected = Expected(_length(request))
        content_type = request.headers.get("Content-Type") or UNTYPED
        stored, _ = await self._buckets.receive(request, bucket.grant, expected)
        entry = await self._buckets.put(
            caller, bucket, key, stored, content_type=content_type, headers={}
        )
        document = {"key": key, "size_bytes": entry.size_bytes, "etag": entry.etag}
        return json_answer(document)

    async def _get(self, request: Request, caller: Caller, name: str, key: str) -> Response:
        bucket = await self._buckets.opened(caller, name)
        if not bucket.grant.allows(GrantedRight.READ):
            raise Forbidden("This credential does not carry the right to read what is stored.")
        found = await self._buckets.find(caller, bucket, key)
        tag = f'"{found.etag}"'
        headers = {
            **INERT,
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Last-Modified": format_datetime(found.modified_at.astimezone(UTC), usegmt=True),
        }
        if tag in (each.strip() for each in request.headers.get("If-None-Match", "").split(",")):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(found.size_bytes)
            return Response(None, 200, headers, UNTYPED)
        offset, length, status = 0, found.size_bytes, 200
        wanted = parse_range(request.headers.get("Range"))
        if wanted is not None and request.headers.get("If-Range", tag) == tag:
            stretch = wanted.within(found.size_bytes)
            if stretch is None:
                raise Refused(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    "range_not_satisfiable",
                    f"The object has {found.size_bytes} bytes, and none is in this range.",
                )
            offset, length = stretch
            status = 206
            headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{found.size_bytes}"
        return await self._buckets.send(
            bucket, found, offset, length, status=status, headers=headers
        )

    def _caller(self, request: Request) -> Caller:
        address = peer_of(request, self._trusted).address
        return Caller("credential", credential_of(request), address)


def _key_of(request: Request) -> str:
    """The key in the path as it was sent: decoded once, with every slash of it."""
    raw = request.scope.get("raw_path") or b""
    parts = raw.decode("ascii", "replace").partition("?")[0].split("/objects/", 1)
    if len(parts) != 2 or not parts[1]:
        raise NotFound("Name a key: /data/v1/buckets/<bucket>/objects/<key>.")
    return decoded(parts[1])


def _length(request: Request) -> int:
    text = request.headers.get("Content-Length", "")
    if not text:
        raise Refused(
            HTTPStatus.LENGTH_REQUIRED, "length_required", "Send the body with a Content-Length."
        )
    if not (text.isascii() and text.isdigit()):
        raise Refused(HTTPStatus.BAD_REQUEST, "bad_body", "The Content-Length is no number.")
    if int(text) > LARGEST_BYTES:
        raise Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_large",
            "One object has 5 GiB at most; larger ones are uploaded in parts, with S3.",
        )
    return int(text)
