"""Grouping: restore points that a retention policy looks at together.

The meaning is that of restic's ``--group-by``: points are in one group when they agree in
everything that is grouped by; the order of paths and of tags does not matter. Every point
is in exactly one group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.errors import UsageError
from holdfast.model.retention import RestorePoint

_FIELDS = {
    "host": "host",
    "hosts": "host",
    "path": "paths",
    "paths": "paths",
    "tag": "tags",
    "tags": "tags",
}


@dataclass(frozen=True, slots=True)
class GroupBy:
    """What points must agree in to be one group; with nothing set there is a single group."""

    host: bool = True
    paths: bool = True
    tags: bool = False

    @classmethod
    def parse(cls, text: str) -> GroupBy:
        """Read ``host,paths,tags`` or a part of it; an empty text groups by nothing."""
        chosen = set()
        for word in text.split(","):
            name = word.strip()
            if not name:
                continue
            if name not in _FIELDS:
                raise UsageError(
                    f"cannot group by {name!r}; give host, paths and tags, separated by commas"
                )
            chosen.add(_FIELDS[name])
        return cls(host="host" in chosen, paths="paths" in chosen, tags="tags" in chosen)

    def __str__(self) -> str:
        return ",".join(name for name in ("host", "paths", "tags") if getattr(self, name))


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """What the points of a group have in common; empty where it is not grouped by."""

    host: str = ""
    paths: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.host:
            parts.append(f"host {self.host}")
        if self.paths:
            parts.append(f"paths {', '.join(self.paths)}")
        if self.tags:
            parts.append(f"tags {', '.join(self.tags)}")
        return "; ".join(parts) or "all"


def group(points: Iterable[RestorePoint], by: GroupBy) -> dict[GroupKey, list[RestorePoint]]:
    """Divide points into groups, in the order of their keys; points keep their order."""
    groups: dict[GroupKey, list[RestorePoint]] = {}
    for point in points:
        key = GroupKey(
            host=point.host if by.host else "",
            paths=tuple(sorted(point.paths)) if by.paths else (),
            tags=tuple(sorted(point.tags)) if by.tags else (),
        )
        groups.setdefault(key, []).append(point)
    return {key: groups[key] for key in sorted(groups)}
