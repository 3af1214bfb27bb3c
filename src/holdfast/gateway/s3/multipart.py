"""Multipart uploads: begun, filled part by part, completed or aborted, and listed."""

from __future__ import annotations

import re
from itertools import pairwise

from starlette.responses import Response

from holdfast.gateway.s3.call import Call
from holdfast.gateway.s3.document import received_document
from holdfast.gateway.s3.incoming import LARGEST_BYTES
from holdfast.gateway.s3.index import OpenedBucket
from holdfast.gateway.s3.metadata import CHECKSUM, check_wishes, content_type_of, headers_of
from holdfast.gateway.s3.object import check_write, copy_source, may_add
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.service import Buckets, check_key
from holdfast.gateway.s3.xml import KeyText, Member, answer, malformed, parse, time_text

MOST_PARTS = 10_000
_COMPLETION_BYTES = 4 << 20
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})", re.ASCII)
_PAGE = 1000


async def begin_upload(buckets: Buckets, call: Call) -> Response:
    """CreateMultipartUpload."""
    check_key(call.key)
    check_wishes(call)
    bucket = await _opened(buckets, call)
    content_type, headers = content_type_of(call), headers_of(call)
    upload_id = await buckets.ask(
        lambda: buckets.index.begin_upload(
            call.caller, bucket.name, call.key, content_type=content_type, headers=headers
        )
    )
    return answer(
        "InitiateMultipartUploadResult",
        ("Bucket", bucket.name),
        ("Key", call.key),
        ("UploadId", upload_id),
    )


async def put_part(buckets: Buckets, call: Call) -> Response:
    """UploadPart."""
    number, upload_id = _part_number(call), call.text("uploadId")
    expected = call.expected()
    bucket = await _opened(buckets, call)
    await _known(buckets, call, bucket, upload_id)
    signatures = call.signatures() if expected.signed_chunks else None
    stored, checksums = await buckets.receive(call.request, bucket.grant, expected, signatures)
    await buckets.ask(
        lambda: buckets.index.put_part(
            call.caller, bucket.name, call.key, upload_id, number, stored=stored
        )
    )
    headers = {"ETag": f'"{stored.etag}"'}
    headers |= {CHECKSUM + name: value for name, value in checksums.items()}
    return Response(None, 200, headers)


async def copy_part(buckets: Buckets, call: Call) -> Response:
    """UploadPartCopy: read from what is there, and stored once more."""
    number, upload_id = _part_number(call), call.text("uploadId")
    bucket = await _opened(buckets, call)
    await _known(buckets, call, bucket, upload_id)
    source, found = await copy_source(buckets, call)
    offset, length = 0, found.size_bytes
    wanted = call.header("x-amz-copy-source-range")
    if wanted is not None:
        match = _RANGE.fullmatch(wanted)
        if match is None or not int(match[1]) <= int(match[2]) < found.size_bytes:
            raise S3Refused("InvalidArgument", "x-amz-copy-source-range is not in the object.")
        offset, length = int(match[1]), int(match[2]) - int(match[1]) + 1
    if length > LARGEST_BYTES:
        raise S3Refused("EntityTooLarge", "A part has 5 GiB at most.")
    stored = await buckets.restore(source, bucket.grant, found, offset, length)
    part = await buckets.ask(
        lambda: buckets.index.put_part(
            call.caller, bucket.name, call.key, upload_id, number, stored=stored
        )
    )
    return answer(
        "CopyPartResult",
        ("LastModified", time_text(part.stored_at)),
        ("ETag", f'"{part.etag}"'),
    )


async def complete_upload(buckets: Buckets, call: Call) -> Response:
    """CompleteMultipartUpload."""
    document = await received_document(call, _COMPLETION_BYTES)
    parts: list[tuple[int, str]] = []
    for element in parse(document, "CompleteMultipartUpload").all("Part"):
        number, etag = element.text_of("PartNumber"), element.text_of("ETag")
        if number is None or etag is None or not re.fullmatch(r"\s*\d{1,6}\s*", number):
            raise malformed()
        parts.append((int(number), etag.strip().strip('"')))
    if not parts:
        raise malformed()
    if any(later[0] <= earlier[0] for earlier, later in pairwise(parts)):
        raise S3Refused(
            "InvalidPartOrder", "The list of parts was not in ascending order of part numbers."
        )
    if parts[0][0] < 1 or parts[-1][0] > MOST_PARTS:
        raise S3Refused("InvalidPart", f"Part numbers are from 1 to {MOST_PARTS}.")
    bucket = await _opened(buckets, call)
    only_new = await check_write(buckets, call, bucket)
    entry = await buckets.ask(
        lambda: buckets.index.complete_upload(
            call.caller,
            bucket.name,
            call.key,
            call.text("uploadId"),
            parts,
            only_new=only_new,
        )
    )
    location = str(call.request.url.replace(query=""))
    return answer(
        "CompleteMultipartUploadResult",
        ("Location", location),
        ("Bucket", bucket.name),
        ("Key", call.key),
        ("ETag", f'"{entry.etag}"'),
    )


