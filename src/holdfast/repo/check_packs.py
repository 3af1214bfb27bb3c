"""Checking one pack by reading all of it: its name, its header, and every blob in it.

A task of worker processes. What is listed in the index counts as what the pack should
hold, because that is what readers go by. Nothing is written and nothing is mended here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.errors import Damaged, ObjectNotFound
from holdfast.model.finding import Finding
from holdfast.repo.crypto import Sealer
from holdfast.repo.index import BlobIndex
from holdfast.repo.indextable import Location
from holdfast.repo.pack import BlobType, PackedBlob, decode_header, sealed_header_length
from holdfast.repo.reader import BlobReader
from holdfast.repo.repository import Repository, pack_key

_LENGTH_BYTES = 4


class CheckPack(NamedTuple):
    """Read a pack and hold it against what the index lists of it."""

    pack: bytes
    blobs: list[PackedBlob]


class CheckedPack(NamedTuple):
    """What became of it: the bytes read, what is wrong, and the blobs that do not open.

    `missing` is set where there was no such pack.
    """

    pack: bytes
    bytes_read: int
    findings: tuple[Finding, ...]
    bad: tuple[tuple[BlobType, bytes], ...]
    missing: bool = False


@dataclass(frozen=True, slots=True)
class CheckSetup:
    """Makes the handler of `CheckPack` tasks in a worker."""

    repository: Repository

    def __call__(self) -> Callable[[CheckPack], CheckedPack]:
        repository = self.repository
        reader = BlobReader(repository, BlobIndex([]))
        sealer = Sealer(repository.key)

        def handle(task: CheckPack) -> CheckedPack:
            try:
                content = repository.store.read(pack_key(task.pack))
            except ObjectNotFound:
                return CheckedPack(task.pack, 0, (), (), missing=True)
            return check_pack(task, content, reader, sealer)

        return handle


def check_pack(task: CheckPack, content: bytes, reader: BlobReader, sealer: Sealer) -> CheckedPack:
    """Hold the bytes of a pack against its name, its header and its listing."""
    name = task.pack.hex()
    what = f"pack {name[:8]}"
    findings: list[Finding] = []
    bad = [
        (blob.type, blob.id)
        for blob in task.blobs
        if not blob_opens(content, task.pack, blob, reader)
    ]
    if hashlib.sha256(content).digest() != task.pack:
        state = (
            f"{len(bad)} of its {len(task.blobs)} blobs do not open" if bad else "all blobs open"
        )
        findings.append(Finding("pack_damaged", f"{what} does not match its name: {state}", name))
    elif bad:
        findings.append(
            Finding(
                "blob_damaged",
                f"{what} is as it was written, but {len(bad)} of its blobs do not open: the "
                "index lists them wrongly, or they were damaged before they were stored",
                name,
            )
        )
    try:
        header = read_header(content, sealer, what)
    except Damaged as error:
        findings.append(Finding("pack_header_damaged", error.message, name))
    else:
        if sorted(header) != sorted(task.blobs):
            findings.append(
                Finding(
                    "pack_header_differs",
                    f"{what} holds {len(header)} blobs by its header, and the index lists "
                    f"{len(task.blobs)} that are not the same; run `holdfast repair index`",
                    name,
                )
            )
    return CheckedPack(task.pack, len(content), tuple(findings), tuple(bad))


def blob_opens(content: bytes, pack: bytes, blob: PackedBlob, reader: BlobReader) -> bool:
    """Whether a blob in the bytes of a pack opens, decompresses and is what its id says."""
    place = Location(
        pack, blob.offset, blob.length, blob.raw_length, blob.compressed, blob.type, marked=False
    )
    sealed = memoryview(content)[blob.offset : blob.offset + blob.length]
    try:
        reader.unpack(sealed, place, blob.id)
    except Damaged:
        return False
    return True


def read_header(content: bytes, sealer: Sealer, what: str) -> list[PackedBlob]:
    """Return the blobs that a whole pack names; raise `Damaged` where it cannot be read."""
    length = sealed_header_length(content[-_LENGTH_BYTES:], len(content), what)
    sealed = content[len(content) - _LENGTH_BYTES - length : len(content) - _LENGTH_BYTES]
    return decode_header(sealer.open(sealed, f"the header of {what}"), what)


def fetch_header(repository: Repository, pack: bytes, size_bytes: int) -> list[PackedBlob]:
    """Return the blobs that a pack names, reading only its end; raise `Damaged`."""
    what = f"pack {pack.hex()[:8]}"
    key = pack_key(pack)
    at = max(0, size_bytes - _LENGTH_BYTES)
    length = sealed_header_length(repository.store.read(key, at), size_bytes, what)
    sealed = repository.store.read(key, size_bytes - _LENGTH_BYTES - length, length)
    return decode_header(repository.sealer.open(sealed, f"the header of {what}"), what)
