"""The body of a request on its way in: unpacked, checked, and handed on piece by piece.

Clients send it as it is or in chunks (``aws-chunked``), each signed or not, with checksums in
front or behind. Everything that the request says about its body is checked before `finish`
returns; until then nothing that was handed on counts. Bounded: a piece at a time.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.gateway.s3.checksum import NAMES, Checksum, encoded, new_checksum
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.signature import (
    STREAMING,
    STREAMING_TRAILER,
    STREAMING_UNSIGNED,
    UNSIGNED,
    ChunkSignatures,
    Presented,
    mismatch,
)

LARGEST_BYTES = 5 << 30
_HEADER = "x-amz-checksum-"
_LONGEST_LINE = 4096
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?", re.ASCII)
_SIGNATURE = b"x-amz-trailer-signature"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a request says of its body. `checksums` by name, in base64."""

    length: int
    chunked: bool = False
    signed_chunks: bool = False
    sha256: str | None = None
    md5: bytes | None = None
    checksums: tuple[tuple[str, str], ...] = ()
    trailer: str | None = None


def expected_of(
    request: Presented, payload: str, *, secure: bool, presigned: bool, most: int = LARGEST_BYTES
) -> Expected:
    """What to expect; raises `S3Refused` for what cannot be taken so.

    `payload` is what was signed in place of the body. `secure`: nobody on the way could
    change it.
    """
    chunked = payload in (STREAMING, STREAMING_TRAILER, STREAMING_UNSIGNED)
    if payload == UNSIGNED and not (secure or presigned):
        raise S3Refused(
            "InvalidRequest",
            "Without TLS the body must be signed; send its SHA-256 in x-amz-content-sha256.",
        )
    if chunked:
        length = _length(request.header("x-amz-decoded-content-length"))
    else:
        if "aws-chunked" in (request.header("content-encoding") or ""):
            raise S3Refused("InvalidRequest", "aws-chunked needs a STREAMING- payload hash.")
        length = _length(request.header("content-length"))
    if length > most:
        raise S3Refused(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size; send it in parts.",
            ProposedSize=str(length),
            MaxSizeAllowed=str(most),
        )
    checksums = []
    for name in NAMES:
        value = request.header(_HEADER + name)
        if value is not None:
            _decoded(value, new_checksum(name))
            checksums.append((name, value))
    trailer = _trailer(request, chunked=payload in (STREAMING_TRAILER, STREAMING_UNSIGNED))
    return Expected(
        length,
        chunked,
        payload in (STREAMING, STREAMING_TRAILER),
        None if chunked or payload == UNSIGNED else payload,
        _md5(request.header("content-md5")),
        tuple(checksums),
        trailer,
    )


