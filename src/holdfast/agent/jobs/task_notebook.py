"""What one attempt at a task hands on to the next, and the reports that must not be lost.

The end of a snapshot is on disk before it is told, and stays there until it was heard; an
attempt that finds such reports tells them again. Used by one thread. Invariant: after a kill
at any moment the next attempt knows of every snapshot that was reported, of the one that was
being taken, and from where on output was not heard; where a note could not be written,
`trouble` says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from holdfast.agent.jobs.task_captures import PERIODIC, WantedCapture, moment
from holdfast.agent.jobs.task_directory import TaskDirectory
from holdfast.agent.jobs.task_spec import Filters
from holdfast.agent.mailbox import Mailbox
from holdfast.model.finding import Finding

_SAVE_SECONDS: Final = 2.0
_MOST_DONE: Final = 1000


class Notebook:
    """The state of one instance, kept in its directory."""

    def __init__(
        self,
        directory: TaskDirectory,
        mailbox: Mailbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._mailbox, self._clock = directory, mailbox, clock
        state = directory.state()
        self.heard: dict[str, int] = {k: int(v) for k, v in (state.get("heard") or {}).items()}
        self.last_slot = None if state.get("last_slot") is None else moment(state["last_slot"])
        self.done: list[str] = [str(each) for each in state.get("done") or ()]
        self.ending = str(state.get("ending") or "")
        self.inputs_at = None if state.get("inputs_at") is None else moment(state["inputs_at"])
        """The wish to renew the inputs that was done last."""
        self.frozen_seconds = float(state.get("frozen_seconds") or 0.0)
        self.snapshots_taken = int(state.get("snapshots_taken") or 0)
        self._under_way: dict[str, Any] | None = state.get("under_way")
        self._saved = self._document()
        self._saved_at = self._clock()
        self._untold: dict[str, int] = {}
        self.trouble: Finding | None = None

    def tell_again(self) -> None:
        """Tell what an attempt before this one could not get heard."""
        for snapshot_id, message in self._directory.reports().items():
            self._untold[snapshot_id] = self._mailbox.send(message)
            if snapshot_id not in self.done:
                self.done.append(snapshot_id)
            if self._under_way is not None and self._under_way["snapshot_id"] == snapshot_id:
                self._under_way = None

    def begins(self, wanted: WantedCapture) -> None:
        """A snapshot is about to be taken."""
        self._under_way = {
            "task_snapshot_id": wanted.task_snapshot_id,
            "snapshot_id": wanted.snapshot_id,
            "trigger": wanted.trigger,
            "triggered_at": wanted.triggered_at.isoformat(),
            "slot_at": None if wanted.slot_at is None else wanted.slot_at.isoformat(),
            "whitelist": wanted.filters.whitelist,
            "blacklist": wanted.filters.blacklist,
        }
        self.save()

    def under_way(self) -> WantedCapture | None:
        """The snapshot that was being taken when the attempt before ended."""
        found = self._under_way
        if found is None:
            return None
        return WantedCapture(
            task_snapshot_id=found["task_snapshot_id"],
            snapshot_id=found["snapshot_id"],
            trigger=found["trigger"],
            triggered_at=moment(found["triggered_at"]),
            slot_at=moment(found["slot_at"]) if found["trigger"] == PERIODIC else None,
            filters=Filters.of(found),
        )

    def ended(self, wanted: WantedCapture, message: dict[str, Any]) -> None:
        """A snapshot has ended, or was skipped; it is told until it is heard."""
        try:
            self._directory.keep_report(wanted.snapshot_id, message)
        except OSError as error:
            self.trouble = _trouble(error)
        self._untold[wanted.snapshot_id] = self._mailbox.send(message)
        self.done = [*self.done, wanted.snapshot_id][-_MOST_DONE:]
        if self._under_way is not None and self._under_way["snapshot_id"] == wanted.snapshot_id:
            self._under_way = None
        self.save()

    def settle(self) -> None:
        """Drop what was heard, and save what has changed, now and then."""
        for snapshot_id, number in list(self._untold.items()):
            if self._mailbox.is_heard(number):
                self._directory.drop_report(snapshot_id)
                del self._untold[snapshot_id]
        if self._clock() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Save what has changed."""
        document = self._document()
        self._saved_at = self._clock()
        if document == self._saved:
            return
        try:
            self._directory.set_state(document)
        except OSError as error:
            # A disk that the command has filled must not end the attendance of it.
            self.trouble = _trouble(error)
        else:
            self._saved = document

    def _document(self) -> dict[str, Any]:
        last: datetime | None = self.last_slot
        return {
            "heard": dict(self.heard),
            "last_slot": None if last is None else last.isoformat(),
            "done": list(self.done),
            "ending": self.ending,
            "inputs_at": None if self.inputs_at is None else self.inputs_at.isoformat(),
            "frozen_seconds": self.frozen_seconds,
            "snapshots_taken": self.snapshots_taken,
            "under_way": self._under_way,
        }


def _trouble(error: OSError) -> Finding:
    return Finding(
        "notes_not_kept",
        f"the host cannot note down how the task stands: {error.strerror}. Free some space "
        "there; if the agent ends before, the last snapshots may be reported as failed",
    )
