"""Waiting for a run with its progress on the screen, and saying how it ended."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.verbs import Argument, declare, document_of
from holdfast.errors import HoldfastError, Interrupted, NotReady
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.sdk.client import Client
    from holdfast.sdk.restores import Restore
    from holdfast.sdk.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class Starting:
    """A command that starts a run, and with ``--wait`` stays until it has ended.

    `wait` waits for it, `said` describes it in one sentence.
    """

    noun: str
    start: Callable[[Client, Namespace], Any]
    wait: Callable[[Client, Any, Any], Any]
    said: Callable[[Any], str]
    arguments: tuple[Argument, ...] = ()

    def configure(self, parser: Parser) -> None:
        declare(parser, self.arguments)
        parser.add_argument("--wait", action="store_true", help="stay until it has ended")

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        with invocation.client() as client:
            started = self.start(client, arguments)
            if arguments.wait:
                started = self.wait(client, started, invocation.progress)
                invocation.progress.clear()
                raise_failure(started)
        return Outcome(
            document_of(self.noun, started),
            summary=[self.said(started)],
            findings=started.findings if arguments.wait else (),
        )


def raise_failure(run: Any) -> None:
    """Raise what made a run fail, as the error that it was."""
    if run.status in ("COMPLETED", "EXPIRED", "DELETED"):
        return
    if run.status == "CANCELLED":
        raise Interrupted("the run was cancelled")
    message = run.error_message or f"the run is {run.status}"
    raise error_with(run.error_code, message)


def error_with(code: str | None, message: str) -> HoldfastError:
    from holdfast.sdk.problem import error_of

    if code is None:
        return NotReady(message)
    return error_of(409, {"code": code, "detail": message})


def snapshot_said(snapshot: Snapshot) -> str:
    if snapshot.status != "COMPLETED":
        return f"snapshot {snapshot.id} is {snapshot.status}; `snapshot show` follows it"
    return (
        f"snapshot {snapshot.id}: {text.count(snapshot.files or 0, 'file')}, "
        f"{print_bytes(snapshot.logical_bytes or 0)}, of which "
        f"{print_bytes(snapshot.stored_bytes or 0)} were stored anew"
    )


def restore_said(restore: Restore) -> str:
    if restore.status != "COMPLETED":
        return f"restore {restore.id} to {restore.target} is {restore.status}"
    return (
        f"{text.count(restore.files or 0, 'file')} ({print_bytes(restore.restored_bytes or 0)}) "
        f"restored to {restore.target}"
    )
