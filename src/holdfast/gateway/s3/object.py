"""Objects one by one: put, get, look at, copy, delete."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from starlette.responses import Response

from holdfast.errors import NoSuchKey
from holdfast.gateway.authority import GrantedRight
from holdfast.gateway.byte_range import parse_range
from holdfast.gateway.s3.call import Call, decoded
from holdfast.gateway.s3.incoming import LARGEST_BYTES
from holdfast.gateway.s3.index import OpenedBucket
from holdfast.gateway.s3.metadata import (
    CHECKSUM,
    check_wishes,
    content_type_of,
    headers_of,
    http_time,
    shown_headers,
    whole_only,
)
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.service import Buckets, Found, check_key
from holdfast.gateway.s3.xml import answer, time_text


def may_add(bucket: OpenedBucket) -> None:
    """Raise what keeps the caller from adding, before a byte is taken."""
    bucket.grant.require(GrantedRight.APPEND)
    if bucket.refusal is not None:
        raise bucket.refusal


async def put_object(buckets: Buckets, call: Call) -> Response:
    """PutObject."""
    check_key(call.key)
    check_wishes(call)
    kept, content_type = headers_of(call), content_type_of(call)
    expected = call.expected()
    bucket = await buckets.opened(call.caller, call.bucket)
    may_add(bucket)
    only_new = await check_write(buckets, call, bucket)
    signatures = call.signatures() if expected.signed_chunks else None
    stored, checksums = await buckets.receive(call.request, bucket.grant, expected, signatures)
    kept |= {CHECKSUM + name: value for name, value in checksums.items()}
    entry = await buckets.put(
        call.caller,
        bucket,
        call.key,
        stored,
        content_type=content_type,
        headers=kept,
        only_new=only_new,
    )
    headers = {"ETag": f'"{entry.etag}"'}
    headers |= {CHECKSUM + name: value for name, value in checksums.items()}
    return Response(None, 200, headers)


async def get_object(buckets: Buckets, call: Call) -> Response:
    """GetObject and HeadObject."""
    if "partNumber" in call.query:
        raise S3Refused("NotImplemented", "Single parts of an object cannot be read; use Range.")
    bucket = await buckets.opened(call.caller, call.bucket)
    bucket.grant.require(GrantedRight.READ)
    found = await buckets.find(call.caller, bucket, call.key)
    headers = shown_headers(call, found)
    outcome = _condition(call, found, "")
    if outcome == HTTPStatus.NOT_MODIFIED:
        return Response(None, 304, whole_only(headers))
    if outcome is not None:
        raise _failed()
    offset, length, status = 0, found.size_bytes, 200
    wanted = parse_range(call.header("range"))
    if wanted is not None:
        stretch = wanted.within(found.size_bytes)
        if stretch is None:
            raise S3Refused(
                "InvalidRange",
                "The requested range is not satisfiable",
                ActualObjectSize=str(found.size_bytes),
                RangeRequested=call.header("range") or "",
            )
        offset, length = stretch
        status = 206
        headers = whole_only(headers)
        headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{found.size_bytes}"
    if call.method == "HEAD":
        shown = Response(None, status, {**headers, "Content-Length": str(length)})
        shown.headers.setdefault("Content-Type", found.content_type)
        return shown
    media_type = headers.pop("content-type", None)
    sent = await buckets.send(bucket, found, offset, length, status=status, headers=headers)
    if media_type is not None:
        sent.headers["Content-Type"] = media_type
    return sent


async def delete_object(buckets: Buckets, call: Call) -> Response:
    """DeleteObject."""
    check_version(call.query.get("versionId"))
    check_key(call.key, reading=True)
    bucket = await buckets.opened(call.caller, call.bucket)
    bucket.grant.require(GrantedRight.DELETE)
    if call.header("if-match") is not None:
        raise S3Refused("NotImplemented", "A deletion takes no conditions here.")
    await buckets.delete(call.caller, bucket, [call.key])
    return Response(None, 204)


async def copy_object(buckets: Buckets, call: Call) -> Response:
    """CopyObject: between objects of one repository by reference, otherwise byte by byte."""
    check_key(call.key)
    check_wishes(call)
    directive = (call.header("x-amz-metadata-directive") or "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise S3Refused("InvalidArgument", "x-amz-metadata-directive is COPY or REPLACE.")
    if (call.header("x-amz-tagging-directive") or "COPY").upper() != "COPY":
        raise S3Refused("NotImplemented", "Tags are not implemented here.")
    target = await buckets.opened(call.caller, call.bucket)
    may_add(target)
    only_new = await check_write(buckets, call, target)
    source, found = await copy_source(buckets, call)
    replaces = directive == "REPLACE"
    if (source.name, found.key) == (call.bucket, call.key) and not replaces:
        raise S3Refused(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself "
            "without changing the object's metadata.",
        )
    headers = headers_of(call) if replaces else None
    content_type = content_type_of(call) if replaces else None
    if headers is not None:
        headers |= {n: v for n, v in found.headers.items() if n.startswith(CHECKSUM)}
    if found.entry is not None and source.grant.repository_id == target.grant.repository_id:
        names = (source.name, found.key), (call.bucket, call.key)
        entry = await buckets.ask(
            lambda: buckets.index.copy(
                call.caller,
                *names,
                content_type=content_type,
                headers=headers,
                only_new=only_new,
            )
        )
    else:
        if found.size_bytes > LARGEST_BYTES:
            raise S3Refused("EntityTooLarge", "Copy what is so large in parts.")
        stored = await buckets.restore(source, target.grant, found, 0, found.size_bytes)
        entry = await buckets.put(
            call.caller,
            target,
            call.key,
            stored,
            content_type=content_type or found.content_type,
            headers=found.headers if headers is None else headers,
            only_new=only_new,
        )
    return answer(
        "CopyObjectResult",
        ("LastModified", time_text(entry.modified_at)),
        ("ETag", f'"{entry.etag}"'),
    )


async def copy_source(buckets: Buckets, call: Call) -> tuple[OpenedBucket, Found]:
    """What ``x-amz-copy-source`` names, if its conditions hold and the caller may read it."""
    path, _, query = (call.header("x-amz-copy-source") or "").partition("?")
    name, _, key = decoded(path).removeprefix("/").partition("/")
    if not name or not key:
        raise S3Refused("InvalidArgument", "x-amz-copy-source is written as /bucket/key.")
    if query:
        check_version(query.removeprefix("versionId="))
    source = await buckets.opened(call.caller, name)
    source.grant.require(GrantedRight.READ)
    found = await buckets.find(call.caller, source, key)
    if _condition(call, found, "x-amz-copy-source-") is not None:
        raise _failed()
    return source, found


async def check_write(buckets: Buckets, call: Call, bucket: OpenedBucket) -> bool:
    """Whether a write may only make a new object; refuses it before the bytes if there is one.

    Of two who write at once both may come through here. The index lets one of them.
    """
    for name in ("if-match", "if-none-match"):
        if call.header(name) is not None:
            break
    else:
        return False
    if call.header("if-match") is not None or call.header("if-none-match") != "*":
        raise S3Refused("NotImplemented", "A write takes no condition but If-None-Match: *.")
    try:
        await buckets.find(call.caller, bucket, call.key)
    except NoSuchKey:
        return True
    raise _failed()


def check_version(version: str | None) -> None:
    """There is one version of everything, and it is called null."""
    if version not in (None, "", "null"):
        raise S3Refused(
            "NoSuchVersion", "There are no versions here but the one that is called null."
        )


def etags_of(header: str) -> list[str]:
    return [each.strip().removeprefix("W/").strip('"') for each in header.split(",")]


def _condition(call: Call, found: Found, before: str) -> HTTPStatus | None:
    """Which status a condition of the request asks for; None where all hold (RFC 9110, 13.2.2)."""
    wanted, unwanted = call.header(f"{before}if-match"), call.header(f"{before}if-none-match")
    since = call.header(f"{before}if-modified-since")
    until = call.header(f"{before}if-unmodified-since")
    modified_at = found.modified_at.astimezone(UTC).replace(microsecond=0)
    if wanted is not None:
        if "*" not in etags_of(wanted) and found.etag not in etags_of(wanted):
            return HTTPStatus.PRECONDITION_FAILED
    elif until is not None and _is_after(modified_at, until):
        return HTTPStatus.PRECONDITION_FAILED
    if unwanted is not None:
        if "*" in etags_of(unwanted) or found.etag in etags_of(unwanted):
            return HTTPStatus.NOT_MODIFIED
    elif since is not None and http_time(since) and not _is_after(modified_at, since):
        return HTTPStatus.NOT_MODIFIED
    return None


def _is_after(moment: datetime, text: str) -> bool:
    other = http_time(text)
    return other is not None and moment > other


def _failed() -> S3Refused:
    return S3Refused(
        "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"
    )
