"""Buckets for all who come by HTTP: opened, looked into, written to and read from.

The same code serves signed requests and bearer tokens. What is stored counts from the moment
that the index is told, and that is after every byte is durable and everything that the request
said about them was checked: before that nobody sees it, after that it stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from holdfast.errors import NoSuchKey
from holdfast.gateway.answer import Gone
from holdfast.gateway.authority import Grant, GrantedRight
from holdfast.gateway.outflow import Outflow, then
from holdfast.gateway.pump import Pump, PumpSink
from holdfast.gateway.s3.bodies import (
    BODY_BYTES,
    READ_BYTES,
    Bodies,
    BodyWriter,
    Sweeper,
    stretches,
)
from holdfast.gateway.s3.incoming import Expected, Incoming
from holdfast.gateway.s3.index import (
    BucketIndex,
    Caller,
    Entry,
    OpenedBucket,
    Piece,
    SigningKey,
    StoredBytes,
)
from holdfast.gateway.s3.list import Listed, Listing, Source, listing
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.signature import ChunkSignatures
from holdfast.gateway.s3.view import SeenFile, Views
from holdfast.gateway.workroom import Workroom

T = TypeVar("T")
LONGEST_KEY_BYTES = 1024
UNTYPED = "binary/octet-stream"
_KEPT_SECONDS = 5.0
_KEPT = 1024
_PIECE_BYTES = 1 << 20
_SMALL_BYTES = 256 << 10
# Below that rate, after a minute of grace, an upload holds memory that others wait for.
_SLOWEST_BYTES_PER_SECOND = 16 << 10
_OBJECT_RANK = 1 << 30
_PAGE = 1001
"""A page of S3, and whether another one follows."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is seen under a key: an object, or a file of a view."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime
    content_type: str
    headers: Mapping[str, str]
    entry: Entry | None = None
    file: SeenFile | None = None


