"""The XML of S3: answers that are written, and the few documents that are read.

What is read is small, has no document type and so no entities of its own, and is not deeper
than any request of S3. What is written escapes every character that XML can carry; a key with
one that it cannot is refused, unless the client asks for URL encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote
from xml.parsers import expat
from xml.sax.saxutils import escape

from starlette.responses import Response

from holdfast.gateway.s3.refusal import S3Refused

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MEDIA_TYPE = "application/xml"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEEPEST = 8
_MOST_ELEMENTS = 60_000

Member = tuple[str, "str | int | bool | Iterable[Member]"]


@dataclass(slots=True)
class Element:
    """An element that was read: its name without a namespace, its text and what is in it."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        return [each for each in self.children if each.name == name]

    def text_of(self, name: str) -> str | None:
        """The text of the one child of that name."""
        found = self.all(name)
        if len(found) > 1:
            raise malformed()
        return found[0].text if found else None


def parse(data: bytes, root: str) -> Element:
    """Read a document whose root has this name; raises `S3Refused` for every other one."""
    stack = [Element("")]
    count = 0

    def start(name: str, _attributes: object) -> None:
        nonlocal count
        count += 1
        if len(stack) > _DEEPEST or count > _MOST_ELEMENTS:
            raise malformed()
        element = Element(name.rpartition("}")[2])
        stack[-1].children.append(element)
        stack.append(element)

    def end(_name: str) -> None:
        stack.pop()

    def characters(text: str) -> None:
        stack[-1].text += text

    def refuse(*_anything: object) -> None:
        raise malformed()

    parser = expat.ParserCreate(encoding="UTF-8", namespace_separator="}")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat takes no keywords
    except (expat.ExpatError, UnicodeError):
        raise malformed() from None
    found = stack[0].children
    if len(found) != 1 or found[0].name != root:
        raise malformed()
    return found[0]


def malformed() -> S3Refused:
    return S3Refused(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published "
        "schema.",
    )


def document(root: str, *members: Member, namespace: bool = True) -> bytes:
    """A whole document; members are written in order, those that are sequences nested."""
    attribute = f' xmlns="{NAMESPACE}"' if namespace else ""
    parts = [_HEAD, f"<{root}{attribute}>"]
    _write(members, parts)
    parts.append(f"</{root}>")
    return "".join(parts).encode()


def answer(root: str, *members: Member, status: int = 200) -> Response:
    return Response(document(root, *members), status, None, MEDIA_TYPE)


def time_text(moment: datetime) -> str:
    """As S3 writes times."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class KeyText:
    """How keys are written in a listing: as they are, or URL-encoded where that was asked."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("", "url"):
            raise S3Refused("InvalidArgument", "encoding-type can only be url.")
        self._encodes = encoding == "url"

    def __call__(self, key: str) -> str:
        if self._encodes:
            return quote(key, safe="/-_.~")
        if _ILLEGAL.search(key) is not None:
            raise S3Refused(
                "InvalidArgument",
                "A key here holds characters that XML cannot carry; list with encoding-type=url.",
            )
        return key


def _write(members: Iterable[Member], parts: list[str]) -> None:
    for name, value in members:
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int):
            text = str(value)
        elif isinstance(value, str):
            text = _escaped(value)
        else:
            parts.append(f"<{name}>")
            _write(value, parts)
            parts.append(f"</{name}>")
            continue
        parts.append(f"<{name}>{text}</{name}>")


def _escaped(text: str) -> str:
    # A carriage return would be read as a line feed.
    return escape(_ILLEGAL.sub("\ufffd", text), {"\r": "&#13;", '"': "&quot;"})
