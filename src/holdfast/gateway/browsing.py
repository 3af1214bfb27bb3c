"""Looking into snapshots: entries of a directory, differences, versions of a path.

Only trees are read, no content. Every answer is bounded; cursors lead on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast.errors import Damaged, NotFound, UsageError
from holdfast.flows.diff import Change, DiffRequest, DiffTotals, diff
from holdfast.flows.locate import MANIFEST_DIRECTORY, Trees, has_manifest
from holdfast.flows.read_session import ReadSession
from holdfast.gateway.answer import Refused, problem_errors
from holdfast.gateway.authority import Grant
from holdfast.gateway.objects import receive_body
from holdfast.gateway.place import (
    Query,
    checked_path,
    entry_document,
    from_base64,
    inside,
    named,
    to_base64,
)
from holdfast.gateway.reading import (
    Check,
    json_answer,
    located,
    manifest_of,
    opened,
    place_in,
    while_wanted,
)
from holdfast.gateway.workroom import Workroom
from holdfast.model.finding import Finding
from holdfast.model.node import Node

PAGE, LARGEST_PAGE = 1000, 10_000
VERSIONS_AT_ONCE = 200
_BODY_BYTES = 256 << 10


class Browsing:
    """The routes that answer with JSON."""

    def __init__(self, room: Workroom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        base = "/data/v1"
        return [
            Route(f"{base}/snapshots/{{snapshot_id}}/tree", problem_errors(self._tree)),
            Route(f"{base}/snapshots/{{snapshot_id}}/diff", problem_errors(self._diff)),
            Route(f"{base}/versions", problem_errors(self._versions), methods=["GET", "POST"]),
        ]

    async def _tree(self, request: Request) -> Response:
        grant = await self._room.snapshot_grant(request, request.path_params["snapshot_id"])
        query = Query(request)
        path, limit = query.path(), query.number("limit", PAGE, LARGEST_PAGE)
        after = from_base64(query.text("cursor"))

        def act() -> dict[str, Any]:
            with (
                opened(self._room, grant) as repository,
                located(repository, grant, inside(grant, path)) as (snapshot, trees, place),
            ):
                nodes = [] if place.tree is None else trees.nodes(place.tree)
                hides = not place.path and has_manifest(snapshot)
                names = (n for n in nodes if not (hides and n.name == MANIFEST_DIRECTORY))
                rest = sorted((n for n in names if n.name > after), key=lambda n: n.name)
                page = rest[:limit]
                return {
                    **named("path", path),
                    "entry": None if place.node is None else entry_document(place.node),
                    "entries": [entry_document(node) for node in page],
                    "next_cursor": to_base64(page[-1].name) if len(rest) > limit else None,
                }

        return json_answer(await self._room.in_thread(act))

    async def _diff(self, request: Request) -> Response:
        query = Query(request)
        room = self._room
        old = await room.snapshot_grant(request, request.path_params["snapshot_id"])
        new = await room.snapshot_grant(request, query.text("with"))
        if old.repository_location != new.repository_location:
            raise UsageError(
                "These snapshots lie in different repositories and cannot be compared."
            )
        path = query.path()
        asked = DiffRequest(
            manifest_of(old),
            manifest_of(new),
            inside(old, path),
            inside(new, path),
            metadata=query.flag("metadata", otherwise=True),
            with_lock=False,
        )
        skip = _skipped(query.text("cursor"))
        limit = query.number("limit", PAGE, LARGEST_PAGE)
        totals = query.flag("totals", otherwise=False)

        def act(check: Check) -> dict[str, Any]:
            return self._compare(old, asked, skip, limit, check, totals=totals)

        async with room.exports.take(old.account_id, 1):
            return json_answer(await while_wanted(room, request, act))

    def _compare(
        self, grant: Grant, asked: DiffRequest, skip: int, limit: int, check: Check, *, totals: bool
    ) -> dict[str, Any]:
        findings: list[Finding] = []
        sums = DiffTotals()
        page: list[Change] = []
        more = False
        with opened(self._room, grant) as repository:
            try:
                with closing(diff(repository, asked, findings.append)) as changes:  # type: ignore[type-var]
                    for number, change in enumerate(changes):
                        check()
                        if totals:
                            sums.add(change)
                        if skip <= number < skip + limit:
                            page.append(change)
                        elif number >= skip + limit:
                            more = True
                            if not totals:
                                break
            except NotFound:
                raise NotFound("The path is not in both snapshots.") from None
        return {
            "changes": [_change_document(change) for change in page],
            "next_cursor": str(skip + limit) if more else None,
            "totals": _totals_document(sums) if totals else None,
            "findings": [finding.as_dict() for finding in findings],
        }

    async def _versions(self, request: Request) -> Response:
        ids, path = await self._asked_versions(request)
        if not 1 <= len(ids) <= VERSIONS_AT_ONCE:
            raise UsageError(f"Name 1 to {VERSIONS_AT_ONCE} snapshots.")
        room = self._room
        grants = await asyncio.gather(*(room.snapshot_grant(request, each) for each in ids))
        together: dict[str, list[tuple[str, Grant]]] = {}
        for snapshot_id, grant in zip(ids, grants, strict=True):
            together.setdefault(grant.repository_location, []).append((snapshot_id, grant))

        def act(check: Check) -> dict[str, Any]:
            found: list[_Found] = []
            missing: list[dict[str, str]] = []
            for members in together.values():
                self._find_versions(members, path, found, missing, check)
            return {
                **named("path", path),
                "versions": _versions_documents(found),
                "missing": missing,
            }

        async with room.exports.take(grants[0].account_id, 1):
            return json_answer(await while_wanted(room, request, act))

    async def _asked_versions(self, request: Request) -> tuple[list[str], bytes]:
        if request.method != "POST":
            query = Query(request)
            ids = [each for each in query.text("snapshot_ids").split(",") if each]
            return list(dict.fromkeys(ids)), query.path()
        try:
            document = orjson.loads(await receive_body(self._room, request, _BODY_BYTES))
            ids = [str(each) for each in document["snapshot_ids"]]
            encoded = document.get("path_base64")
            path = str(document.get("path", "")).encode() if encoded is None else b""
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "usage",
                "The body is a JSON object with snapshot_ids, and path or path_base64.",
            ) from None
        if encoded is not None:
            path = from_base64(str(encoded))
        return list(dict.fromkeys(ids)), checked_path(path)

    def _find_versions(
        self,
        members: Iterable[tuple[str, Grant]],
        path: bytes,
        found: list[_Found],
        missing: list[dict[str, str]],
        check: Check,
    ) -> None:
        """Look the path up in snapshots of one repository."""

        def miss(snapshot_id: str, reason: str) -> None:
            missing.append({"snapshot_id": snapshot_id, "reason": reason})

        there = []
        for snapshot_id, grant in members:
            if grant.manifest_id is None:
                miss(snapshot_id, "no_data")
            else:
                there.append((snapshot_id, grant, grant.manifest_id))
        if not there:
            return
        with (
            opened(self._room, there[0][1]) as repository,
            ReadSession(repository, with_lock=False) as session,
        ):
            loaded = []
            for snapshot_id, grant, manifest_id in there:
                check()
                try:
                    loaded.append((snapshot_id, grant, session.snapshot(manifest_id)))
                except NotFound:
                    miss(snapshot_id, "no_data")
                except Damaged:
                    miss(snapshot_id, "damaged")
            trees = Trees(session.reader)
            for snapshot_id, grant, snapshot in loaded:
                check()
                try:
                    node = place_in(trees, snapshot, inside(grant, path)).node
                except NotFound:
                    miss(snapshot_id, "no_such_path")
                    continue
                except Damaged:
                    repository.doubt_index()
                    miss(snapshot_id, "damaged")
                    continue
                if node is None:
                    raise UsageError("Name a path; the top of a file system has no versions.")
                found.append((snapshot.time, snapshot_id, node))


_Found = tuple[datetime, str, Node]


def _versions_documents(found: list[_Found]) -> list[dict[str, object]]:
    """One for each different entry, in the order of the oldest snapshot that holds it."""
    versions: dict[Node, list[str]] = {}
    for _, snapshot_id, node in sorted(found, key=lambda each: each[:2]):
        # Where it lay at the time is the business of the snapshots, and when it was read of
        # nobody: a version is what can be seen in a listing, and the content.
        seen = node._replace(name=b"", atime_ns=0, ctime_ns=0, inode=0, device_id=0, links=0)
        versions.setdefault(seen, []).append(snapshot_id)
    return [
        {"snapshot_ids": ids, "entry": entry_document(node, name=b"")}
        for node, ids in versions.items()
    ]


def _change_document(change: Change) -> dict[str, object]:
    node = change.new or change.old
    assert node is not None
    return {
        "change": change.kind.value,
        **named("path", change.path),
        "kind": node.type.name.lower(),
        "growth_bytes": change.growth_bytes,
        "old": None if change.old is None else entry_document(change.old),
        "new": None if change.new is None else entry_document(change.new),
    }


def _totals_document(totals: DiffTotals) -> dict[str, object]:
    return {
        "files": {kind.value: count for kind, count in totals.files.items()},
        "directories": {kind.value: count for kind, count in totals.directories.items()},
        "others": {kind.value: count for kind, count in totals.others.items()},
        "added_bytes": totals.added_bytes,
        "removed_bytes": totals.removed_bytes,
    }


def _skipped(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 15):
        raise UsageError("This is not a cursor; take it from the answer before.")
    return int(cursor)
