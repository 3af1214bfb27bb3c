"""Signed requests, against the signer of botocore; bodies in chunks, against the signer here."""

from __future__ import annotations

import hashlib
import hmac
import random
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from botocore import auth
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.gateway.s3.checksum import Crc, encoded, new_checksum
from holdfast.gateway.s3.incoming import Expected, Incoming, expected_of
from holdfast.gateway.s3.peer import FailedSignatures
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.signature import (
    STREAMING,
    STREAMING_TRAILER,
    STREAMING_UNSIGNED,
    UNSIGNED,
    ChunkSignatures,
    Claim,
    Presented,
    check_time,
    claim_of,
    matches,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ACCESS, SECRET = "erika@example.org", "hf_" + "s" * 43
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def signing_key(secret: str = SECRET, region: str = "eu-west-1", date: str = "20261121") -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key


@contextmanager
def clock(now: datetime) -> Iterator[None]:
    """botocore signs as of this time."""
    kept = auth.get_current_datetime
    auth.get_current_datetime = lambda *_: now.replace(tzinfo=None)
    try:
        yield
    finally:
        auth.get_current_datetime = kept


def signed(
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes = b"",
    *,
    secret: str = SECRET,
    presign: int | None = None,
    at: datetime = NOW,
) -> Presented:
    """A request as botocore signs it and a client sends it."""
    url = f"http://host:8000/s3/bucket/{quote(key, safe='/~')}"
    request = AWSRequest(method, url, headers=headers, data=b"" if presign else body, params=query)
    credentials = Credentials(ACCESS, secret)
    with clock(at):
        if presign is None:
            S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
        else:
            S3SigV4QueryAuth(credentials, "s3", "eu-west-1", presign).add_auth(request)
    sent = request.prepare()
    parts = urlsplit(sent.url)
    fields = [("host", parts.netloc)]
    for name, value in sent.headers.items():
        text = value.decode() if isinstance(value, bytes) else value
        if name.lower() != "content-length":
            fields.append((name.lower(), text))
    pairs = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
    return Presented(method, parts.path, tuple(pairs), tuple(fields))


def claimed(request: Presented) -> Claim:
    claim = claim_of(request)
    assert claim is not None
    return claim


def refused(code: str, act: Callable[..., Any], *arguments: Any, **named: Any) -> S3Refused:
    with pytest.raises(S3Refused) as caught:
        act(*arguments, **named)
    assert caught.value.code == code
    return caught.value


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    KEYS,
    st.dictionaries(KEYS, KEYS, max_size=3),
    st.dictionaries(
        st.text("abc-", min_size=1).map(lambda name: f"x-amz-meta-{name}"),
        st.text("ab  c+/=", max_size=20),
        max_size=3,
    ),
    st.binary(max_size=50),
    st.one_of(st.none(), st.integers(1, 604_800)),
)
def test_what_botocore_signs_is_found_signed_and_nothing_else(  # noqa: PLR0917
    method: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    presign: int | None,
) -> None:
    query = {name: value for name, value in query.items() if not name.startswith("X-Amz-")}
    request = signed(method, key, query, headers, body, presign=presign)
    claim = claimed(request)
    assert (claim.access_key, claim.region) == (ACCESS, "eu-west-1")
    check_time(claim, NOW)
    assert matches(claim, request, signing_key())
    assert not matches(claim, request, signing_key("hf_other"))
    assert not matches(claim, request, signing_key(date="20261120"))
    assert not matches(claim, replace(request, method="PATCH"), signing_key())
    assert not matches(claim, replace(request, raw_path=request.raw_path + "x"), signing_key())
    more = (*request.query, ("versionId", "1"))
    assert not matches(claim, replace(request, query=more), signing_key())
    other = tuple((n, "other" if n == "host" else v) for n, v in request.headers)
    assert not matches(claim, replace(request, headers=other), signing_key())
    if presign is None:
        assert claim.payload == hashlib.sha256(body).hexdigest()
    else:
        assert claim.payload == UNSIGNED
        longer = tuple((n, "604799" if n == "X-Amz-Expires" else v) for n, v in request.query)
        if presign != 604_799:
            stretched = replace(request, query=longer)
            assert not matches(claimed(stretched), stretched, signing_key())


