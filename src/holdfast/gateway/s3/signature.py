"""Signed requests (AWS Signature Version 4): in the Authorization header, or in the query.

The secret is never here. The control plane derives from it a key that is good for one day,
region and service; with that key a request, and each chunk of a body, is signed anew and
compared in constant time. botocore's own signer writes down what is signed, so that both
sides agree on every byte; only here it is imported.

What is signed covers the host and every ``x-amz-`` header that came, so that nothing can be
added to a request that somebody else signed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from holdfast.gateway.s3.refusal import S3Refused

SKEW: Final = timedelta(minutes=15)
LONGEST_EXPIRY_SECONDS: Final = 7 * 24 * 3600
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_EMPTY_HASH: Final = hashlib.sha256(b"").hexdigest()
_TIME: Final = "%Y%m%dT%H%M%SZ"
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SCOPE: Final = re.compile(r"(.{1,320})/(\d{8})/([A-Za-z0-9-]{1,64})/([a-z0-9-]+)/([a-z0-9_]+)")
# A request that was signed for later may carry these without their being signed: they make
# the check of its body stricter and nothing else.
_UNSIGNED_ALLOWED: Final = frozenset({"x-amz-content-sha256"})


@dataclass(frozen=True, slots=True)
class Presented:
    """A request as it came: the path as it was sent, the query decoded, names in lower case."""

    method: str
    raw_path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its own signature. `payload` is what it says of its body."""

    access_key: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str
    signed_at: datetime
    payload: str
    expires_seconds: int | None = None

    @property
    def presigned(self) -> bool:
        """Whether it was signed by somebody for somebody else, to be used until it expires."""
        return self.expires_seconds is not None

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/s3/aws4_request"

    @property
    def timestamp(self) -> str:
        return self.signed_at.strftime(_TIME)


def claim_of(request: Presented) -> Claim | None:
    """What the request says; None for an anonymous one."""
    header = request.header("authorization")
    query = dict(request.query)
    if "X-Amz-Signature" in query or "X-Amz-Algorithm" in query:
        if header is not None:
            raise S3Refused(
                "InvalidArgument", "Sign in the query or in the header, not in both of them."
            )
        return _from_query(request, query)
    if header is None:
        if "AWSAccessKeyId" in query:
            raise _old()
        return None
    return _from_header(request, header)


def check_time(claim: Claim, now: datetime) -> None:
    """Raise `S3Refused` for a request that is too old, or from the future."""
    if claim.expires_seconds is not None:
        if now >= claim.signed_at + timedelta(seconds=claim.expires_seconds):
            raise S3Refused("AccessDenied", "Request has expired; sign a new one.")
        if claim.signed_at - now > SKEW:
            raise S3Refused("AccessDenied", "Request is not valid yet; check the clocks.")
    elif abs(now - claim.signed_at) > SKEW:
        raise S3Refused(
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large; set "
            "the clock.",
            RequestTime=claim.timestamp,
            ServerTime=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            MaxAllowedSkewMilliseconds=str(int(SKEW.total_seconds() * 1000)),
        )


def matches(claim: Claim, request: Presented, signing_key: bytes) -> bool:
    """Whether the request was signed with this key."""
    for path in dict.fromkeys((_canonical_path(request.raw_path), request.raw_path)):
        text = _string_to_sign(claim, request, path)
        made = hmac.new(signing_key, text.encode(), hashlib.sha256).hexdigest()
        if _is_same(made, claim.signature):
            return True
    return False


