"""Small repository files (config, index, snapshots, locks): JSON, compressed, sealed.

In version 2 the plain text is ``0x02 || zstd(JSON)`` or bare JSON; in version 1 always
bare JSON. Source: restic's design document, "Unpacked Data Format".
"""

from __future__ import annotations

import zstandard

from holdfast.errors import Damaged, NewerVersion
from holdfast.repo.crypto import Sealer

_COMPRESSED = 2
_BARE = (0x5B, 0x7B)  # '[' and '{'
_LARGEST_PLAIN_BYTES = 1 << 30


def wrap(sealer: Sealer, json: bytes, *, compress: bool) -> bytes:
    """Return the stored form of a JSON document."""
    if compress:
        json = bytes([_COMPRESSED]) + zstandard.ZstdCompressor(level=3).compress(json)
    return sealer.seal(json)


def unwrap(sealer: Sealer, stored: bytes, what: str) -> bytes:
    """Return the JSON text of a stored file; raise `Damaged` or `NewerVersion`, naming it."""
    plain = sealer.open(stored, what)
    if not plain:
        raise Damaged(f"{what} is empty")
    if plain[0] in _BARE:
        return plain
    if plain[0] != _COMPRESSED:
        raise NewerVersion(f"{what} has an encoding that this program does not know: {plain[0]}")
    try:
        return zstandard.ZstdDecompressor().decompress(
            plain[1:], max_output_size=_LARGEST_PLAIN_BYTES
        )
    except zstandard.ZstdError:
        raise Damaged(f"{what} does not decompress") from None
