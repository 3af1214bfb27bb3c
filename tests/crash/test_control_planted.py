"""Mistakes planted on purpose in the control plane: the crash tests have to find each.

Those that need no process are planted in this one. One is found by the agents that sleep
(`test_control_stop`) and is planted there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import control_plants as plants
import pytest
from control_aftermath import go_on
from control_relay import Phase
from control_world import World
from crash_cases import again, share_of_cases
from test_control_clock import DAY, HOUR, Watched
from test_control_kill import Kill, Place, back_up_and_kill

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("control-crash")]
pytest_plugins = ("crash_fixtures",)

Plant = Callable[[plants.Put], None]

STEPS = (
    plants.missed_slots_are_not_told,
    plants.missed_slots_have_no_rows,
    plants.ends_are_not_written_down,
    plants.runs_are_left_when_their_job_fails,
    plants.hours_are_booked_without_the_balance,
    plants.hours_are_forgotten,
)


@pytest.mark.parametrize("plant", STEPS, ids=lambda plant: plant.__name__)
def test_steps_of_the_clock_find(
    world: World, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    watched = Watched(world)
    plant(monkeypatch.setattr)
    watched.live(3 * HOUR)
    watched.step(DAY)
    watched.live(3 * HOUR, works=False)
    with pytest.raises(AssertionError) as found:
        watched.check()
    print("found:", str(found.value)[:300])


REGRESSIONS: tuple[int, ...] = ()

KILLS = (
    (plants.ends_acknowledged_too_early, Kill("POST /finish", Phase.ANSWERED, "server"), 0),
    (plants.objects_acknowledged_too_early, Kill("POST data", Phase.ANSWERED, "server"), 2),
    (plants.strangers_are_left, Kill("POST snapshots", Phase.UNANSWERED, "child"), 2),
)


@pytest.fixture
def place(directory: Path) -> Iterator[Place]:
    made = Place(directory)
    try:
        yield made
    finally:
        made.close()


@share_of_cases(0.003)
def test_kills_find(place: Place, seed: int) -> None:
    again("test_kills_find", seed)
    plant, kill, which = KILLS[seed % len(KILLS)]
    place.furnish(plant.__name__)
    back_up_and_kill(place, which, kill)
    with pytest.raises(AssertionError) as found:
        go_on(place)
    print("found:", str(found.value)[:300])
