"""``holdfast restore``: put a snapshot, or a part of one, into a directory."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation, add_patterns, add_workers
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.restore_request import PlannedRestore, RestoreRequest, RestoreResult

_ACTIONS = {
    "create": "created",
    "overwrite": "written anew",
    "update": "given their old metadata",
    "leave": "as they are",
    "skip": "left out",
    "delete": "deleted",
}
_PATHS_SHOWN = 50


def configure(parser: Parser) -> None:
    add_snapshot(parser, with_path=True)
    parser.add_argument(
        "--target", metavar="DIRECTORY", required=True, help="where to, made if it is not there"
    )
    add_patterns(parser, "what to leave out")
    existing = parser.add_argument_group("what is there already")
    existing.add_argument(
        "--in-place", action="store_true", help="allow a target that holds something"
    )
    existing.add_argument(
        "--overwrite",
        choices=("never", "if-changed", "always"),
        default="if-changed",
        help="which of the entries there to replace (default: if-changed)",
    )
    existing.add_argument(
        "--compare-content",
        action="store_true",
        help="read the files there instead of trusting their size and time",
    )
    existing.add_argument(
        "--delete-extra", action="store_true", help="delete what is there and not in the snapshot"
    )
    parser.add_argument("--no-owner", action="store_true", help="leave owners as the system does")
    parser.add_argument("--no-xattrs", action="store_true", help="no extended attributes")
    parser.add_argument(
        "--strict", action="store_true", help="stop where something is damaged, leave nothing zero"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read everything back when it is written"
    )
    add_confirmation(parser)
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.restore import plan_restore, restore

    # What cannot be meant is said before a password is asked for.
    request = _request(arguments, invocation, "latest")
    request.check()
    repository = invocation.open_repository()
    name, _ = values.snapshot_and_path(arguments.snapshot)
    request = _request(arguments, invocation, chosen(repository, arguments, name).id)
    plan = None
    if arguments.dry_run or arguments.delete_extra:
        plan = plan_restore(repository, request)
        if arguments.dry_run:
            return Outcome(
                {"plan": _plan_document(plan), "done": None},
                answer=[*_describe(plan), "dry run: nothing was changed"],
                findings=plan.plan.findings,
            )
        if plan.plan.deletions:
            invocation.confirm(f"restore into {arguments.target}?", _describe(plan))
    result = restore(repository, request, invocation.progress, plan)
    return Outcome(
        {
            "plan": None if result.plan is None else _plan_document(result.plan),
            "done": _done_document(result, arguments.target),
        },
        summary=_summary(result, arguments.target),
        findings=result.findings,
    )


def _request(arguments: Namespace, invocation: Invocation, snapshot: str) -> RestoreRequest:
    from holdfast.flows.locate import normal_path
    from holdfast.flows.restore_request import RestoreRequest
    from holdfast.sources.path.restore_plan import Overwrite, RestoreOptions
    from holdfast.sources.path.selection import Selection

    _, path = values.snapshot_and_path(arguments.snapshot)
    return RestoreRequest(
        snapshot=snapshot,
        target=os.fsencode(arguments.target),
        path=normal_path(os.fsencode(path)),
        selection=Selection(
            exclude=tuple(arguments.exclude),
            include=tuple(arguments.include),
            whitelist=tuple(arguments.whitelist),
            blacklist=tuple(arguments.blacklist),
        ),
        options=RestoreOptions(
            in_place=arguments.in_place,
            overwrite=Overwrite(arguments.overwrite),
            delete_extra=arguments.delete_extra,
            owner=not arguments.no_owner,
            xattrs=not arguments.no_xattrs,
        ),
        compare_content=arguments.compare_content,
        verify=arguments.verify,
        strict=arguments.strict,
        workers=invocation.workers,
        with_lock=invocation.with_lock,
        wait_for_lock_seconds=invocation.wait_seconds,
    )


def _describe(planned: PlannedRestore) -> Iterator[str]:
    plan = planned.plan
    for action, number in plan.counts.items():
        if number:
            size = print_bytes(plan.bytes_[action])
            entries = text.count(number, "entry", "entries")
            yield f"{entries} ({size}) {_ACTIONS[action.value]}"
    for path, reason in plan.overwritten[:_PATHS_SHOWN]:
        yield f"  written anew: {text.name(path)}: {reason}"
    if len(plan.overwritten) > _PATHS_SHOWN:
        yield f"  and {len(plan.overwritten) - _PATHS_SHOWN:,} more"
    for deletion in plan.deletions[:_PATHS_SHOWN]:
        yield f"  deleted: {text.name(deletion.path)}"
    if len(plan.deletions) > _PATHS_SHOWN:
        yield f"  and {len(plan.deletions) - _PATHS_SHOWN:,} more"
    yield f"needs {print_bytes(plan.needed_bytes)}, of {print_bytes(planned.free_bytes)} free"


def _summary(result: RestoreResult, target: str) -> Iterator[str]:
    counts = result.counts
    speed = print_bytes(int(counts.bytes_written / max(result.seconds, 1e-3)))
    yield (
        f"{text.count(counts.files, 'file')}, "
        f"{text.count(counts.directories, 'directory', 'directories')}, "
        f"{text.count(counts.links + counts.others, 'other entry', 'other entries')} restored to "
        f"{text.name(target)}"
    )
    if counts.left or counts.updated:
        yield f"{counts.left:,} were as they should be, {counts.updated:,} got their old metadata"
    if result.deleted:
        yield f"{text.count(result.deleted, 'entry', 'entries')} deleted"
    if counts.verified:
        verified = text.count(counts.verified, "file")
        yield f"{verified} ({print_bytes(counts.bytes_verified)}) read back"
    if counts.failed:
        yield f"{text.count(counts.failed, 'entry', 'entries')} could not be restored"
    yield (
        f"{print_bytes(counts.bytes_written)} written in {text.duration(result.seconds)} "
        f"({speed}/s)"
    )


def _plan_document(planned: PlannedRestore) -> dict[str, object]:
    plan = planned.plan
    return {
        "snapshot": planned.snapshot.id,
        "counts": {action.value: number for action, number in plan.counts.items()},
        "bytes": {action.value: number for action, number in plan.bytes_.items()},
        "overwritten": [
            {"path": os.fsdecode(path), "reason": reason} for path, reason in plan.overwritten
        ],
        "deletions": [os.fsdecode(deletion.path) for deletion in plan.deletions],
        "needed_bytes": plan.needed_bytes,
        "free_bytes": planned.free_bytes,
        "fits": planned.fits,
    }


def _done_document(result: RestoreResult, target: str) -> dict[str, object]:
    counts = result.counts
    return {
        "snapshot": result.snapshot.id,
        "target": target,
        "files": counts.files,
        "directories": counts.directories,
        "links": counts.links,
        "others": counts.others,
        "updated": counts.updated,
        "left": counts.left,
        "failed": counts.failed,
        "deleted": result.deleted,
        "verified": counts.verified,
        "bytes_written": counts.bytes_written,
        "seconds": round(result.seconds, 3),
    }
