"""One case of a crash: prepare a state, do an act that dies or meets a fault, look at the rest.

The representative history is the one whose every step is struck once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aftermath import assert_all_well
from crash_history import Ground, History
from crash_journal import Promises
from dying import Ending, Trap, apart, forked

from holdfast.errors import StoreError
from holdfast.store.local import LocalStore
from holdfast.store.memory import MemoryStore
from holdfast.store.protocol import ObjectStore

REPRESENTATIVE = (
    *("backup", "copy", "backup", "disk", "elsewhere", "forget", "mark", "backup", "sweep"),
    *("rekey", "interrupted", "reindex", "copy", "merge", "instant"),
)
REPRESENTATIVE_SEED = "3"
"""One with which every act has something to do."""
STRUCK = tuple(n for n, act in enumerate(REPRESENTATIVE) if act != "interrupted")
STRUCK_NAMES = tuple(f"{n}-{REPRESENTATIVE[n]}" for n in STRUCK)


def again(test: str, seed: int) -> None:
    """Print how to run one random case alone; it is shown where the case fails."""
    print(f"again: ./dev test tests/crash -k {test} --crash-seed {seed} --crash-cases 1")


def share_of_cases(share: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test that takes a `seed`: it runs for that share of the random cases."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        test.share_of_cases = share  # type: ignore[attr-defined]
        return test

    return mark


def local_stores(ground: Ground, trap: Trap | None = None) -> tuple[LocalStore, LocalStore]:
    first, second = (LocalStore(str(ground.repository(where)), on_step=trap) for where in range(2))
    return first, second


def _names(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


class Prepared:
    """The representative history up to an act, to be brought back as often as needed.

    It comes back in the same place, because a snapshot says which path it is of.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.act = REPRESENTATIVE[number]
        self.seed = f"{REPRESENTATIVE_SEED}.{number}"
        self.ground = Ground(directory / "ground")
        self._saved = Ground(directory / "saved")
        self.ground.directory.mkdir(parents=True)
        self._failure = directory / "failure"
        apart(lambda: self._live(number), self._failure)
        shutil.copytree(self.ground.directory, self._saved.directory, symlinks=True)

    def _live(self, acts: int) -> None:
        for number, act in enumerate(REPRESENTATIVE[:acts]):
            self.history(local_stores(self.ground), f"{REPRESENTATIVE_SEED}.{number}").act(act)

    def history(
        self,
        stores: tuple[ObjectStore, ObjectStore],
        seed: str = "",
        *,
        may_fail: bool = False,
        before: Callable[[int, str], None] = lambda _number, _name: None,
    ) -> History:
        return History(self.ground, stores, seed or self.seed, may_fail=may_fail, before=before)

    def bring_back(self) -> None:
        shutil.rmtree(self.ground.directory)
        shutil.copytree(self._saved.directory, self.ground.directory, symlinks=True)

    def memory_stores(self) -> tuple[MemoryStore, MemoryStore]:
        """The prepared repositories in memory."""
        stores = MemoryStore("main"), MemoryStore("second")
        for where, store in enumerate(stores):
            directory = self._saved.repository(where)
            for path in sorted(directory.rglob("*")):
                if path.is_file():
                    store.create(str(path.relative_to(directory)), path.read_bytes())
        return stores

    def die_at(self, step: int, plant: Callable[[], object] = lambda: None) -> Ending:
        """Do the act in a process that dies at a step; `plant` is called in it first."""
        self.bring_back()
        trap = Trap(step)

        def work() -> None:
            plant()
            history = self.history(
                local_stores(self.ground, trap), before=lambda _number, _name: trap.arm()
            )
            history.act(self.act)

        try:
            return forked(work, self._failure)
        finally:
            trap.close()

    def assert_all_well(self) -> None:
        """Look at what the act has changed; objects that are the same as before are well."""
        apart(lambda: self.assert_all_well_in(local_stores(self.ground)), self._failure)

    def assert_all_well_in(self, stores: tuple[ObjectStore, ObjectStore]) -> None:
        """As `assert_all_well`, for an act on other stores, inside this process."""
        promises = Promises(self.ground.journal)
        changed = []
        for where, store in enumerate(stores):
            names = set()
            with suppress(StoreError):  # a directory that nothing was stored in is not there
                names = {info.key for info in store.list("")}
            if names != _names(self._saved.repository(where)):
                changed.append(where)
            else:
                assert {f"snapshots/{name}" for name in promises.kept(where)} <= names
                gone = {f"snapshots/{name}" for place, name in promises.gone if place == where}
                assert not gone & names, "forgotten snapshots are there again"
        assert_all_well(self.ground, stores, promises, tuple(changed))


def newest_restic() -> str | None:
    """A restic program, if one was named; in CI one has to be."""
    program = os.environ.get("HOLDFAST_RESTIC_NEW")
    if not program and os.environ.get("CI"):
        pytest.fail("HOLDFAST_RESTIC_NEW does not name a restic program")
    return program