class Buckets:
    """The service; one for each app. Methods that wait are coroutines."""

    def __init__(self, room: Workroom, index: BucketIndex) -> None:
        self.room, self.index = room, index
        self.bodies, self.views = Bodies(room, index), Views(room)
        self.sweeper = Sweeper(self.bodies)
        self._opened: _Kept[OpenedBucket] = _Kept()
        self._keys: _Kept[Sequence[SigningKey]] = _Kept()

    async def ask(self, act: Callable[[], T]) -> T:
        """Ask the index, which blocks."""
        return await self.room.asking(act)

    async def signing_keys(
        self, access_key: str, date: str, region: str, address: str, *, anew: bool = False
    ) -> tuple[Sequence[SigningKey], bool]:
        """Whose signature it may be; whether the answer is one that was kept."""
        name = (access_key, date, region)
        known = None if anew else self._keys.get(name)
        if known is not None:
            return known, True
        since = time.monotonic()
        found = await self.ask(lambda: self.index.signing_keys(access_key, date, region, address))
        if found:
            self._keys.put(name, found, since)
        return found, False

    async def opened(self, caller: Caller, bucket: str, *, anew: bool = False) -> OpenedBucket:
        """A bucket as this caller sees it; known for a few seconds, unless `anew`."""
        who = hashlib.sha256(caller.secret.encode()).digest()
        name = (caller.kind, who, bucket)
        known = None if anew else self._opened.get(name)
        if known is not None:
            return known
        since = time.monotonic()
        found = await self.ask(lambda: self.index.open(caller, bucket))
        self._opened.put(name, found, since)
        return found

    def forget(self, bucket: str) -> None:
        """A bucket of that name was made or removed."""
        self._opened.drop(lambda name: name[2] == bucket)

    # Looking

    async def find(self, caller: Caller, bucket: OpenedBucket, key: str) -> Found:
        """What is under a key; raises `NoSuchKey`."""
        check_key(key, reading=True)
        try:
            return await self._find(caller, bucket, key)
        except NoSuchKey:
            # A snapshot may be seen since the bucket was opened.
            fresh = await self.opened(caller, bucket.name, anew=True)
            if fresh.views == bucket.views:
                raise
        return await self._find(caller, fresh, key)

    async def _find(self, caller: Caller, bucket: OpenedBucket, key: str) -> Found:
        def act() -> Found:
            made_after = None
            try:
                if len(key.encode()) > LONGEST_KEY_BYTES:
                    raise NoSuchKey("No object has so long a key.")
                entry = self.index.object(caller, bucket.name, key)
            except NoSuchKey:
                pass
            else:
                if not entry.hidden:
                    return Found(
                        key,
                        entry.size_bytes,
                        entry.etag,
                        entry.modified_at,
                        entry.content_type,
                        entry.headers,
                        entry=entry,
                    )
                made_after = entry.modified_at
            file = self.views.find(bucket, key, made_after=made_after)
            return Found(key, file.node.size, file.etag, file.modified_at, UNTYPED, {}, file=file)

        return await self.ask(act) if not bucket.views else await self.room.in_thread(act)

    async def listing(
        self,
        caller: Caller,
        bucket: OpenedBucket,
        *,
        prefix: str,
        delimiter: str,
        after: str,
        limit: int,
    ) -> Listing:
        """A page of keys behind `after`."""

        def act() -> Listing:
            sources: list[Source] = [
                self._objects(caller, bucket.name, prefix, delimiter, limit + 1)
            ]
            sources += self.views.sources(bucket, prefix)
            return listing(sources, prefix=prefix, delimiter=delimiter, after=after, limit=limit)

        return await self.room.in_thread(act)

    # Writing

    async def receive(
        self,
        request: Request,
        grant: Grant,
        expected: Expected,
        signatures: ChunkSignatures | None = None,
    ) -> tuple[StoredBytes, dict[str, str]]:
        """Store a body durably and check it; what was stored, and its checksums by name."""
        amount = 2 * min(expected.length, BODY_BYTES) + 2 * _PIECE_BYTES
        async with self.room.uploads.take(grant.account_id, amount):
            incoming, writer = Incoming(expected, signatures), BodyWriter(self.bodies, grant)

            def take(data: bytes) -> None:
                for part in incoming.feed(data):
                    writer.write(part)

            def end() -> tuple[StoredBytes, dict[str, str]]:
                checksums = incoming.finish(writer.md5)
                return writer.finish(), checksums

            async for data in arriving(request, self.room.limits.stall_seconds):
                await self.room.in_thread(lambda data=data: take(data))  # type: ignore[misc]
            return await self.room.in_thread(end)

    async def restore(
        self, bucket: OpenedBucket, grant: Grant, found: Found, offset: int, length: int
    ) -> StoredBytes:
        """Store a stretch of what is there already once more, for `grant`'s repository."""
        amount = 2 * min(length, BODY_BYTES) + 4 * READ_BYTES

        def act() -> StoredBytes:
            writer = BodyWriter(self.bodies, grant)
            for data in self._content(bucket, found, offset, length):
                writer.write(data)
            return writer.finish()

        async with self.room.uploads.take(grant.account_id, amount):
            return await self.room.in_thread(act)

    async def put(
        self,
        caller: Caller,
        bucket: OpenedBucket,
        key: str,
        stored: StoredBytes,
        *,
        content_type: str,
        headers: Mapping[str, str],
        only_new: bool = False,
    ) -> Entry:
        """Make an object of what was stored; with `only_new` raise `Changed` where one is."""
        return await self.ask(
            lambda: self.index.put(
                caller,
                bucket.name,
                key,
                stored,
                content_type=content_type,
                headers=headers,
                only_new=only_new,
            )
        )

    async def delete(self, caller: Caller, bucket: OpenedBucket, keys: Sequence[str]) -> None:
        """Delete what is seen under these keys; nothing there is no error."""

        def act() -> None:
            shown, others = [], []
            for key in dict.fromkeys(keys):
                try:
                    self.views.find(bucket, key)
                except NoSuchKey:
                    others.append(key)
                else:
                    shown.append(key)
            if others:
                self.index.delete(caller, bucket.name, others)
            if shown:
                self.index.hide(caller, bucket.name, shown)

        await self.room.in_thread(act)

    async def remove(self, caller: Caller, name: str) -> None:
        """Remove an empty bucket; raises `BucketNotEmpty`."""
        bucket = await self.opened(caller, name, anew=True)
        page = await self.listing(caller, bucket, prefix="", delimiter="", after="", limit=1)
        empty = not page.entries
        await self.ask(lambda: self.index.remove(caller, name, views_empty=empty))
        self.forget(name)

    # Reading

    async def send(
        self,
        bucket: OpenedBucket,
        found: Found,
        offset: int,
        length: int,
        *,
        status: int,
        headers: Mapping[str, str],
    ) -> Response:
        """Answer with a stretch of what was found. What fails at once is raised."""
        bucket.grant.require(GrantedRight.READ)
        headers = {**headers, "Content-Length": str(length)}
        room, account = self.room, bucket.grant.account_id
        media_type = found.content_type
        async with AsyncExitStack() as stack:
            if not length:
                return _typed(Response(b"", status, dict(headers)), media_type)
            if found.file is not None:
                file = found.file

                def produce(sink: PumpSink) -> None:
                    for data in self.views.stream(bucket, file, offset, length):
                        sink.write(data)

                await stack.enter_async_context(room.exports.take(account, 1))
                pump = Pump(produce, "view")
                stack.push_async_callback(pump.close)
                read: Callable[[], Awaitable[bytes]] = pump.read
            else:
                assert found.entry is not None
                most = 2 * min(length, READ_BYTES)
                await stack.enter_async_context(room.downloads.take(account, most))
                ahead = _Ahead(self, bucket.grant, found.entry.bodies, offset, length)
                stack.callback(ahead.close)
                read = ahead.read
            first = await read()
            if len(first) == length <= _SMALL_BYTES:
                return _typed(Response(first, status, dict(headers)), media_type)
            answer = Outflow(
                then(first, read),
                stack.pop_all(),
                status=status,
                headers=headers,
                media_type=media_type,
                stall_seconds=room.limits.stall_seconds,
            )
            return _typed(answer, media_type)

    def _content(
        self, bucket: OpenedBucket, found: Found, offset: int, length: int
    ) -> Iterator[bytes]:
        if found.file is not None:
            yield from self.views.stream(bucket, found.file, offset, length)
        else:
            assert found.entry is not None
            for piece, at, count in stretches(found.entry.bodies, offset, length):
                yield self.bodies.read(bucket.grant, piece, at, count)

    def _objects(
        self, caller: Caller, bucket: str, prefix: str, delimiter: str = "", first: int = _PAGE
    ) -> Source:
        def source(after: str) -> Generator[Listed, None, None]:
            position, limit = after or None, min(first, _PAGE)
            while True:
                entries, more = self.index.objects(
                    caller,
                    bucket,
                    prefix=prefix,
                    delimiter=delimiter,
                    after=position,
                    limit=limit,
                )
                for entry in entries:
                    yield Listed(
                        entry.key,
                        _OBJECT_RANK,
                        entry.size_bytes,
                        entry.etag,
                        entry.modified_at,
                        hides=entry.modified_at if entry.hidden else None,
                    )
                if not more or not entries:
                    return
                position, limit = entries[-1].key, _PAGE

        return source