class ChunkSignatures:
    """The chain of signatures of a body's chunks, each over its own bytes and the one before."""

    def __init__(self, claim: Claim, signing_key: bytes) -> None:
        self._claim, self._key, self._last = claim, signing_key, claim.signature

    def check_chunk(self, signature: str, content_hash: str) -> None:
        """Raise `S3Refused` unless this is the signature of the next chunk."""
        self._check(signature, f"{_ALGORITHM}-PAYLOAD", _EMPTY_HASH, content_hash)

    def check_trailer(self, signature: str, trailer: bytes) -> None:
        """The same of the headers behind the body, each as ``name:value`` and a line feed."""
        self._check(signature, f"{_ALGORITHM}-TRAILER", hashlib.sha256(trailer).hexdigest())

    def _check(self, signature: str, kind: str, *hashes: str) -> None:
        lines = (kind, self._claim.timestamp, self._claim.scope, self._last, *hashes)
        made = hmac.new(self._key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        if not _is_same(made, signature):
            raise mismatch()
        self._last = made


def _is_same(made: str, shown: str) -> bool:
    # As bytes: what is shown may hold anything, and texts are compared as ASCII only.
    return hmac.compare_digest(made.encode(), shown.encode("utf-8", "surrogateescape"))


def mismatch() -> S3Refused:
    return S3Refused(
        "SignatureDoesNotMatch",
        "The signature does not fit the request; check the secret, and that nothing on the way "
        "changes the request.",
    )


class _Canonical(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, writing down what another one says to have signed."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(Credentials("", ""), "s3", claim.region)
        self._claim = claim

    def headers_to_sign(self, request: Any) -> Any:
        chosen = HTTPHeaders()
        for name in self._claim.signed_headers:
            values = request.headers.get_all(name)
            for value in values or ():
                chosen[name] = value
        return chosen


def _string_to_sign(claim: Claim, request: Presented, path: str) -> str:
    signer = _Canonical(claim)
    params = [pair for pair in request.query if pair[0] != "X-Amz-Signature"]
    # What is signed of the body is what the request says of it; that it is true is checked
    # while the body comes.
    headers = [pair for pair in request.headers if pair[0] != "x-amz-content-sha256"]
    described = AWSRequest(method=request.method, url=f"http://host{path}", params=params)
    for name, value in headers:
        described.headers.add_header(name, value)
    stated = request.header("x-amz-content-sha256")
    if "x-amz-content-sha256" in claim.signed_headers and stated is not None:
        described.headers.add_header("X-Amz-Content-SHA256", stated)
    described.context["timestamp"] = claim.timestamp
    canonical = signer.canonical_request(described)
    if not ("x-amz-content-sha256" in claim.signed_headers and stated is not None):
        canonical = canonical.rpartition("\n")[0] + "\n" + _stated_payload(claim)
    return str(signer.string_to_sign(described, canonical))


def _stated_payload(claim: Claim) -> str:
    return UNSIGNED if claim.presigned else claim.payload


def _canonical_path(raw_path: str) -> str:
    return quote(unquote_to_bytes(raw_path), safe="/-_.~")


def _from_header(request: Presented, header: str) -> Claim:
    scheme, _, rest = header.partition(" ")
    if scheme != _ALGORITHM:
        raise _old()
    fields = {
        name: value for name, _, value in (part.strip().partition("=") for part in rest.split(","))
    }
    try:
        credential, names = fields["Credential"], fields["SignedHeaders"]
        signature = fields["Signature"]
    except KeyError as missing:
        raise S3Refused(
            "AuthorizationHeaderMalformed", f"The authorization header has no {missing.args[0]}."
        ) from None
    access_key, date, region = _scope_of(credential, "AuthorizationHeaderMalformed")
    signed_at = _signed_at(request)
    payload = request.header("x-amz-content-sha256")
    if payload is None:
        raise S3Refused("InvalidRequest", "Missing required header: x-amz-content-sha256.")
    if payload not in (UNSIGNED, STREAMING, STREAMING_TRAILER, STREAMING_UNSIGNED) and (
        _HEX.fullmatch(payload) is None
    ):
        raise S3Refused(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a known STREAMING- value or a "
            "SHA-256 in hexadecimal digits.",
        )
    claim = Claim(access_key, date, region, tuple(names.split(";")), signature, signed_at, payload)
    return _checked(request, claim, "AuthorizationHeaderMalformed")


def _from_query(request: Presented, query: dict[str, str]) -> Claim:
    wrong = "AuthorizationQueryParametersError"
    if len({key for key, _ in request.query if key.startswith("X-Amz-")}) != sum(
        key.startswith("X-Amz-") for key, _ in request.query
    ):
        raise S3Refused(wrong, "A parameter of the signature is given twice.")
    try:
        algorithm, credential = query["X-Amz-Algorithm"], query["X-Amz-Credential"]
        expires, names = query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]
        signature, at = query["X-Amz-Signature"], query["X-Amz-Date"]
    except KeyError as missing:
        raise S3Refused(wrong, f"The query has no {missing.args[0]}.") from None
    if algorithm != _ALGORITHM:
        raise S3Refused(wrong, f"X-Amz-Algorithm only supports {_ALGORITHM}.")
    if "X-Amz-Security-Token" in query:
        raise _no_sessions()
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 7) or not (
        1 <= int(expires) <= LONGEST_EXPIRY_SECONDS
    ):
        raise S3Refused(wrong, f"X-Amz-Expires must be 1 to {LONGEST_EXPIRY_SECONDS} seconds.")
    access_key, date, region = _scope_of(credential, wrong)
    signed_at = _parsed(at)
    if signed_at is None:
        raise S3Refused(wrong, "X-Amz-Date must be written as yyyyMMddTHHmmssZ.")
    payload = request.header("x-amz-content-sha256") or UNSIGNED
    if payload != UNSIGNED and _HEX.fullmatch(payload) is None:
        raise S3Refused("InvalidArgument", "A body that is signed beforehand comes as it is.")
    claim = Claim(
        access_key,
        date,
        region,
        tuple(names.split(";")),
        signature,
        signed_at,
        payload,
        int(expires),
    )
    return _checked(request, claim, wrong)


def _checked(request: Presented, claim: Claim, wrong: str) -> Claim:
    if claim.signed_at.strftime("%Y%m%d") != claim.date:
        raise S3Refused(wrong, "The date of the credential is not that of the request.")
    if "host" not in claim.signed_headers:
        raise S3Refused(wrong, "The host header must be signed.")
    if request.header("x-amz-security-token") is not None:
        raise _no_sessions()
    for name, _ in request.headers:
        allowed = claim.presigned and name in _UNSIGNED_ALLOWED
        if name.startswith("x-amz-") and name not in claim.signed_headers and not allowed:
            raise S3Refused(
                "AccessDenied",
                "There were headers present in the request which were not signed.",
                HeadersNotSigned=name,
            )
    return claim


def _scope_of(credential: str, wrong: str) -> tuple[str, str, str]:
    match = _SCOPE.fullmatch(credential)
    if match is None or match[4] != "s3" or match[5] != "aws4_request":
        raise S3Refused(
            wrong, "The credential must be written as <access key>/<date>/<region>/s3/aws4_request."
        )
    return match[1], match[2], match[3]


def _signed_at(request: Presented) -> datetime:
    text = request.header("x-amz-date")
    found = None
    if text is not None:
        found = _parsed(text)
    elif (text := request.header("date")) is not None:
        try:
            found = parsedate_to_datetime(text)
        except ValueError:
            found = _parsed(text)
    if found is None or found.tzinfo is None:
        raise S3Refused("AccessDenied", "A signed request needs a valid Date or x-amz-date header.")
    return found.astimezone(UTC)


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def _old() -> S3Refused:
    return S3Refused(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use "
        "AWS4-HMAC-SHA256.",
    )


def _no_sessions() -> S3Refused:
    return S3Refused("InvalidToken", "There are no session tokens here; use a token's own secret.")
