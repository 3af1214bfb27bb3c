"""Metrics for Prometheus, with the age of the last good snapshot of every source (S8)."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from control_money import book, give_credit, set_price, store
from control_world import World
from prometheus_client.parser import text_string_to_metric_families

from holdfast.control import leadership, metrics
from holdfast.control.clockwork import NAME, TERM_SECONDS
from holdfast.control.tables import Delivery, Event, Job, Schedule, Webhook

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
DAY = 86400


def told(world: World, metric: metrics.Metric) -> dict[tuple[str, ...], float]:
    """A metric's values by its labels, in their order."""
    with world.database.read() as tx:
        text = metrics.render(tx, now=world.now).decode()
    for family in text_string_to_metric_families(text):
        if family.name == metric.name:
            assert family.type == "gauge"
            return {
                tuple(sample.labels[label] for label in metric.labels): sample.value
                for sample in family.samples
            }
    raise AssertionError(f"{metric.name} is not told")


def add_job(world: World, kind: str, state: str, **fields: Any) -> Job:
    fields = {"created_at": world.now, "not_before": world.now} | fields
    number = len(told(world, metrics.JOBS)) + len(told(world, metrics.JOBS_ENDED))
    return world.insert(
        Job(
            account_id=world.account.id,
            region_id=world.region.id,
            kind=kind,
            state=state,
            subject_kind="snapshot",
            subject_id="s",
            lock_key=f"{kind} {state} {number}",
            **fields,
        )
    )


def test_the_age_of_the_last_good_snapshot_of_every_source(world: World) -> None:
    """S8: failures and removed snapshots do not count; a source without any is as old as it is."""
    host = world.add_host()
    backed_up, never, failing, removed = (
        world.add_source(host, f"/root/{name}") for name in ("a", "b", "c", "d")
    )
    world.set(removed, removed_at=world.now)
    repository = world.add_repository()
    world.advance(days=1)
    world.add_snapshot(backed_up, repository)
    world.add_snapshot(failing, repository)
    world.advance(days=1)
    world.add_snapshot(failing, repository, status="FAILED")
    world.add_snapshot(failing, repository, status="DELETED", manifest_id="a" * 64)
    world.add_snapshot(backed_up, repository)
    world.advance(hours=1)
    found = told(world, metrics.SOURCE_AGE)

    def labels(source: Any) -> tuple[str, ...]:
        return (world.account.id, host.id, source.id, "path")

    assert found == {
        labels(backed_up): 3600,
        labels(never): 2 * DAY + 3600,
        labels(failing): DAY + 3600,
    }
    assert told(world, metrics.SOURCE_GOOD) == {("yes",): 2, ("no",): 1}


def test_no_name_or_path_of_a_customer_is_told(world: World) -> None:
    source = world.add_source(world.add_host(name="secret-host"), "/root/secret-path")
    world.add_snapshot(source, world.add_repository(), name="secret-name")
    with world.database.read() as tx:
        text = metrics.render(tx, now=world.now).decode()
    assert "secret" not in text
    assert world.account.name not in text


def test_jobs_by_state_and_kind(world: World) -> None:
    ended = {"created_at": world.now - timedelta(hours=30)}
    add_job(world, "backup", "queued")
    add_job(world, "backup", "leased", lease_until=world.now + timedelta(seconds=60))
    add_job(world, "verify", "leased", lease_until=world.now)
    add_job(world, "backup", "failed", finished_at=world.now - timedelta(hours=25), **ended)
    add_job(world, "backup", "failed", finished_at=world.now - timedelta(hours=23), **ended)
    assert told(world, metrics.JOBS) == {
        ("backup", "queued"): 1,
        ("backup", "leased"): 1,
        ("verify", "leased"): 1,
    }
    assert told(world, metrics.JOBS_ENDED) == {("backup", "failed"): 1}
    assert told(world, metrics.LEASES_EXPIRED) == {(): 1}


def test_slots_that_were_skipped_by_reason(world: World) -> None:
    source, repository = world.add_source(world.add_host()), world.add_repository()

    def skip(*codes: str) -> None:
        findings = [{"code": code, "message": "", "subject": ""} for code in codes]
        world.add_snapshot(source, repository, status="SKIPPED", findings=findings)

    skip("slot_missed")
    world.advance(hours=25)
    for codes in (["slot_missed"], ["slot_missed"], ["host_silent", "other"], ["new"], []):
        skip(*codes)
    assert told(world, metrics.SLOTS_SKIPPED) == {
        ("slot_missed",): 2,
        ("still_running",): 0,
        ("host_silent",): 1,
        ("paused_for_credit",): 0,
        ("quota_reached",): 0,
        ("source_refused",): 0,
        ("other",): 2,
    }


