"""One download: into something that takes bytes, or to a path.

A path gets the download only when it is whole. Where a connection is lost a file is gone
on with, if it is still the same by its ETag; an archive is made on the fly and starts again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, Protocol

import httpx

from holdfast.errors import ServerUnavailable, TargetError, TargetFull
from holdfast.model.progress import Progress, Report
from holdfast.sdk.transport import Transport

_ATTEMPTS: Final = 5
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Sink(Protocol):
    """Where a download goes: a file that was opened for writing bytes."""

    def write(self, data: bytes, /) -> int:
        """Take all of it."""
        ...


class Download:
    """What lies at `path` of the server; `done` bytes of it have arrived."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        query: Mapping[str, Any],
        report: Report,
        *,
        resume: bool,
    ) -> None:
        self._transport, self._path, self._query = transport, path, query
        self._report, self._resume = report, resume
        self._name = os.path.basename(str(query.get("path", ""))) or "archive"
        self._tag = ""
        self.done = 0

    def fetch(self, sink: Sink) -> int:
        """Write what has not arrived yet; returns how many bytes it is in all.

        Raises `ServerUnavailable` where the connection is lost.
        """
        headers = {"Range": f"bytes={self.done}-", "If-Range": self._tag} if self.done else {}
        with self._transport.stream(self._path, self._query, headers) as response:
            if self.done and response.status_code != httpx.codes.PARTIAL_CONTENT:
                self._tag = ""
                raise ServerUnavailable("It was replaced while it was downloaded; start it again.")
            self._tag = response.headers.get("etag", "")
            length = int(response.headers.get("content-length") or 0)
            total = self.done + length if length else 0
            for piece in response.iter_bytes():
                sink.write(piece)
                self.done += len(piece)
                self._report(
                    Progress(
                        "download", bytes_done=self.done, bytes_total=total, current=self._name
                    )
                )
        return self.done

    def fetch_to(self, target: str, pause: Callable[[float], None]) -> int:
        """Write it to a path, with several attempts; nothing appears there before the end."""
        partial = f"{target}.{os.getpid()}.part"
        try:
            with open(partial, "xb") as file:
                size = self._fetch_again(file, pause)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            kind = TargetFull if error.errno in _FULL else TargetError
            raise kind(f"{target} cannot be written: {error.strerror}.") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        return size

    def _fetch_again(self, file: BinaryIO, pause: Callable[[float], None]) -> int:
        attempt = 0
        while True:
            attempt += 1
            try:
                return self.fetch(file)
            except ServerUnavailable:
                if attempt == _ATTEMPTS:
                    raise
            if not (self._resume and self._tag):
                self.done = 0
            file.seek(self.done)
            file.truncate()
            pause(float(attempt))
