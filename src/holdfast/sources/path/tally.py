"""A tally of findings: the first few of each code one by one, the rest as a number.

A restore without root rights would otherwise report each of a million files. Nothing is
dropped: what is not listed is counted. A tally can be pickled and merged, so that worker
processes hand theirs to the parent. It is not for use by several threads at once.
"""

from __future__ import annotations

from holdfast.model.finding import Finding


def printable(path: bytes) -> str:
    """A path for messages: always valid Unicode, bytes that are not UTF-8 as ``\\xff``."""
    return path.decode("utf-8", "backslashreplace")


class FindingTally:
    """Findings grouped by code; at most `limit` of each code are listed singly."""

    def __init__(self, limit: int = 20) -> None:
        self.limit = limit
        self._listed: dict[str, list[Finding]] = {}
        self._counts: dict[str, int] = {}

    def add(self, code: str, message: str, subject: bytes | str = "") -> None:
        """Count one finding, and list it unless there are enough of its code."""
        count = self._counts.get(code, 0)
        self._counts[code] = count + 1
        if count < self.limit:
            name = printable(subject) if isinstance(subject, bytes) else subject
            self._listed.setdefault(code, []).append(Finding(code, message, name))

    def add_finding(self, finding: Finding) -> None:
        self.add(finding.code, finding.message, finding.subject)

    def merge(self, other: FindingTally) -> None:
        """Take over what another tally, usually a worker's, has counted."""
        for code, count in other._counts.items():
            room = max(0, self.limit - self._counts.get(code, 0))
            self._listed.setdefault(code, []).extend(other._listed.get(code, [])[:room])
            self._counts[code] = self._counts.get(code, 0) + count

    def count(self, code: str) -> int:
        return self._counts.get(code, 0)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def findings(self) -> tuple[Finding, ...]:
        """What to report: the listed ones, then one line per code for the rest."""
        report: list[Finding] = []
        for code, listed in self._listed.items():
            report.extend(listed)
            rest = self._counts[code] - len(listed)
            if rest > 0:
                report.append(Finding(code, f"the same is true of {rest} more entries", ""))
        return tuple(report)
