"""Output: what the commands of a task wrote, kept in pieces and read whole or since last time.

It is customers' data, so reading it takes the right to restore. Invariants: of each
instance and stream there are the bytes from the first one on without a gap, up to a limit;
a piece that is sent again adds nothing. Pieces of one task are added under its lock, so
that whoever reads on from the last piece misses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from holdfast.control import tasks
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, Right
from holdfast.control.tables import Task, TaskInstance, TaskOutput, TaskOutputRead
from holdfast.control.task_state import note
from holdfast.errors import NotFound, UsageError
from holdfast.model.finding import Finding

STREAMS: Final = ("stdout", "stderr")
LIMIT_BYTES: Final = 64 * 1024 * 1024
"""What is kept of one stream of one instance."""

PAGE_BYTES: Final = 1024 * 1024
_ROWS_AT_ONCE: Final = 64
_NEW_BYTES: Final = 16 * 1024 * 1024
_WHOLE_TASK: Final = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """What one instance wrote at a stretch, or a part of that; `offset` is where it begins."""

    instance_id: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputPage:
    """Some output, in the order in which it came; the next page begins after `last_id`."""

    pieces: tuple[Piece, ...]
    last_id: int

    @property
    def data(self) -> bytes:
        """What all of them wrote, one after the other."""
        return b"".join(each.data for each in self.pieces)


def append(
    tx: Tx, task: Task, instance: TaskInstance, stream: str, *, offset: int, data: bytes
) -> None:
    """Add what begins at the known end of the stream; the task is locked.

    What is there already is left out. What would leave a gap is not taken: whoever sends it
    is told where the end is, and sends from there.
    """
    if stream not in STREAMS:
        raise UsageError(f"There is no stream {stream[:20]!r}; there are stdout and stderr.")
    column = f"{stream}_bytes"
    end: int = getattr(instance, column)
    if not offset <= end < offset + len(data):
        return
    room = LIMIT_BYTES - end
    added = data[end - offset :][:room]
    if added:
        tx.add(
            TaskOutput(
                task_id=task.id,
                instance_id=instance.id,
                stream=stream,
                offset_bytes=end,
                data=added,
            )
        )
        setattr(instance, column, end + len(added))
        tx.flush()
    if len(data) - (end - offset) > room:
        message = (
            f"Instance {instance.number} has written more than {LIMIT_BYTES:,} bytes to {stream}; "
            "what came after them is not kept. Write what is long to a file."
        )
        note(task, Finding("output_cut", message, f"{instance.number}/{stream}"))


def read(
    tx: Tx,
    who: Principal,
    task_id: str,
    stream: str,
    *,
    number: int | None = None,
    after_id: int = 0,
    limit_bytes: int = PAGE_BYTES,
) -> OutputPage:
    """What comes after a piece: of all instances as it arrived, or of one.

    At least one piece, where there is any, and then no more than `limit_bytes`.
    """
    who.require(Right.RESTORE)
    task = tasks.look(tx, who, task_id)
    instance_id = _instance_id(tx, task, stream, number)
    return _page(tx, task.id, instance_id, stream, after_id=after_id, limit_bytes=limit_bytes)


def read_new(
    tx: Tx, who: Principal, task_id: str, stream: str, *, number: int | None = None
) -> OutputPage:
    """What was written since the last call of this for the same task, stream and instance.

    Who calls does not matter: there is one place up to which it was read.
    """
    who.require(Right.RESTORE)
    task = tasks.look(tx, who, task_id)
    instance_id = _instance_id(tx, task, stream, number)
    # Two readers at once must not both get the same piece.
    tx.execute(select(Task.id).where(Task.id == task.id).with_for_update(key_share=True)).all()
    key = (task.id, stream, _WHOLE_TASK if number is None else number)
    row = tx.get(TaskOutputRead, key, populate_existing=True)
    if row is None:
        row = TaskOutputRead(task_id=key[0], stream=key[1], number=key[2], after_id=0)
        tx.add(row)
    page = _page(tx, task.id, instance_id, stream, after_id=row.after_id, limit_bytes=_NEW_BYTES)
    row.after_id = page.last_id
    return page


def whole(
    tx: Tx, who: Principal, task_id: str, stream: str, *, number: int | None = None
) -> Iterator[bytes]:
    """All that there is so far, in pieces; checks before it gives the first one."""
    who.require(Right.RESTORE)
    task = tasks.look(tx, who, task_id)
    instance_id = _instance_id(tx, task, stream, number)
    return _pages(tx, task.id, instance_id, stream)


def known_ends(instance: TaskInstance) -> dict[str, int]:
    """Up to where each stream of an instance is known here; beyond the limit no end is."""
    return {"stdout": instance.stdout_bytes, "stderr": instance.stderr_bytes}


def _pages(tx: Tx, task_id: str, instance_id: str | None, stream: str) -> Iterator[bytes]:
    after_id = 0
    while True:
        page = _page(tx, task_id, instance_id, stream, after_id=after_id, limit_bytes=PAGE_BYTES)
        if not page.pieces:
            return
        yield page.data
        after_id = page.last_id


def _page(
    tx: Tx,
    task_id: str,
    instance_id: str | None,
    stream: str,
    *,
    after_id: int,
    limit_bytes: int,
) -> OutputPage:
    pieces: list[Piece] = []
    size, last_id = 0, after_id
    while size < limit_bytes:
        found = select(
            TaskOutput.id, TaskOutput.instance_id, TaskOutput.offset_bytes, TaskOutput.data
        ).where(TaskOutput.task_id == task_id, TaskOutput.stream == stream, TaskOutput.id > last_id)
        if instance_id is not None:
            found = found.where(TaskOutput.instance_id == instance_id)
        rows = tx.execute(found.order_by(TaskOutput.id).limit(_ROWS_AT_ONCE)).all()
        for row_id, writer_id, offset, data in rows:
            if pieces and size + len(data) > limit_bytes:
                return OutputPage(tuple(pieces), last_id)
            pieces.append(Piece(writer_id, offset, data))
            size += len(data)
            last_id = row_id
        if len(rows) < _ROWS_AT_ONCE:
            break
    return OutputPage(tuple(pieces), last_id)


def _instance_id(tx: Tx, task: Task, stream: str, number: int | None) -> str | None:
    if stream not in STREAMS:
        raise UsageError(f"There is no stream {stream[:20]!r}; there are stdout and stderr.")
    if number is None:
        return None
    found = None
    if 0 <= number < task.instance_count:
        found = tx.scalar(
            select(TaskInstance.id).where(
                TaskInstance.task_id == task.id, TaskInstance.number == number
            )
        )
    if found is None:
        raise NotFound(
            f"The task has no instance {number}; its instances are 0 to {task.instance_count - 1}."
        )
    return found
