"""A backup: read a guarded path, store it, read back what was stored.

An attempt that is not the first looks for a snapshot of its job before it reads anything,
unless it may not read: the attempt before it may have finished unheard. Such a snapshot is
adopted. What is recorded is the path as people write it, wherever it lies on this machine.
Where a ZIP archive is wanted it is written besides, so that everything else works as ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.agent.confinement import ConfinedPlace, source_place
from holdfast.agent.jobs.adoption import adopted, stored_by
from holdfast.agent.jobs.archive import write_archive
from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import PathEscapes, PathEscapesRoot, UsageError
from holdfast.flows.backup import BackupRequest, BackupResult, backup
from holdfast.flows.read_back import compare_sizes, read_back
from holdfast.flows.reconcile import JOB_TAG
from holdfast.model.finding import Finding
from holdfast.repo.repository import FileKind, Repository
from holdfast.repo.writer import Compression
from holdfast.sources.path.ladder import Wish
from holdfast.sources.path.selection import Selection

SNAPSHOT_TAG: Final = "holdfast-snapshot="
READ, SIZE, NONE = "read", "size", "none"
"""How what was stored was verified: read back, its size asked for, or not at all."""

_OPTIONS: Final = frozenset(
    {"exclude", "include", "whitelist", "blacklist", "larger_than_bytes", "exclude_caches",
     "exclude_if_present", "one_file_system", "consistency", "compression"}
)  # fmt: skip


def run(context: JobContext) -> JobEnd:
    spec = context.spec
    put_only = context.put_only or bool(spec.get("put_only"))
    as_zip = spec.get("archive_format") == "zip"
    if as_zip and put_only:
        raise UsageError(
            "A host that may only add cannot read what a ZIP archive is made of; choose the "
            "repository format for its schedules."
        )
    place = source_place(context.text("path"), context.roots, spec.get("directory") or "")
    with context.opened_repository(make=True) as repository:
        stored = None
        if context.attempt > 1 and not put_only:
            tag = f"{JOB_TAG}{context.job_id}"
            stored = stored_by(repository, tag).get(tag)
        if stored is not None:
            end = adopted(context, repository, stored)
        else:
            end = _store(context, repository, place, put_only=put_only)
        return _with_archive(context, repository, end) if as_zip else end


def _with_archive(context: JobContext, repository: Repository, end: JobEnd) -> JobEnd:
    size, findings = write_archive(context, repository, end.result["manifest_id"])
    result = {
        **end.result,
        "stored_bytes": end.result["stored_bytes"] + size,
        "archive_bytes": size,
    }
    return JobEnd(result, limited((*end.findings, *findings)))


def _store(
    context: JobContext, repository: Repository, place: ConfinedPlace, *, put_only: bool
) -> JobEnd:
    request = _request(context, repository, place, put_only=put_only)
    context.say("info", f"Reading {place.path}.")
    try:
        result = backup(repository, request, context.stage("reading"))
    except PathEscapes as error:
        raise PathEscapesRoot(
            f"{place.path} was made to lead out of its root while it was read; nothing was stored."
        ) from error
    assert result.snapshot is not None
    context.say(
        "info",
        f"Stored snapshot {result.snapshot.short_id}: {result.counts.files} files, "
        f"{result.added.stored_bytes} bytes added in {len(result.packs)} packs.",
    )
    verified = _verify(context, repository, result, put_only=put_only)
    return _end(place, result, verified, _unknown_options(context.spec.get("options") or {}))


def _request(
    context: JobContext, repository: Repository, place: ConfinedPlace, *, put_only: bool
) -> BackupRequest:
    options = context.spec.get("options") or {}
    return BackupRequest(
        (place.real,),
        stored_as=os.fsencode(place.path),
        within=place.within,
        selection=_selection(options),
        tags=_tags(context),
        hostname=context.host_name,
        parent=None if put_only else _parent(context, repository),
        wish=_word(Wish, options.get("consistency", Wish.AUTO), "consistency"),
        one_file_system=bool(options.get("one_file_system", False)),
        workers=context.workers,
        compression=_word(Compression, options.get("compression", Compression.FAST), "compression"),
        wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
    )


def _selection(options: Mapping[str, Any]) -> Selection:
    def texts(name: str) -> tuple[str, ...]:
        return tuple(str(each) for each in options.get(name) or ())

    larger = options.get("larger_than_bytes")
    selection = Selection(
        exclude=texts("exclude"),
        include=texts("include"),
        whitelist=texts("whitelist"),
        blacklist=texts("blacklist"),
        larger_than_bytes=None if larger is None else int(larger),
        caches=bool(options.get("exclude_caches", False)),
        if_present=texts("exclude_if_present"),
    )
    selection.check()
    return selection


def _unknown_options(options: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding("option_unknown", "is an option that this agent does not know; it was left", name)
        for name in sorted(set(options) - _OPTIONS)
    ]


def _tags(context: JobContext) -> tuple[str, ...]:
    tags = [f"{JOB_TAG}{context.job_id}"]
    if context.spec.get("snapshot_id"):
        tags.append(f"{SNAPSHOT_TAG}{context.spec['snapshot_id']}")
    if context.spec.get("source_id"):
        tags.append(f"holdfast-source={context.spec['source_id']}")
    return tuple(tags)


def _parent(context: JobContext, repository: Repository) -> str:
    """The snapshot to compare with: the one that was named, or the newest of this path."""
    named = context.spec.get("parent_manifest_id")
    if isinstance(named, str) and named in repository.ids(FileKind.SNAPSHOT):
        return named
    return ""


def _verify(
    context: JobContext, repository: Repository, result: BackupResult, *, put_only: bool
) -> str:
    assert result.snapshot is not None
    report = context.stage("verifying")
    if put_only:
        if compare_sizes(repository, result.packs, result.indexes) is not None:
            return SIZE
        context.say("info", "This host may only add, so what was stored was not read back.")
        return NONE
    done = read_back(
        repository,
        result.snapshot.id,
        result.packs,
        result.indexes,
        report,
        workers=context.workers,
        wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
    )
    context.say("info", f"Read back {done.packs} packs, {done.bytes_read} bytes; all are right.")
    return READ


def _end(
    place: ConfinedPlace, result: BackupResult, verified: str, more: Iterable[Finding]
) -> JobEnd:
    assert result.snapshot is not None
    findings = (*(_as_people_write(place, each) for each in result.findings), *more)
    return JobEnd(
        {
            "manifest_id": result.snapshot.id,
            "consistency": result.consistency.value,
            "captured_at": _moment(result.captured_ns),
            "files": result.counts.files,
            "logical_bytes": result.counts.bytes_seen,
            "read_bytes": result.counts.bytes_read,
            "stored_bytes": result.added.stored_bytes,
            "verified": verified == READ,
            "verified_by": verified,
            "adopted": False,
        },
        limited(findings),
    )


def _as_people_write(place: ConfinedPlace, finding: Finding) -> Finding:
    """The finding with the guarded path in place of where it lies on this machine."""
    real = os.fsdecode(place.real)
    if real in (place.path, "/"):
        return finding
    subject = finding.subject
    if subject == real or subject.startswith(f"{real}/"):
        subject = f"{place.path.rstrip('/')}{subject[len(real) :]}"
    return replace(finding, message=finding.message.replace(real, place.path), subject=subject)


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat()


def _word(kind: type[Any], value: object, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"The option {name} is {value!r}; give one of {', '.join(each.value for each in kind)}."
        ) from None
