"""Reports of ended jobs that the control plane has not acknowledged yet, kept on disk.

A report is written and synced before it is first sent, and removed when the answer came or
when it can count no more. So a restarted agent tells what its predecessor had finished.
Invariant: one file for each attempt, whole or not there. Never holds a credential.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from holdfast.agent.credential import sync_directory, write_private
from holdfast.errors import UsageError

_NAME = re.compile(r"([A-Za-z0-9_-]{1,100})\.json")


@dataclass(frozen=True, slots=True)
class Report:
    """How a job's attempt ended; `body` is what is sent."""

    job_id: str
    attempt: int
    body: dict[str, Any]


class Spool:
    """A directory of reports. Each is used by one thread at a time."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def put(self, job_id: str, body: Mapping[str, Any]) -> Report:
        """Keep a report; returns when it would survive a loss of power."""
        report = Report(job_id, int(body["attempt"]), dict(body))
        document = {"job_id": job_id, "body": report.body}
        write_private(self._path(report), orjson.dumps(document))
        return report

    def remove(self, report: Report) -> None:
        """The report is settled; removing it twice is no error."""
        try:
            os.unlink(self._path(report))
        except FileNotFoundError:
            return
        sync_directory(self._directory)

    def reports(self) -> list[Report]:
        """Everything that is kept; a file that is not whole, or not ours, is passed over."""
        found = []
        for name in sorted(os.listdir(self._directory)):
            if _NAME.fullmatch(name) is None:
                continue
            try:
                with open(os.path.join(self._directory, name), "rb") as opened:
                    document = orjson.loads(opened.read())
                body = dict(document["body"])
                found.append(Report(str(document["job_id"]), int(body["attempt"]), body))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def _path(self, report: Report) -> str:
        name = f"{report.job_id}-{report.attempt}.json"
        if _NAME.fullmatch(name) is None:
            raise UsageError(f"The server calls a job {report.job_id!r}, which is no id.")
        return os.path.join(self._directory, name)
