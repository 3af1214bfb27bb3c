"""Output as text: pages of characters, of bytes that came in pieces of any length.

Nothing is changed or kept here. Invariants: whoever reads page after page gets the text that
the whole output is; no page ends inside a character. What is begun at the end of a page
comes with the next one, and stands as a replacement mark where the output ends with it.
Pieces of several instances lie between each other, and each instance has its own text.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from holdfast.control import task_output
from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.tables import TaskInstance, TaskOutput
from holdfast.control.task_output import PAGE_BYTES, OutputPage, Piece, known_ends

_LONGEST_BEGINNING: Final = 3
"""Bytes of a character in UTF-8 that is not whole; as many pieces may they come in."""


@dataclass(frozen=True, slots=True)
class TextPage:
    """Some text, and the bytes that came; `last_id` is where the next page begins after."""

    text: str
    data: bytes
    last_id: int


def read(
    tx: Tx,
    who: Principal,
    task_id: str,
    stream: str,
    *,
    number: int | None = None,
    after_id: int = 0,
    limit_bytes: int = PAGE_BYTES,
) -> TextPage:
    """The page of output that `task_output.read` gives, as text."""
    page = task_output.read(
        tx, who, task_id, stream, number=number, after_id=after_id, limit_bytes=limit_bytes
    )
    return _text_of(tx, page, stream)


def read_new(
    tx: Tx, who: Principal, task_id: str, stream: str, *, number: int | None = None
) -> TextPage:
    """What `task_output.read_new` gives, as text."""
    page = task_output.read_new(tx, who, task_id, stream, number=number)
    return _text_of(tx, page, stream)


def _text_of(tx: Tx, page: OutputPage, stream: str) -> TextPage:
    decoders: dict[str, codecs.IncrementalDecoder] = {}
    ends: dict[str, int] = {}
    parts = []
    for piece in page.pieces:
        decoder = decoders.get(piece.instance_id)
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            # Nothing of it comes twice: it only knows now what was begun.
            decoder.decode(_written_before(tx, piece, stream))
            decoders[piece.instance_id] = decoder
        parts.append(decoder.decode(piece.data))
        ends[piece.instance_id] = piece.offset + len(piece.data)
    for instance_id, decoder in decoders.items():
        begun, _ = decoder.getstate()
        if begun and _is_all(tx, instance_id, stream, ends[instance_id]):
            parts.append(decoder.decode(b"", final=True))
    return TextPage("".join(parts), page.data, page.last_id)


def _written_before(tx: Tx, piece: Piece, stream: str) -> bytes:
    """The last few bytes that the instance wrote before a piece."""
    if not piece.offset:
        return b""
    size = func.length(TaskOutput.data)
    found = (
        select(func.substr(TaskOutput.data, size - _LONGEST_BEGINNING + 1))
        .where(
            TaskOutput.instance_id == piece.instance_id,
            TaskOutput.stream == stream,
            TaskOutput.offset_bytes < piece.offset,
        )
        .order_by(TaskOutput.offset_bytes.desc())
        .limit(_LONGEST_BEGINNING)
    )
    ends = [bytes(each) for each in tx.scalars(found)]
    return b"".join(reversed(ends))[-_LONGEST_BEGINNING:]


def _is_all(tx: Tx, instance_id: str, stream: str, end: int) -> bool:
    """Whether an instance has ended, and wrote nothing behind that place."""
    instance = tx.get_one(TaskInstance, instance_id)
    return instance.ended_at is not None and known_ends(instance)[stream] == end
