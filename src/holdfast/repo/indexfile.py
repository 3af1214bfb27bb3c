"""Index files: JSON documents that say which pack holds which blob.

The form is restic's, with rustic's addition ``packs_to_delete``: packs that a prune has
marked, each with the time of the mark. Restic ignores that field. Pure; no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from holdfast.errors import Damaged
from holdfast.repo import rfc3339
from holdfast.repo.crypto import OVERHEAD_BYTES
from holdfast.repo.pack import BlobType, PackedBlob

_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class IndexedPack:
    """One pack as an index lists it.

    `id` is the pack's 32 bytes; `marked_ns` is when a prune marked it for deletion, in
    nanoseconds since the epoch, or None while it is in use.
    """

    id: bytes
    blobs: list[PackedBlob]
    marked_ns: int | None = None


def encode_index(packs: Iterable[IndexedPack]) -> bytes:
    """Return the JSON text of an index file."""
    alive, marked = [], []
    for pack in packs:
        text = f'{{"id":"{pack.id.hex()}","blobs":[{",".join(map(_blob_json, pack.blobs))}]'
        if pack.marked_ns is None:
            alive.append(text + "}")
        else:
            marked.append(f'{text},"time":"{rfc3339.from_ns(pack.marked_ns)}"}}')
    suffix = f',"packs_to_delete":[{",".join(marked)}]' if marked else ""
    return f'{{"packs":[{",".join(alive)}]{suffix}}}'.encode()


_WORDS = tuple(kind.word for kind in BlobType)


def _blob_json(blob: PackedBlob) -> str:
    raw = f',"uncompressed_length":{blob.raw_length}' if blob.compressed else ""
    return (
        f'{{"id":"{blob.id.hex()}","type":"{_WORDS[blob.type]}","offset":{blob.offset},'
        f'"length":{blob.length}{raw}}}'
    )


def decode_index(text: bytes, what: str) -> list[IndexedPack]:
    """Parse an index file; raise `Damaged`, naming `what`, where it is not one."""
    try:
        document = orjson.loads(text)
        if isinstance(document, list):  # the form of repositories older than restic 0.1
            document = {"packs": document}
        packs = [_decode_pack(pack, None) for pack in document.get("packs") or ()]
        for pack in document.get("packs_to_delete") or ():
            time = pack.get("time")
            packs.append(_decode_pack(pack, rfc3339.to_ns(time) if time else 0))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{what} is not an index document: {error}") from None
    return packs


def _decode_pack(pack: dict[str, object], marked_ns: int | None) -> IndexedPack:
    tree, data, fromhex = BlobType.TREE, BlobType.DATA, bytes.fromhex
    pack_id = fromhex(str(pack["id"]))
    blobs = []
    for blob in pack["blobs"] or ():  # type: ignore[attr-defined]
        blob_id, offset, length = fromhex(blob["id"]), blob["offset"], blob["length"]
        raw = blob.get("uncompressed_length")
        raw_length = raw or length - OVERHEAD_BYTES
        # One shift finds what is negative, what is past 4 GiB, and what is no integer.
        if (offset | length | raw_length) >> 32 or len(blob_id) != _ID_BYTES:
            raise ValueError(f"pack {pack_id.hex()[:8]} lists a blob that cannot be")
        blobs.append(
            PackedBlob(
                blob_id,
                tree if blob["type"] == "tree" else data,
                offset,
                length,
                raw_length,
                bool(raw),
            )
        )
    if len(pack_id) != _ID_BYTES:
        raise ValueError(f"{pack['id']!r} is no pack's id")
    return IndexedPack(pack_id, blobs, marked_ns)
