"""Warnings about a task's snapshots: what is large, and what comes too often. Pure rules.

A warning names the figures that it rests on. It never stops or delays a snapshot.
"""

from __future__ import annotations

from typing import Final

from holdfast.model.finding import Finding

LARGE_BYTES: Final = 1_000_000_000
"""A snapshot of more than this deserves a word."""

SHARE_PERCENT: Final = 20
"""Taking a snapshot may take this part of the interval before that is called short."""

CODES: Final = frozenset({"snapshot_large", "snapshot_interval_short"})


def of_snapshot(
    logical_bytes: int, capture_seconds: float, *, interval_seconds: int | None, subject: str
) -> list[Finding]:
    """What there is to say about a snapshot that was taken; `subject` is its id."""
    found = []
    if logical_bytes > LARGE_BYTES:
        found.append(
            Finding(
                "snapshot_large",
                f"The snapshot holds {logical_bytes:,} bytes, which is more than "
                f"{LARGE_BYTES:,}; a blacklist can leave out what is not needed.",
                subject,
            )
        )
    # In whole numbers, so that the limit itself is on one side of it for sure.
    if interval_seconds and capture_seconds * 100 > interval_seconds * SHARE_PERCENT:
        percent = round(capture_seconds * 100 / interval_seconds)
        found.append(
            Finding(
                "snapshot_interval_short",
                f"Taking the snapshot took {capture_seconds:.1f} s, {percent} % of the interval of "
                f"{interval_seconds} s, and {SHARE_PERCENT} % should be enough; take them less "
                "often, or leave out what is not needed.",
                subject,
            )
        )
    return found


def of_overlap(interval_seconds: int, running_seconds: float, *, subject: str) -> Finding:
    """That a slot came while the snapshot before it was still being taken."""
    return Finding(
        "snapshot_interval_short",
        f"The snapshot before this one was still being taken after {running_seconds:.1f} s, and "
        f"the interval is {interval_seconds} s; this one was skipped. Take them less often.",
        subject,
    )
