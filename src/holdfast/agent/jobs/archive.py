"""A plain ZIP archive of a snapshot, written into the region's bucket through the gateway.

For people who want nothing but a bucket and unzip. It is made from the snapshot and not from
the files again, so both are of one moment; it is a stream of any length in bounded memory,
and the gateway shows it once it is whole. An archive of that name that is there already was
written by an attempt before, and stays.
"""

from __future__ import annotations

import queue
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import httpx

from holdfast.agent.jobs.context import JobContext
from holdfast.errors import (
    HoldfastError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from holdfast.flows.export_archive import ArchiveFormat, ExportRequest, export_archive
from holdfast.model.finding import Finding
from holdfast.repo.repository import Repository
from holdfast.store.throttle import TokenBucket

_PIECE_BYTES: Final = 1 << 20
_PIECES_AHEAD: Final = 8
_ANSWER_SECONDS: Final = 900.0
_TIMEOUT: Final = httpx.Timeout(120.0, read=_ANSWER_SECONDS, connect=10.0)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def write_archive(
    context: JobContext, repository: Repository, manifest_id: str
) -> tuple[int, tuple[Finding, ...]]:
    """Write the archive of a snapshot; return its bytes, 0 where it was there, and findings."""
    url = _url(context, context.text("snapshot_id"))
    report = context.stage("archiving")
    pipe = _Pipe()
    findings: list[Finding] = []

    def export() -> None:
        request = ExportRequest(manifest_id, format=ArchiveFormat.ZIP)
        try:
            findings.extend(export_archive(repository, request, pipe, report).findings)
        except BaseException as error:
            pipe.fail(error)
        else:
            pipe.end()

    thread = threading.Thread(target=export, name="archive", daemon=True)
    with _client(context) as client:
        thread.start()
        try:
            response = _ask(client, "PUT", url, content=_at_rate(context, pipe.pieces()))
        finally:
            pipe.shut()
            thread.join(60.0)
    if response.status_code == 409:
        context.say("info", "The archive was written by an earlier attempt already.")
        return 0, ()
    if not response.is_success:
        _fail(response)
    context.say("info", f"Wrote a ZIP archive of {pipe.written} bytes.")
    return pipe.written, tuple(findings)


def remove_archives(context: JobContext, snapshot_ids: list[str]) -> None:
    """Delete the archives of snapshots; one that never was is no error."""
    with _client(context) as client:
        for snapshot_id in snapshot_ids:
            response = _ask(client, "DELETE", _url(context, snapshot_id))
            if not response.is_success and response.status_code != 404:
                _fail(response)


def _at_rate(context: JobContext, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces, no faster than this host may send."""
    allowance = TokenBucket(context.limit_upload, time.monotonic, time.sleep)
    try:
        for piece in pieces:
            allowance.take(len(piece))
            yield piece
    finally:
        allowance.close()


class _Pipe:
    """From a thread that writes to one that reads; never more than a few pieces between."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_PIECES_AHEAD)
        self._gathered = bytearray()
        self._shut = threading.Event()
        self.written = 0

    def write(self, data: bytes, /) -> int:
        self._gathered += data
        self.written += len(data)
        if len(self._gathered) >= _PIECE_BYTES:
            self._put(bytes(self._gathered))
            self._gathered.clear()
        return len(data)

    def end(self) -> None:
        if self._gathered:
            self._put(bytes(self._gathered))
        self._put(None)

    def fail(self, error: BaseException) -> None:
        self._put(error)

    def pieces(self) -> Iterator[bytes]:
        """What is written, as it comes; raises what the writer raised."""
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def shut(self) -> None:
        """Nobody reads any more."""
        self._shut.set()

    def _put(self, piece: bytes | BaseException | None) -> None:
        while not self._shut.is_set():
            try:
                self._pieces.put(piece, timeout=0.2)
            except queue.Full:
                continue
            else:
                return
        if isinstance(piece, bytes):
            raise StoreUnavailable("The archive is not taken any more.")


def _url(context: JobContext, snapshot_id: str) -> str:
    """The archive's address beside the repository's."""
    repository_id, url = str(context.repository["id"]), str(context.repository["url"])
    ending = f"/restic/{repository_id}/"
    if not url.endswith(ending) or _ID.fullmatch(snapshot_id) is None:
        raise UsageError(
            "The repository's address is not one of a gateway; is the server of another version?"
        )
    return f"{url.removesuffix(ending)}/archives/{repository_id}/{snapshot_id}.zip"


@contextmanager
def _client(context: JobContext) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context()
    if context.ca_certificate is not None:
        trust.load_verify_locations(cadata=context.ca_certificate)
    credentials = {"Authorization": f"Bearer {context.credential}"}
    with httpx.Client(verify=trust, headers=credentials, timeout=_TIMEOUT) as client:
        yield client


def _ask(
    client: httpx.Client, method: str, url: str, content: Iterator[bytes] | None = None
) -> httpx.Response:
    try:
        return client.request(method, url, content=content)
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise StoreUnavailable(
            "The gateway cannot be reached, or the connection was lost."
        ) from error


def _fail(response: httpx.Response) -> NoReturn:
    status = response.status_code
    kind: type[HoldfastError] = StoreError
    if status in (401, 403):
        kind = StoreDenied
    elif status in (413, 507):
        kind = StoreFull
    elif status in (408, 429) or status >= 500:
        kind = StoreUnavailable
    raise kind(f"The gateway answered {status} about the snapshot's ZIP archive.")
