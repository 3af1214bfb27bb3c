"""``holdfast schedule ...``: when a source is captured, and for how long that is kept."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from holdfast.cli import text, values
from holdfast.cli.choose import host_id, region_id, schedule_id, schedule_of, source_id
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, value_of
from holdfast.cli.runs import Starting, snapshot_said
from holdfast.cli.verbs import (
    Argument,
    Column,
    Doing,
    Listing,
    Showing,
    argument,
    column,
    declare,
    given,
    shown,
    table,
)
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.schedules import Schedule

_SCHEDULE = argument("schedule", metavar="SCHEDULE", help="an id or a name")
_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_PRESETS = ("6h", "12h", "daily", "weekly")


def _days(written: str) -> int:
    """A number of days; 0 for never, which may be written as a word."""
    return 0 if written == "off" else values.natural(written)


def _timing() -> tuple[Argument, ...]:
    return (
        argument("--name", metavar="NAME", help="what to call it"),
        argument("--every", metavar="HOURS", type=int, help="every 1 to 168 hours"),
        argument("--preset", choices=_PRESETS, help="a common interval"),
        argument("--cron", metavar="EXPRESSION", help="five fields, such as '30 2 * * 1-5'"),
        argument("--timezone", metavar="ZONE", help="that of --cron and --window (default: UTC)"),
        argument("--window", metavar="HH:MM-HH:MM", help="begin runs at these times of day only"),
        argument(
            "--archive-format",
            choices=("repository", "zip"),
            help="zip writes a standard archive for each run besides",
        ),
        argument(
            "--copy-to",
            metavar="REGION",
            help="copy what it completes to this region; `off` ends that",
        ),
        argument(
            "--drill-every",
            metavar="DAYS",
            type=value_of(_days),
            help="restore the newest snapshot as a test every 1 to 365 days; `off` ends that",
        ),
    )


def _retention() -> tuple[Argument, ...]:
    keeps = (
        argument(
            f"--keep-{period}",
            metavar="N",
            type=int,
            help="the N newest" if period == "last" else f"the newest of each of N {period} ones",
        )
        for period in _PERIODS
    )
    return (
        argument("--keep-days", metavar="DAYS", type=int, help="keep nothing that is older"),
        *keeps,
    )


def _retention_of(arguments: Namespace) -> dict[str, object]:
    found = given(max_age_days=arguments.keep_days)
    for period in _PERIODS:
        found |= given(**{f"keep_{period}": getattr(arguments, f"keep_{period}")})
    return found


def _members(client: Client, arguments: Namespace) -> dict[str, object]:
    found = given(
        name=arguments.name,
        interval_hours=arguments.every,
        preset=arguments.preset,
        cron=arguments.cron,
        timezone=arguments.timezone,
        window=arguments.window,
        archive_format=arguments.archive_format,
    )
    if arguments.copy_to == "off":
        found["copy_region_id"] = None
    elif arguments.copy_to:
        found["copy_region_id"] = region_id(client, arguments.copy_to)
    if arguments.drill_every is not None:
        found["drill_days"] = arguments.drill_every or None
    if len({"interval_hours", "preset", "cron"} & set(found)) > 1:
        raise UsageError("Give one of --every, --preset and --cron.")
    return found


def _add(client: Client, arguments: Namespace) -> Any:
    members, retention = _members(client, arguments), _retention_of(arguments)
    if not {"interval_hours", "preset", "cron"} & set(members):
        raise UsageError("When is it due? Give one of --every, --preset and --cron.")
    if not retention:
        raise UsageError("How long is it kept? Give --keep-days, --keep-daily or the like.")
    return client.schedules.create(
        source_id(client, arguments.source),
        retention=retention,
        paused=arguments.paused,
        **members,
    )


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = _members(client, arguments)
    if retention := _retention_of(arguments):
        changes["retention"] = retention
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast schedule edit --help`")
    return client.schedules.edit(schedule_id(client, arguments.schedule), **changes)


def when(schedule: Schedule) -> str:
    timing = f"every {schedule.interval_hours} h"
    if schedule.cron:
        timing = f"{schedule.preset or schedule.cron} ({schedule.timezone})"
    return f"{timing} in {schedule.window}" if schedule.window else timing


def keeps(retention: Mapping[str, Any]) -> str:
    parts = [
        f"{value if value >= 0 else 'all'} {name.removeprefix('keep_')}"
        if isinstance(value, int)
        else f"{value} {name.removeprefix('keep_').replace('_', ' ')}"
        for name, value in retention.items()
        if value and name.startswith("keep_")
    ]
    days = retention.get("max_age_days")
    return ", ".join([*parts, *([f"{days} days"] if days else [])])


def _drills(schedule: Schedule) -> str:
    if schedule.drill_days is None:
        return "none"
    return f"every {text.count(schedule.drill_days, 'day')}"


def _copies(schedule: Schedule) -> str:
    if schedule.copy_region_id is None:
        return "none"
    if not schedule.copies_pending:
        return f"to {schedule.copy_region_id}, all there"
    behind = text.duration(schedule.copy_lag_seconds or 0)
    return f"to {schedule.copy_region_id}, {schedule.copies_pending:,} missing, {behind} behind"


def _state(schedule: Schedule) -> str:
    if schedule.removed_at is not None:
        return "removed"
    return "paused" if schedule.paused else "active"


class Preview:
    """``schedule preview``: what retention would keep and remove, and why."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_SCHEDULE, *_retention()))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        retention = _retention_of(arguments) or None
        with invocation.client() as client:
            found = client.schedules.preview(schedule_id(client, arguments.schedule), retention)
        columns = (
            Column("", lambda each: "keep" if each.keep else "remove"),
            column("captured", "at"),
            column("because", "reasons"),
            column("snapshot", "snapshot_id"),
        )
        kept, gone = text.count(found.keeps, "snapshot"), text.count(found.removes, "snapshot")
        return Outcome(
            {"preview": as_document(found)},
            answer=table(columns, found.decisions),
            summary=["", f"{kept} would stay, {gone} would go; nothing was changed"],
        )


