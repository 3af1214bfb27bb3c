"""Mistakes that are planted in a server that keeps tasks, which the tests here have to find."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from control_plants import Put

from holdfast.control import task_output, task_parts, task_report
from holdfast.control.database import Tx
from holdfast.control.tables import Snapshot


def output_is_kept_in_memory(put: Put) -> None:
    """Output is said to be heard, and stored only when more of it comes."""
    append = task_output.append
    kept: dict[tuple[str, str], dict[str, Any]] = {}

    def append_later(tx: Tx, task: Any, instance: Any, stream: str, **piece: Any) -> None:
        before = kept.pop((instance.id, stream), None)
        if before is not None:
            append(tx, task, instance, stream, **before)
        kept[instance.id, stream] = piece

    put(task_output, "append", append_later)


def repeated_ends_of_snapshots_count(put: Put) -> None:
    """A snapshot that is reported complete a second time is completed a second time."""
    take = task_report._take_snapshot

    def take_again(tx: Tx, *args: Any, now: datetime) -> None:
        said = args[-1]
        part = tx.get(Snapshot, said["snapshot_id"])
        if part is not None and part.status == "COMPLETED" and said["status"] == "success":
            part.status = "RUNNING"
            tx.flush()
        take(tx, *args, now=now)

    put(task_report, "_take_snapshot", take_again)


def repeated_output_is_added(put: Put) -> None:
    """What a host sends again is put behind what is there."""
    append = task_output.append

    def append_always(tx: Tx, task: Any, instance: Any, stream: str, **piece: Any) -> None:
        known = getattr(instance, f"{stream}_bytes")
        piece["offset"] = max(known, piece["offset"])
        append(tx, task, instance, stream, **piece)

    put(task_output, "append", append_always)


def unfinished_ones_are_left(put: Put) -> None:
    """An instance ends, and what it had not finished waits for ever."""
    put(task_parts, "fail_unfinished", lambda *_, **__: None)
