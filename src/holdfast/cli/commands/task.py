"""``holdfast task ...``: computations on hosts, and snapshots of them as they run."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli import text
from holdfast.cli.choose import host_id, start_id, task_id, task_of
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.task_runs import Output, Taking, Waiting, place, seen_in
from holdfast.cli.verbs import (
    Argument,
    Column,
    Doing,
    Listing,
    argument,
    column,
    declare,
    details,
    given,
    labels,
    shown,
    shown_bytes,
    size,
    table,
)
from holdfast.errors import NotFound, NotReady, UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.tasks import Task

_TASK = argument("task", metavar="TASK", help="an id, a short name, or the newest of a name")
_FILTERS = (
    argument("--whitelist", metavar="REGEX", help="only files whose path below /job it finds"),
    argument("--blacklist", metavar="REGEX", help="none whose path it finds; it wins"),
)
_PLACE = (
    *_FILTERS,
    argument("--bucket", metavar="BUCKET", help="where it is seen (default: the result bucket)"),
    argument("--bucket-prefix", metavar="PREFIX", help="in front of its directory there"),
)
_DETAILS = (
    column("id"),
    column("name"),
    column("short name"),
    column("state"),
    column("since", "state_since"),
    column("profile"),
    Column("constants", lambda task: ", ".join(f"{e.key}={e.value}" for e in task.constants)),
    Column("inputs", lambda task: ", ".join(f"{e.bucket}/{e.prefix}" for e in task.inputs)),
    column("result bucket"),
    column("instances", "instance_count"),
    column("snapshot every", "periodic_seconds"),
    column("starts from"),
    column("tags"),
    column("labels"),
    column("submitted", "created_at"),
    column("started", "started_at"),
    column("ended", "ended_at"),
    Column("findings", lambda task: "; ".join(each.message for each in task.findings)),
)
_INSTANCES = (
    column("instance", "number", right=True),
    column("state"),
    column("host", "host_id"),
    column("runner"),
    column("exit", "exit_code", right=True),
    column("error", "error_message"),
    size("stdout", "stdout_bytes"),
    size("stderr", "stderr_bytes"),
)


def _constants(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"{pair!r} is no constant; write NAME=VALUE")
        found[name] = value
    return found


def _inputs(written: list[str]) -> list[dict[str, str]]:
    found = []
    for each in written:
        bucket, _, prefix = each.partition("/")
        found.append({"bucket": bucket, "prefix": prefix, "strip_prefix": prefix})
    return found


def _submit(client: Client, arguments: Namespace) -> Any:
    constants = _constants(arguments.constant)
    if arguments.command is not None:
        constants["COMMAND"] = arguments.command
    members = given(
        short_name=arguments.short_name,
        result_bucket=arguments.result_bucket,
        instance_count=arguments.instances,
        runs_on=host_id(client, arguments.on) if arguments.on else None,
        snapshot_whitelist=arguments.snapshot_whitelist,
        snapshot_blacklist=arguments.snapshot_blacklist,
        results_whitelist=arguments.results_whitelist,
        results_blacklist=arguments.results_blacklist,
        time_limit_seconds=arguments.time_limit,
        starts_from=start_id(client, arguments.starts_from) if arguments.starts_from else None,
        periodic=None
        if arguments.snapshot_every is None
        else {"seconds": arguments.snapshot_every},
    )
    return client.tasks.submit(
        arguments.name,
        arguments.profile,
        constants,
        inputs=_inputs(arguments.input),
        tags=arguments.tag,
        labels=labels(arguments.label),
        results_on_cancel=arguments.results_on_cancel,
        **members,
    )


_SUBMIT = (
    argument("name", metavar="NAME", help="what to call it"),
    argument("--profile", default="batch", help="how it is run (default: batch)"),
    argument("--command", metavar="COMMAND", help="the constant COMMAND: a line for /bin/sh"),
    argument(
        "--constant",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a constant of the profile, or a variable for the command; given again, more",
    ),
    argument(
        "--input",
        metavar="BUCKET[/PREFIX]",
        action="append",
        default=[],
        help="copied into /job before the command starts; given again, more",
    ),
    argument("--result-bucket", metavar="BUCKET", help="where results and snapshots are seen"),
    argument("--instances", metavar="N", type=int, help="how many of it (default: 1)"),
    argument("--on", metavar="HOST", help="the host (default: one that has room)"),
    argument("--short-name", metavar="NAME", help="a name that no other task has"),
    argument("--snapshot-every", metavar="SECONDS", type=int, help="take snapshots periodically"),
    argument("--snapshot-whitelist", metavar="REGEX", help="what snapshots take only"),
    argument("--snapshot-blacklist", metavar="REGEX", help="what snapshots leave out"),
    argument("--results-whitelist", metavar="REGEX", help="what results take only"),
    argument("--results-blacklist", metavar="REGEX", help="what results leave out"),
    argument("--results-on-cancel", action="store_true", help="keep results also when aborted"),
    argument("--time-limit", metavar="SECONDS", type=int, help="end it after so long"),
    argument("--starts-from", metavar="SNAPSHOT", help="what /job begins with"),
    argument("--tag", metavar="TAG", action="append", default=[], help="given again, more"),
    argument("--label", metavar="KEY=VALUE", action="append", default=[], help="given again, more"),
)


def _periodic(client: Client, arguments: Namespace) -> Any:
    if arguments.stop == (arguments.every is not None):
        raise UsageError("Give --every SECONDS, or --stop.")
    chosen = task_id(client, arguments.task)
    if arguments.stop:
        client.tasks.stop_periodic(chosen)
        return client.tasks.get(chosen)
    return client.tasks.set_periodic(chosen, arguments.every, **place(arguments))


def _periodic_said(task: Task, _arguments: Namespace) -> str:
    if not task.periodic_seconds:
        return f"{task.name} takes no periodic snapshots any more"
    return f"{task.name} takes a snapshot every {task.periodic_seconds} s"


def _restart(client: Client, arguments: Namespace) -> Any:
    task = task_of(client, arguments.task)
    if arguments.start:
        start = start_id(client, arguments.start)
    else:
        complete = client.task_snapshots.list(task.id, status="success")
        newest = next((each for each in complete if not each.is_deleted), None)
        if newest is None:
            raise NotFound(f"{task.name} has no finished snapshot to go on from.")
        start = newest.id
    periodic = None
    if task.periodic_seconds:
        periodic = {**task.periodic_options, "seconds": task.periodic_seconds}
    inputs = [
        {"bucket": each.bucket, "prefix": each.prefix, "strip_prefix": each.strip_prefix}
        for each in task.inputs
        if arguments.inputs
    ]
    members = given(
        result_bucket=task.result_bucket,
        snapshot_whitelist=task.snapshot_whitelist,
        snapshot_blacklist=task.snapshot_blacklist,
        results_whitelist=task.results_whitelist,
        results_blacklist=task.results_blacklist,
        time_limit_seconds=task.time_limit_seconds,
        runs_on=host_id(client, arguments.on) if arguments.on else None,
        periodic=periodic,
    )
    return client.tasks.submit(
        task.name,
        task.profile,
        {each.key: each.value for each in task.constants},
        inputs=inputs,
        instance_count=task.instance_count,
        tags=list(task.tags),
        labels=dict(task.labels),
        results_on_cancel=task.results_on_cancel,
        starts_from=start,
        **members,
    )


class Show:
    """``task show``: the task, and a line for each instance."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_TASK,))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        with invocation.client() as client:
            task = task_of(client, arguments.task)
            instances = list(client.tasks.instances(task.id))
        return Outcome(
            {"task": as_document(task), "instances": [as_document(each) for each in instances]},
            answer=[*details(_DETAILS, task), "", *table(_INSTANCES, instances)],
        )