class Next:
    """``schedule next``: the times at which it is due."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_SCHEDULE,))
        parser.add_argument(
            "--count", metavar="N", type=int, default=5, help="how many (default: 5)"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            found = client.schedules.next_runs(
                schedule_id(client, arguments.schedule), arguments.count
            )
        return Outcome(
            {"due": [each.isoformat() for each in found]}, answer=[shown(each) for each in found]
        )


VERBS = {
    "list": Listing(
        "schedule",
        lambda client, arguments: client.schedules.list(
            source_id=source_id(client, arguments.source) if arguments.source else "",
            host_id=host_id(client, arguments.host) if arguments.host else "",
        ),
        (
            column("name"),
            Column("when", when),
            Column("keeps", lambda schedule: keeps(schedule.retention)),
            Column("state", _state),
            column("next", "due_at"),
            column("source", "source_id"),
            column("id"),
        ),
        (
            argument("--source", metavar="SOURCE", default="", help="only those of this source"),
            argument("--host", metavar="HOST", default="", help="only those of this machine"),
        ),
    ),
    "show": Showing(
        "schedule",
        lambda client, arguments: schedule_of(client, arguments.schedule),
        (
            column("id"),
            column("name"),
            column("source", "source_id"),
            Column("when", when),
            Column("keeps", lambda schedule: keeps(schedule.retention)),
            column("archive", "archive_format"),
            Column("state", _state),
            column("next", "due_at"),
            Column("copies", _copies),
            column("last copied", "last_copied_at"),
            Column("drills", _drills),
            column("next drill", "drill_due_at"),
            column("made", "created_at"),
            column("changed", "updated_at"),
        ),
        (_SCHEDULE,),
    ),
    "add": Doing(
        "schedule",
        _add,
        lambda schedule, _arguments: (
            f"made the schedule {schedule.id}: {when(schedule)}, keeps "
            f"{keeps(schedule.retention)}; next {shown(schedule.due_at) or 'never, it is paused'}"
        ),
        (
            argument("source", metavar="SOURCE", help="an id, a path, or HOST:PATH"),
            *_timing(),
            *_retention(),
            argument("--paused", action="store_true", help="begin when it is resumed"),
        ),
    ),
    "edit": Doing(
        "schedule",
        _edit,
        lambda schedule, _arguments: (
            f"changed: {when(schedule)}, keeps {keeps(schedule.retention)}"
        ),
        (_SCHEDULE, *_timing(), *_retention()),
    ),
    "pause": Doing(
        "schedule",
        lambda client, arguments: client.schedules.pause(schedule_id(client, arguments.schedule)),
        lambda _schedule, _arguments: "paused; slots that pass meanwhile are not caught up",
        (_SCHEDULE,),
    ),
    "resume": Doing(
        "schedule",
        lambda client, arguments: client.schedules.resume(schedule_id(client, arguments.schedule)),
        lambda schedule, _arguments: f"resumed; next {shown(schedule.due_at)}",
        (_SCHEDULE,),
    ),
    "remove": Doing(
        "schedule",
        lambda client, arguments: client.schedules.remove(schedule_id(client, arguments.schedule)),
        lambda _nothing, _arguments: "removed; its snapshots stay",
        (_SCHEDULE,),
        asks=lambda arguments: f"remove the schedule {arguments.schedule}?",
    ),
    "run": Starting(
        "snapshot",
        lambda client, arguments: client.schedules.run(schedule_id(client, arguments.schedule)),
        lambda client, snapshot, report: client.snapshots.wait(snapshot, report=report),
        snapshot_said,
        (_SCHEDULE,),
    ),
    "preview": Preview(),
    "next": Next(),
}
