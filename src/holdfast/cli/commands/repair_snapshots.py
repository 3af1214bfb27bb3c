"""``holdfast repair snapshots``: make snapshots anew without what is lost."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.choice import snapshot_document
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation

if TYPE_CHECKING:
    from holdfast.flows.repair import RepairResult, SnapshotRepairPlan

_PATHS_SHOWN = 20


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--forget", action="store_true", help="remove the damaged snapshots when that is done"
    )
    add_confirmation(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.repair import plan_snapshot_repair, repair_snapshots

    repository = invocation.open_repository()
    plan = plan_snapshot_repair(
        repository, forget=arguments.forget, wait_seconds=invocation.wait_seconds
    )
    document = _plan_document(plan)
    if arguments.dry_run:
        return Outcome(
            {"plan": document, "done": None},
            answer=[*_describe(plan), "dry run: nothing was changed"],
        )
    if plan.does_nothing:
        return Outcome({"plan": document, "done": None}, summary=_describe(plan))
    invocation.confirm("make these snapshots anew?", _describe(plan))
    result = repair_snapshots(
        repository, plan, invocation.progress, wait_seconds=invocation.wait_seconds
    )
    return Outcome(
        {"plan": document, "done": _done_document(result)},
        summary=_summary(result),
        findings=result.findings,
    )


def _plan_document(plan: SnapshotRepairPlan) -> dict[str, object]:
    return {
        "damaged": [
            {
                "id": each.id,
                "lost": [{"path": lost.path, "reason": lost.reason} for lost in each.lost],
            }
            for each in plan.damaged
        ],
        "hopeless": list(plan.hopeless),
        "unreadable": list(plan.unreadable),
        "forget": plan.forget,
    }


def _done_document(result: RepairResult) -> dict[str, object]:
    return {
        "snapshots": [
            {"damaged": old, "snapshot": snapshot_document(new)} for old, new in result.snapshots
        ],
        "removed": list(result.removed),
        "seconds": round(result.seconds, 3),
    }


def _describe(plan: SnapshotRepairPlan) -> Iterator[str]:
    if plan.does_nothing and not plan.unreadable:
        yield "every snapshot is whole; there is nothing to repair"
    for each in plan.damaged:
        fate = "cannot be saved" if each.id in plan.hopeless else "is made anew without:"
        yield f"snapshot {each.id[:8]} {fate}"
        for lost in each.lost[:_PATHS_SHOWN]:
            yield f"  {text.name(lost.path)}: {lost.reason}"
        if len(each.lost) > _PATHS_SHOWN:
            yield f"  and {len(each.lost) - _PATHS_SHOWN:,} more"
    for name in plan.unreadable:
        yield f"the record of snapshot {name[:8]} cannot be read"
    if plan.wrong_sizes:
        yield f"sizes are corrected in {text.count(len(plan.wrong_sizes), 'place')}"
    if plan.forget and not plan.does_nothing:
        yield "and the damaged snapshots are removed"


def _summary(result: RepairResult) -> Iterator[str]:
    for old, new in result.snapshots:
        yield f"snapshot {old[:8]} is now {new.short_id}"
    if result.removed:
        yield f"{text.count(len(result.removed), 'damaged snapshot')} removed"
    yield f"done in {text.duration(result.seconds)}"
