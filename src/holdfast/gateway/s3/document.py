"""Small XML documents in the bodies of requests, received whole and checked as any body is."""

from __future__ import annotations

import hashlib

from holdfast.gateway.s3.call import Call
from holdfast.gateway.s3.incoming import Incoming
from holdfast.gateway.s3.service import arriving

_STALL_SECONDS = 30.0


async def received_document(call: Call, most: int) -> bytes:
    """The body of a request, `most` bytes at most."""
    expected = call.expected(most=most)
    incoming = Incoming(expected, call.signatures() if expected.signed_chunks else None)
    document = bytearray()
    async for data in arriving(call.request, _STALL_SECONDS):
        for part in incoming.feed(data):
            document += part
    incoming.finish(hashlib.md5(document, usedforsecurity=False).digest())
    return bytes(document)
