"""Metrics: the state of the installation as Prometheus reads it.

Everything is counted in the database at the time of asking, so that every replica tells
the same and a restart loses nothing. Labels are ids, kinds and states: never a path, a
name that a customer chose, or a number that grows with history. What would exceed
`MAX_SERIES` lines of one metric is left out, and how many are is a metric, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import exists, func, select
from sqlalchemy.orm import load_only

from holdfast.control import clockwork, copy_lag, hosts
from holdfast.control.database import Tx
from holdfast.control.ledger import balance_femto
from holdfast.control.prices import currency_of
from holdfast.control.tables import (
    Account,
    Delivery,
    Drill,
    Host,
    Job,
    Leadership,
    Meter,
    Region,
    Repository,
    Schedule,
    Snapshot,
    Source,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES: Final = 10_000

SKIP_REASONS: Final = (
    "slot_missed",
    "still_running",
    "host_silent",
    "paused_for_credit",
    "quota_reached",
    "source_refused",
)
OTHER: Final = "other"

_DAY: Final = timedelta(days=1)
_LONGEST_JOB: Final = timedelta(days=8)

Rows = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class Metric:
    """A gauge: its name, what it says, and its labels."""

    name: str
    says: str
    labels: tuple[str, ...] = ()


SOURCE_AGE: Final = Metric(
    "holdfast_source_last_good_snapshot_age_seconds",
    "Age of the last good snapshot of a protected source; without any, the source's own age.",
    ("account", "host", "source", "kind"),
)
COPY_LAG: Final = Metric(
    "holdfast_schedule_copy_lag_seconds",
    "How long the oldest snapshot of a schedule has waited for its copy in another region; 0 "
    "when all are there.",
    ("account", "schedule", "region"),
)
SOURCE_GOOD: Final = Metric(
    "holdfast_sources",
    "Protected sources, by whether they have a good snapshot.",
    ("good_snapshot",),
)
DRILL_AGE: Final = Metric(
    "holdfast_source_last_drill_age_seconds",
    "Age of the last passed drill of a whole snapshot of a protected source whose schedule has "
    "drills; without any, the source's own age.",
    ("account", "host", "source"),
)
JOBS: Final = Metric("holdfast_jobs", "Jobs that wait or are worked on.", ("kind", "state"))
JOBS_ENDED: Final = Metric(
    "holdfast_jobs_ended_last_day", "Jobs that ended in the last 24 hours.", ("kind", "state")
)
LEASES_EXPIRED: Final = Metric(
    "holdfast_leases_expired", "Jobs whose lease has run out and that nobody has taken back yet."
)
SLOTS_SKIPPED: Final = Metric(
    "holdfast_slots_skipped_last_day",
    "Slots of schedules without a run that were written in the last 24 hours, by reason.",
    ("reason",),
)
HOSTS: Final = Metric("holdfast_hosts", "Hosts by status.", ("status",))
STORED: Final = Metric(
    "holdfast_repository_stored_bytes",
    "Bytes in the object store, by repository.",
    ("account", "region", "repository"),
)
ACCOUNTS: Final = Metric(
    "holdfast_accounts", "Accounts by the state of their credit.", ("credit_state",)
)
BALANCE: Final = Metric(
    "holdfast_account_balance",
    "Sum of an account's ledger, in its currency.",
    ("account", "currency"),
)
METERS: Final = Metric("holdfast_meters_open", "Things that cost by the hour.")
UNBOOKED: Final = Metric(
    "holdfast_ledger_unbooked_seconds",
    "How long ago the oldest hour ended that should be booked and is not.",
)
DELIVERIES: Final = Metric("holdfast_deliveries_waiting", "Events on their way to webhooks.")
DELIVERY_LATE: Final = Metric(
    "holdfast_delivery_late_seconds", "How long the delivery that is due longest has been due."
)
TICK_AGE: Final = Metric(
    "holdfast_clockwork_last_tick_age_seconds",
    "Time since a replica last ran what time brings about.",
)
LEFT_OUT: Final = Metric(
    "holdfast_metrics_left_out",
    f"Lines of a metric that are not told, because it has more than {MAX_SERIES}.",
    ("metric",),
)

METRICS: Final = (
    SOURCE_AGE,
    SOURCE_GOOD,
    COPY_LAG,
    DRILL_AGE,
    JOBS,
    JOBS_ENDED,
    LEASES_EXPIRED,
    SLOTS_SKIPPED,
    HOSTS,
    STORED,
    ACCOUNTS,
    BALANCE,
    METERS,
    UNBOOKED,
    DELIVERIES,
    DELIVERY_LATE,
    TICK_AGE,
    LEFT_OUT,
)


def render(tx: Tx, *, now: datetime) -> bytes:
    """All metrics in Prometheus' text format, `CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromDatabase(tx, now))
    return generate_latest(registry)


