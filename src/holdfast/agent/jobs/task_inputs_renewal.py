"""The renewal of a running instance's inputs: what came into its buckets since is copied, too.

It is done beside the attendance, when a wish is later than the one that was done last, and
deletes nothing. Used by one thread. Invariants: a wish that was not fulfilled leaves the
notebook as it is, so the next one begins where the last one that was done ended; after a
stop no file comes into the directory any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import Any, Final

from holdfast.agent.jobs.context import JobContext
from holdfast.agent.jobs.side_work import Done, SideWork
from holdfast.agent.jobs.task_captures import moment
from holdfast.agent.jobs.task_inputs import Fetched, fetch_inputs
from holdfast.agent.jobs.task_notebook import Notebook
from holdfast.agent.jobs.task_spec import TaskSpec
from holdfast.errors import HoldfastError
from holdfast.model.finding import Finding

_STOP_SECONDS: Final = 5.0


class InputsRenewal:
    """One instance's. `aside` is where files lie until they are whole; `find` tells a finding."""

    def __init__(
        self,
        context: JobContext,
        spec: TaskSpec,
        notebook: Notebook,
        directory: bytes,
        *,
        aside: bytes,
        find: Callable[[Finding], None],
    ) -> None:
        self._context, self._spec, self._notebook, self._find = context, spec, notebook, find
        self._aside = aside
        self._copying: SideWork[bytes] = SideWork("inputs", lambda: nullcontext(directory))
        self._tried: datetime | None = notebook.inputs_at

    @property
    def is_busy(self) -> bool:
        return self._copying.is_busy

    def act(self, orders: Mapping[str, Any]) -> None:
        """Tell of what has ended, and begin what is wished for; a wish is tried once."""
        self._copying.poll()
        wish = orders.get("inputs")
        if not wish or self._copying.is_busy or self._copying.is_stopping:
            return
        at, newer_than = moment(wish["renewed_at"]), moment(wish["since"])
        if self._tried is not None and at <= self._tried:
            return
        self._tried = at
        if self._notebook.inputs_at is not None:
            newer_than = max(newer_than, self._notebook.inputs_at)
        self._copying.begin(partial(self._copy, newer_than=newer_than), partial(self._end, at))

    def stop(self, *, wait_seconds: float = _STOP_SECONDS) -> None:
        """Leave off what is under way; what had ended before is still told."""
        self._copying.stop(wait_seconds=wait_seconds)
        self._copying.poll()

    def _copy(self, directory: bytes, *, newer_than: datetime) -> Fetched:
        return fetch_inputs(
            self._context,
            self._spec.inputs,
            directory,
            aside=self._aside,
            check=self._check,
            newer_than=newer_than,
        )

    def _check(self) -> None:
        if self._copying.is_stopping:
            # No error of the tree: those would be told.
            raise KeyboardInterrupt

    def _end(self, at: datetime, done: Done) -> None:
        if isinstance(done.error, KeyboardInterrupt):
            self._context.say("info", "The renewal of the inputs was left off: the task ends.")
        elif done.error is not None:
            message = f"{_why(done.error)} Ask for it again when that is settled."
            self._find(Finding("inputs_not_renewed", message, at.isoformat()))
            self._context.say("warning", f"The inputs were not renewed: {message}")
        else:
            fetched: Fetched = done.value
            self._notebook.inputs_at = at
            self._notebook.save()
            for finding in fetched.findings:
                self._find(finding)
            self._context.say(
                "info",
                f"Renewed the inputs: {fetched.objects} objects, {fetched.copied_bytes} bytes.",
            )


def _why(error: BaseException) -> str:
    if isinstance(error, HoldfastError):
        return error.message
    if isinstance(error, OSError):
        return f"The directory of the task cannot be written: {error.strerror}."
    return f"Unexpected {type(error).__name__}: {error}."
