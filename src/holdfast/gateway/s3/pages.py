"""Listings of a bucket as answers: ListObjects, ListObjectsV2 and ListObjectVersions."""

from __future__ import annotations

import base64
import binascii

from starlette.responses import Response

from holdfast.gateway.s3.bucket import owner
from holdfast.gateway.s3.call import Call
from holdfast.gateway.s3.index import OpenedBucket
from holdfast.gateway.s3.list import Listed, Listing
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.service import Buckets
from holdfast.gateway.s3.xml import KeyText, Member, answer, time_text

_PAGE = 1000


async def list_objects(buckets: Buckets, call: Call) -> Response:
    """ListObjects: pages follow by the last key."""
    text, limit, marker = _asked(call, "marker")
    bucket = await buckets.opened(call.caller, call.bucket, anew=True)
    page = await _page(buckets, call, bucket, marker, limit)
    following: list[Member] = [("NextMarker", text(page.last))] if page.truncated else []
    return answer(
        "ListBucketResult",
        ("Name", bucket.name),
        ("Prefix", text(call.text("prefix"))),
        ("Marker", text(marker)),
        *following,
        *_shared(call, text, page, limit),
        *(_contents(each, text, bucket, owned=True) for each in page.entries),
        *_prefixes(page, text),
    )


async def list_objects_v2(buckets: Buckets, call: Call) -> Response:
    """ListObjectsV2: pages follow by a token."""
    text, limit, start = _asked(call, "start-after")
    token = call.query.get("continuation-token")
    bucket = await buckets.opened(call.caller, call.bucket, anew=True)
    after = start if token is None else _key_of(token)
    page = await _page(buckets, call, bucket, after, limit)
    told: list[Member] = []
    if token is not None:
        told.append(("ContinuationToken", token))
    if page.truncated:
        told.append(("NextContinuationToken", _token_of(page.last)))
    if "start-after" in call.query:
        told.append(("StartAfter", text(start)))
    owned = call.text("fetch-owner") == "true"
    return answer(
        "ListBucketResult",
        ("Name", bucket.name),
        ("Prefix", text(call.text("prefix"))),
        *told,
        ("KeyCount", len(page.entries) + len(page.prefixes)),
        *_shared(call, text, page, limit),
        *(_contents(each, text, bucket, owned=owned) for each in page.entries),
        *_prefixes(page, text),
    )


async def list_versions(buckets: Buckets, call: Call) -> Response:
    """ListObjectVersions: of everything the one that is called null."""
    text, limit, marker = _asked(call, "key-marker")
    bucket = await buckets.opened(call.caller, call.bucket, anew=True)
    page = await _page(buckets, call, bucket, marker, limit)
    following: list[Member] = []
    if page.truncated:
        following = [("NextKeyMarker", text(page.last)), ("NextVersionIdMarker", "null")]
    versions: list[Member] = []
    for each in page.entries:
        _, members = _contents(each, text, bucket, owned=True)
        assert not isinstance(members, str | int)
        versions.append(("Version", [("VersionId", "null"), ("IsLatest", True), *members]))
    return answer(
        "ListVersionsResult",
        ("Name", bucket.name),
        ("Prefix", text(call.text("prefix"))),
        ("KeyMarker", text(marker)),
        ("VersionIdMarker", call.text("version-id-marker")),
        *following,
        *_shared(call, text, page, limit),
        *versions,
        *_prefixes(page, text),
    )


def _asked(call: Call, position: str) -> tuple[KeyText, int, str]:
    return (
        KeyText(call.text("encoding-type")),
        call.number("max-keys", _PAGE, _PAGE),
        call.text(position),
    )


async def _page(
    buckets: Buckets, call: Call, bucket: OpenedBucket, after: str, limit: int
) -> Listing:
    for name in ("prefix", "delimiter"):
        if len(call.text(name).encode()) > 1024 or "\0" in call.text(name):
            raise S3Refused("InvalidArgument", f"The {name} has 1024 bytes at most, and no NUL.")
    if len(after.encode()) > 1024 or "\0" in after:
        raise S3Refused(
            "InvalidArgument", "A listing continues behind a key of 1024 bytes at most."
        )
    return await buckets.listing(
        call.caller,
        bucket,
        prefix=call.text("prefix"),
        delimiter=call.text("delimiter"),
        after=after,
        limit=limit,
    )


def _shared(call: Call, text: KeyText, page: Listing, limit: int) -> list[Member]:
    members: list[Member] = [("MaxKeys", limit)]
    if call.text("delimiter"):
        members.append(("Delimiter", text(call.text("delimiter"))))
    members.append(("IsTruncated", page.truncated))
    if call.text("encoding-type"):
        members.append(("EncodingType", "url"))
    return members


def _contents(entry: Listed, text: KeyText, bucket: OpenedBucket, *, owned: bool) -> Member:
    assert entry.modified_at is not None
    members: list[Member] = [
        ("Key", text(entry.key)),
        ("LastModified", time_text(entry.modified_at)),
        ("ETag", f'"{entry.etag}"'),
        ("Size", entry.size_bytes),
        ("StorageClass", "STANDARD"),
    ]
    if owned:
        members.append(owner(bucket.grant.account_id))
    return ("Contents", members)


def _prefixes(page: Listing, text: KeyText) -> list[Member]:
    return [("CommonPrefixes", [("Prefix", text(each))]) for each in page.prefixes]


def _token_of(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _key_of(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise S3Refused(
            "InvalidArgument", "The continuation token provided is incorrect."
        ) from None
