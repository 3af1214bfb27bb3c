"""DeleteObjects: many keys in one request, each answered for itself."""

from __future__ import annotations

from starlette.responses import Response

from holdfast.errors import HoldfastError
from holdfast.gateway.authority import GrantedRight
from holdfast.gateway.s3.call import Call
from holdfast.gateway.s3.document import received_document
from holdfast.gateway.s3.object import check_version
from holdfast.gateway.s3.refusal import S3Refused, refusal_of
from holdfast.gateway.s3.service import Buckets, check_key
from holdfast.gateway.s3.xml import Member, answer, malformed, parse

_MOST_KEYS = 1000
_DOCUMENT_BYTES = 4 << 20


async def delete_objects(buckets: Buckets, call: Call) -> Response:
    """DeleteObjects."""
    document = parse(await received_document(call, _DOCUMENT_BYTES), "Delete")
    quiet = document.text_of("Quiet") == "true"
    objects = document.all("Object")
    if not 1 <= len(objects) <= _MOST_KEYS:
        raise malformed()
    bucket = await buckets.opened(call.caller, call.bucket)
    bucket.grant.require(GrantedRight.DELETE)
    keys: list[str] = []
    results: list[Member] = []
    for element in objects:
        key, version = element.text_of("Key"), element.text_of("VersionId")
        if key is None:
            raise malformed()
        try:
            check_version(version)
            keys.append(check_key(key))
        except S3Refused as refused:
            results.append(_error(key, refused))
    if keys:
        try:
            await buckets.delete(call.caller, bucket, keys)
        except HoldfastError as error:
            refusal = refusal_of(error)
            if refusal.http_status >= 500:
                raise
            results += [_error(key, refusal) for key in keys]
        else:
            if not quiet:
                results += [("Deleted", [("Key", key)]) for key in keys]
    return answer("DeleteResult", *results)


def _error(key: str, refused: S3Refused) -> Member:
    return (
        "Error",
        [("Key", key), ("Code", refused.code), ("Message", refused.message)],
    )
