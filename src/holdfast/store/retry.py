"""Tries again, with growing pauses, what failed for a reason that may pass.

It wraps any store. Only errors whose class says `retryable` are tried again; every pause
is reported. It never turns a failure into a success that did not happen, with one rule
for `create`: a failed attempt may have stored the object although its answer was lost, so
an `ObjectExists` that comes *after a failed attempt of the same call* is settled by
reading the object; equal content means that this call has done its work. Where the object may
not be read, as by credentials that only write, a name that is the content's SHA-256 settles it.
Without a failed attempt `ObjectExists` goes to the caller untouched.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    UsageError,
)
from holdfast.store.protocol import Buffer, ObjectInfo, ObjectStore, StreamingStore
from holdfast.store.wrapped import WrappedStore

T = TypeVar("T")

ATTEMPTS = 8
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """One failed attempt that will be followed by another after `pause_seconds`."""

    method: str
    key: str
    attempt: int
    attempts: int
    pause_seconds: float
    error: HoldfastError


ReportRetry = Callable[[Retry], None]
"""What is told of every retry; called from whichever thread does the work."""


def ignore_retry(retry: Retry) -> None:
    """A `ReportRetry` that drops everything."""


class RetryingStore(WrappedStore):
    """An `ObjectStore` that repeats what may pass; otherwise exactly the inner one.

    A call is attempted `attempts` times at most. Pauses double from `first_pause_seconds`
    to `longest_pause_seconds`; each is shortened by up to half of itself by `jitter`, a
    source of numbers in [0, 1), so that many clients do not return in step.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        attempts: int = ATTEMPTS,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        report: ReportRetry = ignore_retry,
    ) -> None:
        if attempts < 1:
            raise UsageError("A store must be tried at least once.")
        super().__init__(inner)
        self._attempts = attempts
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._sleep = sleep
        self._jitter = jitter
        self._report = report

    def __reduce__(self) -> tuple[object, ...]:
        # A worker process repeats likewise; what it would report has nobody to listen there.
        pauses = (self._first_pause_seconds, self._longest_pause_seconds)
        return _again, (self._inner, self._attempts, *pauses)

    def create(self, key: str, data: Buffer) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                self._inner.create(key, data)
            except ObjectExists:
                if attempt > 1 and self._holds(key, data):
                    return
                raise
            except HoldfastError as error:
                self._pause_or_raise("create", key, attempt, error)
            else:
                return

    def create_stream(
        self, key: str, chunks: Iterable[Buffer], *, size_bytes: int | None = None
    ) -> int:
        """Once only: what has been read from `chunks` cannot be read again."""
        if not isinstance(self._inner, StreamingStore):
            raise StoreError(f"{self.location} takes no streams.")
        return self._inner.create_stream(key, chunks, size_bytes=size_bytes)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._call("read", key, lambda: self._inner.read(key, offset, length))

    def size(self, key: str) -> int:
        return self._call("size", key, lambda: self._inner.size(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # A repeated listing starts over; what was seen before is not yielded again. The
        # attempts are counted anew whenever a listing got further than the one before.
        seen: set[str] = set()
        attempt = 1
        while True:
            progress = len(seen)
            try:
                for info in self._inner.list(prefix):
                    if info.key not in seen:
                        seen.add(info.key)
                        yield info
            except HoldfastError as error:
                if len(seen) > progress:
                    attempt = 1
                self._pause_or_raise("list", prefix, attempt, error)
                attempt += 1
            else:
                return

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self._inner.delete(key))

    def _call(self, method: str, key: str, act: Callable[[], T]) -> T:
        attempt = 1
        while True:
            try:
                return act()
            except HoldfastError as error:
                self._pause_or_raise(method, key, attempt, error)
            attempt += 1

    def _holds(self, key: str, data: Buffer) -> bool:
        try:
            return self.size(key) == len(memoryview(data).cast("B")) and self.read(key) == data
        except ObjectNotFound:
            return False
        except StoreDenied:
            # Every object of a repository but its config is named so.
            if hashlib.sha256(data).hexdigest() == key.rpartition("/")[2]:
                return True
            raise

    def _pause_or_raise(self, method: str, key: str, attempt: int, error: HoldfastError) -> None:
        if not error.retryable:
            raise error
        if attempt >= self._attempts:
            tries = f"{attempt} attempts" if attempt > 1 else "1 attempt"
            raise type(error)(f"{error.message} Gave up after {tries}.") from error
        longest = min(self._first_pause_seconds * 2 ** (attempt - 1), self._longest_pause_seconds)
        pause_seconds = longest * (1 - self._jitter() / 2)
        self._report(Retry(method, key, attempt, self._attempts, pause_seconds, error))
        self._sleep(pause_seconds)


def _again(
    inner: ObjectStore, attempts: int, first_pause_seconds: float, longest_pause_seconds: float
) -> RetryingStore:
    return RetryingStore(
        inner,
        attempts=attempts,
        first_pause_seconds=first_pause_seconds,
        longest_pause_seconds=longest_pause_seconds,
    )