async def abort_upload(buckets: Buckets, call: Call) -> Response:
    """AbortMultipartUpload."""
    bucket = await buckets.opened(call.caller, call.bucket)
    await buckets.ask(
        lambda: buckets.index.abort_upload(
            call.caller, bucket.name, call.key, call.text("uploadId")
        )
    )
    return Response(None, 204)


async def list_parts(buckets: Buckets, call: Call) -> Response:
    """ListParts."""
    limit, after = (
        call.number("max-parts", _PAGE, _PAGE),
        call.number("part-number-marker", 0, MOST_PARTS),
    )
    text = KeyText(call.text("encoding-type"))
    bucket = await buckets.opened(call.caller, call.bucket)
    found, more = await buckets.ask(
        lambda: buckets.index.parts(
            call.caller,
            bucket.name,
            call.key,
            call.text("uploadId"),
            after=after,
            limit=max(1, limit),
        )
    )
    found = found[:limit]
    parts: list[Member] = [
        (
            "Part",
            [
                ("PartNumber", each.number),
                ("LastModified", time_text(each.stored_at)),
                ("ETag", f'"{each.etag}"'),
                ("Size", each.size_bytes),
            ],
        )
        for each in found
    ]
    return answer(
        "ListPartsResult",
        ("Bucket", bucket.name),
        ("Key", text(call.key)),
        ("UploadId", call.text("uploadId")),
        ("PartNumberMarker", after),
        ("NextPartNumberMarker", found[-1].number if found else after),
        ("MaxParts", limit),
        ("IsTruncated", more and limit > 0),
        *parts,
        ("StorageClass", "STANDARD"),
    )


async def list_uploads(buckets: Buckets, call: Call) -> Response:
    """ListMultipartUploads; without a delimiter."""
    if call.text("delimiter"):
        raise S3Refused("NotImplemented", "Uploads are listed without a delimiter here.")
    limit, text = call.number("max-uploads", _PAGE, _PAGE), KeyText(call.text("encoding-type"))
    bucket = await buckets.opened(call.caller, call.bucket)
    after_key = call.query.get("key-marker") or None
    after_id = call.query.get("upload-id-marker") or None
    found, more = await buckets.ask(
        lambda: buckets.index.uploads(
            call.caller,
            bucket.name,
            prefix=call.text("prefix"),
            after_key=after_key,
            after_id=after_id if after_key else None,
            limit=max(1, limit),
        )
    )
    found = found[:limit]
    uploads: list[Member] = [
        (
            "Upload",
            [
                ("Key", text(each.key)),
                ("UploadId", each.upload_id),
                ("StorageClass", "STANDARD"),
                ("Initiated", time_text(each.started_at)),
            ],
        )
        for each in found
    ]
    following: list[Member] = []
    if more and found:
        following = [
            ("NextKeyMarker", text(found[-1].key)),
            ("NextUploadIdMarker", found[-1].upload_id),
        ]
    return answer(
        "ListMultipartUploadsResult",
        ("Bucket", bucket.name),
        ("KeyMarker", text(call.text("key-marker"))),
        ("UploadIdMarker", call.text("upload-id-marker")),
        *following,
        ("Prefix", text(call.text("prefix"))),
        ("MaxUploads", limit),
        ("IsTruncated", more and limit > 0),
        *uploads,
    )


async def _opened(buckets: Buckets, call: Call) -> OpenedBucket:
    bucket = await buckets.opened(call.caller, call.bucket)
    may_add(bucket)
    return bucket


async def _known(buckets: Buckets, call: Call, bucket: OpenedBucket, upload_id: str) -> None:
    """Raise `NoSuchUpload` before the bytes come."""
    await buckets.ask(
        lambda: buckets.index.parts(
            call.caller, bucket.name, call.key, upload_id, after=MOST_PARTS, limit=1
        )
    )


def _part_number(call: Call) -> int:
    text = call.text("partNumber")
    if not (text.isascii() and text.isdigit() and len(text) < 7 and 1 <= int(text) <= MOST_PARTS):
        raise S3Refused(
            "InvalidArgument", f"Part number must be an integer between 1 and {MOST_PARTS}."
        )
    return int(text)
