"""Says in our words what an object storage, or the library that talks to it, answered.

`translate` turns any exception of obstore into one of our tree. What it writes never
holds a credential: of the original only the HTTP status, the storage's error code and a
few known causes are used, never a URL, a header or the library's debug text.
"""

from __future__ import annotations

import re

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

# The second form is that of one deletion within Azure's batch, which tells no error code.
_STATUS = re.compile(r"(?:status code: |Bulk delete request failed .*\(code: )(\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")

_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_FULL = frozenset({"QuotaExceeded", "EntityTooLarge", "InsufficientCapacity", "XMinioStorageFull"})
_RETAINED = frozenset(
    {"ObjectLocked", "RetentionPolicyNotMet", "ObjectUnderActiveHold", "InvalidObjectState",
     "BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"}
)  # fmt: skip
_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException",
     "TemporaryRedirect", "InvalidRegion"}
)  # fmt: skip
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
     "TokenRefreshRequired", "AuthenticationFailed", "InvalidAuthenticationInfo"}
)  # fmt: skip
_BUSY = frozenset({"SlowDown", "RequestTimeout", "ServerBusy", "OperationAborted"})
# "Try the upload again" says S3 when two conditional ones meet; nothing was written.
_RACED = frozenset({"ConditionalRequestConflict", "OperationAborted"})

_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")

# In obstore's text, by the library underneath; the first that occurs is told.
_CAUSES = (
    ("invalid list response", "the answer broke off or is not that of a storage", True),
    ("InvalidCertificate", "the server's certificate is not trusted", False),
    ("invalid peer certificate", "the server's certificate is not trusted", False),
    ("InvalidContentType", "the server does not speak TLS at that address", False),
    ("URL scheme is not allowed", "the address must begin with https://", False),
    ("BadScheme", "the address must begin with https://", False),
    ("dns error", "the host name cannot be resolved", True),
    ("ConnectionRefused", "the connection was refused", True),
    ("TimedOut", "there was no answer in time", True),
    ("timed out", "there was no answer in time", True),
    ("error sending request", "the connection was lost", True),
    ("error decoding response body", "the answer broke off", True),
    ("request or response body error", "the answer broke off", True),
    ("IncompleteMessage", "the connection was lost", True),
    ("ConnectionReset", "the connection was lost", True),
    ("UnexpectedEof", "the connection was lost", True),
    ("BrokenPipe", "the connection was lost", True),
)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the storage answered with, if it answered."""
    found = _STATUS.search(str(error))
    return None if found is None else int(found[1])


def code_of(error: BaseException) -> str:
    """The storage's own error code, or an empty string."""
    found = _CODE.search(str(error))
    return "" if found is None else found[1]


def is_raced(error: BaseException) -> bool:
    """Whether a conditional upload met another one, wrote nothing, and may be repeated."""
    return status_of(error) == 409 and code_of(error) in _RACED


def translate(error: Exception, act: str, location: str, key: str) -> HoldfastError:
    """The error of our tree for one of obstore; `act` is what was tried, as ``read x``."""
    from obstore.exceptions import AlreadyExistsError

    text = str(error)
    status, code = status_of(error), code_of(error)
    failed = f"Cannot {act} in {location}"
    if any(address in text for address in _METADATA):
        # Without credentials the library asks the machine's metadata service for some.
        return StoreDenied(
            f"{failed}: there are no credentials. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or those of the storage's provider."
        )
    said = " ".join(str(part) for part in (status, code) if part) or "redirected"
    if code in _NO_BUCKET:
        # Never ObjectNotFound: a missing bucket must not pass for an empty repository.
        return StoreError(
            f"{failed}: there is no such bucket. Create it first, or correct its name or the "
            "endpoint."
        )
    if code in _FULL or status == 507:
        return StoreFull(f"{failed}: the storage is full ({said}). Free space or raise the quota.")
    if code in _RETAINED or (status == 409 and "Bulk delete" in text):
        return StoreDenied(
            f"{failed}: an object lock or retention period protects it ({said}). Wait until "
            "the period has passed, or have the owner of the bucket lift it."
        )
    if code in _WRONG_REGION or status in (301, 307) or "redirect without LOCATION" in text:
        return StoreDenied(
            f"{failed}: the bucket lies in another region ({said}). Set AWS_DEFAULT_REGION, or "
            "give the bucket's own endpoint."
        )
    if code in _SKEWED:
        return StoreDenied(f"{failed}: this machine's clock is wrong ({said}). Set it right.")
    if isinstance(error, FileNotFoundError) or status == 404:
        return ObjectNotFound(f"{location} holds no object {key}.")
    if status in (408, 429) or code in _BUSY or (status is not None and status >= 500):
        if status == 501:
            return StoreError(f"{failed}: the storage does not know this request ({said}).")
        return StoreUnavailable(f"{failed}: the storage cannot answer now ({said}).")
    if isinstance(error, AlreadyExistsError):
        return ObjectExists(f"{key} exists already in {location}.")
    if code in _BAD_CREDENTIALS or status == 401:
        return StoreDenied(
            f"{failed}: the storage does not accept the credentials ({said}). Check the access "
            "key, the secret and, for temporary ones, whether they have expired."
        )
    if status == 403:
        return StoreDenied(
            f"{failed}: the storage refuses ({said}). Check the credentials, the bucket's "
            "policy, and whether an object lock or retention period applies."
        )
    if status is not None:
        return StoreError(f"{failed}: the storage answered {said}.")
    return _without_answer(text, failed)


def _without_answer(text: str, failed: str) -> HoldfastError:
    for sign, cause, passing in _CAUSES:
        if sign in text:
            if passing:
                return StoreUnavailable(
                    f"{failed}: {cause}. Check the endpoint and the network if this goes on."
                )
            return StoreError(f"{failed}: {cause}.")
    return StoreError(f"{failed}: the request could not be made. Check the location and options.")