def test_a_path_may_be_encoded_as_the_client_likes() -> None:
    request = signed("GET", "a(b)", {}, {})
    claim = claimed(request)
    for path in ("/s3/bucket/a(b)", "/s3/bucket/a%28b%29", "/s3/bucket/%61%28b%29"):
        assert matches(claim, replace(request, raw_path=path), signing_key()), path


def test_clocks_may_differ_by_a_quarter_of_an_hour() -> None:
    claim = claimed(signed("GET", "k", {}, {}))
    for minutes in (-15, 0, 15):
        check_time(claim, NOW + timedelta(minutes=minutes))
    for minutes in (-16, 16):
        late = NOW + timedelta(minutes=minutes)
        refused("RequestTimeTooSkewed", check_time, claim, late)


def test_a_presigned_request_ends_when_it_says() -> None:
    claim = claimed(signed("GET", "k", {}, {}, presign=60))
    check_time(claim, NOW + timedelta(seconds=59))
    refused("AccessDenied", lambda: check_time(claim, NOW + timedelta(seconds=60)))
    refused("AccessDenied", lambda: check_time(claim, NOW - timedelta(minutes=16)))


@pytest.mark.parametrize("expires", ["0", "604801", "-1", "1e3", "", "99999999"])
def test_no_presigned_request_is_for_longer_than_a_week(expires: str) -> None:
    request = signed("GET", "k", {}, {}, presign=60)
    query = tuple((n, expires if n == "X-Amz-Expires" else v) for n, v in request.query)
    refused("AuthorizationQueryParametersError", lambda: claim_of(replace(request, query=query)))


def test_headers_of_amazon_must_be_signed() -> None:
    """A header that somebody adds to a signed request changes nothing."""
    for presign in (None, 60):
        request = signed("PUT", "k", {}, {}, presign=presign)
        added = (*request.headers, ("x-amz-copy-source", "/other/secret"))
        smuggled = replace(request, headers=added)
        refused("AccessDenied", claim_of, smuggled)


def test_what_is_no_signature_is_told_so() -> None:
    request = signed("GET", "k", {}, {})

    def with_authorization(text: str) -> Presented:
        headers = tuple((n, text if n == "authorization" else v) for n, v in request.headers)
        return replace(request, headers=headers)

    good = request.header("authorization") or ""
    assert claim_of(replace(request, headers=(("host", "h"),))) is None
    refused("InvalidRequest", lambda: claim_of(with_authorization("AWS key:signature")))
    for wrong in (
        good.replace("/s3/", "/ec2/"),
        good.replace("aws4_request", "aws4"),
        good.replace("Signature=", "Sig="),
        good.replace("host;", ""),
        good.replace("20261121/", "20261122/"),
        "AWS4-HMAC-SHA256 nonsense",
    ):
        found = with_authorization(wrong)
        refused("AuthorizationHeaderMalformed", claim_of, found)
    twice = signed("GET", "k", {}, {}, presign=60)
    refused(
        "AuthorizationQueryParametersError",
        lambda: claim_of(replace(twice, query=(*twice.query, ("X-Amz-Expires", "9")))),
    )


# Bodies


