"""What is in snapshots: browsing, comparing, and downloads, by way of the gateway.

Paths are relative to the captured path. Names that are no text are given in base64 beside
the text that is shown for them.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.model.finding import Finding
from holdfast.model.progress import Report, ignore_progress
from holdfast.sdk.download import Download, Sink
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_BASE: Final = "/data/v1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or whatever else in a snapshot; `name_base64` is set if it is no text."""

    name: str
    kind: str
    size_bytes: int = 0
    mode: int = 0
    mtime: str = ""
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    etag: str = ""
    link_target: str = ""
    name_base64: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs between two snapshots. `change`: added, removed, modified ..."""

    change: str
    path: str
    kind: str
    growth_bytes: int = 0
    old: Entry | None = None
    new: Entry | None = None
    path_base64: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a path, and the snapshots that hold it."""

    snapshot_ids: tuple[str, ...]
    entry: Entry


@dataclass(frozen=True, slots=True)
class Missing:
    """A snapshot that does not hold a path, and why."""

    snapshot_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Versions:
    """What `SnapshotData.versions` found."""

    versions: tuple[Version, ...] = ()
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True)
class _TreePage:
    entry: Entry | None = None
    entries: tuple[Entry, ...] = ()
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class _DiffPage:
    changes: tuple[Difference, ...] = ()
    next_cursor: str | None = None
    findings: tuple[Finding, ...] = field(default=())


class SnapshotData:
    """The contents of the account's snapshots; needs a token that may restore."""

    def __init__(self, transport: Transport, pause: Callable[[float], None] = time.sleep) -> None:
        self._transport, self._pause = transport, pause

    def entry(self, snapshot_id: str, path: str = "") -> Entry | None:
        """What is at a path; None for the top of a whole file system."""
        query = {**_place(path), "limit": 1}
        return from_json(_TreePage, self._transport.get(_of(snapshot_id, "tree"), query)).entry

    def entries(self, snapshot_id: str, path: str = "") -> Iterator[Entry]:
        """What a directory holds, by name; nothing for what is no directory."""
        cursor: str | None = None
        while True:
            query = {**_place(path), "cursor": cursor}
            page = from_json(_TreePage, self._transport.get(_of(snapshot_id, "tree"), query))
            yield from page.entries
            cursor = page.next_cursor
            if cursor is None:
                return

    def diff(
        self, old_id: str, new_id: str, path: str = "", *, metadata: bool = True
    ) -> Iterator[Difference]:
        """What differs from the first to the second snapshot."""
        cursor: str | None = None
        while True:
            query = {**_place(path), "with": new_id, "metadata": metadata, "cursor": cursor}
            page = from_json(_DiffPage, self._transport.get(_of(old_id, "diff"), query))
            yield from page.changes
            cursor = page.next_cursor
            if cursor is None:
                return

    def versions(self, path: str, snapshot_ids: list[str]) -> Versions:
        """The different states of a path in up to 200 snapshots."""
        body: dict[str, object] = {"snapshot_ids": snapshot_ids, **_place(path)}
        return from_json(Versions, self._transport.post(f"{_BASE}/versions", body))

    def download_file(
        self,
        snapshot_id: str,
        path: str,
        target: str | Sink,
        *,
        report: Report = ignore_progress,
    ) -> int:
        """Fetch one file to a path or into `target`; returns its size."""
        return self._download(_of(snapshot_id, "file"), _place(path), target, report, resume=True)

    def download_folder(
        self,
        snapshot_id: str,
        path: str,
        target: str | Sink,
        *,
        form: str = "zip",
        report: Report = ignore_progress,
    ) -> int:
        """Fetch a directory as a ``zip`` or ``tar`` archive."""
        query = {**_place(path), "format": form}
        return self._download(_of(snapshot_id, "folder"), query, target, report)

    def download_archive(
        self,
        snapshot_id: str,
        target: str | Sink,
        *,
        form: str = "zip",
        report: Report = ignore_progress,
    ) -> int:
        """Fetch everything as a ``zip`` or ``tar`` archive."""
        return self._download(_of(snapshot_id, "archive"), {"format": form}, target, report)

    def _download(
        self,
        path: str,
        query: Mapping[str, Any],
        target: str | Sink,
        report: Report,
        *,
        resume: bool = False,
    ) -> int:
        download = Download(self._transport, path, query, report, resume=resume)
        if not isinstance(target, str):
            return download.fetch(target)
        return download.fetch_to(target, self._pause)


def _of(snapshot_id: str, what: str) -> str:
    return f"{_BASE}/snapshots/{snapshot_id}/{what}"


def _place(path: str) -> dict[str, str]:
    """A path as a parameter: as text, or its bytes where it is none."""
    path = path.strip("/")
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"path_base64": base64.urlsafe_b64encode(os.fsencode(path)).decode()}
    return {"path": path}
