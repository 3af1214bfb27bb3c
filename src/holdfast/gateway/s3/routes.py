"""The S3 surface: every request below ``/s3`` is checked here, and sent where it belongs.

Nothing happens for a request before its signature was found right, and every refusal is
answered in S3's words. What is not implemented is refused, never taken for something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from holdfast.errors import HoldfastError, TooManyRequests
from holdfast.gateway.answer import RETRY_SECONDS
from holdfast.gateway.s3 import bucket as whole
from holdfast.gateway.s3 import multipart, pages
from holdfast.gateway.s3 import object as single
from holdfast.gateway.s3.call import ROOT, Call, check_bucket_name, place_of, presented_of
from holdfast.gateway.s3.delete import delete_objects
from holdfast.gateway.s3.index import Caller, SigningKey
from holdfast.gateway.s3.peer import FailedSignatures, Networks, Peer, peer_of
from holdfast.gateway.s3.refusal import S3Refused, refusal_of
from holdfast.gateway.s3.service import Buckets
from holdfast.gateway.s3.signature import (
    Claim,
    Presented,
    check_time,
    claim_of,
    matches,
    mismatch,
)
from holdfast.gateway.s3.xml import MEDIA_TYPE, document

_log = logging.getLogger(__name__)
# So much of a body is read before a refusal, so that its sender comes to read that.
_DRAINED_BYTES, _DRAIN_SECONDS = 1 << 20, 5.0

Handler = Callable[[Buckets, Call], Awaitable[Response]]

_SUBRESOURCES = frozenset(
    {
        "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption",
        "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location", "logging",
        "metadataTable", "metrics", "notification", "object-lock", "ownershipControls", "policy",
        "policyStatus", "publicAccessBlock", "replication", "requestPayment", "restore",
        "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads",
        "versioning", "versions", "website", "renameObject",
    }
)  # fmt: skip
_BUCKET: dict[tuple[str, str], Handler] = {
    ("GET", "acl"): whole.access_control,
    ("GET", "location"): whole.location,
    ("GET", "uploads"): multipart.list_uploads,
    ("GET", "versioning"): whole.versioning,
    ("GET", "versions"): pages.list_versions,
    ("POST", "delete"): delete_objects,
    ("PUT", ""): whole.create_bucket,
    ("HEAD", ""): whole.head_bucket,
    ("DELETE", ""): whole.delete_bucket,
}
_OBJECT: dict[tuple[str, str], Handler] = {
    ("GET", "acl"): whole.access_control,
    ("GET", "uploadId"): multipart.list_parts,
    ("PUT", "uploadId"): multipart.put_part,
    ("POST", "uploads"): multipart.begin_upload,
    ("POST", "uploadId"): multipart.complete_upload,
    ("DELETE", "uploadId"): multipart.abort_upload,
    ("GET", ""): single.get_object,
    ("HEAD", ""): single.get_object,
    ("PUT", ""): single.put_object,
    ("DELETE", ""): single.delete_object,
}


class S3Surface:
    """The routes below ``/s3``."""

    def __init__(
        self,
        buckets: Buckets,
        *,
        trusted_proxies: Networks = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._buckets, self._trusted, self._clock = buckets, trusted_proxies, clock
        self._failed = FailedSignatures()

    def routes(self) -> list[Route]:
        return [Route(ROOT, endpoint=self), Route(f"{ROOT}/{{rest:key}}", endpoint=self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arriving = _Arriving(receive)
        request = Request(scope, arriving, send)
        request_id = os.urandom(8).hex().upper()
        try:
            answer = await self._answer(request)
        except HoldfastError as error:
            refused = refusal_of(error)
            if refused.http_status >= 500 and refused.code != "NotImplemented":
                _log.error("S3 %s: %s: %s", request.method, error.code, error.message)
            answer = _refusal(request, refused, error, request_id)
            if not arriving.ended:
                await _drain(request, arriving)
        except Exception:
            _log.exception("S3 %s failed", request.method)
            failed = S3Refused("InternalError", "The gateway failed; ask the operator.")
            answer = _refusal(request, failed, failed, request_id)
        answer.headers["x-amz-request-id"] = request_id
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        presented = presented_of(request)
        call = await self._checked(request, presented)
        return await _handler(call)(self._buckets, call)

    async def _checked(self, request: Request, presented: Presented) -> Call:
        peer = peer_of(request, self._trusted)
        bucket, key = place_of(presented.raw_path)
        claim = claim_of(presented)
        if claim is None:
            raise S3Refused("AccessDenied", "Access Denied: sign the request with a token.")
        check_time(claim, self._clock())
        self._failed.check(peer.address)
        try:
            found = await self._signer(claim, presented, peer)
        except S3Refused:
            self._failed.note(peer.address)
            raise
        return Call(
            request,
            presented,
            claim,
            peer,
            Caller("token_id", found.token_id, peer.address),
            bucket,
            key,
            dict(presented.query),
            found.key,
        )

    async def _signer(self, claim: Claim, presented: Presented, peer: Peer) -> SigningKey:
        """Whose signature it is; raises `S3Refused` where it is nobody's."""
        anew = False
        while True:
            candidates, kept = await self._buckets.signing_keys(
                claim.access_key, claim.date, claim.region, peer.address, anew=anew
            )
            for candidate in candidates:
                if matches(claim, presented, candidate.key):
                    return candidate
            if not kept:
                break
            anew = True  # a token may have been made since
        if not candidates:
            raise S3Refused(
                "InvalidAccessKeyId",
                "The access key is not known here; it is a token's id, or the e-mail address of "
                "the token's owner.",
                AWSAccessKeyId=claim.access_key,
            )
        raise mismatch()


