"""The pure rules of tasks: states, statuses of snapshots, slots, directories, warnings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from holdfast.control.task_state import snapshot_status_of
from holdfast.control.task_warnings import LARGE_BYTES, of_overlap, of_snapshot
from holdfast.model.task import (
    InstanceState,
    TaskSnapshotStatus,
    TaskState,
    instance_snapshot_id,
    periodic_snapshot_id,
    slot_after,
    snapshot_directory,
    state_of,
)

INSTANCES = st.lists(st.sampled_from(InstanceState), min_size=1, max_size=6)
TIMES = st.datetimes(
    datetime(2000, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.just(UTC),
)
TASK_ID = "6f1e1c9e-2f0e-4f0a-8f31-6f4f2d0b6d11"
OPEN = frozenset({"PENDING", "RUNNING"})
STATUSES = st.sampled_from(
    ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED", "DELETED")
)


@given(INSTANCES, st.booleans(), st.booleans())
def test_a_task_has_ended_when_all_instances_have(
    instances: list[InstanceState], cancel: bool, delete: bool
) -> None:
    """T1: whatever else is wanted, and never sooner."""
    state = state_of(instances, cancel_wanted=cancel, delete_wanted=delete)
    assert state.has_ended == all(each.has_ended for each in instances)
    if state.has_ended:
        failed = InstanceState.FAILED in instances
        assert (state == TaskState.FAILURE) == failed
    elif delete:
        assert state == TaskState.PENDING_DELETE
    elif cancel:
        assert state == TaskState.PENDING_CANCEL


@given(INSTANCES)
def test_the_order_of_instances_does_not_matter(instances: list[InstanceState]) -> None:
    assert state_of(instances) == state_of(list(reversed(instances)))


@given(INSTANCES)
def test_executing_shows_whatever_the_others_do(instances: list[InstanceState]) -> None:
    executes = InstanceState.EXECUTING in instances
    executing = {TaskState.PARTIALLY_EXECUTING, TaskState.FULLY_EXECUTING}
    assert (state_of(instances) in executing) == executes


def test_one_instance_in_every_state() -> None:
    expected = {
        InstanceState.WAITING: TaskState.SUBMITTED,
        InstanceState.PREPARING: TaskState.FULLY_DISPATCHED,
        InstanceState.EXECUTING: TaskState.FULLY_EXECUTING,
        InstanceState.UPLOADING: TaskState.UPLOADING_RESULTS,
        InstanceState.SUCCEEDED: TaskState.SUCCESS,
        InstanceState.FAILED: TaskState.FAILURE,
        InstanceState.CANCELLED: TaskState.CANCELLED,
    }
    assert {each: state_of([each]) for each in InstanceState} == expected
    both = [InstanceState.WAITING, InstanceState.PREPARING]
    assert state_of(both) == TaskState.PARTIALLY_DISPATCHED


@given(st.lists(STATUSES, min_size=1, max_size=6))
def test_a_snapshot_of_a_task_ends_when_its_parts_have(statuses: list[str]) -> None:
    """T7."""
    status = snapshot_status_of(statuses)
    going_on = status in (TaskSnapshotStatus.TRIGGERED, TaskSnapshotStatus.IN_PROGRESS)
    assert going_on == bool(OPEN & set(statuses))
    if not going_on:
        failed = bool({"FAILED", "CANCELLED"} & set(statuses))
        assert (status == TaskSnapshotStatus.FAILURE) == failed
        assert (status == TaskSnapshotStatus.SKIPPED) == (set(statuses) == {"SKIPPED"})


@given(TIMES, st.integers(1, 604_800), st.timedeltas(timedelta(days=-3), timedelta(days=400)))
def test_the_next_slot_is_the_first_one_ahead(
    since: datetime, seconds: int, later: timedelta
) -> None:
    """T3: at the beginning plus whole intervals, and never at it."""
    now = since + later
    every = timedelta(seconds=seconds)
    slot = slot_after(since, seconds, now)
    assert slot > now
    assert slot > since
    assert (slot - since) % every == timedelta()
    assert slot - every <= max(now, since)


@given(TIMES, st.integers(-12, 14))
def test_names_do_not_depend_on_who_writes_the_time(at: datetime, hours: int) -> None:
    from datetime import timezone

    elsewhere = at.astimezone(timezone(timedelta(hours=hours)))
    assert snapshot_directory(elsewhere) == snapshot_directory(at)
    assert periodic_snapshot_id(TASK_ID, elsewhere) == periodic_snapshot_id(TASK_ID, at)


def test_a_directory_is_named_by_its_time() -> None:
    """T5."""
    at = datetime(2026, 11, 2, 9, 8, 7, 654_321, tzinfo=UTC)
    assert snapshot_directory(at) == "20261102090807/"
    assert snapshot_directory(at, "some/prefix-") == "some/prefix-20261102090807/"
    assert instance_snapshot_id(TASK_ID, 0) != instance_snapshot_id(TASK_ID, 1)


@given(st.integers(0, 10**13), st.integers(1, 604_800), st.floats(0, 1e6))
def test_warnings_come_beyond_their_limits_only(size: int, seconds: int, took: float) -> None:
    """T8: over 1 GB, or more than a fifth of the interval."""
    codes = [each.code for each in of_snapshot(size, took, interval_seconds=seconds, subject="x")]
    assert ("snapshot_large" in codes) == (size > LARGE_BYTES)
    assert ("snapshot_interval_short" in codes) == (took * 100 > seconds * 20)
    manual = of_snapshot(size, took, interval_seconds=None, subject="x")
    assert all(each.code == "snapshot_large" for each in manual)


def test_a_warning_names_the_figures() -> None:
    """T8."""
    large, short = of_snapshot(1_000_000_001, 2.5, interval_seconds=10, subject="id")
    assert "1,000,000,001" in large.message
    assert "1,000,000,000" in large.message
    assert all(each in short.message for each in ("2.5 s", "25 %", "10 s", "20 %"))
    overlap = of_overlap(10, 12.25, subject="id")
    assert all(each in overlap.message for each in ("12.2 s", "10 s", "skipped"))
