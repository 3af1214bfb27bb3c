"""ETags: a copy that is still good need not be sent, and nobody overwrites unseen changes.

A tag has two parts, ``"<edited>-<whole>"``. `whole` is of the document as it was sent and
decides about ``If-None-Match``. `edited` is of those members that people change, and
decides about ``If-Match``: a host's heartbeat must not make an edit of its name fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from fastapi import Header

from holdfast.errors import Changed

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="Go ahead only if what is edited has still this ETag; else 412 `changed`.",
        max_length=1000,
    ),
]


def etag_of(document: Mapping[str, Any], body: bytes, observed: Collection[str]) -> str:
    """The tag of a document that is sent as `body`.

    `observed` are the members that change by themselves.
    """
    edited = {name: value for name, value in document.items() if name not in observed}
    text = json.dumps(edited, sort_keys=True, separators=(",", ":")).encode()
    return f'"{_digest(text)}-{_digest(body)}"'


def is_same(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller has exactly this document already."""
    if if_none_match is None:
        return False
    return "*" in (given := _listed(if_none_match)) or etag in given


def check_match(if_match: str | None, etag: str) -> None:
    """Raise `Changed` unless the caller has seen what is about to be changed."""
    if if_match is None:
        return
    given = _listed(if_match)
    if "*" in given or _edited(etag) in {_edited(each) for each in given}:
        return
    raise Changed("It was changed since you read it: read it again, then decide what to change.")


def _listed(header: str) -> list[str]:
    return [each.strip().removeprefix("W/") for each in header.split(",")]


def _edited(etag: str) -> str:
    return etag.strip('"').partition("-")[0]


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:20]