def test_hosts_by_status(world: World) -> None:
    world.add_host()
    world.add_host(seen_at=None)
    world.add_host(silent_since=world.now)
    world.add_host(seen_at=world.now - timedelta(hours=1))
    world.add_host(revoked_at=world.now)
    assert told(world, metrics.HOSTS) == {
        ("new",): 1,
        ("online",): 1,
        ("silent",): 2,
        ("revoked",): 1,
    }


def test_repositories_accounts_and_their_money(world: World) -> None:
    repository = world.add_repository()
    world.set(repository, stored_bytes=12345)
    assert told(world, metrics.STORED) == {(world.account.id, "here", repository.id): 12345}
    set_price(world, "1")
    give_credit(world, "5.5")
    store(world, "a", 10**9)
    world.set(world.operator_account, credit_state="low")
    assert told(world, metrics.METERS) == {(): 1}
    world.advance(minutes=59)
    assert told(world, metrics.UNBOOKED) == {(): 0}
    world.advance(minutes=61)
    assert told(world, metrics.UNBOOKED) == {(): 3600}
    book(world)
    assert told(world, metrics.UNBOOKED) == {(): 0}
    assert told(world, metrics.BALANCE) == {
        (world.account.id, "EUR"): 3.5,
        (world.operator_account.id, "EUR"): 0,
    }
    assert told(world, metrics.ACCOUNTS) == {
        ("good",): 1,
        ("low",): 1,
        ("exhausted",): 0,
        ("held",): 0,
    }


def test_deliveries_that_wait(world: World) -> None:
    assert told(world, metrics.DELIVERIES) == {(): 0}
    assert told(world, metrics.DELIVERY_LATE) == {(): 0}
    hook = world.insert(
        Webhook(
            account_id=world.account.id,
            url="https://example.org/",
            sealed_secret="",
            created_at=world.now,
        )
    )
    event = world.insert(
        Event(
            account_id=world.account.id,
            at=world.now,
            kind="credit.low",
            subject_kind="account",
            subject_id=world.account.id,
            message="",
        )
    )
    for state, minutes in (("waiting", -5), ("waiting", 5), ("delivered", -50)):
        world.insert(
            Delivery(
                event_id=event.id,
                webhook_id=hook.id,
                state=state,
                not_before=world.now + timedelta(minutes=minutes),
            )
        )
    assert told(world, metrics.DELIVERIES) == {(): 2}
    assert told(world, metrics.DELIVERY_LATE) == {(): 300}


def test_the_age_of_the_last_tick(world: World) -> None:
    assert told(world, metrics.TICK_AGE) == {}
    with world.database.write() as tx:
        leadership.hold(tx, NAME, "replica", seconds=TERM_SECONDS, now=world.now)
    world.advance(seconds=5)
    assert told(world, metrics.TICK_AGE) == {(): 5}
    world.advance(hours=1)
    assert told(world, metrics.TICK_AGE) == {(): 3605}


def test_too_many_lines_are_left_out_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 2)
    host = world.add_host()
    for number in range(4):
        world.add_source(host, f"/root/{number}")
        world.advance(hours=1)
    assert sorted(told(world, metrics.SOURCE_AGE).values()) == [3 * 3600, 4 * 3600]
    assert told(world, metrics.LEFT_OUT)[metrics.SOURCE_AGE.name,] == 2


def test_every_metric_is_told_and_documented_with_its_labels(world: World) -> None:
    with world.database.read() as tx:
        text = metrics.render(tx, now=world.now).decode()
    helped = set(re.findall(r"^# HELP (\S+) ", text, re.MULTILINE))
    assert helped == {metric.name for metric in metrics.METRICS}
    rows = re.findall(r"^\| `(holdfast_\w+)` \|([^|]*)\| .+ \|$", PAGE.read_text(), re.MULTILINE)
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == {metric.name: metric.labels for metric in metrics.METRICS}
    assert len(rows) == len(documented)


def test_a_schedule_is_no_label(world: World) -> None:
    """Lines grow with what is protected, not with history or with schedules."""
    source = world.add_source(world.add_host())
    before = told(world, metrics.SOURCE_AGE)
    for _ in range(3):
        world.insert(
            Schedule(
                account_id=source.account_id,
                source_id=source.id,
                interval_hours=6,
                created_at=world.now,
                updated_at=world.now,
                settled_until=world.now,
            )
        )
    assert told(world, metrics.SOURCE_AGE) == before
