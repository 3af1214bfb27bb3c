"""A small directory that changes as the directories of people do, by chance and reproducibly.

Every change leaves a new modification time that no file had before, so that a backup which
compares times has a fair chance however fast the changes follow one another.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

_FIRST_TIME_NS = 1_600_000_000 * 10**9
_STEP_NS = 1_000_000_007


class EvolvingTree:
    """The directory `root`, filled where it is empty; `ticks` counts the times given out."""

    def __init__(self, root: Path, chance: random.Random, ticks: int = 0) -> None:
        self.root, self._chance, self._ticks = root, chance, ticks
        # Contents that come again, as copies do, and under other names.
        self._contents: list[bytes] = [b"", b"the same few words\n" * 40]
        root.mkdir(exist_ok=True)
        if not os.listdir(root):
            (root / "deep/er/still").mkdir(parents=True)
            for number in range(4):
                self._create(number)

    def evolve(self, changes: int) -> None:
        """Make so many changes."""
        acts: list[Callable[[int], object]] = [
            *(self._create, self._create, self._modify, self._modify, self._append),
            *(self._delete, self._rename, self._link, self._symlink, self._sparse),
            *(self._duplicate, self._directory, self._mode, self._attribute),
        ]
        for _ in range(changes):
            self._ticks += 1
            self._chance.choice(acts)(self._ticks)

    def _files(self) -> list[Path]:
        return sorted(p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink())

    def _a_file(self, number: int) -> Path:
        files = self._files()
        return self._chance.choice(files) if files else self._create(number)

    def _a_directory(self) -> Path:
        found = sorted(p for p in self.root.rglob("*") if p.is_dir() and not p.is_symlink())
        return self._chance.choice([self.root, *found])

    def _fresh(self, number: int) -> Path:
        return self._a_directory() / f"{self._chance.choice('abcxyz')}-{number}"

    def _some_bytes(self) -> bytes:
        chance = self._chance
        kind = chance.randrange(12)
        if kind == 0:
            return chance.randbytes(chance.randrange(700_000, 1_600_000))  # several chunks
        if kind < 4:
            return chance.choice(self._contents)
        if kind < 7:
            return b"line of text %d\n" % chance.randrange(100) * chance.randrange(1, 800)
        content = chance.randbytes(chance.randrange(1, 20_000))
        self._contents.append(content)
        return content

    def _touch(self, path: Path, number: int) -> None:
        moment = _FIRST_TIME_NS + (self._ticks * 1000 + number) * _STEP_NS
        os.utime(path, ns=(moment, moment), follow_symlinks=False)

    def _create(self, number: int) -> Path:
        path = self._fresh(number)
        path.write_bytes(self._some_bytes())
        self._touch(path, number)
        return path

    def _modify(self, number: int) -> None:
        path = self._a_file(number)
        content = bytearray(path.read_bytes()) or bytearray(1)
        content[self._chance.randrange(len(content))] ^= 1 + self._chance.randrange(255)
        path.write_bytes(content)
        self._touch(path, number)

    def _append(self, number: int) -> None:
        path = self._a_file(number)
        with path.open("ab") as file:
            file.write(self._chance.randbytes(self._chance.randrange(1, 9000)))
        self._touch(path, number)

    def _delete(self, number: int) -> None:
        self._a_file(number).unlink()

    def _rename(self, number: int) -> None:
        self._a_file(number).rename(self._fresh(number))

    def _link(self, number: int) -> None:
        os.link(self._a_file(number), self._fresh(number))

    def _symlink(self, number: int) -> None:
        path = self._fresh(number)
        path.symlink_to(self._chance.choice(["nowhere", ".", "../up"]))
        self._touch(path, number)

    def _sparse(self, number: int) -> None:
        path = self._fresh(number)
        with path.open("wb") as file:
            file.truncate(self._chance.randrange(1, 2_000_000))
            file.seek(self._chance.randrange(1_000_000))
            file.write(b"after a hole")
        self._touch(path, number)

    def _duplicate(self, number: int) -> None:
        path = self._fresh(number)
        path.write_bytes(self._a_file(number).read_bytes())
        self._touch(path, number)

    def _directory(self, number: int) -> None:
        path = self._fresh(number)
        path.mkdir()
        self._touch(path, number)

    def _mode(self, number: int) -> None:
        self._a_file(number).chmod(self._chance.choice([0o600, 0o644, 0o755, 0o4711]))

    def _attribute(self, number: int) -> None:
        os.setxattr(self._a_file(number), "user.note", str(number).encode())
