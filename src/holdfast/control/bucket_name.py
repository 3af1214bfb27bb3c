"""What a bucket may be called, and what a key may be: the rules of S3.

Clients make host names and paths of them, so nothing else would reach every client.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.errors import UsageError

LONGEST_KEY_BYTES: Final = 1024

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")
_RESERVED: Final = re.compile(r"(xn--|sthree-|amzn-s3-demo-).*|.*(-s3alias|--ol-s3|\.mrap|--x-s3)")


def check_bucket_name(name: str) -> str:
    """The name itself; `UsageError` where no bucket can be called so."""
    if not _NAME.fullmatch(name) or ".." in name or ".-" in name or "-." in name:
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a bucket: it has 3 to 63 lower-case letters, "
            "digits, hyphens and single dots, and begins and ends with a letter or digit."
        )
    if _ADDRESS.fullmatch(name):
        raise UsageError(f"{name!r} is written like a network address; choose another name.")
    if _RESERVED.fullmatch(name):
        raise UsageError(
            f"{name!r} begins or ends like names that S3 clients treat as something else; "
            "choose another name."
        )
    return name


def check_key(key: str) -> str:
    """The key itself; `UsageError` where no object can lie under it."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise UsageError("A key of an object is text in UTF-8, and this one is not.") from None
    if not 1 <= size <= LONGEST_KEY_BYTES:
        raise UsageError(
            f"A key of an object has 1 to {LONGEST_KEY_BYTES} bytes in UTF-8; this one has {size}."
        )
    if "\0" in key:
        raise UsageError("A key of an object cannot hold a zero byte; choose another key.")
    return key
