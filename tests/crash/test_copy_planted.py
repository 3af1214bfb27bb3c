"""Mistakes planted around copies and drills: what looks at the result has to find each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_books import check_books
from control_processes import eventually
from control_relay import Phase
from region_aftermath import check_purged_in_time
from region_site import TwoRegions
from test_control_kill import Kill
from test_copy_kill import delete_while_it_is_read

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("region-crash")]
pytest_plugins = ("crash_fixtures",)


@pytest.fixture
def regions(directory: Path) -> Iterator[TwoRegions]:
    made = TwoRegions(directory)
    try:
        made.furnish("region_plants.both")
        yield made
    finally:
        made.close()


def test_ends_that_count_twice_and_purges_too_early_are_found(regions: TwoRegions) -> None:
    """One site for both, because a site takes longer than a mistake."""
    snapshot_id = regions.back_up_anew()
    kill = Kill("POST /finish", Phase.UNANSWERED, "server")
    blow = regions.strike_at(regions.copier, "copy", kill)
    job_id = regions.job_of(regions.copy(snapshot_id)).id
    regions.done(blow)
    eventually(
        lambda: told_ends(regions, job_id) > 1,
        lambda: regions.describe("the end is not said again"),
    )
    with pytest.raises(AssertionError, match="booked without a reason"):
        check_books(regions.database)
    copied, drilled = regions.back_up_anew(), regions.back_up_anew()
    delete_while_it_is_read(regions, copied, drilled, snapshot_id)
    with pytest.raises(AssertionError, match="was purged"):
        check_purged_in_time(regions.database)


def told_ends(regions: TwoRegions, job_id: str) -> int:
    """How often the server has heard that a job ended."""
    path = f"/jobs/{job_id}/finish"
    return sum(each.message.path.endswith(path) for each in regions.acknowledged)
