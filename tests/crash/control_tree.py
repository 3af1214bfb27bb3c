"""A protected directory of which every content that it ever had is known."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

from tree_compare import Entry, describe_tree

_VERSION = "VERSION"


class Tree:
    """A directory that is protected; every content that it ever had is known.

    `versions` are (since when, content), the content as `describe_tree` gives it.
    """

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path, self._chance = path, chance
        self.versions: list[tuple[datetime, dict[bytes, Entry]]] = []
        (path / "sub" / "deep").mkdir(parents=True)
        (path / "same").write_bytes(chance.randbytes(600_000))
        (path / "link").symlink_to("same")
        self.change()

    def change(self) -> None:
        """Another content; to be called while nobody reads."""
        number = len(self.versions)
        (self.path / _VERSION).write_text(f"{number}\n")
        (self.path / "changing").write_bytes(self._chance.randbytes(700_000))
        (self.path / "sub" / "deep" / f"small-{number}").write_bytes(
            self._chance.randbytes(self._chance.randrange(1, 9000))
        )
        self.versions.append((datetime.now(UTC), describe_tree(self.path)))

    def content_at(self, at: datetime) -> dict[bytes, Entry]:
        """What was there at that time."""
        return [content for since, content in self.versions if since <= at][-1]
