"""Room on a host: for how many jobs there is place, and for how many tasks.

Tasks run for hours and mostly wait, so they take no place from backups. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TASK_KIND: Final = "task"
"""The kind of the jobs that are tasks."""


@dataclass(frozen=True, slots=True)
class Room:
    """Places; false where there is none at all."""

    jobs: int
    tasks: int

    def __bool__(self) -> bool:
        return self.jobs > 0 or self.tasks > 0

    def left_by(self, kinds: Iterable[str]) -> Room:
        """What is left of this room where jobs of these kinds run."""
        jobs, tasks = self.jobs, self.tasks
        for kind in kinds:
            if kind == TASK_KIND:
                tasks -= 1
            else:
                jobs -= 1
        return Room(max(0, jobs), max(0, tasks))

    def lacks_some(self, whole: Room) -> bool:
        """Whether a kind has no place now that would have some in an idle host."""
        return (not self.jobs and whole.jobs > 0) or (not self.tasks and whole.tasks > 0)

    def as_dict(self) -> dict[str, int]:
        return {"jobs": self.jobs, "tasks": self.tasks}
