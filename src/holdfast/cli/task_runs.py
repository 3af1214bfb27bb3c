"""A task on the terminal: its output as it comes, waiting for its end, and its snapshots."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli import output, text
from holdfast.cli.choose import task_id
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.runs import error_with
from holdfast.cli.verbs import Argument, declare, document_of, given
from holdfast.errors import Interrupted, NotReady, TaskFailed
from holdfast.model.progress import Progress, Report
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.task_snapshots import TaskSnapshot
    from holdfast.sdk.tasks import Task

_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """``task wait``: stay until it has ended; the exit status says whether it succeeded."""

    subject: Argument

    def configure(self, parser: Parser) -> None:
        declare(parser, (self.subject,))

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            task = client.tasks.wait(task_id(client, arguments.task))
            raise_end(client, task)
        return Outcome(
            document_of("task", task),
            summary=[f"{task.name}: {task.state}"],
            findings=task.findings,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """``task output``: what it has written so far, and with ``--follow`` what it still writes."""

    subject: Argument
    pause: Callable[[float], None] = time.sleep

    def configure(self, parser: Parser) -> None:
        declare(parser, (self.subject,))
        parser.add_argument("--stderr", action="store_true", help="its standard error")
        parser.add_argument("--instance", metavar="N", type=int, help="of this instance alone")
        parser.add_argument("--follow", action="store_true", help="go on until it has ended")

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        stream = "stderr" if arguments.stderr else "stdout"
        sink = output.RawOutput()
        with invocation.client() as client:
            chosen = task_id(client, arguments.task)
            for piece in self._pieces(client, chosen, stream, arguments):
                sink.write(piece)
                sink.flush()
        return Outcome(raw=True)

    def _pieces(
        self, client: Client, task: str, stream: str, arguments: Namespace
    ) -> Iterator[bytes]:
        after = 0
        while True:
            # Asked before the output: what comes between the two is then still printed.
            ended = not arguments.follow or client.tasks.get(task).has_ended
            for piece in client.tasks.output(
                task, stream, instance=arguments.instance, after=after
            ):
                after = piece.last
                yield piece.data
            if ended:
                return
            self.pause(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Taking:
    """``task snapshot``: take one now, and with ``--wait`` say what came of it."""

    subject: Argument
    place: tuple[Argument, ...]

    def configure(self, parser: Parser) -> None:
        declare(parser, (self.subject, *self.place))
        parser.add_argument(
            "--label", metavar="LABEL", default="", help="a few words to know it by"
        )
        parser.add_argument(
            "--notes", metavar="TEXT", default="", help="what is to be known about it"
        )
        parser.add_argument("--wait", action="store_true", help="stay until it is complete")

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            found = client.task_snapshots.create(
                task_id(client, arguments.task),
                **place(arguments),
                label=arguments.label,
                notes=arguments.notes,
            )
            if arguments.wait:
                found = client.task_snapshots.wait(found.id, report=_shown(invocation.progress))
                invocation.progress.clear()
                _raise_failure(found)
        return Outcome(
            document_of("task-snapshot", found),
            summary=[snapshot_said(found)],
            findings=found.findings if arguments.wait else (),
        )


def place(arguments: Namespace) -> dict[str, object]:
    """The filters that were given, and where a snapshot is to be seen."""
    return given(
        whitelist=arguments.whitelist,
        blacklist=arguments.blacklist,
        bucket=arguments.bucket,
        bucket_prefix=arguments.bucket_prefix,
    )


def seen_in(snapshot: TaskSnapshot) -> str:
    """The directory in which it is seen, if there is one."""
    return f"{snapshot.bucket}/{snapshot.directory}" if snapshot.bucket else ""


def snapshot_said(snapshot: TaskSnapshot) -> str:
    where = f" in {seen_in(snapshot)}" if snapshot.bucket else ""
    if snapshot.status != "success":
        return (
            f"snapshot {snapshot.id}{where} is {snapshot.status}; `task-snapshot show` follows it"
        )
    files = text.count(sum(each.files or 0 for each in snapshot.parts), "file")
    size = print_bytes(sum(each.logical_bytes or 0 for each in snapshot.parts))
    stored = print_bytes(sum(each.stored_bytes or 0 for each in snapshot.parts))
    return f"snapshot {snapshot.id}{where}: {files}, {size}, of which {stored} were stored anew"


def _shown(report: Report) -> Callable[[TaskSnapshot], None]:
    return lambda snapshot: report(
        Progress("snapshot", bytes_done=snapshot.bytes_done, bytes_total=snapshot.bytes_total)
    )


def _raise_failure(snapshot: TaskSnapshot) -> None:
    """Raise what made a snapshot fail, as the error that it was."""
    if snapshot.status == "success":
        return
    failed = [each for each in snapshot.parts if each.error_message]
    if failed:
        raise error_with(failed[0].error_code, str(failed[0].error_message))
    raise NotReady(
        "; ".join(each.message for each in snapshot.findings)
        or f"The snapshot {snapshot.id} is {snapshot.status}."
    )


def raise_end(client: Client, task: Task) -> None:
    """Raise what a task came to unless that is success."""
    if task.state == "Success":
        return
    if task.state == "Cancelled":
        raise Interrupted(f"the task {task.name} was cancelled")
    failed = [each for each in client.tasks.instances(task.id) if each.error_message]
    what = "; ".join(
        f"instance {each.number}: {each.error_message}"
        if task.instance_count > 1
        else str(each.error_message)
        for each in failed
    )
    raise TaskFailed(f"The task {task.name} has failed" + (f": {what}" if what else "."))
