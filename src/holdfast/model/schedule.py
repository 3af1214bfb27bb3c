"""A schedule: at which instants a capture is due, and what to do about those that passed.

Pure arithmetic: nothing here reads a clock, waits or runs anything. Instants go in with any
time zone and come out in UTC, in whole seconds.

Invariants: due times strictly increase; asking about [a, c) gives what [a, b) and [b, c)
give together; a time of day that a change of clocks skips or repeats falls due exactly once
(expressions that fire in every hour go by elapsed time instead).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from holdfast.errors import UsageError
from holdfast.model.window import Window, earliest_instant

SHORTEST_INTERVAL_SECONDS: Final = 3600
LONGEST_INTERVAL_SECONDS: Final = 168 * 3600
DEFAULT_SPREAD_SECONDS: Final = 300
"""How far a cron schedule may be moved behind the minute that it names."""

PRESETS: Final = ("6h", "12h", "daily", "weekly")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_CRON_ACCEPTED = (
    "give five fields: minute, hour, day of month, month, day of week, such as '30 2 * * 1-5'"
)


def spread_offset(identifier: str, width_seconds: int) -> int:
    """A number of seconds in [0, width) that is always the same for one id.

    Ids are scattered evenly, so that thousands of schedules do not fire in one second.
    """
    if width_seconds <= 1:
        return 0
    digest = hashlib.sha256(identifier.encode()).digest()
    return int.from_bytes(digest[:8], "big") % width_seconds


@dataclass(frozen=True, slots=True)
class Arrears:
    """What a scheduler has to do now about the slots that it has not settled.

    `run`: the slot to run for, now or from `not_before` on; None when there is nothing to
    do or the next regular slot comes first anyway. `missed`: slots to record as missed;
    when `run` is the last of them, this run is the one that catches up for them all.
    """

    run: datetime | None
    not_before: datetime | None
    missed: tuple[datetime, ...]
    next_due: datetime | None

    @property
    def is_catch_up(self) -> bool:
        """Whether the run comes late for slots that were missed."""
        return self.run is not None and self.run in self.missed


@dataclass(frozen=True, slots=True)
class Schedule:
    """Either an interval or a cron expression, moved by an offset, kept inside a window.

    An interval counts elapsed time from the Unix epoch, so it knows no time zone and no
    change of clocks. A cron expression has five fields and is read in `timezone` (an IANA
    name). `offset_seconds` is added to every slot. A slot that is outside of `window` (read
    in `timezone` too) is held back to the window's next day: its first own slot there
    serves for what was held back, and a window without one gets a single slot, `offset`
    after it opens. Build one with `every`, `preset` or `cron_expression`.
    """

    interval_seconds: int = 0
    cron: str = ""
    timezone: str = "UTC"
    offset_seconds: int = 0
    window: Window | None = None

    def __post_init__(self) -> None:
        if bool(self.interval_seconds) == bool(self.cron):
            raise UsageError("a schedule needs an interval or a cron expression, and not both")
        if self.interval_seconds and not (
            SHORTEST_INTERVAL_SECONDS <= self.interval_seconds <= LONGEST_INTERVAL_SECONDS
        ):
            raise UsageError(
                f"an interval of {self.interval_seconds} seconds is not possible; "
                "give 1 hour to 168 hours"
            )
        if self.offset_seconds < 0:
            raise UsageError(f"the offset is {self.offset_seconds} seconds; give 0 or more")
        _zone(self.timezone)
        if self.cron:
            self._check_cron()

    @classmethod
    def every(
        cls,
        *,
        hours: int,
        identifier: str = "",
        timezone: str = "UTC",
        window: Window | None = None,
    ) -> Schedule:
        """Every 1 to 168 hours, at a phase of the interval that depends on `identifier`."""
        seconds = hours * 3600
        offset = spread_offset(identifier, seconds) if identifier else 0
        return cls(
            interval_seconds=seconds, timezone=timezone, offset_seconds=offset, window=window
        )

    @classmethod
    def cron_expression(
        cls,
        expression: str,
        *,
        timezone: str = "UTC",
        identifier: str = "",
        spread_seconds: int = DEFAULT_SPREAD_SECONDS,
        window: Window | None = None,
    ) -> Schedule:
        """At the minutes that `expression` names, up to `spread_seconds` later."""
        offset = spread_offset(identifier, spread_seconds) if identifier else 0
        return cls(cron=expression, timezone=timezone, offset_seconds=offset, window=window)

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        timezone: str = "UTC",
        identifier: str = "",
        window: Window | None = None,
    ) -> Schedule:
        """``6h``, ``12h``, ``daily`` or ``weekly``; the last two at midnight (of Sunday).

        Daily schedules are spread over the hour after midnight.
        """
        if name in ("6h", "12h"):
            return cls.every(
                hours=int(name[:-1]), identifier=identifier, timezone=timezone, window=window
            )
        if name not in PRESETS:
            raise UsageError(f"there is no preset {name!r}; choose {', '.join(PRESETS)}")
        return cls.cron_expression(
            "0 0 * * *" if name == "daily" else "0 0 * * 0",
            timezone=timezone,
            identifier=identifier,
            spread_seconds=3600,
            window=window,
        )

    def next_due(self, after: datetime) -> datetime | None:
        """The first due time later than `after`; None when a cron expression has no more."""
        return next(self._due_from(_whole_second_after(after)), None)

    def due_between(self, start: datetime, end: datetime) -> list[datetime]:
        """All due times with `start` <= due < `end`, in order."""
        result = []
        end = _utc(end)
        for due in self._due_from(_whole_second_after(_utc(start) - timedelta(microseconds=1))):
            if due >= end:
                break
            result.append(due)
        return result

    def missed_slots(
        self, settled_until: datetime, now: datetime, *, grace_seconds: int = 600
    ) -> list[datetime]:
        """Slots later than `settled_until` that can no longer start in time at `now`.

        A slot is missed once it is `grace_seconds` late, or when a later one is due already.
        """
        slots = self._passed(settled_until, now)
        if slots and _utc(now) - slots[-1] <= timedelta(seconds=grace_seconds):
            slots.pop()
        return slots

    def settle(
        self, settled_until: datetime, now: datetime, *, grace_seconds: int = 600
    ) -> Arrears:
        """What to do at `now` when all slots up to `settled_until` are settled.

        However many slots passed, there is one run: in time for the last slot, or late to
        catch up. A late run waits for the window; when a regular slot is due no later than
        that, it serves instead. Afterwards everything up to `now` is settled.
        """
        now = _utc(now)
        following = self.next_due(now)
        slots = self._passed(settled_until, now)
        if not slots:
            return Arrears(None, None, (), following)
        missed = tuple(self.missed_slots(settled_until, now, grace_seconds=grace_seconds))
        if slots[-1] not in missed:
            return Arrears(slots[-1], now, missed, following)
        start = now
        if self.window is not None:
            opening, closing = self.window.around(now, _zone(self.timezone))
            if opening > now:
                start = self._held_back(opening, closing)
        if following is not None and start > now and following <= start:
            return Arrears(None, None, missed, following)
        return Arrears(slots[-1], start, missed, following)

    def _passed(self, settled_until: datetime, now: datetime) -> list[datetime]:
        return self.due_between(_whole_second_after(settled_until), _whole_second_after(now))

    def _due_from(self, start: datetime) -> Iterator[datetime]:
        """Due times at or after `start` (UTC, whole seconds), without end unless cron ends."""
        if self.window is None:
            yield from self._slots_from(start)
            return
        zone = _zone(self.timezone)
        # Whether a window has a slot of its own is known only from its beginning, and what
        # is held back to it lies between it and the window before.
        before = self.window.closing_before(self.window.around(start, zone)[0], zone)
        slots = self._slots_from(before)
        slot = next(slots, None)
        while slot is not None:
            opening, closing = self.window.around(slot, zone)
            held_back = slot < opening
            while slot is not None and slot < opening:
                slot = next(slots, None)
            if held_back and (slot is None or slot >= closing):
                due = self._held_back(opening, closing)
                if due >= start:
                    yield due
            while slot is not None and slot < closing:
                if slot >= start:
                    yield slot
                slot = next(slots, None)

    def _held_back(self, opening: datetime, closing: datetime) -> datetime:
        """When what was held back to a window starts: spread over the window."""
        length = int((closing - opening).total_seconds())
        return opening + timedelta(seconds=self.offset_seconds % length)

    def _slots_from(self, start: datetime) -> Iterator[datetime]:
        """Slots at or after `start`, the offset added, no window applied."""
        offset = timedelta(seconds=self.offset_seconds)
        if self.cron:
            for slot in self._cron_slots_from(start - offset):
                yield slot + offset
            return
        interval = timedelta(seconds=self.interval_seconds)
        slot = _EPOCH + offset + -((_EPOCH + offset - start) // interval) * interval
        while True:
            yield slot
            slot += interval

    def _cron_slots_from(self, start: datetime) -> Iterator[datetime]:
        """The instants at or after `start` that the cron expression names.

        An expression that fires in every hour runs by elapsed time, through skipped and
        repeated hours alike. For any other each named time of day is one slot: in a
        repeated hour the first one counts, and a skipped time falls due when the skipped
        stretch ends.
        """
        zone = _zone(self.timezone)
        local = (start - _SECOND).astimezone(zone)
        fields = self.cron.split()
        if len(CronSim(self.cron, _EPOCH).hours) == 24:
            # The star is what makes cronsim go by elapsed time.
            fields[1] = "*"
            for slot in CronSim(" ".join(fields), local):
                yield slot.astimezone(UTC)
            return
        previous = None
        # Without a zone cronsim names every time of day there is, skipped or not. A second
        # before the end of a skipped stretch the wall clock is before the whole of it.
        for named in CronSim(self.cron, local.replace(tzinfo=None)):
            slot = earliest_instant(named, zone)
            if slot >= start and slot != previous:
                yield slot
            previous = slot

    def _check_cron(self) -> None:
        if len(self.cron.split()) != 5:
            raise UsageError(f"{self.cron!r} is not a cron expression: {_CRON_ACCEPTED}")
        try:
            first = next(CronSim(self.cron, datetime(2000, 1, 1, tzinfo=UTC)), None)
        except (CronSimError, ValueError) as problem:
            raise UsageError(
                f"{self.cron!r} is not a cron expression ({problem}): {_CRON_ACCEPTED}"
            ) from None
        if first is None:
            raise UsageError(f"the cron expression {self.cron!r} names no date that exists")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"there is no time zone {name!r}; give a name such as UTC or Europe/Berlin "
            "(it must be in this machine's tzdata)"
        ) from None


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise UsageError("a schedule needs times with a time zone")
    return moment.astimezone(UTC)


def _whole_second_after(moment: datetime) -> datetime:
    """The first whole second later than `moment`."""
    return _utc(moment).replace(microsecond=0) + _SECOND
