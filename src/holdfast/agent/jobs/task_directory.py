"""The directory of one instance on its host, and what is noted down in it.

    job/ stdout stderr runner/      the runner's place
    agent/task.json                 which instance this is
    agent/prepared                  everything was copied into job/
    agent/started.json              the runner was asked to start, written before it is
    agent/state.json                what an attempt hands on to the next
    agent/incoming/                 an input that is not whole yet
    agent/reports/                  ends of snapshots that were not heard yet
    agent/finished.json             how it all ended; then the directory may go

Every note is written whole and synced, or not there. Invariant: a note says no more than
what has really happened, so a later attempt may rely on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from holdfast.agent.credential import sync_directory, write_private
from holdfast.errors import UsageError
from holdfast.runners.removal import remove_tree
from holdfast.runners.runner import Place

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose directory it is, and what runs there."""

    job_id: str
    instance_id: str
    task_id: str
    runner: str


class TaskDirectory:
    """One instance's directory; nothing is made until `make`."""

    def __init__(self, above: str, instance_id: str) -> None:
        """`above` is the host's directory for tasks, an absolute path."""
        if _NAME.fullmatch(instance_id) is None:
            raise UsageError(f"The server calls an instance {instance_id!r}, which is no id.")
        self.place = Place(Path(os.path.abspath(above)) / instance_id)
        self._notes = self.place.root / "agent"
        self.within = os.path.join(
            os.path.realpath(os.fsencode(above)), os.fsencode(instance_id), b"job"
        )
        """Where the job's directory really is: a link in its stead leads to no other one."""

    @property
    def incoming(self) -> bytes:
        """Where an input lies until it is whole: on the file system of the job's directory."""
        return os.fsencode(self._notes / "incoming")

    def make(self, identity: Identity) -> None:
        """Make it, empty but for the notes; what a preparation before has left is removed."""
        if self.place.job.exists():
            remove_tree(self.place.job)
        self.place.make()
        self._notes.mkdir(mode=0o700, exist_ok=True)
        (self._notes / "reports").mkdir(mode=0o700, exist_ok=True)
        self._write(
            "task.json",
            {
                "job_id": identity.job_id,
                "instance_id": identity.instance_id,
                "task_id": identity.task_id,
                "runner": identity.runner,
            },
        )

    def identity(self) -> Identity | None:
        """Whose it is, or None where it was never made whole."""
        found = self._read("task.json")
        try:
            return None if found is None else Identity(**{k: str(v) for k, v in found.items()})
        except TypeError:
            return None

    @property
    def is_prepared(self) -> bool:
        return self._read("prepared") is not None

    def set_prepared(self) -> None:
        self._write("prepared", {})

    @property
    def started_at(self) -> datetime | None:
        """When the runner was first asked to start, or None."""
        found = self._read("started.json")
        return None if found is None else datetime.fromisoformat(str(found["at"]))

    def set_started(self, now: datetime) -> None:
        self._write("started.json", {"at": now.isoformat()})

    def state(self) -> dict[str, Any]:
        return self._read("state.json") or {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._write("state.json", state)

    def finished(self) -> dict[str, Any] | None:
        """What the job reported at its end, or None while it has not."""
        return self._read("finished.json")

    def set_finished(self, document: Mapping[str, Any]) -> None:
        self._write("finished.json", document)

    @property
    def finished_at(self) -> datetime | None:
        """When the end was noted."""
        try:
            changed = (self._notes / "finished.json").stat().st_mtime
        except OSError:
            return None
        return datetime.fromtimestamp(changed, UTC)

    # Reports that were not heard yet

    def keep_report(self, snapshot_id: str, message: Mapping[str, Any]) -> None:
        """Returns when it would survive a loss of power."""
        if _NAME.fullmatch(snapshot_id) is None:
            raise UsageError(f"The server calls a snapshot {snapshot_id!r}, which is no id.")
        self._write(f"reports/{snapshot_id}.json", message)

    def drop_report(self, snapshot_id: str) -> None:
        path = self._notes / "reports" / f"{snapshot_id}.json"
        if path.exists():
            path.unlink()
            sync_directory(str(path.parent))

    def reports(self) -> dict[str, dict[str, Any]]:
        """Everything that is kept, by the snapshot's id."""
        try:
            names = sorted(os.listdir(self._notes / "reports"))
        except FileNotFoundError:
            return {}
        found = {name: self._read(f"reports/{name}") for name in names if name.endswith(".json")}
        return {name[:-5]: document for name, document in found.items() if document is not None}

    # Notes

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        write_private(str(self._notes / name), orjson.dumps(document))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            document = orjson.loads((self._notes / name).read_bytes())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def task_directories(above: str) -> Iterator[TaskDirectory]:
    """Those that a host has, whatever their state."""
    try:
        names = sorted(os.listdir(above))
    except FileNotFoundError:
        return
    for name in names:
        if _NAME.fullmatch(name) and os.path.isdir(os.path.join(above, name)):
            yield TaskDirectory(above, name)
