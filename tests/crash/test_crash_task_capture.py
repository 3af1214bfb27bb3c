"""Kill -9 at every step that a local store takes while a task is captured, twice in a row."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from aftermath import assert_whole
from dying import Trap, apart, forked
from sample_repository import contents, expected
from task_sample import Task, nothing_runs

from holdfast.store.local import LocalStore

pytestmark = pytest.mark.slow
pytest_plugins = ("crash_fixtures",)

STATES = 3


def change(task: Task, state: int) -> None:
    task.fill({"large": 60_000, f"d{state}/new": 500, "d/same": state + 1}, seed=state)
    if state:
        shutil.rmtree(task.job / f"d{state - 1}")


def first_state(base: Path) -> None:
    task = Task(base, LocalStore(str(base / "repository")))
    task.fill({"kept": 30_000, "d/e/kept": 10})
    change(task, 0)
    task.capture(nothing_runs)


def live(base: Path, trap: Trap) -> None:
    """Capture what was captured before, and then two more states, with one capturer."""
    task = Task(base, LocalStore(str(base / "repository"), on_step=trap), again=True)
    trap.arm()
    for state in range(1, STATES):
        change(task, state)
        task.capture(nothing_runs)


def look(base: Path, *, all_there: bool) -> None:
    """What is listed is whole and of one state, and the next capture is right."""
    task = Task(base, LocalStore(str(base / "repository")), again=True)
    assert_whole(task.repository)
    snapshots, findings = task.repository.snapshots()
    assert not findings
    assert 1 <= len(snapshots) <= STATES
    assert len(snapshots) == STATES or not all_there
    for state, snapshot in enumerate(snapshots):
        found = contents(task.repository, snapshot)
        assert len(found["same"]) == state + 1
        assert set(found) == {"kept", "large", "same", "new"}
    result = task.capture(nothing_runs)
    assert contents(task.repository, task.repository.snapshot(result.manifest_id)) == expected(
        task.job
    )
    assert_whole(task.repository)


def test_a_kill_at_every_step_of_a_capture(directory: Path) -> None:
    sound = directory / "sound"
    sound.mkdir()
    failures = directory / "failures"
    apart(lambda: first_state(sound), failures)
    survived = 0
    for step in itertools.count():
        base = directory / "case"
        shutil.copytree(sound, base, symlinks=True)
        trap = Trap(step)
        ending = forked(lambda base=base, trap=trap: live(base, trap), failures)  # type: ignore[misc]
        trap.close()
        assert not ending.failure, f"step {step}: {ending.failure}"
        apart(lambda base=base, e=ending: look(base, all_there=not e.killed), failures)  # type: ignore[misc]
        shutil.rmtree(base)
        survived += not ending.killed
        if survived > 2:
            break
    assert step > 30, "captures that change next to nothing prove next to nothing"
