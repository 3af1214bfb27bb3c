"""Previews: what a pair of filters would take of an instance's directory now.

It looks with the same eyes as a capture, beside it, and changes nothing. Each one that is
asked for is answered once in an attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

from holdfast.agent.jobs.side_work import Done, SideWork
from holdfast.agent.jobs.task_spec import Filters
from holdfast.agent.mailbox import Mailbox
from holdfast.errors import HoldfastError
from holdfast.flows.task_listing import preview
from holdfast.sources.path.selection import Selection

_MOST_ENTRIES: Final = 10_000
_MOST_BYTES: Final = 256 << 10
_ENTRY_BYTES: Final = 40
"""Beside a path; the whole answer has to fit into one message, each byte perhaps escaped."""


class TaskPreviews:
    """Those of one instance. Used by one thread."""

    def __init__(self, mailbox: Mailbox, directory: bytes, *, within: bytes = b"") -> None:
        """`within` is where the directory must lie, as the kernel names it."""
        self._mailbox, self._within = mailbox, within
        self._looking: SideWork[bytes] = SideWork("previews", lambda: nullcontext(directory))
        self._begun: set[str] = set()

    def act(self, orders: Mapping[str, Any]) -> None:
        """Answer what has been looked at, and look at what is asked for."""
        self._looking.poll()
        for each in orders.get("previews") or ():
            preview_id = str(each["preview_id"])
            if self._looking.is_busy or preview_id in self._begun:
                continue
            self._begun.add(preview_id)
            limit = max(0, min(int(each.get("entries_wanted") or 0), _MOST_ENTRIES))
            act = partial(_answer, filters=Filters.of(each), within=self._within, limit=limit)
            self._looking.begin(act, partial(self._say, preview_id))

    def _say(self, preview_id: str, done: Done) -> None:
        answer = done.value if done.error is None else {"error": _error(done.error)}
        self._mailbox.send({"type": "preview", "preview_id": preview_id, "answer": answer})


def _answer(directory: bytes, *, filters: Filters, within: bytes, limit: int) -> dict[str, Any]:
    selection = Selection(
        whitelist=_patterns(filters.whitelist), blacklist=_patterns(filters.blacklist)
    )
    selection.check()
    found = preview(directory, selection, within=within, limit=limit)
    entries: list[dict[str, Any]] = []
    room = _MOST_BYTES
    for path, size in found.entries:
        room -= len(path) + _ENTRY_BYTES
        if room < 0:
            break
        entries.append({"path": path.decode("utf-8", "backslashreplace"), "bytes": size})
    return {
        "files": found.files,
        "bytes": found.logical_bytes,
        "entries": entries,
        "cut": found.cut or len(entries) < len(found.entries),
    }


def _patterns(text: str | None) -> tuple[str, ...]:
    return (text,) if text else ()


def _error(error: BaseException) -> dict[str, str]:
    if isinstance(error, HoldfastError):
        return {"code": error.code, "message": error.message}
    return {"code": "unexpected", "message": f"unexpected {type(error).__name__}: {error}"}
