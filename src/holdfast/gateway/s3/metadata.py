"""What is kept with an object beside its bytes, as it comes and goes in headers.

Some headers of S3 ask for what is not there: such a request is refused, and never taken as
if they had not been sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from holdfast.gateway.s3.call import Call
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.service import UNTYPED, Found

META = "x-amz-meta-"
CHECKSUM = "x-amz-checksum-"
_MOST_META_BYTES = 2048
_KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_OVERRIDES = {f"response-{name}": name for name in (*_KEPT, "content-type")}
_PLAIN = re.compile(r"[ -~]{1,255}")
_ACLS = frozenset({"private", "bucket-owner-full-control", "bucket-owner-read"})
_REFUSED = (
    "x-amz-object-lock-",
    "x-amz-grant-",
    "x-amz-server-side-encryption-",
    "x-amz-copy-source-server-side-encryption-",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
)
INERT = {
    "X-Content-Type-Options": "nosniff",
    # A customer's file is never run in the place that serves it.
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


def check_wishes(call: Call) -> None:
    """Raise `S3Refused` for headers that ask for what is not there."""
    for name, value in call.presented.headers:
        if name == "x-amz-acl" and value not in _ACLS:
            raise _missing("Access control lists")
        if name == "x-amz-tagging" and value:
            raise _missing("Tags")
        if name == "x-amz-storage-class" and value != "STANDARD":
            raise S3Refused("InvalidStorageClass", "The only storage class here is STANDARD.")
        if name == "x-amz-server-side-encryption" and value != "AES256":
            raise _missing("Keys of other services; what is stored is encrypted in any case. They")
        if name.startswith(_REFUSED):
            raise _missing(f"What {name} asks for")


def content_type_of(call: Call) -> str:
    """As it was given; raises `S3Refused` for one that no header can carry."""
    given = call.header("content-type") or UNTYPED
    if _PLAIN.fullmatch(given) is None:
        raise S3Refused("InvalidArgument", "The Content-Type is too long, or not plain text.")
    return given


def headers_of(call: Call) -> dict[str, str]:
    """What of a request's headers is kept with the object."""
    kept: dict[str, str] = {}
    meta = 0
    for name, value in call.presented.headers:
        if name.startswith(META):
            meta += len(name) - len(META) + len(value.encode())
            kept[name] = f"{kept[name]},{value}" if name in kept else value
        elif name == "content-encoding":
            encodings = [each.strip() for each in value.split(",")]
            value = ",".join(each for each in encodings if each and each != "aws-chunked")  # noqa: PLW2901
            if value:
                kept[name] = value
        elif name in _KEPT:
            kept[name] = value
    if meta > _MOST_META_BYTES:
        raise S3Refused(
            "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size."
        )
    return kept


def shown_headers(call: Call, found: Found) -> dict[str, str]:
    """The headers of an answer that shows an object; `call` may override some."""
    headers = {
        **INERT,
        "ETag": f'"{found.etag}"',
        "Last-Modified": format_datetime(found.modified_at.astimezone(UTC), usegmt=True),
        "Accept-Ranges": "bytes",
    }
    wanted = call.header("x-amz-checksum-mode") or ""
    for name, value in found.headers.items():
        if not name.startswith(CHECKSUM) or wanted.upper() == "ENABLED":
            headers[name] = _latin(value)
    for parameter, name in _OVERRIDES.items():
        wish = call.query.get(parameter)
        if wish is not None:
            if _PLAIN.fullmatch(wish) is None:
                raise S3Refused("InvalidArgument", f"{parameter} cannot stand in a header.")
            headers[name] = wish
    return headers


def whole_only(headers: Mapping[str, str]) -> dict[str, str]:
    """Without what is said of all bytes, for an answer with some of them."""
    return {name: value for name, value in headers.items() if not name.startswith(CHECKSUM)}


def http_time(text: str) -> datetime | None:
    """A date of HTTP; None for what is none."""
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _latin(value: str) -> str:
    """Text that is not Latin-1 goes out as the UTF-8 in which it came."""
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode().decode("latin-1")
    return value if value.isascii() else value.encode().decode("latin-1")


def _missing(what: str) -> S3Refused:
    return S3Refused("NotImplemented", f"{what} are not implemented here; leave the header out.")
