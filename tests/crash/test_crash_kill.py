"""Kill -9 at every step that a local store takes, over a fixed history and random ones."""

from __future__ import annotations

import itertools
import random
import signal
import time
from pathlib import Path

import pytest
from aftermath import assert_all_well, assert_nothing_lost, assert_restic_agrees
from crash_cases import (
    STRUCK,
    STRUCK_NAMES,
    Prepared,
    again,
    local_stores,
    newest_restic,
    share_of_cases,
)
from crash_history import MAIN, SECOND, Ground, History
from crash_journal import Promises
from dying import Child, Trap, apart

pytestmark = pytest.mark.slow
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = (33,)
"""Seeds that have found a mistake."""
ASKED_OF_RESTIC = 25
"""One in so many random cases is shown to plain restic."""
MOST_STEPS_OF_AN_ACT = 70


@pytest.mark.parametrize("number", STRUCK, ids=STRUCK_NAMES)
def test_a_kill_at_every_step(directory: Path, number: int) -> None:
    prepared = Prepared(directory, number)
    survived = 0
    for step in itertools.count():
        ending = prepared.die_at(step)
        assert not ending.failure, f"step {step}: {ending.failure}"
        print("step", step, "killed" if ending.killed else "not reached")
        prepared.assert_all_well()
        # Directories are made for some names of packs and not for others, so that the number
        # of steps varies by a few.
        survived += not ending.killed
        if survived > 2:
            break
    assert step > 10, "an act that changes next to nothing proves next to nothing"


class RandomCase:
    """One round of a random history in a child process that is killed at some point."""

    def __init__(self, ground: Ground, seed: str) -> None:
        chance = random.Random(f"kill {seed}")
        self._ground, self._seed = ground, seed
        self._acts = chance.randrange(3, 9)
        self._fatal_act = chance.randrange(self._acts)
        self._step = chance.randrange(MOST_STEPS_OF_AN_ACT)
        self._workers = chance.choice([0, 0, 0, 2])
        self._everybody = chance.random() < 0.6
        self._cached = chance.random() < 0.5
        self._seconds = chance.uniform(0, 0.4) if chance.random() < 0.15 else None

    def live_and_die(self) -> None:
        trap = Trap(self._step, everybody=self._everybody)

        def arm(number: int, _name: str) -> None:
            if number == self._fatal_act and self._seconds is None:
                trap.arm()

        def work() -> None:
            history = History(
                self._ground,
                local_stores(self._ground, trap),
                self._seed,
                workers=self._workers,
                cached=self._cached,
                may_fail=self._workers > 0,
                before=arm,
            )
            history.live(self._acts)

        child = Child(work, self._ground.directory / "failure")
        if self._seconds is not None:
            time.sleep(self._seconds)
            child.send(signal.SIGKILL)
        ending = child.wait()
        trap.close()
        assert not ending.failure, ending.failure


@share_of_cases(0.6)
def test_a_kill_somewhere_in_a_random_history(directory: Path, seed: int) -> None:
    again("test_a_kill_somewhere", seed)
    ground = Ground(directory / "ground")
    ground.tree.mkdir(parents=True)
    rounds = random.Random(seed).choice([1, 1, 1, 2, 3])
    for number in range(rounds):
        RandomCase(ground, f"{seed}.{number}").live_and_die()
        judge = assert_all_well if number == rounds - 1 else assert_nothing_lost
        promises = Promises(ground.journal)
        apart(lambda: judge(ground, local_stores(ground), promises), directory / "failure")  # noqa: B023 - called at once
    assert {act.error.split(":")[0] for act in promises.ended} <= {"", "WorkerLost"}
    restic = newest_restic() if seed % ASKED_OF_RESTIC == 0 else None
    if restic:
        for where in (MAIN, SECOND):
            assert_restic_agrees(restic, ground.repository(where))
