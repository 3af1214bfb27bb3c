"""``holdfast forget``: remove snapshots, by name or by rules of retention."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.choice import add_choice
from holdfast.cli.commands.prune import add_limits, prune_repository
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation, add_workers, value_of
from holdfast.errors import UsageError
from holdfast.model.grouping import GroupBy
from holdfast.model.span import CalendarSpan

if TYPE_CHECKING:
    from holdfast.flows.forget import ForgetPlan, ForgetRequest

_PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")


def configure(parser: Parser) -> None:
    parser.add_argument(
        "snapshots", metavar="SNAPSHOT", nargs="*", help="snapshots to remove, whatever the rules"
    )
    rules = parser.add_argument_group("what to keep; everything else goes")
    count = value_of(values.count_or_all)
    rules.add_argument("--keep-last", metavar="N", type=count, default=0, help="the N newest")
    for period in _PERIODS:
        rules.add_argument(
            f"--keep-{period}",
            metavar="N",
            type=count,
            default=0,
            help=f"{period}, the newest of each of the N latest that have one",
        )
    span = value_of(CalendarSpan.parse)
    rules.add_argument(
        "--keep-within",
        metavar="SPAN",
        type=span,
        default=CalendarSpan(),
        help="all within this span before the newest, such as 30d or 1y6m",
    )
    for period in _PERIODS:
        rules.add_argument(
            f"--keep-within-{period}",
            metavar="SPAN",
            type=span,
            default=CalendarSpan(),
            help=f"{period} ones within this span",
        )
    rules.add_argument(
        "--keep-tag",
        metavar="TAG[,TAG]",
        action="append",
        default=[],
        help="what has all of these tags; an empty one stands for no tags at all",
    )
    rules.add_argument(
        "--max-age-days",
        metavar="N",
        type=value_of(values.natural),
        default=0,
        help="remove what is older, whatever the rules keep",
    )
    rules.add_argument(
        "--group-by",
        metavar="WORDS",
        type=value_of(GroupBy.parse),
        default=GroupBy(),
        help="apply the rules to each group of the same host, paths, tags (default: host,paths)",
    )
    rules.add_argument(
        "--allow-remove-all",
        action="store_true",
        help="do it even if nothing of a group would remain",
    )
    add_choice(parser, "apply the rules only to snapshots")
    parser.add_argument("--prune", action="store_true", help="prune when that is done")
    add_limits(parser)
    add_confirmation(parser)
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.forget import forget, plan_forget

    request = _request(arguments, invocation)
    repository = invocation.open_repository()
    plan = plan_forget(repository, request)
    document: dict[str, object] = {"groups": _plan_document(plan), "removed": None}
    if arguments.dry_run:
        return Outcome(
            document,
            answer=[*_describe(plan), "dry run: nothing was removed"],
            findings=plan.findings,
        )
    if plan.removed:
        invocation.confirm(f"remove {text.count(len(plan.removed), 'snapshot')}?", _describe(plan))
    result = forget(
        repository, plan, invocation.progress, wait_for_lock_seconds=invocation.wait_seconds
    )
    document["removed"] = list(result.removed)
    summary = [*_describe(plan), f"{text.count(len(result.removed), 'snapshot')} removed"]
    findings = [*result.findings]
    if arguments.prune:
        pruned = prune_repository(repository, arguments, invocation)
        document["prune"] = pruned.document
        summary += pruned.summary
        findings += pruned.findings
    elif result.removed:
        summary.append("their space comes back with `holdfast prune`")
    return Outcome(document, summary=summary, findings=findings)


def _request(arguments: Namespace, invocation: Invocation) -> ForgetRequest:
    from holdfast.flows.forget import ForgetRequest
    from holdfast.model.retention import RetentionPolicy

    keep = {
        f"keep_{name}": getattr(arguments, f"keep_{name}")
        for name in ("last", "within", *_PERIODS, *(f"within_{period}" for period in _PERIODS))
    }
    policy = RetentionPolicy(
        **keep,
        keep_tags=tuple(values.tags([each]) or ("",) for each in arguments.keep_tag),
        max_age_days=arguments.max_age_days,
    )
    if not (arguments.snapshots or policy.has_keep_rules or policy.max_age_days):
        raise UsageError(
            "name the snapshots to remove, or say what to keep, such as --keep-daily 7"
        )
    tags = tuple(values.tags([each]) for each in arguments.tag)
    if not all(tags):
        raise UsageError("--tag is empty; name a tag, or leave the option out")
    return ForgetRequest(
        ids=tuple(arguments.snapshots),
        policy=policy,
        group_by=arguments.group_by,
        hosts=tuple(arguments.host),
        paths=tuple(arguments.path),
        tags=tags,
        allow_remove_all=arguments.allow_remove_all,
        wait_for_lock_seconds=invocation.wait_seconds,
    )


def _plan_document(plan: ForgetPlan) -> list[dict[str, object]]:
    return [
        {
            "host": key.host,
            "paths": list(key.paths),
            "tags": list(key.tags),
            "snapshots": [
                {
                    "id": decision.point.id,
                    "time": decision.point.time.isoformat(),
                    "keep": decision.keep,
                    "reasons": list(decision.reasons),
                }
                for decision in decisions
            ],
        }
        for key, decisions in plan.groups
    ]


def _describe(plan: ForgetPlan) -> Iterator[str]:
    for key, decisions in plan.groups:
        yield f"{text.name(str(key))}:"
        rows = (
            (
                "keep" if decision.keep else "remove",
                decision.point.id[:8],
                text.moment(decision.point.time),
                "; ".join(decision.reasons),
            )
            for decision in decisions
        )
        for line in text.table(("what", "id", "time", "why"), rows):
            yield f"  {line}"