class Preview:
    """``task preview``: what filters would take of it now."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_TASK, *_FILTERS))
        parser.add_argument(
            "--instance", metavar="N", type=int, default=0, help="which one (default: 0)"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        from holdfast.sdk.record import as_document

        with invocation.client() as client:
            found = client.tasks.preview(
                task_id(client, arguments.task),
                whitelist=arguments.whitelist,
                blacklist=arguments.blacklist,
                instance=arguments.instance,
            )
        answer = found.answer
        if answer is None:
            raise NotReady("The host has not answered yet; is it online? Ask again in a while.")
        if answer.error is not None:
            raise NotReady(str(answer.error.get("message", "The host could not look.")))
        columns = (size("size", "bytes"), column("path"))
        counted = f"{text.count(answer.files, 'file')}, {shown_bytes(answer.bytes)}"
        return Outcome(
            {"preview": as_document(answer)},
            answer=table(columns, answer.entries),
            summary=["", f"{counted}; not all are listed" if answer.cut else counted],
        )


_NAMED: tuple[Argument, ...] = (_TASK,)

VERBS = {
    "submit": Doing(
        "task",
        _submit,
        lambda task, _arguments: f"task {task.id} is {task.state}",
        _SUBMIT,
    ),
    "list": Listing(
        "task",
        lambda client, arguments: client.tasks.list(
            state=arguments.state, tag=arguments.tag, label=arguments.label, search=arguments.search
        ),
        (
            column("state"),
            column("name"),
            column("profile"),
            column("instances", "instance_count", right=True),
            column("submitted", "created_at"),
            column("ended", "ended_at"),
            column("id"),
        ),
        (
            argument("--state", metavar="STATE", default="", help="only those, such as Success"),
            argument("--tag", metavar="TAG", default="", help="only those with this tag"),
            argument("--label", metavar="KEY[=VALUE]", default="", help="only those with it"),
            argument("--search", metavar="TEXT", default="", help="only those with it in a name"),
        ),
    ),
    "show": Show(),
    "wait": Waiting(_TASK),
    "output": Output(_TASK),
    "abort": Doing(
        "task",
        lambda client, arguments: client.tasks.abort(task_id(client, arguments.task)),
        lambda task, _arguments: f"{task.name} is {task.state}",
        _NAMED,
        asks=lambda arguments: f"end the task {arguments.task}?",
    ),
    "renew-inputs": Doing(
        "task",
        lambda client, arguments: client.tasks.renew_inputs(task_id(client, arguments.task)),
        lambda task, _arguments: f"what is new in its inputs is on its way to {task.name}",
        _NAMED,
    ),
    "delete": Doing(
        "task",
        lambda client, arguments: client.tasks.delete(task_id(client, arguments.task)),
        lambda _task, arguments: f"{arguments.task} is removed; its snapshots stay",
        _NAMED,
        asks=lambda arguments: f"remove the task {arguments.task}, ending it if it runs?",
    ),
    "snapshot": Taking(_TASK, _PLACE),
    "periodic": Doing(
        "task",
        _periodic,
        _periodic_said,
        (
            _TASK,
            *_PLACE,
            argument("--every", metavar="SECONDS", type=int, help="how often"),
            argument("--stop", action="store_true", help="take no more"),
        ),
    ),
    "snapshots": Listing(
        "task snapshot",
        lambda client, arguments: client.task_snapshots.list(task_id(client, arguments.task)),
        (
            Column("status", lambda each: "deleted" if each.is_deleted else each.status),
            column("trigger"),
            column("taken", "triggered_at"),
            Column("seen in", seen_in),
            size("size", "bytes_total"),
            column("label"),
            Column("findings", lambda each: shown(len(each.findings) or None), right=True),
            column("id"),
        ),
        _NAMED,
    ),
    "preview": Preview(),
    "restart": Doing(
        "task",
        _restart,
        lambda task, _arguments: f"task {task.id} goes on from {task.starts_from}",
        (
            _TASK,
            argument(
                "--from",
                dest="start",
                metavar="SNAPSHOT",
                help="a snapshot (default: its last finished one)",
            ),
            argument("--on", metavar="HOST", help="the host (default: one that has room)"),
            argument(
                "--inputs",
                action="store_true",
                help="copy its inputs again, over what the snapshot has of them",
            ),
        ),
    ),
    "profiles": Listing(
        "profile",
        lambda client, _arguments: client.tasks.profiles(),
        (
            column("name"),
            column("runs by", "runner"),
            Column("constants", lambda each: ", ".join(c.name for c in each.constants)),
        ),
    ),
}