class ChunkSigner:
    """Signs the chunks of a body as the documentation of SigV4 says; its own words."""

    def __init__(self, claim: Claim) -> None:
        self.claim, self.last = claim, claim.signature

    def sign(self, kind: str, *hashes: str) -> str:
        text = "\n".join((kind, self.claim.timestamp, self.claim.scope, self.last, *hashes))
        self.last = hmac.new(signing_key(), text.encode(), "sha256").hexdigest()
        return self.last

    def chunk(self, data: bytes) -> bytes:
        hashes = hashlib.sha256(b"").hexdigest(), hashlib.sha256(data).hexdigest()
        signature = self.sign("AWS4-HMAC-SHA256-PAYLOAD", *hashes)
        ending = b"\r\n" if data else b""
        return f"{len(data):x};chunk-signature={signature}\r\n".encode() + data + ending

    def trailer(self, line: str) -> bytes:
        signature = self.sign(
            "AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(f"{line}\n".encode()).hexdigest()
        )
        return f"{line}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()


def claim_for(payload: str) -> Claim:
    request = signed("PUT", "k", {}, {})
    return replace(claimed(request), payload=payload)


def take(incoming: Incoming, wire: bytes, cut: int) -> bytes:
    """Feed a body in pieces of `cut` bytes; what the object's bytes are."""
    found = b""
    for at in range(0, len(wire), cut):
        found += b"".join(bytes(each) for each in incoming.feed(wire[at : at + cut]))
    incoming.finish(hashlib.md5(found).digest())
    return found


def crc32(content: bytes) -> str:
    return b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def chunked(kind: str, content: bytes, size: int) -> tuple[Incoming, bytes]:
    """A body as it goes over the wire, and what takes it."""
    claim = claim_for(kind)
    signer = ChunkSigner(claim)
    trailer = None if kind == STREAMING else "crc32"
    expected = Expected(
        len(content), chunked=True, signed_chunks=kind != STREAMING_UNSIGNED, trailer=trailer
    )
    wire = b""
    for at in [*range(0, len(content), size), len(content)]:
        part = content[at : at + size]
        if kind == STREAMING_UNSIGNED:
            wire += f"{len(part):x}\r\n".encode() + part + (b"\r\n" if part else b"")
        else:
            wire += signer.chunk(part)
    line = f"x-amz-checksum-crc32:{crc32(content)}"
    if kind == STREAMING_TRAILER:
        wire += signer.trailer(line)
    elif kind == STREAMING_UNSIGNED:
        wire += f"{line}\r\n\r\n".encode()
    else:
        wire += b"\r\n"
    return Incoming(expected, ChunkSignatures(claim, signing_key())), wire


KINDS = [STREAMING, STREAMING_TRAILER, STREAMING_UNSIGNED]


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.binary(max_size=300), st.integers(1, 200), st.integers(1, 500))
def test_chunks_are_taken_however_they_are_cut(
    kind: str, content: bytes, size: int, cut: int
) -> None:
    incoming, wire = chunked(kind, content, size)
    assert take(incoming, wire, cut) == content


