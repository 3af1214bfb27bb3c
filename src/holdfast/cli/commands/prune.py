"""``holdfast prune``: give back the space that no snapshot needs."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation, add_workers, value_of
from holdfast.model.quantity import parse_bytes, parse_duration, print_bytes

if TYPE_CHECKING:
    from holdfast.flows.prune import PrunePlan, PruneResult
    from holdfast.repo.repository import Repository

_WORDS = {
    "mark": "that no snapshot needs: marked, to be deleted after the grace period",
    "sweep": "marked long enough ago: deleted",
    "wait": "marked, and waiting for the end of the grace period",
    "repack": "needed in part: what is needed is copied, then as not needed",
    "revive": "marked, and needed after all: kept",
    "forget": "gone and not needed: taken out of the index",
    "relist": "listed more than once: listed once",
}
_INSTANT = {"mark": "that no snapshot needs: deleted at once"}


def configure(parser: Parser) -> None:
    add_confirmation(parser)
    add_limits(parser)
    add_workers(parser)


def add_limits(parser: Parser) -> None:
    """Declare how far a prune goes."""
    parser.add_argument(
        "--instant",
        action="store_true",
        help="delete at once; refuses to start while anybody else is at work",
    )
    parser.add_argument(
        "--max-unused",
        metavar="PERCENT",
        type=value_of(values.percentage),
        default=5.0,
        help="how much may lie unused in packs that are needed in part (default: 5%%)",
    )
    parser.add_argument(
        "--max-repack",
        metavar="SIZE",
        type=value_of(parse_bytes),
        help="copy no more than this in one run",
    )
    parser.add_argument(
        "--grace",
        metavar="DURATION",
        type=value_of(parse_duration),
        default=23 * 3600,
        help="how long marked packs are kept (default: 23h)",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    return prune_repository(invocation.open_repository(), arguments, invocation)


def prune_repository(
    repository: Repository, arguments: Namespace, invocation: Invocation
) -> Outcome:
    """Plan, show, ask, execute; for every command that prunes."""
    from holdfast.flows.prune import PruneLimits, PruneRequest, plan_prune, prune

    request = PruneRequest(
        limits=PruneLimits(
            max_unused_percent=arguments.max_unused,
            max_repack_bytes=arguments.max_repack,
            grace=timedelta(seconds=arguments.grace),
            instant=arguments.instant,
        ),
        workers=invocation.workers,
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    plan = plan_prune(repository, request, invocation.progress)
    if arguments.dry_run:
        return Outcome(
            {"plan": _plan_document(plan), "done": None},
            answer=[*describe(plan), "dry run: nothing was changed"],
        )
    if not plan.does_nothing:
        invocation.confirm("prune?", describe(plan))
    result = prune(
        repository, plan, invocation.progress, wait_for_lock_seconds=invocation.wait_seconds
    )
    return Outcome(
        {"plan": _plan_document(plan), "done": _done_document(result)},
        summary=_summary(result),
        findings=result.findings,
    )


def describe(plan: PrunePlan) -> Iterator[str]:
    """The plan for people."""
    words = _WORDS | _INSTANT if plan.limits.instant else _WORDS
    counts = Counter(decision.action for decision in plan.decisions)
    yield (
        f"{text.count(plan.kept_packs, 'pack')} stay ({print_bytes(plan.kept_bytes)}, of which "
        f"{print_bytes(plan.unused_bytes)} are unused)"
    )
    for action, number in counts.items():
        size = print_bytes(plan.bytes_of(action))
        yield f"{text.count(number, 'pack')} ({size}) {words[action.value]}"
    yield (
        f"this gives back {print_bytes(plan.freed_now_bytes)} now and "
        f"{print_bytes(plan.freed_later_bytes)} later"
    )


def _summary(result: PruneResult) -> Iterator[str]:
    done = result.outcome
    yield f"deleted {text.count(done.deleted, 'pack')} ({print_bytes(done.deleted_bytes)})"
    if done.repacked:
        written = print_bytes(done.written_bytes)
        yield f"copied what was needed of {text.count(done.repacked, 'pack')} ({written})"
    if done.marked:
        yield (
            f"marked {text.count(done.marked, 'pack')} ({print_bytes(done.marked_bytes)}); a prune "
            "after the grace period deletes them"
        )
    if result.merge.replaced:
        yield (
            f"merged {text.count(result.merge.replaced, 'small index file')} into "
            f"{result.merge.written}"
        )
    yield f"done in {text.duration(result.seconds)}"


def _plan_document(plan: PrunePlan) -> dict[str, object]:
    return {
        "instant": plan.limits.instant,
        "kept_packs": plan.kept_packs,
        "kept_bytes": plan.kept_bytes,
        "needed_bytes": plan.needed_bytes,
        "unused_bytes": plan.unused_bytes,
        "repacked_bytes": plan.repacked_bytes,
        "freed_now_bytes": plan.freed_now_bytes,
        "freed_later_bytes": plan.freed_later_bytes,
        "decisions": [
            {
                "pack": decision.pack.hex(),
                "action": decision.action.value,
                "reason": decision.reason,
                "size_bytes": decision.size_bytes,
            }
            for decision in plan.decisions
        ],
    }


def _done_document(result: PruneResult) -> dict[str, object]:
    done = result.outcome
    return {
        "marked_packs": done.marked,
        "marked_bytes": done.marked_bytes,
        "deleted_packs": done.deleted,
        "deleted_bytes": done.deleted_bytes,
        "repacked_packs": done.repacked,
        "written_bytes": done.written_bytes,
        "revived_packs": done.revived,
        "merged_index_files": result.merge.replaced,
        "seconds": round(result.seconds, 3),
    }
