"""Refusals in the words of S3: a code that programs compare, a status, a sentence.

`refusal_of` translates every error of our own tree; nothing else does. What is said names no
place of the operator's.
"""

from __future__ import annotations

from typing import Final

from holdfast.errors import (
    BucketNotEmpty,
    Changed,
    Conflict,
    CreditExhausted,
    DatabaseUnavailable,
    Forbidden,
    HoldfastError,
    InvalidPart,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NotFound,
    NotSignedIn,
    PartTooSmall,
    QuotaExceeded,
    ServerUnavailable,
    StoreFull,
    StoreUnavailable,
    TooManyRequests,
    UsageError,
)
from holdfast.gateway.answer import Gone, Refused, message_for

STATUSES: Final = {
    "AccessDenied": 403,
    "AccountProblem": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BucketNotEmpty": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidDigest": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidStorageClass": 400,
    "InvalidToken": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NotImplemented": 501,
    "OperationAborted": 409,
    "PreconditionFailed": 412,
    "QuotaExceeded": 403,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}


class S3Refused(HoldfastError):
    """A request is refused with a code of S3."""

    def __init__(self, code: str, message: str, **details: str) -> None:
        """`details` are further elements of the answer."""
        super().__init__(message)
        self.code, self.http_status, self.details = code, STATUSES[code], details


_CODES: tuple[tuple[type[HoldfastError], str], ...] = (
    (NoSuchBucket, "NoSuchBucket"),
    (NoSuchKey, "NoSuchKey"),
    (NoSuchUpload, "NoSuchUpload"),
    (NotFound, "NoSuchKey"),
    (BucketNotEmpty, "BucketNotEmpty"),
    (PartTooSmall, "EntityTooSmall"),
    (InvalidPart, "InvalidPart"),
    (Changed, "PreconditionFailed"),
    (Conflict, "OperationAborted"),
    (CreditExhausted, "AccountProblem"),
    (QuotaExceeded, "QuotaExceeded"),
    (NotSignedIn, "InvalidAccessKeyId"),
    (Forbidden, "AccessDenied"),
    (TooManyRequests, "SlowDown"),
    (ServerUnavailable, "SlowDown"),
    (DatabaseUnavailable, "ServiceUnavailable"),
    (StoreUnavailable, "ServiceUnavailable"),
    (StoreFull, "ServiceUnavailable"),
    (UsageError, "InvalidArgument"),
    (Gone, "RequestTimeout"),
)
_STATUS_CODES: Final = {
    408: "RequestTimeout",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    416: "InvalidRange",
}


def refusal_of(error: HoldfastError) -> S3Refused:
    """The refusal that says what an error says."""
    if isinstance(error, S3Refused):
        return error
    if isinstance(error, Refused):
        code = _STATUS_CODES.get(error.http_status, "InvalidRequest")
    else:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "InternalError")
    return S3Refused(code, message_for(error))
