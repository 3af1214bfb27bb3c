"""Writers, a prune and a reader at work in one repository, stopped and killed at random.

Two processes back up and forget, a third one prunes and merges index files, a fourth one
verifies all the while; each of them may be stopped for a moment, or killed. What the reader
sees is whole at every moment, and afterwards nothing that anybody was promised is lost.

Before they start, packs were marked long ago that hold just what the writers are about to
store: the prune deletes them while the writers look for what they need not store again.
"""

from __future__ import annotations

import functools
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aftermath import assert_all_well, assert_restic_agrees, assert_whole
from crash_cases import again, local_stores, newest_restic, share_of_cases
from crash_history import MAIN, Ground, History
from crash_journal import Promises
from dying import Child, apart
from sample_repository import DAY, PASSWORD

from holdfast.flows.forget import ForgetRequest, forget, plan_forget
from holdfast.repo import lock
from holdfast.repo.repository import Repository

pytestmark = pytest.mark.slow
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""
SECONDS = 3.0
LATE_SECONDS = 0.2
SETTLE_SECONDS = 0.02
"""Less time for taking a lock beside others, and so more of it for work at the same time."""
ROUNDS = 3


class Crowd:
    """The processes of one case. Each writer has a ground of its own, but for the repository."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory, self._seed = directory, seed
        self.grounds = [Ground(directory / f"ground-{number}") for number in range(3)]
        self._failure = directory / "failure"
        for ground in self.grounds:
            apart(functools.partial(self._prepare, ground), self._failure)
        self._stop = directory / "stop"

    def _prepare(self, ground: Ground) -> None:
        """Make sources, and what is left of them in the repository: packs marked long ago."""
        ground.directory.mkdir()
        repository = self._directory / "repository"
        repository.mkdir(exist_ok=True)
        ground.repository(MAIN).symlink_to(repository)
        history = self._history(ground, "before", datetime.now(UTC) - 2 * DAY)
        for act in ("backup", "disk"):
            history.act(act)
        opened = Repository.open(local_stores(ground)[MAIN], PASSWORD)
        ids = tuple(snapshot.id for snapshot in opened.snapshots()[0])
        forget(opened, plan_forget(opened, ForgetRequest(ids=ids)))
        history.act("mark_main")
        ground.journal.path.unlink()

    def _history(
        self, ground: Ground, what: str, now: datetime | None = None, workers: int = 0
    ) -> History:
        seed = f"{self._seed}.{ground.directory.name}.{what}"
        return History(ground, local_stores(ground), seed, now=now, workers=workers)

    def write(self, number: int) -> Callable[[], None]:
        def work() -> None:
            chance = random.Random(f"{self._seed} {number}")
            history = self._history(
                self.grounds[number], "at work", workers=chance.choice([0, 0, 2])
            )
            time.sleep(chance.uniform(0, LATE_SECONDS))
            for _ in range(ROUNDS):
                history.act(chance.choice(["backup", "backup", "disk"]))
                if chance.random() < 0.4:
                    history.act("forget_own")

        return work

    def prune(self) -> None:
        history = self._history(self.grounds[2], "prune")
        time.sleep(random.Random(f"late {self._seed}").uniform(0, 2 * LATE_SECONDS))
        for _ in range(ROUNDS):
            history.act("mark_main")
            history.act("merge")

    def verify(self) -> None:
        store = local_stores(self.grounds[0])[MAIN]
        while not self._stop.exists():
            assert_whole(Repository.open(store, PASSWORD))

    def live(self) -> None:
        """Start everybody, disturb them, and wait until those are done who still can be."""
        chance = random.Random(f"crowd {self._seed}")
        works = [self.write(0), self.write(1), self.prune, self.verify]
        *children, reader = (
            Child(functools.partial(self._begin, work), self._directory / f"failure-{number}")
            for number, work in enumerate(works)
        )
        mortal = chance.sample(children, chance.randrange(3))
        endings = []
        end = time.monotonic() + SECONDS
        while children and time.monotonic() < end:
            time.sleep(chance.uniform(0, 0.05))
            victim = chance.choice(children)
            if victim in mortal and chance.random() < 0.1:
                victim.send(signal.SIGKILL)
            elif not victim.ended:
                victim.send(signal.SIGSTOP)
                time.sleep(chance.uniform(0, 0.2))
                victim.send(signal.SIGCONT)
            for child in [child for child in children if child.ended]:
                # At once, because a dead process that nobody took in still looks alive.
                children.remove(child)
                endings.append(child.wait())
        endings.extend(child.wait() for child in children)
        self._stop.touch()
        endings.append(reader.wait())
        failures = [ending.failure for ending in endings if ending.failure]
        assert not failures, "\n".join(failures)

    def _begin(self, work: Callable[[], None]) -> None:
        lock.SETTLE_SECONDS = SETTLE_SECONDS
        work()

    def assert_all_well(self) -> None:
        apart(self._look_and_go_on, self._failure)

    def _look_and_go_on(self) -> None:
        ground = self.grounds[0]
        promises = Promises(*(each.journal for each in self.grounds))
        store = local_stores(ground)[MAIN]
        assert_all_well(ground, (store, store), promises, (MAIN,))


@share_of_cases(0.03)
def test_a_crowd_in_one_repository(directory: Path, seed: int) -> None:
    again("test_a_crowd", seed)
    crowd = Crowd(directory, seed)
    crowd.live()
    crowd.assert_all_well()
    restic = newest_restic() if seed % 5 == 0 else None
    if restic:
        assert_restic_agrees(restic, directory / "repository")
