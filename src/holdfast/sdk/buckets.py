"""Buckets and the objects in them; any S3 client reaches the same ones.

A bucket also shows snapshots and results of tasks: their files are objects like others.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from holdfast.errors import SourceVanished, UsageError
from holdfast.model.progress import Progress, Report, ignore_progress
from holdfast.sdk.download import Download
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH: Final = "/api/v1/buckets"
_DATA: Final = "/data/v1/buckets"
_PIECE_BYTES: Final = 1 << 20
_DOTS: Final = {".": "%2E", "..": "%2E%2E"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket. `stored_bytes` counts what lies there once, also where objects share it."""

    id: str
    name: str
    region_id: str = ""
    created_at: datetime | None = None
    objects: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BucketObject:
    """An object, or a file of a snapshot that is seen in the bucket."""

    key: str
    size_bytes: int = 0
    etag: str = ""
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    """Some objects, in the order of the keys, and after which key there are more."""

    objects: tuple[BucketObject, ...] = ()
    next_after: str | None = None


class BucketsResource:
    """The account's buckets."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def list(self) -> Iterator[Bucket]:
        """All buckets, newest first."""
        return pages(self._transport, _PATH, Bucket)

    def get(self, name: str) -> Bucket:
        return from_json(Bucket, self._transport.get(f"{_PATH}/{_segment(name)}"))

    def create(self, name: str) -> Bucket:
        """Make a bucket, or find the one that the account has by that name."""
        return from_json(Bucket, self._transport.post(_PATH, {"name": name}))

    def remove(self, name: str, *, contents: bool = False) -> None:
        """Remove a bucket; with `contents` what is in it, too."""
        self._transport.delete(f"{_PATH}/{_segment(name)}", {"contents": contents or None})

    def objects(self, bucket: str, prefix: str = "") -> Iterator[BucketObject]:
        """What is in it, in the order of the keys."""
        path, after = f"{_DATA}/{_segment(bucket)}/objects", ""
        while True:
            document = self._transport.get(path, {"prefix": prefix, "after": after})
            page = from_json(_Page, document)
            yield from page.objects
            if page.next_after is None:
                return
            after = page.next_after

    def read(self, bucket: str, key: str) -> bytes:
        """The bytes of an object, which must fit into memory."""
        sink = io.BytesIO()
        self._fetch(bucket, key, ignore_progress).fetch(sink)
        return sink.getvalue()

    def download(
        self, bucket: str, key: str, target: str, *, report: Report = ignore_progress
    ) -> int:
        """Fetch an object into a file, which appears when it is whole; returns its size."""
        return self._fetch(bucket, key, report).fetch_to(target, self._pause)

    def upload(
        self, bucket: str, key: str, source: str, *, report: Report = ignore_progress
    ) -> BucketObject:
        """Store a file as an object; it appears when it is whole."""
        path = _object_path(bucket, key)
        try:
            found = os.stat(source)
        except OSError as error:
            raise SourceVanished(f"{source} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{source} is no file; store files one by one, or use an S3 client.")
        length = found.st_size

        def content() -> Iterator[bytes]:
            done = 0
            try:
                with open(source, "rb") as file:
                    while done < length and (piece := file.read(min(_PIECE_BYTES, length - done))):
                        done += len(piece)
                        yield piece
                        report(Progress("upload", bytes_done=done, bytes_total=length, current=key))
            except OSError as error:
                raise SourceVanished(f"{source} cannot be read: {error.strerror}") from None
            if done < length:
                raise SourceVanished(
                    f"{source} became shorter while it was read; nothing was stored, try again."
                )

        answer = self._transport.upload(path, content, length)
        return from_json(BucketObject, answer.document)

    def delete_object(self, bucket: str, key: str) -> None:
        """Delete an object; a file of a snapshot is hidden in this bucket and stays in it."""
        self._transport.delete(_object_path(bucket, key))

    def _fetch(self, bucket: str, key: str, report: Report) -> Download:
        return Download(self._transport, _object_path(bucket, key), {}, report, resume=True)


def _object_path(bucket: str, key: str) -> str:
    if not key:
        raise UsageError("An object needs a key of at least one character.")
    # What stands for "here" and "above" in an address would be taken out on the way.
    parts = (_DOTS.get(part) or _segment(part) for part in key.split("/"))
    return f"{_DATA}/{_segment(bucket)}/objects/{'/'.join(parts)}"


def _segment(name: str) -> str:
    if name in _DOTS:
        return _DOTS[name]
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} is no text in UTF-8; choose another name.") from None