class _Ahead:
    """Reads a stretch of an object in steps, one ahead of what is sent."""

    def __init__(
        self,
        buckets: Buckets,
        grant: Grant,
        pieces: tuple[Piece, ...],
        offset: int,
        length: int,
    ) -> None:
        self._buckets, self._grant = buckets, grant
        self._steps = stretches(pieces, offset, length)
        self._next: asyncio.Future[bytes] | None = None
        self._look_ahead()

    async def read(self) -> bytes:
        if self._next is None:
            return b""
        data = await self._next
        self._look_ahead()
        return data

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _look_ahead(self) -> None:
        step = next(self._steps, None)
        if step is None:
            self._next = None
            return
        bodies, grant = self._buckets.bodies, self._grant
        piece, at, count = step
        reading = self._buckets.room.in_thread(lambda: bodies.read(grant, piece, at, count))
        self._next = asyncio.ensure_future(reading)


class _Kept(Generic[T]):
    """Answers that are good for a few seconds, by what was asked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Any, ...], tuple[float, T]] = OrderedDict()

    def get(self, name: tuple[Any, ...]) -> T | None:
        with self._lock:
            found = self._entries.get(name)
            if found is None or time.monotonic() - found[0] > _KEPT_SECONDS:
                return None
            return found[1]

    def put(self, name: tuple[Any, ...], value: T, since: float) -> None:
        """`since` is before it was asked for: the answer may be old when it comes."""
        with self._lock:
            self._entries[name] = (since, value)
            self._entries.move_to_end(name)
            while len(self._entries) > _KEPT:
                self._entries.popitem(last=False)

    def drop(self, which: Callable[[tuple[Any, ...]], bool]) -> None:
        with self._lock:
            for name in [each for each in self._entries if which(each)]:
                del self._entries[name]


async def arriving(request: Request, stall_seconds: float) -> AsyncIterator[bytes]:
    """The body of a request in pieces, the next one gathered while one is worked on.

    Raises `Gone` where it breaks off, and `S3Refused` where it comes too slowly.
    """
    loop = asyncio.get_running_loop()
    began, total, ended = loop.time(), 0, False

    async def gather() -> bytes:
        nonlocal ended, total
        gathered = bytearray()
        while len(gathered) < _PIECE_BYTES and not ended:
            allowed = began + stall_seconds + total / _SLOWEST_BYTES_PER_SECOND - loop.time()
            try:
                async with asyncio.timeout(min(stall_seconds, max(0.0, allowed))):
                    message = await request.receive()
            except TimeoutError:
                raise S3Refused(
                    "RequestTimeout", "The body came too slowly; send it again."
                ) from None
            if message["type"] == "http.disconnect":
                raise Gone("the client went away")
            gathered += message.get("body", b"")
            total += len(message.get("body", b""))
            ended = not message.get("more_body", False)
        return bytes(gathered)

    following = asyncio.ensure_future(gather())
    try:
        while True:
            data = await following
            if not data:
                return
            following = asyncio.ensure_future(gather())
            yield data
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def check_key(key: str, *, reading: bool = False) -> str:
    """Raise `S3Refused` for what cannot be a key; views may show longer ones."""
    if not key or "\0" in key:
        raise S3Refused("InvalidArgument", "A key has at least one character, and no NUL.")
    if len(key.encode()) > LONGEST_KEY_BYTES and not reading:
        raise S3Refused(
            "KeyTooLongError",
            "Your key is too long.",
            Size=str(len(key.encode())),
            MaxSizeAllowed=str(LONGEST_KEY_BYTES),
        )
    return key


def _typed(answer: Response, media_type: str) -> Response:
    # Exactly as it was given: no character set is added.
    answer.headers["Content-Type"] = media_type
    return answer
