"""A finding: something a person should know about a result that is otherwise usable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on a result.

    `code` is a stable word for programs (such as ``file_torn``), `message` one sentence
    for people, `subject` what it is about: a path, a pack, a snapshot.
    """

    code: str
    message: str
    subject: str = ""

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "subject": self.subject}
