"""Paths in requests and entries in answers.

A path is given relative to the captured path, in UTF-8 or as its very bytes, percent-encoded;
or as base64 for clients that cannot do either. Names that are not UTF-8 are shown with their
odd bytes as ``\\xff`` and given exactly in base64 beside it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from urllib.parse import parse_qsl

from starlette.requests import Request

from holdfast.errors import UsageError
from holdfast.flows.locate import normal_path
from holdfast.gateway.authority import Grant
from holdfast.model.node import Node, NodeType
from holdfast.repo import rfc3339
from holdfast.sources.path.confine import join


class Query:
    """The parameters of a request, read so that no byte of them is lost."""

    def __init__(self, request: Request) -> None:
        text = request.scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(
                text,
                keep_blank_values=True,
                encoding="utf-8",
                errors="surrogateescape",
                max_num_fields=50,
            )
        except ValueError:
            raise UsageError("These are too many parameters.") from None
        self._values: dict[str, str] = dict(pairs)

    def text(self, name: str, otherwise: str = "") -> str:
        """The value of a parameter as text; raises `UsageError` where it is none."""
        value = self._values.get(name, otherwise)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UsageError(f"{name} is not UTF-8; correct it.") from None
        return value

    def number(self, name: str, otherwise: int, most: int) -> int:
        """A whole number from 1 to `most`."""
        value = self._values.get(name)
        if value is None:
            return otherwise
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= most):
            raise UsageError(f"{name} is a number from 1 to {most}.")
        return int(value)

    def flag(self, name: str, *, otherwise: bool) -> bool:
        """``true`` or ``false``."""
        value = self._values.get(name)
        if value is None:
            return otherwise
        if value not in ("true", "false"):
            raise UsageError(f"{name} is true or false.")
        return value == "true"

    def path(self) -> bytes:
        """The path that ``path`` or ``path_base64`` names, relative to what was captured."""
        encoded = self._values.get("path_base64")
        if encoded is None:
            return checked_path(os.fsencode(self._values.get("path", "")))
        return checked_path(from_base64(encoded))


def checked_path(path: bytes) -> bytes:
    """A path without what leads nowhere; raises `UsageError` for what cannot be one."""
    if b"\0" in path:
        raise UsageError("A path holds no NUL.")
    return normal_path(path)


def inside(grant: Grant, path: bytes) -> bytes:
    """Where in the snapshot's tree a path relative to the captured one lies."""
    top = normal_path(os.fsencode(grant.captured_path or ""))
    return join(top, path) if path else top


def entry_document(node: Node, *, name: bytes | None = None) -> dict[str, object]:
    """One entry for programs; `name` instead of the node's own, such as a path."""
    shown = node.name if name is None else name
    document: dict[str, object] = {
        **named("name", shown),
        "kind": node.type.name.lower(),
        "size_bytes": node.size if node.type is NodeType.FILE else 0,
        "mode": node.mode,
        "mtime": rfc3339.from_ns(node.mtime_ns),
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
    }
    if node.type is NodeType.FILE:
        document["etag"] = content_tag(node)
    elif node.type is NodeType.SYMLINK:
        document |= named("link_target", node.linktarget)
    return document


def named(member: str, name: bytes) -> dict[str, object]:
    """A name as text, and exactly where text cannot hold it."""
    document: dict[str, object] = {member: name.decode("utf-8", "backslashreplace")}
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        document[f"{member}_base64"] = to_base64(name)
    return document


def content_tag(node: Node) -> str:
    """A strong tag of a file's content: the same for the same bytes cut the same way."""
    digest = hashlib.sha256(b"%d" % node.size)
    for blob_id in node.content:
        digest.update(blob_id)
    return digest.hexdigest()[:32]


def to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """The bytes; raises `UsageError` where it is no base64, in either alphabet."""
    try:
        plain = text.replace("+", "-").replace("/", "_").rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("This is not base64; take the value as it was given.") from None
