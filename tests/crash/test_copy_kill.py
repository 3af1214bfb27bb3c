"""Kill -9 and SIGSTOP at the stages of a copy to another region and of a drill beside it.

One site lives through all of them, because what one kill leaves behind is what the next one
finds. Spec lines: S5, S6.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from control_aftermath import go_on, look
from control_processes import eventually
from control_relay import Phase
from control_site import STEP_SECONDS, Refused
from crash_cases import again, share_of_cases
from region_site import TwoRegions
from test_control_kill import VICTIMS, Kill

from holdfast.control.tables import Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("region-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""

STAGES = ("POST /claim", "GET data", "POST locks", "POST data", "POST snapshots", "POST /finish")
LOST, UNDERWAY = Phase.LOST, Phase.UNDERWAY
UNANSWERED, ANSWERED = Phase.UNANSWERED, Phase.ANSWERED


@dataclass(frozen=True)
class Case:
    """Who dies in a copy, and who in a drill of its original that runs at the same time."""

    copy: Kill
    drill: Kill

    def __str__(self) -> str:
        return f"{self.copy}-and-{self.drill}"


CASES = (
    Case(Kill("POST /claim", ANSWERED, "machine"), Kill("POST /claim", ANSWERED, "machine")),
    Case(Kill("GET data", UNANSWERED, "child"), Kill("GET data", UNANSWERED, "child")),
    Case(Kill("POST data", UNDERWAY, "server"), Kill("GET data", UNANSWERED, "agent")),
    Case(Kill("POST snapshots", UNANSWERED, "child"), Kill("POST /finish", LOST, "agent")),
    Case(Kill("POST /finish", LOST, "agent"), Kill("POST /finish", UNANSWERED, "machine")),
    Case(Kill("POST /finish", UNDERWAY, "server"), Kill("GET data", UNANSWERED, "child")),
    Case(Kill("POST /finish", UNANSWERED, "server"), Kill("POST /finish", UNANSWERED, "agent")),
)


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRegions]:
    made = TwoRegions(tmp_path_factory.mktemp("regions"))
    try:
        made.furnish()
        yield made
    finally:
        made.close()


def test_a_schedule_has_its_copies_and_drills(regions: TwoRegions) -> None:
    """S5 S6: both come by themselves, also where the server dies as a run is complete."""
    body = {
        "source_id": regions.source_ids[0],
        "interval_hours": 24,
        "retention": {"keep_last": 3},
        "copy_region_id": regions.second_id,
        "drill_days": 1,
    }
    schedule_id = regions.ask("POST", "/schedules", body)["id"]
    blow = regions.strike_at(regions.gpus[0], "backup", Kill("POST /finish", UNANSWERED, "server"))
    snapshot_id = regions.ask("POST", f"/schedules/{schedule_id}/run")["id"]
    regions.done(blow)
    check_copied(regions, snapshot_id)
    regions.pass_time(days=1)
    regions.settle_slots()
    eventually(lambda: regions.drills_of(schedule_id), "no drill was planned")
    regions.run_dry()
    (drill,) = regions.drills_of(schedule_id)
    assert drill.passed is True, regions.describe("the drill did not pass")
    lag = regions.ask("GET", f"/schedules/{schedule_id}")
    assert (lag["copies_pending"], lag["copy_lag_seconds"]) == (0, 0)
    regions.ask("DELETE", f"/schedules/{schedule_id}")
    regions.run_dry()
    look(regions, restored=regions.restored)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_in_a_copy_and_in_a_drill(regions: TwoRegions, case: Case) -> None:
    """S5 S6: whoever dies when, there is one copy and one result, and both are right."""
    snapshot_id = regions.back_up_anew()
    with regions.untouched(snapshot_id):
        copying = regions.strike_at(regions.copier, "copy", case.copy)
        drilling = regions.strike_at(regions.keeper, "drill", case.drill)
        copy_id, drill_id = regions.copy(snapshot_id), regions.start_drill(snapshot_id)
        regions.done(copying, drilling)
    assert check_copied(regions, snapshot_id).id == copy_id
    drill = regions.drill(drill_id)
    assert (drill.status, drill.passed) == ("COMPLETED", True), regions.describe(
        str(drill.findings)
    )
    assert regions.snapshot(snapshot_id).drilled_at is not None
    assert not [each for machine in regions.machines for each in machine.scratch()]
    look(regions, restored=regions.restored)


def check_copied(regions: TwoRegions, snapshot_id: str) -> Snapshot:
    """There is one copy, in the catalog and in the store; the copy."""
    (copy,) = regions.copies_of(snapshot_id)
    assert copy.status == "COMPLETED", regions.describe(f"the copy is {copy.status}")
    assert regions.manifests_of(snapshot_id, regions.second_id) == [copy.manifest_id]
    return copy


@share_of_cases(0.003)
def test_kills_somewhere_in_copies_and_drills(regions: TwoRegions, seed: int) -> None:
    """Several kills by chance, while people cancel and delete."""
    again("test_kills_somewhere_in_copies_and_drills", seed)
    chance = random.Random(f"regions {seed}")
    snapshot_id = regions.back_up_anew()
    keepers = {"copy": regions.copier, "drill": regions.keeper}
    for _ in range(chance.randrange(1, 4)):
        kind = chance.choice(tuple(keepers))
        at, phase = chance.choice(STAGES), chance.choice(tuple(Phase))
        answered = at != "POST /claim" or phase in (UNANSWERED, ANSWERED)
        kill = Kill(at, phase if answered else ANSWERED, chance.choice(VICTIMS))
        regions.strike_at(keepers[kind], kind, kill)
    copy_id, drill_id = regions.copy(snapshot_id), regions.start_drill(snapshot_id)
    wishes = (f"/snapshots/{copy_id}/cancel", f"/drills/{drill_id}/cancel")
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 2))
        with suppress(Refused):  # it may have ended
            regions.ask("POST", chance.choice(wishes))
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 2))
        regions.ask("DELETE", f"/snapshots/{snapshot_id}")
    regions.run_dry()
    regions.servers[0].relay.forget_blows()
    regions.run_dry()
    assert regions.snapshot(copy_id).status in ("COMPLETED", "CANCELLED", "DELETED")
    assert regions.drill(drill_id).status in ("COMPLETED", "CANCELLED")
    assert regions.drill(drill_id).passed in (True, None)
    look(regions, restored=regions.restored)


def test_the_original_stays_while_it_is_read(regions: TwoRegions) -> None:
    """S4 S5 S6: what was deleted is purged after its copy and its drill have ended, not before."""
    while len(known := regions.originals()) < 2:
        regions.back_up_anew()
    drilled, other = known[-2:]
    delete_while_it_is_read(regions, regions.back_up_anew(), drilled, other)
    look(regions, restored=regions.restored)


def delete_while_it_is_read(regions: TwoRegions, copied: str, drilled: str, other: str) -> None:
    """Of three that are deleted one is being copied, one is being drilled."""
    snapshot_ids = (copied, drilled, other)
    copying = regions.stop_at(regions.copier, "copy", "GET data", agent=False)
    drilling = regions.stop_at(regions.keeper, "drill", "GET data", agent=False)
    regions.copy(copied)
    regions.start_drill(drilled)
    asleep = copying(), drilling()
    for each in snapshot_ids:
        regions.ask("DELETE", f"/snapshots/{each}")
    with regions.database.write() as tx:  # no lease can be renewed for days in a moment
        for each in snapshot_ids:
            tx.get_one(Snapshot, each).purge_at = regions.clock() - timedelta(minutes=5)
    eventually_purged(regions, other)
    for machine in asleep:
        machine.end_jobs()
    regions.run_dry()
    eventually_purged(regions, copied)
    eventually_purged(regions, drilled)


def eventually_purged(regions: TwoRegions, snapshot_id: str) -> None:
    """Time goes on in steps in which whoever is alive keeps its leases."""

    def purged() -> bool:
        soon = regions.clock() + timedelta(seconds=45)
        leases = [job.lease_until for job in regions.open_jobs() if job.state == "leased"]
        if all(each and each > soon for each in leases):
            regions.clock.step(STEP_SECONDS)
        return regions.snapshot(snapshot_id).purged_at is not None

    eventually(purged, lambda: regions.describe(f"{snapshot_id} is not purged"))


def test_keepers_that_slept_past_their_leases(regions: TwoRegions) -> None:
    """S5 S6: one wakes and stores a second copy, which is nobody's and goes.

    The other one drills again what it was drilling, and gets in nobody's way.
    """
    snapshot_id = regions.back_up_anew()
    sleeping = regions.stop_at(regions.copier, "copy", "POST snapshots", agent=True)
    dozing = regions.stop_at(regions.keeper, "drill", "GET data", agent=True)
    copy_id, drill_id = regions.copy(snapshot_id), regions.start_drill(snapshot_id)
    copier, keeper = sleeping(), dozing()
    regions.reserve.start()
    eventually(lambda: taken_over(regions, copy_id), lambda: regions.describe("nobody takes it"))
    keeper.wake()
    regions.run_dry()
    copy = check_copied(regions, snapshot_id)
    copier.wake(agent=False)
    eventually(
        lambda: len(regions.manifests_of(snapshot_id, regions.second_id)) == 2,
        lambda: regions.describe("it does not go on"),
    )
    copier.wake()
    for machine in (regions.copier, regions.keeper):
        eventually(
            lambda: not machine.children,  # noqa: B023
            lambda: regions.describe("it does not hear of it"),
        )
    regions.run_dry()
    assert regions.snapshot(copy_id).manifest_id == copy.manifest_id
    drill = regions.drill(drill_id)
    assert (drill.passed, regions.job_of(drill_id).attempt > 1) == (True, True)
    assert not regions.keeper.scratch()
    look(regions, restored=regions.restored)


def taken_over(regions: TwoRegions, copy_id: str) -> bool:
    """Whether the reserve is at work on it; time goes on until it is.

    A claim that waits at the server is one that a stopped agent has made before.
    """
    job = regions.job_of(copy_id)
    if job.state == "leased" and job.leased_to == regions.reserve.host_id:
        return True
    if job.state == "leased" or job.not_before > regions.clock():
        regions.clock.step(STEP_SECONDS)
    return job.state == "succeeded"


def test_a_day_later_one_copy_of_each_is_left(regions: TwoRegions) -> None:
    """S6 M1: no orphan, no lock, no scratch, and each hour booked in both regions."""
    go_on(regions)
    unexpected = regions.servers[0].unexpected
    assert not unexpected, unexpected[:3]
