"""A restore: what was captured, or parts of it, into a new or empty directory of a root.

Room is looked at before anything is written. An attempt after the first goes on where the
one before it stopped: it knows the directory by a note on this machine, because by then it
is not empty any more. Nothing outside the root is touched, whatever links there are.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

import orjson

from holdfast.agent.confinement import ConfinedPlace, remove_if_empty, target_place
from holdfast.agent.credential import write_private
from holdfast.agent.jobs.context import WAIT_FOR_LOCK_SECONDS, JobContext, JobEnd, limited
from holdfast.errors import (
    NotFound,
    PathEscapes,
    PathEscapesRoot,
    TargetFull,
    TargetNotEmpty,
    UsageError,
)
from holdfast.flows.locate import normal_path
from holdfast.flows.restore import plan_restore, restore
from holdfast.flows.restore_request import RestoreRequest, RestoreResult
from holdfast.repo.repository import Repository
from holdfast.sources.path.restore_plan import RestoreOptions

_NOTES: Final = "restores"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


def run(context: JobContext) -> JobEnd:
    directory = context.spec.get("directory") or ""
    with context.opened_repository() as repository:
        place = target_place(context.text("target"), context.roots, directory)
        try:
            result = _restore(context, repository, place)
        except BaseException as error:
            remove_if_empty(place)
            if isinstance(error, PathEscapes | TargetNotEmpty | TargetFull | NotFound):
                raise _as_people_write(error, place) from error
            raise
    _remove_note(_note_path(context))
    return _end(context, result)


def _restore(context: JobContext, repository: Repository, place: ConfinedPlace) -> RestoreResult:
    note = _note_path(context)
    goes_on = context.attempt > 1 and _is_noted(note, place)
    request = RestoreRequest(
        snapshot=context.text("manifest_id"),
        target=place.real,
        path=normal_path(os.fsencode(context.spec.get("captured_path") or "/")),
        paths=chosen_paths(context),
        options=RestoreOptions(in_place=goes_on, within=place.within),
        root_metadata=place.made,
        sync=True,
        workers=context.workers,
        wait_for_lock_seconds=WAIT_FOR_LOCK_SECONDS,
    )
    context.stage("preparing")
    plan = plan_restore(repository, request)
    if not plan.fits:
        raise TargetFull(
            f"{place.path} has {plan.free_bytes} bytes free and {plan.plan.needed_bytes} are "
            "needed; free some, or restore less. Nothing was written."
        )
    _write_note(note, place)
    context.say("info", f"Restoring to {place.path}.")
    return restore(repository, request, context.stage("restoring"), plan)


def chosen_paths(context: JobContext) -> tuple[bytes, ...]:
    """Selected paths of a job's spec, relative to what was captured."""
    top = normal_path(os.fsencode(context.spec.get("captured_path") or "/"))
    chosen = []
    for text in context.texts("paths"):
        path = normal_path(os.fsencode(text))
        if text.startswith("/"):
            # As the snapshot's tree shows it: from the very top.
            if top and path != top and not path.startswith(top + b"/"):
                raise UsageError(f"The path {text!r} is not in what was captured; choose another.")
            path = path[len(top) :].strip(b"/")
        chosen.append(path)
    return tuple(chosen)


def _end(context: JobContext, result: RestoreResult) -> JobEnd:
    counts = result.counts
    context.say(
        "info",
        f"Restored {counts.files} files in {counts.directories} directories, "
        f"{counts.bytes_written} bytes.",
    )
    document: dict[str, Any] = {
        "files": counts.files,
        "directories": counts.directories,
        "restored_bytes": counts.bytes_written,
        "updated": counts.updated,
        "left": counts.left,
        "failed": counts.failed,
    }
    return JobEnd(document, limited(result.findings))


def _as_people_write(error: Exception, place: ConfinedPlace) -> Exception:
    """The error with the path that was asked for, in place of where it lies here."""
    if isinstance(error, PathEscapes):
        return PathEscapesRoot(
            f"{place.path} was made to lead out of its root while it was restored to; nothing "
            "was written outside."
        )
    assert isinstance(error, TargetNotEmpty | TargetFull | NotFound)
    message = error.message.replace(os.fsdecode(place.real), place.path)
    return type(error)(message)


# The note on this machine that a job has begun to write into a directory


def _note_path(context: JobContext) -> str:
    if _ID.fullmatch(context.job_id) is None:
        raise UsageError(f"The server calls a job {context.job_id!r}, which is no id.")
    return os.path.join(context.state_directory, _NOTES, f"{context.job_id}.json")


def _is_noted(path: str, place: ConfinedPlace) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(orjson.loads(file.read()) == _note(place))
    except (OSError, ValueError):
        return False


def _write_note(path: str, place: ConfinedPlace) -> None:
    write_private(path, orjson.dumps(_note(place)))


def _note(place: ConfinedPlace) -> dict[str, object]:
    found = os.stat(place.real)
    return {
        "target": os.fsdecode(place.real).encode("utf-8", "backslashreplace").decode(),
        "device": found.st_dev,
        "inode": found.st_ino,
    }


def _remove_note(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
