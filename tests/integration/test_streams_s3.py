"""Streams into a real S3: parts, and nothing to be seen of what did not come to its end."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from radosgw import Radosgw

from holdfast.errors import Interrupted, ObjectExists
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore, StreamingStore

KEY = "archives/repo/one.zip"
SIZE = 75_000_001


@pytest.fixture
def bucket(radosgw: Radosgw) -> str:
    return radosgw.make_bucket()


@pytest.fixture
def store(radosgw: Radosgw, bucket: str) -> Iterator[ObjectStore]:
    options = StoreOptions(access_key_id=radosgw.access_key, secret_access_key=radosgw.secret_key)
    store = open_store(f"s3:{radosgw.endpoint_url}/{bucket}/region", options, environment={})
    yield store
    store.close()


def pieces() -> Iterator[bytes]:
    data = random.Random(1).randbytes(SIZE)
    for at in range(0, SIZE, 4 << 20):
        yield data[at : at + (4 << 20)]


def unfinished(radosgw: Radosgw, bucket: str) -> int:
    client = radosgw.client()
    found = len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
    client.close()
    return found


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_in_parts(store: ObjectStore, radosgw: Radosgw, bucket: str, known: bool) -> None:
    """B8: one plain object, with bounded memory."""
    assert isinstance(store, StreamingStore)
    written = store.create_stream(KEY, pieces(), size_bytes=SIZE if known else None)
    assert written == SIZE == store.size(KEY)
    wanted = hashlib.sha256(b"".join(pieces())).hexdigest()
    assert hashlib.sha256(store.read(KEY)).hexdigest() == wanted
    with pytest.raises(ObjectExists):
        store.create_stream(KEY, [b"other"])
    assert store.size(KEY) == SIZE
    assert store.create_stream("archives/repo/small.zip", [b"small"]) == 5
    assert store.read("archives/repo/small.zip") == b"small"
    assert unfinished(radosgw, bucket) == 0


@pytest.mark.parametrize("after", [1, 40_000_000])
def test_a_source_that_fails_leaves_nothing(
    store: ObjectStore, radosgw: Radosgw, bucket: str, after: int
) -> None:
    def broken() -> Iterator[bytes]:
        total = 0
        for piece in pieces():
            yield piece
            total += len(piece)
            if total >= after:
                raise Interrupted("the client went away")

    assert isinstance(store, StreamingStore)
    with pytest.raises(Interrupted, match="the client went away"):
        store.create_stream(KEY, broken())
    assert list(store.list("")) == []
    assert unfinished(radosgw, bucket) == 0