def _handler(call: Call) -> Handler:
    asked = [name for name in call.query if name in _SUBRESOURCES]
    if not call.bucket:
        if call.method == "GET" and not asked:
            return whole.list_buckets
        raise _not_allowed(call)
    if not (call.method == "PUT" and not call.key):
        # An older bucket cannot have such a name either.
        _check_there(call)
    if len(asked) > 1:
        raise S3Refused("InvalidRequest", "One request can ask for one thing only.")
    what = asked[0] if asked else ""
    if call.key:
        return _object_handler(call, what)
    if (call.method, what) == ("GET", ""):
        return pages.list_objects_v2 if call.text("list-type") == "2" else pages.list_objects
    handler = _BUCKET.get((call.method, what))
    if handler is None:
        raise _missing(call, what)
    return handler


def _object_handler(call: Call, what: str) -> Handler:
    if call.method in ("GET", "HEAD"):
        single.check_version(call.query.get("versionId"))
    copies = call.method == "PUT" and call.header("x-amz-copy-source") is not None
    if copies and what in ("", "uploadId"):
        return single.copy_object if what == "" else multipart.copy_part
    handler = _OBJECT.get((call.method, what))
    if handler is None:
        raise _missing(call, what)
    return handler


def _check_there(call: Call) -> None:
    try:
        check_bucket_name(call.bucket)
    except S3Refused:
        raise S3Refused(
            "NoSuchBucket", "The specified bucket does not exist", BucketName=call.bucket
        ) from None


def _missing(call: Call, what: str) -> S3Refused:
    if what or call.method == "POST":
        return S3Refused(
            "NotImplemented",
            f"{what or 'POST'} is not implemented here; see the documentation of buckets.",
        )
    return _not_allowed(call)


def _not_allowed(call: Call) -> S3Refused:
    return S3Refused(
        "MethodNotAllowed",
        "The specified method is not allowed against this resource.",
        Method=call.method,
    )


def _refusal(
    request: Request, refused: S3Refused, cause: HoldfastError, request_id: str
) -> Response:
    headers = {"Cache-Control": "no-store"}
    if isinstance(cause, TooManyRequests):
        headers["Retry-After"] = str(cause.retry_after_seconds)
    elif refused.http_status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if request.method == "HEAD":
        return Response(None, refused.http_status, headers)
    text = document(
        "Error",
        ("Code", refused.code),
        ("Message", refused.message),
        ("Resource", request.url.path),
        ("RequestId", request_id),
        *refused.details.items(),
        namespace=False,
    )
    return Response(text, refused.http_status, headers, MEDIA_TYPE)


class _Arriving:
    """What a client sends; knows when that was all, as waiting for more would not end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


async def _drain(request: Request, arriving: _Arriving) -> None:
    """Read a small body that nobody wanted; who waits for leave to send it need not."""
    if "expect" in request.headers:
        return
    left = _DRAINED_BYTES
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > left:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0 and not arriving.ended:
                left -= len((await arriving()).get("body", b""))
