"""A snapshot record: the small document that makes a tree in the repository a restore point.

The fields are those of restic's snapshot files; unknown ones are kept when it is rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

COPY_NOTE: Final = "holdfast_copy"
"""The member of a record in which a job that copied it says so; other programs pass it over."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One restore point.

    `id` and `tree` are hexadecimal; `time` is aware; `document` is the whole record as
    stored, so that nothing another program put there is lost.
    """

    id: str
    time: datetime
    tree: str
    paths: tuple[str, ...]
    hostname: str = ""
    username: str = ""
    tags: tuple[str, ...] = ()
    parent: str | None = None
    original: str | None = None
    program_version: str = ""
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def short_id(self) -> str:
        """The first eight digits, as people are shown it."""
        return self.id[:8]

    @property
    def summary(self) -> dict[str, Any]:
        """Counters of the run that made it; empty where the writer left none."""
        summary = self.document.get("summary")
        return summary if isinstance(summary, dict) else {}

    @property
    def copy_note(self) -> dict[str, Any]:
        """What the job that copied it here noted; empty where it was not copied by one.

        ``job`` is the job's id, ``stored_bytes`` and ``bytes_read`` are what that took.
        """
        note = self.document.get(COPY_NOTE)
        return note if isinstance(note, dict) else {}