class Incoming:
    """Takes a body as it comes from the wire; `feed` gives what of it are the object's bytes."""

    def __init__(self, expected: Expected, signatures: ChunkSignatures | None = None) -> None:
        """`signatures` are those of signed chunks."""
        assert not expected.signed_chunks or signatures is not None
        self._expected = expected
        self._sha256 = None if expected.sha256 is None else hashlib.sha256()
        names = {name for name, _ in expected.checksums}
        if expected.trailer is not None:
            names.add(expected.trailer)
        self._checksums = {name: new_checksum(name) for name in sorted(names)}
        self._chunks = _Chunks(expected, signatures) if expected.chunked else None
        self._received = 0

    def feed(self, data: bytes) -> Iterable[bytes | memoryview]:
        """The object's bytes in what came next; raises `S3Refused`."""
        parts = self._chunks.feed(data) if self._chunks is not None else (data,)
        for part in parts:
            self._received += len(part)
            if self._received > self._expected.length:
                raise _incomplete()
            if self._sha256 is not None:
                self._sha256.update(part)
            for checksum in self._checksums.values():
                checksum.update(part)
            yield part

    def finish(self, md5: bytes) -> dict[str, str]:
        """Check all that the request said; return the checksums that were sent, by name.

        `md5` is that of all bytes.
        """
        expected = self._expected
        stated = dict(expected.checksums)
        if self._chunks is not None:
            stated |= self._chunks.finish()
        if self._received != expected.length:
            raise _incomplete()
        if self._sha256 is not None and self._sha256.hexdigest() != expected.sha256:
            raise S3Refused(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        if expected.md5 is not None and md5 != expected.md5:
            raise _bad_digest("Content-MD5")
        for name, checksum in self._checksums.items():
            if name not in stated:
                raise S3Refused("InvalidRequest", f"The trailer {_HEADER}{name} did not come.")
            if _decoded(stated[name], checksum) != checksum.digest():
                raise _bad_digest(_HEADER + name)
        return {name: encoded(checksum) for name, checksum in self._checksums.items()}


class _Chunks:
    """Reads ``size[;chunk-signature=...] CRLF bytes CRLF`` until the chunk of no bytes, and
    the headers behind it."""

    def __init__(self, expected: Expected, signatures: ChunkSignatures | None) -> None:
        self._signatures = signatures if expected.signed_chunks else None
        self._trailer = expected.trailer
        self._waiting = bytearray()
        self._left = 0
        self._state = "size"
        self._signature = ""
        self._hash = hashlib.sha256()
        self._trailers: dict[str, str] = {}
        self._signed_trailer = b""

    def feed(self, data: bytes) -> Iterable[bytes | memoryview]:
        view = memoryview(data)
        while view:
            if self._state == "bytes":
                part = view[: self._left]
                view = view[len(part) :]
                self._left -= len(part)
                if self._signatures is not None:
                    self._hash.update(part)
                if not self._left:
                    self._state = "end"
                yield part
                continue
            if self._state == "over":
                raise _incomplete()
            line, view = self._line(view)
            if line is not None:
                self._take(line)

    def finish(self) -> dict[str, str]:
        if self._state == "trailers" and self._trailer is None and not self._waiting:
            # Some clients leave the last empty line out.
            self._state = "over"
        if self._state != "over":
            raise _incomplete()
        return self._trailers

    def _line(self, view: memoryview) -> tuple[bytes | None, memoryview]:
        piece = bytes(view[:_LONGEST_LINE])
        at = piece.find(b"\n")
        self._waiting += piece if at < 0 else piece[: at + 1]
        if len(self._waiting) > _LONGEST_LINE:
            raise _incomplete()
        if at < 0:
            return None, view[len(piece) :]
        line, self._waiting = bytes(self._waiting), bytearray()
        return line.rstrip(b"\r\n"), view[at + 1 :]

    def _take(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise _incomplete()
            self._check_chunk()
            self._state = "size"
        elif self._state == "size":
            match = _CHUNK.fullmatch(line)
            if match is None or (self._signatures is not None and match[2] is None):
                raise _incomplete() if match is None else mismatch()
            self._left, self._signature = int(match[1], 16), (match[2] or b"").decode()
            self._hash = hashlib.sha256()
            if self._left:
                self._state = "bytes"
            else:
                self._check_chunk()
                self._state = "trailers"
        elif line:
            self._take_trailer(line)
        else:
            self._end()

    def _check_chunk(self) -> None:
        if self._signatures is not None:
            self._signatures.check_chunk(self._signature, self._hash.hexdigest())

    def _take_trailer(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip()
        if not colon or len(self._trailers) > 4:
            raise _incomplete()
        if name == _SIGNATURE:
            if self._signatures is not None:
                self._signatures.check_trailer(value.decode("latin-1"), self._signed_trailer)
                self._signatures = None
            return
        wanted = None if self._trailer is None else (_HEADER + self._trailer).encode()
        if name != wanted:
            raise S3Refused("InvalidRequest", "A trailer came that was not announced.")
        self._signed_trailer += name + b":" + value + b"\n"
        self._trailers[self._trailer or ""] = value.decode("latin-1")

    def _end(self) -> None:
        if self._trailer is not None and self._signatures is not None:
            raise mismatch()  # the trailer was never signed
        self._state = "over"


def _trailer(request: Presented, *, chunked: bool) -> str | None:
    announced = (request.header("x-amz-trailer") or "").strip().lower()
    if not announced:
        return None
    name = announced.removeprefix(_HEADER)
    if not chunked or name == announced or name not in NAMES:
        raise S3Refused("InvalidRequest", "The value in x-amz-trailer is not one that is known.")
    return name


def _length(text: str | None) -> int:
    if text is None:
        raise S3Refused("MissingContentLength", "You must provide the Content-Length HTTP header.")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise S3Refused("InvalidArgument", "The length of the body is no number.")
    return int(text)


def _md5(text: str | None) -> bytes | None:
    if text is None:
        return None
    found = _base64(text)
    if found is None or len(found) != 16:
        raise S3Refused("InvalidDigest", "The Content-MD5 you specified is not valid.")
    return found


def _decoded(text: str, checksum: Checksum) -> bytes:
    found = _base64(text)
    if found is None or len(found) != len(checksum.digest()):
        raise S3Refused("InvalidRequest", "The value of a checksum header is not valid.")
    return found


def _base64(text: str) -> bytes | None:
    try:
        return b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


def _incomplete() -> S3Refused:
    return S3Refused(
        "IncompleteBody", "The body is not what its headers say: too short, too long or cut wrong."
    )


def _bad_digest(what: str) -> S3Refused:
    return S3Refused("BadDigest", f"The {what} you specified did not match what was received.")
