"""qcow2 images read back by a reader of the specification, written apart from the writer."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.sources.disk.qcow2 import write_qcow2

CLUSTER = 65536


def read_back(image: bytes) -> bytes:
    """The content of an image; asserts that each cluster is counted as it is used."""
    assert image[:4] == b"QFI\xfb"
    (version,) = struct.unpack_from(">I", image, 4)
    (size,) = struct.unpack_from(">Q", image, 24)
    (level1_size,) = struct.unpack_from(">I", image, 36)
    level1_at, refcounts_at = struct.unpack_from(">QQ", image, 40)
    (refcount_clusters,) = struct.unpack_from(">I", image, 56)
    assert version == 3
    assert len(image) % CLUSTER == 0
    used = [0] * (len(image) // CLUSTER)

    def use(at: int) -> int:
        assert at % CLUSTER == 0
        used[at // CLUSTER] += 1
        return at

    use(0)
    if level1_size:
        use(level1_at)
    disk = bytearray(size)
    for number in range(level1_size):
        (entry,) = struct.unpack_from(">Q", image, level1_at + 8 * number)
        if not entry:
            continue
        table_at = use(entry & ~(1 << 63))
        table = struct.unpack_from(">8192Q", image, table_at)
        for place, cluster in enumerate(table):
            if cluster:
                assert cluster >> 63
                at = use(cluster & ~(1 << 63))
                start = (number * 8192 + place) * CLUSTER
                length = min(CLUSTER, size - start)
                assert any(image[at : at + CLUSTER])
                assert not any(image[at + length : at + CLUSTER])
                disk[start : start + length] = image[at : at + length]
    counts: list[int] = []
    for number in range(refcount_clusters):
        use(refcounts_at + number * CLUSTER)
    for block_at in struct.unpack_from(f">{refcount_clusters * 8192}Q", image, refcounts_at):
        if block_at:
            counts += struct.unpack_from(">32768H", image, use(block_at))
    assert counts[: len(used)] == used
    assert set(used) == {1}
    assert not any(counts[len(used) :])
    return bytes(disk)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * CLUSTER), st.integers(1, 3 * CLUSTER), st.integers(0, 3)),
        max_size=6,
    ),
    st.integers(0, 2 * CLUSTER),
)
def test_chunks_of_any_alignment_come_back(parts: list[tuple[int, int, int]], tail: int) -> None:
    expected = bytearray()
    chunks: list[tuple[int, bytes]] = []
    for gap, length, fill in parts:
        expected += bytes(gap)
        chunks.append((len(expected), bytes([fill]) * length))
        expected += chunks[-1][1]
    expected += bytes(tail)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "disk.qcow2"
        result = write_qcow2(path, len(expected), iter(chunks), fsync=False)
        content = read_back(path.read_bytes())
    assert result.size_bytes == len(content)
    assert len(content) == -(-len(expected) // 512) * 512
    assert content[: len(expected)] == expected
    assert not any(content[len(expected) :])
