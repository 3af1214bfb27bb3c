"""Small files: sealed JSON in both versions, and errors that name the file."""

from __future__ import annotations

import orjson
import pytest
import zstandard

from holdfast.errors import Damaged, NewerVersion
from holdfast.repo.crypto import OVERHEAD_BYTES, MasterKey, Sealer
from holdfast.repo.envelope import unwrap, wrap

SEALER = Sealer(MasterKey.random())
JSON = orjson.dumps({"names": ["a file"] * 500})


@pytest.mark.parametrize("text", [JSON, b"{}", b"[]", orjson.dumps(["x" * 2_000_000])])
@pytest.mark.parametrize("compress", [True, False])
def test_a_document_comes_back(text: bytes, compress: bool) -> None:
    assert unwrap(SEALER, wrap(SEALER, text, compress=compress), "it") == text


def test_version_1_is_bare_and_version_2_is_a_marked_frame() -> None:
    bare = SEALER.open(wrap(SEALER, JSON, compress=False), "it")
    assert bare == JSON
    marked = SEALER.open(wrap(SEALER, JSON, compress=True), "it")
    assert marked[0] == 2
    assert len(marked) < len(JSON) // 10
    assert zstandard.ZstdDecompressor().decompress(marked[1:]) == JSON


@pytest.mark.parametrize("first", [0, 1, 3, 0x20, 0xFF])
def test_an_unknown_encoding_is_of_a_newer_version(first: int) -> None:
    stored = SEALER.seal(bytes([first]) + JSON)
    with pytest.raises(NewerVersion, match=f"index 12 has an encoding .*: {first}"):
        unwrap(SEALER, stored, "index 12")


def test_what_another_program_compressed_without_its_length_is_read() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(JSON)
    assert unwrap(SEALER, SEALER.seal(b"\x02" + frame), "it") == JSON


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (b"", "index 12 is empty"),
        (b"\x02", "index 12 does not decompress"),
        (b"\x02{}", "index 12 does not decompress"),
        (b"\x02" + zstandard.compress(JSON)[:-5], "index 12 does not decompress"),
    ],
    ids=["nothing", "no frame", "not a frame", "half a frame"],
)
def test_what_opens_but_is_no_document_is_damage(plain: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        unwrap(SEALER, SEALER.seal(plain), "index 12")


def test_what_does_not_open_is_damage() -> None:
    stored = wrap(SEALER, JSON, compress=True)
    for bad in (b"", stored[: OVERHEAD_BYTES - 1], stored[:-1], bytes(len(stored))):
        with pytest.raises(Damaged, match="index 12"):
            unwrap(SEALER, bad, "index 12")