@settings(max_examples=100)
@given(st.sampled_from(KINDS), st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_or_shortened_body_in_chunks_is_never_taken(
    kind: str, content: bytes, data: st.DataObject
) -> None:
    incoming, wire = chunked(kind, content, 20)
    if data.draw(st.booleans()):
        left = data.draw(st.integers(0, len(wire) - 3))
        changed = wire[:left]
    else:
        at = data.draw(st.integers(0, len(wire) - 1))
        broken = bytearray(wire)
        broken[at] ^= 1 << data.draw(st.integers(0, 7))
        changed = bytes(broken)
    try:
        found = take(incoming, changed, 37)
    except S3Refused:
        return
    assert found == content  # such as another spelling of a length, or of a line's end


@pytest.mark.parametrize("name", ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"])
@pytest.mark.parametrize("trailing", [False, True])
def test_checksums_are_checked(name: str, trailing: bool) -> None:
    content = random.Random(1).randbytes(70_000)
    checksum = new_checksum(name)
    checksum.update(content)
    good = encoded(checksum)
    other = new_checksum(name)
    other.update(b"other")
    for value, holds in ((good, True), (encoded(other), False)):
        if trailing:
            expected = Expected(len(content), chunked=True, trailer=name)
            line = f"x-amz-checksum-{name}: {value}\r\n\r\n"
            wire = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n" + line.encode()
        else:
            expected, wire = Expected(len(content), checksums=((name, value),)), content
        incoming = Incoming(expected)
        if holds:
            assert take(incoming, wire, 1000) == content
        else:
            refused("BadDigest", take, incoming, wire, 1000)


def test_known_checksums() -> None:
    for bits, digest in ((32, "e3069283"), (64, "ae8b14860a799888")):
        crc = Crc(bits)
        crc.update(b"123456789")
        assert crc.digest().hex() == digest


@settings(max_examples=20)
@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_a_checksum_does_not_depend_on_how_its_bytes_come(size: int, at: int) -> None:
    content = random.Random(size).randbytes(size)
    for bits in (32, 64):
        one, two = Crc(bits), Crc(bits)
        one.update(content[:at])
        one.update(content[at:])
        for start in range(0, size, 9000):
            two.update(content[start : start + 9000])
        assert one.digest() == two.digest()


def presented(**headers: str) -> Presented:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Presented("PUT", "/s3/b/k", (), fields)


def test_a_plain_body_is_what_was_signed() -> None:
    content = b"content"
    good = hashlib.sha256(content).hexdigest()
    request = presented(
        content_length="7", content_md5=b64encode(hashlib.md5(content).digest()).decode()
    )
    expected = expected_of(request, good, secure=False, presigned=False)
    assert take(Incoming(expected), content, 3) == content
    refused("XAmzContentSHA256Mismatch", lambda: take(Incoming(expected), b"contenX", 3))
    refused("IncompleteBody", lambda: take(Incoming(expected), b"conten", 3))
    refused("IncompleteBody", lambda: take(Incoming(expected), b"content and more", 3))
    unsigned = expected_of(request, UNSIGNED, secure=True, presigned=False)
    refused("BadDigest", lambda: take(Incoming(unsigned), b"contenX", 3))


def test_an_unsigned_body_needs_tls_or_a_signature_beforehand() -> None:
    request = presented(content_length="7")
    refused("InvalidRequest", lambda: expected_of(request, UNSIGNED, secure=False, presigned=False))
    for secure, presigned in ((True, False), (False, True)):
        assert expected_of(request, UNSIGNED, secure=secure, presigned=presigned).length == 7


def test_what_a_request_says_of_its_body_must_make_sense() -> None:
    good = hashlib.sha256(b"").hexdigest()
    for code, headers, payload in (
        ("MissingContentLength", {}, good),
        ("MissingContentLength", {"content_length": "9"}, STREAMING),
        ("InvalidArgument", {"content_length": "-1"}, good),
        ("InvalidDigest", {"content_length": "0", "content_md5": "!"}, good),
        ("InvalidRequest", {"content_length": "0", "x_amz_checksum_crc32": "AAAA"}, good),
        ("InvalidRequest", {"content_length": "0", "x_amz_trailer": "x-amz-checksum-crc32"}, good),
        (
            "InvalidRequest",
            {"x_amz_decoded_content_length": "0", "x_amz_trailer": "x-other"},
            STREAMING_UNSIGNED,
        ),
        ("EntityTooLarge", {"content_length": str((5 << 30) + 1)}, good),
    ):
        request = presented(**headers)
        refused(code, expected_of, request, payload, secure=True, presigned=False)


def test_an_address_that_signs_wrong_again_and_again_has_to_wait() -> None:
    seconds = [0.0]
    failed = FailedSignatures(lambda: seconds[0])
    for _ in range(30):
        failed.check("192.0.2.1")
        failed.note("192.0.2.1")
    refused("SlowDown", lambda: failed.check("192.0.2.1"))
    failed.check("192.0.2.2")
    seconds[0] = 10.0
    failed.check("192.0.2.1")