class _FromDatabase(Collector):
    """Counts everything once, when it is asked to."""

    def __init__(self, tx: Tx, now: datetime) -> None:
        self._tx = tx
        self._now = now
        self._left_out: dict[str, int] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._of_sources()
        yield self._gauge(DRILL_AGE, self._drills())
        yield self._gauge(COPY_LAG, self._copy_lags())
        yield from self._of_jobs()
        yield self._gauge(SLOTS_SKIPPED, self._skipped())
        yield self._gauge(HOSTS, self._hosts())
        yield self._gauge(STORED, self._repositories())
        yield from self._of_money()
        yield from self._of_deliveries()
        yield self._gauge(TICK_AGE, self._tick_age())
        yield self._gauge(LEFT_OUT, [((name,), n) for name, n in self._left_out.items()])

    def _gauge(self, metric: Metric, rows: Rows) -> GaugeMetricFamily:
        family = GaugeMetricFamily(metric.name, metric.says, labels=metric.labels)
        for number, (labels, value) in enumerate(rows):
            if number < MAX_SERIES:
                family.add_metric(labels, value)
            else:
                self._left_out[metric.name] = self._left_out.get(metric.name, 0) + 1
        return family

    def _of_sources(self) -> Iterator[GaugeMetricFamily]:
        newest = (
            select(Snapshot.captured_at)
            .where(
                Snapshot.source_id == Source.id,
                Snapshot.copy_of_id.is_(None),
                Snapshot.status == "COMPLETED",
                Snapshot.manifest_id.is_not(None),
            )
            .order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
            .limit(1)
            .correlate(Source)
            .scalar_subquery()
        )
        found = select(
            Source.account_id, Source.host_id, Source.id, Source.kind, Source.created_at, newest
        ).where(Source.removed_at.is_(None), Source.kind != "task")  # nobody promised any
        ages, good = [], 0
        for *labels, created_at, captured_at in self._tx.execute(found):
            good += captured_at is not None
            ages.append((labels, self._age(captured_at or created_at)))
        # Where there are too many, the oldest are the ones to be told.
        ages.sort(key=lambda each: each[1], reverse=True)
        yield self._gauge(SOURCE_AGE, ages)
        yield self._gauge(SOURCE_GOOD, [(("yes",), good), (("no",), len(ages) - good)])

    def _drills(self) -> Rows:
        # From the drills, because they are few and snapshots are many.
        proven = (
            select(Snapshot.source_id, func.max(Snapshot.drilled_at).label("at"))
            .join(Drill, Drill.snapshot_id == Snapshot.id)
            .group_by(Snapshot.source_id)
            .subquery()
        )
        wanted = exists().where(
            Schedule.source_id == Source.id,
            Schedule.drill_days.is_not(None),
            Schedule.removed_at.is_(None),
        )
        found = (
            select(Source.account_id, Source.host_id, Source.id, Source.created_at, proven.c.at)
            .outerjoin(proven, proven.c.source_id == Source.id)
            .where(Source.removed_at.is_(None), wanted)
        )
        ages = [
            (labels, self._age(proven_at or created_at))
            for *labels, created_at, proven_at in self._tx.execute(found)
        ]
        return sorted(ages, key=lambda each: each[1], reverse=True)

    def _copy_lags(self) -> Rows:
        found = select(Schedule, Region.name).join(Region, Region.id == Schedule.copy_region_id)
        rows = self._tx.execute(found.where(Schedule.removed_at.is_(None))).all()
        lags = copy_lag.lag(self._tx, (schedule for schedule, _ in rows), now=self._now)
        told = [
            ((schedule.account_id, schedule.id, region), float(lags[schedule.id].lag_seconds))
            for schedule, region in rows
        ]
        return sorted(told, key=lambda each: each[1], reverse=True)

    def _of_jobs(self) -> Iterator[GaugeMetricFamily]:
        open_states = ("queued", "leased")
        counted = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
        rows = self._tx.execute(counted.where(Job.state.in_(open_states)))
        yield self._gauge(JOBS, (((kind, state), number) for kind, state, number in rows))
        # By account and time of creation there is an index.
        ended = counted.join(Account, Account.id == Job.account_id).where(
            Job.created_at > self._now - _LONGEST_JOB,
            Job.state.not_in(open_states),
            Job.finished_at > self._now - _DAY,
        )
        rows = self._tx.execute(ended)
        yield self._gauge(JOBS_ENDED, (((kind, state), number) for kind, state, number in rows))
        expired = select(func.count()).where(Job.state == "leased", Job.lease_until <= self._now)
        yield self._gauge(LEASES_EXPIRED, self._one(self._tx.scalars(expired).one()))

    def _skipped(self) -> Rows:
        reason = Snapshot.findings[0]["code"].as_string()
        found = (
            select(reason, func.count())
            .join(Account, Account.id == Snapshot.account_id)
            .where(Snapshot.status == "SKIPPED", Snapshot.created_at > self._now - _DAY)
            .group_by(reason)
        )
        counts = dict.fromkeys((*SKIP_REASONS, OTHER), 0)
        for code, number in self._tx.execute(found):
            counts[code if code in counts else OTHER] += number
        return [((code,), number) for code, number in counts.items()]

    def _hosts(self) -> Rows:
        columns = (Host.revoked_at, Host.silent_since, Host.seen_at, Host.enrolled_at)
        counts = dict.fromkeys(("new", "online", "silent", "revoked"), 0)
        for host in self._tx.scalars(select(Host).options(load_only(*columns))):
            counts[hosts.status_of(host, self._now)] += 1
        return [((status,), number) for status, number in counts.items()]

    def _repositories(self) -> Rows:
        found = select(
            Repository.account_id, Region.name, Repository.id, Repository.stored_bytes
        ).join(Region, Region.id == Repository.region_id)
        rows = self._tx.execute(found.order_by(Repository.stored_bytes.desc()))
        return ((labels, stored) for *labels, stored in rows)

    def _of_money(self) -> Iterator[GaugeMetricFamily]:
        counts = dict.fromkeys(("good", "low", "exhausted", "held"), 0)
        balances = []
        for account in self._tx.scalars(select(Account).order_by(Account.created_at, Account.id)):
            counts[account.credit_state] = counts.get(account.credit_state, 0) + 1
            # A graph needs no femto; what is owed is in the ledger.
            balances.append(((account.id, currency_of(account)), balance_femto(account) / 1e15))
        yield self._gauge(ACCOUNTS, (((state,), number) for state, number in counts.items()))
        yield self._gauge(BALANCE, balances)
        number, oldest = self._tx.execute(
            select(func.count(), func.min(Meter.booked_until)).where(Meter.until.is_(None))
        ).one()
        yield self._gauge(METERS, self._one(number))
        due = oldest + timedelta(hours=1) if oldest else self._now
        yield self._gauge(UNBOOKED, self._one(self._age(due)))

    def _of_deliveries(self) -> Iterator[GaugeMetricFamily]:
        number, oldest = self._tx.execute(
            select(func.count(), func.min(Delivery.not_before)).where(Delivery.state == "waiting")
        ).one()
        yield self._gauge(DELIVERIES, self._one(number))
        yield self._gauge(DELIVERY_LATE, self._one(self._age(oldest or self._now)))

    def _tick_age(self) -> Rows:
        """From the leader's term, which every tick prolongs; nothing before the first tick."""
        found = select(Leadership.until).where(Leadership.name == clockwork.NAME)
        until = self._tx.scalars(found).one_or_none()
        if until is None:
            return []
        return self._one(self._age(until - timedelta(seconds=clockwork.TERM_SECONDS)))

    def _age(self, since: datetime) -> float:
        return max((self._now - since).total_seconds(), 0.0)

    @staticmethod
    def _one(value: float) -> list[tuple[tuple[()], float]]:
        return [((), value)]
