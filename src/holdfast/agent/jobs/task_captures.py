"""When a running instance is captured: at once when somebody asks, and at its slots. Pure.

One capture at a time. A slot that comes while one is under way is skipped and recorded; a
manual one waits its turn, because somebody waits for it. Invariants: a slot is decided upon
once, in whatever attempt; of slots that nobody attended only the last few are recorded one
by one, so that an hour's absence is no flood.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from holdfast.agent.jobs.task_spec import Filters
from holdfast.model.finding import Finding
from holdfast.model.task import instance_snapshot_id, periodic_snapshot_id

MANUAL: Final = "manual"
PERIODIC: Final = "periodic"
_MOST_SKIPPED: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCapture:
    """One capture to be made. `directory_at` is the time that its directory is named by."""

    task_snapshot_id: str
    snapshot_id: str
    trigger: str
    triggered_at: datetime
    slot_at: datetime | None = None
    filters: Filters

    def message(self, status: str, **more: Any) -> dict[str, Any]:
        """What the control plane is told of it."""
        return {
            "type": "snapshot",
            "task_snapshot_id": self.task_snapshot_id,
            "snapshot_id": self.snapshot_id,
            "trigger": self.trigger,
            "slot_at": None if self.slot_at is None else self.slot_at.isoformat(),
            "triggered_at": self.triggered_at.isoformat(),
            "directory_at": (self.slot_at or self.triggered_at).isoformat(),
            "status": status,
            "bytes_total": 0,
            "bytes_done": 0,
            "result": None,
            "findings": [],
            "error": None,
            **more,
        }


@dataclass(frozen=True, slots=True)
class SkippedCapture:
    """A slot at which nothing is captured, and why."""

    wanted: WantedCapture
    finding: Finding


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be begun now, if anything, and what was skipped."""

    begin: WantedCapture | None = None
    skipped: tuple[SkippedCapture, ...] = ()


class CapturePlan:
    """Decides for one instance. `last_slot` and `done` go from an attempt to the next."""

    def __init__(
        self,
        task_id: str,
        number: int,
        *,
        begins_at: datetime,
        last_slot: datetime | None = None,
        done: Collection[str] = (),
    ) -> None:
        """`begins_at`: no slot before it counts. `done` are ids of snapshots."""
        self._task_id, self._number = task_id, number
        self.last_slot = begins_at if last_slot is None else max(begins_at, last_slot)
        self.done = set(done)

    def begin(self, at: datetime) -> None:
        """The command began at that time, and no slot before it counts."""
        self.last_slot = max(self.last_slot, at)

    def decide(
        self, orders: Mapping[str, Any], now: datetime, *, busy_since: datetime | None
    ) -> Decision:
        """What to do at this moment; `busy_since` is when the capture under way began."""
        slots = self._new_slots(orders, now)
        if slots and busy_since is None:
            *missed, newest = slots
            return Decision(newest, tuple(_unattended(each) for each in missed[-_MOST_SKIPPED:]))
        if slots:
            assert busy_since is not None
            seconds = (now - busy_since).total_seconds()
            return Decision(None, tuple(_overlapping(e, seconds) for e in slots[-_MOST_SKIPPED:]))
        if busy_since is None:
            return Decision(next(self.manual(orders), None))
        return Decision()

    def manual(self, orders: Mapping[str, Any]) -> Iterator[WantedCapture]:
        """The manual ones that are still to be made, oldest first."""
        listed = sorted(orders.get("snapshots") or (), key=lambda each: str(each["triggered_at"]))
        for each in listed:
            if each["snapshot_id"] not in self.done:
                yield WantedCapture(
                    task_snapshot_id=str(each["task_snapshot_id"]),
                    snapshot_id=str(each["snapshot_id"]),
                    trigger=MANUAL,
                    triggered_at=moment(each["triggered_at"]),
                    filters=Filters.of(each),
                )

    def last(self, orders: Mapping[str, Any], now: datetime) -> WantedCapture | None:
        """A periodic one out of turn, before the computation is ended; None without slots."""
        if not orders.get("periodic"):
            return None
        # Slots are whole seconds, and what came in the second of the slot before counts too.
        before = self.last_slot.replace(microsecond=0)
        at = max(now.replace(microsecond=0), before + timedelta(seconds=1))
        self.last_slot = at
        return self._periodic(at, orders["periodic"])

    def _new_slots(self, orders: Mapping[str, Any], now: datetime) -> list[WantedCapture]:
        periodic = orders.get("periodic")
        if not periodic or int(periodic["seconds"]) < 1:
            return []
        since, every = moment(periodic["since"]), timedelta(seconds=int(periodic["seconds"]))
        newest = (now - since) // every
        known = max(0, (self.last_slot - since) // every)
        first = max(known + 1, newest - _MOST_SKIPPED)
        slots = [since + every * n for n in range(first, newest + 1)]
        if slots:
            self.last_slot = slots[-1]
        return [self._periodic(each, periodic) for each in slots]

    def _periodic(self, slot: datetime, periodic: Mapping[str, Any]) -> WantedCapture:
        whole = periodic_snapshot_id(self._task_id, slot)
        return WantedCapture(
            task_snapshot_id=whole,
            snapshot_id=instance_snapshot_id(whole, self._number),
            trigger=PERIODIC,
            triggered_at=slot,
            slot_at=slot,
            filters=Filters.of(periodic),
        )


def _overlapping(wanted: WantedCapture, seconds: float) -> SkippedCapture:
    message = (
        f"the snapshot before it was still being taken, for {seconds:.1f} s so far; choose a "
        "longer interval, or filters that take less"
    )
    return _skipped(wanted, message)


def _unattended(wanted: WantedCapture) -> SkippedCapture:
    return _skipped(wanted, "nobody attended the computation at that moment")


def _skipped(wanted: WantedCapture, message: str) -> SkippedCapture:
    assert wanted.slot_at is not None
    finding = Finding("snapshot_skipped", message, wanted.slot_at.astimezone(UTC).isoformat())
    return SkippedCapture(wanted, finding)


def moment(value: object) -> datetime:
    """A time of the protocol; one without a zone is UTC."""
    found = datetime.fromisoformat(str(value))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
